package sse

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// ErrStopping is returned by Serve once Shutdown was called; nothing was written.
var ErrStopping = errors.New("sse: the server is stopping")

// ErrSlow ends a stream whose client did not take a piece within the write time-out.
var ErrSlow = errors.New("the client read too slowly and was dropped; open the stream again with Last-Event-ID")

// Options are what a Hub is made of. Zero values mean the defaults.
type Options struct {
	// Heartbeat is the longest silence of a stream; 9 s. A client may rely on 10.
	Heartbeat time.Duration
	// WriteTimeout is how long a client may take for one piece of at most 64 KB; 10 s.
	WriteTimeout time.Duration
	// LastWords makes the data of the error frame that ends a stream; nil writes none.
	// The request's id is the response's header request-id.
	LastWords func(err error, requestID string) []byte
	Log       *slog.Logger
}

// Hub serves streams. It is safe for concurrent use.
type Hub struct {
	heartbeat    time.Duration
	writeTimeout time.Duration
	lastWords    func(error, string) []byte
	log          *slog.Logger

	ctx  context.Context // ends with Shutdown
	stop context.CancelFunc
	wg   sync.WaitGroup // the wheel and every stream

	mu    sync.Mutex
	ended bool
	slots [wheelSlots][]*stream
	next  int // the slot that the next stream joins
	open  int // streams taken over
}

// wheelSlots is how many parts the wheel has, so that heartbeats are spread over time.
const wheelSlots = 8

// NewHub makes a Hub and starts its wheel; Shutdown ends it.
func NewHub(o Options) *Hub {
	h := &Hub{heartbeat: o.Heartbeat, writeTimeout: o.WriteTimeout, lastWords: o.LastWords, log: o.Log}
	if h.heartbeat <= 0 {
		h.heartbeat = 9 * time.Second
	}
	if h.writeTimeout <= 0 {
		h.writeTimeout = 10 * time.Second
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.wg.Add(1)
	go h.turn()
	return h
}

// Open is the number of streams that were taken over and have not ended.
func (h *Hub) Open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

// Shutdown ends every stream cleanly and waits until all have ended. When ctx ends first,
// the connections that are left are closed as they are, and its error is returned.
func (h *Hub) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	h.ended = true
	h.mu.Unlock()
	h.stop()
	done := make(chan struct{})
	go func() {
		h.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	for _, slot := range h.slots {
		for _, s := range slot {
			_ = s.conn.Close() // unblocks its write; the stream's goroutine does the rest
		}
	}
	h.mu.Unlock()
	<-done
	return ctx.Err()
}

// Serve delivers src to the client and closes src in the end. The headers that w holds
// already are sent; the caller must have written nothing. An error means that nothing was
// sent and the caller may answer otherwise. Nil says only that the response has begun: a
// stream that was taken over goes on after Serve has returned, and src must not depend on
// the request's context.
func (h *Hub) Serve(w http.ResponseWriter, r *http.Request, src Source) error {
	if !h.enter() {
		src.Close()
		return ErrStopping
	}
	if r.ProtoMajor == 1 && r.ProtoMinor == 1 && r.TLS == nil {
		taken, err := h.takeOver(w, src)
		if taken || err != nil {
			return err
		}
	}
	defer h.wg.Done()
	h.plain(w, r, src)
	return nil
}

// enter counts a stream in, unless the hub is stopping.
func (h *Hub) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return false
	}
	h.wg.Add(1)
	return true
}

// ServeNext is Serve for a source that is asked with a waiting call: next returns the next
// frames, or an error as Poll does. The handler's goroutine stays until the client leaves,
// the hub stops or next fails, so that the end is seen at once; r's context ends the wait.
func (h *Hub) ServeNext(w http.ResponseWriter, r *http.Request, next func(ctx context.Context) ([]Frame, error)) error {
	if !h.enter() {
		return ErrStopping
	}
	defer h.wg.Done()
	out := h.begin(w)
	defer out.end()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	for {
		wait, done := context.WithTimeout(ctx, h.heartbeat)
		frames, err := next(wait)
		silent := wait.Err() != nil
		done()
		switch {
		case err == nil:
			for _, f := range frames {
				if err = out.buffer(f); err != nil {
					return nil
				}
			}
			err = out.flush()
		case h.ctx.Err() != nil || r.Context().Err() != nil:
			return nil
		case silent && errors.Is(err, context.DeadlineExceeded):
			err = out.writeRaw(ping)
		case errors.Is(err, io.EOF):
			return nil
		default:
			h.sayWhy(out, w.Header().Get(requestID), err)
			return nil
		}
		if err != nil {
			return nil // the client is gone
		}
	}
}

// plain serves a stream from the handler's own goroutine.
func (h *Hub) plain(w http.ResponseWriter, r *http.Request, src Source) {
	defer src.Close()
	out := h.begin(w)
	defer out.end()
	timer := time.NewTimer(h.heartbeat)
	defer timer.Stop()
	for {
		frames, err := src.Poll(r.Context())
		for _, f := range frames {
			if out.buffer(f) != nil {
				return
			}
		}
		if len(frames) > 0 {
			if out.flush() != nil {
				return
			}
			timer.Reset(h.heartbeat)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && r.Context().Err() == nil {
				h.sayWhy(out, w.Header().Get(requestID), err)
			}
			return
		}
		select {
		case <-src.Ready():
		case <-timer.C:
			if out.writeRaw(ping) != nil {
				return
			}
			timer.Reset(h.heartbeat)
		case <-r.Context().Done():
			return
		case <-h.ctx.Done():
			return
		}
	}
}

// sayWhy ends a plain stream with an error frame.
func (h *Hub) sayWhy(out *response, request string, err error) {
	h.log.Info("stream ended early", "request_id", request, "err", err)
	if h.lastWords != nil {
		_ = out.write(Frame{Event: "error", Data: h.lastWords(err, request)})
	}
}

// response writes a stream through an http.ResponseWriter.
type response struct {
	w       http.ResponseWriter
	ctl     *http.ResponseController
	timeout time.Duration
	buf     []byte
}

// begin sends the headers, so that the client knows at once that the stream is open.
func (h *Hub) begin(w http.ResponseWriter) *response {
	setHeader(w.Header())
	out := &response{w: w, ctl: http.NewResponseController(w), timeout: h.writeTimeout}
	w.WriteHeader(http.StatusOK)
	_ = out.flush() // a failure shows again at the first frame
	return out
}

// requestID is the header by which a stream is named in the log and in its last words.
const requestID = "Request-Id"

func setHeader(h http.Header) {
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx holds back what it proxies otherwise
}

// end takes the deadline off a connection that may serve further requests.
func (o *response) end() { _ = o.ctl.SetWriteDeadline(time.Time{}) }

func (o *response) buffer(f Frame) error {
	o.buf = AppendFrame(o.buf[:0], f)
	_ = o.ctl.SetWriteDeadline(time.Now().Add(o.timeout)) // not every connection has one
	_, err := o.w.Write(o.buf)
	if cap(o.buf) > keepBuffer {
		o.buf = nil
	}
	return err
}

func (o *response) flush() error {
	err := o.ctl.Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

func (o *response) write(f Frame) error {
	if err := o.buffer(f); err != nil {
		return err
	}
	return o.flush()
}

func (o *response) writeRaw(b []byte) error {
	_ = o.ctl.SetWriteDeadline(time.Now().Add(o.timeout))
	if _, err := o.w.Write(b); err != nil {
		return err
	}
	return o.flush()
}
