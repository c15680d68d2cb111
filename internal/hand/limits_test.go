//go:build unix

package hand_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"croft/internal/hand"
	"croft/internal/hand/tools"
)

// lacking ends a test for want of something the machine does not have. On the machines that
// decide, which set CI, nothing may be wanting.
func lacking(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("lacking: %s", what)
	}
	t.Skipf("lacking: %s", what)
}

var savedPath = regexp.MustCompile(`in (\S+/output-\S+\.txt)`)

// saved returns the content of the file that a long result names.
func saved(t *testing.T, text string) string {
	t.Helper()
	m := savedPath.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no path in %.200q … %q", text, text[max(0, len(text)-300):])
	}
	data, err := os.ReadFile(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLongOutput(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)

	// At the limit everything comes, beyond it the head, the tail and the path.
	at := strings.Repeat("é", hand.MaxOutput)
	if err := os.WriteFile(filepath.Join(dir, "at"), []byte(at), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, _ := l.bash(t, "cat at"); got != at {
		t.Errorf("at the limit: %d characters", len([]rune(got)))
	}
	got, isErr := l.bash(t, "printf x; cat at; printf end")
	if isErr || !strings.HasPrefix(got, "xééé") || len(got) > 100_000 || !strings.Contains(got, "éend\n[100004 characters of output; all of it is in ") {
		t.Errorf("beyond the limit: %.20q … %q", got, got[max(0, len(got)-200):])
	}
	if saved(t, got) != "x"+at+"end" {
		t.Error("the file is not the output")
	}
	want := seq(1, 100_000)
	got, isErr = l.bash(t, "seq 1 100000; exit 3")
	if !isErr || !strings.HasPrefix(got, "1\n2\n3\n") || !strings.Contains(got, "99999\n100000\n") || !strings.Contains(got, "exit code 3") {
		t.Errorf("long, then the shell's end: %.20q … %q", got, got[max(0, len(got)-400):])
	}
	if saved(t, got) != want {
		t.Error("the file is not the output")
	}
	res := l.use(t, tools.Grep, map[string]any{"pattern": "x", "path": "at"})
	if res.Text() != "No matches." {
		t.Errorf("grep: %.100q", res.Text())
	}
	if err := os.WriteFile(filepath.Join(dir, "numbers"), []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
	got = l.use(t, tools.Grep, map[string]any{"pattern": "."}).Text()
	if all := saved(t, got); strings.Count(all, "\n") != 100_001 {
		t.Errorf("grep saved %d lines", strings.Count(all, "\n"))
	}

	// A file is its own place to look: read says where to go on.
	got = l.use(t, tools.Read, map[string]any{"file_path": "numbers"}).Text()
	m := regexp.MustCompile(`(?s)^(.*\n)\[lines 1 to (\d+) of a file of 588895 bytes; view_range \[(\d+), …\] shows more\]$`).FindStringSubmatch(got)
	if m == nil {
		t.Fatalf("read: %q", got[max(0, len(got)-200):])
	}
	last, _ := strconv.Atoi(m[2])
	next, _ := strconv.Atoi(m[3])
	if m[1] != seq(1, last) || next != last+1 || len(m[1]) > hand.MaxOutput || len(m[1]) < hand.MaxOutput-300 || len(got) > hand.MaxOutput+10 {
		t.Errorf("read: lines 1 to %d, next %d, %d bytes", last, next, len(m[1]))
	}
	got = l.use(t, tools.Read, map[string]any{"file_path": "numbers", "view_range": []int{next, 99_999}}).Text()
	if !strings.HasPrefix(got, seq(next, next+3)) {
		t.Errorf("read on: %.50q", got)
	}
	got = l.use(t, tools.Read, map[string]any{"file_path": "at", "view_range": []int{1, 1}}).Text()
	if got != at {
		t.Errorf("read at the limit: %d bytes", len(got))
	}
	if err := os.WriteFile(filepath.Join(dir, "long"), []byte(at+at), 0o644); err != nil {
		t.Fatal(err)
	}
	got = l.use(t, tools.Read, map[string]any{"file_path": "long"}).Text()
	if !strings.HasPrefix(got, strings.Repeat("é", 99_800)+"\n[the first 99800 characters of line 1") {
		t.Errorf("read of one long line: %q", got[max(0, len(got)-200):])
	}
}

// rss is the resident memory of a process, in bytes.
func rss(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

func TestEndlessOutputIsBounded(t *testing.T) {
	t.Parallel()
	l := start(t, folder(t))
	for _, command := range []string{"yes", "cat /dev/zero", "head -c 200000000 /dev/zero | tr '\\0' '\\200'", "yes | tr -d '\\n'", "while :; do printf '\\033]'; done"} {
		res := l.use(t, tools.Bash, map[string]any{"command": command, "timeout_ms": 700})
		text := res.Text()
		if len(text) > 200_000 || !res.IsError && !strings.HasPrefix(command, "head") {
			t.Errorf("%s: %d bytes, error %v", command, len(text), res.IsError)
		}
		if m := savedPath.FindStringSubmatch(text); m != nil {
			if info, err := os.Stat(m[1]); err != nil || info.Size() > 64<<20 {
				t.Errorf("%s: the file: %v, %v", command, info, err)
			}
		}
	}
	l.want(t, "echo on", "on\n", false)
	if got := rss(t, l.PID()); got > 128<<20 {
		t.Errorf("the hand has %d MB", got>>20)
	}
}

func TestScratchFolder(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)
	// Somebody removes the hand's folder: it is made again.
	l.want(t, "rm -rf \"$TMPDIR\"/croft-hand-*", "(no output)", false)
	l.want(t, "echo on; ls -d \"$TMPDIR\"/croft-hand-* | wc -l", "on\n1\n", false)
	// Without a temporary folder at all it lies in the working folder.
	l.want(t, "mv \"$TMPDIR\" \"$TMPDIR.away\" && touch \"$TMPDIR\"", "(no output)", false)
	l.want(t, "echo on; ls -dA .croft-hand-* | wc -l", "on\n1\n", false)
	// Without that either the command is not run, and the result says why.
	l.want(t, "rm -rf .croft-hand-* && cd .. && mv "+dir+" "+dir+".away && touch "+dir, "(no output)", false)
	if got, isErr := l.bash(t, "touch "+dir+".ran"); !isErr || !strings.Contains(got, "the command was not run") {
		t.Errorf("without a folder: %q", got)
	}
	if _, err := os.Stat(dir + ".ran"); err == nil {
		t.Error("the command ran")
	}
}

func TestFilesOfManyKinds(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	l.want(t, "echo text >plain; truncate -s 9000000 big.png big.pdf; printf '\\211PNG\\r\\n\\032\\n' | dd of=big.png conv=notrunc status=none; printf %%PDF- | dd of=big.pdf conv=notrunc status=none; chmod 555 .", "(no output)", false)
	for _, c := range []struct{ tool, input, holds string }{
		{tools.Read, `{"file_path":"fifo"}`, "not a regular file"},
		{tools.Edit, `{"file_path":"fifo","old_string":"a","new_string":"b"}`, "not a regular file"},
		{tools.Write, `{"file_path":"fifo","content":"b"}`, "not a regular file"},
		{tools.Read, `{"file_path":"."}`, "it is a directory"},
		{tools.Read, `{"file_path":"/dev/zero"}`, "not a regular file"},
		{tools.Read, `{"file_path":"big.png"}`, "at most 3750000"},
		{tools.Read, `{"file_path":"big.pdf"}`, "at most 8388608"},
	} {
		res, err := l.Call(t.Context(), hand.Call{ID: newID(), Tool: c.tool, Input: json.RawMessage(c.input)})
		if err != nil || !res.IsError || !strings.Contains(res.Text(), c.holds) {
			t.Errorf("%s %s: %q, %v", c.tool, c.input, res.Text(), err)
		}
	}
	// A name that another file system is mounted on, or a folder that takes no new files.
	if os.Getuid() != 0 {
		if res := l.use(t, tools.Write, map[string]any{"file_path": "plain", "content": "in place"}); res.IsError {
			t.Errorf("%s: %s", inPlace, res.Text())
		}
	}
	_ = os.Chmod(dir, 0o755)
}

func TestSideBySide(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir)
	done := make(chan hand.Result, 1)
	go func() {
		res, _ := l.Call(t.Context(), hand.Call{ID: "slow", Tool: tools.Bash, Input: json.RawMessage(`{"command":"until test -s go; do sleep 0.01; done; cat go"}`)})
		done <- res
	}()
	// The shell is busy until this one has written: they can only both end if they run at once.
	l.use(t, tools.Write, map[string]any{"file_path": "go", "content": "went"})
	if res := <-done; res.Text() != "went" {
		t.Errorf("%q", res.Text())
	}
	// Bash calls keep the order of their arrival.
	const calls = 20
	errs := make(chan error, calls)
	first := make(chan struct{})
	go func() {
		_, err := l.Call(t.Context(), hand.Call{ID: "gate", Tool: tools.Bash, Input: json.RawMessage(`{"command":"touch gate; until test -e open; do sleep 0.01; done"}`)})
		errs <- err
		close(first)
	}()
	eventually(t, "the gate", func() bool { _, err := os.Stat(filepath.Join(dir, "gate")); return err == nil })
	for i := range calls - 1 {
		sent := make(chan struct{})
		go func() {
			close(sent)
			_, err := l.Call(t.Context(), hand.Call{ID: fmt.Sprint("n", i), Tool: tools.Bash, Input: json.RawMessage(fmt.Sprintf(`{"command":"echo %d >>order"}`, i))})
			errs <- err
		}()
		<-sent
		l.use(t, tools.Read, map[string]any{"file_path": "gate"}) // a round trip behind it
	}
	if err := os.WriteFile(filepath.Join(dir, "open"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range calls {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	data, _ := os.ReadFile(filepath.Join(dir, "order"))
	if string(data) != seq(0, calls-2) {
		t.Errorf("order %q", data)
	}
	// Calls too many are refused, and those in flight are not harmed.
	const tooMany = 3
	errs = make(chan error, hand.MaxCalls+tooMany)
	for i := range hand.MaxCalls + tooMany {
		go func() {
			_, err := l.Call(t.Context(), hand.Call{ID: fmt.Sprint("many", i), Tool: tools.Bash, Input: json.RawMessage(`{"command":"until test -e over; do sleep 0.01; done"}`)})
			errs <- err
		}()
	}
	for range tooMany {
		if err := <-errs; err == nil || !strings.Contains(err.Error(), "run or wait already") {
			t.Errorf("a call too many: %v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "over"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range hand.MaxCalls {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		lacking(t, "/proc, which Linux has")
	}
	l := start(t, folder(t))
	// A command sees its three streams and no more, whatever the hand and the shell have open.
	const fds = "ls -1 /proc/self/fd | wc -l; sh -c 'ls /proc/self/fd' | tr '\\n' ' '"
	for range 3 {
		l.want(t, fds, "4\n0 1 2 3 ", false)
		l.use(t, tools.Bash, map[string]any{"restart": true})
	}
	// Shells come and go without a trace in the hand.
	count := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", l.PID()))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for range 10 {
		l.bash(t, "exit 1")
	}
	l.bash(t, "true")
	if after := count(); after > before+1 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	for _, pid1 := range []bool{false, true} {
		t.Run(fmt.Sprintf("pid1=%v", pid1), func(t *testing.T) {
			t.Parallel()
			if runtime.GOOS != "linux" {
				lacking(t, "pid namespaces, which Linux has")
			}
			dir := folder(t)
			var l *live
			if pid1 {
				l = startInit(t, dir)
			} else {
				l = start(t, dir)
			}
			// Orphans of two kinds end while commands run whose exit codes must not be lost.
			for i := range 30 {
				l.want(t, fmt.Sprintf("(sh -c 'sleep 0.01; exit 9' & setsid sh -c 'sleep 0.02' & ); sh -c 'exit %d'", i+1), fmt.Sprintf("[exit code %d]", i+1), true)
			}
			l.want(t, "exit 7", "[the shell ended with exit code 7: "+fmt.Sprintf(lost, dir), true)
			eventually(t, "no zombie is left", func() bool {
				got, _ := l.bash(t, "cat /proc/[0-9]*/stat 2>/dev/null | grep -c \") Z $(awk '{print $4}' /proc/$$/stat) \"; true")
				return got == "0\n"
			})
		})
	}
}

// startInit starts a hand as PID 1 of a pid namespace, with a /proc of its own.
func startInit(t *testing.T, dir string) *live {
	t.Helper()
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		lacking(t, "the unshare program, of util-linux")
	}
	flags := []string{"--pid", "--fork", "--kill-child", "--mount-proc"}
	if os.Getuid() != 0 {
		flags = append(flags, "--user", "--map-root-user")
	}
	if out, err := exec.Command(unshare, append(flags, "true")...).CombinedOutput(); err != nil {
		lacking(t, "the right to make a pid namespace: run as root, or allow user namespaces: "+string(bytes.TrimSpace(out)))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), hand.Program)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(unshare, append(flags, link)...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
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
	if client.PID() != 1 {
		t.Errorf("the hand is process %d of its namespace", client.PID())
	}
	t.Cleanup(func() {
		_ = client.Close()
		_ = cmd.Wait()
	})
	return &live{client, cmd, dir}
}
