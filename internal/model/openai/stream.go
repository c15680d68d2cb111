package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"croft"
	"croft/internal/model"
	"croft/internal/model/transport"
)

const (
	maxCalls = 1000     // tool calls of one response
	maxWhole = 64 << 20 // bytes of an answer that is not streamed
)

// chunk is one piece of a stream, or with Message a whole answer.
type chunk struct {
	Choices []struct {
		Index        int     `json:"index"`
		Delta        *delta  `json:"delta"`
		Message      *delta  `json:"message"`
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *usage          `json:"usage"`
	Error json.RawMessage `json:"error"`
	// Some servers put an error's fields at the top.
	Object  string `json:"object"`
	Message string `json:"message"`
}

type delta struct {
	Content          json.RawMessage `json:"content"`
	ReasoningContent json.RawMessage `json:"reasoning_content"`
	Reasoning        json.RawMessage `json:"reasoning"`
	Refusal          *string         `json:"refusal"`
	ToolCalls        []fragment      `json:"tool_calls"`
}

// fragment is a piece of a tool call.
type fragment struct {
	Index    *int   `json:"index"`
	ID       string `json:"id"`
	Function struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	} `json:"function"`
}

type usage struct {
	Prompt     int64 `json:"prompt_tokens"`
	Completion int64 `json:"completion_tokens"`
	Details    *struct {
		Cached int64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	CacheHit int64 `json:"prompt_cache_hit_tokens"` // DeepSeek's name for cached
}

// kinds of blocks being built
const (
	kindText     = "text"
	kindThinking = "thinking"
	kindCall     = "tool_use"
)

// building is a content block while its deltas come in.
type building struct {
	kind  string
	text  strings.Builder
	field string // of thinking: the delta's field it came in
	// Of a call:
	index int // the server's, or -1
	id    string
	name  string
	args  bytes.Buffer
}

// reader assembles one response.
type reader struct {
	side    transport.Side
	sink    func(model.Delta)
	used    map[string]bool
	blocks  []*building
	blank   string // blank text that waits for some that is not
	field   string
	finishR string
	refused bool
	done    bool
	usage   model.Usage
}

func newReader(side transport.Side, used map[string]bool, sink func(model.Delta)) *reader {
	return &reader{side: side, used: used, sink: sink}
}

// stream reads chunks up to [DONE]. A stream that ends without it is whole all the same when
// a finish reason came.
func (r *reader) stream(body io.Reader) error {
	events := newSSE(body)
	for !r.done {
		data, err := events.next()
		if err != nil {
			switch {
			case r.finishR != "" && !errors.Is(err, errTooLong):
				return nil
			case errors.Is(err, io.EOF):
				return transport.ErrCut
			default:
				return err
			}
		}
		if err := r.data(data); err != nil {
			return err
		}
	}
	return nil
}

// whole reads an answer that is one JSON object.
func (r *reader) whole(body io.Reader) error {
	raw, err := io.ReadAll(io.LimitReader(body, maxWhole))
	if err != nil {
		return err
	}
	return r.data(raw)
}

func (r *reader) data(raw []byte) error {
	raw = bytes.TrimSpace(raw)
	switch {
	case len(raw) == 0:
		return nil
	case string(raw) == "[DONE]":
		r.done = true
		return nil
	}
	var c chunk
	if err := json.Unmarshal(raw, &c); err != nil {
		return r.side.Garbled("a chunk of the stream cannot be read: %v", err)
	}
	if len(c.Error) > 0 && string(c.Error) != "null" || c.Object == "error" {
		return r.side.Fault(parseError(raw))
	}
	if u := c.Usage; u != nil {
		cached := u.CacheHit
		if u.Details != nil && u.Details.Cached > 0 {
			cached = u.Details.Cached
		}
		cached = min(max(cached, 0), max(u.Prompt, 0))
		r.usage = model.Usage{
			InputTokens:          max(u.Prompt, 0) - cached,
			OutputTokens:         max(u.Completion, 0),
			CacheReadInputTokens: cached,
		}
	}
	for _, choice := range c.Choices {
		if choice.Index != 0 {
			continue // one was asked for
		}
		d := choice.Delta
		if d == nil {
			d = choice.Message
		}
		if d != nil {
			if err := r.delta(d); err != nil {
				return err
			}
		}
		if choice.FinishReason != nil && *choice.FinishReason != "" {
			r.finishR = *choice.FinishReason
		}
	}
	return nil
}

func (r *reader) delta(d *delta) error {
	// One field a response: servers in transition send the same reasoning under both names.
	for _, f := range []struct {
		name string
		raw  json.RawMessage
	}{{reasoningContent, d.ReasoningContent}, {reasoningShort, d.Reasoning}} {
		if s := contentText(f.raw); s != "" && (r.field == "" || r.field == f.name) {
			r.field = f.name
			b := r.last(kindThinking)
			b.field = f.name
			b.text.WriteString(s)
		}
	}
	r.text(contentText(d.Content))
	if d.Refusal != nil && *d.Refusal != "" {
		r.refused = true
		r.text(*d.Refusal)
	}
	for _, f := range d.ToolCalls {
		if err := r.call(f); err != nil {
			return err
		}
	}
	return nil
}

// contentText is the text of a delta's field: a string, null, or a list of parts of text.
func contentText(raw json.RawMessage) string {
	if len(raw) == 0 || raw[0] == 'n' {
		return ""
	}
	var s string
	if raw[0] == '"' && json.Unmarshal(raw, &s) == nil {
		return s
	}
	var parts []struct {
		Text string `json:"text"`
	}
	_ = json.Unmarshal(raw, &parts) // anything else holds no text
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.Text)
	}
	return b.String()
}

// last returns the block at the end when it is of that kind, or opens a new one.
func (r *reader) last(kind string) *building {
	if n := len(r.blocks); n > 0 && r.blocks[n-1].kind == kind {
		return r.blocks[n-1]
	}
	return r.open(kind)
}

func (r *reader) open(kind string) *building {
	b := &building{kind: kind, index: -1}
	r.blocks = append(r.blocks, b)
	if r.sink != nil {
		r.sink(model.Delta{Index: len(r.blocks) - 1, Kind: kind, Start: true})
	}
	return b
}

// text adds to the text block at the end. Blank text opens no block until other text
// follows: many models emit newlines between their reasoning and their calls.
func (r *reader) text(s string) {
	if s == "" {
		return
	}
	n := len(r.blocks)
	if n == 0 || r.blocks[n-1].kind != kindText {
		r.blank += s
		if strings.TrimSpace(r.blank) == "" {
			return
		}
		s, r.blank = r.blank, ""
	}
	b := r.last(kindText)
	b.text.WriteString(s)
	if r.sink != nil {
		r.sink(model.Delta{Index: len(r.blocks) - 1, Kind: kindText, Text: s})
	}
}

// call adds a fragment to the tool call it belongs to.
func (r *reader) call(f fragment) error {
	b := r.find(f)
	if b == nil {
		calls := 0
		for _, b := range r.blocks {
			if b.kind == kindCall {
				calls++
			}
		}
		if calls >= maxCalls {
			return r.side.Garbled("the response has more than %d tool calls", maxCalls)
		}
		r.blank = ""
		b = r.open(kindCall)
		if f.Index != nil {
			b.index = *f.Index
		}
	}
	if b.id == "" {
		b.id = f.ID
	}
	if b.name == "" {
		b.name = f.Function.Name
	}
	raw := f.Function.Arguments
	var s string
	switch {
	case len(raw) == 0 || raw[0] == 'n':
	case raw[0] == '"' && json.Unmarshal(raw, &s) == nil:
		b.args.WriteString(s)
	default:
		b.args.Write(raw) // an object where a string belongs
	}
	return nil
}

// find returns the call that a fragment continues, or nil when it begins a new one. The
// index tells, by the specification; but servers leave it out, or give every call the index
// 0 with an id of its own, or leave out the ids.
func (r *reader) find(f fragment) *building {
	for i := len(r.blocks) - 1; i >= 0; i-- {
		b := r.blocks[i]
		if b.kind != kindCall || f.Index != nil && b.index != *f.Index {
			continue
		}
		if f.ID != "" && (b.id != "" || f.Index == nil) {
			if f.ID == b.id {
				return b
			}
			continue
		}
		named := f.Function.Name != "" && b.name != ""
		switch {
		case named && f.Index == nil && f.Function.Name != b.name:
			return nil
		case named && b.whole() && len(f.Function.Arguments) > len(`""`):
			return nil // a second call under the same index, or none
		default:
			return b
		}
	}
	return nil
}

// whole tells whether the arguments so far are a JSON value of their own.
func (b *building) whole() bool { return b.args.Len() > 0 && json.Valid(b.args.Bytes()) }

// finish puts the response together.
func (r *reader) finish() (*model.Response, error) {
	if r.finishR == "" && len(r.blocks) == 0 {
		return nil, r.side.Garbled("the server sent an empty answer")
	}
	resp := &model.Response{Usage: r.usage}
	cut := r.finishR == "length"
	refused := r.refused || r.finishR == "content_filter"
	calls := 0
	for i, b := range r.blocks {
		var out any
		switch b.kind {
		case kindText:
			out = map[string]string{"type": "text", "text": b.text.String()}
		case kindThinking:
			out = map[string]string{"type": "thinking", "thinking": b.text.String(), "signature": "", "reasoning_field": b.field}
		case kindCall:
			if refused || cut && i == len(r.blocks)-1 && !b.whole() {
				continue
			}
			if b.name == "" {
				return nil, r.side.Garbled("the server sent a tool call without a name")
			}
			out = map[string]any{"type": "tool_use", "id": r.newID(b.id), "name": b.name, "input": input(b.args.Bytes())}
			calls++
		}
		raw, err := json.Marshal(out)
		if err != nil {
			return nil, r.side.Garbled("a block of the response cannot be written: %v", err)
		}
		resp.Content = append(resp.Content, raw)
	}
	switch {
	case refused:
		resp.StopReason = model.StopRefusal
	case r.finishR == "error" || r.finishR == "abort":
		return nil, r.side.Garbled("the server gave up: finish_reason %s", r.finishR)
	case cut:
		resp.StopReason = model.StopMaxTokens
	case calls > 0:
		resp.StopReason = model.StopToolUse
	default:
		resp.StopReason = model.StopEndTurn
	}
	return resp, nil
}

// newID returns id, or one of its own when it is empty or used already.
func (r *reader) newID(id string) string {
	if id == "" || r.used[id] {
		id = croft.NewID("call")
	}
	r.used[id] = true
	return id
}

// input is the arguments as a JSON object.
func input(args []byte) json.RawMessage {
	args = bytes.TrimSpace(args)
	if len(args) == 0 || string(args) == "null" {
		return json.RawMessage("{}")
	}
	if isObject(args) {
		return bytes.Clone(args)
	}
	var inner string
	if json.Unmarshal(args, &inner) == nil && isObject([]byte(inner)) {
		return json.RawMessage(inner) // encoded twice
	}
	raw, _ := json.Marshal(map[string]string{"_raw": string(args)}) // strings always marshal
	return raw
}

func isObject(raw []byte) bool {
	var m map[string]json.RawMessage
	return json.Unmarshal(raw, &m) == nil && m != nil
}
