package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, path string) *Folder {
	t.Helper()
	f, err := Open(path, "process-1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func session(t *testing.T, f *Folder, open ...string) *Journal {
	t.Helper()
	j, err := f.Session("sesn_1")
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Adopt(open); err != nil {
		t.Fatal(err)
	}
	return j
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// verdict is what a journal says of a call.
func verdict(j *Journal, id string) string {
	begun, kept := j.Lookup(id)
	switch {
	case kept != nil:
		return "kept " + string(kept)
	case begun:
		return "begun"
	}
	return "unknown"
}

func TestFolderIsOfOneWorker(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	if _, err := Open(dir, "process-2"); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Fatalf("a second process got %v", err)
	}
	id := f.ID()
	f.Close()
	f, err := Open(dir, "process-2")
	must(t, err)
	if f.ID() != id {
		t.Errorf("the worker's id changed from %s to %s", id, f.ID())
	}
	f.Close()
	must(t, os.WriteFile(filepath.Join(dir, "worker-id"), []byte("not an id\n"), 0o600))
	if _, err := Open(dir, "process-3"); err == nil || !strings.Contains(err.Error(), "worker-id") {
		t.Errorf("a damaged id got %v", err)
	}
	if _, err := Open("", "p"); err == nil {
		t.Error("no folder was accepted")
	}
}

// TestLifeOfACall goes through a call's lines, and asks at each point what the next process
// would be told, as after a kill: nothing is closed.
func TestLifeOfACall(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	j := session(t, f)
	next := func(want string) {
		t.Helper()
		k, err := f.Session("sesn_1") // the lock is of the process; the file is read anew
		must(t, err)
		must(t, k.Adopt([]string{"call_1"}))
		if got := verdict(k, "call_1"); got != want {
			t.Errorf("the next process is told %q, want %q", got, want)
		}
		if got := verdict(j, "call_1"); got != want {
			t.Errorf("this process is told %q, want %q", got, want)
		}
	}
	next("unknown")
	must(t, j.Start("call_1"))
	next("begun")
	must(t, j.Keep("call_1", []byte(`{"a":1}`)))
	next(`kept {"a":1}`)
	must(t, j.Start("call_2"))
	must(t, j.Done("call_1"))
	next("unknown")
}

func TestFileShrinksAndGoes(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	path := filepath.Join(dir, sessions, "sesn_1")
	size := func() int64 {
		info, err := os.Stat(path)
		must(t, err)
		return info.Size()
	}
	j := session(t, f)
	head := size()
	for range 3 {
		must(t, j.Start("a"))
		must(t, j.Start("b"))
		must(t, j.Keep("a", []byte(`[1]`)))
		must(t, j.Done("a"))
		must(t, j.Done("b"))
		must(t, j.Done("never"))
	}
	if got := size(); got != head {
		t.Errorf("with nothing open the file has %d bytes, want %d", got, head)
	}
	// One call stays open while others come and go.
	must(t, j.Start("stays"))
	big := []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
	for range 12 {
		must(t, j.Start("c"))
		must(t, j.Keep("c", big))
		must(t, j.Done("c"))
	}
	if got := size(); got > compactAt+2<<20 {
		t.Errorf("the file has grown to %d bytes", got)
	}
	must(t, j.Start("d"))
	k := session(t, f, "stays", "c", "d")
	for id, want := range map[string]string{"stays": "begun", "c": "unknown", "d": "begun"} {
		if got := verdict(k, id); got != want {
			t.Errorf("%s is %q after the file was written anew, want %q", id, got, want)
		}
	}
	j.Close()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("a journal with open calls is gone: %v", err)
	}
	k = session(t, f) // the server has none of them open any more
	k.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a journal that has nothing to tell is there: %v", err)
	}
	session(t, f).Drop()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a dropped journal is there: %v", err)
	}
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, f.Forget("sesn_1"))
	must(t, f.Forget("sesn_1"))
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a forgotten journal is there: %v", err)
	}
	if err := f.Forget("../worker-id"); err == nil {
		t.Error("a path was forgotten for a session")
	}
	if _, err := f.Session("../x"); err == nil {
		t.Error("a path was taken for a session")
	}
}

func TestSuspectJournals(t *testing.T) {
	f := open(t, t.TempDir())
	head := title + f.boot + "\n"
	for name, tc := range map[string]struct {
		file string
		want map[string]string
	}{
		"of this boot":         {head + "begun a\nkept b {}\n", map[string]string{"a": "begun", "b": "kept {}", "c": "unknown"}},
		"of another boot":      {title + "other\nbegun a\nkept b {}\n", map[string]string{"a": "begun", "b": "kept {}", "c": "begun"}},
		"empty":                {"", map[string]string{"a": "begun", "b": "begun", "c": "begun"}},
		"without its head":     {"begun a\n", map[string]string{"a": "begun", "c": "begun"}},
		"zeros after a crash":  {head + "begun a\n\x00\x00\x00\x00\n", map[string]string{"a": "begun", "b": "begun", "c": "begun"}},
		"a kept of no JSON":    {head + "kept a {\nbegun b\n", map[string]string{"a": "begun", "b": "begun", "c": "begun"}},
		"a torn begun":         {head + "begun a\nbegun c", map[string]string{"a": "begun", "c": "unknown"}},
		"a torn kept":          {head + "begun a\nkept a {}", map[string]string{"a": "begun"}},
		"a torn done":          {head + "kept a {}\ndone a", map[string]string{"a": "kept {}"}},
		"a torn first line":    {"croft-jour", map[string]string{"a": "begun"}},
		"of a later version":   {"croft-journal 2 " + f.boot + "\n", map[string]string{"a": "begun"}},
		"forgotten by servers": {head + "begun x\nbegun a\n", map[string]string{"a": "begun", "x": "unknown"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(f.path, sessions, "sesn_1")
			must(t, os.WriteFile(path, []byte(tc.file), 0o600))
			j := session(t, f, "a", "b", "c")
			check := func(j *Journal) {
				t.Helper()
				for id, want := range tc.want {
					if got := verdict(j, id); got != want {
						t.Errorf("%s is %q, want %q", id, got, want)
					}
				}
			}
			check(j)
			// What was adopted is believed from now on, and calls that come are new.
			must(t, j.Start("new"))
			k := session(t, f, "a", "b", "c", "new", "newer")
			check(k)
			for id, want := range map[string]string{"new": "begun", "newer": "unknown"} {
				if got := verdict(k, id); got != want {
					t.Errorf("%s is %q, want %q", id, got, want)
				}
			}
			j.Drop()
		})
	}
}

// FuzzDecode holds the decoder to two things: what was accepted, written anew, says the
// same; and the file cut off anywhere says what had been written until then.
func FuzzDecode(f *testing.F) {
	head := title + "boot\n"
	f.Add([]byte(head+"begun a\nkept a {\"x\": 1}\nbegun b\ndone a\n"), 30)
	f.Add([]byte(head+"begun a\nkept b []\ndone a\nbegun"), 5)
	f.Add([]byte(title+"\x00\n\n\n"), 100)
	f.Add([]byte("begun a\n"), 3)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		r := decode(data)
		if !r.whole {
			return
		}
		again := []byte(title + r.boot + "\n")
		for id, kept := range r.calls {
			if kept == nil {
				again = appendLine(again, "begun", id, nil)
			} else {
				again = appendLine(again, "kept", id, kept)
			}
		}
		second := decode(again)
		if diff := cmp.Diff(r.calls, second.calls); diff != "" || !second.whole || second.torn || second.boot != r.boot {
			t.Errorf("written anew it says something else: %+v\n%s", second, diff)
		}
		if cut < r.head || cut >= len(data) {
			return
		}
		part := decode(data[:cut])
		end := bytes.LastIndexByte(data[:cut], '\n') + 1
		whole := decode(data[:end])
		if diff := cmp.Diff(whole.calls, part.calls); diff != "" || !part.whole || part.torn != (end != cut) {
			t.Errorf("cut at %d it says something else: %+v\n%s", cut, part, diff)
		}
	})
}
