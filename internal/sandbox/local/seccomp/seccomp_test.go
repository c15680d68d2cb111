//go:build linux && (amd64 || arm64)

package seccomp

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// run interprets the filter for one call, as the kernel would.
func run(t *testing.T, prog []Instruction, arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var data [64]byte
	binary.LittleEndian.PutUint32(data[offNr:], nr)
	binary.LittleEndian.PutUint32(data[offArch:], arch)
	for i, v := range args {
		binary.LittleEndian.PutUint64(data[offArgs+8*i:], v)
	}
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		holds := false
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[in.K:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			holds = acc == in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			holds = acc >= in.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			holds = acc&in.K != 0
		default:
			t.Fatalf("instruction %d has code %#x", pc, in.Code)
		}
		if holds {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	t.Fatal("the filter ran past its end")
	return 0
}

func TestFilterDecisions(t *testing.T) {
	prog := Filter()
	if len(prog) > unix.BPF_MAXINSNS {
		t.Fatalf("%d instructions, the kernel takes %d", len(prog), unix.BPF_MAXINSNS)
	}
	errno := func(e unix.Errno) uint32 { return retErrno | uint32(e) }
	eperm, enosys := errno(unix.EPERM), errno(unix.ENOSYS)
	args := func(a ...uint64) []uint64 { return a }
	tests := []struct {
		name string
		nr   uint32
		args []uint64
		want uint32
	}{
		{"read", unix.SYS_READ, nil, retAllow},
		{"write", unix.SYS_WRITE, nil, retAllow},
		{"execve", unix.SYS_EXECVE, nil, retAllow},
		{"statx", unix.SYS_STATX, nil, retAllow},
		{"landlock", unix.SYS_LANDLOCK_CREATE_RULESET, nil, retAllow},
		{"mount", unix.SYS_MOUNT, nil, eperm},
		{"umount", unix.SYS_UMOUNT2, nil, eperm},
		{"pivot_root", unix.SYS_PIVOT_ROOT, nil, eperm},
		{"setns", unix.SYS_SETNS, nil, eperm},
		{"bpf", unix.SYS_BPF, nil, eperm},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, nil, eperm},
		{"keyctl", unix.SYS_KEYCTL, nil, eperm},
		{"userfaultfd", unix.SYS_USERFAULTFD, nil, eperm},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, nil, eperm},
		{"process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, nil, eperm},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, nil, enosys},
		{"io_uring_enter", unix.SYS_IO_URING_ENTER, nil, enosys},
		{"clone3", unix.SYS_CLONE3, nil, enosys},
		{"openat2", unix.SYS_OPENAT2, nil, enosys},
		{"unknown", 5000, nil, enosys},
		{"largest", 1<<32 - 1, nil, enosys},
		{"x32 read", 0x40000000, nil, enosys},
		{"clone thread", unix.SYS_CLONE, args(unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND), retAllow},
		{"clone fork", unix.SYS_CLONE, args(uint64(unix.SIGCHLD)), retAllow},
		{"clone user", unix.SYS_CLONE, args(unix.CLONE_NEWUSER), eperm},
		{"clone net", unix.SYS_CLONE, args(unix.CLONE_NEWNET | uint64(unix.SIGCHLD)), eperm},
		{"unshare files", unix.SYS_UNSHARE, args(unix.CLONE_FILES), retAllow},
		{"unshare time", unix.SYS_UNSHARE, args(unix.CLONE_NEWTIME), eperm},
		{"unshare mount", unix.SYS_UNSHARE, args(unix.CLONE_NEWNS), eperm},
		{"unix socket", unix.SYS_SOCKET, args(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0), retAllow},
		{"tcp", unix.SYS_SOCKET, args(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0), retAllow},
		{"udp6", unix.SYS_SOCKET, args(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP), retAllow},
		{"mptcp", unix.SYS_SOCKET, args(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP), errno(unix.EPROTONOSUPPORT)},
		{"ping", unix.SYS_SOCKET, args(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP), errno(unix.EPROTONOSUPPORT)},
		{"raw", unix.SYS_SOCKET, args(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), eperm},
		{"sctp", unix.SYS_SOCKET, args(unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP), errno(unix.ESOCKTNOSUPPORT)},
		{"packet", unix.SYS_SOCKET, args(unix.AF_PACKET, unix.SOCK_RAW, 0), errno(unix.EAFNOSUPPORT)},
		{"vsock", unix.SYS_SOCKET, args(unix.AF_VSOCK, unix.SOCK_STREAM, 0), errno(unix.EAFNOSUPPORT)},
		{"alg", unix.SYS_SOCKET, args(unix.AF_ALG, unix.SOCK_SEQPACKET, 0), errno(unix.EAFNOSUPPORT)},
		{"bluetooth", unix.SYS_SOCKET, args(unix.AF_BLUETOOTH, unix.SOCK_RAW, 0), errno(unix.EAFNOSUPPORT)},
		{"netlink route", unix.SYS_SOCKET, args(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE), retAllow},
		{"netlink audit", unix.SYS_SOCKET, args(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT), errno(unix.EPROTONOSUPPORT)},
		{"family with high bits", unix.SYS_SOCKET, args(1<<32|unix.AF_VSOCK, unix.SOCK_STREAM, 0), errno(unix.EAFNOSUPPORT)},
		{"socketpair", unix.SYS_SOCKETPAIR, args(unix.AF_UNIX, unix.SOCK_STREAM, 0), retAllow},
		{"socketpair tipc", unix.SYS_SOCKETPAIR, args(unix.AF_TIPC, unix.SOCK_STREAM, 0), errno(unix.EAFNOSUPPORT)},
		{"tcgets", unix.SYS_IOCTL, args(0, unix.TCGETS), retAllow},
		{"tiocsti", unix.SYS_IOCTL, args(0, unix.TIOCSTI), eperm},
		{"tiocsti with high bits", unix.SYS_IOCTL, args(0, 1<<32|unix.TIOCSTI), eperm},
		{"trace me", unix.SYS_PTRACE, args(unix.PTRACE_TRACEME), retAllow},
		{"attach", unix.SYS_PTRACE, args(unix.PTRACE_ATTACH, 7), eperm},
		{"seize", unix.SYS_PTRACE, args(unix.PTRACE_SEIZE, 7), eperm},
		{"kill", unix.SYS_KILL, args(7, 9), retAllow},
		{"kill group", unix.SYS_KILL, args(1<<64-1, 9), retAllow},
		{"kill first", unix.SYS_KILL, args(1, 15), eperm},
		{"no randomisation", unix.SYS_PERSONALITY, args(0x40000), retAllow},
		{"read implies exec", unix.SYS_PERSONALITY, args(0x400000), eperm},
		{"chmod 755", unix.SYS_FCHMODAT, args(0, 0, 0o755), retAllow},
		{"chmod setuid", unix.SYS_FCHMODAT, args(0, 0, 0o4755), eperm},
		{"chmod setgid", unix.SYS_FCHMODAT2, args(0, 0, 0o2755), eperm},
		{"chmod sticky", unix.SYS_FCHMOD, args(3, 0o1777), retAllow},
		{"fchmod setuid", unix.SYS_FCHMOD, args(3, 0o4700), eperm},
		{"mknod setuid", unix.SYS_MKNODAT, args(0, 0, unix.S_IFREG|0o4755), eperm},
		{"create", unix.SYS_OPENAT, args(0, 0, unix.O_CREAT|unix.O_WRONLY, 0o644), retAllow},
		{"create setuid", unix.SYS_OPENAT, args(0, 0, unix.O_CREAT|unix.O_WRONLY, 0o4755), eperm},
		{"tmpfile setuid", unix.SYS_OPENAT, args(0, 0, unix.O_TMPFILE|unix.O_WRONLY, 0o4755), eperm},
		{"open with rubbish as mode", unix.SYS_OPENAT, args(0, 0, unix.O_RDONLY, 0o4755), retAllow},
		{"open directory", unix.SYS_OPENAT, args(0, 0, unix.O_DIRECTORY, 0o4755), retAllow},
	}
	for _, tt := range tests {
		if got := run(t, prog, auditArch, tt.nr, tt.args...); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, action(got), action(tt.want))
		}
	}
	if got := run(t, prog, unix.AUDIT_ARCH_I386, 1); got != retKill {
		t.Errorf("a 32-bit call: %s, want %s", action(got), action(retKill))
	}
}

// TestDispatchAgreesWithTable holds the search against the plain table for every number.
func TestDispatchAgreesWithTable(t *testing.T) {
	prog, calls := Filter(), table()
	for nr := uint32(0); nr < 1024; nr++ {
		got := run(t, prog, auditArch, nr)
		switch label := calls[nr]; label {
		case "allow":
			if got != retAllow {
				t.Errorf("call %d: %s, want allow", nr, action(got))
			}
		case "eperm":
			if got != retErrno|uint32(unix.EPERM) {
				t.Errorf("call %d: %s, want EPERM", nr, action(got))
			}
		case "":
			if got != retErrno|uint32(unix.ENOSYS) {
				t.Errorf("call %d: %s, want ENOSYS", nr, action(got))
			}
		}
	}
}

// TestNoCallTwice keeps the lists apart: a call on two of them would be decided by chance.
func TestNoCallTwice(t *testing.T) {
	seen := map[uint32]string{}
	note := func(list string, calls ...uint32) {
		for _, nr := range calls {
			if first, twice := seen[nr]; twice {
				t.Errorf("call %d is in %s and in %s", nr, first, list)
			}
			seen[nr] = list
		}
	}
	note("allowed", allowed...)
	note("allowedHere", allowedHere...)
	note("refused", refused...)
	note("refusedHere", refusedHere...)
	for _, c := range checks {
		note(c.name, c.calls...)
	}
}

func action(ret uint32) string {
	switch ret & 0xffff0000 {
	case retAllow:
		return "allow"
	case retErrno:
		return fmt.Sprintf("errno %s", unix.ErrnoName(unix.Errno(ret&0xffff)))
	case retKill:
		return "kill"
	}
	return fmt.Sprintf("%#x", ret)
}
