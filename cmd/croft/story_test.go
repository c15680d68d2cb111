package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"croft"
	"croft/internal/config"
	"croft/internal/server"
	"croft/internal/term"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"croft": main})
}

// TestStories runs the command as people do, each story in an empty home. Where this host
// cannot make sandboxes the stories run without them, and say so.
func TestStories(t *testing.T) {
	driver := "local"
	if why := noSandbox(t); why != "" {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this host cannot make sandboxes: %s (see croft doctor)", why)
		}
		t.Logf("this host cannot make sandboxes, so the stories run with --driver none: %s (see croft doctor)", why)
		driver = "none"
	}
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			if err := os.Mkdir(home, 0o700); err != nil {
				return err
			}
			e.Setenv("HOME", home)
			e.Setenv("DATA", filepath.Join(home, ".local", "share", "croft"))
			e.Setenv("EXAMPLES", examples)
			e.Setenv("CROFT_DRIVER", driver)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "sandbox":
				return driver == "local", nil
			case "root":
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":    cmdCode,
			"capture": cmdCapture,
			"ready":   cmdReady,
			"await":   cmdAwait,
			"busy":    cmdBusy,
			"hold":    cmdHold,
		},
	})
}

// noSandbox says why this host cannot make sandboxes, or "".
func noSandbox(t *testing.T) string {
	d, err := server.NewDriver(&config.Config{Data: t.TempDir(), Driver: server.DriverLocal}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err.Error()
	}
	for _, c := range d.Probe(context.Background()) {
		if c.Required && !c.OK {
			return c.Name + ": " + c.Detail
		}
	}
	return ""
}

// cmdCode runs a command and compares its exit code: code 3 croft run …
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command args…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Exec returns it bare
		got = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want := args[0]; fmt.Sprint(got) != want {
		ts.Fatalf("exit code %d, want %s", got, want)
	}
}

// cmdCapture sets a variable to the first group of a pattern in what the last command, or a
// file, said: capture NAME stdout|stderr|FILE PATTERN.
func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: capture NAME stdout|stderr|FILE PATTERN")
	}
	m := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if m == nil {
		ts.Fatalf("%s does not match %s", args[1], args[2])
	}
	ts.Setenv(args[0], m[len(m)-1])
}

// eventually tries until fn is done, for at most 30 s.
func eventually(ts *testscript.TestScript, what string, fn func() bool) {
	for until := time.Now().Add(30 * time.Second); !fn(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			ts.Fatalf("waited 30 s for %s", what)
		}
	}
}

// cmdReady waits until a server of a data folder serves: ready DATA. It sets URL.
func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready DATA")
	}
	eventually(ts, "a server of "+args[0], func() bool {
		st, err := server.FindRunning(context.Background(), args[0])
		if err != nil || st == nil {
			return false
		}
		resp, err := http.Get(st.Address + "/readyz")
		if err != nil {
			return false
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		ts.Setenv("URL", st.Address)
		return resp.StatusCode == http.StatusOK
	})
}

// cmdAwait waits until a file holds a pattern: await FILE PATTERN.
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE PATTERN")
	}
	re := regexp.MustCompile(args[1])
	path := ts.MkAbs(args[0])
	eventually(ts, path+" to hold "+args[1], func() bool {
		text, err := os.ReadFile(path)
		return err == nil && re.Match(text)
	})
}

// cmdBusy waits until a tool call of the newest session of a data folder's server is under
// way: busy DATA. It sets ID to the session's.
func cmdBusy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: busy DATA")
	}
	cmdReady(ts, false, args)
	key, err := server.ReadAPIKey(args[0])
	if err != nil {
		ts.Fatalf("%v", err)
	}
	c, err := dial(ts.Getenv("URL"), key, nil)
	if err != nil {
		ts.Fatalf("%v", err)
	}
	ctx := context.Background()
	eventually(ts, "a tool call under way", func() bool {
		id, open := "", 0
		err := pages(ctx, c, "/v1/sessions?limit=1", func(s croft.Session) error {
			id = s.ID
			return io.EOF
		})
		if err != nil || id == "" {
			return false
		}
		err = pages(ctx, c, "/v1/sessions/"+id+"/events?limit=1000", func(e term.Event) error {
			switch e.Type {
			case croft.AgentToolUse:
				open++
			case croft.AgentToolResult:
				open--
			}
			return nil
		})
		ts.Setenv("ID", id)
		return err == nil && open > 0
	})
}

// cmdHold opens a data folder's database in the test's own process, as another program
// would, until the story ends: hold DATA.
func cmdHold(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hold DATA")
	}
	s, err := server.Start(context.Background(), server.Options{Config: &config.Config{Data: args[0], DatabaseURL: "sqlite:" + filepath.Join(args[0], "croft.db")}, Role: server.Passive})
	if err != nil {
		ts.Fatalf("%v", err)
	}
	ts.Defer(func() { s.Stop(context.Background()) })
}

// heavy are packages whose initialisation, or that of what they import, takes the
// milliseconds that the small programs must not wait for. Packages that import next to
// nothing may come before them: the order is by what is ready, then by path.
var heavy = map[string]bool{"net/http": true, "crypto/tls": true, "modernc.org/sqlite": true, "modernc.org/sqlite/lib": true,
	"github.com/jackc/pgx/v5": true, "github.com/anthropics/anthropic-sdk-go": true, "github.com/spf13/cobra": true, "main": true}

// TestSmallPrograms holds what makes a sandbox quick to start: under the names of the small
// programs the binary ends before the rest of it is initialised.
func TestSmallPrograms(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Logf("the small programs are Linux's alone; this is %s", runtime.GOOS)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"croft-hand", "croft-sandbox-init"} {
		cmd := exec.Command(self)
		cmd.Args = []string{"/some/where/" + name}
		cmd.Env = []string{"GODEBUG=inittrace=1"}
		var trace strings.Builder
		cmd.Stderr = &trace
		cmd.Run() // without a request each ends with an error of its own
		for line := range strings.Lines(trace.String()) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "init" {
				continue
			}
			ours := strings.HasPrefix(f[1], "croft/") && !strings.HasPrefix(f[1], "croft/internal/hand") && !strings.HasPrefix(f[1], "croft/internal/sandbox/local/")
			if ours || heavy[f[1]] {
				t.Errorf("%s: %s is initialised before the small program", name, f[1])
			}
		}
		if !strings.Contains(trace.String(), "init os ") {
			t.Errorf("%s: no trace of initialisation:\n%s", name, trace.String())
		}
	}
}
