package shell

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const fionread = syscall.TIOCINQ

// becomeSubreaper makes orphans among our descendants ours. Where the kernel or a filter
// refuses it, they fall to the sandbox's init, and are its to end.
func becomeSubreaper() {
	const prSetChildSubreaper = 36
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
}

// keepDescriptors has every descriptor but the first three closed in what we start, those
// too that whoever started us left open by mistake.
func keepDescriptors() {
	const sysCloseRange, closeRangeCloexec = 436, 1 << 2
	if _, _, errno := syscall.RawSyscall(sysCloseRange, 3, ^uintptr(0)>>1, closeRangeCloexec); errno == 0 {
		return
	}
	entries, err := os.ReadDir("/proc/self/fd") // a kernel before 5.11
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// process is the part of /proc/PID/stat that tells who belongs to whom.
type process struct {
	pid, parent, group, session int
	started                     int64 // in ticks since the machine's start, 0 if unknown
	zombie                      bool
}

// processes lists what runs, as far as /proc shows it; nothing where there is no /proc, or
// one of another pid namespace, whose numbers would name the wrong processes.
func processes() []process {
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return nil
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var all []process
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		data, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue // it ended meanwhile
		}
		if p, ok := parseStat(data); ok {
			all = append(all, p)
		}
	}
	return all
}

// parseStat reads "pid (name) state ppid pgrp session …"; the name may hold anything.
func parseStat(data []byte) (process, bool) {
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 1 || end < open {
		return process{}, false
	}
	const startTime = 19
	fields := bytes.Fields(data[end+1:])
	if len(fields) <= startTime {
		return process{}, false
	}
	var p process
	var err error
	number := func(text []byte) int64 {
		n, e := strconv.ParseInt(string(text), 10, 64)
		if err == nil {
			err = e
		}
		return n
	}
	p.pid = int(number(data[:open-1]))
	p.zombie = fields[0][0] == 'Z'
	p.parent, p.group, p.session = int(number(fields[1])), int(number(fields[2])), int(number(fields[3]))
	p.started = number(fields[startTime])
	return p, err == nil
}

// ticks is the present time in the unit of process.started.
func ticks() int64 {
	const clockBoottime, perSecond = 7, 100 // the kernel's USER_HZ
	var ts syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		return 0 // no process is older than that
	}
	return ts.Nano() / (int64(time.Second) / perSecond)
}

// descendants lists the living processes that descend from pid, without those that fail
// the test and without what descends from those. A parent stands before its children, and
// of these the youngest first.
func descendants(pid int, test func(process) bool) []process {
	children := make(map[int][]process)
	for _, p := range processes() {
		children[p.parent] = append(children[p.parent], p)
	}
	var found []process
	for next := []int{pid}; len(next) > 0; {
		parent := next[0]
		next = next[1:]
		slices.SortFunc(children[parent], func(a, b process) int { return b.pid - a.pid })
		for _, p := range children[parent] {
			if test(p) {
				next = append(next, p.pid)
				if !p.zombie {
					found = append(found, p)
				}
			}
		}
		delete(children, parent)
	}
	return found
}

// killSession kills the living processes of a session, the leader last, so that nothing it
// might still start escapes. It reports whether there were any.
func killSession(session int) bool {
	any := false
	for _, p := range processes() {
		if p.session == session && !p.zombie {
			any = true
			if p.pid != session {
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
			}
		}
	}
	return any
}
