//go:build linux

package local

import (
	"os"
	"os/exec"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"croft/internal/sandbox"
)

func attemptsHere() []attempt {
	return []attempt{
		{"iopl", raw(unix.SYS_IOPL, 3), []unix.Errno{unix.EPERM}},
		{"modify_ldt", raw(unix.SYS_MODIFY_LDT), []unix.Errno{unix.EPERM}},
		{"x32 getpid", raw(0x40000000 + unix.SYS_GETPID), []unix.Errno{unix.ENOSYS}},
	}
}

// callI386 makes a system call through the 32-bit entry: getpid.
func callI386() {
	code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		os.Exit(1)
	}
	copy(code, []byte{0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3}) // mov eax, 20; int 0x80; ret
	entry := unsafe.Pointer(&code[0])
	closure := unsafe.Pointer(&entry)
	(*(*func())(unsafe.Pointer(&closure)))()
	os.Exit(0)
}

// TestI386 makes the call outside, where it works if the kernel knows it at all, and inside.
func TestI386(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	outside := exec.Command("/proc/self/exe")
	outside.Args = []string{sandbox.HandProgram, "i386"}
	if err := outside.Run(); err != nil {
		t.Skipf("this kernel has no 32-bit calls (build it with CONFIG_IA32_EMULATION): %v", err)
	}
	if _, code := run(t, newBox(t, d, sandbox.Spec{ID: "x"}), sandbox.HandProgram, "i386"); code != 128+int(unix.SIGSYS) {
		t.Errorf("exit code %d, want the end by SIGSYS", code)
	}
}
