//go:build linux && (amd64 || arm64)

package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"croft/internal/sandbox"
	"croft/internal/sandbox/local/initproc"
)

// box is one live sandbox.
type box struct {
	d     *Driver
	id    string
	env   []string
	proc  *os.Process
	conn  *net.UnixConn
	words *os.File // what the first process says on standard error
	claim *claim
	group *group

	ready chan error    // the first word of the first process
	dead  chan struct{} // closed when the first process, and so every other, has ended

	writing sync.Mutex // one frame at a time

	mu       sync.Mutex
	next     uint32
	programs map[uint32]*program
	closing  bool // Destroy has begun

	destroying chan struct{} // holds a token while a Destroy is at work
	destroyed  bool
}

// Create makes a sandbox. A host path that is missing is an error that is fs.ErrNotExist.
func (d *Driver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	b, err := d.create(ctx, &spec)
	if err != nil {
		return nil, fmt.Errorf("driver local: create sandbox: %w", err)
	}
	return b, nil
}

func (d *Driver) create(ctx context.Context, spec *sandbox.Spec) (*box, error) {
	p, err := d.plan(spec)
	if err != nil {
		return nil, err
	}
	defer p.close()
	b := &box{
		d: d, id: spec.ID, env: d.environment(spec.Env), group: d.cgroups.place(d.groupName(spec.ID), p.limits),
		ready: make(chan error, 1), dead: make(chan struct{}), destroying: make(chan struct{}, 1),
		programs: map[uint32]*program{},
	}
	if b.claim, err = d.claim(ctx, spec.ID); err != nil {
		return nil, err
	}
	if err := b.claim.write(traces{Cgroups: b.group.dirs}); err != nil {
		return nil, errors.Join(err, b.claim.release())
	}
	if err := b.begin(ctx, p); err != nil {
		// What was asked for may be over; what was made must still go.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return nil, errors.Join(err, b.end(clean))
	}
	return b, nil
}

// begin starts the first process and waits until the sandbox is ready.
func (b *box) begin(ctx context.Context, p *plan) error {
	if err := b.d.cgroups.make(b.group, b.d.groupName(b.id), p.limits); err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("words", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a file in memory: %w", err)
	}
	b.words = os.NewFile(uintptr(fd), "words")
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return fmt.Errorf("use the socket: %w", err)
	}
	b.conn = conn.(*net.UnixConn)
	b.proc, err = startInit(b.d.selfPath(), theirs, b.words, b.d.who.attributes())
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start the first process in new namespaces: %w", err)
	}
	go b.listen()
	if err := b.group.add(b.proc.Pid); err != nil {
		return err
	}
	fds := make([]int, len(p.mounts))
	for i, f := range p.mounts {
		fds[i] = int(f.Fd())
	}
	err = b.send(initproc.FrameConfig, 0, p.config.Encode(), fds)
	if isClosed(err) {
		<-b.dead
		return b.lost()
	}
	if err != nil {
		return fmt.Errorf("configure the first process: %w", err)
	}
	// For Sweep. By now the process may have failed, which ready tells.
	if began, err := processBegan(b.proc.Pid); err == nil {
		err = b.claim.write(traces{PID: b.proc.Pid, Began: began, Cgroups: b.group.dirs})
		if err != nil {
			return fmt.Errorf("note the first process: %w", err)
		}
	}
	select {
	case err := <-b.ready:
		return err
	case <-b.dead:
		return b.lost()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lost says that the first process ended unasked, with its last words.
func (b *box) lost() error {
	select {
	case err := <-b.ready: // it said why
		if err != nil {
			return err
		}
	default:
	}
	last := make([]byte, 2048)
	if n, _ := b.words.ReadAt(last, 0); n > 0 {
		return fmt.Errorf("%w: its first process ended: %s", sandbox.ErrGone, last[:n])
	}
	return fmt.Errorf("%w: its first process ended", sandbox.ErrGone)
}

// send writes one frame and the descriptors that go with it.
func (b *box) send(kind initproc.Kind, id uint32, body []byte, fds []int) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	return b.write(kind, id, body, fds)
}

// write is send for who holds writing.
func (b *box) write(kind initproc.Kind, id uint32, body []byte, fds []int) error {
	if len(body) > initproc.MaxBody {
		return fmt.Errorf("%d bytes to the sandbox, at most %d", len(body), initproc.MaxBody)
	}
	frame := initproc.Frame(kind, id, body)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	n, _, err := b.conn.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = b.conn.Write(frame[n:])
	}
	return err
}

// listen takes the first process's words until it ends. Its owner is Destroy, which waits
// for dead.
func (b *box) listen() {
	defer close(b.dead)
	var err error
	for err == nil {
		var h initproc.Header
		var body []byte
		if h, body, err = initproc.ReadReply(b.conn); err == nil {
			err = b.handle(h, body)
		}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, unix.ECONNRESET) {
		b.d.log.Warn("a sandbox's first process broke the protocol", "sandbox", b.id, "error", err)
	}
	// Whatever ended the talk, without it nothing can be asked of the sandbox any more.
	_ = b.proc.Kill() // unless it has ended
	if _, err := b.proc.Wait(); err != nil {
		b.d.log.Error("wait for a sandbox's first process", "sandbox", b.id, "error", err)
	}
}

// handle takes one frame. An error ends the sandbox.
func (b *box) handle(h initproc.Header, body []byte) error {
	switch h.Kind {
	case initproc.FrameReady, initproc.FrameFailed:
		var why error
		if h.Kind == initproc.FrameFailed {
			f, err := initproc.DecodeFailure(body)
			if err != nil {
				return err
			}
			why = failure(f)
		}
		select {
		case b.ready <- why:
			return nil
		default:
			return initproc.ErrFrame
		}
	}
	b.mu.Lock()
	p := b.programs[h.ID]
	b.mu.Unlock()
	if p == nil {
		return nil // of a program that nobody waits for any more
	}
	switch h.Kind {
	case initproc.FrameStarted:
		p.answered(nil)
	case initproc.FrameRefused:
		f, err := initproc.DecodeFailure(body)
		if err != nil {
			return err
		}
		p.answered(failure(f))
	case initproc.FrameExited:
		status, err := initproc.DecodeStatus(body)
		if err != nil {
			return err
		}
		p.exited(unix.WaitStatus(status))
	case initproc.FrameKilled:
		p.wasKilled()
	}
	return nil
}

// failure is a Failure as an error that says what was being done and is the system's.
func failure(f *initproc.Failure) error {
	if f.Errno == 0 {
		return errors.New(f.Doing)
	}
	return fmt.Errorf("%s: %w", f.Doing, unix.Errno(f.Errno))
}

// ID is the spec's.
func (b *box) ID() string { return b.id }

// Destroy ends every process of the sandbox and removes all of it but its kept folders.
// Programs whose Stdin the driver copies see its end and have sandbox.StopGrace to stop.
func (b *box) Destroy(ctx context.Context) error {
	select {
	case b.destroying <- struct{}{}:
		defer func() { <-b.destroying }()
	case <-ctx.Done():
		return fmt.Errorf("driver local: destroy sandbox %s: %w", b.id, ctx.Err())
	}
	if b.destroyed {
		return nil
	}
	b.mu.Lock()
	b.closing = true
	var stopping []*program
	for _, p := range b.programs {
		if p.streams.closeInput() {
			stopping = append(stopping, p)
		}
	}
	b.mu.Unlock()
	grace, cancel := context.WithTimeout(ctx, sandbox.StopGrace)
	defer cancel()
	for _, p := range stopping {
		select {
		case <-p.done:
		case <-b.dead:
		case <-grace.Done():
		}
	}
	if err := b.end(ctx); err != nil {
		return fmt.Errorf("driver local: destroy sandbox %s: %w", b.id, err)
	}
	b.destroyed = true
	return nil
}

// end kills the first process, and so every other, waits for it, and removes what is left.
func (b *box) end(ctx context.Context) error {
	if b.proc != nil {
		_ = b.proc.Kill() // unless it has ended
		select {
		case <-b.dead:
		case <-ctx.Done():
			return fmt.Errorf("wait for its processes to end: %w", ctx.Err())
		}
	}
	if b.conn != nil {
		_ = b.conn.Close()
	}
	if b.words != nil {
		b.words.Close()
	}
	if err := b.group.remove(ctx); err != nil {
		return err
	}
	return b.claim.release()
}
