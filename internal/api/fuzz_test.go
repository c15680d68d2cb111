package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// FuzzCredential reads anything as headers: what is found was sent, whole, and no message
// repeats it.
func FuzzCredential(f *testing.F) {
	f.Add("croft_api_x", "Bearer croft_api_x", "")
	f.Add("", "bearer   tok en", "Basic abc")
	f.Add(" a ", "Bearer", "Bearer a")
	f.Fuzz(func(t *testing.T, key, first, second string) {
		h := http.Header{"X-Api-Key": {key}, "Authorization": {first, second}}
		got, err := credential(h)
		if err != nil {
			for _, sent := range []string{key, first, second} {
				if sent = strings.TrimSpace(sent); len(sent) > 12 && strings.Contains(err.Error(), sent) {
					t.Fatalf("%v repeats %q", err, sent)
				}
			}
			return
		}
		if got == "" || got != strings.TrimSpace(got) {
			t.Fatalf("%q was accepted", got)
		}
		sent := key + "\n" + first + "\n" + second
		if !strings.Contains(sent, got) {
			t.Fatalf("%q was never sent", got)
		}
	})
}

// FuzzBeta compares the reading of anthropic-beta with a slower one.
func FuzzBeta(f *testing.F) {
	f.Add("a,b", managed)
	f.Add(" "+managed+" ,", "")
	f.Add("x"+managed, managed+"y")
	f.Fuzz(func(t *testing.T, one, two string) {
		got := hasBeta(http.Header{"Anthropic-Beta": {one, two}}, managed)
		parts := strings.Split(one+","+two, ",")
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		if want := slices.Contains(parts, managed); got != want {
			t.Fatalf("%q, %q: %v", one, two, got)
		}
	})
}

// FuzzQuery reads anything as a query: no parameter that is unknown passes, and what the
// readers return lies within their bounds.
func FuzzQuery(f *testing.F) {
	f.Add("beta=true&limit=5&types[]=a&types=b,c&order=asc&created_at[gte]=2026-04-01T00:00:00Z")
	f.Add("limit=1&limit=2")
	f.Add("types%5B%5D=%zz&;")
	f.Fuzz(func(t *testing.T, raw string) {
		c := &call{r: &http.Request{URL: &url.URL{RawQuery: raw}}, route: &route{path: "GET /v1/x", query: "limit order types[] created_at[gte] flag"}}
		if err := c.readQuery(); err != nil {
			return
		}
		q := &c.query
		for name := range q.values {
			if !slices.Contains([]string{"beta", "limit", "order", "types[]", "created_at[gte]", "flag"}, name) {
				t.Fatalf("%q passed", name)
			}
		}
		limit, order, types := q.limit(100), q.choice("order", "asc", "desc"), q.list("types", 10, "a", "b")
		q.time("created_at[gte]")
		q.boolean("flag")
		if limit < 0 || limit > 100 || (limit == 0 && q.values.Has("limit") && q.err() == nil) {
			t.Fatalf("limit %d", limit)
		}
		if order != "" && order != "asc" && order != "desc" {
			t.Fatalf("order %q", order)
		}
		if len(types) > 10 || slices.ContainsFunc(types, func(s string) bool { return s != "a" && s != "b" }) {
			t.Fatalf("types %q", types)
		}
	})
}
