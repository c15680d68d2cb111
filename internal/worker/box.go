package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"croft/internal/hand"
	"croft/internal/sandbox"
)

// Bounds of what a driver may take.
const (
	createTimeout  = 2 * time.Minute
	helloTimeout   = 30 * time.Second
	destroyTimeout = 15 * time.Second
)

// box is a live sandbox with a hand in it.
type box struct {
	log     *slog.Logger
	sandbox sandbox.Sandbox
	hand    *hand.Client
	slots   chan struct{} // a semaphore of the calls that the hand takes at one time
	ended   chan struct{} // closed when the hand's process was waited for
	once    sync.Once
	gone    chan struct{} // closed when destroy has finished
}

// makeBox makes a sandbox and starts the hand in it. Few are made at a time, because
// making is work for the host's processors.
func (w *Worker) makeBox(ctx context.Context, spec sandbox.Spec, log *slog.Logger) (*box, error) {
	select {
	case w.making <- struct{}{}:
		defer func() { <-w.making }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	sb, err := w.o.Driver.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	b := &box{log: log, sandbox: sb, slots: make(chan struct{}, hand.MaxCalls), ended: make(chan struct{}), gone: make(chan struct{})}
	if err := b.startHand(ctx); err != nil {
		b.destroy()
		return nil, err
	}
	return b, nil
}

// startHand starts the hand on two pipes, which a driver can hand over as they are.
func (b *box) startHand(ctx context.Context) error {
	theirIn, in, err := os.Pipe()
	if err != nil {
		close(b.ended)
		return fmt.Errorf("making a pipe to the hand: %w", err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		close(b.ended)
		closeAll(theirIn, in)
		return fmt.Errorf("making a pipe from the hand: %w", err)
	}
	words := &lastWords{}
	p, err := b.sandbox.Start(ctx, sandbox.Command{Args: []string{sandbox.HandProgram}, Stdin: theirIn, Stdout: theirOut, Stderr: words})
	if err != nil {
		close(b.ended)
		closeAll(theirIn, in, out, theirOut)
		return fmt.Errorf("starting the hand: %w", err)
	}
	go func() { // ends with the process; destroy waits for it
		defer close(b.ended)
		code, err := p.Wait()
		b.log.Debug("the hand has ended", "code", code, "err", err, "stderr", words.String())
		// Only now can its end of the pipes be closed, which tells the client.
		closeAll(theirIn, theirOut)
	}()
	stop := context.AfterFunc(ctx, func() { closeAll(in, out) })
	late := time.AfterFunc(helloTimeout, func() { closeAll(in, out) })
	b.hand, err = hand.Dial(out, in)
	stop()
	late.Stop()
	if err != nil {
		if said := words.String(); said != "" {
			err = fmt.Errorf("%w; it said: %s", err, said)
		}
		return err
	}
	return nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// alive tells whether calls can be given to the hand.
func (b *box) alive() bool {
	select {
	case <-b.hand.Done():
		return false
	default:
		return true
	}
}

// destroy ends everything in the sandbox and waits until it is gone, within bounds. Calls
// that run return hand.ErrClosed. It may be called more than once.
func (b *box) destroy() {
	b.once.Do(func() {
		defer close(b.gone)
		ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
		defer cancel()
		if err := b.sandbox.Destroy(ctx); err != nil && !errors.Is(err, sandbox.ErrGone) {
			b.log.Error("a sandbox could not be destroyed", "err", err)
		}
		select {
		case <-b.ended:
		case <-ctx.Done():
			b.log.Error("the hand of a destroyed sandbox has not ended")
		}
		if b.hand != nil {
			_ = b.hand.Close()
		}
	})
	<-b.gone
}

// lastWords keeps the end of what is written to it.
type lastWords struct {
	mu   sync.Mutex
	text []byte
}

const maxWords = 2 << 10

// Write keeps the last maxWords bytes.
func (l *lastWords) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p[max(0, len(p)-maxWords):]...)
	if len(l.text) > maxWords {
		l.text = bytes.Clone(l.text[len(l.text)-maxWords:])
	}
	return len(p), nil
}

func (l *lastWords) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(l.text), "?"))
}
