package sse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// queue is a Source that a test fills.
type queue struct {
	ready  chan struct{}
	mu     sync.Mutex
	frames []Frame
	bytes  int
	bound  int // of bytes; 0: none
	err    error
	closed bool
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

func (q *queue) push(frames ...Frame) {
	q.mu.Lock()
	for _, f := range frames {
		if q.bytes += len(f.Data); q.bound > 0 && q.bytes > q.bound {
			q.err = errors.New("the source is full")
			break
		}
		q.frames = append(q.frames, f)
	}
	q.mu.Unlock()
	q.signal()
}

func (q *queue) end(err error) {
	q.mu.Lock()
	q.err = err
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

func (q *queue) Ready() <-chan struct{} { return q.ready }

func (q *queue) Poll(context.Context) ([]Frame, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames := q.frames
	q.frames, q.bytes = nil, 0
	if len(frames) > 0 {
		if q.err != nil {
			q.signal()
		}
		return frames, nil
	}
	return nil, q.err
}

func (q *queue) Close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
}

func (q *queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

func frame(i int) Frame {
	return Frame{ID: fmt.Sprint(i), Event: "n", Data: fmt.Appendf(nil, `{"n":%d}`, i)}
}

func lastWords(err error, request string) []byte {
	return fmt.Appendf(nil, `{"message":%q,"request_id":%q}`, err, request)
}

// fixture is a server that streams one source over the wire.
type fixture struct {
	*httptest.Server
	hub *Hub
	src chan *queue // the sources of the streams that were opened
}

// serve starts the server; shape changes it before it listens.
func serve(t *testing.T, o Options, shape func(*httptest.Server)) *fixture {
	t.Helper()
	o.LastWords = lastWords
	f := &fixture{hub: NewHub(o), src: make(chan *queue, 64)}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		src := newQueue()
		w.Header().Set("request-id", "req_1")
		f.src <- src // before Serve, which may stay until the stream's end
		if err := f.hub.Serve(w, r, src); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}))
	if shape == nil {
		shape = (*httptest.Server).Start
	}
	shape(f.Server)
	t.Cleanup(func() {
		_ = f.hub.Shutdown(context.Background())
		f.Server.Close()
	})
	return f
}

func (f *fixture) open(t *testing.T) (*http.Response, *queue) {
	t.Helper()
	resp, err := f.Client().Get(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp, <-f.src
}

// modes are the ways in which a stream is served.
var modes = map[string]func(*httptest.Server){
	"taken over": (*httptest.Server).Start,
	"TLS":        (*httptest.Server).StartTLS,
	"HTTP/2":     func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() },
}

func TestStream(t *testing.T) {
	for name, shape := range modes {
		t.Run(name, func(t *testing.T) {
			f := serve(t, Options{}, shape)
			resp, src := f.open(t)
			if got := resp.Header.Get("Content-Type"); got != ContentType {
				t.Errorf("content type %q", got)
			}
			if resp.Header.Get("request-id") != "req_1" || resp.Header.Get("Date") == "" {
				t.Errorf("headers: %v", resp.Header)
			}
			if open := f.hub.Open(); (open == 1) != (name == "taken over") {
				t.Errorf("%d streams are taken over", open)
			}
			r := NewReader(resp.Body, 0)
			for i := range 100 {
				src.push(frame(i))
			}
			large := Frame{ID: "large", Event: "n", Data: []byte("[" + strings.Repeat("1,\n", 3*piece) + "1]")}
			src.push(frame(100), large, frame(101))
			src.push(Frame{Event: "preview", Data: []byte(strings.Repeat("x", piece-10))})
			for i := range 101 {
				got, err := r.Next()
				if err != nil || got.ID != fmt.Sprint(i) || got.Event != "n" {
					t.Fatalf("frame %d: %+v, %v", i, got, err)
				}
			}
			got, err := r.Next()
			if err != nil || string(got.Data) != strings.ReplaceAll(string(large.Data), "\n", " ") {
				t.Fatalf("the large frame: %d bytes, %v", len(got.Data), err)
			}
			if got, err = r.Next(); err != nil || got.ID != "101" {
				t.Fatalf("%+v, %v", got, err)
			}
			if got, err = r.Next(); err != nil || got.ID != "" || r.LastID() != "101" || len(got.Data) != piece-10 {
				t.Fatalf("%+v, %v", got, err)
			}
			src.end(io.EOF)
			if _, err := r.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("the clean end: %v", err)
			}
			eventually(t, "the source is closed", src.isClosed)
			eventually(t, "the stream is gone", func() bool { return f.hub.Open() == 0 })
		})
	}
}

func TestStreamEndsWithReason(t *testing.T) {
	for name, shape := range modes {
		t.Run(name, func(t *testing.T) {
			f := serve(t, Options{}, shape)
			resp, src := f.open(t)
			src.push(frame(1))
			src.end(errors.New("fell behind"))
			got, err := readAll(NewReader(resp.Body, 0))
			if !errors.Is(err, io.EOF) || len(got) != 2 {
				t.Fatalf("%+v, %v", got, err)
			}
			if got[1].Event != "error" || string(got[1].Data) != `{"message":"fell behind","request_id":"req_1"}` {
				t.Errorf("%s: %s", got[1].Event, got[1].Data)
			}
		})
	}
}

func TestHeartbeat(t *testing.T) {
	for name, shape := range modes {
		t.Run(name, func(t *testing.T) {
			f := serve(t, Options{Heartbeat: 40 * time.Millisecond}, shape)
			resp, src := f.open(t)
			r := NewReader(resp.Body, 0)
			for range 3 {
				got, err := r.Next()
				if err != nil || got.Event != "ping" || string(got.Data) != `{"type":"ping"}` {
					t.Fatalf("%+v, %v", got, err)
				}
			}
			src.push(frame(1))
			for {
				got, err := r.Next()
				if err != nil {
					t.Fatal(err)
				}
				if got.Event == "n" {
					break
				}
			}
		})
	}
}

func TestClientLeaves(t *testing.T) {
	for name, shape := range modes {
		t.Run(name, func(t *testing.T) {
			f := serve(t, Options{Heartbeat: 20 * time.Millisecond}, shape)
			resp, src := f.open(t)
			_ = resp.Body.Close()
			eventually(t, "the source is closed", src.isClosed)
			eventually(t, "the stream is gone", func() bool { return f.hub.Open() == 0 })
		})
	}
}

func TestShutdown(t *testing.T) {
	for name, shape := range modes {
		t.Run(name, func(t *testing.T) {
			f := serve(t, Options{}, shape)
			resp, src := f.open(t)
			if err := f.hub.Shutdown(context.Background()); err != nil {
				t.Fatal(err)
			}
			if !src.isClosed() {
				t.Error("Shutdown returned before the stream had ended")
			}
			if got, err := readAll(NewReader(resp.Body, 0)); !errors.Is(err, io.EOF) || len(got) != 0 {
				t.Errorf("the clean end: %+v, %v", got, err)
			}
			resp, err := f.Client().Get(f.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			if late := <-f.src; resp.StatusCode != http.StatusServiceUnavailable || !late.isClosed() {
				t.Errorf("a stream opened after Shutdown: %d", resp.StatusCode)
			}
		})
	}
}

// smallBuffers makes the kernel's buffers small, so that a client that does not read is felt soon.
func smallBuffers(s *httptest.Server) {
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		_ = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
		return ctx
	}
	s.Start()
}

// dial opens a stream by hand, with a small window.
func (f *fixture) dial(t *testing.T, version string) (net.Conn, *http.Response, *queue) {
	t.Helper()
	conn, err := net.Dial("tcp", f.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if _, err := fmt.Fprintf(conn, "GET / HTTP/%s\r\nHost: x\r\n\r\n", version); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn, resp, <-f.src
}

// hijackable is a response whose connection is one end of a pipe.
type hijackable struct {
	http.ResponseWriter
	conn net.Conn
}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return h.conn, nil, nil }

// overPipe starts a stream over a pipe, which buffers nothing.
func overPipe(t *testing.T, hub *Hub, src Source) net.Conn {
	t.Helper()
	server, client := net.Pipe()
	w := hijackable{httptest.NewRecorder(), server}
	w.Header().Set("request-id", "req_1")
	if err := hub.Serve(w, httptest.NewRequest(http.MethodGet, "/", nil), src); err != nil {
		t.Fatal(err)
	}
	return client
}

func TestSlowClientIsDropped(t *testing.T) {
	flood := func(src *queue, size int) {
		data := []byte(`"` + strings.Repeat("x", size) + `"`)
		for i := range 200 {
			src.push(Frame{ID: fmt.Sprint(i), Event: "n", Data: data})
		}
	}
	// The client takes some bytes and then nothing for that long; what can it read then?
	pause := func(t *testing.T, fill func(*queue), wait time.Duration) (got []Frame, err error) {
		synctest.Test(t, func(t *testing.T) {
			hub := NewHub(Options{LastWords: lastWords})
			src := newQueue()
			fill(src)
			client := overPipe(t, hub, src)
			r := bufio.NewReader(client)
			resp, rerr := http.ReadResponse(r, nil)
			if rerr != nil {
				t.Fatal(rerr)
			}
			if _, rerr := r.Peek(1); rerr != nil {
				t.Fatal(rerr)
			}
			time.Sleep(wait)
			got, err = readAll(NewReader(resp.Body, 0))
			if serr := hub.Shutdown(context.Background()); serr != nil || !src.isClosed() {
				t.Errorf("Shutdown: %v; the source closed: %v", serr, src.isClosed())
			}
		})
		for i, f := range got {
			if f.Event == "n" && f.ID != "" && f.ID != fmt.Sprint(i) {
				t.Fatalf("frame %d has id %q", i, f.ID)
			}
		}
		return got, err
	}
	const timeout = 10 * time.Second // the hub's default
	small := func(src *queue) { flood(src, 100) }
	large := func(src *queue) { src.push(Frame{Event: "n", Data: []byte(strings.Repeat("x", 4<<20))}) }

	t.Run("not within the time-out", func(t *testing.T) {
		got, err := pause(t, func(src *queue) { small(src); src.end(io.EOF) }, timeout-time.Second)
		if len(got) != 200 || !errors.Is(err, io.EOF) {
			t.Errorf("%d frames, %v", len(got), err)
		}
	})
	t.Run("in the last grace it hears why", func(t *testing.T) {
		got, err := pause(t, small, timeout+lastGrace/2)
		if len(got) != 201 || !errors.Is(err, io.EOF) {
			t.Fatalf("%d frames, %v", len(got), err)
		}
		if last := got[200]; last.Event != "error" || !strings.Contains(string(last.Data), "Last-Event-ID") {
			t.Errorf("the last frame is %s %s", last.Event, last.Data)
		}
	})
	t.Run("later it finds a cut", func(t *testing.T) {
		if got, err := pause(t, small, timeout+2*lastGrace); !errors.Is(err, io.ErrUnexpectedEOF) || len(got) >= 200 {
			t.Errorf("%d frames, %v", len(got), err)
		}
	})
	t.Run("in a large event it finds a cut, and no half event", func(t *testing.T) {
		if got, err := pause(t, large, timeout+lastGrace/2); !errors.Is(err, io.ErrUnexpectedEOF) || len(got) != 0 {
			t.Errorf("%d frames, %v", len(got), err)
		}
	})
	t.Run("by the source's bound", func(t *testing.T) {
		got, err := pause(t, func(src *queue) { src.bound = 10_000; small(src) }, timeout/2)
		if !errors.Is(err, io.EOF) || len(got) >= 200 || got[len(got)-1].Event != "error" {
			t.Errorf("%d frames, %v", len(got), err)
		}
	})
	t.Run("and holds up nobody", func(t *testing.T) {
		f := serve(t, Options{}, smallBuffers)
		_, _, slow := f.dial(t, "1.1")
		resp, quick := f.open(t)
		flood(slow, 10_000)
		flood(quick, 10)
		r := NewReader(resp.Body, 0)
		for i := range 200 {
			if got, err := r.Next(); err != nil || got.ID != fmt.Sprint(i) {
				t.Fatalf("frame %d: %+v, %v", i, got, err)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		if err := f.hub.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown with a client that does not read: %v", err)
		}
		if !slow.isClosed() {
			t.Error("the slow stream is left open")
		}
	})
}

func TestOldClient(t *testing.T) {
	f := serve(t, Options{}, nil)
	_, resp, src := f.dial(t, "1.0")
	if len(resp.TransferEncoding) > 0 || f.hub.Open() != 0 {
		t.Errorf("HTTP/1.0 knows no chunks: %v", resp.TransferEncoding)
	}
	src.push(frame(1))
	src.end(io.EOF)
	if got, err := readAll(NewReader(resp.Body, 0)); len(got) != 1 || !errors.Is(err, io.EOF) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestServeNext(t *testing.T) {
	hub := NewHub(Options{Heartbeat: 20 * time.Millisecond, LastWords: lastWords})
	frames := make(chan Frame)
	fail := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = hub.ServeNext(w, r, func(ctx context.Context) ([]Frame, error) {
			select {
			case f := <-frames:
				return []Frame{f}, nil
			case err := <-fail:
				return nil, err
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
	}))
	defer srv.Close()
	defer func() { _ = hub.Shutdown(context.Background()) }()
	open := func() *Reader {
		resp, err := http.Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return NewReader(resp.Body, 0)
	}
	next := func(r *Reader) Frame {
		for {
			f, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if f.Event != "ping" {
				return f
			}
		}
	}
	r := open()
	if f, err := r.Next(); err != nil || f.Event != "ping" {
		t.Fatalf("%+v, %v", f, err)
	}
	frames <- frame(1)
	if f := next(r); f.ID != "1" {
		t.Errorf("%+v", f)
	}
	fail <- errors.New("taken away")
	if f := next(r); f.Event != "error" || !strings.Contains(string(f.Data), "taken away") {
		t.Errorf("%+v", f)
	}
	r = open()
	fail <- io.EOF
	for {
		if f, err := r.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil || f.Event != "ping" {
			t.Fatalf("%+v, %v", f, err)
		}
	}
	r = open()
	if err := hub.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// eventually waits for what must happen; it fails only after a time that no machine needs.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never came: %s", what)
}
