package openai

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"croft/internal/model"
)

// chat is the body of a chat-completions request.
type chat struct {
	Model           string         `json:"model"`
	Messages        []chatMessage  `json:"messages"`
	Stream          bool           `json:"stream"`
	StreamOptions   map[string]any `json:"stream_options"`
	Tools           []chatTool     `json:"tools,omitempty"`
	MaxTokens       int64          `json:"max_tokens,omitempty"`
	MaxCompletion   int64          `json:"max_completion_tokens,omitempty"`
	ReasoningEffort string         `json:"reasoning_effort,omitempty"`
}

// chatMessage is one message. Content is a string, a list of parts, or nil, which is
// written as null beside tool calls.
type chatMessage struct {
	Role       string     `json:"role"`
	Content    any        `json:"content"`
	ToolCalls  []chatCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
	// Reasoning goes out under the name that the server itself used.
	ReasoningContent *string `json:"reasoning_content,omitempty"`
	Reasoning        *string `json:"reasoning,omitempty"`
}

type chatCall struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

type chatTool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string          `json:"name"`
		Description string          `json:"description,omitempty"`
		Parameters  json.RawMessage `json:"parameters"`
	} `json:"function"`
}

// part is one part of a user message.
type part struct {
	Type     string    `json:"type"`
	Text     string    `json:"text,omitempty"`
	ImageURL *imageURL `json:"image_url,omitempty"`
	File     *filePart `json:"file,omitempty"`
}

type imageURL struct {
	URL string `json:"url"`
}

type filePart struct {
	Name string `json:"filename"`
	Data string `json:"file_data"`
}

// block is a content block of the Messages API, as far as the translation reads it.
type block struct {
	Type      string          `json:"type"`
	Text      string          `json:"text"`
	Thinking  string          `json:"thinking"`
	Field     string          `json:"reasoning_field"` // this provider's mark on its own thinking blocks
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Input     json.RawMessage `json:"input"`
	ToolUseID string          `json:"tool_use_id"`
	IsError   bool            `json:"is_error"`
	Content   json.RawMessage `json:"content"`
	Source    json.RawMessage `json:"source"`
	Title     string          `json:"title"`
	Context   string          `json:"context"`
}

// source is the source of an image or a document.
type source struct {
	Type      string          `json:"type"`
	MediaType string          `json:"media_type"`
	Data      string          `json:"data"`
	URL       string          `json:"url"`
	Content   json.RawMessage `json:"content"`
}

const (
	reasoningContent = "reasoning_content"
	reasoningShort   = "reasoning"
)

// translator turns a conversation into chat messages.
type translator struct {
	p        *Provider
	out      []chatMessage
	used     map[string]bool // tool-call ids of the conversation
	field    string          // the field in which this server sends reasoning, once seen
	inResult bool            // within a tool's result
}

// translate returns the request's body, and the tool-call ids in use.
func (p *Provider) translate(req *model.Request) (*chat, map[string]bool, error) {
	switch {
	case req.Speed == "fast":
		return nil, nil, p.side.Refuse("speed fast is not known to OpenAI-compatible servers; leave speed out or choose standard")
	case req.InferenceGeo == "us":
		return nil, nil, p.side.Refuse("inference_geo us is not known to OpenAI-compatible servers; leave it out or choose global")
	}
	c := &chat{
		Model:         req.Model,
		Stream:        true,
		StreamOptions: map[string]any{"include_usage": true},
	}
	switch req.Effort {
	case "xhigh", "max":
		c.ReasoningEffort = "high"
	default:
		c.ReasoningEffort = req.Effort
	}
	limit := req.MaxTokens
	if limit == 0 {
		limit = p.opts.MaxTokens
	}
	if p.newLimit() {
		c.MaxCompletion = limit
	} else {
		c.MaxTokens = limit
	}
	for _, t := range req.Tools {
		var ct chatTool
		ct.Type = "function"
		ct.Function.Name, ct.Function.Description, ct.Function.Parameters = t.Name, t.Description, t.Schema
		switch {
		case len(t.Schema) == 0:
			ct.Function.Parameters = json.RawMessage(`{"type":"object","properties":{}}`)
		case !json.Valid(t.Schema):
			return nil, nil, p.side.Refuse("the input schema of tool %q is no JSON", t.Name)
		}
		c.Tools = append(c.Tools, ct)
	}
	tr := &translator{p: p, used: map[string]bool{}}
	if system := joinTexts(req.System); system != "" {
		tr.out = append(tr.out, chatMessage{Role: "system", Content: system})
	}
	for i, m := range model.SystemLast(req.Messages) {
		if err := tr.message(m); err != nil {
			err.Message = strings.Replace(err.Message, "openai: ", fmt.Sprintf("openai: messages.%d: ", i), 1)
			return nil, nil, err
		}
	}
	tr.fillReasoning()
	c.Messages = tr.out
	return c, tr.used, nil
}

// newLimit tells whether the server wants the newer name of the token limit: OpenAI's own
// models refuse the old one, and most other servers do not know the new one.
func (p *Provider) newLimit() bool {
	u, err := url.Parse(p.url)
	if err != nil {
		return false
	}
	h := u.Hostname()
	return h == "api.openai.com" || strings.HasSuffix(h, ".openai.azure.com")
}

func (t *translator) message(m model.Message) *model.Error {
	blocks := make([]block, len(m.Content))
	for i, raw := range m.Content {
		if err := json.Unmarshal(raw, &blocks[i]); err != nil || blocks[i].Type == "" {
			return t.p.side.Refuse("content.%d is no JSON object with a type", i)
		}
	}
	switch m.Role {
	case "user":
		return t.user(blocks)
	case "assistant":
		return t.assistant(blocks)
	case "system":
		var texts []string
		for _, b := range blocks {
			if b.Type != "text" {
				return t.p.side.Refuse("a system message holds text alone, not %s", b.Type)
			}
			texts = append(texts, b.Text)
		}
		if text := joinTexts(texts); text != "" {
			t.out = append(t.out, chatMessage{Role: "system", Content: text})
		}
		return nil
	default:
		return t.p.side.Refuse("unknown role %q", m.Role)
	}
}

// user writes the tool results first, because they must follow the calls at once, and then
// one user message with everything else.
func (t *translator) user(blocks []block) *model.Error {
	var rest []part
	for _, b := range blocks {
		if b.Type != "tool_result" {
			continue
		}
		text, extra, err := t.result(b)
		if err != nil {
			return err
		}
		t.out = append(t.out, chatMessage{Role: "tool", Content: text, ToolCallID: b.ToolUseID})
		if len(extra) > 0 {
			rest = append(rest, part{Type: "text", Text: fmt.Sprintf("From the result of tool call %s:", b.ToolUseID)})
			rest = append(rest, extra...)
		}
	}
	for _, b := range blocks {
		if b.Type == "tool_result" {
			continue
		}
		parts, err := t.parts(b)
		if err != nil {
			return err
		}
		rest = append(rest, parts...)
	}
	if len(rest) == 0 {
		return nil
	}
	// Two user messages in a row are one: several chat templates insist on alternation.
	if n := len(t.out); n > 0 && t.out[n-1].Role == "user" {
		before, _ := t.out[n-1].Content.([]part)
		if s, ok := t.out[n-1].Content.(string); ok {
			before = []part{{Type: "text", Text: s}}
		}
		t.out[n-1].Content = simplify(append(before, rest...))
		return nil
	}
	t.out = append(t.out, chatMessage{Role: "user", Content: simplify(rest)})
	return nil
}

// simplify turns parts that are all text into one string, which every server takes.
func simplify(parts []part) any {
	texts := make([]string, 0, len(parts))
	for _, p := range parts {
		if p.Type != "text" {
			return parts
		}
		texts = append(texts, p.Text)
	}
	return strings.Join(texts, "\n\n")
}

// result is a tool's result: the text for the tool message, and the parts it cannot hold.
func (t *translator) result(b block) (string, []part, *model.Error) {
	t.inResult = true
	defer func() { t.inResult = false }()
	var texts []string
	var extra []part
	var whole string
	var content []json.RawMessage
	switch {
	case len(b.Content) == 0 || string(b.Content) == "null":
	case json.Unmarshal(b.Content, &whole) == nil:
		texts = append(texts, whole)
	case json.Unmarshal(b.Content, &content) == nil:
		for i, raw := range content {
			var inner block
			if err := json.Unmarshal(raw, &inner); err != nil || inner.Type == "" {
				return "", nil, t.p.side.Refuse("content.%d of the result of %s is no JSON object with a type", i, b.ToolUseID)
			}
			parts, err := t.parts(inner)
			if err != nil {
				return "", nil, err
			}
			for _, p := range parts {
				if p.Type == "text" {
					texts = append(texts, p.Text)
				} else {
					extra = append(extra, p)
				}
			}
		}
	default:
		return "", nil, t.p.side.Refuse("the result of %s is neither text nor a list of blocks", b.ToolUseID)
	}
	text := joinTexts(texts)
	switch {
	case text == "" && len(extra) > 0:
		text = "(the result is in the next message)"
	case text == "":
		text = "(no output)"
	}
	if b.IsError {
		text = "Error: " + text
	}
	return text, extra, nil
}

// parts translates one block of a user message or of a tool's result.
func (t *translator) parts(b block) ([]part, *model.Error) {
	switch b.Type {
	case "text":
		if strings.TrimSpace(b.Text) == "" {
			return nil, nil
		}
		return []part{{Type: "text", Text: b.Text}}, nil
	case "image":
		return t.image(b)
	case "document":
		return t.document(b)
	case "search_result":
		var origin string
		_ = json.Unmarshal(b.Source, &origin) // a string here; anything else is left out
		text := "<search_result" + attr("title", b.Title) + attr("source", origin) + ">\n" + t.texts(b.Content) + "\n</search_result>"
		return []part{{Type: "text", Text: text}}, nil
	default:
		return nil, t.p.side.Refuse("a block of type %s cannot be sent to an OpenAI-compatible server", b.Type)
	}
}

func (t *translator) image(b block) ([]part, *model.Error) {
	var s source
	if err := json.Unmarshal(b.Source, &s); err != nil {
		return nil, t.p.side.Refuse("an image has no source that can be read")
	}
	switch s.Type {
	case "base64":
		return []part{{Type: "image_url", ImageURL: &imageURL{"data:" + s.MediaType + ";base64," + s.Data}}}, nil
	case "url":
		return []part{{Type: "image_url", ImageURL: &imageURL{s.URL}}}, nil
	default:
		return nil, t.p.side.Refuse("an image with a source of type %s cannot be sent to an OpenAI-compatible server; base64 and url can", s.Type)
	}
}

func (t *translator) document(b block) ([]part, *model.Error) {
	var s source
	if err := json.Unmarshal(b.Source, &s); err != nil {
		return nil, t.p.side.Refuse("a document has no source that can be read")
	}
	switch {
	case s.Type == "text":
		return []part{{Type: "text", Text: documentText(b, s.Data)}}, nil
	case s.Type == "content":
		var whole string
		var blocks []block
		if json.Unmarshal(s.Content, &whole) == nil {
			return []part{{Type: "text", Text: documentText(b, whole)}}, nil
		}
		if err := json.Unmarshal(s.Content, &blocks); err != nil {
			return nil, t.p.side.Refuse("a document's content is neither text nor a list of blocks")
		}
		out := []part{}
		var texts []string
		for _, inner := range blocks {
			parts, err := t.parts(inner)
			if err != nil {
				return nil, err
			}
			for _, p := range parts {
				if p.Type == "text" {
					texts = append(texts, p.Text)
				} else {
					out = append(out, p)
				}
			}
		}
		return append([]part{{Type: "text", Text: documentText(b, joinTexts(texts))}}, out...), nil
	case s.Type == "base64" && t.p.opts.FileParts:
		name := b.Title
		if name == "" {
			name = "document.pdf"
		}
		return []part{{Type: "file", File: &filePart{Name: name, Data: "data:" + s.MediaType + ";base64," + s.Data}}}, nil
	}
	what := s.MediaType
	if what == "" {
		what = "source type " + s.Type
	}
	if t.inResult {
		note := fmt.Sprintf("[A document%s (%s) was left out: this model's server takes documents as text alone.]", attr("title", b.Title), what)
		return []part{{Type: "text", Text: note}}, nil
	}
	return nil, t.p.side.Refuse("a document (%s) cannot be sent to this server: send its text, or set file_parts for this model if its server takes files", what)
}

func documentText(b block, text string) string {
	out := "<document" + attr("title", b.Title) + ">\n"
	if b.Context != "" {
		out += "<context>" + b.Context + "</context>\n"
	}
	return out + text + "\n</document>"
}

// attr writes a name and value as in XML, or nothing when the value is empty.
func attr(name, value string) string {
	if value == "" {
		return ""
	}
	return fmt.Sprintf(" %s=%q", name, value)
}

// texts joins the text of a string or of a list of blocks.
func (t *translator) texts(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var blocks []block
	_ = json.Unmarshal(raw, &blocks) // neither: no text
	var texts []string
	for _, b := range blocks {
		texts = append(texts, b.Text)
	}
	return joinTexts(texts)
}

func (t *translator) assistant(blocks []block) *model.Error {
	msg := chatMessage{Role: "assistant"}
	var texts, thoughts []string
	field := ""
	for _, b := range blocks {
		switch b.Type {
		case "text":
			texts = append(texts, b.Text)
		case "thinking":
			if b.Field != "" {
				field = b.Field
				thoughts = append(thoughts, b.Thinking)
			}
		case "redacted_thinking": // another provider's; nobody else can read it
		case "tool_use":
			var call chatCall
			call.ID, call.Type = b.ID, "function"
			call.Function.Name, call.Function.Arguments = b.Name, string(b.Input)
			if len(b.Input) == 0 {
				call.Function.Arguments = "{}"
			}
			msg.ToolCalls = append(msg.ToolCalls, call)
			t.used[b.ID] = true
		default:
			return t.p.side.Refuse("a block of type %s cannot be sent to an OpenAI-compatible server", b.Type)
		}
	}
	if field != "" {
		t.field = field
	}
	if text := joinTexts(texts); text != "" {
		msg.Content = text
	}
	if len(msg.ToolCalls) > 0 && len(thoughts) > 0 {
		msg.setReasoning(field, strings.Join(thoughts, "\n"))
	}
	if msg.Content == nil && len(msg.ToolCalls) == 0 {
		return nil // only thinking: nothing that may go back
	}
	t.out = append(t.out, msg)
	return nil
}

func (m *chatMessage) setReasoning(field, text string) {
	if field == reasoningShort {
		m.Reasoning = &text
	} else {
		m.ReasoningContent = &text
	}
}

// fillReasoning gives every turn that called tools the field, empty where there was no
// reasoning: servers that require it look for it in each of them.
func (t *translator) fillReasoning() {
	if t.field == "" {
		return
	}
	for i := range t.out {
		m := &t.out[i]
		if len(m.ToolCalls) > 0 && m.Reasoning == nil && m.ReasoningContent == nil {
			m.setReasoning(t.field, "")
		}
	}
}

// joinTexts joins what is not blank by empty lines.
func joinTexts(texts []string) string {
	kept := make([]string, 0, len(texts))
	for _, s := range texts {
		if strings.TrimSpace(s) != "" {
			kept = append(kept, s)
		}
	}
	return strings.Join(kept, "\n\n")
}
