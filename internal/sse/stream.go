package sse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// piece is how much is written under one write deadline.
	piece = 64 << 10
	// keepBuffer is the largest buffer that is kept for the next write.
	keepBuffer = 2 * piece
	// lastGrace is how long a client that was too slow may take for what ends its stream.
	lastGrace = time.Second
)

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// stream is a connection that was taken over.
type stream struct {
	hub  *Hub
	conn net.Conn
	src  Source
	// header is what the response's head holds; nil once it was sent.
	header  http.Header
	request string // the request's id
	// kick asks for a heartbeat.
	kick chan struct{}
	// wrote tells the wheel that a heartbeat can wait.
	wrote atomic.Bool
	// rest is what is left of a piece whose write timed out.
	rest []byte

	slot, pos int // the place in the wheel; the hub's lock guards it
}

// takeOver takes the connection away from the HTTP server and starts the stream's
// goroutine. taken is false when this connection can't be taken.
func (h *Hub) takeOver(w http.ResponseWriter, src Source) (taken bool, err error) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		return false, nil
	}
	if err != nil {
		h.wg.Done()
		src.Close()
		return false, fmt.Errorf("sse: taking the connection over: %w", err)
	}
	s := &stream{hub: h, conn: conn, src: src, header: w.Header(), kick: make(chan struct{}, 1)}
	setHeader(s.header)
	s.request = s.header.Get(requestID)
	h.join(s)
	go s.run()
	return true, nil
}

// run is the stream's goroutine. It calls nothing deep while it waits, so that its stack
// stays at its first size.
func (s *stream) run() {
	defer s.end()
	err := s.sendHeader()
	for err == nil {
		var n int
		if n, err = s.deliver(); n > 0 || err != nil {
			continue
		}
		select {
		case <-s.src.Ready():
		case <-s.kick:
			err = s.sendChunk(ping)
		case <-s.hub.ctx.Done():
			err = io.EOF
		}
	}
	s.finish(err)
}

func (s *stream) end() {
	s.hub.leave(s)
	_ = s.conn.Close()
	s.src.Close()
	s.hub.wg.Done()
}

// sendHeader writes the response's head: chunked, so that a client tells the clean end
// from a cut.
func (s *stream) sendHeader() error {
	b := borrow()
	defer giveBack(b)
	*b = append(*b, "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"...)
	*b = append(*b, "Date: "...)
	*b = time.Now().UTC().AppendFormat(*b, http.TimeFormat)
	*b = append(*b, "\r\n"...)
	if err := s.header.Write((*appender)(b)); err != nil {
		return err
	}
	*b = append(*b, "\r\n"...)
	s.header = nil
	return s.send(*b)
}

// deliver writes what the source has and returns the number of frames.
func (s *stream) deliver() (int, error) {
	frames, err := s.src.Poll(s.hub.ctx)
	if len(frames) == 0 {
		return 0, err
	}
	b := borrow()
	defer giveBack(b)
	for _, f := range frames {
		if len(f.Data) >= piece {
			if err := s.flush(b); err != nil {
				return 0, err
			}
			if err := s.sendLarge(f); err != nil {
				return 0, err
			}
			continue
		}
		if len(*b) == 0 {
			*b = append(*b, chunkSpace...)
		}
		*b = AppendFrame(*b, f)
		if len(*b) >= piece {
			if err := s.flush(b); err != nil {
				return 0, err
			}
		}
	}
	if err := s.flush(b); err != nil {
		return 0, err
	}
	return len(frames), err
}

// chunkSpace is where flush writes the chunk's size: leading zeros are allowed.
const chunkSpace = "0000000\r\n"

// flush writes the frames in b, which begin behind a chunkSpace, as one chunk.
func (s *stream) flush(b *[]byte) error {
	if len(*b) == 0 {
		return nil
	}
	size := len(*b) - len(chunkSpace)
	const digits = "0123456789abcdef"
	for i := len(chunkSpace) - 3; i >= 0; i-- {
		(*b)[i] = digits[size&15]
		size >>= 4
	}
	*b = append(*b, "\r\n"...)
	err := s.send(*b)
	*b = (*b)[:0]
	return err
}

// sendChunk writes one chunk that is small.
func (s *stream) sendChunk(data []byte) error {
	b := borrow()
	defer giveBack(b)
	*b = append(append(*b, chunkSpace...), data...)
	return s.flush(b)
}

// sendLarge writes a frame that is too large to be copied at once, piece by piece.
func (s *stream) sendLarge(f Frame) error {
	head := appendHead(nil, f)
	b := borrow()
	defer giveBack(b)
	*b = strconv.AppendInt(*b, int64(len(head)+len(f.Data)+len("\n\n")), 16)
	*b = append(append(*b, "\r\n"...), head...)
	for data := f.Data; len(data) > 0; {
		n := min(len(data), piece)
		at := len(*b)
		*b = append(*b, data[:n]...)
		flatten((*b)[at:])
		if data = data[n:]; len(data) == 0 {
			*b = append(*b, "\n\n\r\n"...)
		}
		if err := s.send(*b); err != nil {
			if errors.Is(err, ErrSlow) {
				s.rest = nil
				return errCut
			}
			return err
		}
		*b = (*b)[:0]
	}
	return nil
}

// errCut is ErrSlow inside a large frame, which won't be completed: nothing can follow it.
var errCut = fmt.Errorf("%w (in the middle of a large event)", ErrSlow)

// errGone is a write that failed because the client left.
var errGone = errors.New("sse: the client left")

// send writes p under a deadline. On ErrSlow, s.rest is what the client did not take; any
// other failure is errGone.
func (s *stream) send(p []byte) error {
	if s.conn.SetWriteDeadline(time.Now().Add(s.hub.writeTimeout)) != nil {
		return errGone
	}
	n, err := s.conn.Write(p)
	if err == nil {
		s.wrote.Store(true)
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.rest = append([]byte(nil), p[n:]...)
		return ErrSlow
	}
	return errGone
}

// finish ends the stream: cleanly on io.EOF, else with the reason where there is one to
// tell and somebody to hear it.
func (s *stream) finish(err error) {
	switch {
	case errors.Is(err, errGone):
		return
	case s.hub.ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled):
		err = nil
	}
	if err != nil {
		s.hub.log.Info("stream ended early", "request_id", s.request, "err", err)
	}
	if errors.Is(err, errCut) {
		return
	}
	out := s.rest
	if err != nil && s.hub.lastWords != nil {
		frame := AppendFrame(nil, Frame{Event: "error", Data: s.hub.lastWords(err, s.request)})
		out = strconv.AppendInt(out, int64(len(frame)), 16)
		out = append(append(append(out, "\r\n"...), frame...), "\r\n"...)
	}
	out = append(out, "0\r\n\r\n"...)
	_ = s.conn.SetWriteDeadline(time.Now().Add(lastGrace))
	_, _ = s.conn.Write(out) // best effort: the stream ends either way
}

func borrow() *[]byte {
	b := buffers.Get().(*[]byte)
	*b = (*b)[:0]
	return b
}

func giveBack(b *[]byte) {
	if cap(*b) <= keepBuffer {
		buffers.Put(b)
	}
}

// appender is a byte slice that can be written to.
type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}
