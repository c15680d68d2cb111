package anthropic

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/anthropics/anthropic-sdk-go/packages/ssestream"

	"croft/internal/model"
	"croft/internal/model/transport"
)

// maxBlocks bounds the content blocks of one response.
const maxBlocks = 10_000

// event is one event of the stream, as far as Croft reads it. Unknown events and deltas are
// passed over, as the API's versioning asks.
type event struct {
	Index   int `json:"index"`
	Message struct {
		Usage *usage `json:"usage"`
	} `json:"message"`
	ContentBlock json.RawMessage `json:"content_block"`
	Delta        struct {
		Type        string          `json:"type"`
		Text        string          `json:"text"`
		Thinking    string          `json:"thinking"`
		Signature   string          `json:"signature"`
		PartialJSON string          `json:"partial_json"`
		Citation    json.RawMessage `json:"citation"`
		StopReason  *string         `json:"stop_reason"`
		StopDetails json.RawMessage `json:"stop_details"`
	} `json:"delta"`
	Usage *usage `json:"usage"`
}

// usage counts are totals of the whole message; a later event replaces those it names.
type usage struct {
	Input         *int64 `json:"input_tokens"`
	Output        *int64 `json:"output_tokens"`
	CacheRead     *int64 `json:"cache_read_input_tokens"`
	CacheCreated  *int64 `json:"cache_creation_input_tokens"`
	CacheCreation *struct {
		Ephemeral5m int64 `json:"ephemeral_5m_input_tokens"`
		Ephemeral1h int64 `json:"ephemeral_1h_input_tokens"`
	} `json:"cache_creation"`
	Speed string `json:"speed"`
	Geo   string `json:"inference_geo"`
}

// building is a content block while its deltas come in.
type building struct {
	kind      string // the block's type
	start     object
	place     int // in the response's content; -1 until it is opened
	text      strings.Builder
	signature strings.Builder
	input     bytes.Buffer
	citations []json.RawMessage
}

// reader assembles one response.
type reader struct {
	side    transport.Side
	sink    func(model.Delta)
	blocks  map[int]*building // by the API's index
	order   []*building       // opened blocks, by place
	created int64
	resp    model.Response
	started bool
	stop    string
	done    bool
}

// read consumes the stream up to message_stop. It returns an *model.Error for what the API
// says is wrong, and other errors for a stream that broke.
func (p *Provider) read(dec ssestream.Decoder, requestID string, sink func(model.Delta)) (*model.Response, error) {
	r := &reader{side: p.side, sink: sink, blocks: map[int]*building{}}
	for !r.done && dec.Next() {
		ev := dec.Event()
		if len(bytes.TrimSpace(ev.Data)) == 0 {
			continue
		}
		if err := r.event(ev.Type, ev.Data, requestID); err != nil {
			return nil, err
		}
	}
	if !r.done {
		if err := dec.Err(); err != nil {
			return nil, err
		}
		return nil, transport.ErrCut
	}
	return r.finish()
}

func (r *reader) event(kind string, data []byte, requestID string) error {
	if kind == "" {
		// Some servers leave the event's name to the data.
		var named struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(data, &named) == nil {
			kind = named.Type
		}
	}
	switch kind {
	case "message_start", "content_block_start", "content_block_delta", "message_delta":
	case "message_stop":
		if !r.started {
			return r.side.Garbled("the stream ended before it began a message")
		}
		r.done = true
		return nil
	case "error":
		var body apiError
		if err := json.Unmarshal(data, &body); err != nil {
			body.Error.Message = transport.Excerpt(string(data), 200)
		}
		if requestID == "" {
			requestID = body.RequestID
		}
		return r.side.Fault(transport.Reply{Type: body.Error.Type, Code: body.Error.Details.Code, Message: body.Error.Message, ID: requestID})
	default:
		return nil
	}
	var ev event
	if err := json.Unmarshal(data, &ev); err != nil {
		return r.side.Garbled("a %s event cannot be read: %v", kind, err)
	}
	switch kind {
	case "message_start":
		r.started = true
		r.count(ev.Message.Usage)
	case "content_block_start":
		return r.start(ev.Index, ev.ContentBlock)
	case "content_block_delta":
		return r.delta(&ev)
	case "message_delta":
		r.count(ev.Usage)
		if ev.Delta.StopReason != nil {
			r.stop = *ev.Delta.StopReason
		}
		if d := ev.Delta.StopDetails; len(d) > 0 && string(d) != "null" {
			r.resp.StopDetails = d
		}
	}
	return nil
}

func (r *reader) start(index int, raw json.RawMessage) error {
	if r.blocks[index] != nil {
		return r.side.Garbled("content block %d began twice", index)
	}
	if len(r.blocks) >= maxBlocks {
		return r.side.Garbled("the response has more than %d content blocks", maxBlocks)
	}
	start, err := parseObject(raw)
	if err != nil {
		return r.side.Garbled("content block %d cannot be read: %v", index, err)
	}
	var first struct {
		Type      string `json:"type"`
		Text      string `json:"text"`
		Thinking  string `json:"thinking"`
		Signature string `json:"signature"`
	}
	if err := json.Unmarshal(raw, &first); err != nil {
		return r.side.Garbled("content block %d cannot be read: %v", index, err)
	}
	b := &building{kind: first.Type, start: start, place: -1}
	r.blocks[index] = b
	b.signature.WriteString(first.Signature)
	switch first.Type {
	case "text":
		// Opened by its first text: a block that stays empty could never be sent back.
		r.text(b, first.Text)
	case "thinking":
		r.open(b, "thinking")
		b.text.WriteString(first.Thinking)
	case "redacted_thinking":
		r.open(b, "thinking")
	case "tool_use":
		r.open(b, "tool_use")
	default:
		r.open(b, "")
	}
	return nil
}

// open gives the block its place and announces it; kinds outside the seam stay silent.
func (r *reader) open(b *building, kind string) {
	b.place = len(r.order)
	r.order = append(r.order, b)
	if r.sink != nil && kind != "" {
		r.sink(model.Delta{Index: b.place, Kind: kind, Start: true})
	}
}

func (r *reader) text(b *building, text string) {
	if text == "" {
		return
	}
	if b.place < 0 {
		r.open(b, "text")
	}
	b.text.WriteString(text)
	if r.sink != nil {
		r.sink(model.Delta{Index: b.place, Kind: "text", Text: text})
	}
}

func (r *reader) delta(ev *event) error {
	b := r.blocks[ev.Index]
	if b == nil {
		return r.side.Garbled("a delta came for content block %d, which has not begun", ev.Index)
	}
	switch ev.Delta.Type {
	case "text_delta":
		r.text(b, ev.Delta.Text)
	case "thinking_delta":
		b.text.WriteString(ev.Delta.Thinking)
	case "signature_delta":
		b.signature.WriteString(ev.Delta.Signature)
	case "input_json_delta":
		b.input.WriteString(ev.Delta.PartialJSON)
	case "citations_delta":
		b.citations = append(b.citations, ev.Delta.Citation)
	}
	return nil
}

func (r *reader) count(u *usage) {
	if u == nil {
		return
	}
	set := func(dst *int64, v *int64) {
		if v != nil {
			*dst = *v
		}
	}
	set(&r.resp.Usage.InputTokens, u.Input)
	set(&r.resp.Usage.OutputTokens, u.Output)
	set(&r.resp.Usage.CacheReadInputTokens, u.CacheRead)
	set(&r.created, u.CacheCreated)
	if c := u.CacheCreation; c != nil {
		r.resp.Usage.CacheCreation5m, r.resp.Usage.CacheCreate1h = c.Ephemeral5m, c.Ephemeral1h
	}
	if u.Speed != "" {
		r.resp.Usage.Speed = u.Speed
	}
	if u.Geo != "" {
		r.resp.Usage.InferenceGeo = u.Geo
	}
}

// finish puts the response together.
func (r *reader) finish() (*model.Response, error) {
	u := &r.resp.Usage
	if u.CacheCreation5m+u.CacheCreate1h == 0 {
		u.CacheCreation5m = r.created // a server that does not split it by lifetime
	}
	cut := r.stop == model.StopMaxTokens || r.stop == "model_context_window_exceeded"
	refused := r.stop == model.StopRefusal
	calls := 0
	for i, b := range r.order {
		raw := b.raw()
		call := b.kind == "tool_use"
		whole := raw != nil && (!call || callable(raw))
		if call && cut && i == len(r.order)-1 && b.input.Len() == 0 {
			whole = false // cut before its input began; {} is what the block began with
		}
		switch {
		case call && refused, !whole && cut && i == len(r.order)-1:
			continue
		case !whole:
			return nil, r.side.Garbled("the call in content block %d has no id, no name, or an input that is no JSON object", i)
		case call:
			calls++
		}
		r.resp.Content = append(r.resp.Content, raw)
	}
	r.resp.StopReason = stopReason(r.stop, calls > 0)
	return &r.resp, nil
}

// stopReason holds the API's reasons to those of the seam. A response cut by the model's
// window is one cut by its length; a reason that is unknown, or that the content belies,
// follows the content, so that no tool call is ever left without its result.
func stopReason(said string, calls bool) string {
	switch said {
	case model.StopMaxTokens, model.StopSequence, model.StopRefusal, model.StopPauseTurn:
		return said
	case "model_context_window_exceeded":
		return model.StopMaxTokens
	}
	if calls {
		return model.StopToolUse
	}
	return model.StopEndTurn
}

// callable tells whether a tool_use block can be run.
func callable(raw json.RawMessage) bool {
	var call struct {
		ID    string                     `json:"id"`
		Name  string                     `json:"name"`
		Input map[string]json.RawMessage `json:"input"`
	}
	return json.Unmarshal(raw, &call) == nil && call.ID != "" && call.Name != "" && call.Input != nil
}

// raw is the block with what its deltas brought, or nil when that is no JSON.
func (b *building) raw() json.RawMessage {
	o := append(object(nil), b.start...)
	switch b.kind {
	case "text":
		o.setString("text", b.text.String())
	case "thinking":
		o.setString("thinking", b.text.String())
		o.setString("signature", b.signature.String())
	}
	if b.input.Len() > 0 {
		if !json.Valid(b.input.Bytes()) {
			return nil
		}
		o.set("input", bytes.Clone(b.input.Bytes()))
	}
	if len(b.citations) > 0 {
		o.set("citations", joinArray(b.citations))
	}
	return o.bytes()
}
