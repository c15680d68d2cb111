//go:build !linux

package storetest

import (
	"os/exec"
	"syscall"
)

func pdeathsig(*syscall.SysProcAttr) {}

func credential(*syscall.SysProcAttr, int, int) {}

func startPinned(cmd *exec.Cmd, started chan<- error) {
	err := cmd.Start()
	started <- err
	if err == nil {
		cmd.Wait() //nolint:errcheck // it is killed at the end
	}
}
