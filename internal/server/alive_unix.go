//go:build !windows

package server

import "syscall"

// alive tells whether a process of that id may run.
func alive(pid int) bool {
	return pid > 0 && syscall.Kill(pid, 0) != syscall.ESRCH
}
