package api

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"croft"
)

// query is what stands behind the question mark, read strictly: a parameter that the route
// does not know is refused, since ignoring a filter would answer another question than was
// asked. The official clients send what the SDK's types name, and beta=true, which is
// passed over. A list is accepted as name[]=a&name[]=b, as the SDKs write it, as
// name=a&name=b, and with commas; anything else comes once.
//
// The methods return the zero value for what is absent or wrong, and note the first fault
// for err.
type query struct {
	values url.Values
	fault  error
}

// readQuery checks the names.
func (c *call) readQuery() error {
	c.query = query{}
	if c.r.URL.RawQuery == "" {
		return nil
	}
	values, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return croft.Invalid("", "the query of the URL cannot be read")
	}
	known := strings.Fields(c.route.query)
	for name, v := range values {
		if name == "beta" {
			continue
		}
		switch {
		case slices.Contains(known, name+"[]"):
			values[name+"[]"] = append(values[name+"[]"], v...)
			delete(values, name)
		case !slices.Contains(known, name):
			if len(known) == 0 {
				return croft.Invalid(name, "%s takes no query parameters", c.route.path)
			}
			return croft.Invalid(name, "is no query parameter of %s: accepted are %s", c.route.path, strings.Join(known, ", "))
		case !strings.HasSuffix(name, "[]") && len(v) > 1:
			return croft.Invalid(name, "is given %d times: accepted is one value", len(v))
		}
	}
	c.query.values = values
	return nil
}

func (q *query) bad(name, format string, args ...any) {
	if q.fault == nil {
		q.fault = croft.Invalid(name, format, args...)
	}
}

// err is the first fault that was met.
func (q *query) err() error { return q.fault }

func (q *query) text(name string) string { return q.values.Get(name) }

// number reads a whole number from 1 to high; 0 when absent.
func (q *query) number(name string, high int64) int64 {
	text := q.values.Get(name)
	if !q.values.Has(name) {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > high {
		q.bad(name, "accepted is a whole number from 1 to %d", high)
		return 0
	}
	return n
}

// limit is a page's size, at most high; 0 when absent.
func (q *query) limit(high int64) int { return int(q.number("limit", high)) }

func (q *query) boolean(name string) bool {
	switch q.values.Get(name) {
	case "true":
		return true
	case "false":
	default:
		if q.values.Has(name) {
			q.bad(name, "accepted are true and false")
		}
	}
	return false
}

// time reads RFC 3339; 0 when absent.
func (q *query) time(name string) croft.Time {
	if !q.values.Has(name) {
		return 0
	}
	t, err := time.Parse(time.RFC3339, q.values.Get(name))
	if err != nil {
		q.bad(name, "accepted is a time of RFC 3339, as in 2026-04-01T12:00:00Z")
		return 0
	}
	return croft.TimeOf(t)
}

// choice reads one of the given values; empty when absent.
func (q *query) choice(name string, accepted ...string) string {
	text := q.values.Get(name)
	if q.values.Has(name) && !slices.Contains(accepted, text) {
		q.bad(name, "accepted are %s", strings.Join(accepted, ", "))
		return ""
	}
	return text
}

// list reads a list of at most high values; where accepted is not empty, each must be
// among them.
func (q *query) list(name string, high int, accepted ...string) []string {
	var all []string
	for _, v := range q.values[name+"[]"] {
		all = append(all, strings.Split(v, ",")...)
	}
	if len(all) > high {
		q.bad(name, "accepted are at most %d values", high)
		return nil
	}
	for i, v := range all {
		if len(accepted) > 0 && !slices.Contains(accepted, v) {
			q.bad(name+"."+strconv.Itoa(i), "%q is not accepted: accepted are %s", v, strings.Join(accepted, ", "))
			return nil
		}
	}
	return all
}
