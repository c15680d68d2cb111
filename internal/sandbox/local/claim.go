//go:build linux && (amd64 || arm64)

package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// claim is the lock on a sandbox's folder: a file in it that its worker holds locked for as
// long as the sandbox lives, and that says what would outlive them both. The kernel lets go
// of the lock when the worker dies.
type claim struct {
	file *os.File
}

// traces is what the file says.
type traces struct {
	// PID is the first process, as the worker sees it, and Began when it started, in the
	// kernel's ticks, by which a later process of the same number is told apart.
	PID     int      `json:"pid,omitempty"`
	Began   string   `json:"began,omitempty"`
	Cgroups []string `json:"cgroups,omitempty"`
}

// errLive is the refusal of a second sandbox with the same id.
var errLive = errors.New("a sandbox with this id is live")

const claimFile = "live"

// claim takes the lock of the folder of id, which must exist, and removes what a dead
// worker may have left of the sandbox.
func (d *Driver) claim(ctx context.Context, id string) (*claim, error) {
	c, err := takeClaim(d.folder(id), os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := c.clear(ctx); err != nil {
		c.file.Close()
		return nil, err
	}
	return c, nil
}

// takeClaim opens the file, with the further flag, and locks it.
func takeClaim(dir string, flag int) (*claim, error) {
	for {
		f, err := os.OpenFile(filepath.Join(dir, claimFile), os.O_RDWR|flag, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errLive
			}
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		// The one who held it may have removed the file between the two steps.
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			f.Close()
			return nil, err
		}
		if st.Nlink > 0 {
			return &claim{f}, nil
		}
		f.Close()
	}
}

func (c *claim) write(t traces) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if _, err := c.file.WriteAt(b, 0); err != nil {
		return err
	}
	return c.file.Truncate(int64(len(b)))
}

// release removes the file and gives up the lock.
func (c *claim) release() error {
	return errors.Join(os.Remove(c.file.Name()), c.file.Close())
}

// Sweep removes what sandboxes left whose worker died, and returns their ids. It leaves
// alone the sandboxes of workers that live, this one included.
func (d *Driver) Sweep(ctx context.Context) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(d.data, kept))
	if err != nil {
		return nil, fmt.Errorf("driver local: sweep: %w", err)
	}
	var swept []string
	var failed []error
	for _, e := range entries {
		id := e.Name()
		c, err := takeClaim(d.folder(id), 0)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, errLive) {
			continue
		}
		if err == nil {
			if err = c.clear(ctx); err == nil {
				err = c.release()
			} else {
				c.file.Close() // and leave the file to another Sweep
			}
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("driver local: sweep sandbox %s: %w", id, err))
			continue
		}
		d.log.Info("removed a sandbox that its worker had left", "sandbox", id)
		swept = append(swept, id)
	}
	return swept, errors.Join(failed...)
}

// clear removes what the last holder of the claim left, if it died.
func (c *claim) clear(ctx context.Context) error {
	b, err := os.ReadFile(c.file.Name())
	if err != nil {
		return err
	}
	if !json.Valid(b) {
		return nil // it died while it wrote, and had made nothing yet
	}
	var t traces
	if err := json.Unmarshal(b, &t); err != nil {
		return fmt.Errorf("read %s: %w", c.file.Name(), err)
	}
	return t.erase(ctx)
}

// erase ends the first process, if it still runs, and removes the cgroups.
func (t *traces) erase(ctx context.Context) error {
	if t.PID > 0 {
		// The handle is of whatever has the number; what it is, is looked at after.
		p, err := os.FindProcess(t.PID)
		if err != nil {
			return fmt.Errorf("find its first process: %w", err)
		}
		began, err := processBegan(t.PID)
		if err == nil && began == t.Began {
			err = p.Kill()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("end its first process: %w", err)
		}
	}
	return (&group{dirs: t.Cgroups}).remove(ctx)
}

// processBegan returns a process's start time, in the kernel's ticks since it booted.
func processBegan(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name, in parentheses, may hold anything; the start time is the 20th field after it.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return string(fields[19]), nil
}
