package session

import (
	"encoding/json"
	"slices"

	"croft"
	"croft/internal/wire"
)

const (
	maxID      = 256 // characters of an id that a client refers to
	maxContent = 1000
)

// ParseSend reads the body of a send: {"events": […]}. Its errors are 400s with the path of
// what is wrong.
func ParseSend(body []byte) ([]Input, error) {
	d := wire.Parse(body)
	list := d.Root().Object("events").Get("events")
	inputs := make([]Input, 0, list.Len(1, maxSend))
	var system wire.Value
	for i, e := range list.List(1, maxSend) {
		if !e.AnyObject() {
			break
		}
		if system.Present() {
			system.Fail("a system.message must be the last event of a request, and the only one of its kind")
		}
		typ := readType(e.Get("type"), sent...)
		if typ == croft.SystemMessage {
			system = e
			if i > 0 && !guidable(inputs[i-1].Type) {
				e.Fail("a system.message is accepted alone, or right behind the user.message, user.tool_result or user.custom_tool_result that it goes with")
			}
		}
		inputs = append(inputs, readEvent(e, typ))
	}
	if err := d.Err(); err != nil {
		return nil, err
	}
	return inputs, nil
}

// sent are the events that clients send.
var sent = []croft.EventType{croft.UserMessage, croft.UserInterrupt, croft.UserToolConfirmation,
	croft.UserToolResult, croft.UserCustomToolResult, croft.SystemMessage}

func readType(v wire.Value, accepted ...croft.EventType) croft.EventType {
	if v.Is(string(croft.UserDefineOutcome)) {
		v.NotServed(string(croft.UserDefineOutcome))
	}
	return wire.OneOf(v, accepted...)
}

// guidable tells whether a system.message may go with an event of that type.
func guidable(typ croft.EventType) bool {
	return typ == croft.UserMessage || typ == croft.UserToolResult || typ == croft.UserCustomToolResult
}

// readEvent reads one event of the given type.
func readEvent(e wire.Value, typ croft.EventType) Input {
	in := Input{Type: typ}
	p := payload{b: make([]byte, 0, len(e.Raw())+32)}
	p.b = append(append(append(p.b, `{"type":"`...), typ...), '"')
	switch typ {
	case croft.UserMessage:
		o := e.Object("type", "content")
		in.Content = p.content(o.Get("content"), 1, inMessage)
	case croft.SystemMessage:
		o := e.Object("type", "content")
		in.Content = p.content(o.Get("content"), 1, inSystem)
	case croft.UserInterrupt:
		o := e.Object("type", "session_thread_id")
		if v := o.Get("session_thread_id"); v.Given() {
			in.ThreadID = v.Text(1, maxID)
			p.text("session_thread_id", in.ThreadID)
		}
	case croft.UserToolConfirmation:
		p.confirmation(e.Object("type", "tool_use_id", "result", "deny_message"), &in)
	case croft.UserToolResult:
		p.result(e.Object("type", "tool_use_id", "content", "is_error"), "tool_use_id", &in)
	case croft.UserCustomToolResult:
		p.result(e.Object("type", "custom_tool_use_id", "content", "is_error"), "custom_tool_use_id", &in)
	}
	in.Payload = append(p.b, '}')
	return in
}

// payload is the object of an event that is being written.
type payload struct{ b []byte }

func (p *payload) name(name string) {
	p.b = append(wire.AppendText(append(p.b, ','), name), ':')
}

func (p *payload) text(name, s string) {
	p.name(name)
	p.b = wire.AppendText(p.b, s)
}

func (p *payload) confirmation(o wire.Value, in *Input) {
	in.ToolUseID = o.Get("tool_use_id").Text(1, maxID)
	p.text("tool_use_id", in.ToolUseID)
	result := o.Get("result").OneOf("allow", "deny")
	in.Allow = result == "allow"
	p.text("result", result)
	if v := o.Get("deny_message"); v.Given() {
		if in.DenyMessage = v.Text(0, croft.MaxOutputChars); in.Allow {
			v.Fail(`accepted is a deny_message where result is "deny"`)
		}
		p.text("deny_message", in.DenyMessage)
	}
}

func (p *payload) result(o wire.Value, id string, in *Input) {
	in.ToolUseID = o.Get(id).Text(1, maxID)
	p.text(id, in.ToolUseID)
	if v := o.Get("content"); v.Given() {
		in.Content = p.content(v, 0, inResult)
	} else {
		p.b = append(p.b, `,"content":[]`...)
	}
	if v := o.Get("is_error"); v.Given() {
		in.IsError = v.Bool()
	}
	p.b = append(p.b, `,"is_error":`...)
	if in.IsError {
		p.b = append(p.b, "true"...)
	} else {
		p.b = append(p.b, "false"...)
	}
}

// content writes the member content and returns its blocks.
func (p *payload) content(v wire.Value, low int, in setting) []json.RawMessage {
	n := v.Len(low, maxContent)
	p.b = append(p.b, `,"content":[`...)
	start := len(p.b)
	ends := make([]int, 0, 16)
	for i, e := range v.List(low, maxContent) {
		if i > 0 {
			p.b = append(p.b, ',')
		}
		p.b = appendBlock(p.b, e, in)
		ends = append(ends, len(p.b))
	}
	p.b = append(p.b, ']')
	blocks := make([]json.RawMessage, 0, n)
	for _, end := range ends {
		blocks = append(blocks, slices.Clip(p.b[start:end]))
		start = end + 1
	}
	return blocks
}
