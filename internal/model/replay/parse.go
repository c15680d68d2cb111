package replay

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"croft/internal/model"
)

// parser reads a cassette from its YAML.
type parser struct {
	walker
	c *cassette
}

// shorthands are the tools that a block may name by its key, each with the field of its
// input that a plain text stands for ("" when it has none).
func shorthands() map[string]string {
	return map[string]string{
		"bash": "command", "read": "file_path", "glob": "pattern", "grep": "pattern", "write": "", "edit": "",
	}
}

func parse(name string, data []byte) (*cassette, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	p := &parser{walker: walker{name: name}, c: &cassette{name: name, timing: AsRecorded}}
	if len(doc.Content) == 0 {
		return nil, fmt.Errorf("%s: the cassette is empty; it needs conversations, or turns", name)
	}
	if err := p.file(doc.Content[0]); err != nil {
		return nil, err
	}
	return p.c, nil
}

func (p *parser) file(n *yaml.Node) error {
	// templates decides how everything else is read, so it is looked for first.
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value != "templates" {
				continue
			}
			var on bool
			if err := p.boolean(&on, "templates")(n.Content[i+1]); err != nil {
				return err
			}
			p.c.literal = !on
		}
	}
	var alone *conversation
	var timing string
	var ignored bool
	err := p.fields(n, "the cassette", map[string]func(*yaml.Node) error{
		"timing":    p.str(&timing, "timing"),
		"templates": p.boolean(&ignored, "templates"),
		"recorded":  p.boolean(&p.c.recorded, "recorded"),
		"pace":      p.duration(&p.c.pace, "pace"),
		"conversations": func(n *yaml.Node) error {
			return p.items(n, "conversations", p.conversation)
		},
		"turns": func(n *yaml.Node) error {
			alone = &conversation{line: n.Line}
			return p.turns(n, alone)
		},
	})
	if err != nil {
		return err
	}
	switch timing {
	case "":
	case string(AsRecorded), string(None):
		p.c.timing = Timing(timing)
	default:
		return p.errorf(n, "timing must be recorded or none, not %q", timing)
	}
	switch {
	case alone != nil && len(p.c.conversations) > 0:
		return p.errorf(n, "the cassette has both conversations and turns; put the turns into a conversation")
	case alone != nil:
		p.c.conversations = []conversation{*alone}
	case len(p.c.conversations) == 0 && !p.c.recorded:
		return p.errorf(n, "the cassette has no conversations")
	}
	return nil
}

func (p *parser) conversation(n *yaml.Node) error {
	c := conversation{line: n.Line}
	err := p.fields(n, "a conversation", map[string]func(*yaml.Node) error{
		"name":    p.str(&c.name, "name"),
		"session": p.str(&c.session, "session"),
		"loop":    p.boolean(&c.loop, "loop"),
		"user":    p.pattern(&c.user, "user"),
		"turns":   func(n *yaml.Node) error { return p.turns(n, &c) },
	})
	if err != nil {
		return err
	}
	if len(c.turns) == 0 {
		return p.errorf(n, "%s has no turns", c.title())
	}
	p.c.conversations = append(p.c.conversations, c)
	return nil
}

func (p *parser) turns(n *yaml.Node, c *conversation) error {
	err := p.items(n, "turns", func(n *yaml.Node) error {
		t, err := p.turn(n)
		if err == nil {
			c.turns = append(c.turns, *t)
		}
		return err
	})
	if err == nil && len(c.turns) == 0 {
		return p.errorf(n, "there are no turns")
	}
	return err
}

func (p *parser) pattern(dst **pattern, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		pat, err := p.onePattern(n, what)
		*dst = &pat
		return err
	}
}

func (p *parser) onePattern(n *yaml.Node, what string) (pattern, error) {
	r, err := p.resolve(n)
	if err != nil {
		return pattern{}, err
	}
	var pat pattern
	if r.Kind != yaml.MappingNode {
		if err := p.str(&pat.text, what)(n); err != nil {
			return pattern{}, err
		}
		if pat.text == "*" {
			return pattern{}, nil
		}
		pat.how = "contains"
		return pat, nil
	}
	set := func(how string) func(*yaml.Node) error {
		return func(n *yaml.Node) error {
			if pat.how != "" {
				return p.errorf(n, "%s: one of contains, equals and regexp is enough", what)
			}
			pat.how = how
			if err := p.str(&pat.text, what+"."+how)(n); err != nil {
				return err
			}
			if how != "regexp" {
				return nil
			}
			re, err := regexp.Compile(pat.text)
			if err != nil {
				return p.errorf(n, "%s.regexp: %v", what, err)
			}
			pat.re = re
			return nil
		}
	}
	err = p.fields(n, what, map[string]func(*yaml.Node) error{
		"contains": set("contains"), "equals": set("equals"), "regexp": set("regexp"),
	})
	if err == nil && pat.how == "" {
		err = p.errorf(n, "%s needs contains, equals or regexp", what)
	}
	return pat, err
}

func (p *parser) expect(dst **expect) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		r, err := p.resolve(n)
		if err != nil {
			return err
		}
		e := &expect{}
		*dst = e
		if r.Kind != yaml.MappingNode {
			return p.pattern(&e.user, "expect")(n)
		}
		return p.fields(n, "expect", map[string]func(*yaml.Node) error{
			"user":   p.pattern(&e.user, "expect.user"),
			"system": p.pattern(&e.system, "expect.system"),
			"tool_result": func(n *yaml.Node) error {
				one := func(n *yaml.Node) error {
					pat, err := p.onePattern(n, "expect.tool_result")
					e.results = append(e.results, pat)
					return err
				}
				r, err := p.resolve(n)
				if err != nil {
					return err
				}
				if r.Kind == yaml.SequenceNode {
					return p.items(n, "expect.tool_result", one)
				}
				return one(n)
			},
		})
	}
}

func (p *parser) turn(n *yaml.Node) (*turn, error) {
	t := &turn{line: n.Line}
	var repeat string
	replied := false
	err := p.fields(n, "a turn", map[string]func(*yaml.Node) error{
		"expect":      p.expect(&t.expect),
		"repeat":      p.str(&repeat, "repeat"),
		"delay":       p.duration(&t.delay, "delay"),
		"pace":        p.duration(&t.pace, "pace"),
		"stop_reason": p.str(&t.stop, "stop_reason"),
		"stop_details": func(n *yaml.Node) error {
			raw, err := p.json(n)
			t.detail = raw
			return err
		},
		"usage": p.usage(&t.usage),
		"fault": p.faults(&t.faults),
		"reply": func(n *yaml.Node) error {
			replied = true
			return p.reply(n, t)
		},
	})
	if err != nil {
		return nil, err
	}
	if !replied {
		return nil, p.errorf(n, "a turn needs a reply")
	}
	if repeat != "" {
		t.repeat, err = parseTemplate(repeat)
		switch {
		case err != nil:
			return nil, p.errorf(n, "repeat: %v", err)
		case !t.repeat.onlyGroups():
			return nil, p.errorf(n, "repeat: only {{match N}} may stand here, since the number must be the same in every turn")
		case len(t.repeat.parts) == 1 && t.repeat.parts[0].name == "":
			if _, err := t.times(p.name, nil); err != nil {
				return nil, err
			}
		}
	}
	return t, p.stop(n, t)
}

// stop checks the stop reason, or finds it: a response waits for tools exactly when it calls some.
func (p *parser) stop(n *yaml.Node, t *turn) error {
	calls := slices.ContainsFunc(t.reply, func(b block) bool { return b.kind == blockTool || b.announce == blockTool })
	switch t.stop {
	case "":
		t.stop = model.StopEndTurn
		if calls {
			t.stop = model.StopToolUse
		}
	case model.StopToolUse:
		if !calls {
			return p.errorf(n, "stop_reason tool_use needs a tool call in the reply")
		}
	case model.StopEndTurn, model.StopSequence, model.StopRefusal:
		if calls {
			return p.errorf(n, "stop_reason %s cannot follow a tool call", t.stop)
		}
	case model.StopMaxTokens, model.StopPauseTurn:
	default:
		return p.errorf(n, "stop_reason %q is not known; known are end_turn, tool_use, max_tokens, stop_sequence, refusal, pause_turn", t.stop)
	}
	return nil
}

func (p *parser) usage(u *model.Usage) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		count := func(dst *int64, what string) func(*yaml.Node) error {
			return p.integer(dst, math.MaxInt32, "usage."+what)
		}
		return p.fields(n, "usage", map[string]func(*yaml.Node) error{
			"input_tokens":                count(&u.InputTokens, "input_tokens"),
			"output_tokens":               count(&u.OutputTokens, "output_tokens"),
			"cache_read_input_tokens":     count(&u.CacheReadInputTokens, "cache_read_input_tokens"),
			"cache_creation_input_tokens": count(&u.CacheCreation5m, "cache_creation_input_tokens"),
			"cache_creation_1h_tokens":    count(&u.CacheCreate1h, "cache_creation_1h_tokens"),
			"speed":                       p.str(&u.Speed, "usage.speed"),
			"inference_geo":               p.str(&u.InferenceGeo, "usage.inference_geo"),
		})
	}
}

func (p *parser) faults(dst *[]fault) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		r, err := p.resolve(n)
		if err != nil {
			return err
		}
		one := func(n *yaml.Node) error {
			f, err := p.fault(n)
			if err == nil {
				*dst = append(*dst, *f)
			}
			return err
		}
		if r.Kind == yaml.SequenceNode {
			return p.items(n, "fault", one)
		}
		return one(n)
	}
}

func (p *parser) fault(n *yaml.Node) (*fault, error) {
	r, err := p.resolve(n)
	if err != nil {
		return nil, err
	}
	f := &fault{times: 1}
	after := int64(-1)
	if r.Kind != yaml.MappingNode {
		err = p.str(&f.kind, "fault")(n)
	} else {
		err = p.fields(n, "fault", map[string]func(*yaml.Node) error{
			"kind":        p.str(&f.kind, "fault.kind"),
			"message":     p.str(&f.message, "fault.message"),
			"retry_after": p.duration(&f.retryAfter, "fault.retry_after"),
			"after":       p.integer(&after, maxTimes, "fault.after"),
			"times": func(n *yaml.Node) error {
				var word string
				if err := p.str(&word, "fault.times")(n); err != nil {
					return err
				}
				if word == "always" {
					f.times = always
					return nil
				}
				var times int64
				if err := p.integer(&times, maxTimes, "fault.times")(n); err != nil {
					return p.errorf(n, "fault.times must be a whole number up to %d, or always", maxTimes)
				}
				f.times = int(times)
				return nil
			},
		})
	}
	if err != nil {
		return nil, err
	}
	switch f.kind {
	case faultOverloaded, faultLimited, faultFailed, faultRefused, faultBilling, faultHang:
	case faultCut:
		if after < 0 {
			after = 1
		}
	default:
		return nil, p.errorf(n, "fault: %q is not known; known are overloaded, rate_limited, failed, refused, billing, cut, hang", f.kind)
	}
	f.after = int(max(after, 0))
	return f, nil
}

func (p *parser) reply(n *yaml.Node, t *turn) error {
	r, err := p.resolve(n)
	if err != nil {
		return err
	}
	one := func(n *yaml.Node) error {
		b, err := p.block(n)
		if err == nil {
			t.reply = append(t.reply, *b)
		}
		return err
	}
	if r.Kind == yaml.ScalarNode {
		return one(n)
	}
	if err := p.items(n, "reply", one); err != nil {
		return err
	}
	if len(t.reply) == 0 {
		return p.errorf(n, "a reply needs a block: the number of answers given so far tells the next one, and an empty answer would not count")
	}
	return nil
}

func (p *parser) block(n *yaml.Node) (*block, error) {
	r, err := p.resolve(n)
	if err != nil {
		return nil, err
	}
	b := &block{}
	if r.Kind == yaml.ScalarNode {
		var s string
		if err := p.str(&s, "a block of the reply")(n); err != nil {
			return nil, err
		}
		b.kind = blockText
		b.text, err = p.template(n, s)
		return b, err
	}
	kinds := 0
	kind := func(k string, read func(*yaml.Node) error) func(*yaml.Node) error {
		return func(n *yaml.Node) error {
			b.kind = k
			kinds++
			return read(n)
		}
	}
	text := func(n *yaml.Node) error {
		var s string
		if err := p.str(&s, b.kind)(n); err != nil {
			return err
		}
		b.text, err = p.template(n, s)
		return err
	}
	readers := map[string]func(*yaml.Node) error{
		"text":      kind(blockText, text),
		"thinking":  kind(blockThinking, text),
		"tool":      kind(blockTool, p.str(&b.tool, "tool")),
		"block":     kind(blockRaw, p.raw(b)),
		"signature": p.str(&b.signature, "signature"),
		"id":        p.str(&b.id, "id"),
		"input":     p.input(b, ""),
		"delay":     p.duration(&b.delay, "delay"),
		"chunks":    p.chunks(b),
	}
	for _, tool := range slices.Sorted(maps.Keys(shorthands())) {
		readers[tool] = kind(blockTool, func(n *yaml.Node) error {
			b.tool = tool
			return p.input(b, shorthands()[tool])(n)
		})
	}
	if err := p.fields(n, "a block of the reply", readers); err != nil {
		return nil, err
	}
	switch {
	case kinds != 1:
		return nil, p.errorf(n, "a block of the reply must be one of text, thinking, tool, block, bash, read, write, edit, glob and grep")
	case b.kind == blockTool && b.tool == "":
		return nil, p.errorf(n, "tool: the tool's name is missing")
	case b.kind == blockTool && b.input == nil:
		b.input = literalTemplate("{}")
	case b.kind != blockTool && (b.input != nil || b.id != ""):
		return nil, p.errorf(n, "id and input belong to a tool call")
	case b.kind != blockThinking && b.signature != "":
		return nil, p.errorf(n, "signature belongs to thinking")
	case b.kind != blockText && len(b.chunks) > 0:
		return nil, p.errorf(n, "chunks belong to a text")
	}
	return b, nil
}

func (p *parser) template(n *yaml.Node, s string) (*template, error) {
	if p.c.literal {
		return literalTemplate(s), nil
	}
	t, err := parseTemplate(s)
	if err != nil {
		return nil, p.errorf(n, "%v", err)
	}
	return t, nil
}

// input reads a call's input: an object, or a text for the field of that name.
func (p *parser) input(b *block, field string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		r, err := p.resolve(n)
		if err != nil {
			return err
		}
		if b.input != nil {
			return p.errorf(n, "the tool call has two inputs")
		}
		var raw []byte
		switch {
		case r.Kind == yaml.MappingNode:
			raw, err = p.json(n)
		case field != "" && r.Kind == yaml.ScalarNode:
			var s string
			if err = p.str(&s, b.tool)(n); err == nil {
				raw, err = marshal(map[string]string{field: s})
			}
		default:
			return p.errorf(n, "the input of %s must be an object, not %s", b.tool, kindOf(r))
		}
		if err != nil {
			return err
		}
		b.input, err = p.template(n, string(raw))
		return err
	}
}

// raw reads a content block that is played as it is.
func (p *parser) raw(b *block) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		raw, err := p.json(n)
		if err != nil {
			return err
		}
		var typed struct {
			Type  string                     `json:"type"`
			ID    string                     `json:"id"`
			Name  string                     `json:"name"`
			Input map[string]json.RawMessage `json:"input"`
		}
		if json.Unmarshal(raw, &typed) != nil || typed.Type == "" {
			return p.errorf(n, "block must be an object with a type")
		}
		switch typed.Type {
		case "text":
			return p.errorf(n, "a text block is written as text")
		case "tool_use":
			if typed.ID == "" || typed.Name == "" || typed.Input == nil {
				return p.errorf(n, "a tool_use block needs an id, a name and an object as input")
			}
			b.announce = blockTool
		case "thinking", "redacted_thinking":
			b.announce = blockThinking
		}
		b.raw, err = p.template(n, string(raw))
		return err
	}
}

func (p *parser) chunks(b *block) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		return p.items(n, "chunks", func(n *yaml.Node) error {
			var pair []int64
			err := p.items(n, "a chunk", func(n *yaml.Node) error {
				var v int64
				err := p.integer(&v, math.MaxInt32, "a chunk's number")(n)
				pair = append(pair, v)
				return err
			})
			if err != nil {
				return err
			}
			if len(pair) != 2 || pair[0] == 0 {
				return p.errorf(n, "a chunk is [characters, milliseconds before them]")
			}
			b.chunks = append(b.chunks, chunk{chars: int(pair[0]), wait: time.Duration(pair[1]) * time.Millisecond})
			return nil
		})
	}
}

// known lists keys for an error.
func known(readers map[string]func(*yaml.Node) error) string {
	return strings.Join(slices.Sorted(maps.Keys(readers)), ", ")
}
