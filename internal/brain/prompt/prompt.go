// Package prompt turns a session's log into the conversation that a model is asked with.
// It holds no state of its own beyond a Conversation, which can be extended as the log
// grows. It imports the language and the shapes of model and session; the brain calls it.
package prompt

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"croft"
	"croft/internal/model"
	"croft/internal/session"
)

// Conversation is the fold of a thread's log into messages. Whatever the log holds, each
// tool_use has its tool_result in the turn right behind it, no two user turns follow one
// another, and no turn is empty.
type Conversation struct {
	messages []model.Message
	// calls maps the event ids of the last assistant turn's calls to the model's ids. No
	// earlier call can still be answered.
	calls map[string]string
	// open are the model's ids of those that have no result yet.
	open []string
	// answered is how many results the user turn behind them begins with.
	answered int
	seq      int64
	size     int
}

// New returns an empty conversation.
func New() *Conversation { return &Conversation{} }

// Seq is the last event that was added.
func (c *Conversation) Seq() int64 { return c.seq }

// Size is about how many bytes the conversation holds.
func (c *Conversation) Size() int { return c.size }

// Messages returns the conversation for a request. It stays as it is when more is added;
// the blocks are shared, and a provider must not change them.
func (c *Conversation) Messages() []model.Message {
	out := *c
	out.messages = slices.Clone(c.messages)
	out.close()
	return out.messages
}

// close answers the open calls. The log settles every call before the next request; this
// holds even where an older version or a hand-made log did not.
func (c *Conversation) close() {
	for _, id := range c.open {
		c.answer(result(id, json.RawMessage(`[{"type":"text","text":"This call was never answered."}]`), true))
	}
	c.open, c.calls = nil, nil
}

// Add folds one event. Events must come in the order of the log.
func (c *Conversation) Add(e *croft.Event) error {
	c.seq = e.Seq
	switch e.Type {
	case croft.UserMessage:
		content, err := contentOf(e)
		if err != nil {
			return err
		}
		c.user(content)
	case croft.SystemMessage:
		content, err := contentOf(e)
		if err != nil {
			return err
		}
		if len(content) > 0 {
			c.close()
			c.push(model.Message{Role: "system", Content: content})
		}
	case croft.ModelRequestEnd:
		return c.assistant(e)
	case croft.AgentToolResult, croft.UserToolResult, croft.UserCustomToolResult, croft.AgentMCPToolResult:
		return c.result(e)
	}
	return nil
}

// block is what must be known of an assistant's block.
type block struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Text string `json:"text"`
}

// assistant adds the turn that is kept beside the end of a model request.
func (c *Conversation) assistant(e *croft.Event) error {
	if e.Raw == nil {
		return nil
	}
	var turn session.RawTurn
	if err := json.Unmarshal(e.Raw, &turn); err != nil {
		return fmt.Errorf("reading the assistant's turn of event %s: %w", e.ID, err)
	}
	blocks := make([]block, len(turn.Content))
	for i, b := range turn.Content {
		if err := json.Unmarshal(b, &blocks[i]); err != nil {
			return fmt.Errorf("reading block %d of the assistant's turn of event %s: %w", i, e.ID, err)
		}
	}
	// A turn must not end in thinking: one that was cut there (max_tokens) loses it.
	n := len(blocks)
	for n > 0 && dangling(&blocks[n-1]) {
		n--
	}
	if n == 0 {
		return nil
	}
	c.close()
	c.calls, c.answered = make(map[string]string, len(turn.Calls)), 0
	for id, event := range turn.Calls {
		c.calls[event] = id
	}
	for _, b := range blocks[:n] {
		if b.Type == "tool_use" && !slices.Contains(c.open, b.ID) {
			c.open = append(c.open, b.ID)
		}
	}
	c.push(model.Message{Role: "assistant", Content: turn.Content[:n:n]})
	return nil
}

// dangling tells whether no turn may end with the block.
func dangling(b *block) bool {
	switch b.Type {
	case "thinking", "redacted_thinking":
		return true
	case "text":
		return strings.TrimSpace(b.Text) == ""
	}
	return false
}

func (c *Conversation) push(m model.Message) {
	for _, b := range m.Content {
		c.size += len(b)
	}
	c.messages = append(c.messages, m)
}

// user adds blocks to the user's turn; turns that follow one another are one.
func (c *Conversation) user(blocks []json.RawMessage) {
	if len(blocks) == 0 {
		return
	}
	if n := len(c.messages); n > 0 && c.messages[n-1].Role == "user" {
		c.insert(len(c.messages[n-1].Content), blocks)
		return
	}
	c.push(model.Message{Role: "user", Content: blocks})
}

// answer adds a result behind the results and in front of whatever else the user's turn
// holds, as the model demands.
func (c *Conversation) answer(result json.RawMessage) {
	blocks := []json.RawMessage{result}
	if n := len(c.messages); n > 0 && c.messages[n-1].Role == "user" {
		c.insert(c.answered, blocks)
	} else {
		c.push(model.Message{Role: "user", Content: blocks})
	}
	c.answered++
}

// insert adds blocks to the last turn. The turn's slice is never written to: a request may
// still read it.
func (c *Conversation) insert(at int, blocks []json.RawMessage) {
	for _, b := range blocks {
		c.size += len(b)
	}
	last := &c.messages[len(c.messages)-1]
	last.Content = slices.Insert(slices.Clip(last.Content), at, blocks...)
}

func contentOf(e *croft.Event) ([]json.RawMessage, error) {
	var m struct {
		Content []json.RawMessage `json:"content"`
	}
	if err := json.Unmarshal(e.Payload, &m); err != nil {
		return nil, fmt.Errorf("reading event %s: %w", e.ID, err)
	}
	return m.Content, nil
}

// result adds a tool's result. One that answers no open call of the last assistant turn (a
// second one, or one of a turn that was not kept) is left out.
func (c *Conversation) result(e *croft.Event) error {
	var r struct {
		ToolUseID       string          `json:"tool_use_id"`
		CustomToolUseID string          `json:"custom_tool_use_id"`
		MCPToolUseID    string          `json:"mcp_tool_use_id"`
		Content         json.RawMessage `json:"content"`
		IsError         bool            `json:"is_error"`
	}
	if err := json.Unmarshal(e.Payload, &r); err != nil {
		return fmt.Errorf("reading event %s: %w", e.ID, err)
	}
	id, ok := c.calls[r.ToolUseID+r.CustomToolUseID+r.MCPToolUseID]
	i := slices.Index(c.open, id)
	if !ok || i < 0 {
		return nil
	}
	c.open = slices.Delete(slices.Clone(c.open), i, i+1)
	c.answer(result(id, r.Content, r.IsError))
	return nil
}

func result(id string, content json.RawMessage, isError bool) json.RawMessage {
	if len(content) == 0 {
		content = json.RawMessage("[]")
	}
	b, err := json.Marshal(struct {
		Type      string          `json:"type"`
		ToolUseID string          `json:"tool_use_id"`
		Content   json.RawMessage `json:"content"`
		IsError   bool            `json:"is_error,omitempty"`
	}{"tool_result", id, content, isError})
	if err != nil {
		// The content was valid JSON when it was stored.
		return json.RawMessage(`{"type":"tool_result","tool_use_id":` + fmt.Sprintf("%q", id) + `,"content":[]}`)
	}
	return b
}
