package replay

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// values are what placeholders stand for.
type values struct {
	user    func() string
	result  string
	session string
	turn    int
	repeat  int
	groups  []string // of the regexp that chose the conversation, the whole match first
}

// template is a text with placeholders. It is small on purpose: a template language would
// bring loops and its own faults into a file that is to be read at a glance.
type template struct {
	source string
	parts  []templatePart
}

// templatePart is literal text, or a placeholder when name is set.
type templatePart struct {
	literal string
	name    string
	group   int
}

// literalTemplate holds s as it is.
func literalTemplate(s string) *template {
	return &template{source: s, parts: []templatePart{{literal: s}}}
}

// parseTemplate finds the placeholders of s.
func parseTemplate(s string) (*template, error) {
	t := &template{source: s}
	for {
		before, rest, found := strings.Cut(s, "{{")
		if before != "" {
			t.parts = append(t.parts, templatePart{literal: before})
		}
		if !found {
			return t, nil
		}
		inner, after, found := strings.Cut(rest, "}}")
		if !found {
			return nil, fmt.Errorf("{{ without }}; set templates: false to keep such text as it is")
		}
		fields := strings.Fields(inner)
		part := templatePart{}
		switch {
		case len(fields) == 1 && (fields[0] == "user" || fields[0] == "tool_result" || fields[0] == "turn" || fields[0] == "repeat" || fields[0] == "session"):
			part.name = fields[0]
		case len(fields) == 2 && fields[0] == "match":
			n, err := strconv.Atoi(fields[1])
			if err != nil || n < 0 || n > 100 {
				return nil, fmt.Errorf("{{match %s}}: a group's number belongs there", fields[1])
			}
			part.name, part.group = "match", n
		default:
			return nil, fmt.Errorf("{{%s}} is no placeholder; there are {{user}}, {{tool_result}}, {{turn}}, {{repeat}}, {{session}} and {{match N}}; set templates: false to keep such text as it is", inner)
		}
		t.parts = append(t.parts, part)
		s = after
	}
}

// text fills the template in.
func (t *template) text(v values) string {
	return t.fill(v, func(s string) string { return s })
}

// json fills in a template that is JSON text: placeholders stand within its strings alone,
// because {{ is nowhere else in JSON.
func (t *template) json(v values) string {
	return t.fill(v, func(s string) string {
		raw, _ := json.Marshal(s) // a string always marshals
		return string(raw[1 : len(raw)-1])
	})
}

func (t *template) fill(v values, escape func(string) string) string {
	var b strings.Builder
	for _, p := range t.parts {
		switch p.name {
		case "":
			b.WriteString(p.literal)
		case "user":
			b.WriteString(escape(v.user()))
		case "tool_result":
			b.WriteString(escape(v.result))
		case "turn":
			b.WriteString(strconv.Itoa(v.turn))
		case "repeat":
			b.WriteString(strconv.Itoa(v.repeat))
		case "session":
			b.WriteString(escape(v.session))
		case "match":
			if p.group < len(v.groups) {
				b.WriteString(escape(v.groups[p.group]))
			}
		}
	}
	return b.String()
}

// onlyGroups tells whether the template depends on nothing but the regexp's groups.
func (t *template) onlyGroups() bool {
	for _, p := range t.parts {
		if p.name != "" && p.name != "match" {
			return false
		}
	}
	return true
}
