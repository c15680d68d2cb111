// Package internal holds no code: its test keeps the direction of imports.
package internal

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Deps       []string
	Standard   bool
}

func packages(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,Deps,Standard"}, args...)...)
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// under tells whether path is root or lies below it.
func under(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

func TestForbiddenImports(t *testing.T) {
	edges := []struct{ from, to, why string }{
		{"croft/internal/hand", "croft/internal/model", "the hand runs inside a sandbox and starts in milliseconds"},
		{"croft/internal/hand", "croft/internal/store", "the hand runs inside a sandbox"},
		{"croft/internal/hand", "croft/internal/client", "the hand holds no credential and knows no server"},
		{"croft/internal/hand", "net/http", "the hand starts in milliseconds"},
		{"croft/internal/worker", "croft/internal/store", "a worker may run on somebody else's machine: it knows the API alone"},
		{"croft/internal/worker", "croft/internal/session", "a worker knows the API alone"},
		{"croft/internal/worker", "croft/internal/work", "a worker knows the API alone"},
		{"croft/internal/worker", "croft/internal/brain", "a worker knows the API alone"},
		{"croft/internal/worker", "croft/internal/model", "a worker has no business with models"},
		{"croft/internal/brain", "croft/internal/sandbox", "the brain is decoupled from the hands"},
		{"croft/internal/brain", "croft/internal/worker", "the brain is decoupled from the hands"},
		{"croft/internal/brain", "croft/internal/api", "api and brain share the log and a wake"},
		{"croft/internal/api", "croft/internal/brain", "api and brain share the log and a wake"},
		{"croft/internal/session", "croft/internal/brain", "the log calls the brain through Runner"},
		{"croft/internal/session", "croft/internal/api", "imports go down"},
		{"croft/internal/store", "croft/internal/session", "imports go down"},
		{"croft/internal/work", "croft/internal/session", "the queue calls the log through work.Sessions"},
		{"croft/internal/agents", "croft/internal/session", "nouns do not know the log"},
		{"croft/internal/sandbox/local", "croft/internal/sandbox/none", "drivers do not know one another"},
		{"croft/internal/sandbox/none", "croft/internal/sandbox/local", "drivers do not know one another"},
		{"croft/internal/model/anthropic", "croft/internal/model/openai", "providers do not know one another"},
		{"croft/internal/model/openai", "croft/internal/model/anthropic", "providers do not know one another"},
		{"croft/cmd/croft", "testing", "what is linked into croft holds no test code"},
	}
	all := packages(t, "./...")
	for _, p := range all {
		for _, e := range edges {
			if !under(p.ImportPath, e.from) {
				continue
			}
			for _, d := range p.Deps {
				if under(d, e.to) {
					t.Errorf("%s imports %s: %s", p.ImportPath, d, e.why)
				}
			}
		}
		if p.ImportPath == "croft" {
			for _, d := range p.Deps {
				if strings.Contains(strings.Split(d, "/")[0], ".") || strings.HasPrefix(d, "croft/") {
					t.Errorf("the language imports %s: it imports the standard library alone", d)
				}
			}
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range packages(t, "./...") {
		if len(p.GoFiles) == 0 {
			continue
		}
		doc := false
		for _, f := range p.GoFiles {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			doc = doc || parsed.Doc != nil
		}
		if !doc {
			t.Errorf("package %s has no comment that says what it owns", p.ImportPath)
		}
	}
}
