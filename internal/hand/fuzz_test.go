//go:build unix

package hand

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"croft/internal/hand/tools"
)

// FuzzFrame reads any bytes as frames: what is accepted is written and read again as the same.
func FuzzFrame(f *testing.F) {
	for _, seed := range []frame{
		{Type: frameHello, Version: 1, PID: 7},
		{Type: frameCall, Seq: 1, ID: "sevt_1", Tool: "bash", Input: json.RawMessage(`{"command":"<é>"}`), TimeoutMS: 5},
		{Type: frameResult, Seq: 1, ID: "sevt_1", Content: []json.RawMessage{[]byte(`{"type":"text","text":"x"}`)}, IsError: true},
		{Type: frameAck, ID: "x"},
	} {
		data, err := encodeFrame(&seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(append(data, data[:7]...))
	}
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, '{'})
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		for {
			got, err := readFrame(in)
			if err != nil {
				if !errors.Is(err, errFrame) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("error of another kind: %v", err)
				}
				return
			}
			again, err := encodeFrame(got)
			if err != nil {
				t.Fatalf("accepted, but cannot be written: %v", err)
			}
			if int(binary.BigEndian.Uint32(again)) != len(again)-4 {
				t.Fatal("the length is wrong")
			}
			same, err := readFrame(bytes.NewReader(again))
			if err != nil {
				t.Fatalf("written, but cannot be read: %v", err)
			}
			if third, err := encodeFrame(same); err != nil || !bytes.Equal(again, third) {
				t.Fatalf("it changed on its way:\n%s\n%s\n%v", again, third, err)
			}
		}
	})
}

func TestFrameBounds(t *testing.T) {
	big := frame{Type: frameCall, Input: json.RawMessage(`"` + strings.Repeat("x", MaxFrame) + `"`)}
	if _, err := encodeFrame(&big); !errors.Is(err, errFrame) {
		t.Errorf("too large to write: %v", err)
	}
	if _, err := readFrame(bytes.NewReader([]byte{1, 0, 0, 1, '{'})); !errors.Is(err, errFrame) {
		t.Errorf("too large to read: %v", err)
	}
	if _, err := readFrame(bytes.NewReader([]byte{0, 1, 0, 0, '{'})); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
}

// FuzzInput gives any input to the tools that touch files. Whatever it is, there is a
// result of whole blocks, and nothing outside the folder changes.
func FuzzInput(f *testing.F) {
	for _, seed := range []string{
		`{"file_path":"a","view_range":[1,2]}`, `{"file_path":"a","view_range":[-9007199254740993,1e300]}`, `{"file_path":"d/b","content":"x"}`,
		`{"file_path":"a","old_string":"l","new_string":"","replace_all":true}`, `{"pattern":"**/{a,b}*"}`, `{"pattern":"(a|l)+$","path":"d"}`,
		`null`, `[]`, `{"file_path":null}`, `{"view_range":[1.5]}`, `{"file_path":"\u0000"}`, ``,
	} {
		f.Add(byte(len(seed)), seed)
	}
	f.Fuzz(func(t *testing.T, which byte, input string) {
		if strings.Contains(input, "..") || strings.Contains(input, `/`) || strings.Contains(input, `\`) {
			return // stay in the folder
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a"), []byte("line\nline\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		fs := &files{workdir: dir, scratch: &scratch{dir: filepath.Join(dir, "scratch")}}
		names := []string{tools.Read, tools.Write, tools.Edit, tools.Glob, tools.Grep}
		call := Call{ID: "x", Tool: names[int(which)%len(names)], Input: json.RawMessage(input)}
		var res Result
		switch call.Tool {
		case tools.Read:
			res = fs.read(t.Context(), call)
		case tools.Write:
			res = fs.write(t.Context(), call)
		case tools.Edit:
			res = fs.edit(t.Context(), call)
		case tools.Glob:
			res = fs.glob(t.Context(), call)
		case tools.Grep:
			res = fs.grep(t.Context(), call)
		}
		if len(res.Content) != 1 || res.Text() == "" || !utf8.ValidString(res.Text()) || strings.Contains(res.Text(), "\x00") {
			t.Fatalf("%s %s: %s", call.Tool, input, res.Content)
		}
		var bash bashInput
		_ = decodeInput(Call{Input: json.RawMessage(input)}, &bash)
		if limit := timeLimit(0, int64(bash.TimeoutMS)); limit <= 0 || limit > maxTimeout {
			t.Fatalf("a limit of %s", limit)
		}
	})
}

// FuzzGlob compares the matcher with one made the slow way: the pattern as a regular expression.
func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{
		{"**/*.go", "a/b/c.go"}, {"*.{a,b}", "x.b"}, {"a/**/b/**/c", "a/x/b/y/z/c"}, {"[a-c]?\\*", "bx*"}, {"{a,{b,c}d}/**", "cd/e"},
		{"**", ""}, {"a/**", "a"}, {"{,x}y", "xy"}, {"[{,}]x", ",x"}, {"**/**/a", "a"}, {"***", "a"}, {"[^a]", "b"}, {"{a", "{a"}, {"a,b}", "a,b}"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		p, err := parsePattern(text)
		if err != nil || len(name) > 200 || !utf8.ValidString(text) || !utf8.ValidString(name) {
			return
		}
		want := false
		for _, segments := range p {
			re, err := regexp.Compile(`(?s)\A` + regexpOf(segments) + `\z`)
			if err != nil {
				return // a repetition or a range that regexp does not take
			}
			want = want || re.MatchString("/"+name)
		}
		if got := p.match(name); got != want {
			t.Fatalf("%q on %q: %v, the regular expression says %v", text, name, got, want)
		}
	})
}

// regexpOf writes a pattern's segments as an expression for a name with a slash before it.
func regexpOf(segments []string) string {
	var b strings.Builder
	for _, seg := range segments {
		if seg == "**" {
			b.WriteString(`(?:/[^/]*)*`)
			continue
		}
		b.WriteString("/")
		runes := []rune(seg)
		for i := 0; i < len(runes); i++ {
			switch runes[i] {
			case '*':
				b.WriteString(`[^/]*`)
			case '?':
				b.WriteString(`[^/]`)
			case '\\':
				i++
				b.WriteString(regexp.QuoteMeta(string(runes[i])))
			case '[':
				b.WriteString("[")
				if i++; runes[i] == '^' {
					b.WriteString("^/")
					i++
				}
				for first := true; first || runes[i] != ']'; first = false {
					lo := classRune(runes, &i)
					b.WriteString(`\x{` + hexOf(lo) + `}`)
					if runes[i] == '-' {
						i++
						b.WriteString(`-\x{` + hexOf(classRune(runes, &i)) + `}`)
					}
				}
				b.WriteString("]")
			default:
				b.WriteString(regexp.QuoteMeta(string(runes[i])))
			}
		}
	}
	return b.String()
}

func classRune(runes []rune, i *int) rune {
	if runes[*i] == '\\' {
		*i++
	}
	*i++
	return runes[*i-1]
}

func hexOf(r rune) string {
	const digits = "0123456789abcdef"
	out := ""
	for ; r > 0 || out == ""; r /= 16 {
		out = string(digits[r%16]) + out
	}
	return out
}
