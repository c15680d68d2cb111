package worker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"croft"
	"croft/internal/client"
	"croft/internal/sse"
)

// server is a server of the worker's routes, made from their description: the queue in
// memory, and faults on demand.
type server struct {
	t    testing.TB
	addr string
	ttl  int // seconds

	mu       sync.Mutex
	http     *http.Server
	streams  map[*attached]struct{}
	sessions map[string]*remote // by session id
	changed  chan struct{}      // closed and replaced at each change
	// fault, if not nil, is asked for each request but the stream: "before" cuts the
	// connection before the request takes effect, "after" cuts it then; a channel holds
	// the request up until it is closed.
	fault    func(route string) (cut string, hold <-chan struct{})
	requests []string // routes, in order
}

// attached is an open stream of offers.
type attached struct {
	worker, incarnation string
	capacity            int
	frames              chan frame
	gone                chan struct{}
}

// remote is a session as the server knows it.
type remote struct {
	id, work string
	config   croft.EnvironmentConfig
	state    string // queued, active, stopped, deleted
	worker   string
	of       string // the incarnation that holds it
	token    string
	claims   int
	echo     string
	beats    int
	open     []toolCall
	results  map[string][]result
}

// result is what was posted for a call.
type result struct {
	Text    string
	IsError bool
}

const environment = "env_1"

func newServer(t testing.TB) *server {
	s := &server{t: t, ttl: 30, addr: "127.0.0.1:0", streams: map[*attached]struct{}{}, sessions: map[string]*remote{}, changed: make(chan struct{})}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// start listens; after a stop, on the same port.
func (s *server) start() {
	var l net.Listener
	var err error
	for range 100 {
		if l, err = net.Listen("tcp", s.addr); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/croft/offers", s.offers)
	for route, h := range map[string]func(*http.Request) (any, error){
		"POST /v1/environments/{env}/work/{work}/ack":       s.ack,
		"POST /v1/environments/{env}/work/{work}/heartbeat": s.heartbeat,
		"POST /v1/environments/{env}/work/{work}/stop":      s.stopWork,
		"GET /v1/environments/{env}/work/{work}":            s.item,
		"GET /v1/environments/{env}/work/{work}/croft/spec": s.spec,
		"POST /v1/sessions/{session}/events":                s.events,
	} {
		name := route[strings.LastIndex(route, "/")+1:]
		mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, name, h) })
	}
	srv := &http.Server{Handler: mux}
	s.mu.Lock()
	s.http = srv
	s.mu.Unlock()
	go srv.Serve(l)
}

// stop cuts every connection and listens no more.
func (s *server) stop() {
	s.mu.Lock()
	srv := s.http
	s.mu.Unlock()
	srv.Close()
}

func (s *server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// until waits for a condition, which is asked under the lock after every change.
func (s *server) until(what string, cond func() bool) {
	s.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		ok, changed := cond(), s.changed
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			s.t.Fatalf("waited too long for: %s", what)
		}
	}
}

func (s *server) client(token string) *client.Client {
	c, err := client.New(client.Options{BaseURL: "http://" + s.addr, Token: token})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// answer runs a handler with the faults that are asked for.
func (s *server) answer(w http.ResponseWriter, r *http.Request, name string, h func(*http.Request) (any, error)) {
	s.mu.Lock()
	s.requests = append(s.requests, name)
	s.notify()
	var cut string
	var hold <-chan struct{}
	if s.fault != nil {
		cut, hold = s.fault(name)
	}
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}
	if cut == "before" {
		panic(http.ErrAbortHandler)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	s.mu.Lock()
	out, err := h(r)
	s.notify()
	s.mu.Unlock()
	if cut == "after" {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("request-id", "req_1")
	if err != nil {
		var e *croft.Error
		if !errors.As(err, &e) {
			e = croft.Errorf(croft.Internal, "%v", err)
		}
		w.WriteHeader(e.Status())
		json.NewEncoder(w).Encode(map[string]any{"type": "error", "error": map[string]any{"type": e.Type, "message": e.Error()}, "request_id": "req_1"})
		return
	}
	json.NewEncoder(w).Encode(out)
}

func (s *server) byWork(r *http.Request) (*remote, error) {
	for _, x := range s.sessions {
		if x.work == r.PathValue("work") && x.state != "deleted" {
			return x, nil
		}
	}
	return nil, croft.Missing("work item", r.PathValue("work"))
}

func bearer(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

// held is byWork for requests under a lease's token.
func (s *server) held(r *http.Request) (*remote, error) {
	x, err := s.byWork(r)
	if err != nil {
		return nil, err
	}
	if token := bearer(r); token != "fleet" && (x.token == "" || token != x.token) {
		return nil, croft.Errorf(croft.Authentication, "the session token is unknown, or its lease is lost")
	}
	return x, nil
}

func (s *server) offers(w http.ResponseWriter, r *http.Request) {
	if bearer(r) != "fleet" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	q := r.URL.Query()
	a := &attached{worker: q.Get("worker"), incarnation: q.Get("incarnation"), frames: make(chan frame, 10000), gone: make(chan struct{})}
	fmt.Sscan(q.Get("capacity"), &a.capacity)
	s.mu.Lock()
	for old := range s.streams {
		if old.worker == a.worker {
			s.detach(old)
		}
	}
	a.frames <- frame{Type: "hello", HeartbeatS: s.ttl}
	s.streams[a] = struct{}{}
	for _, x := range s.sessions {
		if x.state == "active" && x.worker == a.worker && x.of != a.incarnation {
			s.release(x)
		}
	}
	for _, x := range s.sessions {
		switch {
		case x.state == "active" && x.worker == a.worker:
			for i := range x.open {
				a.frames <- frame{Type: "call", WorkID: x.work, SessionID: x.id, Call: &x.open[i]}
			}
		case x.state == "queued":
			s.offer(x)
		}
	}
	s.notify()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.detach(a)
		s.notify()
	}()
	w.Header().Set("Content-Type", sse.ContentType)
	for {
		select {
		case f := <-a.frames:
			data, _ := json.Marshal(f)
			if _, err := w.Write(sse.AppendFrame(nil, sse.Frame{Event: f.Type, Data: data})); err != nil {
				return
			}
			http.NewResponseController(w).Flush()
		case <-a.gone:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (s *server) detach(a *attached) {
	if _, ok := s.streams[a]; ok {
		delete(s.streams, a)
		close(a.gone)
	}
}

// disconnect ends every stream of offers.
func (s *server) disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range s.streams {
		s.detach(a)
	}
}

func (s *server) heldBy(worker string) (n int) {
	for _, x := range s.sessions {
		if x.state == "active" && x.worker == worker {
			n++
		}
	}
	return n
}

// offer shows a queued item to a worker that has room.
func (s *server) offer(x *remote) {
	for a := range s.streams {
		if s.heldBy(a.worker) < a.capacity {
			a.frames <- frame{Type: "offer", WorkID: x.work, EnvironmentID: environment, SessionID: x.id}
			return
		}
	}
}

func (s *server) tell(x *remote, f frame) {
	f.WorkID, f.SessionID = x.work, x.id
	for a := range s.streams {
		if a.worker == x.worker && a.incarnation == x.of {
			a.frames <- f
		}
	}
}

// release ends a lease, and offers the item again if calls are open.
func (s *server) release(x *remote) {
	x.state, x.worker, x.of, x.token = "stopped", "", "", ""
	if len(x.open) > 0 {
		x.state = "queued"
		s.offer(x)
	}
	for _, y := range s.sessions {
		if y != x && y.state == "queued" {
			s.offer(y)
		}
	}
}

func (s *server) ack(r *http.Request) (any, error) {
	x, err := s.byWork(r)
	if err != nil {
		return nil, err
	}
	if bearer(r) != "fleet" {
		return nil, croft.Errorf(croft.Permission, "a fleet key is needed")
	}
	if x.state != "queued" {
		return nil, croft.Errorf(croft.Conflict, "another worker has it")
	}
	q := r.URL.Query()
	x.state, x.worker, x.of, x.echo = "active", q.Get("worker"), q.Get("incarnation"), noHeartbeat
	x.claims++
	x.token = fmt.Sprintf("token-%s-%d", x.id, x.claims)
	for i := range x.open {
		if x.open[i].FirstWorker == "" {
			x.open[i].FirstWorker = x.worker
		}
	}
	secret, _ := json.Marshal(map[string]string{"sessions_token": x.token})
	return map[string]any{"id": x.work, "state": "starting", "secret": base64.RawURLEncoding.EncodeToString(secret)}, nil
}

func (s *server) heartbeat(r *http.Request) (any, error) {
	x, err := s.held(r)
	if err != nil {
		return nil, err
	}
	if x.state != "active" || r.URL.Query().Get("expected_last_heartbeat") != x.echo {
		return nil, croft.Errorf(croft.PreconditionFailed, "the lease is lost")
	}
	x.beats++
	x.echo = croft.Now().String()
	return heartbeat{LastHeartbeat: x.echo, State: "active", TTLSeconds: s.ttl}, nil
}

func (s *server) item(r *http.Request) (any, error) {
	x, err := s.held(r)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"id": x.work, "state": x.state, "latest_heartbeat_at": nil}
	if x.echo != noHeartbeat {
		out["latest_heartbeat_at"] = x.echo
	}
	return out, nil
}

func (s *server) stopWork(r *http.Request) (any, error) {
	x, err := s.held(r)
	if err != nil {
		return nil, err
	}
	if x.state == "stopped" {
		return nil, croft.Errorf(croft.Conflict, "it is stopped already")
	}
	s.release(x)
	return map[string]any{"id": x.work, "state": x.state}, nil
}

func (s *server) spec(r *http.Request) (any, error) {
	x, err := s.held(r)
	if err != nil {
		return nil, err
	}
	return workSpec{Config: x.config, Calls: slices.Clone(x.open)}, nil
}

func (s *server) events(r *http.Request) (any, error) {
	x := s.sessions[r.PathValue("session")]
	if x == nil || x.state == "deleted" {
		return nil, croft.Missing("session", r.PathValue("session"))
	}
	if x.token == "" || bearer(r) != x.token {
		return nil, croft.Errorf(croft.Authentication, "the lease of this session token is lost")
	}
	var in struct {
		Events []struct {
			Type      string `json:"type"`
			ToolUseID string `json:"tool_use_id"`
			Content   []struct{ Type, Text string }
			IsError   bool `json:"is_error"`
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Events) != 1 || in.Events[0].Type != "user.tool_result" {
		return nil, croft.Invalid("events", "not what is accepted: %v", err)
	}
	e := in.Events[0]
	i := slices.IndexFunc(x.open, func(c toolCall) bool { return c.ID == e.ToolUseID })
	if i < 0 {
		return nil, croft.Invalid("events.0.tool_use_id", "%q names no open call of this session", e.ToolUseID)
	}
	if len(e.Content) == 1 && strings.Contains(e.Content[0].Text, "refuse this result") && !e.IsError {
		return nil, croft.Invalid("events.0.content", "the server won't have it")
	}
	x.open = slices.Delete(slices.Clone(x.open), i, i+1)
	var text strings.Builder
	for _, c := range e.Content {
		text.WriteString(c.Text)
	}
	x.results[e.ToolUseID] = append(x.results[e.ToolUseID], result{text.String(), e.IsError})
	return map[string]any{"data": []any{}}, nil
}

// What the tests do with the server.

func (s *server) add(id string, config croft.EnvironmentConfig) *remote {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := &remote{id: id, work: "work_" + id, config: config, state: "stopped", results: map[string][]result{}}
	s.sessions[id] = x
	return x
}

// call opens a call of a session and gives it out.
func (s *server) call(x *remote, name string, input any) string {
	b, err := json.Marshal(input)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := toolCall{ID: croft.NewID(croft.PrefixEvent), Name: name, Input: b, FirstWorker: x.worker}
	x.open = append(slices.Clone(x.open), c)
	switch x.state {
	case "active":
		s.tell(x, frame{Type: "call", Call: &c})
	case "stopped":
		x.state = "queued"
		s.offer(x)
	}
	return c.ID
}

// bash opens a call of the bash tool.
func (s *server) bash(x *remote, command string) string {
	return s.call(x, "bash", map[string]string{"command": command})
}

// result waits for a call's result and holds it to be the only one.
func (s *server) result(x *remote, id string) result {
	s.t.Helper()
	s.until("the result of "+id, func() bool { return len(x.results[id]) > 0 })
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(x.results[id]); n != 1 {
		s.t.Errorf("call %s has %d results", id, n)
	}
	return x.results[id][0]
}

// want holds a result to be a success with a text in it, or an error with it.
func (s *server) want(x *remote, id, text string, isError bool) {
	s.t.Helper()
	if r := s.result(x, id); r.IsError != isError || !strings.Contains(r.Text, text) {
		s.t.Errorf("the result is %+v, want one with %q and is_error %v", r, text, isError)
	}
}

// interrupt settles a call by itself and tells the holder.
func (s *server) interrupt(x *remote, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.open = slices.DeleteFunc(slices.Clone(x.open), func(c toolCall) bool { return c.ID == id })
	s.tell(x, frame{Type: "cancel", CallID: id})
}

// lose ends a lease as if it had expired; nobody is told.
func (s *server) lose(x *remote) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(x)
	s.notify()
}

// repeat sends the open calls of a session again.
func (s *server) repeat(x *remote, calls []toolCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range calls {
		s.tell(x, frame{Type: "call", Call: &calls[i]})
	}
}

func (s *server) openCalls(x *remote) []toolCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(x.open)
}

func (s *server) setFault(f func(route string) (string, <-chan struct{})) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// once cuts the first request of a route.
func once(route, cut string) func(string) (string, <-chan struct{}) {
	done := false
	return func(r string) (string, <-chan struct{}) {
		if r != route || done {
			return "", nil
		}
		done = true
		return cut, nil
	}
}

func (s *server) waitState(x *remote, state string) {
	s.t.Helper()
	s.until("session "+x.id+" to be "+state, func() bool { return x.state == state })
}

// running is a worker that runs in this process.
type running struct {
	*Worker
	stop context.CancelFunc
	err  chan error
}

// end stops it hard and waits.
func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	r.wait(t)
}

// wait waits for Run to return, which it must do without an error.
func (r *running) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.err:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
		r.err <- nil
	case <-time.After(30 * time.Second):
		t.Fatal("Run does not return")
	}
}
