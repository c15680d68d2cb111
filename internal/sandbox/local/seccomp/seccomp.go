//go:build linux && (amd64 || arm64)

// Package seccomp builds the system-call filter under which every program of a local
// sandbox runs. It owns the list of allowed calls and the few checks of their arguments,
// and assembles both into classic BPF; it installs nothing. It imports the standard library
// and golang.org/x/sys/unix. Package local builds the filter once and hands it to each
// sandbox's first process, which installs it before it runs anything else.
//
// The filter is an allow-list. A call that is not on it fails with ENOSYS, which programs
// take as "this kernel is too old" and work around; a call that is refused on purpose fails
// with EPERM, so that a person who reads the message knows why. A call made through another
// architecture's entry (a 32-bit program) ends the program.
package seccomp

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Instruction is one classic BPF instruction in the kernel's layout.
type Instruction = unix.SockFilter

// Offsets in struct seccomp_data.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// Actions of the filter, as the kernel reads them.
const (
	retAllow = 0x7fff0000
	retErrno = 0x00050000
	retKill  = 0x80000000 // the whole process
)

// nsFlags are the clone and unshare flags that make namespaces. CLONE_NEWTIME is among
// them for unshare alone: clone reads these bits as the exit signal.
const nsFlags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// setIDs are the mode bits by which a file gives its owner's rights to whoever runs it. A
// sandbox may write into folders of the person who runs Croft, so a program left there with
// these bits would give every other user of the host that person's rights.
const setIDs = unix.S_ISUID | unix.S_ISGID

// Filter returns the program for this architecture.
func Filter() []Instruction {
	a := &assembler{}
	a.load(offArch)
	a.jeq(auditArch, "native")
	a.ret(retKill)
	a.label("native")
	a.load(offNr)
	if x32Bit != 0 {
		a.jge(x32Bit, "enosys")
	}
	a.dispatch(table())
	for _, c := range checks {
		a.label(c.name)
		c.emit(a)
	}
	for _, e := range errnos {
		a.label(e.name)
		a.ret(retErrno | uint32(e.errno))
	}
	a.label("allow")
	a.ret(retAllow)
	return a.assemble()
}

// errnos names the refusals that the table and the checks jump to.
var errnos = []struct {
	name  string
	errno unix.Errno
}{
	{"eperm", unix.EPERM},
	{"enosys", unix.ENOSYS},
	{"family", unix.EAFNOSUPPORT},
	{"type", unix.ESOCKTNOSUPPORT},
	{"protocol", unix.EPROTONOSUPPORT},
}

// table maps each call that the filter knows to the label that decides it.
func table() map[uint32]string {
	t := map[uint32]string{}
	for _, nr := range slices.Concat(allowed, allowedHere) {
		t[nr] = "allow"
	}
	for _, nr := range slices.Concat(refused, refusedHere) {
		t[nr] = "eperm"
	}
	for _, c := range checks {
		for _, nr := range c.calls {
			t[nr] = c.name
		}
	}
	return t
}

// check decides some calls by their arguments. Its code starts with no register set and
// must end every path in a jump to "allow" or to a refusal.
type check struct {
	name  string
	calls []uint32
	emit  func(*assembler)
}

// refuseBits refuses a call when any of the bits is set in argument arg.
func refuseBits(arg int, bits uint32) func(*assembler) {
	return func(a *assembler) {
		a.arg(arg)
		a.jset(bits, "eperm")
		a.ja("allow")
	}
}

// refuseValues refuses a call when argument arg is one of the values.
func refuseValues(arg int, values ...uint32) func(*assembler) {
	return func(a *assembler) {
		a.arg(arg)
		for _, v := range values {
			a.jeq(v, "eperm")
		}
		a.ja("allow")
	}
}

// refuseSetIDsOnCreate refuses an open that would create a file with setIDs. The mode means
// something only when the flags create; otherwise its register holds anything.
func refuseSetIDsOnCreate(label string, flags int) func(*assembler) {
	return func(a *assembler) {
		a.arg(flags)
		a.jset(unix.O_CREAT|(unix.O_TMPFILE&^unix.O_DIRECTORY), label)
		a.ja("allow")
		a.label(label)
		a.arg(flags + 1)
		a.jset(setIDs, "eperm")
		a.ja("allow")
	}
}

// checks holds the calls whose arguments decide.
var checks = append([]check{
	{"socket", []uint32{unix.SYS_SOCKET}, emitSocket},
	{"socketpair", []uint32{unix.SYS_SOCKETPAIR}, func(a *assembler) {
		a.arg(0)
		a.jeq(unix.AF_UNIX, "allow")
		a.ja("family")
	}},
	{"clone", []uint32{unix.SYS_CLONE}, refuseBits(0, nsFlags)},
	{"unshare", []uint32{unix.SYS_UNSHARE}, refuseBits(0, nsFlags|unix.CLONE_NEWTIME)},
	// Keystrokes and console commands put into a terminal that somebody else reads.
	{"ioctl", []uint32{unix.SYS_IOCTL}, refuseValues(1, unix.TIOCSTI, tiocLinux)},
	{"personality", []uint32{unix.SYS_PERSONALITY}, func(a *assembler) {
		a.arg(0)
		for _, p := range []uint32{0, persLinux32, persNoRandomize, persQuery} {
			a.jeq(p, "allow")
		}
		a.ja("eperm")
	}},
	// A debugger may trace the programs that it starts, none that runs already.
	{"ptrace", []uint32{unix.SYS_PTRACE}, refuseValues(0, unix.PTRACE_ATTACH, unix.PTRACE_SEIZE)},
	// The sandbox's first process shares the programs' user where the host gives one only.
	{"signal", []uint32{unix.SYS_KILL, unix.SYS_TKILL, unix.SYS_TGKILL, unix.SYS_RT_SIGQUEUEINFO,
		unix.SYS_RT_TGSIGQUEUEINFO, unix.SYS_PIDFD_OPEN}, refuseValues(0, 1)},
	{"fchmod", []uint32{unix.SYS_FCHMOD}, refuseBits(1, setIDs)},
	{"fchmodat", []uint32{unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_MKNODAT}, refuseBits(2, setIDs)},
	{"openat", []uint32{unix.SYS_OPENAT}, refuseSetIDsOnCreate("openat-mode", 2)},
}, checksHere...)

const (
	tiocLinux       = 0x541c
	persLinux32     = 0x0008
	persNoRandomize = 0x0040000
	persQuery       = 0xffffffff
)

// emitSocket allows unix sockets, TCP and UDP, and route netlink, which programs use to
// list interfaces. Vsock, packet, alg, bluetooth and the rest reach parts of the kernel
// that no namespace holds back.
func emitSocket(a *assembler) {
	a.arg(0)
	a.jeq(unix.AF_UNIX, "allow")
	a.jeq(unix.AF_INET, "inet")
	a.jeq(unix.AF_INET6, "inet")
	a.jeq(unix.AF_NETLINK, "netlink")
	a.ja("family")
	a.label("netlink")
	a.arg(2)
	a.jeq(unix.NETLINK_ROUTE, "allow")
	a.ja("protocol")
	a.label("inet")
	a.arg(1)
	a.and(0xf)
	a.jeq(unix.SOCK_STREAM, "stream")
	a.jeq(unix.SOCK_DGRAM, "dgram")
	a.jeq(unix.SOCK_RAW, "eperm")
	a.ja("type")
	a.label("stream")
	a.arg(2)
	a.jeq(0, "allow")
	a.jeq(unix.IPPROTO_TCP, "allow")
	a.ja("protocol")
	a.label("dgram")
	a.arg(2)
	a.jeq(0, "allow")
	a.jeq(unix.IPPROTO_UDP, "allow")
	a.ja("protocol")
}
