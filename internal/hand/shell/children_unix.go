//go:build unix

package shell

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Children owns every child of this process. Whoever waits for "any child" takes the exit
// statuses of all, and as PID 1 or as a subreaper the hand must wait for any: so nobody
// else in the process waits or forks. Orphans that fall to the hand are reaped and forgotten.
type Children struct {
	mu   sync.Mutex // held over fork and over wait, so that no child ends unknown
	live map[int]*child
}

// child is a process that we started.
type child struct {
	pid  int
	done chan struct{} // closed once it has ended and was reaped
	code int           // then its exit code, or 128 and the signal that ended it
}

// NewChildren takes over the children of this process; there must be one at a time. It
// makes the process the subreaper of what it starts, where it may, and has every descriptor
// but the first three closed in children.
func NewChildren() *Children {
	becomeSubreaper()
	keepDescriptors()
	return &Children{live: make(map[int]*child)}
}

// Reap waits for children as they end, until ctx does.
func (c *Children) Reap(ctx context.Context) {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGCHLD)
	defer signal.Stop(sig)
	for {
		c.collect()
		select {
		case <-sig:
		case <-ctx.Done():
			return
		}
	}
}

// collect reaps every child that has ended.
func (c *Children) collect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if err == syscall.EINTR { //nolint:errorlint // system calls return it bare
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ours := c.live[pid]; ours != nil {
			delete(c.live, pid)
			ours.code = ws.ExitStatus()
			if ws.Signaled() {
				ours.code = 128 + int(ws.Signal())
			}
			close(ours.done)
		}
	}
}

// start runs a program.
func (c *Children) start(path string, argv []string, attr *syscall.ProcAttr) (*child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, err
	}
	ours := &child{pid: pid, done: make(chan struct{})}
	c.live[pid] = ours
	return ours, nil
}

// signal sends sig to a child of ours or, by its negative number, to the process group that
// it leads. To one that has been reaped nothing is sent, so a reused number is never hit.
func (c *Children) signal(pid int, sig syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live[max(pid, -pid)] != nil {
		_ = syscall.Kill(pid, sig)
	}
}

// KillAll kills what descends from this process, until nothing does or a while has passed.
func (c *Children) KillAll() {
	const rounds, pause = 100, time.Millisecond
	for range rounds {
		c.mu.Lock()
		left := len(c.live)
		for pid := range c.live {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		c.mu.Unlock()
		if os.Getpid() == 1 { // of its namespace: all there is
			if syscall.Kill(-1, syscall.SIGKILL) == nil {
				left++
			}
		} else {
			for _, p := range descendants(os.Getpid(), func(process) bool { return true }) {
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
				left++
			}
		}
		c.collect()
		if left == 0 {
			return
		}
		time.Sleep(pause)
	}
}
