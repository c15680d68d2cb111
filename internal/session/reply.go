package session

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"croft"
	"croft/internal/model"
)

// Verdict is what a policy says of a tool call.
type Verdict string

// The verdicts.
const (
	VerdictAllow  Verdict = "allow"
	VerdictAsk    Verdict = "ask"
	VerdictClient Verdict = "client" // a custom tool
	VerdictRefuse Verdict = "refuse" // settled at once with Reason: no such tool, or switched off
)

// Part is one event of a reply, in the model's order.
type Part struct {
	// Type is agent.message, agent.thinking, agent.tool_use or agent.custom_tool_use.
	Type croft.EventType
	// ID is the event's id, given ahead because previews carried it; "" makes one.
	ID string
	// Content is the text blocks of a message.
	Content []json.RawMessage
	// ToolUseID is the model's own id of the call.
	ToolUseID string
	Name      string
	Input     json.RawMessage
	Verdict   Verdict
	Reason    string
}

// RawTurn is what is kept beside a span.model_request_end: the assistant's turn as the
// model gave it, and which events its calls became.
type RawTurn struct {
	Content []json.RawMessage `json:"content"`
	// Calls maps the model's tool_use ids to event ids.
	Calls map[string]string `json:"calls,omitempty"`
}

// Reply is a model's whole answer to a request.
type Reply struct {
	Parts       []Part
	Content     []json.RawMessage // as it goes back to the model; empty: nothing is kept
	StopReason  string            // as in package model
	StopDetails json.RawMessage
	Usage       model.Usage
	// Nanos is the request's list cost in billionths of a dollar; nil when unpriced.
	Nanos *int64
}

// applyFenced is apply for the loop: it fails with ErrFenced when the fence is stale.
func (l *Log) applyFenced(ctx context.Context, id string, f Fence, fn func(*change, *thread) error) error {
	err := l.apply(ctx, "", id, func(c *change) error {
		if c.row.owner != l.db.Incarnation() || c.row.epoch != f.Epoch {
			return ErrFenced
		}
		for i := range c.st.Threads {
			if th := &c.st.Threads[i]; th.ID == f.Thread && th.Span == f.Span {
				return fn(c, th)
			}
		}
		return ErrFenced
	})
	if croft.IsType(err, croft.NotFound) {
		return ErrFenced // deleted
	}
	return err
}

// Reply appends a model's answer and moves the session on: to its calls, to the next
// request, or to rest.
func (l *Log) Reply(ctx context.Context, id string, f Fence, r Reply) error {
	return l.applyFenced(ctx, id, f, func(c *change, th *thread) error { return c.reply(th, r) })
}

func (c *change) reply(th *thread, r Reply) error {
	c.st.Usage.add(r.Usage, r.Nanos)
	th.Attempt = 0
	raw := RawTurn{Content: r.Content, Calls: map[string]string{}}
	var refused []int
	for i := range r.Parts {
		p := &r.Parts[i]
		switch p.Type {
		case croft.AgentMessage:
			content, err := json.Marshal(p.Content)
			if err != nil {
				return fmt.Errorf("writing a message: %w", err)
			}
			c.emit(croft.AgentMessage, th, p.ID, "content", string(content))
		case croft.AgentThinking:
			c.emit(croft.AgentThinking, th, p.ID)
		default:
			raw.Calls[p.ToolUseID] = c.emitUse(th, p)
			if p.Verdict == VerdictRefuse {
				refused = append(refused, i)
			}
		}
	}
	var kept json.RawMessage
	if len(r.Content) > 0 {
		b, err := json.Marshal(raw)
		if err != nil {
			return fmt.Errorf("writing the assistant's turn: %w", err)
		}
		kept = b
	}
	usage := croft.ModelUsage{InputTokens: r.Usage.InputTokens, OutputTokens: r.Usage.OutputTokens,
		CacheReadInputTokens: r.Usage.CacheReadInputTokens, CacheCreationInputTokens: r.Usage.CacheCreation5m + r.Usage.CacheCreate1h}
	if r.Usage.Speed != "" {
		usage.Speed = &r.Usage.Speed
	}
	c.endSpan(th, false, usage, kept)
	for _, i := range refused {
		p := &r.Parts[i]
		if t, k := c.st.openCall(raw.Calls[p.ToolUseID]); k >= 0 {
			c.fail(t, k, p.Reason)
		}
	}
	for i := range th.Calls {
		if th.Calls[i].Status == callFleet {
			if err := c.dispatch(&th.Calls[i]); err != nil {
				return err
			}
		}
	}
	switch {
	case len(raw.Calls) > 0:
		th.Phase = phaseTools
		if err := c.ensureWork(th); err != nil {
			return err
		}
		return c.advance()
	case r.StopReason == model.StopPauseTurn && len(r.Content) > 0:
		return c.request(th)
	case r.StopReason == model.StopRefusal:
		th.Phase = phaseIdle
		c.idle(th, stopReason(croft.StopRefusal), string(r.StopDetails))
		return c.advance()
	}
	// Messages that came meanwhile go on in the same turn.
	if c.st.Queued > 0 {
		if err := c.loadQueue(); err != nil {
			return err
		}
		for _, q := range c.queue {
			if q.typ == croft.UserMessage {
				return c.request(th)
			}
		}
	}
	th.Phase = phaseIdle
	if c.st.atCap(c.now) {
		c.endAtCap(th)
		return c.advance()
	}
	c.idle(th, stopReason(croft.StopEndTurn), "")
	return c.advance()
}

// endAtCap is the end of a turn whose last request crossed the budget: the thread has
// ended its turn, the session reports the pause.
func (c *change) endAtCap(th *thread) {
	c.rest()
	c.row.status = croft.StatusIdle
	c.emit(croft.ThreadIdle, th, "", "session_thread_id", quote(th.ID), "agent_name", quote(th.Agent), "stop_reason", stopReason(croft.StopEndTurn), "stop_details", "null")
	c.emitUsage(th)
	c.emit(croft.SessionIdle, th, "", "stop_reason", stopReason(croft.StopBudgetReached), "stop_details", "null")
}

// emitUse adds a tool use event and opens its call.
func (c *change) emitUse(th *thread, p *Part) string {
	if p.Type == croft.AgentCustomToolUse {
		id := c.emit(croft.AgentCustomToolUse, th, p.ID, "name", quote(p.Name), "input", string(p.Input))
		th.Calls = append(th.Calls, call{ID: id, Type: p.Type, Name: p.Name, Status: callClient})
		return id
	}
	permission, evaluation, status := "allow", croft.AlwaysAllow, callFleet
	switch {
	case p.Verdict == VerdictAsk:
		permission, evaluation, status = "ask", croft.AlwaysAsk, callAsking
	case p.Verdict == VerdictRefuse:
		permission = "deny"
		status = callAsking // settled in the same append
	case c.row.kind == croft.EnvironmentSelfHosted:
		status = callClient
	}
	fields := []string{"name", quote(p.Name), "input", string(p.Input), "evaluated_permission", quote(permission)}
	if p.Verdict != VerdictRefuse {
		fields = append(fields, "evaluation", `{"type":"`+evaluation+`"}`)
	}
	id := c.emit(croft.AgentToolUse, th, p.ID, fields...)
	th.Calls = append(th.Calls, call{ID: id, Type: p.Type, Name: p.Name, Status: status})
	return id
}

// longestWait bounds what a provider may ask a session to wait.
const longestWait = time.Hour

// Fault is a model request that failed.
type Fault struct {
	Kind    model.ErrorKind
	Message string // fit for the session's owner
	// Retry tells whether the request may succeed later; RetryAfter is the wait that the
	// provider asked for, Backoff the one that the loop chose when it did not.
	Retry               bool
	RetryAfter, Backoff time.Duration
}

// Fault appends a failed model request: another try is set, or the turn ends.
func (l *Log) Fault(ctx context.Context, id string, f Fence, flt Fault) error {
	return l.applyFenced(ctx, id, f, func(c *change, th *thread) error {
		c.endSpan(th, true, croft.ModelUsage{}, nil)
		th.Attempt++
		status := "terminal"
		switch {
		case flt.Retry && th.Attempt < l.retries:
			status = "retrying"
		case flt.Retry:
			status = "exhausted"
		}
		c.emit(croft.SessionError, th, "", "error",
			`{"type":`+quote(string(flt.Kind))+`,"message":`+quote(flt.Message)+`,"retry_status":{"type":"`+status+`"}}`)
		if status == "retrying" {
			wait := flt.Backoff
			if flt.RetryAfter > 0 {
				wait = min(flt.RetryAfter, longestWait)
			}
			c.rest()
			th.Phase = phaseRetry
			c.row.status = croft.StatusRescheduling
			c.row.wakeAt = c.now.Add(wait)
			c.emit(croft.SessionRescheduled, th, "")
			c.emit(croft.ThreadRescheduled, th, "", "session_thread_id", quote(th.ID), "agent_name", quote(th.Agent))
			return nil
		}
		th.Phase, th.Attempt = phaseIdle, 0
		c.idle(th, stopReason(croft.StopRetriesExhausted), "")
		return c.advance() // what queued behind the turn begins the next one
	})
}
