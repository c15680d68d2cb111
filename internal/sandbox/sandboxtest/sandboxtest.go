// Package sandboxtest is what every sandbox driver must pass. It owns the conformance suite
// over sandbox.Driver, for the tests of drivers and of nothing else, and imports the
// language and package sandbox. A driver's test calls Run with what the driver gives, and
// its TestMain calls Hand first, because the suite starts the test binary as the hand.
package sandboxtest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"croft/internal/sandbox"
)

// Driver is a driver under test and what of the optional it gives.
type Driver struct {
	// New makes the driver over a data folder.
	New func(t *testing.T, data string) sandbox.Driver
	// Root tells that sandboxes have a root of their own: /workspace is there, and the
	// host's files are not.
	Root bool
	// Mounts tells that Spec.Mounts is given.
	Mounts bool
	// Refused are the fields of a Spec that the driver cannot honour here, by their names
	// in an Unsupported error.
	Refused map[string]sandbox.Spec
}

// patience bounds every wait of the suite, so that a driver that hangs fails.
const patience = 30 * time.Second

// Hand makes this process, when it was started as the hand, a simple one: it writes
// "hand:" and then what it reads. Call it first in TestMain.
func Hand() {
	if filepath.Base(os.Args[0]) != sandbox.HandProgram {
		return
	}
	os.Stdout.WriteString("hand:")
	if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// Run runs the suite.
func Run(t *testing.T, d Driver) {
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"Identity", (*suite).identity},
		{"Streaming", (*suite).streaming},
		{"ExitCodes", (*suite).exitCodes},
		{"Streams", (*suite).streams},
		{"Arguments", (*suite).arguments},
		{"Environment", (*suite).environment},
		{"Folders", (*suite).folders},
		{"UnknownProgram", (*suite).unknownProgram},
		{"Hand", (*suite).hand},
		{"Large", (*suite).large},
		{"Parallel", (*suite).parallel},
		{"LeftBehind", (*suite).leftBehind},
		{"Kill", (*suite).kill},
		{"KillDetached", (*suite).killDetached},
		{"KillAfterExit", (*suite).killAfterExit},
		{"Destroy", (*suite).destroy},
		{"DestroyGrace", (*suite).destroyGrace},
		{"DestroyWhileRunning", (*suite).destroyWhileRunning},
		{"CancelledStart", (*suite).cancelledStart},
		{"Kept", (*suite).kept},
		{"GivenWorkspace", (*suite).givenWorkspace},
		{"Mounts", (*suite).mounts},
		{"MissingMount", (*suite).missingMount},
		{"Refusals", (*suite).refusals},
		{"Sweep", (*suite).sweep},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{T: t, d: d, data: t.TempDir()}
			var cancel context.CancelFunc
			s.ctx, cancel = context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			s.driver = d.New(t, s.data)
			test.run(s)
		})
	}
}

// suite is one test of the suite.
type suite struct {
	*testing.T
	d      Driver
	data   string
	driver sandbox.Driver
	ctx    context.Context
}

// create makes a sandbox that the test's end destroys.
func (s *suite) create(spec sandbox.Spec) sandbox.Sandbox {
	s.Helper()
	if spec.ID == "" {
		spec.ID = "sesn_test-1"
	}
	b, err := s.driver.Create(s.ctx, spec)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { s.end(b) })
	return b
}

func (s *suite) end(b sandbox.Sandbox) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.Destroy(ctx); err != nil {
		s.Error(err)
	}
}

func (s *suite) start(b sandbox.Sandbox, cmd sandbox.Command) sandbox.Process {
	s.Helper()
	p, err := b.Start(s.ctx, cmd)
	if err != nil {
		s.Fatal(err)
	}
	return p
}

// wait waits for a program within patience.
func (s *suite) wait(p sandbox.Process) (int, error) {
	s.Helper()
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := p.Wait()
		done <- result{code, err}
	}()
	select {
	case r := <-done:
		return r.code, r.err
	case <-time.After(patience):
		s.Fatal("Wait does not return")
		return 0, nil
	}
}

// sh runs a script and returns what it wrote; another exit code than 0 fails the test.
func (s *suite) sh(b sandbox.Sandbox, script string) string {
	s.Helper()
	out, code := s.run(b, sandbox.Command{Args: []string{"sh", "-c", script}})
	if code != 0 {
		s.Fatalf("%s: exit code %d: %s", script, code, out)
	}
	return out
}

// run runs a program and returns its output, both streams together, and its exit code.
func (s *suite) run(b sandbox.Sandbox, cmd sandbox.Command) (string, int) {
	s.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	code, err := s.wait(s.start(b, cmd))
	if err != nil {
		s.Fatal(err)
	}
	return out.String(), code
}

// held starts a script whose standard output is a pipe that everything it starts keeps
// open, and returns once the script has written the line "ready".
func (s *suite) held(b sandbox.Sandbox, script string) (sandbox.Process, *os.File) {
	s.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { r.Close() })
	p := s.start(b, sandbox.Command{Args: []string{"sh", "-c", script}, Stdout: w})
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.Fatal(err)
	}
	line, err := bufio.NewReaderSize(io.LimitReader(r, 6), 16).ReadString('\n')
	if line != "ready\n" {
		s.Fatalf("the script wrote %q, error %v", line, err)
	}
	return p, r
}

// released checks that nothing holds the pipe of held any more.
func (s *suite) released(r *os.File) {
	s.Helper()
	if rest, err := io.ReadAll(r); err != nil {
		s.Errorf("a program still runs: its output stays open (%q, %v)", rest, err)
	}
}

// isUnsupported checks a refusal.
func (s *suite) isUnsupported(err error, field string) {
	s.Helper()
	var u *sandbox.Unsupported
	if !errors.As(err, &u) || u.Field != field || u.Driver != s.driver.Name() || u.Reason == "" {
		s.Errorf("a spec with %s: error %v, want an Unsupported that names driver, field and reason", field, err)
	}
}

// lines splits output.
func lines(out string) []string { return strings.Split(strings.TrimSuffix(out, "\n"), "\n") }
