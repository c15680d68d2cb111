//go:build linux && (amd64 || arm64)

package local

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is something that a program must not be able to do. It runs inside a sandbox, in
// the test binary started as the hand.
type attempt struct {
	name string
	try  func() error
	want []unix.Errno // any of them
}

func raw(nr uintptr, args ...uintptr) func() error {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}
}

func socket(family, kind, protocol int) func() error {
	return func() error {
		fd, err := unix.Socket(family, kind, protocol)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func write(path string) func() error {
	return func() error { return os.WriteFile(path, []byte("0"), 0o644) }
}

func read(path string) func() error {
	return func() error {
		_, err := os.ReadFile(path)
		return err
	}
}

var scratch [4096]byte

// attempts are in the order of what they aim at.
func attempts() []attempt {
	at := func(s string) uintptr {
		b := append([]byte(s), 0)
		return uintptr(unsafe.Pointer(&b[0]))
	}
	buf := uintptr(unsafe.Pointer(&scratch))
	perm := []unix.Errno{unix.EPERM}
	perms := []unix.Errno{unix.EPERM, unix.EACCES}
	nosys := []unix.Errno{unix.ENOSYS}
	family := []unix.Errno{unix.EAFNOSUPPORT}
	readOnly := []unix.Errno{unix.EROFS, unix.EACCES}
	list := []attempt{
		{"mount", func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }, perm},
		{"bind mount", func() error { return unix.Mount("/usr", "/tmp", "", unix.MS_BIND, "") }, perm},
		{"remount", func() error { return unix.Mount("", "/usr", "", unix.MS_REMOUNT|unix.MS_BIND, "") }, perm},
		{"unmount", func() error { return unix.Unmount("/proc", unix.MNT_DETACH) }, perm},
		{"pivot_root", func() error { return unix.PivotRoot("/", "/tmp") }, perm},
		{"chroot", func() error { return unix.Chroot("/tmp") }, perm},
		{"open_tree", raw(unix.SYS_OPEN_TREE, ^uintptr(99), at("/"), unix.OPEN_TREE_CLONE), perm},
		{"move_mount", raw(unix.SYS_MOVE_MOUNT), perm},
		{"fsopen", raw(unix.SYS_FSOPEN, at("tmpfs")), perm},
		{"mount_setattr", raw(unix.SYS_MOUNT_SETATTR), perm},
		{"setns", func() error { return unix.Setns(0, 0) }, perm},
		{"clone with namespaces", raw(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_NEWNS), perm},
		{"clone3", raw(unix.SYS_CLONE3, buf, 64), nosys},
		{"open_by_handle_at", raw(unix.SYS_OPEN_BY_HANDLE_AT, 0, buf), perm},
		{"device node", func() error { return unix.Mknod("/tmp/disk", unix.S_IFBLK|0o666, int(unix.Mkdev(254, 0))) }, perm},
		{"attach to a process", func() error { return unix.PtraceAttach(os.Getppid()) }, perm},
		{"seize a process", raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1), perm},
		{"read a process's memory", raw(unix.SYS_PROCESS_VM_READV, 1), perm},
		{"write a process's memory", raw(unix.SYS_PROCESS_VM_WRITEV, 1), perm},
		{"take a process's descriptor", raw(unix.SYS_PIDFD_GETFD, 0), perm},
		{"open the first process's memory", read("/proc/1/mem"), perms},
		{"open the first process's environment", read("/proc/1/environ"), perms},
		{"open the first process's descriptor", read("/proc/1/fd/3"), perms},
		{"kill the first process", func() error { return unix.Kill(1, unix.SIGKILL) }, perm},
		{"io_uring", raw(unix.SYS_IO_URING_SETUP, 8, buf), nosys},
		{"bpf", raw(unix.SYS_BPF, 0, buf, 64), perm},
		{"perf_event_open", raw(unix.SYS_PERF_EVENT_OPEN, buf), perm},
		{"userfaultfd", raw(unix.SYS_USERFAULTFD), perm},
		{"keyctl", raw(unix.SYS_KEYCTL), perm},
		{"add_key", raw(unix.SYS_ADD_KEY), perm},
		{"kexec", raw(unix.SYS_KEXEC_LOAD), perm},
		{"load a module", raw(unix.SYS_INIT_MODULE), perm},
		{"reboot", raw(unix.SYS_REBOOT, 0xfee1dead, 672274793, 0x89abcdef), perm},
		{"swap", raw(unix.SYS_SWAPON, at("/tmp")), perm},
		{"kernel log", raw(unix.SYS_SYSLOG, 3, buf, 4096), perm},
		{"host name", func() error { return unix.Sethostname([]byte("x")) }, perm},
		{"clock", func() error { return unix.Settimeofday(&unix.Timeval{}) }, perm},
		{"fanotify", raw(unix.SYS_FANOTIFY_INIT), perm},
		{"vsock", socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0), family},
		{"packet socket", socket(unix.AF_PACKET, unix.SOCK_RAW, 0), family},
		{"alg socket", socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0), family},
		{"bluetooth socket", socket(unix.AF_BLUETOOTH, unix.SOCK_RAW, 0), family},
		{"tipc socket", socket(unix.AF_TIPC, unix.SOCK_STREAM, 0), family},
		{"raw socket", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), perm},
		{"raw socket 6", socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6), perm},
		{"netfilter netlink", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER), []unix.Errno{unix.EPROTONOSUPPORT}},
		{"audit netlink", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT), []unix.Errno{unix.EPROTONOSUPPORT}},
		{"type into a terminal", func() error { return unix.IoctlSetPointerInt(0, unix.TIOCSTI, 'x') }, perm},
		{"become root", func() error { return unix.Setuid(0) }, []unix.Errno{unix.EPERM, unix.EINVAL}},
		{"other groups", func() error { return unix.Setgroups([]int{0}) }, []unix.Errno{unix.EPERM, unix.EINVAL}},
		{"setuid bit", func() error { return errors.Join(os.WriteFile("own", nil, 0o755), unix.Chmod("own", 0o4755)) }, perm},
		{"setgid bit", func() error { return unix.Fchmodat(unix.AT_FDCWD, "own", 0o2755, 0) }, perm},
		{"create with setuid bit", func() error {
			_, err := unix.Open("own2", unix.O_CREAT|unix.O_WRONLY, 0o4755)
			return err
		}, perm},
		{"raise the process limit", func() error {
			return unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20})
		}, perm},
		{"escape the out-of-memory killer", func() error { return os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0) }, perms},
		{"core pattern", write("/proc/sys/kernel/core_pattern"), readOnly},
		{"forwarding", write("/proc/sys/net/ipv4/ip_forward"), readOnly},
		{"sysrq", write("/proc/sysrq-trigger"), append(readOnly, unix.ENOENT)},
		{"kernel memory", read("/proc/kcore"), append(perms, unix.ENOENT)},
		{"key list", read("/proc/keys"), append(perms, unix.ENOENT)},
		{"symbols", read("/proc/kallsyms"), append(perms, unix.ENOENT)},
		{"shadow", read("/etc/shadow"), perms},
		{"write the system", write("/usr/croft"), readOnly},
		{"write the configuration", write("/etc/croft"), readOnly},
		{"write the root", write("/croft"), readOnly},
		{"write the binary", write("/.croft/croft"), readOnly},
		{"write the accounts", write("/etc/passwd"), readOnly},
		{"uncover", func() error { return os.Remove("/etc/passwd") }, []unix.Errno{unix.EBUSY, unix.EROFS, unix.EACCES, unix.EPERM}},
	}
	for _, ns := range []uintptr{unix.CLONE_NEWUSER, unix.CLONE_NEWNS, unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_NEWIPC,
		unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWTIME} {
		list = append(list, attempt{fmt.Sprintf("unshare %#x", ns), raw(unix.SYS_UNSHARE, ns), perm})
	}
	return append(list, attemptsHere()...)
}

// tryAll makes every attempt and writes what went otherwise than it should.
func tryAll() {
	for _, a := range attempts() {
		err := a.try()
		var errno unix.Errno
		if !errors.As(err, &errno) || !slices.Contains(a.want, errno) {
			fmt.Printf("%s: error %v, want one of %v\n", a.name, err, a.want)
		}
	}
	fmt.Println("tried")
	os.Exit(0)
}
