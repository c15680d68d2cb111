package agents

import (
	"encoding/json"
	"net/netip"
	"strings"
	"time"
	_ "time/tzdata" // time zones are checked against the names of IANA, on any host

	"golang.org/x/net/publicsuffix"

	"croft/internal/wire"
)

const (
	maxDomains    = 64
	maxDomainName = 255
	maxReferences = 128
)

// The settings of the web tools are checked and kept as they came; the tools themselves are
// not offered to models yet.

// webSearch reads the settings that web_search has beside the common ones.
func webSearch(o wire.Value) map[string]json.RawMessage {
	web := map[string]json.RawMessage{}
	domainLists(o, true, web)
	if v := o.Get("user_location"); v.Given() {
		l := v.Object("type", "city", "country", "region", "timezone")
		l.Get("type").OneOf("approximate")
		for _, name := range []string{"city", "region"} {
			l.Get(name).TextOrNull(255)
		}
		if c := l.Get("country"); c.Given() {
			if s := c.Text(0, -1); len(s) != 2 || s[0] < 'A' || s[0] > 'Z' || s[1] < 'A' || s[1] > 'Z' {
				c.Fail("accepted are the two capital letters of ISO 3166-1, as in US")
			}
		}
		if z := l.Get("timezone"); z.Given() {
			if s := z.Text(0, 255); !timezone(s) {
				z.Fail("accepted is a name of the IANA time zone database, as in America/Los_Angeles")
			}
		}
		web["user_location"] = v.Append(nil)
	}
	return webOrNil(web)
}

func timezone(name string) bool {
	if name == "" || name == "Local" {
		return false // which LoadLocation takes for UTC and for this server's own
	}
	_, err := time.LoadLocation(name)
	return err == nil
}

// webFetch reads the settings that web_fetch has beside the common ones. An answer always
// holds its url_sources.
func webFetch(o wire.Value) map[string]json.RawMessage {
	web := map[string]json.RawMessage{"url_sources": json.RawMessage("null")}
	domainLists(o, false, web)
	if v := o.Get("max_content_tokens"); v.Given() {
		v.Int(1, 1_000_000_000)
		web["max_content_tokens"] = v.Append(nil)
	}
	if v := o.Get("url_sources"); v.Given() {
		web["url_sources"] = urlSources(v)
	}
	return web
}

func webOrNil(web map[string]json.RawMessage) map[string]json.RawMessage {
	if len(web) == 0 {
		return nil
	}
	return web
}

// domainLists reads allowed_domains and blocked_domains, of which one may be set.
func domainLists(o wire.Value, paths bool, web map[string]json.RawMessage) {
	given := 0
	for _, name := range []string{"allowed_domains", "blocked_domains"} {
		v := o.Get(name)
		if !v.Given() {
			continue
		}
		if given++; given == 2 {
			o.Fail("Only one of allowed_domains or blocked_domains may be set.")
		}
		domains(v, paths)
		web[name] = v.Append(nil)
	}
}

// domains checks a list of domains; paths tells whether one may carry a path.
func domains(v wire.Value, paths bool) {
	if v.Empty() {
		v.Fail("Empty list of domains is ambiguous. Provide at least one domain or null.")
	}
	seen := map[string]bool{}
	for _, e := range v.List(1, maxDomains) {
		name := strings.ToLower(strings.TrimSuffix(e.Text(1, maxDomainName), "/"))
		if why := domainFault(name, paths); why != "" {
			e.Fail("%s", why)
		}
		if seen[name] {
			e.Fail("the list holds this domain already: accepted is each domain once")
		}
		seen[name] = true
	}
}

// domainFault says what is wrong with a domain in lower case, or nothing.
func domainFault(name string, paths bool) string {
	const plain = `accepted is a plain hostname like "example.com"`
	host, path, hasPath := strings.Cut(name, "/")
	switch {
	case strings.Contains(name, "://"):
		return "a scheme is not accepted; " + plain
	case hasPath && !paths:
		return "a path is not accepted; " + plain
	case hasPath && strings.ContainsAny(path, " ?#$,|^!"):
		return "a path must not hold spaces, ?, # or any of $ , | ^ !"
	case isAddress(host):
		return `IP addresses are not supported; provide a plain hostname like "example.com"`
	case strings.ContainsAny(host, ":@*"):
		return "a port, credentials and wildcards are not accepted; " + plain
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if l == "" || l[0] == '-' || l[len(l)-1] == '-' {
			return "a part between dots must not be empty and neither begin nor end with a hyphen; " + plain
		}
		for _, r := range l {
			switch {
			case r >= 0x80:
				return "characters outside ASCII are not accepted; write the name in its xn-- form"
			case r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z'):
				return "accepted are letters of ASCII, digits, hyphens, underscores and dots"
			}
		}
	}
	switch labels[len(labels)-1] {
	case "localhost", "local", "internal", "localdomain", "invalid":
		return "names of the local network are not accepted; " + plain
	}
	if len(labels) == 1 {
		return "a name of a single part is not accepted; " + plain
	}
	if suffix, icann := publicsuffix.PublicSuffix(host); icann && suffix == host {
		return `a suffix under which names are registered is not accepted; list a full domain such as "example.co.uk"`
	}
	return ""
}

// isAddress tells whether host is an IP address in any of the forms that some resolver
// takes: dotted, in brackets, in short, in hexadecimal.
func isAddress(host string) bool {
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil || strings.HasPrefix(host, "[") {
		return true
	}
	if host == "" {
		return false
	}
	// The last part of a domain is never a number.
	last := host[strings.LastIndexByte(host, '.')+1:]
	digits := strings.TrimPrefix(last, "0x")
	set := "0123456789"
	if len(digits) < len(last) {
		set = "0123456789abcdef"
	}
	return last != "" && strings.Trim(digits, set) == ""
}

// urlSources reads url_sources and returns it in the form of an answer: every key there,
// objects for the short strings, null for what was not set.
func urlSources(v wire.Value) json.RawMessage {
	keys := []string{"client_tool_results", "server_tool_results", "user_input"}
	o := v.Object(keys...)
	out := []byte{'{'}
	none := 0
	for i, key := range keys {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(wire.AppendText(out, key), ':')
		var typ string
		out, typ = urlSource(out, o.Get(key), key)
		if typ == "none" {
			none++
		}
	}
	if none == len(keys) {
		v.Fail("no URL could ever be fetched: accepted is at least one source other than none; to switch the tool off, set enabled to false")
	}
	return append(out, '}')
}

// urlSource reads one source of URLs and appends it.
func urlSource(dst []byte, v wire.Value, key string) (_ []byte, typ string) {
	accepted := []string{"all", "none", "only", "except"}
	if key == "user_input" {
		accepted = accepted[:2]
	}
	switch {
	case !v.Given():
		return append(dst, "null"...), ""
	case v.IsText():
		typ = v.OneOf("all", "none")
		return append(append(append(dst, `{"type":"`...), typ...), `"}`...), typ
	case !v.IsObject():
		v.Fail(`accepted is "all", "none" or an object with a type`)
		return dst, ""
	}
	typ = v.Get("type").OneOf(accepted...)
	if typ == "all" || typ == "none" {
		v.Object("type")
		return v.Append(dst), typ
	}
	seen := map[string]bool{}
	for _, e := range v.Object("type", "tools").Get("tools").List(1, maxReferences) {
		r := e.Object("type", "name")
		r.Get("type").OneOf("tool_reference")
		n := r.Get("name")
		name := n.Text(1, maxToolName)
		if key == "server_tool_results" {
			n.OneOf("web_search", "web_fetch")
		}
		if seen[name] {
			n.Fail("the list names this tool already: accepted is each tool once")
		}
		seen[name] = true
	}
	return v.Append(dst), typ
}

// clientTools checks that every tool named as a source is a custom tool of the same list.
func clientTools(urls wire.Value, customs map[string]bool) {
	c := urls.Get("client_tool_results")
	if !c.IsObject() || c.Get("tools").Empty() {
		return
	}
	for _, e := range c.Get("tools").List(1, maxReferences) {
		n := e.Get("name")
		if !customs[n.Text(1, maxToolName)] {
			n.Fail("accepted is the name of a custom tool of the same list of tools")
		}
	}
}
