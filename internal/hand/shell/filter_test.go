package shell

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzFilter cuts what comes from the terminal at any place: text and marks come out the same.
func FuzzFilter(f *testing.F) {
	const secret = "5ecret"
	for _, seed := range []string{
		"plain\r\ntext", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07x", "\x1b]0;t\x1b\\x", "\x1b(Bx", "\x1e5ecret.3:0\x1f", "a\x1e\x1e5ecret.3:127\x1fb",
		"\x1eother.3:0\x1f", "\x1b", "\x1e", "\x1b]open\x1e5ecret.3:1\x1f", "\x1b[12\x1e5ecret.3:1\x1f", "\x1e\x1b[0m\r\x1e", "\x1e5ecret.0:0\x1e5ecret.1:1\x1f", "\x1b]\x1b]\x1b]x\n",
	} {
		f.Add([]byte(seed), uint16(3))
	}
	type out struct {
		Text  string
		Marks []mark
		At    []int
	}
	run := func(pieces ...[]byte) out {
		var o out
		fl := filter{secret: secret}
		var all []byte
		text := func(p []byte) { all = append(all, p...) }
		for _, p := range pieces {
			fl.feed(p, text, func(m mark) { o.Marks, o.At = append(o.Marks, m), append(o.At, len(all)) })
		}
		fl.flush(text)
		o.Text = string(all)
		return o
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint16) {
		whole := run(data)
		at := int(cut) % (len(data) + 1)
		if diff := cmp.Diff(whole, run(data[:at], data[at:]), cmp.AllowUnexported(mark{})); diff != "" {
			t.Fatal(diff)
		}
		var bytewise [][]byte
		for i := range data {
			bytewise = append(bytewise, data[i:i+1])
		}
		if diff := cmp.Diff(whole, run(bytewise...), cmp.AllowUnexported(mark{})); diff != "" {
			t.Fatal(diff)
		}
		if strings.Contains(whole.Text, "\r") {
			t.Fatalf("a carriage return in %q", whole.Text)
		}
		// A mark behind anything at all is found: no command can hide its own end.
		end := run(append(append([]byte(nil), data...), "\x1e"+secret+".9:5\x1f"...))
		if len(end.Marks) == 0 || end.Marks[len(end.Marks)-1] != (mark{9, 5}) {
			t.Fatalf("the mark behind %q is lost", data)
		}
	})
}
