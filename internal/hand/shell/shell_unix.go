//go:build unix

package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/creack/pty"
)

// Shell is one living shell process. It is interactive, because only such a shell comes
// back from an interrupt with its state, but nothing is ever typed into it:
//
//   - its standard input is a pipe, on which it gets two short lines a command: the first
//     sources the file that holds the command, the second prints a mark with the exit code;
//   - its own output and error go to /dev/null: prompts, notices and echoes of the two lines
//     are never seen;
//   - a command's standard input is /dev/null and its output and error are the terminal, by
//     redirections that last as long as the sourced file does, so that no descriptor of the
//     machinery reaches a command;
//   - sourcing a file, a shell reports a syntax error and goes on, where a line typed with
//     an open quote would wait for more;
//   - the mark goes through the terminal, behind all that the command printed.
//
// Job control is off, so that no notices of jobs mix with the output. An interrupt goes to
// the shell and to what descends from it, other than the jobs that earlier commands left in
// the background, which are told by their age.
type Shell struct {
	kids   *Children
	proc   *child
	plain  bool
	stdin  *os.File // the pipe's end
	slave  *os.File // held open, so that the terminal lives as long as the shell
	screen *screen
	secret string // keeps a mark from being printed by accident; a command can only fool itself
	seq    uint64
	since  int64 // when the command began, in the ticks of process.started
}

// Sizes and times of the shell.
const (
	// The terminal is wide, so that programs that fit their lines to it cut little off.
	columns, rows = 200, 50
	startTimeout  = 20 * time.Second
	// interruptGrace is what a command is given to heed an interrupt, which is sent again
	// every interruptAgain; then the shell and its session are killed.
	interruptGrace = 2 * time.Second
	interruptAgain = 250 * time.Millisecond
	// drainGrace bounds the wait for the terminal's last bytes after the shell's end.
	drainGrace = time.Second
)

// errNoShell says that there is no program to run commands with.
var errNoShell = errors.New("there is neither bash nor /bin/sh in this sandbox")

// shellVariable, in the hand's environment, names another shell than the one found.
const shellVariable = "CROFT_HAND_SHELL"

// program is a shell to start. A plain one is a POSIX shell and no more: it throws away
// what it has read ahead when a command fails badly or is interrupted, the mark's line too.
type program struct {
	path  string
	argv  []string
	plain bool
}

// findShell looks for bash, and for sh where there is no bash.
func findShell() (program, error) {
	path := os.Getenv(shellVariable)
	if path == "" {
		dirs := append([]string{"/bin", "/usr/bin", "/usr/local/bin"}, filepath.SplitList(os.Getenv("PATH"))...)
		for _, dir := range dirs {
			if at := filepath.Join(dir, "bash"); filepath.IsAbs(at) && executable(at) {
				path = at
				break
			}
		}
	}
	if path == "" && executable("/bin/sh") {
		path = "/bin/sh"
	}
	switch {
	case path == "":
		return program{}, errNoShell
	case filepath.Base(path) == "bash":
		return program{path, []string{"bash", "--noprofile", "--norc", "--noediting", "-i"}, false}, nil
	}
	return program{path, []string{filepath.Base(path), "-i"}, true}, nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// Start starts a shell in dir and waits until it is ready, or until ctx ends. The caller
// must End it.
func Start(ctx context.Context, kids *Children, dir string) (*Shell, error) {
	prog, err := findShell()
	if err != nil {
		return nil, err
	}
	master, slave, err := openTerminal()
	if err != nil {
		return nil, fmt.Errorf("opening a pseudo-terminal (the sandbox needs /dev/ptmx and /dev/pts): %w", err)
	}
	input, stdin, err := os.Pipe()
	if err != nil {
		master.Close()
		slave.Close()
		return nil, err
	}
	defer input.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		master.Close()
		slave.Close()
		stdin.Close()
		return nil, err
	}
	defer null.Close()
	// The terminal is its error output until it has started: a shell that cannot open
	// /dev/tty takes that one for its terminal.
	proc, err := kids.start(prog.path, prog.argv, &syscall.ProcAttr{
		Dir:   dir,
		Env:   shellEnv(os.Environ()),
		Files: []uintptr{input.Fd(), null.Fd(), slave.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 2},
	})
	if err != nil {
		master.Close()
		slave.Close()
		stdin.Close()
		return nil, fmt.Errorf("starting %s in %s: %w", prog.path, dir, err)
	}
	s := &Shell{kids: kids, proc: proc, plain: prog.plain, stdin: stdin, slave: slave, secret: strconv.FormatUint(rand.Uint64(), 16)}
	s.screen = watch(master, s.secret)
	if err := s.setUp(ctx); err != nil {
		s.End()
		return nil, fmt.Errorf("starting %s in %s: %w", prog.path, dir, err)
	}
	return s, nil
}

// setUp sends the first line and waits for its mark.
func (s *Shell) setUp(ctx context.Context) error {
	quiet := "exec >/dev/null 2>&1; PS1= PS2=; set +m"
	if !s.plain {
		quiet += " +H +o history; unset HISTFILE; history -c"
	}
	if err := s.send(quiet + "\n" + s.markLine()); err != nil {
		return err
	}
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	for {
		select {
		case m := <-s.screen.marks:
			if m.seq == s.seq {
				return nil
			}
		case <-s.proc.done:
			return fmt.Errorf("it ended at once with exit code %d", s.proc.code)
		case <-timer.C:
			return fmt.Errorf("it was not ready after %s", startTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// openTerminal opens a pseudo-terminal whose master can be closed under a reader.
func openTerminal() (master, slave *os.File, err error) {
	blocking, slave, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer blocking.Close()
	if err := pty.Setsize(blocking, &pty.Winsize{Rows: rows, Cols: columns}); err != nil {
		slave.Close()
		return nil, nil, err
	}
	syscall.ForkLock.RLock()
	fd, err := syscall.Dup(int(blocking.Fd()))
	if err == nil {
		syscall.CloseOnExec(fd)
		err = syscall.SetNonblock(fd, true)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		slave.Close()
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/ptmx"), slave, nil
}

// shellEnv is the hand's own environment with what makes programs behave for a reader that
// is no person: no paging, no prompting, no colours; and without what would make an
// interactive shell run or print things of its own.
func shellEnv(own []string) []string {
	have := make(map[string]bool)
	var env []string
	for _, kv := range own {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "TERM", "PS1", "PS2", "PROMPT_COMMAND", "ENV", "TMOUT", "HISTFILE", "MAIL", "MAILPATH", "MAILCHECK", "COLUMNS", "LINES", shellVariable:
			continue
		}
		have[name] = true
		env = append(env, kv)
	}
	env = append(env, "TERM=dumb")
	add := func(name, value string) {
		if !have[name] {
			env = append(env, name+"="+value)
		}
	}
	add("PAGER", "cat")
	add("MANPAGER", "cat")
	add("GIT_PAGER", "cat")
	add("SYSTEMD_PAGER", "cat")
	add("GIT_TERMINAL_PROMPT", "0")
	add("GIT_EDITOR", "true")
	add("DEBIAN_FRONTEND", "noninteractive")
	add("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	if !have["LANG"] && !have["LC_ALL"] && !have["LC_CTYPE"] {
		add("LANG", "C.UTF-8")
	}
	return env
}

// Done is closed when the shell has ended by itself.
func (s *Shell) Done() <-chan struct{} { return s.proc.done }

// Ending tells how a command ended.
type Ending struct {
	Code        int
	Interrupted bool // by the limit or by the context
	TimedOut    bool // by the limit
	Killed      bool // it did not heed the interrupt: the shell was killed
	ShellEnded  bool // the shell is no more, killed or by itself, and its state with it
}

// Run has the shell run the command in file and gives what it prints to out, until it has
// ended, limit has passed or ctx is done; then it interrupts the command. Nothing is written
// to out once Run has returned. It is for one goroutine at a time.
func (s *Shell) Run(ctx context.Context, file string, out io.Writer, limit time.Duration) Ending {
	s.seq++
	s.screen.show(s.seq, out)
	defer s.screen.hide()
	var end Ending
	ended := func() Ending {
		end.Code, end.ShellEnded = s.End(), true
		return end
	}
	s.since = ticks()
	source := fmt.Sprintf("\\command . %s </dev/null >%s 2>&1\n", quote(file), quote(s.slave.Name()))
	if err := s.send(source + s.markLine()); err != nil {
		return ended()
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	done := ctx.Done()
	var again <-chan time.Time // once interrupted, or all along
	if s.plain {
		again = time.Tick(interruptAgain)
	}
	var giveUp time.Time
	interrupt := func() {
		end.Interrupted, done = true, nil
		giveUp = time.Now().Add(interruptGrace)
		again = time.Tick(interruptAgain)
		s.interrupt()
	}
	for {
		select {
		case m := <-s.screen.marks:
			if m.seq == s.seq {
				end.Code = m.code
				return end
			}
		case <-s.proc.done:
			return ended()
		case <-timer.C:
			if !end.Interrupted {
				end.TimedOut = true
				interrupt()
			}
		case <-done:
			interrupt()
		case now := <-again:
			switch {
			case !end.Interrupted:
				s.remind()
			case now.After(giveUp):
				end.Killed = true
				return ended()
			default:
				s.interrupt()
			}
		}
	}
}

// interrupt sends SIGINT to the shell and to what descends from it, but for the jobs of
// earlier commands. A shell is told before its children, or with them, so that it knows that
// it was meant when they die of theirs; of a pipeline the last is told first, since the
// others' end would let it succeed. That is the order of descendants.
func (s *Shell) interrupt() {
	spared := 0
	targets := descendants(s.proc.pid, func(p process) bool {
		earlier := p.parent == s.proc.pid && p.started > 0 && p.started < s.since
		if earlier && !p.zombie {
			spared++
		}
		return p.session == s.proc.pid && !earlier
	})
	if spared == 0 {
		s.kids.signal(-s.proc.pid, syscall.SIGINT)
	} else {
		s.kids.signal(s.proc.pid, syscall.SIGINT)
	}
	for _, p := range targets {
		if spared > 0 || p.group != s.proc.pid {
			_ = syscall.Kill(p.pid, syscall.SIGINT)
		}
	}
	s.remind()
}

// remind gives a plain shell the mark's line again, if it has read all it was given: it may
// have thrown the line away. A mark too many is ignored.
func (s *Shell) remind() {
	if s.plain && unread(s.stdin) == 0 {
		_ = s.send(s.markLine()) // if it fails the shell has ended, which run is told
	}
}

// unread is how many bytes of what was written to a pipe have not been read, -1 if unknown.
func unread(pipe *os.File) int {
	var n int32
	raw, err := pipe.SyscallConn()
	if err != nil {
		return -1
	}
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, fionread, uintptr(unsafe.Pointer(&n)))
	})
	if err != nil || errno != 0 {
		return -1
	}
	return int(n)
}

// markLine is the line that has the shell print the current command's mark. It also takes
// back "set -e", which would have the first command to fail in a later call end the shell,
// and "set -m", by which it would speak of its jobs.
func (s *Shell) markLine() string {
	return fmt.Sprintf("\\command printf '\\036%s.%d:%%d\\037' \"$?\" >%s; \\command set +em\n", s.secret, s.seq, quote(s.slave.Name()))
}

// send writes lines to the shell, which reads them at once or is stuck.
func (s *Shell) send(lines string) error {
	if err := s.stdin.SetWriteDeadline(time.Now().Add(interruptGrace)); err != nil {
		return err
	}
	_, err := io.WriteString(s.stdin, lines)
	return err
}

// End kills the shell, if it lives, and what remains of its session, takes what they still
// had in the terminal, and releases everything. Daemons that made a session of their own
// stay. It returns the shell's exit code, 128 and the signal where one ended it. It must
// not be called after Run has said that the shell ended, nor twice.
func (s *Shell) End() int {
	s.kids.signal(s.proc.pid, syscall.SIGSTOP) // so that it neither starts nor says more
	for range 100 {
		left := killSession(s.proc.pid)
		s.kids.signal(-s.proc.pid, syscall.SIGKILL)
		s.kids.signal(s.proc.pid, syscall.SIGKILL)
		if !left {
			break
		}
		time.Sleep(time.Millisecond)
	}
	code := 128 + int(syscall.SIGKILL)
	patience := time.NewTimer(drainGrace)
	defer patience.Stop()
	select {
	case <-s.proc.done:
		code = s.proc.code
	case <-patience.C: // it hangs in the kernel
	}
	s.stdin.Close()
	s.slave.Close()
	s.screen.close(drainGrace)
	return code
}

// quote makes text one word of the shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
