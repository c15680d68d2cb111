package storetest

import (
	"os/exec"
	"runtime"
	"syscall"
)

func pdeathsig(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGQUIT }

func credential(a *syscall.SysProcAttr, uid, gid int) {
	a.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// startPinned starts cmd from a thread that lives as long as cmd does: the parent-death
// signal is the thread's, not the process's.
func startPinned(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	err := cmd.Start()
	started <- err
	if err == nil {
		cmd.Wait() //nolint:errcheck // it is killed at the end
	}
}
