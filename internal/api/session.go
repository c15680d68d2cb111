package api

import (
	"context"
	"encoding/json"
	"slices"

	"croft"
	"croft/internal/access"
	"croft/internal/session"
	"croft/internal/sse"
)

// Sessions is the log: sessions, their events and their threads. *session.Log is one.
type Sessions interface {
	sessionResource
	sessionEvents
	sessionThreads
}

type sessionResource interface {
	Create(ctx context.Context, workspace string, in *session.CreateInput) (*croft.Session, error)
	Get(ctx context.Context, workspace, id string) (*croft.Session, error)
	List(ctx context.Context, workspace string, q session.ListQuery) (*session.List, error)
	Update(ctx context.Context, workspace, id string, in *session.UpdateInput) (*croft.Session, error)
	Archive(ctx context.Context, workspace, id string) (*croft.Session, error)
	Delete(ctx context.Context, workspace, id string) error
}

type sessionEvents interface {
	Send(ctx context.Context, actor session.Actor, id string, events []session.Input) ([]json.RawMessage, error)
	Events(ctx context.Context, workspace, id string, q session.EventsQuery) (*session.EventPage, error)
	Tail(ctx context.Context, workspace, id string, q session.TailQuery) (*session.Tail, error)
}

type sessionThreads interface {
	Thread(ctx context.Context, workspace, id, threadID string) (json.RawMessage, error)
	Threads(ctx context.Context, workspace, id string) ([]json.RawMessage, error)
}

func (a *API) createSession(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	in, err := session.ParseCreate(body)
	if err != nil {
		return err
	}
	s, err := a.sessions.Create(c.ctx, c.workspace(), in)
	if err != nil {
		return err
	}
	return c.reply(s)
}

func (a *API) getSession(c *call) error {
	s, err := a.sessions.Get(c.ctx, c.workspace(), c.param("session_id"))
	if err != nil {
		return err
	}
	return c.reply(s)
}

func (a *API) listSessions(c *call) error {
	q := &c.query
	in := session.ListQuery{
		AgentID:         q.text("agent_id"),
		AgentVersion:    q.number("agent_version", 1<<53),
		CreatedGt:       q.time("created_at[gt]"),
		CreatedGte:      q.time("created_at[gte]"),
		CreatedLt:       q.time("created_at[lt]"),
		CreatedLte:      q.time("created_at[lte]"),
		DeploymentID:    q.text("deployment_id"),
		MemoryStoreID:   q.text("memory_store_id"),
		IncludeArchived: q.boolean("include_archived"),
		Statuses:        typed[croft.SessionStatus](q.list("statuses", len(statuses), statuses...)),
		Limit:           q.limit(100),
		Order:           q.choice("order", "asc", "desc"),
		Page:            q.text("page"),
	}
	if err := q.err(); err != nil {
		return err
	}
	list, err := a.sessions.List(c.ctx, c.workspace(), in)
	if err != nil {
		return err
	}
	return c.reply(list)
}

// statuses are what a list can be narrowed to.
var statuses = []string{string(croft.StatusIdle), string(croft.StatusRunning), string(croft.StatusRescheduling), string(croft.StatusTerminated)}

// typed gives strings their type.
func typed[T ~string](values []string) []T {
	if len(values) == 0 {
		return nil
	}
	out := make([]T, len(values))
	for i, v := range values {
		out[i] = T(v)
	}
	return out
}

func (a *API) updateSession(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	in, err := session.ParseUpdate(body)
	if err != nil {
		return err
	}
	s, err := a.sessions.Update(c.ctx, c.workspace(), c.param("session_id"), in)
	if err != nil {
		return err
	}
	return c.reply(s)
}

func (a *API) archiveSession(c *call) error {
	s, err := a.sessions.Archive(c.ctx, c.workspace(), c.param("session_id"))
	if err != nil {
		return err
	}
	return c.reply(s)
}

// deleted is the answer to a delete.
type deleted struct {
	ID   string `json:"id"`
	Type string `json:"type"`
}

func (a *API) deleteSession(c *call) error {
	id := c.param("session_id")
	if err := a.sessions.Delete(c.ctx, c.workspace(), id); err != nil {
		return err
	}
	return c.reply(deleted{id, "session_deleted"})
}

func (a *API) sendEvents(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	events, err := session.ParseSend(body)
	if err != nil {
		return err
	}
	if c.who.Kind != access.API {
		for i := range events {
			// Who runs the tools must not be able to allow them, or to speak as the user.
			if t := events[i].Type; t != croft.UserToolResult && t != croft.UserCustomToolResult {
				return croft.Errorf(croft.Permission, "%s may send user.tool_result and user.custom_tool_result, not %s", kinds[c.who.Kind].name, t)
			}
		}
	}
	actor := session.Actor{Workspace: c.workspace(), WorkID: c.who.WorkID, Claim: c.who.Claim}
	stored, err := a.sessions.Send(c.ctx, actor, c.param("session_id"), events)
	if err != nil {
		return err
	}
	return c.replyData(stored)
}

func (a *API) listEvents(c *call) error {
	q := &c.query
	in := session.EventsQuery{
		Order:      q.choice("order", "asc", "desc"),
		Types:      typed[croft.EventType](q.list("types", 100)),
		ThreadID:   c.param("thread_id"),
		CreatedGt:  q.time("created_at[gt]"),
		CreatedGte: q.time("created_at[gte]"),
		CreatedLt:  q.time("created_at[lt]"),
		CreatedLte: q.time("created_at[lte]"),
		Limit:      q.limit(1000),
		Page:       q.text("page"),
	}
	if err := q.err(); err != nil {
		return err
	}
	page, err := a.sessions.Events(c.ctx, c.workspace(), c.param("session_id"), in)
	if err != nil {
		return err
	}
	return c.replyPage(page.Data, page.NextPage)
}

// streamEvents follows a session, or one of its threads.
func (a *API) streamEvents(c *call) error {
	in := session.TailQuery{
		After:  c.r.Header.Get("Last-Event-Id"),
		Deltas: typed[croft.EventType](c.query.list("event_deltas", 100, string(croft.AgentMessage), string(croft.AgentThinking))),
		Thread: c.param("thread_id"),
	}
	if err := c.query.err(); err != nil {
		return err
	}
	tail, err := a.sessions.Tail(c.ctx, c.workspace(), c.param("session_id"), in)
	if err != nil {
		return err
	}
	return a.streams.Serve(c, c.r, tailSource{tail})
}

// tailSource is a tail as sse reads it. It holds nothing of the request.
type tailSource struct{ *session.Tail }

func (t tailSource) Poll(ctx context.Context) ([]sse.Frame, error) {
	frames, err := t.Tail.Poll(ctx)
	if len(frames) == 0 {
		return nil, err
	}
	out := make([]sse.Frame, len(frames))
	for i := range frames {
		out[i] = sse.Frame{ID: frames[i].ID, Event: string(frames[i].Type), Data: frames[i].Data}
	}
	return out, err
}

func (a *API) getThread(c *call) error {
	t, err := a.sessions.Thread(c.ctx, c.workspace(), c.param("session_id"), c.param("thread_id"))
	if err != nil {
		return err
	}
	c.answer = t
	return nil
}

// listThreads lists a session's threads, all on one page: there are at most 25 that live.
func (a *API) listThreads(c *call) error {
	wanted := c.query.list("statuses", len(statuses), statuses...)
	c.query.limit(1000)
	if c.query.text("page") != "" {
		c.query.bad("page", "is no cursor of this list, which has one page")
	}
	if err := c.query.err(); err != nil {
		return err
	}
	all, err := a.sessions.Threads(c.ctx, c.workspace(), c.param("session_id"))
	if err != nil {
		return err
	}
	kept := all[:0:0]
	for _, t := range all {
		var head struct{ Status string }
		if err := json.Unmarshal(t, &head); err != nil {
			return err
		}
		if len(wanted) == 0 || slices.Contains(wanted, head.Status) {
			kept = append(kept, t)
		}
	}
	return c.replyPage(kept, nil)
}
