//go:build unix && !linux

package none

import (
	"errors"
	"os"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// killAll kills the program's process group. Once the program has ended, its number may be
// another group's.
func killAll(p *os.Process, _ string, ended bool) error {
	if ended {
		return nil
	}
	if err := syscall.Kill(-p.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
