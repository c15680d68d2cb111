package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/agents"
	"croft/internal/model"
	"croft/internal/session"
	"croft/internal/store"
	"croft/internal/store/storetest"
	"croft/internal/work"
)

const ws, env = "wrkspc_test", "env_test"

// runner keeps the runs that the log asks for.
type runner struct {
	runs    chan session.Run
	mu      sync.Mutex
	cancels []string
	full    bool
}

func (r *runner) Run(run session.Run) { r.runs <- run }
func (r *runner) Cancel(_, span string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancels = append(r.cancels, span)
}
func (r *runner) Admit() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.full
}

// fixed is the one agent, environment and model of these tests.
type fixed struct{ kind string }

func (f fixed) Resolve(_ *store.Tx, _ string, ref agents.Ref) (*croft.SessionAgent, error) {
	return &croft.SessionAgent{ID: ref.ID, Type: "agent", Name: "tester", Version: 1, Model: croft.ModelConfig{ID: "m"},
		Tools: []croft.Tool{}, MCPServers: []croft.MCPServer{}, Skills: []json.RawMessage{}}, nil
}

func (f fixed) Environment(*store.Tx, string, string) (*croft.Environment, error) {
	return &croft.Environment{ID: env, Config: croft.EnvironmentConfig{Type: f.kind}}, nil
}

func (fixed) Model(string) (*model.Model, error) {
	return &model.Model{ID: "m", Price: &model.Price{Input: 1_000_000, Output: 0}, SystemMidway: true}, nil
}

type bench struct {
	t   *testing.T
	log *session.Log
	q   *work.Queue
	r   *runner
	db  *store.DB
	ctx context.Context
}

func open(t *testing.T, url string) *bench {
	t.Helper()
	ctx := t.Context()
	db, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(ctx, func(tx *store.Tx) error {
		for _, q := range []string{
			`INSERT INTO workspaces (id, name, created_at) VALUES ('` + ws + `', 'test', 1) ON CONFLICT DO NOTHING`,
			`INSERT INTO environments (id, workspace_id, kind, body, created_at, updated_at) VALUES ('` + env + `', '` + ws + `', 'cloud', '{"id":"` + env + `","config":{"type":"cloud"}}', 1, 1) ON CONFLICT DO NOTHING`,
		} {
			if _, err := tx.Exec(q); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, q: work.New(db, nil), r: &runner{runs: make(chan session.Run, 100)}, db: db, ctx: ctx}
	b.log = session.New(session.Options{DB: db, Agents: fixed{croft.EnvironmentCloud}, Models: fixed{}, Queue: b.q, Retries: 3})
	if err := b.log.Start(ctx, b.r); err != nil {
		t.Fatal(err)
	}
	b.q.Start(ctx)
	return b
}

func (b *bench) close() {
	b.log.Stop()
	b.q.Close()
	b.db.Close()
}

func (b *bench) create(in *session.CreateInput) string {
	b.t.Helper()
	if in == nil {
		in = &session.CreateInput{}
	}
	in.Agent, in.EnvironmentID = agents.Ref{ID: "agent_test"}, env
	s, err := b.log.Create(b.ctx, ws, in)
	if err != nil {
		b.t.Fatal(err)
	}
	return s.ID
}

func (b *bench) send(id string, inputs ...session.Input) ([]json.RawMessage, error) {
	return b.log.Send(b.ctx, session.Actor{Workspace: ws}, id, inputs)
}

func (b *bench) mustSend(id string, inputs ...session.Input) []json.RawMessage {
	b.t.Helper()
	out, err := b.send(id, inputs...)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func message(text string) session.Input {
	block := `{"type":"text","text":"` + text + `"}`
	return session.Input{Type: croft.UserMessage, Payload: json.RawMessage(`{"type":"user.message","content":[` + block + `]}`), Content: []json.RawMessage{json.RawMessage(block)}}
}

func input(typ croft.EventType, fields string) session.Input {
	return session.Input{Type: typ, Payload: json.RawMessage(`{"type":"` + string(typ) + `"` + fields + `}`)}
}

func confirm(id string, allow bool) session.Input {
	in := input(croft.UserToolConfirmation, `,"tool_use_id":"`+id+`","result":"allow"`)
	in.ToolUseID, in.Allow = id, allow
	return in
}

func (b *bench) run() session.Run {
	b.t.Helper()
	select {
	case r := <-b.r.runs:
		return r
	case <-time.After(10 * time.Second):
		b.t.Fatal("no model request became due")
		return session.Run{}
	}
}

func text(s string) session.Part {
	return session.Part{Type: croft.AgentMessage, Content: []json.RawMessage{json.RawMessage(`{"type":"text","text":"` + s + `"}`)}}
}

func use(name string, v session.Verdict) session.Part {
	p := session.Part{Type: croft.AgentToolUse, ToolUseID: "toolu_" + name, Name: name, Input: json.RawMessage(`{"command":"` + name + `"}`), Verdict: v}
	if v == session.VerdictClient {
		p.Type = croft.AgentCustomToolUse
	}
	return p
}

func (b *bench) reply(r session.Run, parts ...session.Part) {
	b.t.Helper()
	stop := model.StopEndTurn
	content := []json.RawMessage{}
	for _, p := range parts {
		if p.ToolUseID != "" {
			stop = model.StopToolUse
			content = append(content, json.RawMessage(`{"type":"tool_use","id":"`+p.ToolUseID+`","name":"`+p.Name+`","input":{}}`))
		} else {
			content = append(content, json.RawMessage(`{"type":"text","text":"x"}`))
		}
	}
	if err := b.log.Reply(b.ctx, r.Session, r.Fence, session.Reply{Parts: parts, Content: content, StopReason: stop, Usage: model.Usage{InputTokens: 10, OutputTokens: 5}, Nanos: new(int64)}); err != nil {
		b.t.Fatal(err)
	}
}

type event struct {
	ID          string          `json:"id"`
	Type        croft.EventType `json:"type"`
	ProcessedAt croft.Time      `json:"processed_at"`
	ToolUseID   string          `json:"tool_use_id"`
	IsError     bool            `json:"is_error"`
	StopReason  struct {
		Type     string   `json:"type"`
		EventIDs []string `json:"event_ids"`
	} `json:"stop_reason"`
}

func (b *bench) events(id string) []event {
	b.t.Helper()
	var all []event
	q := session.EventsQuery{Limit: 7} // small, so that paging is in every test
	for {
		page, err := b.log.Events(b.ctx, ws, id, q)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, d := range page.Data {
			var e event
			if err := json.Unmarshal(d, &e); err != nil {
				b.t.Fatalf("%v in %s", err, d)
			}
			all = append(all, e)
		}
		if page.NextPage == nil {
			return all
		}
		q.Page = *page.NextPage
	}
}

// story is the log in short: types without their common prefixes.
func (b *bench) story(id string) string {
	var out []string
	for _, e := range b.events(id) {
		s := string(e.Type)
		s = strings.NewReplacer("session.status_", "", "session.thread_status_", "t:", "session.", "", "span.model_request_", "span_", "agent.", "", "user.", "u:").Replace(s)
		if e.StopReason.Type != "" {
			s += "(" + e.StopReason.Type + ")"
		}
		if e.IsError && s != "span_end" {
			s += "!"
		} else if e.IsError {
			s += "!"
		}
		if e.ProcessedAt == 0 {
			s += "?"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func (b *bench) find(id string, typ croft.EventType) string {
	b.t.Helper()
	for _, e := range b.events(id) {
		if e.Type == typ {
			return e.ID
		}
	}
	b.t.Fatalf("no %s in %s", typ, b.story(id))
	return ""
}

func (b *bench) want(id, story string) {
	b.t.Helper()
	if got := b.story(id); got != story {
		b.t.Errorf("the log reads\n  %s\nwant\n  %s", got, story)
	}
}

func each(t *testing.T, fn func(*bench)) {
	storetest.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		defer b.close()
		fn(b)
	})
}

const turn = "u:message running t:running span_start message span_end t:idle(end_turn) usage idle(end_turn)"

func TestTurn(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		b.mustSend(id, message("hi"))
		r := b.run()
		if r.Seq != 4 || r.Attempt != 1 {
			b.t.Errorf("run %+v, want seq 4, attempt 1", r)
		}
		b.reply(r, text("hello"))
		b.want(id, turn)
		s, err := b.log.Get(b.ctx, ws, id)
		if err != nil {
			b.t.Fatal(err)
		}
		if s.Status != croft.StatusIdle || s.Usage.InputTokens != 10 || s.Usage.ListCost == nil || s.Usage.ListCost.Amount == "" {
			b.t.Errorf("session %+v", s)
		}
		if _, err := b.log.Get(b.ctx, "wrkspc_other", id); !croft.IsType(err, croft.NotFound) {
			b.t.Errorf("a foreign workspace got %v, want not found", err)
		}
	})
}

func TestQueueing(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(&session.CreateInput{Events: []session.Input{message("one"), message("two")}})
		out := b.mustSend(id, message("three"))
		if !strings.Contains(string(out[0]), `"processed_at":null`) {
			b.t.Errorf("a queued message answers %s, want processed_at null", out[0])
		}
		b.want(id, "u:message u:message running t:running span_start u:message?")
		b.reply(b.run(), text("a"))
		b.reply(b.run(), text("b"))
		b.want(id, "u:message u:message running t:running span_start message span_end u:message span_start message span_end t:idle(end_turn) usage idle(end_turn)")
	})
}

func TestInterruptAndRedirect(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		b.mustSend(id, message("one"))
		old := b.run()
		b.mustSend(id, input(croft.UserInterrupt, ""), message("two"))
		if err := b.log.Reply(b.ctx, id, old.Fence, session.Reply{Parts: []session.Part{text("late")}}); !errors.Is(err, session.ErrFenced) {
			b.t.Errorf("a late reply got %v, want ErrFenced", err)
		}
		if len(b.r.cancels) != 1 || b.r.cancels[0] != old.Fence.Span {
			b.t.Errorf("cancelled %v, want the span %s", b.r.cancels, old.Fence.Span)
		}
		b.reply(b.run(), text("ok"))
		b.want(id, "u:message running t:running span_start u:interrupt span_end! t:idle(end_turn) usage idle(end_turn) "+turn)
		b.mustSend(id, input(croft.UserInterrupt, "")) // at rest it changes nothing
		b.want(id, "u:message running t:running span_start u:interrupt span_end! t:idle(end_turn) usage idle(end_turn) "+turn+" u:interrupt")
	})
}

func TestCustomToolAndAsk(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		b.mustSend(id, message("go"))
		b.reply(b.run(), use("look", session.VerdictClient), use("rm", session.VerdictAsk), use("nope", session.VerdictRefuse))
		custom, ask := b.find(id, croft.AgentCustomToolUse), b.find(id, croft.AgentToolUse)
		events := b.events(id)
		if diff := cmp.Diff([]string{custom, ask}, events[len(events)-1].StopReason.EventIDs); diff != "" {
			b.t.Errorf("blocking events: %s", diff)
		}
		for name, bad := range map[string]session.Input{
			"unknown":      confirm("sevt_none", true),
			"custom tool":  confirm(custom, true),
			"cloud result": func() session.Input { i := input(croft.UserToolResult, ""); i.ToolUseID = ask; return i }(),
		} {
			if _, err := b.send(id, bad); !croft.IsType(err, croft.InvalidRequest) {
				b.t.Errorf("%s: got %v, want a 400", name, err)
			}
		}
		b.mustSend(id, confirm(ask, false))
		result := input(croft.UserCustomToolResult, `,"custom_tool_use_id":"`+custom+`","content":[]`)
		result.ToolUseID = custom
		if _, err := b.send(id, result, result); !croft.IsType(err, croft.InvalidRequest) {
			b.t.Errorf("the same result twice got %v, want a 400 and nothing changed", err)
		}
		b.mustSend(id, result)
		b.reply(b.run(), text("done"))
		b.want(id, "u:message running t:running span_start custom_tool_use tool_use tool_use span_end tool_result! "+
			"t:idle(requires_action) usage idle(requires_action) "+
			"u:tool_confirmation tool_result! t:idle(requires_action) usage idle(requires_action) "+
			"u:custom_tool_result running t:running span_start message span_end t:idle(end_turn) usage idle(end_turn)")
	})
}

// worker attaches and claims the session's item.
func (b *bench) claim(name, incarnation string) (*work.Attachment, *work.Item, *work.Grant) {
	b.t.Helper()
	a, err := b.q.Attach(b.ctx, work.Attach{Workspace: ws, Worker: name, Incarnation: incarnation, Capacity: 10})
	if err != nil {
		b.t.Fatal(err)
	}
	for {
		ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
		frames, err := a.Next(ctx)
		cancel()
		if err != nil {
			b.t.Fatalf("waiting for an offer: %v", err)
		}
		for _, f := range frames {
			if f.Type != "offer" {
				continue
			}
			item, err := b.q.Ack(b.ctx, ws, env, f.WorkID, name, incarnation)
			if err != nil {
				b.t.Fatal(err)
			}
			return a, item, &work.Grant{WorkID: item.ID, SessionID: f.SessionID}
		}
	}
}

func toolResult(id string) session.Input {
	in := input(croft.UserToolResult, `,"tool_use_id":"`+id+`"`)
	in.ToolUseID, in.Content = id, []json.RawMessage{json.RawMessage(`{"type":"text","text":"ok"}`)}
	return in
}

func TestFleetCalls(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		b.mustSend(id, message("go"))
		b.reply(b.run(), use("ls", session.VerdictAllow), use("pwd", session.VerdictAllow))
		a, item, _ := b.claim("w1", "i1")
		defer a.Close()
		spec, err := b.q.Spec(b.ctx, ws, item.ID)
		if err != nil || len(spec.Calls) != 2 || spec.Calls[0].FirstWorker != "w1" || string(spec.Calls[0].Input) != `{"command":"ls"}` {
			b.t.Fatalf("spec %+v, %v", spec, err)
		}
		actor := session.Actor{Workspace: ws, WorkID: item.ID, Claim: 1}
		if _, err := b.log.Send(b.ctx, session.Actor{Workspace: ws, WorkID: item.ID, Claim: 2}, id, []session.Input{toolResult(spec.Calls[0].ID)}); !croft.IsType(err, croft.Authentication) {
			b.t.Errorf("a result under another claim got %v, want a 401", err)
		}
		for _, c := range spec.Calls {
			if _, err := b.log.Send(b.ctx, actor, id, []session.Input{toolResult(c.ID)}); err != nil {
				b.t.Fatal(err)
			}
		}
		if _, err := b.log.Send(b.ctx, actor, id, []session.Input{toolResult(spec.Calls[0].ID)}); !croft.IsType(err, croft.InvalidRequest) {
			b.t.Errorf("a second result got %v, want a 400", err)
		}
		// The lease is live: the next call is pushed, and no second item made.
		b.reply(b.run(), use("cat", session.VerdictAllow))
		frames, err := a.Next(b.ctx)
		if err != nil || len(frames) != 1 || frames[0].Type != "call" || frames[0].Call.Name != "cat" {
			b.t.Fatalf("frames %+v, %v", frames, err)
		}
		b.mustSend(id, input(croft.UserInterrupt, ""))
		frames, err = a.Next(b.ctx)
		if err != nil || frames[0].Type != "cancel" {
			b.t.Fatalf("frames %+v, %v", frames, err)
		}
		b.want(id, "u:message running t:running span_start tool_use tool_use span_end tool_result tool_result span_start tool_use span_end "+
			"u:interrupt tool_result! t:idle(end_turn) usage idle(end_turn)")
	})
}

func TestLostWorker(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		b.mustSend(id, message("go"))
		b.reply(b.run(), use("ls", session.VerdictAllow))
		a, item, _ := b.claim("w1", "i1")
		a.Close()
		// The worker's next process ends the lease of the first, and is offered the item again.
		a, again, _ := b.claim("w1", "i2")
		if again.ID != item.ID {
			b.t.Fatalf("offered %s, want %s again", again.ID, item.ID)
		}
		spec, err := b.q.Spec(b.ctx, ws, item.ID)
		if err != nil || len(spec.Calls) != 1 || spec.Calls[0].FirstWorker != "w1" {
			b.t.Fatalf("spec %+v, %v", spec, err)
		}
		if _, err := b.log.Send(b.ctx, session.Actor{Workspace: ws, WorkID: item.ID, Claim: 1}, id, []session.Input{toolResult(spec.Calls[0].ID)}); !croft.IsType(err, croft.Authentication) {
			b.t.Errorf("a result under the lost lease got %v, want a 401", err)
		}
		a.Close()
		// Claims without end and without a result: the agent is told.
		for i := 3; i <= 5; i++ {
			a, _, _ = b.claim("w1", fmt.Sprint("i", i))
			a.Close()
		}
		a, err = b.q.Attach(b.ctx, work.Attach{Workspace: ws, Worker: "w1", Incarnation: "i6", Capacity: 1})
		if err != nil {
			b.t.Fatal(err)
		}
		defer a.Close()
		b.reply(b.run(), text("oh"))
		b.want(id, "u:message running t:running span_start tool_use span_end error tool_result! span_start message span_end t:idle(end_turn) usage idle(end_turn)")
	})
}

func TestFaults(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		b.mustSend(id, message("go"))
		flt := session.Fault{Kind: model.Overloaded, Message: "busy", Retry: true, Backoff: time.Millisecond}
		for i := 1; i <= 3; i++ {
			r := b.run()
			if r.Attempt != i {
				b.t.Errorf("attempt %d, want %d", r.Attempt, i)
			}
			if err := b.log.Fault(b.ctx, id, r.Fence, flt); err != nil {
				b.t.Fatal(err)
			}
		}
		retry := "span_start span_end! error rescheduled t:rescheduled running t:running "
		b.want(id, "u:message running t:running "+retry+retry+"span_start span_end! error t:idle(retries_exhausted) usage idle(retries_exhausted)")
		b.mustSend(id, message("again"))
		b.reply(b.run(), text("ok"))
	})
}

func TestBudget(t *testing.T) {
	each(t, func(b *bench) {
		// A token of input costs one dollar here: ten of them, ten.
		id := b.create(&session.CreateInput{Budget: &croft.Budget{Type: "limit", MaxListCost: croft.Money{Amount: "500", Currency: "USD"}}})
		b.mustSend(id, message("go"))
		r := b.run()
		nanos := int64(10e9)
		rep := session.Reply{Parts: []session.Part{use("look", session.VerdictClient)}, Content: []json.RawMessage{json.RawMessage(`{"type":"tool_use","id":"toolu_look"}`)}, StopReason: model.StopToolUse, Nanos: &nanos, Usage: model.Usage{InputTokens: 10}}
		if err := b.log.Reply(b.ctx, id, r.Fence, rep); err != nil {
			b.t.Fatal(err)
		}
		if _, err := b.send(id, message("more")); !croft.IsType(err, croft.InvalidRequest) {
			b.t.Errorf("a message at the cap got %v, want a 400", err)
		}
		custom := b.find(id, croft.AgentCustomToolUse)
		result := input(croft.UserCustomToolResult, `,"custom_tool_use_id":"`+custom+`"`)
		result.ToolUseID = custom
		b.mustSend(id, result)
		b.want(id, "u:message running t:running span_start custom_tool_use span_end t:idle(requires_action) usage idle(requires_action) "+
			"u:custom_tool_result t:idle(budget_reached) usage idle(budget_reached)")
		low := &croft.Budget{Type: "limit", MaxListCost: croft.Money{Amount: "900", Currency: "USD"}}
		if _, err := b.log.Update(b.ctx, ws, id, &session.UpdateInput{Budget: &low}); !croft.IsType(err, croft.InvalidRequest) {
			b.t.Errorf("a cap under the cost got %v, want a 400", err)
		}
		var none *croft.Budget
		if _, err := b.log.Update(b.ctx, ws, id, &session.UpdateInput{Budget: &none}); err != nil {
			b.t.Fatal(err)
		}
		b.reply(b.run(), text("ok"))
	})
}

func TestArchiveAndDelete(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		b.mustSend(id, message("go"))
		if _, err := b.log.Archive(b.ctx, ws, id); !croft.IsType(err, croft.InvalidRequest) {
			b.t.Errorf("archiving a running session got %v, want a 400", err)
		}
		if err := b.log.Delete(b.ctx, ws, id); !croft.IsType(err, croft.InvalidRequest) {
			b.t.Errorf("deleting a running session got %v, want a 400", err)
		}
		b.reply(b.run(), text("ok"))
		tail, err := b.log.Tail(b.ctx, ws, id, session.TailQuery{})
		if err != nil {
			b.t.Fatal(err)
		}
		defer tail.Close()
		s, err := b.log.Archive(b.ctx, ws, id)
		if err != nil || s.Status != croft.StatusTerminated || s.ArchivedAt == 0 {
			b.t.Fatalf("archived: %+v, %v", s, err)
		}
		if _, err := b.send(id, message("more")); !croft.IsType(err, croft.InvalidRequest) {
			b.t.Errorf("a message to an archived session got %v, want a 400", err)
		}
		if err := b.log.Delete(b.ctx, ws, id); err != nil {
			b.t.Fatal(err)
		}
		var types []croft.EventType
		for {
			frames, err := tail.Next(b.ctx)
			for _, f := range frames {
				types = append(types, f.Type)
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]croft.EventType{croft.ThreadTerminated, croft.SessionTerminated, croft.SessionDeleted}, types); diff != "" {
			b.t.Errorf("the stream's end: %s", diff)
		}
		if _, err := b.log.Get(b.ctx, ws, id); !croft.IsType(err, croft.NotFound) {
			b.t.Errorf("a deleted session got %v, want not found", err)
		}
	})
}

func TestTakeOver(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		id := b.create(nil)
		b.mustSend(id, message("go"))
		old := b.run()
		b.close() // without a reply: as good as killed
		b = open(t, url)
		defer b.close()
		r := b.run()
		if r.Fence.Epoch != old.Fence.Epoch+1 {
			t.Errorf("epoch %d after %d", r.Fence.Epoch, old.Fence.Epoch)
		}
		if err := b.log.Reply(b.ctx, id, old.Fence, session.Reply{}); !errors.Is(err, session.ErrFenced) {
			t.Errorf("the old owner's reply got %v, want ErrFenced", err)
		}
		b.reply(r, text("ok"))
		b.want(id, "u:message running t:running span_start span_end! span_start message span_end t:idle(end_turn) usage idle(end_turn)")
	})
}

func TestTail(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		tail, err := b.log.Tail(b.ctx, ws, id, session.TailQuery{Deltas: []croft.EventType{croft.AgentMessage}})
		if err != nil {
			b.t.Fatal(err)
		}
		defer tail.Close()
		b.mustSend(id, message("go"))
		r := b.run()
		b.log.PreviewStart(id, r.Fence.Thread, "sevt_p", croft.AgentMessage)
		b.log.PreviewText(id, r.Fence.Thread, "sevt_p", 0, "hel")
		p := text("hello")
		p.ID = "sevt_p"
		b.reply(r, p)
		var live []string
		var types []croft.EventType
		for len(live) < 9 {
			frames, err := tail.Next(b.ctx)
			if err != nil {
				b.t.Fatal(err)
			}
			for _, f := range frames {
				types = append(types, f.Type)
				if f.ID != "" {
					live = append(live, f.ID)
				}
			}
		}
		var listed []string
		for _, e := range b.events(id) {
			listed = append(listed, e.ID)
		}
		if diff := cmp.Diff(listed, live); diff != "" {
			b.t.Errorf("stream and list differ: %s", diff)
		}
		if types[4] != croft.EventStart || types[5] != croft.EventDelta || types[6] != croft.AgentMessage {
			b.t.Errorf("order of previews: %v", types)
		}
		// Behind each event, a new tail shows exactly the rest.
		for i, after := range listed {
			tail, err := b.log.Tail(b.ctx, ws, id, session.TailQuery{After: after})
			if err != nil {
				b.t.Fatal(err)
			}
			var got []string
			for len(got) < len(listed)-i-1 {
				frames, err := tail.Next(b.ctx)
				if err != nil {
					b.t.Fatal(err)
				}
				for _, f := range frames {
					got = append(got, f.ID)
				}
			}
			if diff := cmp.Diff(listed[i+1:], got); len(got) > 0 && diff != "" {
				b.t.Errorf("behind %s: %s", after, diff)
			}
			tail.Close()
		}
		if _, err := b.log.Tail(b.ctx, ws, id, session.TailQuery{After: "sevt_other"}); !croft.IsType(err, croft.InvalidRequest) {
			b.t.Errorf("an unknown Last-Event-ID got %v, want a 400", err)
		}
	})
}

func TestSlowReaderIsDropped(t *testing.T) {
	b := open(t, "sqlite:"+t.TempDir()+"/croft.db")
	defer b.close()
	id := b.create(nil)
	tail, err := b.log.Tail(b.ctx, ws, id, session.TailQuery{})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	for range 50 {
		many := make([]session.Input, 100)
		for i := range many {
			many[i] = input(croft.UserInterrupt, "")
		}
		b.mustSend(id, many...)
	}
	var slow *session.SlowError
	if _, err := tail.Next(b.ctx); !errors.As(err, &slow) {
		t.Errorf("a reader 5,000 events behind got %v, want a SlowError", err)
	}
}

func TestListPaging(t *testing.T) {
	each(t, func(b *bench) {
		var ids []string
		for range 7 {
			ids = append(ids, b.create(nil))
		}
		var got []string
		q := session.ListQuery{Limit: 3, Order: "asc"}
		var last *session.List
		for {
			l, err := b.log.List(b.ctx, ws, q)
			if err != nil {
				b.t.Fatal(err)
			}
			for _, s := range l.Data {
				got = append(got, s.ID)
			}
			last = l
			if l.NextPage == nil {
				break
			}
			q.Page = *l.NextPage
		}
		if diff := cmp.Diff(ids, got); diff != "" {
			b.t.Errorf("forward: %s", diff)
		}
		q.Page = *last.PrevPage
		l, err := b.log.List(b.ctx, ws, q)
		if err != nil || len(l.Data) != 3 || l.Data[0].ID != ids[3] {
			b.t.Errorf("a page back: %+v, %v", l, err)
		}
		q.Order = "desc"
		if _, err := b.log.List(b.ctx, ws, q); !croft.IsType(err, croft.InvalidRequest) {
			b.t.Errorf("a cursor with another order got %v, want a 400", err)
		}
	})
}
