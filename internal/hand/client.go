package hand

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Client is the worker's end of the protocol. It is safe for concurrent use.
type Client struct {
	pid    int
	closer []io.Closer
	out    chan []byte   // frames on their way to the writer
	quit   chan struct{} // closed by Close: the writer takes what is queued and ends
	done   chan struct{} // closed by the reader when the stream has ended
	writer chan struct{} // closed by the writer at its end
	stop   sync.Once

	mu      sync.Mutex
	seq     uint64                 // of the last call frame
	waiting map[uint64]chan answer // by the call frame's seq
	err     error                  // why the stream ended; set before done is closed
}

type answer struct {
	result Result
	err    error
}

// closeGrace is how long Close waits for the hand to end by itself.
const closeGrace = 2 * time.Second

// Dial starts the protocol over the hand's standard output r and input w, and waits for
// its hello. It fails with ErrClosed when the stream ends first, and refuses a hand of
// another version. The client owns both from then on and closes them where they can be.
func Dial(r io.Reader, w io.Writer) (*Client, error) {
	c := &Client{
		out:     make(chan []byte, MaxCalls),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
		writer:  make(chan struct{}),
		waiting: make(map[uint64]chan answer),
	}
	for _, end := range []any{w, r} {
		if cl, ok := end.(io.Closer); ok {
			c.closer = append(c.closer, cl)
		}
	}
	in := bufio.NewReaderSize(r, 64<<10)
	hello, err := readFrame(in)
	if err != nil {
		c.closeStreams()
		if !errors.Is(err, errFrame) {
			err = fmt.Errorf("%w: %w", ErrClosed, err)
		}
		return nil, fmt.Errorf("waiting for the hand's hello: %w", err)
	}
	if hello.Type != frameHello || hello.Version != Version {
		c.closeStreams()
		return nil, fmt.Errorf("the hand opened with %s of version %d, need hello of version %d", hello.Type, hello.Version, Version)
	}
	c.pid = hello.PID
	go c.write(w)
	go c.read(in)
	return c, nil
}

// PID is the hand's process id, as the sandbox counts.
func (c *Client) PID() int { return c.pid }

// Done is closed when the stream to the hand has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Call runs a tool and waits for its result. A second Call with the same id, at the same
// time or later, waits for the same run or gets the stored result. The end of ctx ends the
// waiting, not the tool: for that there is Cancel. Every Call whose result was taken over
// must be followed by an Ack. The error is ErrClosed when the hand is gone, in which case
// the tool may or may not have run; any other error but that of ctx means that this Call
// started nothing.
func (c *Client) Call(ctx context.Context, call Call) (Result, error) {
	wait := make(chan answer, 1)
	c.mu.Lock()
	c.seq++
	seq := c.seq
	c.waiting[seq] = wait
	c.mu.Unlock()
	defer c.forget(seq)
	data, err := encodeFrame(&frame{
		Type: frameCall, Seq: seq, ID: call.ID,
		Tool: call.Tool, Input: call.Input, TimeoutMS: timeoutMillis(call.Timeout),
	})
	if err != nil {
		return Result{}, fmt.Errorf("calling %s: %w", call.Tool, err)
	}
	if err := c.send(ctx, data); err != nil {
		return Result{}, err
	}
	select {
	case a := <-wait:
		return a.result, a.err
	case <-c.done:
		select {
		case a := <-wait: // it came just before the end
			return a.result, a.err
		default:
			return Result{}, c.closed()
		}
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// closed is ErrClosed with its cause.
func (c *Client) closed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil || errors.Is(c.err, ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, c.err)
}

// timeoutMillis rounds up, so that a bound below a millisecond does not become none.
func timeoutMillis(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// Ack tells the hand that the result of id is recorded elsewhere. The hand forgets it and
// refuses the id from then on. It does nothing once the hand is gone.
func (c *Client) Ack(id string) { c.notify(frameAck, id) }

// Cancel interrupts the call with that id. The call still returns a result, which says
// that it was interrupted. It does nothing for an id that is not running.
func (c *Client) Cancel(id string) { c.notify(frameCancel, id) }

// Drain asks the hand to take no more calls, to finish those it has and to end, and waits
// for that. The results of running calls still arrive; every other Call is refused.
func (c *Client) Drain(ctx context.Context) error {
	c.notify(frameDrain, "")
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("draining the hand: %w", ctx.Err())
	}
}

// Close ends the hand, with everything it started, and the client. Calls in flight return
// ErrClosed. It may be called twice.
func (c *Client) Close() error {
	c.stop.Do(func() {
		c.notify(frameClose, "")
		close(c.quit)
		grace, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		select {
		case <-c.done:
		case <-grace.Done():
		}
		c.closeStreams()
		c.end(ErrClosed)
		select {
		case <-c.writer:
		case <-grace.Done(): // it hangs in a stream that cannot be closed
		}
	})
	return nil
}

func (c *Client) notify(kind, id string) {
	data, err := encodeFrame(&frame{Type: kind, ID: id})
	if err != nil {
		return // an id as long as a frame names nothing
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	_ = c.send(ctx, data) // whether the hand is gone is what Call and Done tell
}

// send queues data for the writer.
func (c *Client) send(ctx context.Context, data []byte) error {
	select {
	case <-c.quit:
		return ErrClosed
	case <-c.done:
		return c.closed()
	default:
	}
	select {
	case c.out <- data:
		return nil
	case <-c.quit:
		return ErrClosed
	case <-c.done:
		return c.closed()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write is the one goroutine that writes, so that a stream that stands still holds up
// nobody who has a context. It ends with the stream or after Close.
func (c *Client) write(w io.Writer) {
	defer close(c.writer)
	for {
		var data []byte
		select {
		case data = <-c.out:
		default:
			select {
			case data = <-c.out:
			case <-c.quit:
				if cl, ok := w.(io.Closer); ok {
					_ = cl.Close() // the end of its input ends the hand
				}
				return
			case <-c.done:
				return
			}
		}
		if _, err := w.Write(data); err != nil {
			c.end(fmt.Errorf("writing to the hand: %w", err))
			return
		}
	}
}

// read is the one goroutine that reads. It ends with the stream.
func (c *Client) read(in *bufio.Reader) {
	for {
		f, err := readFrame(in)
		if err != nil {
			c.end(fmt.Errorf("reading from the hand: %w", err))
			return
		}
		switch f.Type {
		case frameResult:
			c.deliver(f.Seq, answer{result: Result{Content: f.Content, IsError: f.IsError}})
		case frameRefused:
			c.deliver(f.Seq, answer{err: fmt.Errorf("the hand refused %s: %s", f.ID, f.Message)})
		}
	}
}

// deliver hands an answer to the Call that waits for it, if it still does.
func (c *Client) deliver(seq uint64, a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if wait := c.waiting[seq]; wait != nil {
		wait <- a // there is one place, and one answer
		delete(c.waiting, seq)
	}
}

func (c *Client) forget(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, seq)
}

func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
	}
}

func (c *Client) closeStreams() {
	for _, cl := range c.closer {
		_ = cl.Close()
	}
}
