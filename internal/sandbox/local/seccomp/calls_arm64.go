//go:build linux

package seccomp

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_AARCH64
	x32Bit    = 0 // no such interface
)

var (
	allowedHere = []uint32{unix.SYS_NEWFSTATAT}
	refusedHere []uint32
	checksHere  []check
)
