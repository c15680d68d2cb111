package anthropic

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"croft/internal/model"
)

const (
	fastBeta  = "fast-mode-2026-02-01"
	cacheMark = `"cache_control":{"type":"ephemeral"}`

	maxBreakpoints = 4 // of the API, in one request
	usualMaxTokens = 64_000
	otherClaude    = 32_000
	otherModel     = 8_192
)

// betas is the value of anthropic-beta for req, or "".
func (p *Provider) betas(req *model.Request) string {
	betas := slices.Clone(p.opts.Betas)
	if req.Speed == "fast" && !slices.Contains(betas, fastBeta) {
		betas = append(betas, fastBeta)
	}
	return strings.Join(betas, ",")
}

// maxTokens is what req asks for, or the default for its model.
func (p *Provider) maxTokens(req *model.Request, known model.Known, ok bool) int64 {
	switch {
	case req.MaxTokens > 0:
		return req.MaxTokens
	case p.opts.MaxTokens > 0:
		return p.opts.MaxTokens
	case ok && (req.Effort == "xhigh" || req.Effort == "max"):
		return known.MaxOutput
	case ok:
		return min(known.MaxOutput, usualMaxTokens)
	case strings.HasPrefix(req.Model, "claude-"):
		return otherClaude
	default:
		return otherModel
	}
}

// message is a turn that is ready to be written.
type message struct {
	role   string
	blocks []block
}

// block is a content block as it goes out, and whether it may end a cached prefix.
type block struct {
	raw       json.RawMessage
	cacheable bool
	marked    bool
}

// body writes the request. It is written by hand, not by the SDK's parameter types, so that
// stored blocks go out byte for byte and the text of an unchanged prefix never changes.
func (p *Provider) body(req *model.Request) ([]byte, error) {
	known, ok := model.FindClaude(req.Model)
	messages, err := p.messages(req, ok && !known.SystemMidway)
	if err != nil {
		return nil, err
	}
	size := 1024
	for _, m := range messages {
		for _, b := range m.blocks {
			size += len(b.raw) + 64
		}
	}
	b := bytes.NewBuffer(make([]byte, 0, size))
	b.WriteString(`{"model":`)
	writeString(b, req.Model)
	b.WriteString(`,"max_tokens":`)
	b.WriteString(strconv.FormatInt(p.maxTokens(req, known, ok), 10))
	b.WriteString(`,"stream":true`)
	if ok && known.Adaptive {
		b.WriteString(`,"thinking":{"type":"adaptive","display":"omitted"}`)
	}
	if req.Effort != "" {
		b.WriteString(`,"output_config":{"effort":`)
		writeString(b, req.Effort)
		b.WriteByte('}')
	}
	if req.Speed == "fast" {
		b.WriteString(`,"speed":"fast"`)
	}
	if req.InferenceGeo != "" {
		b.WriteString(`,"inference_geo":`)
		writeString(b, req.InferenceGeo)
	}

	left := maxBreakpoints - countMarked(messages)
	if len(req.Tools) > 0 {
		if err := p.writeTools(b, req.Tools, left > 0); err != nil {
			return nil, err
		}
		left--
	}
	if system := nonEmpty(req.System); len(system) > 0 {
		writeSystem(b, system, left > 0)
		left--
	}
	placeMarks(messages, left)
	writeMessages(b, messages)
	b.WriteByte('}')
	return b.Bytes(), nil
}

// countMarked counts the breakpoints that the stored blocks bring along.
func countMarked(messages []message) int {
	n := 0
	for _, m := range messages {
		for _, b := range m.blocks {
			if b.marked {
				n++
			}
		}
	}
	return n
}

// placeMarks puts a breakpoint at the end of the messages, and one where the messages of the
// previous request ended, which is before the last assistant turn; as many as are left.
func placeMarks(messages []message, left int) {
	end := len(messages)
	if left > 0 && markLast(messages[:end]) {
		left--
	}
	for end > 0 && messages[end-1].role != "assistant" {
		end--
	}
	if left > 0 && end > 0 {
		markLast(messages[:end-1])
	}
}

// markLast marks the last block that may carry a breakpoint.
func markLast(messages []message) bool {
	for i := len(messages) - 1; i >= 0; i-- {
		blocks := messages[i].blocks
		for j := len(blocks) - 1; j >= 0; j-- {
			if blocks[j].marked {
				return false
			}
			if blocks[j].cacheable {
				blocks[j].marked = true
				blocks[j].raw = withMark(blocks[j].raw)
				return true
			}
		}
	}
	return false
}

// withMark returns a copy of the object raw with a breakpoint as its last field.
func withMark(raw json.RawMessage) json.RawMessage {
	open := bytes.TrimRight(raw, " \t\r\n")
	open = open[:len(open)-1] // without the closing brace
	out := make([]byte, 0, len(open)+len(cacheMark)+2)
	out = append(out, open...)
	out = append(out, ',')
	out = append(out, cacheMark...)
	return append(out, '}')
}

func (p *Provider) writeTools(b *bytes.Buffer, tools []model.Tool, mark bool) error {
	b.WriteString(`,"tools":[`)
	for i, t := range tools {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"name":`)
		writeString(b, t.Name)
		if t.Description != "" {
			b.WriteString(`,"description":`)
			writeString(b, t.Description)
		}
		b.WriteString(`,"input_schema":`)
		switch {
		case len(t.Schema) == 0:
			b.WriteString(`{"type":"object"}`)
		case !json.Valid(t.Schema):
			return p.side.Refuse("the input schema of tool %q is no JSON", t.Name)
		default:
			b.Write(t.Schema)
		}
		if mark && i == len(tools)-1 {
			b.WriteByte(',')
			b.WriteString(cacheMark)
		}
		b.WriteByte('}')
	}
	b.WriteByte(']')
	return nil
}

func writeSystem(b *bytes.Buffer, system []string, mark bool) {
	b.WriteString(`,"system":[`)
	for i, text := range system {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"type":"text","text":`)
		writeString(b, text)
		if mark && i == len(system)-1 {
			b.WriteByte(',')
			b.WriteString(cacheMark)
		}
		b.WriteByte('}')
	}
	b.WriteByte(']')
}

func writeMessages(b *bytes.Buffer, messages []message) {
	b.WriteString(`,"messages":[`)
	for i, m := range messages {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"role":`)
		writeString(b, m.role)
		b.WriteString(`,"content":[`)
		for j, bl := range m.blocks {
			if j > 0 {
				b.WriteByte(',')
			}
			b.Write(bl.raw)
		}
		b.WriteString(`]}`)
	}
	b.WriteByte(']')
}

// messages checks the turns and leaves out what the API would refuse. The blocks' bytes are
// shared with the request and never written to.
func (p *Provider) messages(req *model.Request, noSystem bool) ([]message, error) {
	out := make([]message, 0, len(req.Messages))
	for i, m := range model.SystemLast(req.Messages) {
		switch {
		case m.Role != "user" && m.Role != "assistant" && m.Role != "system":
			return nil, p.side.Refuse("messages.%d: unknown role %q", i, m.Role)
		case m.Role == "system" && noSystem:
			return nil, p.side.Refuse("messages.%d: model %s takes no system messages in mid-conversation", i, req.Model)
		}
		turn := message{role: m.Role}
		for j, raw := range m.Content {
			bl, keep, err := prepare(raw)
			if err != nil {
				return nil, p.side.Refuse("messages.%d.content.%d: the block is no JSON object with a type", i, j)
			}
			if keep {
				turn.blocks = append(turn.blocks, bl)
			}
		}
		if len(turn.blocks) > 0 {
			out = append(out, turn)
		}
	}
	return out, nil
}

// shape is what a block's place in the request depends on.
type shape struct {
	Type         string          `json:"type"`
	Text         string          `json:"text"`
	Signature    string          `json:"signature"`
	CacheControl json.RawMessage `json:"cache_control"`
	Content      json.RawMessage `json:"content"`
}

// prepare decides whether a stored block goes out, and how.
func prepare(raw json.RawMessage) (block, bool, error) {
	var s shape
	if err := json.Unmarshal(raw, &s); err != nil {
		return block{}, false, err
	}
	if s.Type == "" {
		return block{}, false, errNoType
	}
	bl := block{raw: raw, cacheable: true, marked: s.CacheControl != nil}
	switch s.Type {
	case "text":
		if strings.TrimSpace(s.Text) == "" {
			return block{}, false, nil
		}
	case "thinking":
		if s.Signature == "" {
			return block{}, false, nil
		}
		bl.cacheable = false
	case "redacted_thinking":
		bl.cacheable = false
	case "tool_result":
		bl.raw = withoutEmptyTexts(raw, s.Content)
	}
	return bl, true, nil
}

// withoutEmptyTexts returns a tool result without the empty text blocks of its content,
// which a silent command leaves behind; raw itself when there are none.
func withoutEmptyTexts(raw, content json.RawMessage) json.RawMessage {
	var parts []json.RawMessage
	if json.Unmarshal(content, &parts) != nil {
		return raw // a string, or absent
	}
	kept := parts[:0:0]
	for _, part := range parts {
		var s shape
		if json.Unmarshal(part, &s) == nil && s.Type == "text" && strings.TrimSpace(s.Text) == "" {
			continue
		}
		kept = append(kept, part)
	}
	if len(kept) == len(parts) {
		return raw
	}
	obj, err := parseObject(raw)
	if err != nil {
		return raw
	}
	obj.set("content", joinArray(kept))
	return obj.bytes()
}

func joinArray(parts []json.RawMessage) json.RawMessage {
	out := []byte{'['}
	for i, part := range parts {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, part...)
	}
	return append(out, ']')
}

func nonEmpty(texts []string) []string {
	out := make([]string, 0, len(texts))
	for _, t := range texts {
		if strings.TrimSpace(t) != "" {
			out = append(out, t)
		}
	}
	return out
}

func writeString(b *bytes.Buffer, s string) {
	raw, _ := json.Marshal(s) // a string always marshals
	b.Write(raw)
}
