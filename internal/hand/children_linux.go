package hand

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

const fionread = syscall.TIOCINQ

// becomeSubreaper makes orphans among our descendants ours. Where the kernel or a filter
// refuses it, they fall to the sandbox's init, and are its to end.
func becomeSubreaper() {
	const prSetChildSubreaper = 36
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
}

// process is the part of /proc/PID/stat that tells who belongs to whom.
type process struct {
	pid, parent, session int
	zombie               bool
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
	fields := bytes.Fields(data[end+1:])
	if len(fields) < 4 {
		return process{}, false
	}
	pid, err1 := strconv.Atoi(string(data[:open-1]))
	parent, err2 := strconv.Atoi(string(fields[1]))
	session, err3 := strconv.Atoi(string(fields[3]))
	if err1 != nil || err2 != nil || err3 != nil {
		return process{}, false
	}
	return process{pid, parent, session, fields[0][0] == 'Z'}, true
}

// descendants lists the living processes that descend from pid, without those that fail
// the test and without what descends from those.
func descendants(pid int, test func(process) bool) []int {
	children := make(map[int][]process)
	for _, p := range processes() {
		children[p.parent] = append(children[p.parent], p)
	}
	var found []int
	for next := []int{pid}; len(next) > 0; {
		parent := next[0]
		next = next[1:]
		for _, p := range children[parent] {
			if test(p) {
				next = append(next, p.pid)
				if !p.zombie {
					found = append(found, p.pid)
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
