//go:build !windows

package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lockFile locks path for this process and writes its pid there. The lock goes with the
// process, however it ends.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	// A process that was killed a moment ago may still be going down.
	looks := 0
	for until := time.Now().Add(lockWait); ; time.Sleep(5 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
		}
		text, _ := io.ReadAll(io.NewSectionReader(f, 0, 32))
		pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		if pid > 0 && alive(pid) {
			looks++ // for an instant one that was killed looks alive
		}
		if looks == 3 || time.Now().After(until) {
			return nil, errors.Join(&LockedError{Path: strings.TrimSuffix(path, ".lock"), PID: pid}, f.Close())
		}
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("writing %s: %w", path, err), f.Close())
	}
	return f, nil
}

// alive tells whether a process runs. One that was killed and is going down, or that waits
// to be reaped, does not.
func alive(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	// pid (name) state ppid pgrp session tty_nr tpgid flags …
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !os.IsNotExist(err) || !hasProc()
	}
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
	if len(fields) < 7 {
		return true
	}
	const exiting = 0x4 // PF_EXITING
	if flags, err := strconv.ParseUint(fields[6], 10, 64); err == nil && flags&exiting != 0 {
		return false
	}
	return fields[0] != "Z" && fields[0] != "X" && !killed(pid)
}

// killed tells whether a SIGKILL is on its way to a process.
func killed(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "SigPnd" && name != "ShdPnd" {
			continue
		}
		if set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil && set&(1<<(syscall.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}

// hasProc tells whether this system lists its processes in /proc.
func hasProc() bool {
	_, err := os.Stat("/proc/self/stat")
	return err == nil
}
