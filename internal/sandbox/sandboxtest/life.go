package sandboxtest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"croft"
	"croft/internal/sandbox"
)

func (s *suite) destroy() {
	b := s.create(sandbox.Spec{})
	_, r := s.held(b, detached+"sleep 0.1; echo ready; sleep 1000")
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { s.end(b) })
	}
	both.Wait()
	s.end(b)
	s.released(r)
	if _, err := b.Start(s.ctx, sandbox.Command{Args: []string{"true"}}); !errors.Is(err, sandbox.ErrGone) {
		s.Errorf("Start after Destroy: error %v, want ErrGone", err)
	}
}

// destroyGrace checks that a program that ends with its input may do so.
func (s *suite) destroyGrace() {
	b := s.create(sandbox.Spec{})
	in, feed := io.Pipe()
	defer feed.Close()
	r, w, err := os.Pipe()
	if err != nil {
		s.Fatal(err)
	}
	defer r.Close()
	p := s.start(b, sandbox.Command{Args: []string{"sh", "-c", "echo ready; cat; echo orderly > end; exit 7"}, Stdin: in, Stdout: w})
	w.Close()
	if _, err := io.ReadFull(r, make([]byte, 6)); err != nil {
		s.Fatal(err)
	}
	s.end(b)
	if code, err := s.wait(p); code != 7 || err != nil {
		s.Errorf("exit code %d, error %v, want 7", code, err)
	}
	if got := s.sh(s.create(sandbox.Spec{}), "cat end"); got != "orderly\n" {
		s.Errorf("it left %q", got)
	}
}

func (s *suite) destroyWhileRunning() {
	b := s.create(sandbox.Spec{})
	p, _ := s.held(b, "echo ready; sleep 1000")
	var starts sync.WaitGroup
	for range 8 {
		starts.Go(func() {
			for {
				p, err := b.Start(s.ctx, sandbox.Command{Args: []string{"true"}})
				if err != nil {
					if !errors.Is(err, sandbox.ErrGone) {
						s.Errorf("Start while it is destroyed: error %v, want ErrGone", err)
					}
					return
				}
				if _, err := p.Wait(); err != nil && !errors.Is(err, sandbox.ErrGone) {
					s.Errorf("Wait while it is destroyed: error %v, want ErrGone", err)
				}
			}
		})
	}
	s.end(b)
	starts.Wait()
	if _, err := s.wait(p); !errors.Is(err, sandbox.ErrGone) {
		s.Errorf("Wait for a program that Destroy ended: error %v, want ErrGone", err)
	}
	if err := p.Kill(); err != nil {
		s.Errorf("Kill after Destroy: %v", err)
	}
}

func (s *suite) cancelledStart() {
	b := s.create(sandbox.Spec{})
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	if p, err := b.Start(ctx, sandbox.Command{Args: []string{"sleep", "1000"}, Stdin: strings.NewReader("x"), Stdout: io.Discard}); err == nil {
		// It was quicker than the look at the context, and so it runs.
		if err := p.Kill(); err != nil {
			s.Error(err)
		}
	}
	if got := s.sh(b, "echo alive"); got != "alive\n" {
		s.Errorf("the sandbox says %q", got)
	}
}

func (s *suite) kept() {
	b := s.create(sandbox.Spec{ID: "first"})
	s.sh(b, "echo kept > file; mkdir -p closed/deep; touch closed/deep/x; chmod 0 closed/deep closed")
	if _, err := s.driver.Create(s.ctx, sandbox.Spec{ID: "first"}); err == nil {
		s.Error("a second sandbox with the id of a live one was made")
	}
	if err := s.driver.Remove(s.ctx, "first"); err == nil {
		s.Error("the workspace of a live sandbox was removed")
	}
	if got := s.sh(s.create(sandbox.Spec{ID: "second"}), "ls"); got != "" {
		s.Errorf("another sandbox's workspace holds %q", got)
	}
	s.end(b)
	again := s.create(sandbox.Spec{ID: "first"})
	if got := s.sh(again, "cat file"); got != "kept\n" {
		s.Errorf("the workspace holds %q", got)
	}
	s.end(again)
	for range 2 {
		if err := s.driver.Remove(s.ctx, "first"); err != nil {
			s.Error(err)
		}
	}
	if got := s.sh(s.create(sandbox.Spec{ID: "first"}), "ls"); got != "" {
		s.Errorf("after Remove the workspace holds %q", got)
	}
	for _, id := range []string{"", "..", "a/b", "a b", strings.Repeat("x", 65)} {
		if _, err := s.driver.Create(s.ctx, sandbox.Spec{ID: id}); err == nil {
			s.Errorf("a sandbox with the id %q was made", id)
		}
		if err := s.driver.Remove(s.ctx, id); err == nil {
			s.Errorf("Remove took the id %q", id)
		}
	}
}

func (s *suite) givenWorkspace() {
	dir := s.hostFolder()
	b := s.create(sandbox.Spec{Workspace: dir})
	s.sh(b, "cat given > made; mkdir sub")
	st, err := os.Stat(filepath.Join(dir, "made"))
	if err != nil {
		s.Fatal(err)
	}
	whole, err := os.Stat(dir)
	if err != nil {
		s.Fatal(err)
	}
	if !sameOwner(st, whole) {
		s.Error("a file made inside does not belong to the folder's owner")
	}
	if err := os.RemoveAll(filepath.Join(dir, "sub")); err != nil {
		s.Error(err)
	}
	for _, missing := range []string{filepath.Join(dir, "missing"), filepath.Join(dir, "given")} {
		_, err := s.driver.Create(s.ctx, sandbox.Spec{ID: "other", Workspace: missing})
		if err == nil || !strings.Contains(err.Error(), missing) {
			s.Errorf("workspace %s: error %v, want one that names it", missing, err)
		}
	}
}

// hostFolder makes a folder of the host with a file "given" in it.
func (s *suite) hostFolder() string {
	s.Helper()
	dir := s.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "given"), []byte("host\n"), 0o600); err != nil {
		s.Fatal(err)
	}
	return dir
}

func (s *suite) mounts() {
	ro, rw := s.hostFolder(), s.hostFolder()
	file := filepath.Join(s.hostFolder(), "given")
	spec := sandbox.Spec{Mounts: []croft.Mount{
		{Host: ro, Path: "/mnt/ro", ReadOnly: true},
		{Host: rw, Path: "/workspace/deep/rw"},
		{Host: file, Path: "/home/agent/one file", ReadOnly: true},
	}}
	if !s.d.Mounts {
		_, err := s.driver.Create(s.ctx, sandbox.Spec{ID: "x", Mounts: spec.Mounts})
		s.isUnsupported(err, "mounts")
		return
	}
	b := s.create(spec)
	if got := s.sh(b, "cat /mnt/ro/given /workspace/deep/rw/given '/home/agent/one file'"); got != "host\nhost\nhost\n" {
		s.Errorf("mounted files hold %q", got)
	}
	for _, write := range []string{"touch /mnt/ro/x", "rm /mnt/ro/given", "echo x > '/home/agent/one file'"} {
		if out, code := s.run(b, sandbox.Command{Args: []string{"sh", "-c", write}}); code == 0 {
			s.Errorf("%s: done (%s), want a refusal", write, out)
		}
	}
	s.sh(b, "echo inside > /workspace/deep/rw/made; echo more >> /workspace/deep/rw/given")
	for name, want := range map[string]string{"made": "inside\n", "given": "host\nmore\n"} {
		if got, err := os.ReadFile(filepath.Join(rw, name)); err != nil || string(got) != want {
			s.Errorf("%s on the host: %q, error %v, want %q", name, got, err, want)
		}
	}
}

func (s *suite) missingMount() {
	if !s.d.Mounts {
		return
	}
	host := filepath.Join(s.TempDir(), "missing")
	_, err := s.driver.Create(s.ctx, sandbox.Spec{ID: "x", Mounts: []croft.Mount{{Host: host, Path: "/mnt/gone"}}})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/mnt/gone") || !strings.Contains(err.Error(), host) {
		s.Errorf("error %v, want fs.ErrNotExist, the path inside and the host's", err)
	}
	for _, path := range []string{"", "/", "relative", "/a/../b", "/proc", "/proc/self", "/dev/x"} {
		if _, err := s.driver.Create(s.ctx, sandbox.Spec{ID: "x", Mounts: []croft.Mount{{Host: s.TempDir(), Path: path}}}); err == nil {
			s.Errorf("a mount at %q was taken", path)
		}
	}
	s.sh(s.create(sandbox.Spec{ID: "x"}), "true") // the id is free again
}

func (s *suite) refusals() {
	for field, spec := range s.d.Refused {
		spec.ID = "refused"
		_, err := s.driver.Create(s.ctx, spec)
		s.isUnsupported(err, field)
	}
	s.sh(s.create(sandbox.Spec{ID: "refused"}), "true")
}

// sweep checks that live sandboxes are left alone, by their own driver and by another over
// the same folder.
func (s *suite) sweep() {
	b := s.create(sandbox.Spec{})
	for _, d := range []sandbox.Driver{s.driver, s.d.New(s.T, s.data)} {
		if ids, err := d.Sweep(s.ctx); err != nil || len(ids) != 0 {
			s.Errorf("Sweep removed %q, error %v, want none", ids, err)
		}
	}
	if got := s.sh(b, "echo alive"); got != "alive\n" {
		s.Errorf("the sandbox says %q", got)
	}
}
