package store_test

import (
	"os"
	"runtime"
	"syscall"
	"testing"
)

// asNobody runs fn where file permissions count: as root, on a thread that acts on files as
// another user and ends with the test.
func asNobody(t *testing.T, dir string, fn func(t *testing.T)) {
	t.Helper()
	if os.Getuid() != 0 {
		fn(t)
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0); errno != 0 {
			t.Error(errno)
			return
		}
		fn(t)
	}()
	<-done
}
