package brain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// answer is how a scripted model answers one request.
type answer func(ctx context.Context, req *model.Request, sink func(model.Delta)) (*model.Response, error)

// script is a model that answers from a list, and keeps what it was asked.
type script struct {
	mu      sync.Mutex
	answers []answer
	asked   []model.Request
}

func (s *script) Generate(ctx context.Context, req *model.Request, sink func(model.Delta)) (*model.Response, error) {
	s.mu.Lock()
	s.asked = append(s.asked, *req)
	if len(s.answers) == 0 {
		s.mu.Unlock()
		return nil, &model.Error{Kind: model.RequestFailed, Message: "the script has ended"}
	}
	next := s.answers[0]
	s.answers = s.answers[1:]
	s.mu.Unlock()
	return next(ctx, req, sink)
}

func (s *script) add(a ...answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, a...)
}

func (s *script) request(i int) model.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[i]
}

// says answers with blocks, streamed in small pieces.
func says(stop string, blocks ...string) answer {
	return func(_ context.Context, _ *model.Request, sink func(model.Delta)) (*model.Response, error) {
		resp := &model.Response{StopReason: stop, Usage: model.Usage{InputTokens: 1, OutputTokens: 1}}
		for i, b := range blocks {
			resp.Content = append(resp.Content, json.RawMessage(b))
			var block struct{ Type, Text string }
			if err := json.Unmarshal([]byte(b), &block); err != nil {
				return nil, err
			}
			kind := strings.TrimPrefix(block.Type, "redacted_")
			sink(model.Delta{Index: i, Kind: kind, Start: true})
			for _, r := range block.Text {
				sink(model.Delta{Index: i, Kind: kind, Text: string(r)})
			}
		}
		return resp, nil
	}
}

func fails(err *model.Error) answer {
	return func(_ context.Context, _ *model.Request, sink func(model.Delta)) (*model.Response, error) {
		sink(model.Delta{Kind: "text", Start: true})
		sink(model.Delta{Kind: "text", Text: "lost"})
		return nil, err
	}
}

func txt(s string) string { return `{"type":"text","text":"` + s + `"}` }

func call(id, name string) string {
	return `{"type":"tool_use","id":"` + id + `","name":"` + name + `","input":{"command":"` + id + `"}}`
}

// fixed is the agent, environment and model of these tests.
type fixed struct{ provider model.Provider }

func (fixed) Resolve(_ *store.Tx, _ string, ref agents.Ref) (*croft.SessionAgent, error) {
	system, ask := "be kind", []croft.ToolConfig{{Name: "write", Enabled: true, PermissionPolicy: croft.Typed{Type: croft.AlwaysAsk}}, {Name: "grep"}}
	return &croft.SessionAgent{ID: ref.ID, Type: "agent", Name: "tester", Version: 1, System: &system,
		Model: croft.ModelConfig{ID: "m", Effort: &croft.Typed{Type: "low"}},
		Tools: []croft.Tool{{Type: croft.ToolsetAgent, Configs: &ask}, {Type: croft.ToolCustom, Name: "look", InputSchema: json.RawMessage(`{"type":"object"}`)}}}, nil
}

func (fixed) Environment(*store.Tx, string, string) (*croft.Environment, error) {
	return &croft.Environment{ID: env, Config: croft.EnvironmentConfig{Type: croft.EnvironmentCloud}}, nil
}

func (f fixed) Model(id string) (*model.Model, error) {
	if id == "gone" {
		return nil, errors.New("no such model")
	}
	return &model.Model{ID: "m", Provider: f.provider, SystemMidway: true, Price: &model.Price{Input: 1}}, nil
}

// bench is a brain over a real log.
type bench struct {
	t     *testing.T
	db    *store.DB
	log   *session.Log
	q     *work.Queue
	brain *Brain
	model *script
}

func open(t *testing.T, url string, s *script) *bench {
	t.Helper()
	db, err := store.Open(t.Context(), store.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(t.Context(), func(tx *store.Tx) error {
		for _, q := range []string{
			`INSERT INTO workspaces (id, name, created_at) VALUES ('` + ws + `', 'test', 1) ON CONFLICT DO NOTHING`,
			`INSERT INTO environments (id, workspace_id, kind, body, created_at, updated_at) VALUES ('` + env + `', '` + ws + `', 'cloud', '{}', 1, 1) ON CONFLICT DO NOTHING`,
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
	b := &bench{t: t, db: db, q: work.New(db, nil), model: s}
	f := fixed{s}
	b.log = session.New(session.Options{DB: db, Agents: f, Models: f, Queue: b.q, Retries: 3})
	b.brain = New(b.log, f, nil)
	if err := b.log.Start(t.Context(), b.brain); err != nil {
		t.Fatal(err)
	}
	b.q.Start(t.Context())
	return b
}

func (b *bench) close() {
	b.brain.Stop()
	b.log.Stop()
	b.q.Close()
	b.db.Close()
}

func each(t *testing.T, fn func(*bench)) {
	storetest.Each(t, func(t *testing.T, url string) {
		b := open(t, url, &script{})
		defer b.close()
		fn(b)
	})
}

// talk is a session with a reader at its end.
type talk struct {
	*bench
	id   string
	tail *session.Tail
	seen []frame
}

type frame struct {
	session.Frame
	body body
}

type body struct {
	Content []struct {
		Type, Text string
	} `json:"content"`
	ToolUseID  string                `json:"tool_use_id"`
	CustomID   string                `json:"custom_tool_use_id"`
	IsError    bool                  `json:"is_error"`
	StopReason struct{ Type string } `json:"stop_reason"`
	Error      struct {
		Type, Message string
		RetryStatus   croft.Typed `json:"retry_status"`
	} `json:"error"`
	Event   struct{ ID, Type string } `json:"event"`
	EventID string                    `json:"event_id"`
	Delta   struct {
		Index   int
		Content struct{ Text string }
	} `json:"delta"`
}

func (b *bench) talk() *talk {
	b.t.Helper()
	s, err := b.log.Create(b.t.Context(), ws, &session.CreateInput{Agent: agents.Ref{ID: "agent_test"}, EnvironmentID: env})
	if err != nil {
		b.t.Fatal(err)
	}
	k := &talk{bench: b, id: s.ID}
	k.tail, err = b.log.Tail(b.t.Context(), ws, s.ID, session.TailQuery{Deltas: []croft.EventType{croft.AgentMessage, croft.AgentThinking}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(k.tail.Close)
	return k
}

func (k *talk) send(inputs ...session.Input) {
	k.t.Helper()
	if _, err := k.log.Send(k.t.Context(), session.Actor{Workspace: ws}, k.id, inputs); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talk) say(text string) {
	k.t.Helper()
	k.send(input(`{"type":"user.message","content":[` + txt(text) + `]}`))
}

// input reads an event as a client sends it.
func input(body string) session.Input {
	in, err := session.ParseSend([]byte(`{"events":[` + body + `]}`))
	if err != nil {
		panic(err)
	}
	return in[0]
}

// until reads up to the next event of that type and returns what was read.
func (k *talk) until(typ croft.EventType) []frame {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 30*time.Second)
	defer cancel()
	for from := 0; ; {
		for i := from; i < len(k.seen); i++ {
			if k.seen[i].Type == typ {
				out := k.seen[:i+1]
				k.seen = k.seen[i+1:]
				return out
			}
		}
		from = len(k.seen)
		frames, err := k.tail.Next(ctx)
		if err != nil {
			k.t.Fatalf("waiting for %s: %v", typ, err)
		}
		for _, f := range frames {
			g := frame{Frame: f}
			if err := json.Unmarshal(f.Data, &g.body); err != nil {
				k.t.Fatalf("%v in %s", err, f.Data)
			}
			k.seen = append(k.seen, g)
		}
	}
}

// idle reads up to the end of the turn, which must have that reason.
func (k *talk) idle(reason string) []frame {
	k.t.Helper()
	frames := k.until(croft.SessionIdle)
	if got := frames[len(frames)-1].body.StopReason.Type; got != reason {
		k.t.Fatalf("the turn ended with %q, want %q", got, reason)
	}
	return frames
}

// story is the frames' types without what frames every turn.
func story(frames []frame) string {
	var out []string
	for _, f := range frames {
		switch f.Type {
		case croft.EventStart, croft.EventDelta, croft.SessionUsage, croft.ThreadIdle, croft.ThreadRunning, croft.ThreadRescheduled, croft.ModelRequestStart:
			continue
		}
		s := string(f.Type[strings.LastIndexByte(string(f.Type), '.')+1:])
		if f.body.IsError {
			s += "!"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func (k *talk) wantStory(frames []frame, want string) {
	k.t.Helper()
	if got := story(frames); got != want {
		k.t.Errorf("the turn reads\n  %s\nwant\n  %s", got, want)
	}
}

// roles is a request's conversation in short.
func roles(req model.Request) []string {
	out := []string{}
	for _, m := range req.Messages {
		s := m.Role
		for _, b := range m.Content {
			s += " " + string(b)
		}
		out = append(out, s)
	}
	return out
}

const signed = `{"type":"thinking","thinking":"","signature":"Zm9v\u002bLw=="}`

func TestTurnWithPreviews(t *testing.T) {
	each(t, func(b *bench) {
		k := b.talk()
		b.model.add(says(model.StopToolUse, signed, txt("one"), txt("zwölf"), call("c1", "look"), `{"type":"redacted_thinking","data":"eA=="}`, txt("three"), `{"type":"novelty"}`, txt("four"), call("c2", "look")))
		k.say("go")
		frames := k.idle(croft.StopRequiresAction)
		k.wantStory(frames, "message status_running thinking message custom_tool_use thinking message message custom_tool_use model_request_end status_idle")
		started, previews := map[string]croft.EventType{}, map[string][]string{}
		var custom []string
		for _, f := range frames {
			switch f.Type {
			case croft.EventStart:
				started[f.body.Event.ID] = croft.EventType(f.body.Event.Type)
			case croft.EventDelta:
				texts := previews[f.body.EventID]
				for len(texts) <= f.body.Delta.Index {
					texts = append(texts, "")
				}
				texts[f.body.Delta.Index] += f.body.Delta.Content.Text
				previews[f.body.EventID] = texts
			case croft.AgentMessage, croft.AgentThinking:
				if started[f.ID] != f.Type {
					b.t.Errorf("%s %s was announced as %q", f.Type, f.ID, started[f.ID])
				}
				delete(started, f.ID)
				for i, c := range f.body.Content {
					if previews[f.ID][i] != c.Text {
						b.t.Errorf("block %d of %s was previewed as %q, is %q", i, f.ID, previews[f.ID][i], c.Text)
					}
				}
			case croft.AgentCustomToolUse:
				custom = append(custom, f.ID)
			}
		}
		if len(started) > 0 {
			b.t.Errorf("announced and never seen: %v", started)
		}
		b.model.add(says(model.StopEndTurn, txt("done")))
		for _, id := range custom {
			k.send(input(`{"type":"user.custom_tool_result","custom_tool_use_id":"` + id + `","content":[` + txt("r") + `]}`))
		}
		k.idle(croft.StopRequiresAction) // the first answer leaves one open
		k.idle(croft.StopEndTurn)
		first, second := b.model.request(0), b.model.request(1)
		if diff := cmp.Diff([]string{"be kind"}, first.System); diff != "" || first.Effort != "low" || first.SessionID != k.id {
			b.t.Errorf("request %+v", first)
		}
		want := []string{"user " + txt("go"),
			"assistant " + signed + " " + txt("one") + " " + txt("zwölf") + " " + call("c1", "look") + ` {"type":"redacted_thinking","data":"eA=="} ` + txt("three") + ` {"type":"novelty"} ` + txt("four") + " " + call("c2", "look"),
			`user {"type":"tool_result","tool_use_id":"c1","content":[` + txt("r") + `]} {"type":"tool_result","tool_use_id":"c2","content":[` + txt("r") + `]}`}
		if diff := cmp.Diff(want, roles(second)); diff != "" {
			b.t.Errorf("the next request: %s", diff)
		}
	})
}

func TestInterruptCancels(t *testing.T) {
	each(t, func(b *bench) {
		k := b.talk()
		asked, cancelled := make(chan struct{}), make(chan struct{})
		b.model.add(func(ctx context.Context, req *model.Request, sink func(model.Delta)) (*model.Response, error) {
			close(asked)
			<-ctx.Done()
			defer close(cancelled)
			return says(model.StopEndTurn, txt("late"))(ctx, req, sink) // it does not heed the end
		}, says(model.StopEndTurn, txt("ok")))
		k.say("one")
		<-asked
		k.send(input(`{"type":"user.interrupt"}`))
		<-cancelled
		k.wantStory(k.idle(croft.StopEndTurn), "message status_running interrupt model_request_end! status_idle")
		k.say("two")
		k.wantStory(k.idle(croft.StopEndTurn), "message status_running message model_request_end status_idle")
		if diff := cmp.Diff([]string{"user " + txt("one") + " " + txt("two")}, roles(b.model.request(1))); diff != "" {
			b.t.Errorf("the request behind the interrupt: %s", diff)
		}
	})
}

func TestFaults(t *testing.T) {
	each(t, func(b *bench) {
		busy := &model.Error{Kind: model.Overloaded, Retry: true, RetryAfter: time.Millisecond, Message: "busy"}
		k := b.talk()
		b.model.add(fails(busy), fails(busy), says(model.StopEndTurn, txt("ok")))
		k.say("go")
		retry := "model_request_end! error status_rescheduled "
		k.wantStory(k.idle(croft.StopEndTurn), "message status_running "+retry+"status_running "+retry+"status_running message model_request_end status_idle")

		b.model.add(fails(busy), fails(busy), fails(busy))
		k.say("again")
		frames := k.idle(croft.StopRetriesExhausted)
		k.wantStory(frames, "message status_running "+retry+"status_running "+retry+"status_running model_request_end! error status_idle")
		var statuses []string
		for _, f := range frames {
			if f.Type == croft.SessionError {
				statuses = append(statuses, f.body.Error.Type+" "+f.body.Error.RetryStatus.Type)
			}
		}
		if diff := cmp.Diff([]string{"model_overloaded_error retrying", "model_overloaded_error retrying", "model_overloaded_error exhausted"}, statuses); diff != "" {
			b.t.Error(diff)
		}

		b.model.add(fails(&model.Error{Kind: model.BillingError, Message: "no money"}))
		k.say("more")
		frames = k.idle(croft.StopRetriesExhausted)
		k.wantStory(frames, "message status_running model_request_end! error status_idle")
		for _, f := range frames {
			if f.Type == croft.SessionError && (f.body.Error.RetryStatus.Type != "terminal" || f.body.Error.Message != "no money") {
				b.t.Errorf("error %+v", f.body.Error)
			}
		}
	})
}

func TestRetryAfter(t *testing.T) {
	each(t, func(b *bench) {
		k := b.talk()
		b.model.add(fails(&model.Error{Kind: model.RateLimited, Retry: true, RetryAfter: time.Hour}))
		before := croft.Now()
		k.say("go")
		k.until(croft.SessionRescheduled)
		var at croft.Time
		err := b.db.Read(b.t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT wake_at FROM sessions WHERE id = $1`, k.id).Scan(&at)
		})
		if err != nil || at < before.Add(time.Hour) || at > croft.Now().Add(time.Hour) {
			b.t.Errorf("the next try is at %v, %v; want an hour from now", at, err)
		}
		// An interrupt does not wait for it.
		k.send(input(`{"type":"user.interrupt"}`))
		k.idle(croft.StopEndTurn)
	})
}

func TestBackoff(t *testing.T) {
	for attempt := 1; attempt < 40; attempt++ {
		want := min(firstWait<<min(attempt-1, 10), longWait)
		if got := backoff(attempt); got < want/2 || got > want {
			t.Errorf("attempt %d waits %v, want %v to %v", attempt, got, want/2, want)
		}
	}
	if f := fault(errors.New("secret"), 1); !f.Retry || strings.Contains(f.Message, "secret") {
		t.Errorf("an unknown error gives %+v", f)
	}
	f := fault(fmt.Errorf("x: %w", &model.Error{Kind: model.RateLimited, Message: "m", RetryAfter: time.Minute}), 1)
	if f.Retry || f.Kind != model.RateLimited || f.Message != "m" || f.RetryAfter != time.Minute {
		t.Errorf("a provider's error gives %+v", f)
	}
}

func TestRefusedTools(t *testing.T) {
	each(t, func(b *bench) {
		k := b.talk()
		// One that is not there, one switched off, one that reads another's name alike.
		b.model.add(says(model.StopToolUse, call("c1", "fly"), call("c2", "grep"), call("c2", "fly")), says(model.StopEndTurn, txt("ok")))
		k.say("go")
		k.wantStory(k.idle(croft.StopEndTurn), "message status_running tool_use tool_use tool_use model_request_end tool_result! tool_result! tool_result! message model_request_end status_idle")
		m := b.model.request(1).Messages
		ids := map[string]bool{}
		for _, raw := range m[1].Content {
			var block struct{ ID, Name string }
			if err := json.Unmarshal(raw, &block); err != nil {
				b.t.Fatal(err)
			}
			ids[block.ID] = true
		}
		for _, raw := range m[2].Content {
			var block struct {
				ID      string `json:"tool_use_id"`
				IsError bool   `json:"is_error"`
			}
			if err := json.Unmarshal(raw, &block); err != nil || !ids[block.ID] || !block.IsError {
				b.t.Errorf("result %s, calls %v, %v", raw, ids, err)
			}
			delete(ids, block.ID)
		}
		if len(ids) > 0 || len(m[2].Content) != 3 {
			b.t.Errorf("no results of %v in %s", ids, m[2].Content)
		}
	})
}

func TestStopReasons(t *testing.T) {
	each(t, func(b *bench) {
		k := b.talk()
		b.model.add(says(model.StopMaxTokens, txt("cut"), call("c1", "look")))
		k.say("go")
		frames := k.idle(croft.StopRequiresAction)
		k.wantStory(frames, "message status_running message custom_tool_use model_request_end status_idle")
		b.model.add(says(model.StopMaxTokens, txt("cut off")))
		for _, f := range frames {
			if f.Type == croft.AgentCustomToolUse {
				k.send(input(`{"type":"user.custom_tool_result","custom_tool_use_id":"` + f.ID + `","content":[]}`))
			}
		}
		k.idle(croft.StopEndTurn)

		b.model.add(says(model.StopPauseTurn, txt("a")), says(model.StopEndTurn, txt("b")))
		k.say("pause")
		k.wantStory(k.idle(croft.StopEndTurn), "message status_running message model_request_end message model_request_end status_idle")

		b.model.add(says(model.StopRefusal, txt("I begin")))
		k.say("bad")
		k.wantStory(k.idle(croft.StopRefusal), "message status_running message model_request_end status_idle")

		b.model.add(says(model.StopEndTurn))
		k.say("good")
		k.wantStory(k.idle(croft.StopEndTurn), "message status_running model_request_end status_idle")

		b.model.add(says(model.StopEndTurn, txt("yes")))
		k.say("better")
		k.idle(croft.StopEndTurn)
		want := []string{"user " + txt("go"), "assistant " + txt("cut") + " " + call("c1", "look"), `user {"type":"tool_result","tool_use_id":"c1","content":[]}`,
			"assistant " + txt("cut off"), "user " + txt("pause"), "assistant " + txt("a"), "assistant " + txt("b"), "user " + txt("bad") + " " + txt("good") + " " + txt("better")}
		if diff := cmp.Diff(want, roles(b.model.request(len(b.model.asked)-1))); diff != "" {
			b.t.Errorf("the last request: %s", diff)
		}
	})
}

func TestStoppedBrainIsTakenUp(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		s := &script{}
		b := open(t, url, s)
		k := b.talk()
		asked := make(chan struct{})
		s.add(says(model.StopEndTurn, signed, txt("a")), func(ctx context.Context, _ *model.Request, _ func(model.Delta)) (*model.Response, error) {
			close(asked)
			<-ctx.Done()
			return nil, ctx.Err()
		}, says(model.StopEndTurn, txt("b")))
		k.say("one")
		k.idle(croft.StopEndTurn)
		k.say("two")
		<-asked
		b.close()
		b.brain.Run(session.Run{Session: k.id, Fence: session.Fence{Span: "late"}}) // it has stopped: nothing happens

		b = open(t, url, s)
		defer b.close()
		next := &talk{bench: b, id: k.id}
		// From the history's beginning: the turn may have ended before the tail begins.
		page, err := b.log.Events(t.Context(), ws, k.id, session.EventsQuery{Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		var head struct{ ID string }
		if err := json.Unmarshal(page.Data[0], &head); err != nil {
			t.Fatal(err)
		}
		if next.tail, err = b.log.Tail(t.Context(), ws, k.id, session.TailQuery{After: head.ID}); err != nil {
			t.Fatal(err)
		}
		defer next.tail.Close()
		next.idle(croft.StopEndTurn)
		next.wantStory(next.idle(croft.StopEndTurn), "message status_running model_request_end! message model_request_end status_idle")
		if diff := cmp.Diff(roles(s.request(1)), roles(s.request(2))); diff != "" {
			t.Errorf("the request made again differs: %s", diff)
		}
	})
}

func TestAgentUpdate(t *testing.T) {
	each(t, func(b *bench) {
		k := b.talk()
		names := func(i int) (out []string) {
			for _, tool := range b.model.request(i).Tools {
				out = append(out, tool.Name)
			}
			return out
		}
		b.model.add(says(model.StopEndTurn, txt("a")), says(model.StopToolUse, call("c", "bash")), says(model.StopEndTurn, txt("b")))
		k.say("one")
		k.idle(croft.StopEndTurn)
		if got := strings.Join(names(0), " "); !strings.Contains(got, "bash") || strings.Contains(got, "grep") || !strings.Contains(got, "look") {
			b.t.Errorf("tools %s", got)
		}
		tools := []croft.Tool{{Type: croft.ToolCustom, Name: "dig", InputSchema: json.RawMessage(`{}`)}}
		if _, err := b.log.Update(b.t.Context(), ws, k.id, &session.UpdateInput{Tools: &tools}); err != nil {
			b.t.Fatal(err)
		}
		k.say("two")
		k.wantStory(k.idle(croft.StopEndTurn), "updated message status_running tool_use model_request_end tool_result! message model_request_end status_idle")
		if diff := cmp.Diff([]string{"dig"}, names(1)); diff != "" {
			b.t.Errorf("tools behind the update: %s", diff)
		}
		if len(b.model.request(1).Messages) != 3 {
			b.t.Errorf("the conversation was lost: %v", roles(b.model.request(1)))
		}
	})
}

func TestAdmit(t *testing.T) {
	b := open(t, storetest.SQLite(t), &script{})
	defer b.close()
	if !b.brain.Admit() {
		t.Error("an idle brain takes no turn")
	}
	b.brain.mu.Lock()
	for i := range MaxTurns {
		b.brain.cancels[fmt.Sprint(i)] = func() {}
	}
	b.brain.mu.Unlock()
	if b.brain.Admit() {
		t.Errorf("a brain with %d turns takes one more", MaxTurns)
	}
	s, err := b.log.Create(t.Context(), ws, &session.CreateInput{Agent: agents.Ref{ID: "agent_test"}, EnvironmentID: env})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.log.Send(t.Context(), session.Actor{Workspace: ws}, s.ID, []session.Input{input(`{"type":"user.message","content":[` + txt("x") + `]}`)}); !croft.IsType(err, croft.Overloaded) {
		t.Errorf("a message to a full server got %v, want overloaded", err)
	}
}
