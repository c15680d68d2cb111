//go:build linux && (amd64 || arm64)

package local

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"croft/internal/sandbox"
)

func clearCloseOnExec(t *testing.T, f *os.File) {
	t.Helper()
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
}

// workerName starts the test binary as a worker that is there to be killed.
const workerName = "croft-test-worker"

// brood is what that worker says of the sandboxes that it made.
type brood struct {
	PIDs []int
	Dirs []string // of cgroups
}

// worker makes sandboxes below the folder that it is given, some with limits, each with
// programs that run, says so, and waits for its end.
func worker() {
	d, err := New(Options{Data: os.Args[1]})
	if err != nil {
		panic(err)
	}
	var said brood
	for i := range 3 {
		spec := sandbox.Spec{ID: fmt.Sprintf("w%d", i)}
		if i > 0 && d.cgroups.available("memory") == nil && d.cgroups.available("cpu") == nil {
			spec.MemoryMB, spec.CPUs = 128, 1
		}
		b, err := d.Create(context.Background(), spec)
		if err != nil {
			panic(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			panic(err)
		}
		p, err := b.Start(context.Background(), sandbox.Command{
			Args: []string{"sh", "-c", "echo kept > file; echo ready; setsid sleep 1000 & sleep 1000"}, Stdout: w,
		})
		if err != nil {
			panic(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 6)); err != nil {
			panic(err)
		}
		go p.Wait()
		said.PIDs = append(said.PIDs, b.(*box).proc.Pid)
		said.Dirs = append(said.Dirs, b.(*box).group.dirs...)
	}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		panic(err)
	}
	select {}
}

// TestWorkerKilled kills a worker with its sandboxes and looks for what is left.
func TestWorkerKilled(t *testing.T) {
	data := t.TempDir()
	d := newDriver(t, Options{Data: data})
	need(t, d)
	before := mounts(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{workerName, data}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	var said brood
	if err == nil {
		err = json.Unmarshal(line, &said)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(t.Context(), sandbox.Spec{ID: "w1"}); err == nil {
		t.Error("a second worker made a sandbox with a live one's id")
	}
	if ids, err := d.Sweep(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("while the worker lives Sweep removed %q, error %v", ids, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for _, pid := range said.PIDs {
		awaitEnd(t, pid)
	}
	// One is made again without a Sweep before it.
	again := sandbox.Spec{ID: "w2"}
	if len(said.Dirs) > 0 {
		again.MemoryMB, again.CPUs = 128, 1
	}
	sh(t, newBox(t, d, again), "test -f file")
	ids, err := d.Sweep(t.Context())
	if err != nil {
		t.Error(err)
	}
	slices.Sort(ids)
	if diff := cmp.Diff([]string{"w0", "w1"}, ids); diff != "" {
		t.Errorf("Sweep: %s", diff)
	}
	if ids, err := d.Sweep(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("a second Sweep removed %q, error %v", ids, err)
	}
	for _, dir := range said.Dirs {
		if strings.HasSuffix(dir, "w2") {
			continue
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cgroup %s is left: %v", dir, err)
		}
	}
	if diff := cmp.Diff(before, mounts(t)); diff != "" {
		t.Errorf("mounts are left: %s", diff)
	}
	// The workspace is kept, and the id can be used again.
	if out := sh(t, newBox(t, d, sandbox.Spec{ID: "w0"}), "cat file"); out != "kept\n" {
		t.Errorf("the workspace holds %q", out)
	}
}

// awaitEnd waits until no process with this number is a living sandbox's first.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || !strings.Contains(string(b), "croft") || strings.Contains(string(b), "State:\tZ") {
			return
		}
	}
	t.Errorf("process %d is left", pid)
}

// TestSweepKills removes a sandbox whose first process outlived its worker, which it does
// only if something held it up.
func TestSweepKills(t *testing.T) {
	d := newDriver(t, Options{})
	stuck := exec.Command("sleep", "1000")
	if err := stuck.Start(); err != nil {
		t.Fatal(err)
	}
	innocent := exec.Command("cat")
	in, err := innocent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := innocent.Start(); err != nil {
		t.Fatal(err)
	}
	for id, tr := range map[string]func() traces{
		"stuck": func() traces {
			began, err := processBegan(stuck.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			return traces{PID: stuck.Process.Pid, Began: began}
		},
		"reused":  func() traces { return traces{PID: innocent.Process.Pid, Began: "1"} },
		"halfway": nil,
	} {
		if _, err := d.keep(id, "workspace"); err != nil {
			t.Fatal(err)
		}
		c, err := d.claim(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if tr != nil {
			if err := c.write(tr()); err != nil {
				t.Fatal(err)
			}
		}
		c.file.Close() // as the worker's death does
	}
	ids, err := d.Sweep(t.Context())
	slices.Sort(ids)
	if diff := cmp.Diff([]string{"halfway", "reused", "stuck"}, ids); diff != "" || err != nil {
		t.Errorf("Sweep: error %v, %s", err, diff)
	}
	var exit *exec.ExitError
	if err := stuck.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the stuck process: %v, want killed", err)
	}
	in.Close()
	if err := innocent.Wait(); err != nil {
		t.Errorf("a process that took the number over: %v, want left alone", err)
	}
}

func mounts(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}

// inventory lists what sandboxes could leave behind in this process and on this host.
func inventory(t *testing.T, d *Driver) map[string][]string {
	t.Helper()
	names := func(dir string) []string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, e := range entries {
			if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
				list = append(list, to)
			}
		}
		slices.Sort(list)
		return list
	}
	inv := map[string][]string{"mounts": mounts(t), "descriptors": names("/proc/self/fd")}
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err == nil {
		inv["children"] = strings.Fields(string(children))
	}
	for c, p := range d.cgroups.parents {
		groups, err := filepath.Glob(filepath.Join(p.dir, d.groupName("*")))
		if err != nil {
			t.Fatal(err)
		}
		inv["cgroups "+c] = groups
	}
	for i := range inv["descriptors"] {
		// Pipes and sockets have numbers of their own; what counts is how many.
		inv["descriptors"][i], _, _ = strings.Cut(inv["descriptors"][i], "[")
	}
	return inv
}

func TestNothingLeaks(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	limited := d.cgroups.available("memory") == nil
	cycle := func(i int) {
		spec := sandbox.Spec{ID: fmt.Sprintf("c%d", i%5)}
		if limited && i%10 == 0 {
			spec.MemoryMB = 64
		}
		b, err := d.Create(context.Background(), spec)
		if err != nil {
			t.Fatal(err)
		}
		in, feed := io.Pipe()
		p, err := b.Start(context.Background(), sandbox.Command{Args: []string{"cat"}, Stdin: in, Stdout: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			feed.Close()
			if _, err := p.Wait(); err != nil {
				t.Error(err)
			}
		}
		if err := b.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
		p.Wait()
		feed.Close()
	}
	cycle(0) // opens what the driver keeps
	before, goroutines := inventory(t, d), runtime.NumGoroutine()
	cycles := 100
	if testing.Short() {
		cycles = 20
	}
	for i := range cycles {
		cycle(i)
	}
	for wait := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines && time.Now().Before(wait); {
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
	for kind, list := range inventory(t, d) {
		// Less is no leak: the collector closes what drivers of other tests held.
		for _, was := range before[kind] {
			if i := slices.Index(list, was); i >= 0 {
				list = slices.Delete(list, i, i+1)
			}
		}
		if len(list) > 0 {
			t.Errorf("%s left behind: %q", kind, list)
		}
	}
}

// TestReplacedBinary makes sandboxes after the binary's file was replaced, as a new build
// does to a worker that runs.
func TestReplacedBinary(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, replace := range map[string]func(path string) error{
		"removed":  os.Remove,
		"replaced": func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, []byte("new"), 0o755)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "croft")
			b, err := os.ReadFile(self)
			if err == nil {
				err = os.WriteFile(path, b, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
			d := newDriver(t, Options{Self: path})
			need(t, d)
			if err := replace(path); err != nil {
				t.Fatal(err)
			}
			if out := sh(t, newBox(t, d, sandbox.Spec{ID: "x"}), "echo alive"); out != "alive\n" {
				t.Errorf("it says %q", out)
			}
		})
	}
}

// TestFirstProcessLost ends a sandbox's first process from outside.
func TestFirstProcessLost(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	b := newBox(t, d, sandbox.Spec{ID: "x"})
	p, err := b.Start(t.Context(), sandbox.Command{Args: []string{"sleep", "1000"}, Stdin: strings.NewReader(""), Stdout: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(b.(*box).proc.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("Wait: error %v, want ErrGone", err)
	}
	if _, err := b.Start(t.Context(), sandbox.Command{Args: []string{"true"}}); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("Start: error %v, want ErrGone", err)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("Kill: %v", err)
	}
}

// TestUnprivileged runs this package's tests, the long ones short, as a user who is not
// root.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		return // they run as one already
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "croft-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(dir, "local.test"), self, 0o755), os.Chown(dir, nobody, nobody))
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "local.test"), "-test.v", "-test.short", "-test.timeout=120s")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if skips := strings.Count(string(out), "--- SKIP"); skips > 0 {
		t.Logf("%d tests were skipped as an unprivileged user:\n%s", skips, out)
	}
}
