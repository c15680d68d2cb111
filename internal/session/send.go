package session

import (
	"context"
	"encoding/json"
	"strings"

	"croft"
	"croft/internal/work"
)

// Actor is on whose behalf events are sent.
type Actor struct {
	Workspace string
	// WorkID and Claim are set when a worker sends under a session token: the lease it holds.
	WorkID string
	Claim  int64
}

// Send appends what a client sends, in order, all of it or nothing, and returns the events
// as the wire shows them: with processed_at null while they wait behind a running turn.
func (l *Log) Send(ctx context.Context, actor Actor, id string, inputs []Input) ([]json.RawMessage, error) {
	var answer []json.RawMessage
	err := l.apply(ctx, actor.Workspace, id, func(c *change) error {
		answer = nil
		return c.send(actor, inputs, "events", &answer)
	})
	return answer, err
}

// send applies inputs; path is the name of their list, for errors.
func (c *change) send(actor Actor, inputs []Input, path string, answer *[]json.RawMessage) error {
	if c.row.status == croft.StatusTerminated {
		return croft.Errorf(croft.InvalidRequest, "session %q is terminated: it takes no more events", c.row.id)
	}
	ids := make([]string, len(inputs))
	at := make([]int, len(inputs)) // 1 + place in c.events, for those processed here
	for i := range inputs {
		ids[i] = croft.NewID(croft.PrefixEvent)
		if err := c.take(actor, inputs, i, ids[i], path); err != nil {
			return err
		}
	}
	if err := c.advance(); err != nil {
		return err
	}
	for i := range c.events {
		for j := range ids {
			if c.events[i].ID == ids[j] {
				at[j] = i + 1
			}
		}
	}
	for j := range inputs {
		if at[j] > 0 {
			*answer = append(*answer, c.events[at[j]-1].Payload)
		} else {
			*answer = append(*answer, processedAt(withID(inputs[j].Payload, ids[j]), 0))
		}
	}
	if c.l.runner != nil && len(c.runs) > 0 && !c.l.runner.Admit() {
		return croft.Errorf(croft.Overloaded, "this server runs as many turns as it may; try again")
	}
	return nil
}

// take applies one input.
func (c *change) take(actor Actor, inputs []Input, i int, id, path string) error {
	in := &inputs[i]
	path = path + "." + itoa(i)
	th := c.primary()
	q := queued{id: id, typ: in.Type, payload: withID(in.Payload, id)}
	switch in.Type {
	case croft.UserMessage, croft.SystemMessage:
		if actor.WorkID != "" {
			return croft.Errorf(croft.Permission, "%s: a session token may send user.tool_result alone", path)
		}
		if c.st.atCap(c.now) {
			return croft.Invalid(path, "the session has reached its budget; it takes user.tool_confirmation, user.tool_result, user.custom_tool_result and user.interrupt alone until the budget is raised or removed")
		}
		if in.Type == croft.SystemMessage {
			if err := c.mayGuide(inputs, i, path); err != nil {
				return err
			}
		}
		c.queue = append(c.queue, q)
		c.fresh++
		return nil
	case croft.UserInterrupt:
		if in.ThreadID != "" && in.ThreadID != th.ID {
			return croft.Invalid(path+".session_thread_id", "thread %q was not found in this session", in.ThreadID)
		}
		c.emitInput(q)
		return c.interrupt(th)
	case croft.UserToolConfirmation:
		return c.confirm(in, q, path)
	case croft.UserCustomToolResult:
		th, k := c.st.openCall(in.ToolUseID)
		if k < 0 || th.Calls[k].Type != croft.AgentCustomToolUse {
			return unknownCall(path+".custom_tool_use_id", in.ToolUseID, "an agent.custom_tool_use that waits for its result")
		}
		c.emitInput(q)
		c.settle(th, k)
		return nil
	case croft.UserToolResult:
		return c.toolResult(actor, in, q, path)
	}
	return croft.Invalid(path+".type", "%s is not served by this version of Croft", in.Type)
}

func unknownCall(path, id, want string) error {
	return croft.Invalid(path, "%q names no open call of this session: accepted is the id of %s", id, want)
}

// mayGuide checks a system.message against the model and the session's state.
func (c *change) mayGuide(inputs []Input, i int, path string) error {
	var text string
	if err := c.tx.QueryRow(`SELECT agent FROM sessions WHERE id = $1`, c.row.id).Scan(&text); err != nil {
		return err
	}
	var agent croft.SessionAgent
	if err := json.Unmarshal([]byte(text), &agent); err != nil {
		return err
	}
	if m, err := c.l.models.Model(agent.Model.ID); err == nil && !m.SystemMidway {
		return croft.Invalid(path, "model_does_not_support_mid_conversation_system: the agent's model %q takes no system messages in mid-conversation", agent.Model.ID)
	}
	th := c.primary()
	blocked := false
	for k := range th.Calls {
		blocked = blocked || th.Calls[k].blocking()
	}
	if c.row.status == croft.StatusIdle && blocked {
		if i == 0 || !strings.HasSuffix(string(inputs[i-1].Type), "tool_result") {
			return croft.Invalid(path, "while the session waits at requires_action a system.message is accepted only right behind a tool result in the same request")
		}
	}
	return nil
}

// confirm answers an ask.
func (c *change) confirm(in *Input, q queued, path string) error {
	th, k := c.st.openCall(in.ToolUseID)
	if k < 0 || th.Calls[k].Status != callAsking {
		return unknownCall(path+".tool_use_id", in.ToolUseID, "a tool use that waits for a confirmation")
	}
	c.emitInput(q)
	c.touched = true
	if in.Allow {
		th.Calls[k].Status = callApproved
		return nil
	}
	text := "The user rejected this call; it was not run."
	if in.DenyMessage != "" {
		text += " They said: " + in.DenyMessage
	}
	c.fail(th, k, text)
	return nil
}

// toolResult settles a call that a worker ran.
func (c *change) toolResult(actor Actor, in *Input, q queued, path string) error {
	th, k := c.st.openCall(in.ToolUseID)
	const want = "an agent.tool_use that waits for its result"
	if k < 0 || th.Calls[k].Type != croft.AgentToolUse {
		return unknownCall(path+".tool_use_id", in.ToolUseID, want)
	}
	switch th.Calls[k].Status {
	case callFleet:
		w := c.st.Work
		if actor.WorkID == "" {
			return croft.Invalid(path+".type", "the tools of a cloud environment are run by the fleet: accepted here are results of custom tools (user.custom_tool_result)")
		}
		if w == nil || w.ID != actor.WorkID || w.Claim != actor.Claim {
			return croft.Errorf(croft.Authentication, "the lease of this session token is lost")
		}
		if w.Lost {
			w.Lost = false
			if err := work.Progress(c.tx, w.ID); err != nil {
				return err
			}
		}
		content, err := json.Marshal(in.Content)
		if err != nil {
			return err
		}
		if in.Content == nil {
			content = []byte("[]")
		}
		flag := "false"
		if in.IsError {
			flag = "true"
		}
		c.emit(croft.AgentToolResult, th, q.id, "tool_use_id", quote(in.ToolUseID), "content", string(content), "is_error", flag)
	case callClient:
		c.emitInput(q)
	default:
		return unknownCall(path+".tool_use_id", in.ToolUseID, want+" (this one waits for a user.tool_confirmation)")
	}
	c.settle(th, k)
	return nil
}

// withID returns a copy of an input's object with its id first.
func withID(object json.RawMessage, id string) json.RawMessage {
	out := make([]byte, 0, len(object)+len(id)+10)
	out = append(out, `{"id":"`...)
	out = append(out, id...)
	out = append(out, `",`...)
	return append(out, object[1:]...)
}
