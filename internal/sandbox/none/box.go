package none

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"croft/internal/sandbox"
)

// box is one live sandbox.
type box struct {
	d                  *Driver
	id                 string
	workspace, outputs string
	env                []string

	mu       sync.Mutex
	programs map[*program]bool
	closing  bool

	destroying chan struct{} // holds a token while a Destroy is at work
	destroyed  bool
}

// program is one program that was started in a box.
type program struct {
	b     *box
	cmd   *exec.Cmd
	mark  string   // see markName
	input *os.File // our end of its standard input, where one is copied

	done chan struct{} // closed when it has ended and its output is copied
	err  error         // of the copying; set before done is closed
	cut  atomic.Bool   // Destroy ended it
}

// markName is the variable by which a program and everything it started are known on
// systems that show the environment of processes.
const markName = "CROFT_PROGRAM"

// drain is how long output is copied after the program has ended, where others that it
// started hold its streams open.
const drain = 500 * time.Millisecond

// ID is the spec's.
func (b *box) ID() string { return b.id }

// Start runs a program on the host. ctx bounds the start, not the program. The error is
// fs.ErrNotExist when there is no such program or folder, and sandbox.ErrGone after Destroy.
func (b *box) Start(ctx context.Context, c sandbox.Command) (sandbox.Process, error) {
	if len(c.Args) == 0 {
		return nil, errors.New("driver none: start a program: no arguments")
	}
	p, err := b.start(ctx, &c)
	if err != nil {
		return nil, fmt.Errorf("driver none: start %s: %w", c.Args[0], err)
	}
	return p, nil
}

func (b *box) start(ctx context.Context, c *sandbox.Command) (*program, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := &program{b: b, mark: rand.Text(), done: make(chan struct{})}
	path := c.Args[0]
	if path == sandbox.HandProgram {
		path = b.d.selfPath()
	} else if found, err := exec.LookPath(path); err == nil {
		path = found
	} else if errors.Is(err, exec.ErrNotFound) {
		return nil, os.ErrNotExist
	}
	dir := b.dir(c.Dir)
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	p.cmd = &exec.Cmd{
		Path: path, Args: c.Args, Dir: dir, Stdout: c.Stdout, Stderr: c.Stderr, WaitDelay: drain, SysProcAttr: attributes(),
		Env: append(append(append([]string(nil), b.env...), c.Env...), markName+"="+p.mark),
	}
	closeTheirs, err := p.openInput(c.Stdin)
	if err != nil {
		return nil, err
	}
	defer closeTheirs()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		err = sandbox.ErrGone
	} else {
		err = p.cmd.Start()
	}
	if err != nil {
		p.closeInput()
		return nil, err
	}
	b.programs[p] = true
	if p.input != nil {
		// Nobody waits for this one: a Read of the caller's that is under way when the
		// program ends returns when it will, and what it brings is dropped.
		go func() {
			_, _ = io.Copy(p.input, c.Stdin) // ends with the program at the latest
			p.input.Close()
		}()
	}
	go p.reap() // Destroy and Wait wait for it, by done
	return p, nil
}

// openInput makes the pipe for a standard input that is not a file already.
func (p *program) openInput(from io.Reader) (closeTheirs func(), err error) {
	if f, ok := from.(*os.File); ok || from == nil {
		if f != nil {
			p.cmd.Stdin = f
		}
		return func() {}, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	p.cmd.Stdin, p.input = r, w
	return func() { r.Close() }, nil
}

// closeInput ends a copied standard input and tells whether there was one.
func (p *program) closeInput() bool {
	if p.input == nil {
		return false
	}
	p.input.Close()
	return true
}

func (p *program) reap() {
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		p.err = err
	}
	p.closeInput()
	close(p.done)
}

// Wait returns the program's exit code. What it wrote before it ended has then been copied;
// what programs that it left behind write later is not waited for.
func (p *program) Wait() (int, error) {
	<-p.done
	p.b.mu.Lock()
	delete(p.b.programs, p)
	p.b.mu.Unlock()
	if p.cut.Load() {
		return -1, fmt.Errorf("driver none: wait for a program: %w", sandbox.ErrGone)
	}
	err := p.err
	if err != nil {
		err = fmt.Errorf("driver none: copy a program's output: %w", err)
	}
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal()), err
	}
	return p.cmd.ProcessState.ExitCode(), err
}

// Kill ends the program and what it started: on Linux all of it, on other Unixes what stayed
// in its process group, if the program still runs, on Windows the program alone.
func (p *program) Kill() error {
	ended := false
	select {
	case <-p.done:
		ended = true
	default:
	}
	if err := killAll(p.cmd.Process, p.mark, ended); err != nil {
		return fmt.Errorf("driver none: kill a program: %w", err)
	}
	return nil
}

// Destroy ends the programs that run. Those whose Stdin the driver copies see its end and
// have sandbox.StopGrace to stop.
func (b *box) Destroy(ctx context.Context) error {
	select {
	case b.destroying <- struct{}{}:
		defer func() { <-b.destroying }()
	case <-ctx.Done():
		return fmt.Errorf("driver none: destroy sandbox %s: %w", b.id, ctx.Err())
	}
	if b.destroyed {
		return nil
	}
	b.mu.Lock()
	b.closing = true
	running := make([]*program, 0, len(b.programs))
	for p := range b.programs {
		running = append(running, p)
	}
	b.mu.Unlock()
	grace, cancel := context.WithTimeout(ctx, sandbox.StopGrace)
	defer cancel()
	for _, p := range running {
		if p.closeInput() {
			select {
			case <-p.done:
			case <-grace.Done():
			}
		}
	}
	var failed []error
	for _, p := range running {
		select {
		case <-p.done:
		default:
			p.cut.Store(true)
		}
		failed = append(failed, p.Kill())
		select {
		case <-p.done:
		case <-ctx.Done():
			failed = append(failed, ctx.Err())
		}
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("driver none: destroy sandbox %s: %w", b.id, err)
	}
	b.destroyed = true
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	delete(b.d.live, b.id)
	return nil
}
