//go:build linux && (amd64 || arm64)

package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"croft/internal/sandbox"
	"croft/internal/sandbox/local/initproc"
)

// program is one program that was started in a box.
type program struct {
	b       *box
	id      uint32
	streams *streams

	answer chan error      // whether it was started; one word
	done   chan struct{}   // closed when it has ended
	status unix.WaitStatus // set before done is closed
	ended  sync.Once
	kill   sync.Once     // sends the request
	asked  bool          // that it be killed; guarded by the box's mu
	orphan bool          // Start gave it up; guarded by the box's mu
	killed chan struct{} // closed when it and all it started are dead
	dead   sync.Once
}

// Start runs a program. ctx bounds the start, not the program. The error is fs.ErrNotExist
// when there is no such program or folder, and sandbox.ErrGone when there is no such
// sandbox any more. Streams that are pipes (*os.File) are handed to the program as they
// are; the others are copied.
func (b *box) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	if len(cmd.Args) == 0 {
		return nil, errors.New("driver local: start a program: no arguments")
	}
	p, err := b.start(ctx, &cmd)
	if err != nil {
		return nil, fmt.Errorf("driver local: start %s: %w", cmd.Args[0], err)
	}
	return p, nil
}

// programs are the names that mean the croft binary, which tells them apart by argv[0].
var programs = map[string]string{sandbox.HandProgram: initproc.Program, initproc.Name: initproc.Program}

func (b *box) start(ctx context.Context, cmd *sandbox.Command) (*program, error) {
	req := initproc.Start{Path: programs[cmd.Args[0]], Args: cmd.Args, Dir: cmd.Dir}
	if req.Dir == "" {
		req.Dir = sandbox.Workspace
	}
	req.Env = mergeEnv(slices.Concat(b.env, []string{"PWD=" + req.Dir}, cmd.Env))
	s, err := openStreams(cmd)
	if err != nil {
		return nil, err
	}
	req.Streams = s.given
	p := &program{b: b, streams: s, answer: make(chan error, 1), done: make(chan struct{}), killed: make(chan struct{})}
	if err := b.request(p, req.Encode()); err != nil {
		s.abandon()
		return nil, err
	}
	select {
	case err = <-p.answer:
	case <-b.dead:
		err = b.lost()
	case <-ctx.Done():
		// It may start yet. Requests are served in their order, so this one finds it.
		b.mu.Lock()
		p.asked, p.orphan = true, true
		b.mu.Unlock()
		err = errors.Join(ctx.Err(), b.send(initproc.FrameKill, p.id, nil, nil))
		s.abandon()
		return nil, err
	}
	if err != nil {
		b.leave(p)
		s.abandon()
		return nil, err
	}
	s.copy()
	return p, nil
}

// request gives p its number, makes it known and asks for it. The numbers rise in the order
// of the requests.
func (b *box) request(p *program, body []byte) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	if b.closing {
		b.mu.Unlock()
		return sandbox.ErrGone
	}
	b.next++
	p.id = b.next
	b.programs[p.id] = p
	b.mu.Unlock()
	err := b.write(initproc.FrameStart, p.id, body, p.streams.fds())
	if err != nil {
		b.leave(p)
	}
	if isClosed(err) {
		return sandbox.ErrGone
	}
	return err
}

// isClosed tells whether a write found nobody at the other end.
func isClosed(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed)
}

// leave forgets p, of which there is no more news to come, unless it is being killed.
func (b *box) leave(p *program) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !p.asked {
		delete(b.programs, p.id)
	}
}

// answered takes the word on whether the program was started.
func (p *program) answered(err error) {
	select {
	case p.answer <- err:
	default: // a first process that says it twice is not believed twice
	}
}

// exited takes the news of the program's end.
func (p *program) exited(status unix.WaitStatus) {
	p.ended.Do(func() {
		p.status = status
		close(p.done)
		p.streams.finish()
	})
}

// wasKilled takes the news that the program and all it started are dead. The news of its
// own end may yet come.
func (p *program) wasKilled() {
	p.dead.Do(func() { close(p.killed) })
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	p.asked = false
	select {
	case <-p.done:
		delete(p.b.programs, p.id)
	default:
		if p.orphan {
			delete(p.b.programs, p.id)
		}
	}
}

// Wait returns the program's exit code. What it wrote before it ended has then been copied;
// what programs that it left behind write later is not waited for.
func (p *program) Wait() (int, error) {
	select {
	case <-p.done:
	case <-p.b.dead:
		select {
		case <-p.done:
		default:
			p.streams.finish()
			_ = p.streams.wait() // its output is cut off anyway
			return -1, fmt.Errorf("driver local: wait for a program: %w", sandbox.ErrGone)
		}
	}
	err := p.streams.wait()
	p.b.leave(p)
	if err != nil {
		err = fmt.Errorf("driver local: copy a program's output: %w", err)
	}
	if p.status.Signaled() {
		return 128 + int(p.status.Signal()), err
	}
	return p.status.ExitStatus(), err
}

// Kill ends the program and everything it started, also what detached from it, and returns
// when they are dead. It may be called after the program has ended.
func (p *program) Kill() error {
	var err error
	p.kill.Do(func() {
		b := p.b
		b.mu.Lock()
		b.programs[p.id], p.asked = p, true // it may have been forgotten
		b.mu.Unlock()
		err = b.send(initproc.FrameKill, p.id, nil, nil)
	})
	if err != nil && !isClosed(err) {
		return fmt.Errorf("driver local: kill a program: %w", err)
	}
	select {
	case <-p.killed:
	case <-p.b.dead: // and all of the sandbox with it
	}
	return nil
}
