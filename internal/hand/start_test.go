//go:build unix

package hand_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"croft/internal/hand"
	"croft/internal/sandbox"
)

// The hand runs before the rest of the program is initialised: none of the packages that
// take long, which this binary links for the oracle's sake, and nothing of ours that the
// small programs are not made of.
func TestStartsBeforeTheRest(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var stderr, stdout bytes.Buffer
	cmd := &exec.Cmd{
		Path:   self,
		Args:   []string{hand.Program},
		Env:    append(os.Environ(), "GODEBUG=inittrace=1"),
		Stdout: &stdout,
		Stderr: &stderr,
	}
	if err := cmd.Run(); err != nil { // its input ends at once
		t.Fatalf("%v\n%s", err, &stderr)
	}
	if !strings.Contains(stdout.String(), `"hello"`) {
		t.Errorf("it did not run as the hand: %q", &stdout)
	}
	before := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^init (\S+) @`).FindAllStringSubmatch(stderr.String(), -1) {
		before[m[1]] = true
		if strings.HasPrefix(m[1], "croft/") && !strings.HasPrefix(m[1], "croft/internal/hand") && !strings.HasPrefix(m[1], "croft/internal/sandbox/local/") {
			t.Errorf("%s is initialised before the hand", m[1])
		}
	}
	if !before["os"] {
		t.Fatalf("no trace of what is initialised before the hand:\n%s", &stderr)
	}
	for _, heavy := range []string{"net", "net/http", "crypto/tls", "crypto/x509", "github.com/anthropics/anthropic-sdk-go"} {
		if before[heavy] {
			t.Errorf("%s is initialised before the hand", heavy)
		}
	}
}

// The init that enters the hand is the only one of the project: any other would run before
// it, or be an effect that nobody sees.
func TestOnlyInit(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				found = append(found, path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || !strings.HasSuffix(found[0], filepath.FromSlash("/entry/entry.go")) {
		t.Errorf("functions named init in %q", found)
	}
}

// The drivers start the hand by the name that it looks for, and nothing else is taken for it.
func TestInvoked(t *testing.T) {
	for name, want := range map[string]bool{
		sandbox.HandProgram: true, "/opt/" + sandbox.HandProgram: true,
		"croft": false, "croft-handle": false, "": false,
	} {
		if got := hand.Invoked([]string{name}); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	if hand.Invoked(nil) {
		t.Error("no arguments at all")
	}
}
