//go:build unix

package hand

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"croft/internal/hand/shell"
	"croft/internal/hand/tools"
)

// server is the hand's end of the protocol.
type server struct {
	kids    *shell.Children
	bash    *bash
	files   *files
	scratch *scratch
	results *results

	ctx   context.Context // ends with the hand
	slots chan struct{}   // one taken by every call frame that is not yet answered

	taking sync.Mutex
	closed bool           // no more calls are taken
	calls  sync.WaitGroup // what runs for those that were; grows only under taking, while not closed

	writing sync.Mutex
	stdout  io.Writer
	stop    context.CancelCauseFunc
}

// endGrace bounds the wait for what runs when the hand ends.
const endGrace = time.Second

// errInterrupted is the cause of a call's context that Cancel ended.
var errInterrupted = errors.New("interrupted")

// Main runs the hand over its standard input and output until the input ends or a frame
// asks for the end; then it kills everything it started and returns the exit code of the
// process: 0, or 1 when the stream broke. It must be the whole program: it waits for every
// child of the process and catches its signals.
func Main(stdin io.Reader, stdout io.Writer) int {
	// Package initialisation, from which Main is called, is bound to the first thread;
	// goroutines that talk to each other are faster unbound.
	code := make(chan int)
	go func() { code <- run(stdin, stdout) }()
	return <-code
}

func run(stdin io.Reader, stdout io.Writer) int {
	workdir, err := os.Getwd()
	if err != nil {
		workdir = "/"
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &server{scratch: &scratch{workdir: workdir}, ctx: ctx, stop: cancel, slots: make(chan struct{}, MaxCalls), stdout: stdout}
	s.results = newResults(s.scratch)
	// Said before all else: what follows runs while the other side sends its first call.
	s.send(&frame{Type: frameHello, Version: Version, PID: os.Getpid()})
	// Caught, not ignored, because what is ignored stays so in children. Of a terminal's
	// signals the driver decides; a broken pipe is an error of writing.
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGINT)
	s.kids = shell.NewChildren()
	s.files = &files{workdir: workdir, scratch: s.scratch}
	s.bash = &bash{kids: s.kids, scratch: s.scratch, workdir: workdir, queue: make(chan bashJob, MaxCalls)}

	reaping, stopReaping := context.WithCancel(context.Background())
	var reaper, shells sync.WaitGroup
	reaper.Go(func() { s.kids.Reap(reaping) })
	shells.Go(func() { s.bash.loop(ctx) })
	go func() { // ends with the process: nothing can wake a blocked read of standard input
		s.stop(s.read(bufio.NewReaderSize(stdin, 64<<10)))
	}()
	select {
	case <-ctx.Done():
	case <-term:
		s.stop(io.EOF)
	}
	s.kids.KillAll()
	finished := make(chan struct{})
	go func() {
		s.takeNoMore()
		s.calls.Wait()
		shells.Wait()
		stopReaping()
		reaper.Wait()
		close(finished)
	}()
	select {
	case <-finished:
	case <-time.After(endGrace): // a call that hangs in the kernel ends with the process
	}
	s.scratch.remove()
	if errors.Is(context.Cause(ctx), io.EOF) {
		return 0
	}
	return 1
}

// read serves the frames that come in. It returns io.EOF for an orderly end.
func (s *server) read(in io.Reader) error {
	for {
		f, err := readFrame(in)
		if err != nil {
			return err
		}
		switch f.Type {
		case frameCall:
			s.call(f)
		case frameCancel:
			s.results.interrupt(f.ID)
		case frameAck:
			s.results.ack(f.ID)
		case frameDrain:
			go func() { // ends with the calls, or with the process
				s.takeNoMore()
				s.calls.Wait()
				s.stop(io.EOF)
			}()
		case frameClose:
			return io.EOF
		}
	}
}

// takeNoMore has every further call refused.
func (s *server) takeNoMore() {
	s.taking.Lock()
	defer s.taking.Unlock()
	s.closed = true
}

// call takes a call or refuses it. It does not wait.
func (s *server) call(f *frame) {
	s.taking.Lock()
	defer s.taking.Unlock()
	refuse := func(format string, args ...any) {
		s.send(&frame{Type: frameRefused, Seq: f.Seq, ID: f.ID, Message: fmt.Sprintf(format, args...)})
	}
	if s.closed {
		refuse("the hand is about to end")
		return
	}
	if f.ID == "" {
		refuse("a call needs an id")
		return
	}
	select {
	case s.slots <- struct{}{}:
	default:
		refuse("%d calls run or wait already", MaxCalls)
		return
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	e, fresh, err := s.results.begin(f.ID, func() { cancel(errInterrupted) })
	if err != nil || !fresh {
		cancel(nil)
	}
	if err != nil {
		<-s.slots
		refuse("%s", err)
		return
	}
	if fresh {
		allowed := time.Duration(min(max(f.TimeoutMS, 0), int64(maxTimeout/time.Millisecond))) * time.Millisecond
		s.start(ctx, e, Call{ID: f.ID, Tool: f.Tool, Input: f.Input, Timeout: allowed})
	}
	s.calls.Go(func() {
		defer func() { <-s.slots }()
		<-e.done
		res := s.results.result(e)
		s.send(&frame{Type: frameResult, Seq: f.Seq, ID: f.ID, Content: res.Content, IsError: res.IsError})
	})
}

// start runs a call that is new. Its entry is finished in any case.
func (s *server) start(ctx context.Context, e *entry, call Call) {
	finish := func(res Result) {
		e.cancel() // releases the context
		s.results.finish(e, res)
	}
	if call.Tool == tools.Bash {
		result := make(chan Result, 1)
		s.bash.submit(bashJob{ctx, call, result}) // has room: the queue is as long as slots
		s.calls.Go(func() {
			select {
			case res := <-result:
				finish(res)
			case <-s.ctx.Done():
				finish(textResult("the hand has ended", true))
			}
		})
		return
	}
	tool := map[string]func(context.Context, Call) Result{
		tools.Read:  s.files.read,
		tools.Write: s.files.write,
		tools.Edit:  s.files.edit,
		tools.Glob:  s.files.glob,
		tools.Grep:  s.files.grep,
	}[call.Tool]
	if tool == nil {
		finish(textResult(fmt.Sprintf("there is no tool %q", call.Tool), true))
		return
	}
	s.calls.Go(func() {
		limit := timeLimit(call.Timeout, 0)
		ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("timed out after %s", limit))
		defer cancel()
		finish(guarded(ctx, tool, call))
	})
}

// guarded runs a tool, and turns a fault of its own into a result: one bad call must not
// end the shell and the calls beside it.
func guarded(ctx context.Context, tool func(context.Context, Call) Result, call Call) (res Result) {
	defer func() {
		if fault := recover(); fault != nil {
			fmt.Fprintf(os.Stderr, "hand: %s: %v\n%s", call.Tool, fault, debug.Stack())
			res = textResult(fmt.Sprintf("%s: a fault of the tool itself: %v", call.Tool, fault), true)
		}
	}()
	return tool(ctx, call)
}

// send writes a frame. When the stream is broken the hand ends.
func (s *server) send(f *frame) {
	data, err := encodeFrame(f)
	if err != nil {
		data, err = encodeFrame(&frame{
			Type: frameResult, Seq: f.Seq, ID: f.ID, IsError: true,
			Content: textResult("the result could not be sent: "+err.Error(), true).Content,
		})
	}
	if err == nil {
		s.writing.Lock()
		defer s.writing.Unlock()
		_, err = s.stdout.Write(data)
	}
	if err != nil {
		s.stop(fmt.Errorf("writing a frame: %w", err))
	}
}
