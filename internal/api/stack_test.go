package api_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"croft"
	"croft/internal/access"
	"croft/internal/agents"
	"croft/internal/api"
	"croft/internal/model"
	"croft/internal/session"
	"croft/internal/store"
	"croft/internal/store/storetest"
	"croft/internal/work"
)

// stack is the API over its real rooms, and a loop that answers each request at once.
type stack struct {
	t      *testing.T
	db     *store.DB
	access *access.Store
	log    *session.Log
	queue  *work.Queue
	api    *api.API
	http   *http.Server
	url    string
	key    string
	brain  *echo
}

// echo is the loop of these tests. To a message that begins with "use " it calls the agent's
// tool of that name; else it says what it was asked to say.
type echo struct {
	log  *session.Log
	wg   sync.WaitGroup
	mu   sync.Mutex
	hold chan struct{} // when set, answers wait for it
}

func (e *echo) Cancel(string, string) {}
func (e *echo) Admit() bool           { return true }

func (e *echo) Run(r session.Run) {
	e.wg.Go(func() {
		ctx := context.Background()
		e.mu.Lock()
		hold := e.hold
		e.mu.Unlock()
		if hold != nil {
			<-hold
		}
		last := ""
		_ = e.log.History(ctx, r.Session, r.Fence.Thread, r.Seq-6, r.Seq, func(ev *croft.Event) error {
			var m struct {
				Content []struct {
					Text string `json:"text"`
				} `json:"content"`
			}
			if ev.Type == croft.UserMessage && json.Unmarshal(ev.Payload, &m) == nil && len(m.Content) > 0 {
				last = m.Content[0].Text
			}
			if ev.Type == croft.AgentToolResult {
				last = "done"
			}
			return nil
		})
		reply := session.Reply{StopReason: model.StopEndTurn, Usage: model.Usage{InputTokens: 10, OutputTokens: 5}}
		if tool, ok := strings.CutPrefix(last, "use "); ok {
			reply.StopReason = model.StopToolUse
			reply.Parts = []session.Part{{Type: croft.AgentToolUse, ToolUseID: "toolu_1", Name: tool, Input: json.RawMessage(`{"command":"true"}`), Verdict: session.VerdictAllow}}
			reply.Content = []json.RawMessage{json.RawMessage(`{"type":"tool_use","id":"toolu_1","name":"` + tool + `","input":{}}`)}
		} else {
			id := croft.NewID(croft.PrefixEvent)
			e.log.PreviewStart(r.Session, r.Fence.Thread, id, croft.AgentMessage)
			e.log.PreviewText(r.Session, r.Fence.Thread, id, 0, "you said: ")
			e.log.PreviewText(r.Session, r.Fence.Thread, id, 0, last)
			text, _ := json.Marshal("you said: " + last)
			block := json.RawMessage(`{"type":"text","text":` + string(text) + `}`)
			reply.Parts = []session.Part{{Type: croft.AgentMessage, ID: id, Content: []json.RawMessage{block}}}
			reply.Content = []json.RawMessage{block}
		}
		_ = e.log.Reply(ctx, r.Session, r.Fence, reply) // an overtaken one is thrown away
	})
}

type models struct{}

func (models) Model(id string) (*model.Model, error) { return &model.Model{ID: id}, nil }

type catalogue struct{}

func (catalogue) List() []api.Model {
	return []api.Model{{ID: "claude-opus-5", DisplayName: "Claude Opus 5", MaxInputTokens: 1_000_000, MaxTokens: 128_000, Supports: []string{"image_input", "effort.high"}}, {ID: "local"}}
}

func (c catalogue) Find(id string) (api.Model, bool) {
	for _, m := range c.List() {
		if m.ID == id {
			return m, true
		}
	}
	return api.Model{}, false
}

// start starts a stack over the database of that URL.
func start(t *testing.T, url string) *stack {
	t.Helper()
	ctx := t.Context()
	db, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, db: db, access: access.New(db, nil), queue: work.New(db, nil), key: "an-api-key-of-tests", brain: &echo{}}
	if _, _, err := s.access.EnsureDefault(ctx, s.key); err != nil {
		t.Fatal(err)
	}
	s.access.Start(ctx)
	defined := agents.New(db, nil)
	s.log = session.New(session.Options{DB: db, Agents: defined, Models: models{}, Queue: s.queue})
	s.brain.log = s.log
	if err := s.log.Start(ctx, s.brain); err != nil {
		t.Fatal(err)
	}
	s.queue.Start(ctx)
	s.api, err = api.New(api.Options{DB: db, Access: s.access, Agents: defined, Environments: defined, Sessions: s.log, Work: s.queue, Models: catalogue{},
		Heartbeat: 100 * time.Millisecond, Log: slog.New(slog.NewTextHandler(testLog{t}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + ln.Addr().String()
	s.http = &http.Server{Handler: s.api, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.http.Serve(ln) }()
	return s
}

// stop ends it as a server does.
func (s *stack) stop() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.api.Shutdown(ctx); err != nil {
		s.t.Errorf("ending the streams: %v", err)
	}
	if err := s.http.Shutdown(ctx); err != nil {
		s.t.Errorf("stopping the server: %v", err)
	}
	s.log.Stop()
	s.brain.wg.Wait()
	s.queue.Close()
	s.access.Stop()
	_ = s.db.Close()
}

func each(t *testing.T, fn func(s *stack)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, url string) {
		s := start(t, url)
		defer s.stop()
		fn(s)
	})
}

// client is the official SDK's.
func (s *stack) client(opts ...option.RequestOption) anthropic.Client {
	return anthropic.NewClient(append([]option.RequestOption{option.WithBaseURL(s.url), option.WithAPIKey(s.key), option.WithMaxRetries(0)}, opts...)...)
}

// testLog writes the server's log into the test's.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Logf("%s", strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func unmarshal(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

// token takes the session token out of a work item's secret.
func token(t *testing.T, secret string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	var in struct {
		Token string `json:"sessions_token"`
	}
	unmarshal(t, string(b), &in)
	return in.Token
}
