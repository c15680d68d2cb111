package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// InProcess returns a transport that calls h without a network: the embedded worker's way
// to the API. A response is handed over when the handler returns or flushes, whichever
// comes first; from a flush on its body is a stream, of which the handler gets no further
// ahead than one write. Closing the body early, or the end of the request's context, ends
// the handler's context. Both RoundTrip, when it fails, and Close return only once the
// handler has returned.
func InProcess(h http.Handler) http.RoundTripper { return inProcess{h} }

type inProcess struct{ h http.Handler }

// RoundTrip serves one request.
func (t inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	in := req.WithContext(ctx)
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "in-process"
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/1.1", 1, 1
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	if in.Header == nil {
		in.Header = http.Header{}
	}
	x := &exchange{header: http.Header{}, ready: make(chan struct{}), ended: make(chan struct{}), outer: req.Context(), cancel: cancel}
	x.room.L = &x.mu
	go x.serve(t.h, in)
	select {
	case <-x.ready:
	case <-req.Context().Done(): // not ctx: that ends with a quick handler, too
		x.abandon()
		return nil, req.Context().Err()
	}
	if x.failed != nil {
		return nil, x.failed
	}
	resp := &http.Response{Status: fmt.Sprintf("%d %s", x.status, http.StatusText(x.status)), StatusCode: x.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: x.sent, ContentLength: -1, Request: req, Body: x}
	if !x.streams {
		resp.ContentLength = int64(len(x.buf))
	}
	return resp, nil
}

// exchange is one request in process: the handler's http.ResponseWriter, and the body that
// the caller reads.
type exchange struct {
	header http.Header
	ready  chan struct{} // closed when the response is handed over
	ended  chan struct{} // closed when the handler has returned
	outer  context.Context
	cancel context.CancelFunc

	// What the response is; set before ready is closed.
	status int
	sent   http.Header
	failed error // the handler panicked before there was a response

	mu      sync.Mutex
	room    sync.Cond // buf, done or closed has changed
	buf     []byte    // written and not read
	at      int       // of buf: read so far
	streams bool      // the response was handed over before its end
	done    bool      // the handler has returned
	cut     error     // it panicked behind the response's begin
	closed  bool      // the caller reads no more
}

func (x *exchange) serve(h http.Handler, r *http.Request) {
	defer close(x.ended)
	defer x.cancel()
	defer func() { _ = r.Body.Close() }()
	defer func() {
		p := recover()
		x.mu.Lock()
		defer x.mu.Unlock()
		x.done = true
		if p != nil {
			x.cut = fmt.Errorf("the handler gave up: %v", p)
		}
		if !x.streams {
			x.failed = x.cut
			x.handOver()
		}
		x.room.Broadcast()
	}()
	h.ServeHTTP(x, r)
}

// handOver lets RoundTrip return; x.mu is held.
func (x *exchange) handOver() {
	if x.status == 0 {
		x.status = http.StatusOK
	}
	if x.sent == nil {
		x.sent = x.header.Clone()
	}
	close(x.ready)
}

// abandon waits for a handler whose caller has gone.
func (x *exchange) abandon() {
	x.mu.Lock()
	x.closed = true
	x.room.Broadcast()
	x.mu.Unlock()
	x.cancel()
	<-x.ended
}

// Header is the response's, for the handler.
func (x *exchange) Header() http.Header { return x.header }

// WriteHeader fixes the status and the headers.
func (x *exchange) WriteHeader(status int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.writeHeader(status)
}

func (x *exchange) writeHeader(status int) {
	if x.status == 0 && status >= http.StatusOK {
		x.status, x.sent = status, x.header.Clone()
	}
}

// errLeft is what a handler's write returns once nobody reads.
var errLeft = errors.New("the caller in process has closed the body")

// Write takes what the handler writes. Once the response is a stream it waits until the
// caller has read what was written before.
func (x *exchange) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.writeHeader(http.StatusOK)
	for x.streams && len(x.buf) > 0 && !x.closed {
		x.room.Wait()
	}
	if x.closed {
		return 0, errLeft
	}
	x.buf = append(x.buf, p...)
	x.room.Broadcast()
	return len(p), nil
}

// FlushError hands the response over.
func (x *exchange) FlushError() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return errLeft
	}
	if !x.streams {
		x.writeHeader(http.StatusOK)
		x.streams = true
		x.handOver()
	}
	return nil
}

// Read gives the caller what was written; it waits while there is nothing.
func (x *exchange) Read(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.buf) == 0 && !x.done && !x.closed {
		x.room.Wait()
	}
	switch {
	case x.closed:
		return 0, http.ErrBodyReadAfterClose
	case len(x.buf) == 0 && x.cut != nil:
		return 0, fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, x.cut)
	case len(x.buf) == 0 && x.streams && x.outer.Err() != nil:
		return 0, x.outer.Err()
	case len(x.buf) == 0:
		return 0, io.EOF
	}
	n := copy(p, x.buf[x.at:])
	if x.at += n; x.at == len(x.buf) {
		x.buf, x.at = x.buf[:0], 0
		x.room.Broadcast()
	}
	return n, nil
}

// Close ends the exchange and waits for the handler.
func (x *exchange) Close() error {
	x.abandon()
	return nil
}
