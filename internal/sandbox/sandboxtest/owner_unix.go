//go:build unix

package sandboxtest

import (
	"os"
	"syscall"
)

// sameOwner tells whether two files have one owner and group.
func sameOwner(a, b os.FileInfo) bool {
	sa, oka := a.Sys().(*syscall.Stat_t)
	sb, okb := b.Sys().(*syscall.Stat_t)
	return oka && okb && sa.Uid == sb.Uid && sa.Gid == sb.Gid
}
