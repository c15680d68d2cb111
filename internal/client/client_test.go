package client

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/sse"
)

func newClient(t *testing.T, h http.HandlerFunc, o Options) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	o.BaseURL = srv.URL
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDoSendsWhatTheServerExpects(t *testing.T) {
	type seen struct {
		Method, Path, Beta, Version, Key, Auth, Type, Body string
	}
	for name, tc := range map[string]struct {
		o      Options
		method string
		in     any
		want   seen
	}{
		"a key": {Options{APIKey: "k"}, http.MethodGet, nil, seen{Key: "k"}},
		"a token and raw bytes": {Options{Token: "t"}, http.MethodPost, []byte(`{"a": 1}`),
			seen{Auth: "Bearer t", Type: "application/json", Body: `{"a": 1}`}},
		"a value, without escapes for HTML": {Options{Token: "t"}, http.MethodPost, map[string]string{"a": "<b>"},
			seen{Auth: "Bearer t", Type: "application/json", Body: `{"a":"<b>"}`}},
		"raw JSON": {Options{}, http.MethodPost, json.RawMessage(`[]`), seen{Type: "application/json", Body: `[]`}},
	} {
		t.Run(name, func(t *testing.T) {
			var got seen
			c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				got = seen{r.Method, r.URL.String(), r.Header.Get("anthropic-beta"), r.Header.Get("anthropic-version"),
					r.Header.Get("x-api-key"), r.Header.Get("Authorization"), r.Header.Get("Content-Type"), string(b)}
				_, _ = w.Write([]byte(`{"id":"x"}`))
			}, tc.o)
			var out struct{ ID string }
			if err := c.Do(t.Context(), tc.method, "/v1/things?limit=2", tc.in, &out); err != nil {
				t.Fatal(err)
			}
			want := tc.want
			want.Method, want.Path, want.Beta, want.Version = tc.method, "/v1/things?limit=2", beta, version
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			if out.ID != "x" {
				t.Errorf("answer: %+v", out)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		status    int
		header    map[string]string
		body      string
		want      croft.Error
		answer    Answer
		transient bool
	}{
		"an envelope": {400, map[string]string{"request-id": "req_1"},
			`{"type":"error","error":{"type":"invalid_request_error","message":"name: too long"},"request_id":"req_1"}`,
			croft.Error{Type: croft.InvalidRequest, Message: "name: too long"}, Answer{400, "req_1"}, false},
		"the id of the body": {409, nil, `{"type":"error","error":{"type":"conflict_error","message":"taken"},"request_id":"req_2"}`,
			croft.Error{Type: croft.Conflict, Message: "taken"}, Answer{409, "req_2"}, false},
		"not served": {501, nil, `{"type":"error","error":{"type":"api_error","message":"no"}}`,
			croft.Error{Type: croft.NotServed, Message: "no"}, Answer{501, ""}, false},
		"retry-after": {429, map[string]string{"retry-after": "7"}, `{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}`,
			croft.Error{Type: croft.RateLimited, Message: "slow", RetryAfter: 7 * time.Second}, Answer{429, ""}, true},
		"a proxy's page": {502, nil, "<html>\n<b>Bad\x00 Gateway</b>\n</html>",
			croft.Error{Type: croft.Overloaded, Message: "the server answered HTTP 502: <html> <b>Bad Gateway</b> </html>"}, Answer{502, ""}, true},
		"nothing at all": {404, nil, "", croft.Error{Type: croft.NotFound, Message: "the server answered HTTP 404"}, Answer{404, ""}, false},
		"a redirect":     {307, map[string]string{"Location": "/elsewhere"}, "", croft.Error{Type: croft.InvalidRequest, Message: "the server answered HTTP 307"}, Answer{307, ""}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/x" {
					t.Errorf("the client went on to %s", r.URL)
				}
				for k, v := range tc.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}, Options{Token: "t"})
			err := c.Do(t.Context(), http.MethodGet, "/v1/x", nil, nil)
			var e *croft.Error
			if !errors.As(err, &e) {
				t.Fatalf("error is %v (%T)", err, err)
			}
			got := *e
			got.Cause = nil
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			var a *Answer
			if !errors.As(err, &a) || *a != tc.answer || RequestID(err) != tc.answer.RequestID {
				t.Errorf("answer is %+v, want %+v", a, tc.answer)
			}
			if Transient(err) != tc.transient {
				t.Errorf("transient: %v", Transient(err))
			}
		})
	}
}

func TestTransportFailuresAreTransient(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	c, err := New(Options{BaseURL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), http.MethodGet, "/x?secret=1", nil, nil); !Transient(err) || strings.Contains(err.Error(), "secret") {
		t.Errorf("refused connection: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, o := range []Options{
		{BaseURL: ""}, {BaseURL: "127.0.0.1:8400"}, {BaseURL: "ftp://x"}, {BaseURL: "http://"}, {BaseURL: "http://u:p@h"},
		{BaseURL: "http://h?q=1"}, {BaseURL: "http://h", APIKey: "a", Token: "b"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was accepted", o)
		} else if strings.Contains(err.Error(), "u:p") {
			t.Errorf("the error repeats a secret: %v", err)
		}
	}
}

// streamServer answers the n-th request for a stream with the n-th part, and keeps what
// Last-Event-ID each named.
type streamServer struct {
	mu    sync.Mutex
	parts []string
	asked []string
}

func (s *streamServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	n := len(s.asked)
	s.asked = append(s.asked, r.Header.Get("Last-Event-ID"))
	s.mu.Unlock()
	if n >= len(s.parts) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if s.parts[n] == "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, s.parts[n])
	_ = http.NewResponseController(w).Flush()
	if strings.HasSuffix(s.parts[n], "cut") {
		panic(http.ErrAbortHandler)
	}
}

func TestFollowGoesOnBehindTheLastEvent(t *testing.T) {
	s := &streamServer{parts: []string{
		"event: ping\ndata: {}\n\nid: 1\ndata: a\n\nid: 2\ndata: b\n\ndata: cut",
		"",
		"data: preview\n\nid: 3\ndata: c\n\n",
	}}
	c := newClient(t, s.ServeHTTP, Options{})
	var got []string
	cuts := 0
	err := c.Follow(t.Context(), Follow{Path: "/s", LastID: "0",
		Frame: func(f sse.Frame) error { got = append(got, string(f.Data)); return nil },
		Cut:   func(error, time.Duration) { cuts++ }})
	if !croft.IsType(err, croft.NotFound) {
		t.Errorf("it ended with %v, want the server's refusal", err)
	}
	if diff := cmp.Diff([]string{"a", "b", "preview", "c"}, got); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"0", "2", "2", "3"}, s.asked); diff != "" || cuts != 3 {
		t.Errorf("Last-Event-ID, %d cuts (-want +got):\n%s", cuts, diff)
	}
}

func TestFollowEndsWithItsCaller(t *testing.T) {
	s := &streamServer{parts: []string{"data: a\n\ndata: b\n\n"}}
	c := newClient(t, s.ServeHTTP, Options{})
	n := 0
	if err := c.Follow(t.Context(), Follow{Path: "/s", Frame: func(sse.Frame) error { n++; return io.EOF }}); err != nil || n != 1 {
		t.Errorf("%d frames, then %v", n, err)
	}
	mine := errors.New("mine")
	s.asked = nil
	if err := c.Follow(t.Context(), Follow{Path: "/s", Frame: func(sse.Frame) error { return mine }}); !errors.Is(err, mine) {
		t.Errorf("it ended with %v", err)
	}
}

func TestStreamTellsTheServersReason(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"timeout_error\",\"message\":\"too slow\"},\"request_id\":\"req_9\"}\n\nevent: error\ndata: no JSON\n\n")
	}, Options{})
	s, err := c.Stream(t.Context(), "/s", "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Next(); !croft.IsType(err, croft.Timeout) || RequestID(err) != "req_9" {
		t.Errorf("the reason is %v", err)
	}
	if _, err := s.Next(); !croft.IsType(err, croft.Internal) {
		t.Errorf("a reason that is no envelope: %v", err)
	}
	if _, err := s.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
}

func TestSilentStreamIsGivenUp(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "data: a\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, Options{})
	s, err := c.stream(t.Context(), "/s", "", 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(); !errors.Is(err, errSilent) || !Transient(err) {
		t.Errorf("silence ended with %v", err)
	}
}

func TestBackoffGrowsWithTheOutage(t *testing.T) {
	var b Backoff
	if w := b.Next(errors.New("x")); w < 35*time.Millisecond || w > 65*time.Millisecond {
		t.Errorf("first wait is %v", w)
	}
	b.since = time.Now().Add(-10 * time.Second)
	if w := b.Next(errors.New("x")); w < 700*time.Millisecond || w > 1300*time.Millisecond {
		t.Errorf("after 10 s the wait is %v", w)
	}
	b.since = time.Now().Add(-time.Hour)
	if w := b.Next(errors.New("x")); w < 2*time.Second || w > 4*time.Second {
		t.Errorf("after an hour the wait is %v", w)
	}
	if w := b.Next(&croft.Error{Type: croft.RateLimited, RetryAfter: 20 * time.Second}); w != 20*time.Second {
		t.Errorf("retry-after of 20 s became %v", w)
	}
	b.Reset()
	if w := b.Next(errors.New("x")); w > 65*time.Millisecond {
		t.Errorf("first wait after a success is %v", w)
	}
	b.since = time.Now().Add(-time.Hour)
	woken := make(chan struct{})
	close(woken)
	if err := b.Wait(t.Context(), nil, woken); err != nil {
		t.Errorf("a wait that was woken: %v", err)
	}
}

func FuzzDecodeError(f *testing.F) {
	f.Add(400, "", []byte(`{"type":"error","error":{"type":"invalid_request_error","message":"m"},"request_id":"r"}`))
	f.Add(502, "3", []byte("<html>\xff\x00</html>"))
	f.Add(0, "-1", []byte(`{"error":{"type":1}}`))
	f.Add(200, "99999999999", []byte(`{"error":"x"}`))
	f.Fuzz(func(t *testing.T, status int, after string, body []byte) {
		e := decodeError(status, http.Header{"Retry-After": {after}}, body)
		if e.Message == "" || e.Type == "" || e.RetryAfter < 0 {
			t.Errorf("an error without type or message: %+v", e)
		}
		if !utf8.ValidString(e.Message) {
			t.Errorf("the message is no text: %q", e.Message)
		}
	})
}
