// Package prompt turns a session's log into the conversation that a model is asked with.
// It holds no state of its own beyond a Conversation, which can be extended as the log
// grows. It imports the language and the shapes of model and session; the brain calls it.
package prompt

import (
	"encoding/json"
	"fmt"

	"croft"
	"croft/internal/model"
	"croft/internal/session"
)

// Conversation is the fold of a thread's log into messages.
type Conversation struct {
	messages []model.Message
	// calls maps the event id of a tool use to the model's id of the call.
	calls map[string]string
	// open are the model's ids of the last assistant turn's calls that have no result yet.
	open []string
	seq  int64
	size int
}

// New returns an empty conversation.
func New() *Conversation { return &Conversation{calls: map[string]string{}} }

// Seq is the last event that was added.
func (c *Conversation) Seq() int64 { return c.seq }

// Size is about how many bytes the conversation holds.
func (c *Conversation) Size() int { return c.size }

// Messages returns the conversation for a request. The slices are the conversation's own:
// a provider must not change them. No tool use is without its result, whatever the log holds.
func (c *Conversation) Messages() []model.Message {
	if len(c.open) == 0 {
		return c.messages[:len(c.messages):len(c.messages)]
	}
	// The log settles every call before the next request; this holds even where an
	// older version or a hand-made log did not.
	out := append([]model.Message(nil), c.messages...)
	var results []json.RawMessage
	for _, id := range c.open {
		results = append(results, result(id, json.RawMessage(`[{"type":"text","text":"This call was never answered."}]`), true))
	}
	if n := len(out); n > 0 && out[n-1].Role == "user" {
		out[n-1].Content = append(append([]json.RawMessage(nil), results...), out[n-1].Content...)
	} else {
		out = append(out, model.Message{Role: "user", Content: results})
	}
	return out
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
		c.push(model.Message{Role: "system", Content: content})
	case croft.ModelRequestEnd:
		if e.Raw == nil {
			return nil
		}
		var turn session.RawTurn
		if err := json.Unmarshal(e.Raw, &turn); err != nil {
			return fmt.Errorf("reading the assistant's turn of event %s: %w", e.ID, err)
		}
		for id, event := range turn.Calls {
			c.calls[event] = id
		}
		c.open = c.open[:0]
		for _, b := range turn.Content {
			var block struct {
				Type string `json:"type"`
				ID   string `json:"id"`
			}
			if err := json.Unmarshal(b, &block); err == nil && block.Type == "tool_use" {
				c.open = append(c.open, block.ID)
			}
		}
		c.push(model.Message{Role: "assistant", Content: turn.Content})
	case croft.AgentToolResult, croft.UserToolResult, croft.UserCustomToolResult, croft.AgentMCPToolResult:
		return c.result(e)
	}
	return nil
}

func (c *Conversation) push(m model.Message) {
	for _, b := range m.Content {
		c.size += len(b)
	}
	c.messages = append(c.messages, m)
}

// user adds blocks to the user's turn; turns that follow one another are one.
func (c *Conversation) user(blocks []json.RawMessage) {
	if n := len(c.messages); n > 0 && c.messages[n-1].Role == "user" {
		for _, b := range blocks {
			c.size += len(b)
		}
		last := &c.messages[n-1]
		last.Content = append(last.Content[:len(last.Content):len(last.Content)], blocks...)
		return
	}
	c.push(model.Message{Role: "user", Content: blocks})
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

// result adds a tool's result in front of whatever else the user's turn holds.
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
	event := r.ToolUseID + r.CustomToolUseID + r.MCPToolUseID
	id, ok := c.calls[event]
	if !ok {
		return nil // of a turn that was not kept
	}
	for i, o := range c.open {
		if o == id {
			c.open = append(c.open[:i:i], c.open[i+1:]...)
			break
		}
	}
	c.user([]json.RawMessage{result(id, r.Content, r.IsError)})
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
