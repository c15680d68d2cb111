package sandboxtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"croft/internal/sandbox"
)

func (s *suite) identity() {
	if s.driver.Name() == "" {
		s.Error("the driver has no name")
	}
	for _, c := range s.driver.Probe(s.ctx) {
		if c.Name == "" || c.Required && !c.OK && (c.Detail == "" || c.Fix == "") {
			s.Errorf("capability %+v lacks a name, or what was found and how to mend it", c)
		}
		if c.Required && !c.OK {
			s.Errorf("capability %+v is required and missing here", c)
		}
	}
	if b := s.create(sandbox.Spec{ID: "sesn_01abc-X"}); b.ID() != "sesn_01abc-X" {
		s.Errorf("ID is %q", b.ID())
	}
}

// streaming holds a talk with a program: each line comes back before the next is sent.
func (s *suite) streaming() {
	b := s.create(sandbox.Spec{})
	in, feed := io.Pipe()
	out, answer := io.Pipe()
	p := s.start(b, sandbox.Command{Args: []string{"cat"}, Stdin: in, Stdout: answer})
	stop := context.AfterFunc(s.ctx, func() { out.CloseWithError(s.ctx.Err()) })
	defer stop()
	for i := range 3 {
		want := fmt.Sprintf("line %d\n", i)
		if _, err := io.WriteString(feed, want); err != nil {
			s.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != want {
			s.Fatalf("got %q, error %v, want %q", got, err, want)
		}
	}
	feed.Close()
	if code, err := s.wait(p); code != 0 || err != nil {
		s.Errorf("exit code %d, error %v", code, err)
	}
}

func (s *suite) exitCodes() {
	b := s.create(sandbox.Spec{})
	for script, want := range map[string]int{
		"exit 0":        0,
		"exit 3":        3,
		"exit 255":      255,
		"kill -9 $$":    137,
		"kill -15 $$":   143,
		"kill -ABRT $$": 134,
	} {
		if _, code := s.run(b, sandbox.Command{Args: []string{"sh", "-c", script}}); code != want {
			s.Errorf("%s: exit code %d, want %d", script, code, want)
		}
	}
	p := s.start(b, sandbox.Command{Args: []string{"sh", "-c", "exit 4"}})
	for range 2 {
		if code, err := s.wait(p); code != 4 || err != nil {
			s.Errorf("Wait: exit code %d, error %v, want 4, again as the first time", code, err)
		}
	}
}

func (s *suite) streams() {
	b := s.create(sandbox.Spec{})
	var out, err2 bytes.Buffer
	p := s.start(b, sandbox.Command{Args: []string{"sh", "-c", "echo out; echo err >&2; cat"}, Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &err2})
	if code, err := s.wait(p); code != 0 || err != nil || out.String() != "out\nin\n" || err2.String() != "err\n" {
		s.Errorf("exit code %d, error %v, output %q, errors %q", code, err, &out, &err2)
	}
	var both bytes.Buffer
	p = s.start(b, sandbox.Command{Args: []string{"sh", "-c", "for i in 1 2 3; do echo o; echo e >&2; done"}, Stdout: &both, Stderr: &both})
	if code, err := s.wait(p); code != 0 || err != nil || both.String() != "o\ne\no\ne\no\ne\n" {
		s.Errorf("one writer for both: exit code %d, error %v, output %q", code, err, &both)
	}
	// None at all: input ends at once and output goes nowhere.
	if code, err := s.wait(s.start(b, sandbox.Command{Args: []string{"sh", "-c", "cat && echo x && echo y >&2"}})); code != 0 || err != nil {
		s.Errorf("without streams: exit code %d, error %v", code, err)
	}
	// A program that does not read leaves the caller's input alone.
	in, feed := io.Pipe()
	defer feed.Close()
	if code, err := s.wait(s.start(b, sandbox.Command{Args: []string{"true"}, Stdin: in})); code != 0 || err != nil {
		s.Errorf("with an input that never comes: exit code %d, error %v", code, err)
	}
	// What cannot be written is said.
	p = s.start(b, sandbox.Command{Args: []string{"echo", "x"}, Stdout: brokenWriter{}})
	if _, err := s.wait(p); !errors.Is(err, errBroken) {
		s.Errorf("a writer that fails: error %v, want its own", err)
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken writer")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func (s *suite) arguments() {
	b := s.create(sandbox.Spec{})
	args := []string{"zażółć gęślą jaźń", "", "a\nb", "日本語 🦀", "$HOME `id` \"'\\", "-n", strings.Repeat("x", 100_000)}
	out, code := s.run(b, sandbox.Command{Args: append([]string{"sh", "-c", `for a; do printf '<%s>' "$a"; done`, "sh"}, args...)})
	if want := "<" + strings.Join(args, "><") + ">"; out != want || code != 0 {
		s.Errorf("exit code %d, arguments came as %.200q", code, out)
	}
	if _, err := b.Start(s.ctx, sandbox.Command{}); err == nil {
		s.Error("a command without arguments was started")
	}
	if _, err := b.Start(s.ctx, sandbox.Command{Args: []string{"echo", "a\x00b"}}); err == nil {
		s.Error("an argument with a zero byte was taken")
	}
}

func (s *suite) environment() {
	b := s.create(sandbox.Spec{Env: map[string]string{"ONE": "spec", "TWO": "spec", "ŻÓŁĆ": "tak = tak"}})
	cmd := sandbox.Command{Args: []string{"env"}, Env: []string{"TWO=command", "THREE="}}
	out, _ := s.run(b, cmd)
	for _, want := range []string{"ONE=spec", "TWO=command", "THREE=", "ŻÓŁĆ=tak = tak"} {
		if !slices.Contains(lines(out), want) {
			s.Errorf("%s is not in the environment %q", want, out)
		}
	}
	for _, name := range []string{"PATH=/", "HOME=/"} {
		if !strings.Contains("\n"+out, "\n"+name) {
			s.Errorf("the environment lacks %s…: %q", name, out)
		}
	}
	s.Setenv("CROFT_SECRET_OF_THE_WORKER", "1")
	if out := s.sh(s.create(sandbox.Spec{ID: "second"}), "env"); strings.Contains(out, "CROFT_SECRET") {
		s.Errorf("the worker's environment came along: %q", out)
	}
}

func (s *suite) folders() {
	b := s.create(sandbox.Spec{})
	home := strings.TrimSpace(s.sh(b, "pwd"))
	if s.d.Root && home != sandbox.Workspace {
		s.Errorf("a program without a folder runs in %s", home)
	}
	s.sh(b, "mkdir -p sub && touch here")
	out, _ := s.run(b, sandbox.Command{Args: []string{"sh", "-c", "ls; pwd"}, Dir: sandbox.Workspace})
	if out != "here\nsub\n"+home+"\n" {
		s.Errorf("in %s: %q", sandbox.Workspace, out)
	}
	if out, _ := s.run(b, sandbox.Command{Args: []string{"pwd"}, Dir: sandbox.Workspace + "/sub"}); out != home+"/sub\n" {
		s.Errorf("in %s/sub: %q", sandbox.Workspace, out)
	}
	if out, code := s.run(b, sandbox.Command{Args: []string{"sh", "-c", "touch it && ls"}, Dir: sandbox.Outputs}); code != 0 || out != "it\n" {
		s.Errorf("in %s: exit code %d, %q", sandbox.Outputs, code, out)
	}
	if _, err := b.Start(s.ctx, sandbox.Command{Args: []string{"true"}, Dir: "/no/such"}); !errors.Is(err, fs.ErrNotExist) {
		s.Errorf("a folder that is missing: error %v, want fs.ErrNotExist", err)
	}
}

func (s *suite) unknownProgram() {
	b := s.create(sandbox.Spec{})
	for _, name := range []string{"no-such-program", "/no/such/program", "./no-such"} {
		_, err := b.Start(s.ctx, sandbox.Command{Args: []string{name}, Stdin: strings.NewReader("x"), Stdout: io.Discard})
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), name) {
			s.Errorf("%s: error %v, want fs.ErrNotExist and the name", name, err)
		}
	}
	s.sh(b, "echo hello > plain")
	if _, err := b.Start(s.ctx, sandbox.Command{Args: []string{"./plain"}}); !errors.Is(err, fs.ErrPermission) {
		s.Errorf("a file that is no program: error %v, want fs.ErrPermission", err)
	}
	if out := s.sh(b, "echo still here"); out != "still here\n" {
		s.Errorf("after that: %q", out)
	}
}

func (s *suite) hand() {
	b := s.create(sandbox.Spec{})
	var out bytes.Buffer
	p := s.start(b, sandbox.Command{Args: []string{sandbox.HandProgram}, Stdin: strings.NewReader("hello"), Stdout: &out})
	if code, err := s.wait(p); code != 0 || err != nil || out.String() != "hand:hello" {
		s.Errorf("exit code %d, error %v, output %q", code, err, &out)
	}
}

// large pushes 100 MB through a program, both ways at once.
func (s *suite) large() {
	const size = 100 << 20
	b := s.create(sandbox.Spec{})
	sent, received := sha256.New(), sha256.New()
	p := s.start(b, sandbox.Command{Args: []string{"cat"}, Stdin: io.TeeReader(io.LimitReader(&counter{}, size), sent), Stdout: received})
	if code, err := s.wait(p); code != 0 || err != nil {
		s.Fatalf("exit code %d, error %v", code, err)
	}
	if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		s.Error("what came back is not what was sent")
	}
}

// counter reads as bytes that repeat after a prime number of them.
type counter struct{ n int }

func (c *counter) Read(b []byte) (int, error) {
	for i := range b {
		c.n = (c.n + 1) % 251
		b[i] = byte(c.n)
	}
	return len(b), nil
}

func (s *suite) parallel() {
	b := s.create(sandbox.Spec{})
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			var out bytes.Buffer
			p, err := b.Start(s.ctx, sandbox.Command{Args: []string{"sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)}, Stdout: &out})
			if err != nil {
				s.Error(err)
				return
			}
			if code, err := p.Wait(); code != i || err != nil || out.String() != fmt.Sprintf("%d\n", i) {
				s.Errorf("program %d: exit code %d, error %v, output %q", i, code, err, &out)
			}
		})
	}
	all.Wait()
}

// leftBehind checks that Wait is for the program and not for what it started.
func (s *suite) leftBehind() {
	b := s.create(sandbox.Spec{})
	var out bytes.Buffer
	p := s.start(b, sandbox.Command{Args: []string{"sh", "-c", "sleep 1000 & head -c 200000 /dev/zero; echo end"}, Stdout: &out})
	if code, err := s.wait(p); code != 0 || err != nil || out.Len() != 200_004 {
		s.Errorf("exit code %d, error %v, %d bytes of output, want 200004", code, err, out.Len())
	}
	if err := p.Kill(); err != nil {
		s.Error(err)
	}
}

func (s *suite) kill() {
	b := s.create(sandbox.Spec{})
	other, _ := s.held(b, "echo ready; sleep 1000")
	p, r := s.held(b, "sleep 1000 & sleep 1000 & echo ready; wait")
	for range 2 {
		if err := p.Kill(); err != nil {
			s.Error(err)
		}
	}
	if code, err := s.wait(p); code != 137 || err != nil {
		s.Errorf("exit code %d, error %v, want 137", code, err)
	}
	s.released(r)
	if err := p.Kill(); err != nil {
		s.Errorf("killed again: %v", err)
	}
	if got := s.sh(b, "echo alive"); got != "alive\n" {
		s.Errorf("the sandbox says %q", got)
	}
	ended := make(chan struct{})
	go func() {
		other.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		s.Error("another program was killed too")
	case <-time.After(50 * time.Millisecond):
	}
	if err := other.Kill(); err != nil {
		s.Error(err)
	}
	<-ended
}

// detached starts processes that leave the program's group, session and parent.
const detached = "(setsid sh -c 'sleep 1000 & sleep 1000' &) ; setsid sleep 1000 & "

func (s *suite) killDetached() {
	b := s.create(sandbox.Spec{})
	p, r := s.held(b, detached+"sleep 0.1; echo ready; sleep 1000")
	if err := p.Kill(); err != nil {
		s.Error(err)
	}
	s.released(r)
	if code, err := s.wait(p); code != 137 || err != nil {
		s.Errorf("exit code %d, error %v, want 137", code, err)
	}
}

func (s *suite) killAfterExit() {
	b := s.create(sandbox.Spec{})
	p, r := s.held(b, detached+"sleep 0.1; echo ready")
	if code, err := s.wait(p); code != 0 || err != nil {
		s.Errorf("exit code %d, error %v", code, err)
	}
	if err := p.Kill(); err != nil {
		s.Error(err)
	}
	s.released(r)
}
