package api

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"croft"
	"croft/internal/access"
	"croft/internal/agents"
	"croft/internal/session"
	"croft/internal/store"
	"croft/internal/store/storetest"
	"croft/internal/work"
)

// The rooms of these tests: they know one resource of each kind and keep what they are told.

const (
	ws        = "wrkspc_test"
	envID     = "env_cloud"
	ownEnvID  = "env_own"
	sessionID = "sesn_1"
	workID    = "work_1"
	threadID  = "sthr_1"

	apiKey    = "croft_api_test"
	fleetKey  = "croft_fleet_test"
	envKey    = "croft_env_test"
	sessToken = "croft_sess_test"
)

type fakeAccess map[string]*access.Principal

func (f fakeAccess) Create(_ context.Context, _ string, kind access.Kind, name, _ string) (id, key string, err error) {
	return "key_new", "croft_" + string(kind) + "_new_" + name, nil
}

func (f fakeAccess) List(context.Context, string, access.Kind, string) ([]access.Key, error) {
	return []access.Key{{ID: "key_1", Kind: access.API, Hint: "test"}}, nil
}

func (f fakeAccess) Revoke(_ context.Context, _, id string) error {
	if id != "key_1" {
		return croft.Missing("key", id)
	}
	return nil
}

func (f fakeAccess) Authenticate(_ context.Context, key string) (*access.Principal, error) {
	if p := f[key]; p != nil {
		return p, nil
	}
	return nil, croft.Errorf(croft.Authentication, "the credential is unknown or was revoked")
}

func principals() fakeAccess {
	return fakeAccess{
		apiKey:   {Workspace: ws, Kind: access.API, KeyID: "key_1"},
		fleetKey: {Workspace: ws, Kind: access.Fleet, KeyID: "key_2"},
		envKey:   {Workspace: ws, Kind: access.Environment, KeyID: "key_3", EnvironmentID: ownEnvID},
	}
}

// The rooms' other methods, under names that hide none of them.
type (
	otherAgents       = Agents
	otherEnvironments = Environments
	otherSessions     = Sessions
	otherWork         = Work
)

// fakeRooms is what the rooms were told.
type fakeRooms struct {
	mu      sync.Mutex
	actor   session.Actor
	list    session.ListQuery
	events  session.EventsQuery
	creates int
	// create stands for the creation of a session.
	create func(ctx context.Context) (*croft.Session, error)
}

type fakeAgents struct{ otherAgents }

func (fakeAgents) Agent(_ context.Context, _, id string, _ int64) (*croft.Agent, error) {
	return nil, croft.Missing("agent", id)
}

type fakeEnvironments struct{ otherEnvironments }

func (fakeEnvironments) GetEnvironment(_ context.Context, workspace, id string) (*croft.Environment, error) {
	if workspace == ws && (id == envID || id == ownEnvID) {
		kind := map[string]string{envID: croft.EnvironmentCloud, ownEnvID: croft.EnvironmentSelfHosted}[id]
		return &croft.Environment{ID: id, Type: "environment", Config: croft.EnvironmentConfig{Type: kind}}, nil
	}
	return nil, croft.Missing("environment", id)
}

type fakeSessions struct {
	otherSessions
	*fakeRooms
}

func (f fakeSessions) Create(ctx context.Context, _ string, _ *session.CreateInput) (*croft.Session, error) {
	f.mu.Lock()
	f.creates++
	create := f.create
	f.mu.Unlock()
	return create(ctx)
}

func (f fakeSessions) Get(_ context.Context, workspace, id string) (*croft.Session, error) {
	if workspace == ws && id == sessionID {
		return &croft.Session{ID: id, Type: "session", EnvironmentID: ownEnvID}, nil
	}
	return nil, croft.Missing("session", id)
}

func (f fakeSessions) List(_ context.Context, _ string, q session.ListQuery) (*session.List, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = q
	return &session.List{Data: []*croft.Session{}}, nil
}

func (f fakeSessions) Delete(_ context.Context, _, id string) error {
	if id != sessionID {
		return croft.Missing("session", id)
	}
	return nil
}

func (f fakeSessions) Send(_ context.Context, actor session.Actor, id string, events []session.Input) ([]json.RawMessage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.actor = actor
	if id != sessionID {
		return nil, croft.Missing("session", id)
	}
	var out []json.RawMessage
	for range events {
		out = append(out, json.RawMessage(`{"id":"sevt_1"}`))
	}
	return out, nil
}

func (f fakeSessions) Events(_ context.Context, _, id string, q session.EventsQuery) (*session.EventPage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = q
	if id != sessionID {
		return nil, croft.Missing("session", id)
	}
	next := "a\"cursor"
	return &session.EventPage{Data: []json.RawMessage{json.RawMessage(`{"id":"sevt_1"}`), json.RawMessage(`{"id":"sevt_2"}`)}, NextPage: &next}, nil
}

func (f fakeSessions) Threads(_ context.Context, _, id string) ([]json.RawMessage, error) {
	if id != sessionID {
		return nil, croft.Missing("session", id)
	}
	return []json.RawMessage{json.RawMessage(`{"id":"` + threadID + `","status":"idle"}`)}, nil
}

type fakeWork struct{ otherWork }

func (f fakeWork) Token(_ context.Context, text string) (*work.Grant, error) {
	if text == sessToken {
		return &work.Grant{Workspace: ws, EnvironmentID: envID, WorkID: workID, SessionID: sessionID, Claim: 7}, nil
	}
	return nil, croft.Errorf(croft.Authentication, "the session token is unknown, or its lease is lost")
}

func (f fakeWork) item(environment, id string) (*work.Item, error) {
	if (environment != envID && environment != ownEnvID) || id != workID {
		return nil, croft.Missing("work item", id)
	}
	return &work.Item{ID: id, Type: "work", EnvironmentID: environment}, nil
}

func (f fakeWork) Get(_ context.Context, _, environment, id string) (*work.Item, error) {
	return f.item(environment, id)
}

func (f fakeWork) Ack(_ context.Context, _, environment, id, worker, _ string) (*work.Item, error) {
	if worker == "late" {
		return nil, croft.Errorf(croft.Conflict, "another worker has it")
	}
	return f.item(environment, id)
}

func (f fakeWork) Heartbeat(_ context.Context, _, environment, id, expected string, ttl int) (*work.Heartbeat, error) {
	if expected != work.NoHeartbeat {
		return nil, croft.Errorf(croft.PreconditionFailed, "the lease is lost")
	}
	_, err := f.item(environment, id)
	return &work.Heartbeat{Type: "work_heartbeat", TTLSeconds: ttl}, err
}

func (f fakeWork) Stop(_ context.Context, _, environment, id string, _ bool) (*work.Item, error) {
	return f.item(environment, id)
}

func (f fakeWork) Spec(_ context.Context, _, id string) (*work.Spec, error) {
	return &work.Spec{Type: "work_spec", WorkID: id}, nil
}

type fakeModels []Model

func (f fakeModels) List() []Model { return f }

func (f fakeModels) Find(id string) (Model, bool) {
	for _, m := range f {
		if m.ID == id {
			return m, true
		}
	}
	if id == "panic" {
		panic("a fault in the program, with a secret: " + apiKey)
	}
	return Model{}, false
}

func (fakeAgents) CreateAgent(context.Context, string, []byte) (*croft.Agent, error) {
	return nil, croft.Invalid("name", "is missing")
}

func (fakeAgents) Agents(context.Context, string, agents.ListQuery) (*agents.List[*croft.Agent], error) {
	return &agents.List[*croft.Agent]{Data: []*croft.Agent{}}, nil
}

// server is an API over fake rooms, behind a real listener.
type server struct {
	*httptest.Server
	t     *testing.T
	api   *API
	rooms *fakeRooms
	log   *logBuffer
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t *testing.T, db *store.DB, change func(*Options)) *server {
	t.Helper()
	s := &server{t: t, rooms: &fakeRooms{}, log: &logBuffer{}}
	o := Options{DB: db, Access: principals(), Agents: fakeAgents{}, Environments: fakeEnvironments{}, Sessions: fakeSessions{fakeRooms: s.rooms}, Work: fakeWork{},
		Models: fakeModels{{ID: "m1"}, {ID: "m2"}, {ID: "m3"}, {ID: "org/m4"}}, Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if change != nil {
		change(&o)
	}
	api, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.api = api
	s.Server = httptest.NewServer(api)
	t.Cleanup(func() {
		_ = api.Shutdown(context.Background())
		s.Server.Close()
	})
	return s
}

// withDB is serve over each database.
func withDB(t *testing.T, fn func(t *testing.T, s *server)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, url string) {
		db, err := store.Open(t.Context(), store.Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		fn(t, serve(t, db, nil))
	})
}

// response is a whole answer.
type response struct {
	*http.Response
	body string
}

// errorType and errorMessage are those of the envelope.
func (r response) envelope() (typ, message string) {
	var e struct {
		Type  string
		Error struct{ Type, Message string }
		ID    string `json:"request_id"`
	}
	if json.Unmarshal([]byte(r.body), &e) != nil || e.Type != "error" || e.ID == "" || e.ID != r.Header.Get("request-id") {
		return "no envelope: " + r.body, ""
	}
	return e.Error.Type, e.Error.Message
}

// do sends a request with the beta header and an API key, which headers may replace; a
// header that is empty is left away.
func (s *server) do(method, path, body string, headers ...string) response {
	s.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, r)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("x-api-key", apiKey)
	req.Header.Set("anthropic-beta", managed)
	seen := map[string]bool{}
	for i := 0; i < len(headers); i += 2 {
		name := http.CanonicalHeaderKey(headers[i])
		if !seen[name] {
			req.Header.Del(name)
		}
		seen[name] = true
		if headers[i+1] != "" {
			req.Header.Add(name, headers[i+1])
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response{resp, string(b)}
}
