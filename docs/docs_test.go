//go:build unix

package docs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"croft/internal/config"
)

// root is the repository, seen from this folder.
const root = ".."

// atMost is how long one block may run.
const atMost = 3 * time.Minute

// build builds croft and returns the folder that it lies in.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "croft"), "./cmd/croft")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building croft: %v\n%s", err, out)
	}
	return dir
}

// block is a fenced block of a page.
type block struct {
	page string
	line int
	text string
}

var fence = regexp.MustCompile("^\\s*```\\s*([a-z]*)\\s*$")

// blocks returns a page's blocks that are marked with word.
func blocks(t *testing.T, page, word string) []block {
	t.Helper()
	var list []block
	var open *block
	inside := false
	for i, line := range strings.Split(read(t, page), "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m == nil && open != nil:
			open.text += line + "\n"
		case m == nil:
		case inside:
			if open != nil {
				list = append(list, *open)
			}
			inside, open = false, nil
		default:
			inside = true
			if m[1] == word {
				open = &block{page: page, line: i + 2}
			}
		}
	}
	if inside {
		t.Errorf("%s: a fence is not closed", page)
	}
	return list
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// pages lists the repository's pages, or those in this folder and the README alone.
func pages(t *testing.T, all bool) []string {
	t.Helper()
	if !all {
		list, err := filepath.Glob("*.md")
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			list[i] = "docs/" + list[i]
		}
		return append(list, "README.md")
	}
	return files(t, ".md")
}

// files lists the repository's files whose names end so, without hidden folders.
func files(t *testing.T, end string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && rel != "." {
			return fs.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(rel, end) {
			list = append(list, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestCommands runs what the pages say can be run.
func TestCommands(t *testing.T) {
	dir := build(t)
	if why := noSandbox(t, dir); why != "" {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this host cannot make sandboxes: %s", why)
		}
		t.Skipf("the commands need sandboxes, which this host cannot make: %s (see croft doctor)", why)
	}
	env := environment(t, dir)
	for _, page := range pages(t, false) {
		for _, b := range blocks(t, page, "sh") {
			t.Run(fmt.Sprintf("%s:%d", filepath.Base(b.page), b.line), func(t *testing.T) { b.run(t, env) })
		}
	}
}

// environment is what every block finds, beside its home: nothing of the person's who runs
// the test but where Go keeps what it has downloaded and built.
func environment(t *testing.T, bin string) []string {
	t.Helper()
	out, err := exec.Command("go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOFLAGS", "GOSUMDB", "GOTOOLCHAIN").Output()
	if err != nil {
		t.Fatal(err)
	}
	var golang map[string]string
	if err := json.Unmarshal(out, &golang); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"), "LANG=C.UTF-8", "TERM=dumb",
		// A port that is free, since another Croft may serve on the usual one.
		"CROFT_LISTEN=127.0.0.1:0"}
	for k, v := range golang {
		env = append(env, k+"="+v)
	}
	return env
}

// run runs the block and shows what it wrote when it fails.
func (b *block) run(t *testing.T, env []string) {
	home := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), atMost)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-eu", "-s")
	cmd.Stdin = strings.NewReader(b.text)
	cmd.Dir = root
	cmd.Env = append(env[:len(env):len(env)], "HOME="+home, "TMPDIR="+home, "CROFT_DATA="+filepath.Join(home, ".local", "share", "croft"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// What a block leaves behind holds its output open.
	cmd.WaitDelay = 5 * time.Second
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if cmd.Process != nil && left(cmd.Process.Pid) {
		t.Errorf("%s:%d: the block leaves a process running", b.page, b.line)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // said above
	}
	if err != nil {
		t.Errorf("%s:%d: %v\n%s\n--- it wrote:\n%s", b.page, b.line, err, b.text, out.String())
	}
}

// left tells whether anything of a process group is still there a moment after its leader has
// ended, and ends it.
func left(group int) bool {
	for range 50 {
		if syscall.Kill(-group, 0) != nil {
			return false
		}
		time.Sleep(100 * time.Millisecond)
	}
	return syscall.Kill(-group, syscall.SIGKILL) == nil
}

// noSandbox says why this host cannot make sandboxes, or "".
func noSandbox(t *testing.T, bin string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "croft"), "doctor", "--json", "--data", t.TempDir())
	out, err := cmd.Output()
	if err != nil && len(out) == 0 {
		t.Fatalf("croft doctor: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		var f struct{ Name, State, Detail string }
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("croft doctor --json wrote %q: %v", line, err)
		}
		if f.State == "fail" && strings.HasPrefix(f.Name, "sandbox") {
			return f.Name + ": " + f.Detail
		}
	}
	return ""
}

var link = regexp.MustCompile(`\]\(([^()\s]+)\)`)

// TestLinks follows the relative links of every page.
func TestLinks(t *testing.T) {
	for _, page := range pages(t, true) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			to, _, _ := strings.Cut(m[1], "#")
			if to == "" || strings.Contains(to, ":") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page), to)); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", page, m[1])
			}
		}
	}
}

// TestTables compares the tables that repeat the code with the code.
func TestTables(t *testing.T) {
	has := func(page, what string) {
		t.Helper()
		if !strings.Contains(read(t, page), what) {
			t.Errorf("%s does not tell of %s", page, what)
		}
	}
	for _, s := range config.Settings() {
		for _, name := range []string{s.Name, s.Flag, s.Variable} {
			if name != "" {
				has("docs/configuration.md", "`"+name+"`")
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)\{path: "([A-Z]+ /[^"]*)"`).FindAllStringSubmatch(read(t, "internal/api/routes.go"), -1) {
		has("docs/api.md", m[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^\s+(?:require )?(\S+) v\S+$`).FindAllStringSubmatch(read(t, "go.mod"), -1) {
		has("docs/dependencies.md", m[1])
	}
	fuzz := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	for _, file := range files(t, "_test.go") {
		for _, m := range fuzz.FindAllStringSubmatch(read(t, file), -1) {
			has("docs/proofs.md", fmt.Sprintf("| `./%s` | `%s`", filepath.Dir(file), m[1]))
		}
	}
}
