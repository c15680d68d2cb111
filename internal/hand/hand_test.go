//go:build unix

package hand_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "croft/internal/entry" // the test's binary is the hand when executed as one
	_ "croft/internal/entry" // the test's binary is the hand when executed as one
	"croft/internal/hand"
	"croft/internal/hand/tools"
)

// live is a hand in a process of its own.
type live struct {
	*hand.Client
	cmd *exec.Cmd
	dir string
}

var lastID atomic.Int64

// start starts a hand in dir, with its temporary folder apart from the machine's.
func start(t testing.TB, dir string, env ...string) *live {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{
		Path:   self,
		Args:   []string{hand.Program},
		Dir:    dir,
		Env:    append(append(os.Environ(), "TMPDIR="+t.TempDir()), env...),
		Stderr: os.Stderr,
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client, err := hand.Dial(stdout, stdin)
	if err != nil {
		t.Fatal(err)
	}
	if client.PID() != cmd.Process.Pid {
		t.Fatalf("hello names pid %d, the process has %d", client.PID(), cmd.Process.Pid)
	}
	t.Cleanup(func() {
		_ = client.Close()
		_ = cmd.Wait()
	})
	return &live{client, cmd, dir}
}

func newID() string { return fmt.Sprintf("sevt_%d", lastID.Add(1)) }

// use runs a tool to its end and acknowledges the result.
func (l *live) use(t testing.TB, tool string, input any) hand.Result {
	t.Helper()
	return l.useWithin(t, tool, input, time.Minute)
}

func (l *live) useWithin(t testing.TB, tool string, input any, timeout time.Duration) hand.Result {
	t.Helper()
	raw, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	id := newID()
	res, err := l.Call(t.Context(), hand.Call{ID: id, Tool: tool, Input: raw, Timeout: timeout})
	if err != nil {
		t.Fatalf("%s %s: %v", tool, raw, err)
	}
	l.Ack(id)
	if len(res.Content) == 0 {
		t.Errorf("%s %s: no content block", tool, raw)
	}
	return res
}

// bash runs a command and returns its text and whether it is an error.
func (l *live) bash(t testing.TB, command string) (string, bool) {
	t.Helper()
	res := l.use(t, tools.Bash, map[string]any{"command": command})
	return res.Text(), res.IsError
}

// want runs a command and compares.
func (l *live) want(t testing.TB, command, text string, isError bool) {
	t.Helper()
	got, isErr := l.bash(t, command)
	if got != text || isErr != isError {
		t.Errorf("%s\n got %q, error %v\nwant %q, error %v", command, got, isErr, text, isError)
	}
}

// folder is a temporary folder without symbolic links in its path.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for range 1000 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never came true: %s", what)
}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "catch-interrupt" {
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, os.Interrupt)
		fmt.Println("ready")
		<-ch
		fmt.Println("interrupted")
		return
	}
	os.Exit(m.Run())
}

const lost = "the next command starts in a new shell, in %s, without the old one's directory, variables, functions and background jobs]"

func TestShellKeepsItsState(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)
	l.want(t, "pwd", dir+"\n", false)
	l.want(t, "mkdir sub && cd sub; X=1; export Y=2; f() { echo f$X; }; alias ll='echo aliased'", "(no output)", false)
	l.want(t, "pwd; f; sh -c 'echo $Y'; ll z", dir+"/sub\nf1\n2\naliased z\n", false)
	l.want(t, "printf 'no newline'", "no newline", false)
	l.want(t, "false", "[exit code 1]", true)
	l.want(t, "echo out; echo err >&2; (exit 7)", "out\nerr\n[exit code 7]", true)
	l.want(t, "cat <<X\nheredoc $X\nX\n", "heredoc 1\n", false)
	l.want(t, "for i in 1 2; do\n  echo $i\ndone\n\n# a comment", "1\n2\n", false)
	l.want(t, "echo 'hi!there' \"a!b\" !x", "hi!there a!b !x\n", false)
	l.want(t, "cat; read a; echo \"read said $?\"", "read said 1\n", false)
	l.want(t, "return 5", "[exit code 5]", true)
	l.want(t, "exec 3>f; echo three >&3; exec 3>&-; cat f", "three\n", false)
	l.want(t, "exec >g 2>&1; echo hidden", "(no output)", false)
	l.want(t, "cat g; echo seen", "hidden\nseen\n", false)
	l.want(t, "echo é世界🙂", "é世界🙂\n", false)
	l.want(t, "test -t 0; echo $?; test -t 1; echo $?; test -t 2; echo $?", "1\n0\n0\n", false)
	l.want(t, "echo $TERM $PAGER $GIT_TERMINAL_PROMPT", "dumb cat 0\n", false)
	l.want(t, "history; echo h$?; echo \"${HISTFILE-none}\"", "h0\nnone\n", false)
}

func TestShellSurvives(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)
	l.want(t, "KEPT=yes", "(no output)", false)
	for _, c := range []struct {
		command string
		holds   string
	}{
		{"echo 'unbalanced", "unexpected EOF"},
		{"if true; then", "syntax error"},
		{"cat <<X\nno end", "no end"},
		{"echo ${nope?unset here}; echo never", "unset here"},
		{"set -u; echo $nope; echo never", "unbound variable"},
		{"set +u; )", "syntax error"},
		{"no-such-command-at-all", "not found"},
		{"set -x; echo traced; set +x", "traced"},
		{"set -v; echo verbose; set +v", "verbose"},
		{"trap 'echo trapped' DEBUG; true; trap - DEBUG", "trapped"},
		{"set -o posix; set +o posix; shopt -s nullglob", ""},
		{"PROMPT_COMMAND='echo prompting'; PS1='prompt> '; PS2='more> '", ""},
		{"printf() { echo fake; }; alias .='echo fake'; alias printf=false; alias command=false", ""},
		{"exec 2>/dev/null", ""},
		{"stty sane -onlcr 2>/dev/null; stty sane <&1; echo stty", "stty"},
		{"printf '\\e]0;title\\a\\e[31mred\\e[0m\\e(B\\rCR\\x1e'", ""},
		{"head -c 100000 /dev/urandom", ""},
		{"echo \"$(command seq 1 3)\"", "1\n2\n3"},
	} {
		got, _ := l.bash(t, c.command)
		if !strings.Contains(got, c.holds) || strings.Contains(got, "never") {
			t.Errorf("%s: got %.300q, want %q in it", c.command, got, c.holds)
		}
		if strings.Contains(got, "prompt") || strings.Contains(got, "more>") {
			t.Errorf("%s: a prompt in %.300q", c.command, got)
		}
		if got, _ := l.bash(t, "unalias . printf command 2>/dev/null; unset -f printf; echo $KEPT"); got != "yes\n" {
			t.Fatalf("after %q the shell says %.300q", c.command, got)
		}
	}
}

func TestShellEnds(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)
	for _, c := range []struct {
		command, text string
		code          int
	}{
		{"echo bye; exit 3", "bye\n", 3},
		{"exit", "", 0},
		{"exec echo replaced", "replaced\n", 0},
		{"kill -9 $$", "", 137},
		{"set -e; echo a; false; echo b", "a\n", 1},
		{"seq 1 2000; exit 4", seq(1, 2000), 4},
		{"sleep 1000 & exit 5", "", 5},
		{"sleep 1000 & disown -a; setsid sleep 0.1 & exec true", "", 0},
	} {
		if got, _ := l.bash(t, "cd /; echo $gone; gone=1"); got != "\n" {
			t.Errorf("before %q: %q", c.command, got)
		}
		want := c.text + "[the shell ended with exit code " + fmt.Sprint(c.code) + ": " + fmt.Sprintf(lost, dir)
		l.want(t, c.command, want, c.code != 0)
		l.want(t, "pwd; set +o | grep errexit", dir+"\nset +o errexit\n", false)
	}
	l.want(t, "set -e", "(no output)", false)
	l.want(t, "false", "[exit code 1]", true)
	l.want(t, "(sleep 0.1; kill -9 $$) >/dev/null 2>&1 &", "(no output)", false)
	eventually(t, "the shell's end between two calls is told", func() bool {
		got, _ := l.bash(t, "echo")
		return strings.Contains(got, "ended between two calls") || strings.Contains(got, "ended with exit code")
	})
	l.want(t, "echo on", "on\n", false)
}

func seq(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

func TestShellRestart(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)
	l.want(t, "X=1; cd /; sleep 1000 & echo $! >"+dir+"/pid", "(no output)", false)
	res := l.use(t, tools.Bash, map[string]any{"restart": true})
	if res.IsError || res.Text() != "The shell was restarted." {
		t.Errorf("restart: %q", res.Text())
	}
	l.want(t, "pwd; echo X=$X; kill -0 $(cat pid) 2>/dev/null || echo ended", dir+"\nX=\nended\n", false)
	l.want(t, "X=2", "(no output)", false)
	res = l.use(t, tools.Bash, map[string]any{"restart": true, "command": "echo X=$X"})
	if res.IsError || res.Text() != "X=\n" {
		t.Errorf("restart with a command: %q", res.Text())
	}
}

func TestTimeoutAndCancel(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)
	l.want(t, "KEPT=yes; sleep 1000 & BG=$!", "(no output)", false)
	const kept = "; the shell goes on with its state]"
	run := func(command string) string {
		t.Helper()
		res := l.use(t, tools.Bash, map[string]any{"command": command, "timeout_ms": 300})
		if !res.IsError {
			t.Errorf("%s: not an error: %q", command, res.Text())
		}
		return res.Text()
	}
	for _, c := range []struct{ command, text string }{
		{"echo begun; sleep 1000; echo never", "begun\n"},
		{"sleep 1000\necho never", ""},
		{"while true; do sleep 1000; done", ""},
		{"while :; do :; done", ""},
		{"f() { sleep 1000; echo never; }; f; echo never", ""},
		{"sleep 1000 | cat; echo never", ""},
		{"x=$(sleep 1000); echo never", ""},
		{"timeout 1000 sleep 1000; echo never", ""},
		{"set -m; sleep 1000; echo never", ""},
		{"sh -c 'sleep 1000; echo never'", ""},
		{"(sleep 1000; echo never)", ""},
		{"wait", ""},
		{"cat /dev/tty", ""},
	} {
		if got, want := run(c.command), c.text+"[timed out after 300ms"+kept; got != want {
			t.Errorf("%s\n got %q\nwant %q", c.command, got, want)
		}
		l.want(t, "echo $KEPT; kill -0 $BG && echo alive", "yes\nalive\n", false)
	}
	// A server of an earlier call is spared even if it would heed the interrupt.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l.want(t, ""+self+" catch-interrupt >caught & echo $! >pid; until test -s caught; do sleep 0.01; done", "(no output)", false)
	if got, want := run("sleep 1000"), "[timed out after 300ms"+kept; got != want {
		t.Errorf("beside a server: got %q, want %q", got, want)
	}
	l.want(t, "kill -0 $(cat pid) && cat caught && kill $(cat pid)", "ready\n", false)
	got := run("trap '' INT; echo stubborn; while :; do sleep 0.05; done")
	want := "stubborn\n[timed out after 300ms; the command did not heed the interrupt and was killed with the shell: " + fmt.Sprintf(lost, dir)
	if got != want {
		t.Errorf("stubborn:\n got %q\nwant %q", got, want)
	}
	l.want(t, "echo new $KEPT", "new\n", false)

	// The caller's maximum holds against what the input asks for.
	res := l.useWithin(t, tools.Bash, map[string]any{"command": "sleep 1000", "timeout_ms": 900000}, 200*time.Millisecond)
	if want := "[timed out after 200ms" + kept; res.Text() != want {
		t.Errorf("maximum: got %q, want %q", res.Text(), want)
	}

	// A call that is cancelled says so; the one that waits behind it never starts, if it is cancelled too.
	type outcome struct {
		res hand.Result
		err error
	}
	call := func(id, command string) chan outcome {
		ch := make(chan outcome, 1)
		go func() {
			input, _ := json.Marshal(map[string]any{"command": command})
			res, err := l.Call(t.Context(), hand.Call{ID: id, Tool: tools.Bash, Input: input})
			ch <- outcome{res, err}
		}()
		return ch
	}
	first := call("first", "touch first; sleep 1000")
	eventually(t, "the first command runs", func() bool { _, err := os.Stat(filepath.Join(dir, "first")); return err == nil })
	second := call("second", "touch second")
	time.Sleep(20 * time.Millisecond)
	l.Cancel("second")
	l.Cancel("first")
	l.Cancel("unknown")
	if o := <-first; o.err != nil || o.res.Text() != "[interrupted"+kept || !o.res.IsError {
		t.Errorf("first: %q, %v", o.res.Text(), o.err)
	}
	if o := <-second; o.err != nil || o.res.Text() != "[interrupted before it started: the command was not run]" || !o.res.IsError {
		t.Errorf("second: %q, %v", o.res.Text(), o.err)
	}
	l.want(t, "ls -1", "caught\nfirst\npid\n", false)
}

func TestNeverTwice(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)
	input := json.RawMessage(`{"command":"echo run >>log; sleep 0.2; cat log"}`)
	call := hand.Call{ID: "one", Tool: tools.Bash, Input: input}
	texts := make(chan string)
	for range 4 {
		go func() {
			res, err := l.Call(t.Context(), call)
			texts <- fmt.Sprint(res.Text(), err)
		}()
	}
	for range 4 {
		if got := <-texts; got != "run\n<nil>" {
			t.Errorf("attached: %q", got)
		}
	}
	// A caller that gave up finds the result later.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	call.ID = "two"
	if _, err := l.Call(ctx, call); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("giving up: %v", err)
	}
	if res, err := l.Call(t.Context(), call); err != nil || res.Text() != "run\nrun\n" {
		t.Errorf("coming back: %q, %v", res.Text(), err)
	}
	l.Ack("two")
	if res, err := l.Call(t.Context(), call); err == nil || !strings.Contains(err.Error(), "not run again") {
		t.Errorf("after the ack: %q, %v", res.Text(), err)
	}
	if res, err := l.Call(t.Context(), hand.Call{ID: "one", Tool: tools.Bash}); err != nil || res.Text() != "run\n" {
		t.Errorf("stored: %q, %v", res.Text(), err)
	}
}

func TestResultsBeyondMemoryAreKept(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)
	png := append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 3_000_000)...)
	for i := range 4 {
		png[100] = byte('0' + i)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var first []hand.Result
	for i := range 4 {
		res, err := l.Call(t.Context(), hand.Call{ID: fmt.Sprint(i), Tool: tools.Read, Input: json.RawMessage(fmt.Sprintf(`{"file_path":"%d"}`, i))})
		if err != nil {
			t.Fatal(err)
		}
		first = append(first, res)
	}
	for i := range 4 {
		res, err := l.Call(t.Context(), hand.Call{ID: fmt.Sprint(i), Tool: tools.Read})
		if err != nil || string(res.Content[0]) != string(first[i].Content[0]) {
			t.Errorf("result %d changed: %v", i, err)
		}
		l.Ack(fmt.Sprint(i))
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	l := start(t, folder(t))
	if _, err := l.Call(t.Context(), hand.Call{Tool: tools.Bash}); err == nil || errors.Is(err, hand.ErrClosed) {
		t.Errorf("no id: %v", err)
	}
	if _, err := l.Call(t.Context(), hand.Call{ID: "x", Tool: tools.Read, Input: json.RawMessage(`{"a":`)}); err == nil {
		t.Errorf("input that is no JSON: %v", err)
	}
	for tool, input := range map[string]string{
		"web_search": `{}`,
		tools.Bash:   `{"command":7}`,
		tools.Read:   `[]`,
		tools.Write:  `{"content":"x"}`,
		tools.Edit:   `{"file_path":"x","old_string":""}`,
		tools.Glob:   `{"pattern":"["}`,
		tools.Grep:   `{"pattern":"("}`,
	} {
		res, err := l.Call(t.Context(), hand.Call{ID: newID(), Tool: tool, Input: json.RawMessage(input)})
		if err != nil || !res.IsError {
			t.Errorf("%s %s: %q, %v", tool, input, res.Text(), err)
		}
	}
	if got, isErr := l.bash(t, "echo a\x00b"); !isErr || !strings.Contains(got, "NUL") {
		t.Errorf("NUL: %q", got)
	}
}

func TestHandDies(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)
	done := make(chan error, 1)
	go func() {
		_, err := l.Call(t.Context(), hand.Call{ID: "x", Tool: tools.Bash, Input: json.RawMessage(`{"command":"touch begun; sleep 1000"}`)})
		done <- err
	}()
	eventually(t, "the command runs", func() bool { _, err := os.Stat(filepath.Join(dir, "begun")); return err == nil })
	_ = l.cmd.Process.Kill()
	if err := <-done; !errors.Is(err, hand.ErrClosed) {
		t.Errorf("a call in flight: %v", err)
	}
	<-l.Done()
	if _, err := l.Call(t.Context(), hand.Call{ID: "y", Tool: tools.Bash}); !errors.Is(err, hand.ErrClosed) {
		t.Errorf("a later call: %v", err)
	}
	l.Ack("x")
	l.Cancel("x")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestEndLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"close", "drain", "stdin"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			l := start(t, dir)
			// A job, a daemon in a session of its own, and one that also lost its parent.
			l.want(t, "marker=croft-hand-test-$$; echo $marker >marker\n"+
				"sh -c 'sleep 1000; :' $marker & setsid sh -c 'sleep 1000; :' $marker & (setsid sh -c 'sleep 1000; :' "+"$marker &)\nsleep 0.1", "(no output)", false)
			marker, err := os.ReadFile(filepath.Join(dir, "marker"))
			if err != nil {
				t.Fatal(err)
			}
			word := strings.TrimSpace(string(marker))
			if n := running(t, word); n < 3 {
				t.Fatalf("%d of 3 run", n)
			}
			switch how {
			case "close":
				_ = l.Close()
			case "drain":
				if err := l.Drain(t.Context()); err != nil {
					t.Error(err)
				}
			case "stdin":
				_ = l.cmd.Process.Signal(os.Interrupt) // is not for the hand to heed
				l.want(t, "echo there", "there\n", false)
				_ = l.Close()
			}
			if err := l.cmd.Wait(); err != nil {
				t.Errorf("the hand ended with %v", err)
			}
			if n := running(t, word); n != 0 {
				t.Errorf("%d processes outlive the hand", n)
			}
		})
	}
}

// running counts the processes whose command line holds word.
func running(t *testing.T, word string) int {
	t.Helper()
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	n := 0
	for _, p := range paths {
		if data, err := os.ReadFile(p); err == nil && strings.Contains(string(data), word) {
			n++
		}
	}
	return n
}
