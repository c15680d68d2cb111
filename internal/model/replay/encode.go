package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// encode writes the cassette as YAML that parse reads back to the same.
func encode(c *cassette) ([]byte, error) {
	root := mapping()
	if c.recorded {
		root.add("recorded", boolean(true))
	}
	if c.timing != AsRecorded {
		root.add("timing", text(string(c.timing)))
	}
	if c.literal {
		root.add("templates", boolean(false))
	}
	if c.pace > 0 {
		root.add("pace", text(c.pace.String()))
	}
	list := sequence()
	for i := range c.conversations {
		n, err := encodeConversation(&c.conversations[i])
		if err != nil {
			return nil, err
		}
		list.Content = append(list.Content, n)
	}
	root.add("conversations", list)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(root.Node); err != nil {
		return nil, fmt.Errorf("writing the cassette: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("writing the cassette: %w", err)
	}
	return b.Bytes(), nil
}

func encodeConversation(c *conversation) (*yaml.Node, error) {
	m := mapping()
	if c.name != "" {
		m.add("name", text(c.name))
	}
	if c.session != "" {
		m.add("session", text(c.session))
	}
	if c.user != nil {
		m.add("user", encodePattern(c.user))
	}
	if c.loop {
		m.add("loop", boolean(true))
	}
	turns := sequence()
	for i := range c.turns {
		n, err := encodeTurn(&c.turns[i])
		if err != nil {
			return nil, err
		}
		turns.Content = append(turns.Content, n)
	}
	m.add("turns", turns)
	return m.Node, nil
}

func encodePattern(p *pattern) *yaml.Node {
	switch {
	case p.how == "":
		return text("*")
	case p.how == "contains" && p.text != "*":
		return text(p.text)
	}
	m := mapping()
	m.add(p.how, text(p.text))
	return m.Node
}

func encodeTurn(t *turn) (*yaml.Node, error) {
	m := mapping()
	if e := t.expect; e != nil {
		x := mapping()
		if e.user != nil {
			x.add("user", encodePattern(e.user))
		}
		if len(e.results) > 0 {
			list := sequence()
			for i := range e.results {
				list.Content = append(list.Content, encodePattern(&e.results[i]))
			}
			x.add("tool_result", list)
		}
		if e.system != nil {
			x.add("system", encodePattern(e.system))
		}
		m.add("expect", x.Node)
	}
	if t.repeat != nil {
		m.add("repeat", text(t.repeat.source))
	}
	m.duration("delay", t.delay)
	m.duration("pace", t.pace)
	reply := sequence()
	for i := range t.reply {
		n, err := encodeBlock(&t.reply[i])
		if err != nil {
			return nil, err
		}
		reply.Content = append(reply.Content, n)
	}
	m.add("reply", reply)
	m.add("stop_reason", text(t.stop))
	if t.detail != nil {
		n, err := fromJSON(t.detail)
		if err != nil {
			return nil, err
		}
		m.add("stop_details", n)
	}
	encodeUsage(m, t)
	if len(t.faults) > 0 {
		list := sequence()
		for i := range t.faults {
			list.Content = append(list.Content, encodeFault(&t.faults[i]))
		}
		m.add("fault", list)
	}
	return m.Node, nil
}

func encodeUsage(m object, t *turn) {
	u := mapping()
	u.Style = yaml.FlowStyle
	for _, f := range []struct {
		key string
		n   int64
	}{
		{"input_tokens", t.usage.InputTokens},
		{"output_tokens", t.usage.OutputTokens},
		{"cache_read_input_tokens", t.usage.CacheReadInputTokens},
		{"cache_creation_input_tokens", t.usage.CacheCreation5m},
		{"cache_creation_1h_tokens", t.usage.CacheCreate1h},
	} {
		if f.n != 0 {
			u.add(f.key, number(f.n))
		}
	}
	if t.usage.Speed != "" {
		u.add("speed", text(t.usage.Speed))
	}
	if t.usage.InferenceGeo != "" {
		u.add("inference_geo", text(t.usage.InferenceGeo))
	}
	if len(u.Content) > 0 {
		m.add("usage", u.Node)
	}
}

func encodeFault(f *fault) *yaml.Node {
	m := mapping()
	m.add("kind", text(f.kind))
	if f.times == always {
		m.add("times", text("always"))
	} else {
		m.add("times", number(int64(f.times)))
	}
	m.add("after", number(int64(f.after)))
	m.duration("retry_after", f.retryAfter)
	if f.message != "" {
		m.add("message", text(f.message))
	}
	return m.Node
}

func encodeBlock(b *block) (*yaml.Node, error) {
	m := mapping()
	switch b.kind {
	case blockText:
		m.add("text", text(b.text.source))
		if len(b.chunks) > 0 {
			list := sequence()
			list.Style = yaml.FlowStyle
			for _, c := range b.chunks {
				pair := sequence()
				pair.Content = append(pair.Content, number(int64(c.chars)), number(c.wait.Milliseconds()))
				list.Content = append(list.Content, pair)
			}
			m.add("chunks", list)
		}
	case blockThinking:
		m.add("thinking", text(b.text.source))
		if b.signature != "" {
			m.add("signature", text(b.signature))
		}
	case blockTool:
		if err := encodeCall(m, b); err != nil {
			return nil, err
		}
	default:
		n, err := fromJSON(json.RawMessage(b.raw.source))
		if err != nil {
			return nil, err
		}
		m.add("block", n)
	}
	m.duration("delay", b.delay)
	return m.Node, nil
}

// encodeCall uses the tool's own key where the input is the one text that it stands for.
func encodeCall(m object, b *block) error {
	n, err := fromJSON(json.RawMessage(b.input.source))
	if err != nil {
		return err
	}
	field := shorthands()[b.tool]
	if field != "" && len(n.Content) == 2 && n.Content[0].Value == field && n.Content[1].Tag == "!!str" {
		m.add(b.tool, n.Content[1])
	} else {
		m.add("tool", text(b.tool))
		m.add("input", n)
	}
	if b.id != "" {
		m.add("id", text(b.id))
	}
	return nil
}

// object is a mapping that is being written.
type object struct{ *yaml.Node }

func mapping() object { return object{&yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}} }

func (o object) add(key string, value *yaml.Node) {
	o.Content = append(o.Content, text(key), value)
}

func (o object) duration(key string, d time.Duration) {
	if d > 0 {
		o.add(key, text(d.String()))
	}
}

func sequence() *yaml.Node { return &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"} }

func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	if strings.ContainsAny(s, "\r\u0085\u2028\u2029") {
		n.Style = yaml.DoubleQuotedStyle // other styles would read these back as newlines
	}
	return n
}

func number(v int64) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(v, 10)}
}

func boolean(v bool) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}
}

// fromJSON turns JSON into nodes, with the order of its keys and its numbers as written.
func fromJSON(raw json.RawMessage) (*yaml.Node, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	n, err := nextNode(dec)
	if err != nil {
		return nil, fmt.Errorf("writing a value of the cassette: %w", err)
	}
	return n, nil
}

func nextNode(dec *json.Decoder) (*yaml.Node, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch v := tok.(type) {
	case json.Delim:
		n := sequence()
		if v == '{' {
			n = mapping().Node
		}
		// Keys of an object are tokens like any other.
		for dec.More() {
			item, err := nextNode(dec)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		_, err := dec.Token()
		return n, err
	case string:
		return text(v), nil
	case json.Number:
		tag := "!!int"
		if bytes.ContainsAny([]byte(v.String()), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v.String()}, nil
	case bool:
		return boolean(v), nil
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	}
}
