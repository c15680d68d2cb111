//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"croft/internal/term"
)

// terminal is a croft that runs at a pseudo-terminal, as at a person's.
type terminal struct {
	t    *testing.T
	cmd  *exec.Cmd
	pty  *os.File
	done chan struct{}

	mu   sync.Mutex
	said strings.Builder
	read int // of said: what earlier waits have passed
}

// atTerminal starts croft with these arguments in an empty home of the test's own.
func atTerminal(t *testing.T, home string, env []string, args ...string) *terminal {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = "croft"
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TERM=xterm", "TMPDIR=" + t.TempDir(), "CROFT_DRIVER=" + driverHere(t)}, env...)
	p, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, cmd: cmd, pty: p, done: make(chan struct{})}
	go func() {
		defer close(x.done)
		b := make([]byte, 4096)
		for {
			n, err := p.Read(b)
			x.mu.Lock()
			x.said.Write(b[:n])
			x.mu.Unlock()
			if err != nil {
				return // the other side has closed
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		p.Close()
		<-x.done
	})
	return x
}

func driverHere(t *testing.T) string {
	if noSandbox(t) != "" {
		return "none"
	}
	return "local"
}

// wait waits until what follows the last wait matches.
func (x *terminal) wait(pattern string) {
	x.t.Helper()
	re := regexp.MustCompile(pattern)
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		x.mu.Lock()
		if at := re.FindStringIndex(x.said.String()[x.read:]); at != nil {
			x.read += at[1]
			x.mu.Unlock()
			return
		}
		said := x.said.String()
		x.mu.Unlock()
		if time.Now().After(until) {
			x.t.Fatalf("waited 30 s for %s at the end of:\n%q", pattern, said[max(0, len(said)-2000):])
		}
	}
}

func (x *terminal) write(text string) {
	x.t.Helper()
	if _, err := x.pty.WriteString(text); err != nil {
		x.t.Fatal(err)
	}
}

// end waits for the end and returns the exit code and everything that was said.
func (x *terminal) end() (int, string) {
	x.t.Helper()
	late := time.AfterFunc(30*time.Second, func() { x.cmd.Process.Signal(syscall.SIGQUIT) }) // it tells where it hangs
	defer late.Stop()
	x.cmd.Wait() // its error is the exit code
	<-x.done
	return x.cmd.ProcessState.ExitCode(), x.said.String()
}

const asking = `
timing: none
turns:
  - reply: [{bash: "echo one\nprintf '\\033[31mred\\033[2J'"}]
  - reply:
      - bash: echo two
      - write: {file_path: x, content: three}
  - reply: "Thank\e]0;title\a you."
`

func writeCassette(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cassette.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "replay:" + path
}

func TestAsk(t *testing.T) {
	for name, env := range map[string][]string{"colour": nil, "no colour": {"NO_COLOR=1"}, "dumb": {"TERM=dumb"}} {
		t.Run(name, func(t *testing.T) {
			x := atTerminal(t, t.TempDir(), env, "run", "--ask", "--model", writeCassette(t, asking), "ask")
			const question = `Allow it\? \[y\]es, \[n\]o, or say why not: `
			x.wait(`(?s)bash.* is to run:.*    echo one\r\n.*` + question)
			x.write("\r") // no answer: it is asked again
			x.wait(question)
			x.write("y\r")
			x.wait(`(?s)bash.*    echo two\r\n.*` + question)
			x.write("not on a Monday\r")
			x.wait(`(?s)write.*    \{"file_path":"x","content":"three"\}\r\n.*` + question)
			x.write("n\r")
			code, said := x.end()
			if code != 0 {
				t.Errorf("exit code %d", code)
			}
			for _, want := range []string{"one\r\n", "  red\r\n", "They said: not on a Monday", "Thank you.", "goes on with: croft run --session"} {
				if !strings.Contains(plainText(said), want) {
					t.Errorf("%q is not in:\n%s", want, plainText(said))
				}
			}
			if strings.Contains(said, "\x1b[2J") || strings.Contains(said, "\x1b]0;") {
				t.Errorf("a tool or the model reached the terminal: %q", said)
			}
			colours := regexp.MustCompile(`\x1b\[[0-9;]+m`).MatchString(said)
			if want := name == "colour"; colours != want {
				t.Errorf("colours %v, want %v: %q", colours, want, said)
			}
			if name == "dumb" && strings.Contains(said, "\x1b") {
				t.Errorf("a dumb terminal was sent an escape sequence: %q", said)
			}
		})
	}
}

// plainText is what stays on a terminal, about: without escape sequences.
func plainText(said string) string {
	return strings.ReplaceAll(term.Clean(strings.ReplaceAll(said, "\r\x1b[K", "\n")), "\n", "\r\n")
}

func TestAskedAndGone(t *testing.T) {
	home := t.TempDir()
	x := atTerminal(t, home, nil, "run", "--ask", "--model", writeCassette(t, asking), "ask")
	x.wait(`say why not: `)
	x.write("\x04") // end of input
	if code, said := x.end(); code != exitAnswer || !strings.Contains(said, "no answer was given") {
		t.Errorf("exit code %d: %s", code, said)
	}
	// The session waits, and asks again. Ctrl-C ends the turn.
	x = atTerminal(t, home, nil, "run", "--session", session(t, x))
	x.wait(`say why not: `)
	x.write("\x03")
	if code, said := x.end(); code != exitInterrupted || !strings.Contains(said, "Interrupting the turn") {
		t.Errorf("exit code %d: %s", code, said)
	}
}

func session(t *testing.T, x *terminal) string {
	t.Helper()
	m := regexp.MustCompile(`Session (sesn_[a-z0-9]+) goes on`).FindStringSubmatch(x.said.String())
	if m == nil {
		t.Fatalf("no session in: %s", x.said.String())
	}
	return m[1]
}

// TestLeave presses Ctrl-C twice while a tool runs, and goes on with the session.
func TestLeave(t *testing.T) {
	home, dir := t.TempDir(), t.TempDir()
	x := atTerminal(t, home, nil, "run", "--workdir", dir, "--model", writeCassette(t, `
turns:
  - reply: [{bash: "trap '' INT; touch begun; sleep 60"}]
  - reply: Where was I?
  - reply: On I go.
`), "wait")
	x.wait(`bash trap`)
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "begun")); err == nil {
			break // a call that had not begun would be run by the next process
		}
	}
	x.cmd.Process.Signal(syscall.SIGTERM)
	if code, said := x.end(); code != exitInterrupted {
		t.Errorf("exit code %d: %s", code, said)
	}
	// The call was answered as cut off, and what the model said to that is in the log:
	// before the process ended, or now.
	id := session(t, x)
	x = atTerminal(t, home, nil, "run", "--session", id, "Go on")
	if code, said := x.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, said)
	}
	x = atTerminal(t, home, nil, "logs", id)
	code, said := x.end()
	if code != 0 || !strings.Contains(said, "Where was I?") || !strings.Contains(said, "cut off") {
		t.Errorf("exit code %d: %s", code, said)
	}
}

// TestTogether runs two at once on one data folder: the second is a client of the first,
// which waits for it.
func TestTogether(t *testing.T) {
	home := t.TempDir()
	gate := filepath.Join(t.TempDir(), "gate")
	if err := os.MkdirAll(gate, 0o755); err != nil {
		t.Fatal(err)
	}
	slow := writeCassette(t, `
turns:
  - reply: [{bash: "until [ -e go ]; do sleep 0.05; done; echo gone"}]
  - reply: The slow one is done.
`)
	first := atTerminal(t, home, nil, "run", "--workdir", gate, "--model", slow, "first")
	first.wait(`bash until`)
	second := atTerminal(t, home, nil, "run", "--workdir", gate, "--model", slow, "second")
	second.wait(`bash until`)
	third := atTerminal(t, home, nil, "run", "--model", writeCassette(t, "turns: [{reply: Quick.}]"), "third")
	if code, said := third.end(); code != 0 || !strings.Contains(said, "Quick.") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if err := os.WriteFile(filepath.Join(gate, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*terminal{first, second} {
		if code, said := x.end(); code != 0 || !strings.Contains(said, "The slow one is done.") {
			t.Errorf("exit code %d: %s", code, said)
		}
	}
}
