package session

import (
	"encoding/json"
	"fmt"
	"strings"

	"croft"
	"croft/internal/work"
)

// advance moves the primary thread on as far as it can go without anybody's answer. Every
// append that settles or queues something ends with it.
func (c *change) advance() error {
	th := c.primary()
	switch th.Phase {
	case phaseIdle:
		if err := c.loadQueue(); err != nil {
			return err
		}
		for _, q := range c.queue {
			if q.typ == croft.UserMessage {
				return c.request(th)
			}
		}
		// Guidance alone starts no turn: it goes into the log and waits there.
		return c.takeQueue()
	case phaseTools:
		return c.advanceTools(th)
	default:
		return nil
	}
}

// advanceTools looks at what is still open in a turn with tool calls.
func (c *change) advanceTools(th *thread) error {
	if len(th.Calls) == 0 {
		return c.request(th)
	}
	blocking, held, running := 0, 0, 0
	for i := range th.Calls {
		switch {
		case th.Calls[i].blocking():
			blocking++
		case th.Calls[i].Status == callApproved:
			held++
		default:
			running++
		}
	}
	switch {
	case blocking == 0 && held > 0:
		c.run(th)
		for i := range th.Calls {
			if th.Calls[i].Status == callApproved {
				if err := c.dispatch(&th.Calls[i]); err != nil {
					return err
				}
			}
		}
		return c.ensureWork(th)
	case blocking == 0:
		return nil
	case running > 0:
		return nil // the session goes idle when they are done
	case c.row.status == croft.StatusIdle && len(c.events) == 0:
		return nil // what came has queued; the session has said already what it waits for
	default:
		var ids []string
		for i := range th.Calls {
			if th.Calls[i].blocking() {
				ids = append(ids, th.Calls[i].ID)
			}
		}
		c.idle(th, requiresAction(ids), "")
		return nil
	}
}

// run sets the session running.
func (c *change) run(th *thread) {
	c.touched = true
	if c.row.status == croft.StatusRunning {
		return
	}
	c.row.status = croft.StatusRunning
	c.row.wakeAt = 0
	c.st.Since = c.now
	c.emit(croft.SessionRunning, th, "")
	c.emit(croft.ThreadRunning, th, "", "session_thread_id", quote(th.ID), "agent_name", quote(th.Agent))
}

// rest ends the running stretch.
func (c *change) rest() {
	if c.st.Since != 0 {
		c.st.ActiveUS, c.st.Since = c.st.activeUS(c.now), 0
	}
}

// request takes up the inbox and begins the thread's next model request, unless the budget
// is used up. The process that commits it owns the session from then on.
func (c *change) request(th *thread) error {
	if err := c.takeQueue(); err != nil {
		return err
	}
	if c.st.atCap(c.now) {
		// What was in flight may settle, but nothing new may start.
		c.idle(th, stopReason(croft.StopBudgetReached), "")
		th.Phase = phasePaused
		return nil
	}
	c.run(th)
	c.beginSpan(th)
	return nil
}

// beginSpan opens the span of a model request and takes the ownership.
func (c *change) beginSpan(th *thread) {
	c.touched = true
	th.Phase = phaseModel
	th.Span = c.emit(croft.ModelRequestStart, th, "")
	if me := c.l.db.Incarnation(); c.row.owner != me {
		c.row.owner = me
		c.row.epoch++
	}
	c.runs = append(c.runs, Run{Session: c.row.id, Attempt: th.Attempt + 1, Config: c.st.Config,
		Fence: Fence{Epoch: c.row.epoch, Thread: th.ID, Span: th.Span}})
}

// endSpan closes the open span; a reply's payload is given by its usage.
func (c *change) endSpan(th *thread, isError bool, usage croft.ModelUsage, raw json.RawMessage) {
	u, err := json.Marshal(usage)
	if err != nil {
		u = []byte("null") // a struct of integers always marshals
	}
	flag := "false"
	if isError {
		flag = "true"
	}
	c.emit(croft.ModelRequestEnd, th, "", "model_request_start_id", quote(th.Span), "is_error", flag, "model_usage", string(u))
	c.events[len(c.events)-1].Raw = raw
	th.Span = ""
	c.release()
}

// release gives the ownership up when no thread needs it.
func (c *change) release() {
	for i := range c.st.Threads {
		if c.st.Threads[i].Span != "" {
			return
		}
	}
	c.row.owner = ""
}

// idle ends the turn, or pauses it, with a stop reason; refusal's details are raw JSON or "".
func (c *change) idle(th *thread, reason, details string) {
	c.touched = true
	if details == "" {
		details = "null"
	}
	c.rest()
	c.row.status = croft.StatusIdle
	c.emit(croft.ThreadIdle, th, "", "session_thread_id", quote(th.ID), "agent_name", quote(th.Agent), "stop_reason", reason, "stop_details", details)
	c.emitUsage(th)
	c.emit(croft.SessionIdle, th, "", "stop_reason", reason, "stop_details", details)
}

func (c *change) emitUsage(th *thread) {
	u, err := json.Marshal(c.st.usage(c.now))
	if err != nil {
		u = []byte("null")
	}
	b, err := json.Marshal(c.st.budget())
	if err != nil {
		b = []byte("null")
	}
	c.emit(croft.SessionUsage, th, "", "usage", string(u), "budget", string(b))
}

func stopReason(typ string) string { return `{"type":"` + typ + `"}` }

func requiresAction(ids []string) string {
	return `{"type":"` + croft.StopRequiresAction + `","event_ids":["` + strings.Join(ids, `","`) + `"]}`
}

// dispatch hands an allowed call to whoever runs it.
func (c *change) dispatch(k *call) error {
	if c.row.kind == croft.EnvironmentSelfHosted {
		k.Status = callClient
		return nil
	}
	k.Status = callFleet
	if w := c.st.Work; w != nil && w.Worker != "" {
		// The lease is live: the call is the holder's from this commit on.
		k.Worker = w.Worker
		input, err := c.input(k.ID)
		if err != nil {
			return err
		}
		c.calls = append(c.calls, work.Call{ID: k.ID, Name: k.Name, Input: input, FirstWorker: k.Worker})
	}
	return nil
}

// input finds the input of a tool use event, in this append or in the log.
func (c *change) input(id string) (json.RawMessage, error) {
	var payload json.RawMessage
	for i := range c.events {
		if c.events[i].ID == id {
			payload = c.events[i].Payload
		}
	}
	if payload == nil {
		var text string
		if err := c.tx.QueryRow(`SELECT payload FROM events WHERE id = $1`, id).Scan(&text); err != nil {
			return nil, fmt.Errorf("reading tool use %s: %w", id, err)
		}
		payload = json.RawMessage(text)
	}
	var use struct {
		Input json.RawMessage `json:"input"`
	}
	if err := json.Unmarshal(payload, &use); err != nil {
		return nil, fmt.Errorf("reading tool use %s: %w", id, err)
	}
	return use.Input, nil
}

// ensureWork offers the session's work when calls wait and nobody was told.
func (c *change) ensureWork(th *thread) error {
	if c.st.Work != nil || c.l.queue == nil {
		return nil
	}
	for i := range th.Calls {
		if th.Calls[i].Status != callFleet {
			continue
		}
		item, err := work.Insert(c.tx, c.row.workspace, c.row.environment, c.row.id)
		if err != nil {
			return err
		}
		c.st.Work = &lease{ID: item.ID}
		c.offer = item
		return nil
	}
	return nil
}

// settle removes an open call whose result was emitted.
func (c *change) settle(th *thread, i int) {
	c.touched = true
	th.Calls = append(th.Calls[:i:i], th.Calls[i+1:]...)
}

// fail settles an open call with an error result.
func (c *change) fail(th *thread, i int, text string) {
	k := th.Calls[i]
	content := `[{"type":"text","text":` + quote(text) + `}]`
	c.emitResult(th, k, content, true)
	c.settle(th, i)
}

// emitResult adds the result event that answers k.
func (c *change) emitResult(th *thread, k call, content string, isError bool) {
	flag := "false"
	if isError {
		flag = "true"
	}
	switch k.Type {
	case croft.AgentCustomToolUse:
		c.emit(croft.UserCustomToolResult, th, "", "custom_tool_use_id", quote(k.ID), "content", content, "is_error", flag)
	case croft.AgentMCPToolUse:
		c.emit(croft.AgentMCPToolResult, th, "", "mcp_tool_use_id", quote(k.ID), "content", content, "is_error", flag)
	default:
		typ := croft.AgentToolResult
		if c.row.kind == croft.EnvironmentSelfHosted && k.Status != callAsking {
			typ = croft.UserToolResult
		}
		c.emit(typ, th, "", "tool_use_id", quote(k.ID), "content", content, "is_error", flag)
	}
}

// interrupt stops whatever the thread does and ends its turn. It leaves a history that the
// next request can carry: each open call is settled with an error result.
func (c *change) interrupt(th *thread) error {
	switch th.Phase {
	case phaseIdle, phaseEnded:
		return nil
	case phaseModel:
		c.cancels = append(c.cancels, th.Span)
		c.endSpan(th, true, croft.ModelUsage{}, nil)
	}
	for len(th.Calls) > 0 {
		if th.Calls[0].Status == callFleet {
			c.stops = append(c.stops, th.Calls[0].ID)
		}
		c.fail(th, 0, "The user interrupted the turn before this call was answered. It may have had effects.")
	}
	th.Phase, th.Attempt = phaseIdle, 0
	c.row.wakeAt = 0
	c.idle(th, stopReason(croft.StopEndTurn), "")
	return nil
}
