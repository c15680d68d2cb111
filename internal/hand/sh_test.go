//go:build unix

package hand_test

import (
	"fmt"
	"strings"
	"testing"

	"croft/internal/hand/tools"
)

// Where there is no bash, /bin/sh serves: the same promises, with what that shell can do.
func TestPlainShell(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := start(t, dir, "CROFT_HAND_SHELL=/bin/sh")
	l.want(t, "pwd; echo ${BASH_VERSION-plain} ${CROFT_HAND_SHELL-hidden}", dir+"\nplain hidden\n", false)
	l.want(t, "KEPT=yes; f() { echo f$KEPT; }; sleep 1000 & BG=$!", "(no output)", false)
	l.want(t, "f; (exit 7)", "fyes\n[exit code 7]", true)
	l.want(t, "cat; read a; echo \"read said $?\"", "read said 1\n", false)
	for _, c := range []struct{ command, holds string }{
		{"echo 'unbalanced", "nterminated quoted string"},
		{"if true; then", "end of file unexpected"},
		{"echo ${nope?unset here}; echo never", "unset here"},
		{"set -u; echo $nope; echo never", "parameter not set"},
		{"set +u; no-such-command", "exit code 127"},
	} {
		got, isErr := l.bash(t, c.command)
		if !isErr || !strings.Contains(got, c.holds) || strings.Contains(got, "never") {
			t.Errorf("%s: got %q, error %v, want %q in it", c.command, got, isErr, c.holds)
		}
	}
	for _, command := range []string{
		"sleep 1000; echo never",
		"sleep 1000\necho never",
		"while :; do :; done",
		"f() { sleep 1000; echo never; }; f",
		"x=$(sleep 1000); echo never",
		"timeout 1000 sleep 1000; echo never",
		"sleep 1000 | cat",
		"wait",
	} {
		res := l.use(t, tools.Bash, map[string]any{"command": command, "timeout_ms": 300})
		if want := "[timed out after 300ms; the shell goes on with its state]"; res.Text() != want {
			t.Errorf("%s\n got %q\nwant %q", command, res.Text(), want)
		}
		l.want(t, "echo $KEPT; kill -0 $BG && echo alive", "yes\nalive\n", false)
	}
	for command, code := range map[string]int{"exit 3": 3, "set -e; false; echo never": 1, "exec true": 0, "kill -9 $$": 137} {
		l.want(t, command, fmt.Sprintf("[the shell ended with exit code %d: ", code)+fmt.Sprintf(lost, dir), code != 0)
	}
	l.want(t, "set -e", "(no output)", false)
	l.want(t, "false", "[exit code 1]", true)
	l.want(t, "echo on", "on\n", false)
}
