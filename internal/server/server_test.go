package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"croft"
	"croft/internal/client"
	"croft/internal/config"
	_ "croft/internal/entry" // the test's binary is the hand and the first process of its sandboxes
	"croft/internal/model/registry"
	"croft/internal/store"
	"croft/internal/store/storetest"
)

// conf is a configuration over a data folder of the test's own. Tools run without a
// sandbox: what a sandbox does is tested with its driver and with the command.
func conf(t *testing.T) *config.Config {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	cassette := filepath.Join(t.TempDir(), "cassette.yaml")
	err := os.WriteFile(cassette, []byte(`
timing: none
conversations:
  - user: wait
    turns:
      - reply: [{bash: sleep 60}]
      - reply: Done.
  - user: "*"
    loop: true
    turns:
      - reply: [{bash: echo hello from the tool}]
      - reply: "It said: {{tool_result}}"
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return &config.Config{Data: data, DatabaseURL: "sqlite:" + filepath.Join(data, "croft.db"), Driver: DriverNone, ShutdownTimeout: 10 * time.Second,
		Models: []registry.Entry{{ID: "played", Provider: registry.Replay, Path: cassette}}}
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func clientOf(t *testing.T, base, key string, transport http.RoundTripper) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{BaseURL: base, APIKey: key, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// begin makes a session with its first message.
func begin(t *testing.T, c *client.Client, text string) string {
	t.Helper()
	ctx := context.Background()
	var made struct{ ID string }
	post := func(path string, body any) string {
		t.Helper()
		if err := c.Do(ctx, http.MethodPost, path, body, &made); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return made.ID
	}
	agent := post("/v1/agents", map[string]any{"name": "a", "model": "played", "tools": []any{map[string]string{"type": croft.ToolsetAgent}}})
	env := post("/v1/environments", map[string]any{"name": "e", "config": map[string]string{"type": croft.EnvironmentCloud}})
	return post("/v1/sessions", map[string]any{"agent": agent, "environment_id": env,
		"initial_events": []any{map[string]any{"type": croft.UserMessage, "content": []any{map[string]string{"type": "text", "text": text}}}}})
}

// texts waits until a session rests, and returns the texts of its messages and results.
func texts(t *testing.T, c *client.Client, id string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := c.Stream(ctx, "/v1/sessions/"+id+"/events/stream", "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for {
		var now croft.Session
		if err := c.Do(ctx, http.MethodGet, "/v1/sessions/"+id, nil, &now); err != nil {
			t.Fatal(err)
		}
		if now.Status == croft.StatusIdle {
			break
		}
		for {
			f, err := s.Next()
			if err != nil {
				t.Fatal(err)
			}
			if f.Event == string(croft.SessionIdle) {
				break
			}
		}
	}
	var page struct {
		Data []struct {
			Content []struct{ Text string }
		}
	}
	if err := c.Do(ctx, http.MethodGet, "/v1/sessions/"+id+"/events?limit=1000", nil, &page); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, e := range page.Data {
		for _, b := range e.Content {
			fmt.Fprintln(&all, b.Text)
		}
	}
	return all.String()
}

func TestWhole(t *testing.T) {
	cfg := conf(t)
	s := start(t, Options{Config: cfg, Role: Up, Listen: "127.0.0.1:0", Version: "test"})

	kept, err := ReadAPIKey(cfg.Data)
	if err != nil || kept == "" || kept != s.FirstKey() {
		t.Fatalf("kept key %q, first key %q, %v", kept, s.FirstKey(), err)
	}
	if info, err := os.Stat(KeyPath(cfg.Data)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
	st, err := FindRunning(context.Background(), cfg.Data)
	if err != nil || st == nil || st.Address != s.URL() || st.PID != os.Getpid() || st.Version != "test" {
		t.Errorf("state %+v, %v", st, err)
	}

	// Over the network with the kept key, and without one with the process's own.
	for name, c := range map[string]*client.Client{
		"network":    clientOf(t, s.URL(), kept, nil),
		"in process": clientOf(t, "http://any", s.LocalKey(), s.Transport()),
	} {
		if got := texts(t, c, begin(t, c, "go")); !strings.Contains(got, "It said: hello from the tool") {
			t.Errorf("%s: %s", name, got)
		}
	}

	stop(t, s)
	if st, err := ReadState(cfg.Data); st != nil || err != nil {
		t.Errorf("after the stop: state %+v, %v", st, err)
	}
	stop(t, s) // again: nothing to do

	// The next start has no first key, and the old one holds.
	s = start(t, Options{Config: cfg, Role: Up, Listen: "127.0.0.1:0"})
	if s.FirstKey() != "" {
		t.Errorf("a second first key: %q", s.FirstKey())
	}
	c := clientOf(t, s.URL(), kept, nil)
	if got := texts(t, c, begin(t, c, "go")); !strings.Contains(got, "hello from the tool") {
		t.Error(got)
	}
}

func TestMain(m *testing.M) {
	code := m.Run()
	storetest.Stop()
	os.Exit(code)
}

// TestLost ends the connection that says which sessions are this server's: it must say so,
// and be stopped, and the next one must go on.
func TestLost(t *testing.T) {
	cfg := conf(t)
	cfg.DatabaseURL = storetest.Postgres(t)
	s := start(t, Options{Config: cfg, Role: Up, Listen: "127.0.0.1:0"})
	c := clientOf(t, s.URL(), s.FirstKey(), nil)
	id := begin(t, c, "go")
	if got := texts(t, c, id); !strings.Contains(got, "hello from the tool") {
		t.Error(got)
	}
	conn, err := pgx.Connect(context.Background(), cfg.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Lost():
	case <-time.After(30 * time.Second):
		t.Fatal("the server did not notice within 30 s")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s.Stop(ctx) // what the lost connections make of it is not the matter here
	s = start(t, Options{Config: cfg, Role: Up, Listen: "127.0.0.1:0"})
	key, err := ReadAPIKey(cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	c = clientOf(t, s.URL(), key, nil)
	if got := texts(t, c, begin(t, c, "go")); !strings.Contains(got, "hello from the tool") {
		t.Error(got)
	}
}

func TestStopInTheMiddle(t *testing.T) {
	cfg := conf(t)
	s := start(t, Options{Config: cfg, Role: Up})
	c := clientOf(t, "http://any", s.LocalKey(), s.Transport())
	id := begin(t, c, "wait")
	var seen bool
	for until := time.Now().Add(20 * time.Second); !seen && time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		var page struct{ Data []struct{ Type string } }
		if err := c.Do(context.Background(), http.MethodGet, "/v1/sessions/"+id+"/events", nil, &page); err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Data {
			seen = seen || e.Type == string(croft.AgentToolUse)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
	// The session is taken up by the next start: it is not lost and not stuck. Whether the
	// call had begun decides how it is answered.
	s = start(t, Options{Config: cfg, Role: Passive})
	c = clientOf(t, "http://any", s.LocalKey(), s.Transport())
	var now croft.Session
	if err := c.Do(context.Background(), http.MethodGet, "/v1/sessions/"+id, nil, &now); err != nil || now.ID != id {
		t.Errorf("%+v, %v", now, err)
	}
}

func TestInTheWay(t *testing.T) {
	cfg := conf(t)
	s := start(t, Options{Config: cfg, Role: Up, Listen: "127.0.0.1:0"})
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}

	var running *RunningError
	if _, err := Start(context.Background(), Options{Config: cfg, Role: Up, Listen: "127.0.0.1:0"}); !errors.As(err, &running) || !strings.Contains(err.Error(), s.URL()) {
		t.Errorf("the same folder: %v", err)
	}
	var locked *store.LockedError
	if _, err := Start(context.Background(), Options{Config: cfg, Role: Passive}); !errors.As(err, &locked) {
		t.Errorf("the same database: %v", err)
	}
	var taken *PortError
	if _, err := Start(context.Background(), Options{Config: conf(t), Role: Up, Listen: "127.0.0.1:" + port}); !errors.As(err, &taken) || !taken.Croft || !strings.Contains(err.Error(), "port "+port+" is in use") {
		t.Errorf("the same port: %v", err)
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() { // ends when the listener closes
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	if _, err := Start(context.Background(), Options{Config: conf(t), Role: Up, Listen: other.Addr().String()}); !errors.As(err, &taken) || taken.Croft {
		t.Errorf("another program's port: %v", err)
	}
	if _, err := Start(context.Background(), Options{Config: conf(t), Role: Up, Listen: "192.0.2.1:8400"}); err == nil || !strings.Contains(err.Error(), "no address of this machine") {
		t.Errorf("another machine's address: %v", err)
	}
}

// TestFailedStart sees that a start that fails lets go of everything.
func TestFailedStart(t *testing.T) {
	cfg := conf(t)
	cfg.Models = append(cfg.Models, registry.Entry{ID: "gone", Provider: registry.Replay, Path: "/nowhere/cassette.yaml"})
	if _, err := Start(context.Background(), Options{Config: cfg, Role: Up, Listen: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), "models.1.path") {
		t.Fatalf("got %v", err)
	}
	cfg.Models = cfg.Models[:1]
	start(t, Options{Config: cfg, Role: Up, Listen: "127.0.0.1:0"})
}

func TestStaleState(t *testing.T) {
	cfg := conf(t)
	if err := prepareFolder(cfg.Data); err != nil {
		t.Fatal(err)
	}
	for name, st := range map[string]State{
		"dead":             {Address: "http://127.0.0.1:1", PID: 1 << 30},
		"another's number": {Address: "http://127.0.0.1:1", PID: os.Getpid()},
	} {
		if err := writeState(cfg.Data, st); err != nil {
			t.Fatal(err)
		}
		if got, err := FindRunning(context.Background(), cfg.Data); got != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if err := os.WriteFile(filepath.Join(cfg.Data, stateFile), []byte(`{"addr`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := FindRunning(context.Background(), cfg.Data); got != nil || err != nil {
		t.Errorf("half a file: %+v, %v", got, err)
	}
	start(t, Options{Config: cfg, Role: Plane, Listen: "127.0.0.1:0"})
}

// TestKeys sees which key is kept, shown and accepted.
func TestKeys(t *testing.T) {
	cfg := conf(t)
	s := start(t, Options{Config: cfg, Role: Plane, Listen: "127.0.0.1:0"})
	first := s.FirstKey()
	stop(t, s)

	// The file is lost: the database holds hashes alone, so a further key is made.
	if err := os.Remove(KeyPath(cfg.Data)); err != nil {
		t.Fatal(err)
	}
	s = start(t, Options{Config: cfg, Role: Plane, Listen: "127.0.0.1:0"})
	second := s.FirstKey()
	if second == "" || second == first {
		t.Errorf("a key for a folder without one: %q", second)
	}
	stop(t, s)

	cfg.APIKey = "croft_api_of-my-own"
	s = start(t, Options{Config: cfg, Role: Plane, Listen: "127.0.0.1:0"})
	for _, key := range []string{first, second, cfg.APIKey} {
		if err := clientOf(t, s.URL(), key, nil).Do(context.Background(), http.MethodGet, "/v1/sessions", nil, nil); err != nil {
			t.Errorf("key …%s: %v", key[len(key)-4:], err)
		}
	}
	err := clientOf(t, s.URL(), "croft_api_wrong", nil).Do(context.Background(), http.MethodGet, "/v1/sessions", nil, nil)
	if !croft.IsType(err, croft.Authentication) {
		t.Errorf("a wrong key: %v", err)
	}
}

func TestPassive(t *testing.T) {
	cfg := conf(t)
	s := start(t, Options{Config: cfg, Role: Passive})
	c := clientOf(t, "http://any", s.LocalKey(), s.Transport())
	var list struct{ Data []json.RawMessage }
	if err := c.Do(context.Background(), http.MethodGet, "/v1/sessions", nil, &list); err != nil || len(list.Data) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if st, err := ReadState(cfg.Data); st != nil || err != nil {
		t.Errorf("it says that it serves: %+v, %v", st, err)
	}
}

func TestModels(t *testing.T) {
	t.Setenv("ANTHROPIC_API_KEY", "sk-nothing")
	s := start(t, Options{Config: conf(t), Role: Plane, Listen: "127.0.0.1:0"})
	c := clientOf(t, s.URL(), s.LocalKey(), nil)
	var m struct {
		ID             string
		DisplayName    string `json:"display_name"`
		MaxInputTokens int64  `json:"max_input_tokens"`
	}
	for id, want := range map[string]string{"played": "played", "claude-opus-5": "claude-opus-5", "claude-haiku-4-5": "claude-haiku-4-5-20251001"} {
		if err := c.Do(context.Background(), http.MethodGet, "/v1/models/"+id, nil, &m); err != nil || m.ID != want {
			t.Errorf("%s: %+v, %v", id, m, err)
		}
	}
	if err := c.Do(context.Background(), http.MethodGet, "/v1/models/no-such", nil, &m); !croft.IsType(err, croft.NotFound) {
		t.Errorf("no such model: %v", err)
	}
	if err := s.CheckModel("played"); err != nil {
		t.Error(err)
	}
	stop(t, s)

	// A key of Croft's own is no model's.
	t.Setenv("ANTHROPIC_API_KEY", "croft_api_x")
	s = start(t, Options{Config: conf(t), Role: Plane, Listen: "127.0.0.1:0"})
	if err := s.CheckModel("claude-opus-5"); err == nil || len(s.Warnings()) != 1 {
		t.Errorf("%v, %v", err, s.Warnings())
	}
}

func TestWarnings(t *testing.T) {
	cfg := conf(t)
	for _, tt := range []struct {
		name, listen, driver string
		role                 Role
		want                 string
	}{
		{"loopback", "127.0.0.1:0", DriverLocal, Up, "not yet enforced"},
		{"loopback, by name", "localhost:0", DriverLocal, Plane, ""},
		{"everywhere", "0.0.0.0:0", DriverLocal, Plane, "not encrypted"},
		{"every interface", ":0", DriverLocal, Plane, "not encrypted"},
		{"no driver", "[::1]:0", DriverNone, Up, "WITHOUT ANY ISOLATION"},
	} {
		c := *cfg
		c.Driver = tt.driver
		s := &Server{o: Options{Listen: tt.listen, Role: tt.role}, cfg: &c}
		got := strings.Join(s.Warnings(), "\n")
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
}

func TestFolderErrors(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&os.PathError{Op: "open", Path: "x", Err: syscall.ENOSPC}, "is full: make room"},
		{&os.PathError{Op: "open", Path: "x", Err: syscall.EROFS}, "read-only file system"},
		{&os.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, "cannot be written by this user"},
		{&os.PathError{Op: "mkdir", Path: "x", Err: syscall.ENOTDIR}, "a file is in the way"},
		{io.ErrUnexpectedEOF, "unexpected EOF"},
	} {
		got := folderError("/data", tt.err).Error()
		if !strings.Contains(got, tt.want) || !strings.Contains(got, "/data") {
			t.Errorf("%v: %s", tt.err, got)
		}
	}
}

func TestPortError(t *testing.T) {
	e := &PortError{Address: "127.0.0.1:8400"}
	want := "port 8400 is in use: another program listens on 127.0.0.1:8400; choose another port with --listen 127.0.0.1:PORT, or a free one with --listen 127.0.0.1:0"
	if e.Error() != want {
		t.Errorf("%s", e)
	}
}
