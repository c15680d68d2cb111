package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"croft/internal/sse"
)

// silence is how long a stream may be without a frame or a heartbeat. Servers send a
// heartbeat at least every 10 s, so three have failed to come.
const silence = 32 * time.Second

// errSilent ends a stream whose connection is dead without having said so.
var errSilent = errors.New("the stream has been silent for too long")

// Stream is one open stream of events. One goroutine at a time reads it.
type Stream struct {
	body   io.ReadCloser
	reader *sse.Reader
	first  string // the LastID it was opened with
	cancel context.CancelFunc
	watch  *time.Timer
	limit  time.Duration
	silent atomic.Bool
}

// Stream opens the stream at path, behind the event that lastID names, if it is not empty.
// The end of ctx ends the stream.
func (c *Client) Stream(ctx context.Context, path, lastID string) (*Stream, error) {
	return c.stream(ctx, path, lastID, silence)
}

func (c *Client) stream(ctx context.Context, path, lastID string, limit time.Duration) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &Stream{cancel: cancel, first: lastID, limit: limit}
	s.watch = time.AfterFunc(limit, func() {
		s.silent.Store(true)
		cancel()
	})
	header := http.Header{"Accept": {"text/event-stream"}}
	if lastID != "" {
		header.Set("Last-Event-ID", lastID)
	}
	body, err := c.send(ctx, http.MethodGet, path, nil, header)
	if err != nil {
		s.watch.Stop()
		cancel()
		return nil, s.why(err)
	}
	s.body, s.reader = body, sse.NewReader(body, 0)
	return s, nil
}

// Next returns the next frame; heartbeats are left out. It returns io.EOF when the server
// ended the stream in order, a *croft.Error when it said why not, and any other error when
// the stream was cut.
func (s *Stream) Next() (sse.Frame, error) {
	for {
		f, err := s.reader.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return f, io.EOF
			}
			return f, s.why(fmt.Errorf("reading the stream: %w", err))
		}
		s.watch.Reset(s.limit)
		switch f.Event {
		case "ping":
		case "error":
			return f, decodeError(0, http.Header{}, f.Data)
		default:
			return f, nil
		}
	}
}

func (s *Stream) why(err error) error {
	if s.silent.Load() {
		return errSilent
	}
	return err
}

// LastID is the id to open the stream with again so that nothing is missed: that of the
// last event that had one.
func (s *Stream) LastID() string {
	if id := s.reader.LastID(); id != "" {
		return id
	}
	return s.first
}

// Close ends the stream. It may be called while another goroutine is in Next.
func (s *Stream) Close() error {
	s.watch.Stop()
	s.cancel()
	return s.body.Close()
}

// Follow says what Client.Follow reads and whom it tells.
type Follow struct {
	Path string
	// LastID is the event behind which to begin; empty: with what comes.
	LastID string
	// Frame is called for each frame, in order. Its error ends Follow; io.EOF does so
	// without one.
	Frame func(sse.Frame) error
	// Cut, if not nil, is told of each interruption and of the wait before the next attempt.
	Cut func(err error, wait time.Duration)
}

// Follow reads a stream for as long as ctx lives, and opens it again behind the last event
// seen whenever it is cut or cannot be opened. It ends with the context's error, with
// Frame's, or with the server's definite refusal. What happened in a gap before the first
// event with an id was seen is not repeated: a caller who must not miss it lists the
// history once the stream is open.
func (c *Client) Follow(ctx context.Context, f Follow) error {
	var pace Backoff
	last := f.LastID
	for {
		began := time.Now()
		err := c.follow(ctx, &f, &last)
		var end *endError
		switch {
		case errors.As(err, &end):
			if errors.Is(end.error, io.EOF) {
				return nil
			}
			return end.error
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, io.EOF) && !Transient(err):
			return err
		}
		if time.Since(began) > time.Second {
			pace.Reset()
		}
		wait := pace.Next(err)
		if f.Cut != nil {
			f.Cut(err, wait)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// endError is what the caller's own function returned.
type endError struct{ error }

// follow reads one connection's worth.
func (c *Client) follow(ctx context.Context, f *Follow, last *string) error {
	s, err := c.Stream(ctx, f.Path, *last)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	for {
		frame, err := s.Next()
		if err != nil {
			return err
		}
		err = f.Frame(frame)
		*last = s.LastID()
		if err != nil {
			return &endError{err}
		}
	}
}
