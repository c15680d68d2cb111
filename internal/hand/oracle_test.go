//go:build unix

package hand_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/tools/agenttoolset"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"croft/internal/hand/tools"
)

// The official SDK's tools are the oracle: every case below runs through both, in two equal
// folders, and the results must be equal but for the folder's name, which stands as DIR.
// What the two say about an error may differ, that there is one may not.
//
// Where they differ on purpose the case carries one of these reasons, and what we answer.
// A case whose reason no longer holds, because the two agree, fails.
const (
	anywhere   = "the sandbox is the boundary, so a path may lead anywhere inside it; the oracle keeps to its folder"
	nonEmpty   = "the Messages API refuses an empty text block, so nothing is said in words"
	utf8Only   = "results travel as JSON and into databases and model requests: bytes that are no UTF-8, and NUL, become U+FFFD"
	wording    = "confirmations and notes are worded by us; the numbers and names in them are compared"
	longText   = "beyond 100,000 characters the model gets the head and where to find the rest; the oracle sends up to 256 KiB, or an error"
	media      = "images and PDF documents become image and document blocks; the oracle sends their bytes as text"
	bigEdit    = "edit takes files up to 16 MiB; the oracle stops at 256 KiB"
	keepMode   = "an edited or overwritten file keeps its permissions; the oracle makes all of them 0644"
	inPlace    = "a file in a folder that takes no new files is written in place"
	braces     = "patterns may have braces, because models write them"
	absPattern = "patterns may be absolute or begin with .., see anywhere"
	badPattern = "a malformed pattern is an error; with the oracle it matches nothing"
	missing    = "a search in a place that is not there is an error; with the oracle it finds nothing"
	phantom    = "the empty string behind a file's last line end is no line"
	longLine   = "of a very long matching line the part around the match is shown"
	tidy       = "output is exact; the oracle trims line feeds before it and adds one behind it"
	shellEnd   = "when the shell ends, its output and exit code are reported, and a success is no error"
	keepState  = "a command that heeds the interrupt leaves the shell its state; the oracle starts a new one"
	openQuote  = "an unfinished command is a syntax error at once; the oracle waits for its end until the time-out"
	abort      = "an expansion error ends the command; the oracle, whose mark it swallows, times out"
	topReturn  = "return ends the command with its status, as in a script; to the oracle it is an error at top level"
	noHistory  = "! is no history expansion"
	sequences  = "besides colours, titles and character sets are taken out as well"
	noNotice   = "the shell's notices of jobs are no output"
	persistErr = "set -e does not outlive its call, where it would end the shell at the first failure"
	strictType = "an input of the wrong type is refused; the oracle reads what it can"
)

// oracle runs the SDK's tools in dir.
type oracle struct{ byName map[string]anthropic.BetaTool }

func newOracle(t *testing.T, dir string) *oracle {
	set := agenttoolset.BetaAgentToolset20260401(&agenttoolset.AgentToolContext{Workdir: dir})
	t.Cleanup(func() { agenttoolset.CloseAll(set) })
	o := &oracle{make(map[string]anthropic.BetaTool)}
	for _, tool := range set {
		o.byName[tool.Name()] = tool
	}
	return o
}

func (o *oracle) use(t *testing.T, tool string, raw json.RawMessage) (string, bool) {
	t.Helper()
	blocks, err := o.byName[tool].Execute(t.Context(), raw)
	var toolErr *agenttoolset.ToolError
	switch {
	case errors.As(err, &toolErr):
		return toolErr.Content, true
	case err != nil:
		t.Fatalf("oracle: %s %s: %v", tool, raw, err)
	}
	var text strings.Builder
	for _, b := range blocks {
		if b.OfText != nil {
			text.WriteString(b.OfText.Text)
		}
	}
	return text.String(), false
}

// both is the two of them, each in a folder of its own with the same content.
type both struct {
	ours   *live
	oracle *oracle
	a, b   string // folders of ours and of the oracle's
}

func newBoth(t *testing.T) *both {
	t.Helper()
	b := &both{a: folder(t), b: folder(t)}
	grow(t, b.a)
	grow(t, b.b)
	b.ours, b.oracle = start(t, b.a), newOracle(t, b.b)
	return b
}

// oracleCase is one call. DIR in the input stands for the folder.
type oracleCase struct {
	tool, input string
	reason      string // why the two differ; empty if they do not
	ours        string // what we answer then; "error" for any error, "*" for anything
}

func (b *both) check(t *testing.T, cases []oracleCase, plain func(text string, isErr bool) string) {
	t.Helper()
	for _, c := range cases {
		res := b.ours.use(t, c.tool, json.RawMessage(strings.ReplaceAll(c.input, "DIR", b.a)))
		text := res.Text()
		if text == "" {
			text = string(res.Content[0])
		}
		ours := plain(strings.ReplaceAll(text, b.a, "DIR"), res.IsError)
		text, isErr := b.oracle.use(t, c.tool, json.RawMessage(strings.ReplaceAll(c.input, "DIR", b.b)))
		theirs := plain(strings.ReplaceAll(text, b.b, "DIR"), isErr)
		switch {
		case c.reason == "" && ours != theirs:
			t.Errorf("%s %s\n   ours %.600q\n theirs %.600q", c.tool, c.input, ours, theirs)
		case c.reason != "" && ours == theirs:
			t.Errorf("%s %s\nboth answer %.600q, so there is no difference to explain: %s", c.tool, c.input, ours, c.reason)
		case c.reason != "" && c.ours == "*":
		case c.reason != "" && c.ours != ours:
			t.Errorf("%s %s (%s)\n got %.600q\nwant %.600q", c.tool, c.input, c.reason, ours, c.ours)
		}
		if x, y := tree(t, b.a), tree(t, b.b); c.reason == "" {
			if diff := cmp.Diff(y, x); diff != "" {
				t.Errorf("%s %s: the folders differ (-theirs +ours):\n%s", c.tool, c.input, diff)
			}
		}
	}
}

// errorness is how file tools are compared: by their text, or by there being an error.
func errorness(text string, isErr bool) string {
	if isErr {
		return "error"
	}
	return text
}

// grow makes the folder that the cases work on. Every file has a time of its own.
func grow(t *testing.T, dir string) {
	t.Helper()
	many := make([]byte, 0, 600<<10)
	for i := 1; len(many) < 300<<10; i++ {
		many = fmt.Appendf(many, "line %d of a long file\n", i)
	}
	files := []struct{ path, content string }{
		{"a.txt", "line1\nline2\nline3"},
		{"end.txt", "one\ntwo\n"},
		{"empty.txt", ""},
		{"newlines.txt", "\n\n\n"},
		{"unicode é世界🙂.txt", "é\n世界\n🙂 end\n"},
		{"crlf.txt", "one\r\ntwo\r\nthree\r\n"},
		{"cr.txt", "one\rtwo\r"},
		{"bom.txt", "\ufeffbom\n"},
		{"latin1.txt", "caf\xe9\n"},
		{"nul.bin", "text\x00more\nsecond match\n"},
		{"late-nul.bin", strings.Repeat("x", 600) + "\nmatch\n\x00\n"},
		{"long.txt", string(many)},
		{"under.txt", strings.Repeat("0123456789\n", 9000)},
		{"oneline.txt", strings.Repeat("y", 5000) + "match" + strings.Repeat("z", 5000) + "\n"},
		{"wide.txt", strings.Repeat("w", 120_000) + "\ntail\n"},
		{"code.go", "package main\n\nfunc main() {\n\tprintln(\"<a & b>\")\n}\n"},
		{"dup.txt", "same\nsame\nother\n"},
		{".hidden", "hidden match\n"},
		{"src/one.go", "package src // match\n"},
		{"src/two.ts", "match()\n"},
		{"src/three.tsx", "<match/>\n"},
		{"src/deep/er/four.go", "package er\n"},
		{"src/.secret/five.go", "package secret // match\n"},
		{"src/a[1].txt", "brackets\n"},
		{"src/{x,y}.txt", "braces\n"},
		{".git/config", "match\n"},
		{"node_modules/m/index.js", "match\n"},
		{"run.sh", "#!/bin/sh\necho ran\n"},
		{"image.png", "\x89PNG\r\n\x1a\nrest of an image"},
		{"image.jpg", "\xff\xd8\xff\xe0rest"},
		{"image.gif", "GIF89arest"},
		{"image.webp", "RIFF\x00\x00\x00\x00WEBPVP8 rest"},
		{"paper.pdf", "%PDF-1.7 rest"},
		{"notpng.png", "text, whatever its name says\n"},
	}
	at := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	stamp := func(path string) {
		at = at.Add(time.Minute)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		path := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f.content), 0o644); err != nil {
			t.Fatal(err)
		}
		stamp(path)
	}
	if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, l := range []struct{ path, target string }{
		{"link.txt", "a.txt"}, {"abs.txt", filepath.Join(dir, "a.txt")}, {"dangling", "src/made-by-link.txt"},
		{"loop", "loop"}, {"out", "/etc/hostname"}, {"srclink", "src"},
	} {
		path := filepath.Join(dir, l.path)
		if err := os.Symlink(l.target, path); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Minute)
		times := []unix.Timespec{{Sec: at.Unix()}, {Sec: at.Unix()}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"src/deep/er", "src/deep", "src/.secret", "src", ".git", "node_modules/m", "node_modules"} {
		stamp(filepath.Join(dir, d))
	}
}

// tree lists a folder: type, permissions and content of everything in it.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += " " + string(data)
		}
		all[strings.TrimPrefix(path, dir)] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestReadAgainstOracle(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	if err := os.WriteFile(filepath.Join(b.a, "..", "outside.txt"), []byte("outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var cases []oracleCase
	for _, name := range []string{
		"a.txt", "./a.txt", "src/../a.txt", "DIR/a.txt", "end.txt", "newlines.txt", "unicode é世界🙂.txt", "crlf.txt", "cr.txt", "bom.txt",
		"code.go", "dup.txt", ".hidden", "src/one.go", "src/a[1].txt", "link.txt", "abs.txt", "srclink/one.go", "notpng.png", "under.txt",
		"missing.txt", "src", ".", "a.txt/x", "missing/x", "loop", "dangling", "/dev/null", "", "\u0000",
	} {
		quoted, _ := json.Marshal(name)
		cases = append(cases, oracleCase{tool: tools.Read, input: `{"file_path":` + string(quoted) + `}`})
	}
	for _, r := range []string{
		"[1,1]", "[2,2]", "[1,2]", "[1,3]", "[1,4]", "[2,0]", "[2,-1]", "[0,1]", "[-5,2]", "[3,99]", "[]", "null",
		"[1]", "[1,2,3]",
	} {
		for _, name := range []string{"a.txt", "end.txt", "crlf.txt", "under.txt"} {
			if name == "end.txt" && r == "[3,99]" {
				continue // below
			}
			cases = append(cases, oracleCase{tool: tools.Read, input: `{"file_path":"` + name + `","view_range":` + r + `}`})
		}
	}
	for _, c := range []oracleCase{
		{input: `{}`}, {input: `{"file_path":"a.txt","more":1}`}, {input: `[]`}, {input: `"x"`},
		{input: `{"file_path":"long.txt","view_range":[5,7]}`},
		{input: `{"file_path":"long.txt","view_range":[9999,10000]}`},
		{input: `{"file_path":"wide.txt","view_range":[2,2]}`},
		{input: `{"file_path":"empty.txt"}`, reason: nonEmpty, ours: "(the file is empty)"},
		{input: `{"file_path":"a.txt","view_range":[10,12]}`, reason: nonEmpty, ours: "(no text in those lines)"},
		{input: `{"file_path":"a.txt","view_range":[3,1]}`, reason: nonEmpty, ours: "(no text in those lines)"},
		{input: `{"file_path":"end.txt","view_range":[3,3]}`, reason: nonEmpty, ours: "(no text in those lines)"},
		{input: `{"file_path":"newlines.txt","view_range":[2,2]}`, reason: nonEmpty, ours: "(no text in those lines)"},
		{input: `{"file_path":"long.txt","view_range":[99999,0]}`, reason: nonEmpty, ours: "(no text in those lines)"},
		{input: `{"file_path":"latin1.txt"}`, reason: utf8Only, ours: "caf\ufffd\n"},
		{input: `{"file_path":"nul.bin"}`, reason: utf8Only, ours: "text\ufffdmore\nsecond match\n"},
		{input: `{"file_path":"../outside.txt"}`, reason: anywhere, ours: "outside\n"},
		{input: `{"file_path":"out"}`, reason: anywhere, ours: "*"},
		{input: `{"file_path":"/etc/hostname"}`, reason: anywhere, ours: "*"},
		{input: `{"file_path":"long.txt"}`, reason: longText, ours: "*"},
		{input: `{"file_path":"wide.txt"}`, reason: longText, ours: "*"},
		{input: `{"file_path":"image.png"}`, reason: media, ours: `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgpyZXN0IG9mIGFuIGltYWdl"}}`},
		{input: `{"file_path":"image.jpg"}`, reason: media, ours: `{"type":"image","source":{"type":"base64","media_type":"image/jpeg","data":"/9j/4HJlc3Q="}}`},
		{input: `{"file_path":"image.gif"}`, reason: media, ours: `{"type":"image","source":{"type":"base64","media_type":"image/gif","data":"R0lGODlhcmVzdA=="}}`},
		{input: `{"file_path":"image.webp"}`, reason: media, ours: `{"type":"image","source":{"type":"base64","media_type":"image/webp","data":"UklGRgAAAABXRUJQVlA4IHJlc3Q="}}`},
		{input: `{"file_path":"paper.pdf"}`, reason: media, ours: `{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBERi0xLjcgcmVzdA=="}}`},
		{input: `{"file_path":"end.txt","view_range":[3,99]}`, reason: nonEmpty, ours: "(no text in those lines)"},
		{input: `{"file_path":7}`},
		{input: `{"file_path":"a.txt","view_range":["1","2"]}`, reason: strictType, ours: "error"},
	} {
		c.tool = tools.Read
		cases = append(cases, c)
	}
	b.check(t, cases, errorness)
}

// numbers is how confirmations are compared: by the numbers in them.
func numbers(text string, isErr bool) string {
	if isErr {
		return "error"
	}
	return strings.Join(regexp.MustCompile(`\d+`).FindAllString(text, -1), " ")
}

func TestWriteAgainstOracle(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	cases := []oracleCase{
		{input: `{"file_path":"new.txt","content":"hello\n"}`},
		{input: `{"file_path":"new.txt","content":"replaced"}`},
		{input: `{"file_path":"DIR/abs-new.txt","content":"é世界🙂<&>\r\n\u0000"}`},
		{input: `{"file_path":"some/deep/er/dir/x.txt","content":"x"}`},
		{input: `{"file_path":"blank.txt","content":""}`},
		{input: `{"file_path":"blank.txt"}`},
		{input: `{"file_path":"link.txt","content":"through a link"}`},
		{input: `{"file_path":"abs.txt","content":"through an absolute link"}`},
		{input: `{"file_path":"dangling","content":"through a link to nothing"}`},
		{input: `{"file_path":"srclink/in-link.txt","content":"in a linked folder"}`},
		{input: `{"file_path":"src/../dots.txt","content":"x"}`},
		{input: `{"file_path":"trailing/","content":"x"}`},
		{input: `{"file_path":"src","content":"a folder"}`},
		{input: `{"file_path":".","content":"a folder"}`},
		{input: `{"file_path":"a.txt/x","content":"under a file"}`},
		{input: `{"file_path":"loop","content":"x"}`},
		{input: `{"file_path":"loop/x","content":"x"}`},
		{input: `{"file_path":"","content":"x"}`},
		{input: `{"content":"x"}`},
		{input: `{}`},
		{input: `{"file_path":"nul\u0000name","content":"x"}`},
		{input: `{"file_path":"` + strings.Repeat("n", 300) + `","content":"x"}`},
		{input: `{"file_path":"../outside-write.txt","content":"x"}`, reason: anywhere, ours: "*"},
		{input: `{"file_path":"run.sh","content":"#!/bin/sh\n"}`},
	}
	for i := range cases {
		cases[i].tool = tools.Write
	}
	last := cases[len(cases)-1]
	b.check(t, cases[:len(cases)-1], numbers)
	b.ours.use(t, last.tool, json.RawMessage(last.input))
	b.oracle.use(t, last.tool, json.RawMessage(last.input))
	sameMode(t, b, "run.sh", keepMode)
}

// sameMode checks that a file kept its permissions with us, and lost them with the oracle.
func sameMode(t *testing.T, b *both, name, reason string) {
	t.Helper()
	for dir, want := range map[string]fs.FileMode{b.a: 0o755, b.b: 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s/%s has %v, want %v (%s)", dir, name, info.Mode().Perm(), want, reason)
		}
	}
}

func TestEditAgainstOracle(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	cases := []oracleCase{
		{input: `{"file_path":"a.txt","old_string":"line2","new_string":"LINE 2"}`},
		{input: `{"file_path":"a.txt","old_string":"line1\nLINE","new_string":"joined"}`},
		{input: `{"file_path":"a.txt","old_string":"not there","new_string":"x"}`},
		{input: `{"file_path":"a.txt","old_string":"line3","new_string":""}`},
		{input: `{"file_path":"a.txt","old_string":"joined","new_string":"joined"}`},
		{input: `{"file_path":"dup.txt","old_string":"same","new_string":"x"}`},
		{input: `{"file_path":"dup.txt","old_string":"same\nsame","new_string":"same\nsame\nsame"}`},
		{input: `{"file_path":"dup.txt","old_string":"same","new_string":"other","replace_all":true}`},
		{input: `{"file_path":"dup.txt","old_string":"nowhere","new_string":"other","replace_all":true}`},
		{input: `{"file_path":"dup.txt","old_string":"o","new_string":"oo","replace_all":true}`},
		{input: `{"file_path":"crlf.txt","old_string":"one\r\ntwo","new_string":"1\r\n2"}`},
		{input: `{"file_path":"crlf.txt","old_string":"2\nthree","new_string":"x"}`},
		{input: `{"file_path":"unicode é世界🙂.txt","old_string":"世界","new_string":"🙂🙂"}`},
		{input: `{"file_path":"latin1.txt","old_string":"caf","new_string":"CAF"}`},
		{input: `{"file_path":"nul.bin","old_string":"\u0000","new_string":"NUL"}`},
		{input: `{"file_path":"link.txt","old_string":"joined","new_string":"by link"}`},
		{input: `{"file_path":"code.go","old_string":"\"<a & b>\"","new_string":"$1 \\1 $&"}`},
		{input: `{"file_path":"src/a[1].txt","old_string":"brackets","new_string":"x"}`},
		{input: `{"file_path":"empty.txt","old_string":"x","new_string":"y"}`},
		{input: `{"file_path":"a.txt","old_string":"","new_string":"y"}`},
		{input: `{"file_path":"a.txt","new_string":"y"}`},
		{input: `{"file_path":"missing.txt","old_string":"x","new_string":"y"}`},
		{input: `{"file_path":"src","old_string":"x","new_string":"y"}`},
		{input: `{"file_path":"loop","old_string":"x","new_string":"y"}`},
		{input: `{"file_path":"dangling","old_string":"x","new_string":"y"}`},
		{input: `{"file_path":"","old_string":"x","new_string":"y"}`},
		{input: `{}`},
		{input: `{"file_path":"long.txt","old_string":"line 77 of","new_string":"line seventy-seven of"}`, reason: bigEdit, ours: "1"},
	}
	for i := range cases {
		cases[i].tool = tools.Edit
	}
	// The oracle writes a count where we write a name with a number in it: names without.
	count := func(text string, isErr bool) string {
		for _, name := range []string{"src/a[1].txt", "latin1.txt"} {
			text = strings.ReplaceAll(text, name, "")
		}
		return numbers(text, isErr)
	}
	b.check(t, cases, count)
	last := json.RawMessage(`{"file_path":"run.sh","old_string":"ran","new_string":"run"}`)
	b.ours.use(t, tools.Edit, last)
	b.oracle.use(t, tools.Edit, last)
	sameMode(t, b, "run.sh", keepMode)
}

func TestGlobAgainstOracle(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	cases := []oracleCase{}
	for _, p := range []string{
		"*", "*.txt", "**", "**/*", "**/*.go", "*.go", "src/*.go", "src/**/*.go", "src/**", "**/er/**", "**/**/four.go", "src/*/*/*.go",
		".*", "**/.*", "**/.secret/*", "?.txt", "[ab].txt", "[a-c]*.txt", "[^a]*.txt", "*é*", "src/a\\\\[1\\\\].txt", "**/one.*", "one.go", "**/src",
		"./*.go", "src//one.go", "src/", "*/", "a.txt/*", "src/../*.txt", "**/../*.txt", "*/../*.txt", "link.txt", "**/dangling",
	} {
		cases = append(cases, oracleCase{input: `{"pattern":"` + p + `"}`})
	}
	for _, p := range []string{"src", "./src", "DIR/src", "srclink", "a.txt", "src/.secret"} {
		cases = append(cases, oracleCase{input: `{"pattern":"**/*.go","path":"` + p + `"}`})
	}
	replace := func(input, reason, ours string) {
		for i := range cases {
			if cases[i].input == input {
				cases[i].reason, cases[i].ours = reason, ours
				return
			}
		}
		cases = append(cases, oracleCase{input: input, reason: reason, ours: ours})
	}
	replace(`{"pattern":"src/../*.txt"}`, absPattern, "*")
	replace(`{"pattern":"./*.go"}`, absPattern, "DIR/code.go")
	replace(`{"pattern":"src//one.go"}`, absPattern, "DIR/src/one.go")
	replace(`{"pattern":"DIR/src/*.go"}`, absPattern, "DIR/src/one.go")
	replace(`{"pattern":"../*.go","path":"src"}`, absPattern, "DIR/code.go")
	replace(`{"pattern":"srclink/*.go"}`, "the part of a pattern that has nothing to match is a path, symbolic links included", "DIR/src/one.go")
	replace(`{"pattern":"hostname","path":"/etc"}`, anywhere, "/etc/hostname")
	replace(`{"pattern":"src/*.{ts,tsx}"}`, braces, "DIR/src/three.tsx\nDIR/src/two.ts")
	replace(`{"pattern":"src/{one,deep/**/four}.go"}`, braces, "DIR/src/deep/er/four.go\nDIR/src/one.go")
	replace(`{"pattern":"src/{x,y}.txt"}`, braces, "none")
	replace(`{"pattern":"src/\\{x,y\\}.txt"}`, "", "")
	replace(`{"pattern":"src/{x}*"}`, "", "")
	replace(`{"pattern":"["}`, badPattern, "error")
	replace(`{"pattern":"*","path":"missing"}`, missing, "error")
	replace(`{"pattern":"*","path":"a.txt/x"}`, missing, "error")
	replace(`{"pattern":"missing/*.go"}`, "", "")
	replace(`{"pattern":""}`, "", "")
	replace(`{}`, "", "")
	replace(`{"pattern":"*","path":"loop"}`, "", "")
	for i := range cases {
		cases[i].tool = tools.Glob
	}
	b.check(t, cases, searched)
}

// searched is how searches are compared: by what they found, the wording of nothing aside.
func searched(text string, isErr bool) string {
	switch {
	case isErr:
		return "error"
	case text == "no matches", text == "No matches.":
		return "none"
	}
	return text
}

// Without ripgrep on its PATH the oracle searches by itself, which is what we do always: ripgrep
// passes over hidden and ignored files, and what it finds comes in no fixed order.
func TestGrepAgainstOracle(t *testing.T) {
	t.Setenv("PATH", "")
	b := newBoth(t)
	var cases []oracleCase
	for _, p := range []string{
		"match", "^match", "match$", "MATCH", "(?i)MATCH", "line[0-9]+", "世界|é", "\\\\.", "^package (src|er)\\\\b", "\\\\r$", "<.*>", "no such text",
		"second", "one", "tail", "func \\\\w+\\\\(", "[[:space:]]end", "\\\\x{1F642}", "(", "[", "*", "a{99999}", "(?P<n", "\\\\",
	} {
		cases = append(cases, oracleCase{input: `{"pattern":"` + p + `"}`})
	}
	for _, p := range []string{"src", "src/one.go", "DIR/src", "srclink", ".git", "node_modules", "link.txt", "image.png", "nul.bin", "late-nul.bin", "/dev/null"} {
		cases = append(cases, oracleCase{input: `{"pattern":"match|line","path":"` + p + `"}`})
	}
	replace := func(input, reason, ours string) {
		for i := range cases {
			if cases[i].input == input {
				cases[i].reason, cases[i].ours = reason, ours
				return
			}
		}
		cases = append(cases, oracleCase{input: input, reason: reason, ours: ours})
	}
	replace(`{"pattern":"match"}`, longLine, "*")
	replace(`{"pattern":"(?i)MATCH"}`, longLine, "*")
	replace(`{"pattern":"match|line","path":".git"}`, "a folder that is named is searched, even if it is .git or node_modules", "DIR/.git/config:1:match")
	replace(`{"pattern":"match|line","path":"node_modules"}`, "as above", "DIR/node_modules/m/index.js:1:match")
	replace(`{"pattern":"\\r$"}`, utf8Only, "*")
	replace(`{"pattern":"^$","path":"code.go"}`, phantom, "DIR/code.go:2:")
	replace(`{"pattern":"^","path":"end.txt"}`, phantom, "DIR/end.txt:1:one\nDIR/end.txt:2:two")
	replace(`{"pattern":"caf","path":"latin1.txt"}`, utf8Only, "DIR/latin1.txt:1:caf\ufffd")
	replace(`{"pattern":"match","path":"oneline.txt"}`, longLine,
		"DIR/oneline.txt:1:[4500 bytes left out]…"+strings.Repeat("y", 500)+"match"+strings.Repeat("z", 1495)+"…[3505 bytes left out]")
	replace(`{"pattern":"of a long file"}`, longText, "*")
	replace(`{"pattern":"x","path":"missing"}`, missing, "error")
	replace(`{"pattern":"."  ,"path":"/etc/hostname"}`, anywhere, "*")
	replace(`{"pattern":"match|line","path":"/dev/null"}`, anywhere, "none")
	replace(`{"pattern":""}`, "", "")
	replace(`{}`, "", "")
	replace(`{"pattern":"x","path":"loop"}`, "", "")
	for i := range cases {
		cases[i].tool = tools.Grep
	}
	b.check(t, cases, searched)
}

// said is how the two ways to say an exit code are told.
var said = regexp.MustCompile(`(?s)^(.*?)\n?(?:exit code: |\[exit code )(\d+)\]?$`)

// ran is how commands are compared: by output, without line feeds around it, and exit code.
func ran(text string, isErr bool) string {
	code := "ok"
	if isErr {
		code = "error"
		if m := said.FindStringSubmatch(text); m != nil {
			text, code = m[1], m[2]
		}
	}
	text = strings.Trim(text, "\n")
	if text == "(no output)" {
		text = ""
	}
	return code + "|" + text
}

func TestBashAgainstOracle(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	run := func(command string) oracleCase {
		input, err := json.Marshal(map[string]string{"command": command})
		if err != nil {
			t.Fatal(err)
		}
		return oracleCase{tool: tools.Bash, input: string(input)}
	}
	within := func(ms int, command string) oracleCase {
		input, err := json.Marshal(map[string]any{"command": command, "timeout_ms": ms})
		if err != nil {
			t.Fatal(err)
		}
		return oracleCase{tool: tools.Bash, input: string(input)}
	}
	differ := func(c oracleCase, reason, ours string) oracleCase {
		c.reason, c.ours = reason, ours
		return c
	}
	const lost = ": the next command starts in a new shell, in DIR, without the old one's directory, variables, functions and background jobs]"
	b.check(t, []oracleCase{
		// Output and exit codes.
		run("echo hi"), run("true"), run("false"), run("(exit 7)"), run("echo out; echo err >&2"), run("echo a >&2; (exit 3)"),
		run("printf 'no newline'"), run("printf 'a\\nb'"), run("echo é世界🙂"), run("printf '\\t tab \\t'"), run("cat a.txt"), run("cat missing"),
		run("printf 'a\\r\\nb\\r\\n'"), run("printf '10%%\\r20%%\\r'"), run("printf '\\e[31mred\\e[0m \\e[1;32mbold\\e[m\\e[K'"),
		run("sh -c 'kill -TERM $$'"), run("sh -c 'exit 255'"), run("ls -1"), run("seq 1 3000"), run("yes | head -n 5"), run("ls | cat"),
		run("no-such-command"),
		run("./run.sh"), run("test -t 1 && echo tty; test -t 0 || echo no"), run("echo $TERM"), run("tty <&1 | sed s/[0-9]*$//"),
		run("printf '\\n\\nlead'"),
		// State.
		run("cd src; X=1; export Y=2; f() { echo \"f $X $1\"; }; shopt -s extglob; set -o pipefail"),
		run("pwd; f a; sh -c 'echo $Y'; false | true"), run("echo !(one).go; echo ~+"), run("cd ..; unset X; f b; set +o pipefail; pwd"),
		run("pushd src >/dev/null; dirs -l; popd >/dev/null"), run("alias ll='echo aliased'"), run("ll"), run("umask 077; umask; umask 022"), run("trap 'echo bye' USR1; kill -USR1 $$; trap - USR1"),
		run("exec 5>five; echo 5 >&5; exec 5>&-; cat five"), run("echo still $Y"),
		// Forms.
		run("cat <<X\nheredoc $Y\nX"), run("cat <<'X'\nheredoc $Y\nX"), run("cat <<-X\n\tindented\n\tX"), run("for i in 1 2 3; do\n  echo $i\ndone"),
		run("echo a # comment"), run("echo a;"), run("echo a &&\necho b"), run("echo 'multi\nline'"), run("echo a\\\nb"),
		run("if true\nthen\n  echo yes\nelse\n  echo no\nfi"), run("diff <(echo a) <(echo a) && echo same"), run("echo \"$(echo nested \"$(echo deep)\")\""),
		run("case x in x) echo x;; esac"), run("g() {\n  local v=1\n  echo $v\n}\ng; echo ${v-unset}"), run("  \n echo spaces \n\n"), run("[[ abc =~ b ]] && echo match"),
		run("printf '%s\\n' {a,b}{1,2}"), run("echo 'it'\\''s'"), run("echo \"\\\"quoted\\\"\""), run("echo '%d %s \\n' '$HOME'"), run(strings.Repeat("echo x;", 3000)),
		run("echo " + strings.Repeat("long", 5000) + " | wc -c"),
		// Standard input.
		run("cat"), run("read a; echo \"$? $a\""), run("echo fed | cat"), run("wc -c"), run("cat - a.txt"), run("python3 -c 'input()' 2>/dev/null || sh -c 'read x'"),
		// Jobs.
		differ(run("sleep 0.2 & echo started"), noNotice, "ok|started"), run("wait; echo waited"),
		differ(run("(sleep 0.05; echo late) & wait"), noNotice, "ok|late"),
		differ(run("sleep 1000 & JOB=$!; kill $JOB; wait $JOB; echo $?"), noNotice, "ok|143"),
		differ(run("(echo a; exit 4) & wait $!"), noNotice, "4|a"),
		differ(run("sleep 1000 >/dev/null 2>&1 & disown; echo left"), noNotice, "ok|left"),
		// Restart.
		{tool: tools.Bash, input: `{"restart":true}`, reason: wording, ours: "ok|The shell was restarted."},
		run("echo \"Y is ${Y-gone}\"; pwd"),
		{tool: tools.Bash, input: `{"restart":true,"command":"echo fresh"}`},
		{tool: tools.Bash, input: `{}`, reason: wording, ours: "*"},
		{tool: tools.Bash, input: `{"command":""}`, reason: wording, ours: "*"},
		{tool: tools.Bash, input: `{"command":"echo t","timeout_ms":0}`},
		{tool: tools.Bash, input: `{"command":"echo t","timeout_ms":-5}`},
		{tool: tools.Bash, input: `{"command":"echo t","timeout_ms":60000,"more":true}`},
		// Time-outs.
		differ(within(300, "K=1; echo begun; sleep 1000"), keepState, "error|begun\n[timed out after 300ms; the shell goes on with its state]"),
		differ(run("echo \"K is ${K-gone}\""), keepState, "ok|K is 1"),
		run("unset K; echo on"),
		// The shell's own end.
		differ(run("echo bye; exit 3"), shellEnd, "error|bye\n[the shell ended with exit code 3"+lost),
		run("echo next"),
		differ(run("echo bye; exit 0"), shellEnd, "ok|bye\n[the shell ended with exit code 0"+lost),
		differ(run("kill -9 $$"), shellEnd, "error|[the shell ended with exit code 137"+lost),
		differ(run("exec echo replaced"), shellEnd, "ok|replaced\n[the shell ended with exit code 0"+lost),
		run("echo next"),
		differ(run("set -e; echo a; false; echo b"), shellEnd, "error|a\n[the shell ended with exit code 1"+lost),
		run("set -e"),
		differ(run("false; echo b"), persistErr, "ok|b"),
		// What the oracle's wrapper cannot do.
		differ(within(700, "echo 'open"), openQuote, "2|bash: DIR/command: line 1: unexpected EOF while looking for matching `''"),
		differ(within(700, "echo ${nope?none}; echo never"), abort, "1|bash: nope: none"),
		differ(within(700, "readonly R=1; R=2; echo never"), abort, "1|bash: R: readonly variable"),
		differ(within(700, "echo $((1/0)); echo never"), abort, "1|bash: 1/0: division by 0 (error token is \"0\")"),
		differ(within(700, "# only a comment"), "a comment alone is a command that does nothing", "ok|"),
		differ(run("return 5"), topReturn, "5|"),
		differ(within(700, "echo 'a!b' a!b"), noHistory, "ok|a!b a!b"),
		differ(run("printf '\\e]0;title\\a\\e(Bx'"), sequences, "ok|x"),
		differ(run("printf '\\377\\n'"), utf8Only, "ok|\ufffd"),
		differ(run("printf 'a\\0b\\n'"), utf8Only, "ok|a\ufffdb"),
		differ(run("seq 1 30000"), longText, "*"),
	}, func(text string, isErr bool) string {
		return regexp.MustCompile(`/\S*/command: `).ReplaceAllString(ran(text, isErr), "DIR/command: ")
	})
}

func TestBashOutputIsExact(t *testing.T) {
	t.Parallel()
	l := start(t, folder(t))
	o := newOracle(t, folder(t))
	const command = `{"command":"printf '\\n\\nlead\\n\\n'"}`
	ours := l.use(t, tools.Bash, json.RawMessage(command)).Text()
	theirs, _ := o.use(t, tools.Bash, json.RawMessage(command))
	if ours != "\n\nlead\n\n" || theirs == ours {
		t.Errorf("ours %q, theirs %q (%s)", ours, theirs, tidy)
	}
}
