package term

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"plain", "hello\tworld\n", "hello\tworld\n"},
		{"letters", "Grüße, 世界 🎉", "Grüße, 世界 🎉"},
		{"colour", "\x1b[1;31mred\x1b[0m", "red"},
		{"cursor", "a\x1b[2Jb\x1b[10;10Hc", "abc"},
		{"title by BEL", "\x1b]0;owned\x07text", "text"},
		{"title by ST", "\x1b]0;owned\x1b\\text", "text"},
		{"link", "\x1b]8;;http://evil\x1b\\shown\x1b]8;;\x1b\\", "shown"},
		{"DCS", "\x1bPq#0;2;0;0;0\x1b\\x", "x"},
		{"charset", "\x1b(0lqk\x1b(B", "lqk"},
		{"one letter", "\x1bcreset", "reset"},
		{"C1 CSI", "a\u009b31mb", "ab"},
		{"C1 OSC", "a\u009d0;t\u009cb", "ab"},
		{"unfinished", "a\x1b]0;title without an end\nnext", "a\nnext"},
		{"aborted", "\x1b[3\x18m", "m"},
		{"not ASCII in CSI", "\x1b[3é", "é"},
		{"ESC in CSI", "\x1b[\x1b[31mx", "x"},
		{"line ends", "a\r\nb\rc\u2028d\n", "a\nb\nc\nd\n"},
		{"controls", "a\x00\x07\x08\x7fb\u0085c", "ab\nc"},
		{"direction", "a\u202eb\u2066c\u200fd\ufeffe", "abcde"},
		{"no UTF-8", "a\xffb", "a\ufffdb"},
		{"endless string", "\x1b]" + strings.Repeat("x", maxSequence+1) + "seen", "seen"},
	} {
		if got := Clean(tt.in); got != tt.want {
			t.Errorf("%s: %q became %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
}

func TestShort(t *testing.T) {
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{
		{"short", 10, "short"},
		{"  two\n lines ", 20, "two lines"},
		{"exactly ten", 11, "exactly ten"},
		{"exactly ten", 10, "exactly t…"},
		{"世界世界", 8, "世界世界"},
		{"世界世界", 7, "世界世…"},
		{"世界世界", 6, "世界…"},
		{"\x1b[31mred\x1b[0m", 3, "red"},
		{strings.Repeat("x", 1<<20), 5, "xxxx…"},
		{"", 5, ""},
	} {
		if got := Short(tt.in, tt.width); got != tt.want {
			t.Errorf("Short(%.20q, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

// FuzzClean holds what the terminal's safety rests on: nothing but printable text, tabs
// and line ends comes out, and how the text was cut into pieces changes nothing.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "a\x1b[31mb", "\x1b]0;t\x07x", "\x1b]0;t\x1b\\x", "a\r\nb\r", "\x1bP\x1b\\", "\u009b1mz", "\u202e", "\xff\x1b", "世"} {
		f.Add(s, 1)
	}
	f.Fuzz(func(t *testing.T, s string, cut int) {
		whole := Clean(s)
		if !utf8.ValidString(whole) {
			t.Fatalf("%q is no UTF-8", whole)
		}
		for _, r := range whole {
			if r != '\n' && hidden(r) {
				t.Fatalf("%q became %q, with %U", s, whole, r)
			}
		}
		if again := Clean(whole); again != whole {
			t.Errorf("%q is not clean: %q", whole, again)
		}
		if cut < 0 || cut > len(s) || !utf8.ValidString(s[:cut]) || !utf8.ValidString(s[cut:]) {
			return
		}
		var c Cleaner
		if got := c.Clean(s[:cut]) + c.Clean(s[cut:]); got != whole {
			t.Errorf("in pieces %q, whole %q", got, whole)
		}
		if n := cut % 100; n > 0 {
			width := 0
			for _, r := range Short(s, n) {
				width += cells(r)
			}
			if width > n {
				t.Errorf("Short(%q, %d) takes %d columns", s, n, width)
			}
		}
	})
}
