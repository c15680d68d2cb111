//go:build unix

package hand

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// children owns every child of this process. Whoever waits for "any child" takes the exit
// statuses of all, and as PID 1 or as a subreaper the hand must wait for any: so nobody
// else in the process waits or forks. Orphans that fall to the hand are reaped and forgotten.
type children struct {
	mu   sync.Mutex // held over fork and over wait, so that no child ends unknown
	live map[int]chan exit
}

// exit is how a child ended: its exit code, or 128 and the signal that ended it.
type exit struct {
	code   int
	signal syscall.Signal // 0 when none
}

func newChildren() *children {
	becomeSubreaper()
	keepDescriptors()
	return &children{live: make(map[int]chan exit)}
}

// reap waits for children as they end, until ctx does.
func (c *children) reap(ctx context.Context) {
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
func (c *children) collect() {
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
		if ch := c.live[pid]; ch != nil {
			delete(c.live, pid)
			e := exit{code: ws.ExitStatus()}
			if ws.Signaled() {
				e = exit{code: 128 + int(ws.Signal()), signal: ws.Signal()}
			}
			ch <- e
		}
	}
}

// start runs a program. Its exit arrives on the channel, once.
func (c *children) start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan exit, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	ch := make(chan exit, 1)
	c.live[pid] = ch
	return pid, ch, nil
}

// signal sends sig to a child of ours or, by its negative number, to the process group that
// it leads. To one that has been reaped nothing is sent, so a reused number is never hit.
func (c *children) signal(pid int, sig syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live[max(pid, -pid)] != nil {
		_ = syscall.Kill(pid, sig)
	}
}

// killAll kills what descends from this process, until nothing does or a while has passed.
func (c *children) killAll() {
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
