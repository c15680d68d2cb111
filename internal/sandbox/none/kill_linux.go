package none

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"
)

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// killAll kills every process whose environment carries the mark, until there is none: the
// program and what it started, detached or not, unless it cleared its environment.
func killAll(p *os.Process, mark string, _ bool) error {
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	needle := []byte(markName + "=" + mark)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		names, err := processes()
		if err != nil {
			return err
		}
		found := false
		for _, name := range names {
			pid, err := strconv.Atoi(name)
			if err != nil {
				continue
			}
			// A process that is dead, or not ours, shows no environment.
			if env, err := os.ReadFile("/proc/" + name + "/environ"); err == nil && bytes.Contains(env, needle) {
				found = true
				_ = syscall.Kill(pid, syscall.SIGKILL) // unless it has ended
			}
		}
		if !found {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return os.ErrDeadlineExceeded
}

func processes() ([]string, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}
