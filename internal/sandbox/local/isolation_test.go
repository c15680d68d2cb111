//go:build linux && (amd64 || arm64)

package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"croft"
	"croft/internal/sandbox"
	"croft/internal/sandbox/local/initproc"
)

// run runs a program and returns all its output and its exit code.
func run(tb testing.TB, b sandbox.Sandbox, args ...string) (string, int) {
	tb.Helper()
	var out bytes.Buffer
	p, err := b.Start(context.Background(), sandbox.Command{Args: args, Stdout: &out, Stderr: &out})
	if err != nil {
		tb.Fatal(err)
	}
	code, err := p.Wait()
	if err != nil {
		tb.Fatal(err)
	}
	return out.String(), code
}

// sh runs a script that must succeed.
func sh(tb testing.TB, b sandbox.Sandbox, script string) string {
	tb.Helper()
	out, code := run(tb, b, "sh", "-c", script)
	if code != 0 {
		tb.Fatalf("%s: exit code %d: %s", script, code, out)
	}
	return out
}

func TestAttempts(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	out, code := run(t, newBox(t, d, sandbox.Spec{ID: "x"}), sandbox.HandProgram, "attempts")
	if out != "tried\n" || code != 0 {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// TestAttemptsAsRoot makes the attempts where the host gives no other user than root, as in
// a container without the capability to change users.
func TestAttemptsAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		return // then nobody's sandbox is root's
	}
	d := newDriver(t, Options{})
	need(t, d)
	d.who = identity{}
	d.layout = newLayout(d.who)
	b := newBox(t, d, sandbox.Spec{ID: "x"})
	if out, code := run(t, b, sandbox.HandProgram, "attempts"); out != "tried\n" || code != 0 {
		t.Errorf("exit code %d\n%s", code, out)
	}
	sh(t, b, "touch /workspace/x")
}

// TestPrivileges looks at many programs, started side by side, because a privilege that
// belongs to a thread would show in some only.
func TestPrivileges(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	b := newBox(t, d, sandbox.Spec{ID: "x"})
	want := map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "SigIgn": "0000000000000000", "SigBlk": "0000000000000000"}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		want[set] = "0000000000000000"
	}
	each := 50
	if testing.Short() {
		each = 5
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range each {
				out, _ := run(t, b, "sh", "-c", "cat /proc/self/status; ls /proc/self/fd")
				status := map[string]string{}
				for line := range strings.Lines(out) {
					k, v, _ := strings.Cut(line, ":")
					status[k] = strings.TrimSpace(v)
				}
				for k, v := range want {
					if status[k] != v {
						t.Errorf("%s is %q, want %q", k, status[k], v)
					}
				}
				// 3 is the folder that ls reads.
				if fds := out[strings.LastIndex(out, "\t")+1:]; !strings.HasSuffix(fds, "\n0\n1\n2\n3\n") {
					t.Errorf("a program has the descriptors %q, want 0, 1, 2", fds)
				}
			}
		})
	}
	all.Wait()
}

func TestHiddenFiles(t *testing.T) {
	data := t.TempDir()
	secret := t.TempDir()
	mark := filepath.Join(secret, "mark")
	if err := os.WriteFile(mark, []byte("secret"), 0o666); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, Options{Data: data, Hide: []string{"/usr/share", "/etc/services"}})
	need(t, d)
	b := newBox(t, d, sandbox.Spec{ID: "x"})
	for _, p := range []string{data, secret, mark, "/proc/1/root/" + mark, "/proc/1/cwd/" + mark} {
		if out, code := run(t, b, "ls", p); code == 0 {
			t.Errorf("%s is there: %s", p, out)
		}
	}
	for p, want := range map[string]string{
		"/root": "", "/srv": "", "/tmp": "", "/var/tmp": "", "/home": "agent\n", "/home/agent": "", "/mnt": "session\n", "/sys": "devices\n", "/sys/devices/system": "cpu\n",
		"/run": "lock\n", "/dev/shm": "", "/usr/share": "", "/workspace": "", "/mnt/session": "outputs\n", "/mnt/session/outputs": "",
	} {
		if got := sh(t, b, "ls -A "+p); got != want {
			t.Errorf("%s holds %q, want %q", p, got, want)
		}
	}
	if out, code := run(t, b, "cat", "/etc/services"); code == 0 {
		t.Errorf("/etc/services can be read: %.40q", out)
	}
	known := []string{".croft", "bin", "dev", "etc", "gnu", "home", "lib", "lib32", "lib64", "libx32", "mnt", "nix", "opt", "proc",
		"root", "run", "sbin", "srv", "sys", "tmp", "usr", "var", "workspace"}
	for _, name := range strings.Fields(sh(t, b, "ls -A /")) {
		if !slices.Contains(known, name) {
			t.Errorf("/%s is there", name)
		}
	}
	if out := sh(t, b, "cat /etc/passwd /etc/group /etc/hosts /etc/hostname"); strings.Contains(out, hostName(t)) {
		t.Errorf("the host's name is told: %s", out)
	}
	if out := sh(t, b, "id -un; hostname 2>/dev/null || cat /proc/sys/kernel/hostname"); out != "agent\nsandbox\n" {
		t.Errorf("user and host are %q", out)
	}
	// And what programs need is there.
	sh(t, b, `for d in /tmp /var/tmp /run /dev/shm $HOME /workspace /mnt/session/outputs; do echo x > $d/x || exit 1; done
		head -c 10 /dev/zero > /dev/null; head -c 10 /dev/urandom > /dev/full && exit 1; cat /proc/cpuinfo > /dev/null`)
}

func hostName(t *testing.T) string {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if name == "localhost" || name == hostname {
		return "\x00" // tells nothing
	}
	return "\t" + name
}

// TestHiddenInMounts mounts a folder in which Croft's data lies.
func TestHiddenInMounts(t *testing.T) {
	home := t.TempDir()
	data := filepath.Join(home, "share", "croft")
	d := newDriver(t, Options{Data: data, Hide: []string{filepath.Join(home, "keys")}})
	need(t, d)
	if err := errors.Join(os.WriteFile(filepath.Join(data, "api-key"), []byte("key"), 0o600),
		os.WriteFile(filepath.Join(home, "keys"), []byte("key"), 0o600),
		os.WriteFile(filepath.Join(home, "file"), []byte("file"), 0o600)); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, d, sandbox.Spec{ID: "x", Workspace: home, Mounts: []croft.Mount{{Host: filepath.Dir(home), Path: "/mnt/up", ReadOnly: true}}})
	if got := sh(t, b, "cat file; ls -A share/croft /mnt/up/"+filepath.Base(home)+"/share/croft"); got !=
		"fileshare/croft:\n\n"[4:] && strings.Contains(got, "api-key") {
		t.Errorf("the data folder shows: %q", got)
	}
	if out, code := run(t, b, "cat", "keys"); code == 0 {
		t.Errorf("a hidden file can be read: %q", out)
	}
	for _, m := range []croft.Mount{
		{Host: data, Path: "/mnt/data"},
		{Host: filepath.Join(data, "api-key"), Path: "/mnt/key", ReadOnly: true},
		{Host: filepath.Join(data, kept), Path: "/mnt/all", ReadOnly: true},
	} {
		if _, err := d.Create(t.Context(), sandbox.Spec{ID: "y", Mounts: []croft.Mount{m}}); err == nil {
			t.Errorf("%s was mounted", m.Host)
		}
	}
}

func TestProcesses(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	b := newBox(t, d, sandbox.Spec{ID: "x"})
	other := newBox(t, d, sandbox.Spec{ID: "y"})
	p, err := other.Start(t.Context(), sandbox.Command{Args: []string{"sleep", "1234"}})
	if err != nil {
		t.Fatal(err)
	}
	out := sh(t, b, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
	if strings.Contains(out, "1234") || strings.Contains(out, filepath.Base(os.Args[0])) {
		t.Errorf("processes of others show: %q", out)
	}
	if n := strings.TrimSpace(sh(t, b, "echo /proc/[0-9]*")); len(strings.Fields(n)) > 3 {
		t.Errorf("there are the processes %s, want the first and the shell", n)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestMounts(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	b := newBox(t, d, sandbox.Spec{ID: "x", Mounts: []croft.Mount{{Host: t.TempDir(), Path: "/mnt/rw"}}})
	writable := regexp.MustCompile(`^/(tmp|var|run|home/agent|dev/.*|proc|workspace|mnt/session/outputs|mnt/rw)$`)
	for line := range strings.Lines(sh(t, b, "cat /proc/self/mounts")) {
		f := strings.Fields(line)
		options := strings.Split(f[3], ",")
		if !slices.Contains(options, "nosuid") {
			t.Errorf("setuid programs work in %s", line)
		}
		if !slices.Contains(options, "nodev") && !strings.HasPrefix(f[1], "/dev/") {
			t.Errorf("devices work in %s", line)
		}
		if slices.Contains(options, "rw") && !writable.MatchString(f[1]) {
			t.Errorf("writable: %s", line)
		}
	}
}

func TestNetwork(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, policy := range []*croft.Networking{nil, {Type: "unrestricted"}, {Type: "limited"}} {
		b := newBox(t, d, sandbox.Spec{ID: fmt.Sprintf("n%p", policy), Network: policy})
		if out := sh(t, b, "tail -n +3 /proc/net/dev | cut -d: -f1"); strings.TrimSpace(out) != "lo" {
			t.Errorf("interfaces %q, want lo", out)
		}
		if out, _ := run(t, b, initproc.Name, initproc.ReportArg); !strings.Contains(out, initproc.FoundLoopback+" ok") {
			t.Errorf("the loopback interface does not work: %s", out)
		}
		port := listener.Addr().(*net.TCPAddr).Port
		if out, code := run(t, b, "bash", "-c", fmt.Sprintf("echo > /dev/tcp/127.0.0.1/%d", port)); code == 0 {
			t.Errorf("the host's loopback was reached: %s", out)
		}
		if out, code := run(t, b, "bash", "-c", "echo > /dev/udp/192.0.2.1/9"); code == 0 {
			t.Errorf("a packet left: %s", out)
		}
	}
}

func TestSetuidPrograms(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	b := newBox(t, d, sandbox.Spec{ID: "x"})
	found := strings.Fields(sh(t, b, "find /usr/bin -maxdepth 1 -perm -4000 -type f 2>/dev/null; true"))
	if len(found) == 0 {
		t.Log("this host has no setuid programs to try")
	}
	// A copy that keeps the bit is refused, and the programs give nobody anything.
	for _, p := range found[:min(len(found), 2)] {
		if out, code := run(t, b, "cp", "-p", p, "/workspace/copy"); code == 0 && strings.Contains(sh(t, b, "ls -l /workspace/copy"), "-rws") {
			t.Errorf("a copy of %s has the bit: %s", p, out)
		}
	}
	if slices.Contains(found, "/usr/bin/su") {
		if out, code := run(t, b, "su", "-c", "id"); code == 0 {
			t.Errorf("su worked: %s", out)
		}
	}
}

func TestForkBomb(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	const limit = 64
	b := newBox(t, d, sandbox.Spec{ID: "x", Pids: limit})
	other := newBox(t, d, sandbox.Spec{ID: "y", Pids: limit})
	p, err := b.Start(t.Context(), sandbox.Command{Args: []string{"bash", "-c", "f() { while :; do f & done; }; f"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if out := sh(t, other, "echo alive"); out != "alive\n" {
			t.Errorf("the other sandbox says %q", out)
		}
		if n := tasks(t, b.(*box).proc.Pid); n > limit {
			t.Errorf("%d tasks, the limit is %d", n, limit)
		}
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	if code, err := p.Wait(); code != 137 || err != nil {
		t.Errorf("exit code %d, error %v", code, err)
	}
	if out := sh(t, b, "echo alive"); out != "alive\n" {
		t.Errorf("the sandbox says %q", out)
	}
}

// tasks counts the threads of a process and its descendants, as the host sees them.
func tasks(t *testing.T, first int) int {
	t.Helper()
	parents := map[int]int{}
	count := map[int]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		b, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		parents[pid], _ = strconv.Atoi(f[1])
		count[pid], _ = strconv.Atoi(f[17])
	}
	n := 0
	for pid := range parents {
		for p := pid; p > 1; p = parents[p] {
			if p == first {
				n += count[pid]
				break
			}
		}
	}
	return n
}

func TestMemoryLimit(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	if err := d.cgroups.available("memory"); err != nil {
		_, err := d.Create(t.Context(), sandbox.Spec{ID: "x", MemoryMB: 64})
		var u *sandbox.Unsupported
		if !errors.As(err, &u) || u.Field != "memory_mb" {
			t.Errorf("error %v, want an Unsupported of memory_mb", err)
		}
		return
	}
	b := newBox(t, d, sandbox.Spec{ID: "x", MemoryMB: 64})
	if out, code := run(t, b, "sh", "-c", "head -c 300000000 /dev/zero | tail -c 250000000 > /dev/null; exit $?"); code != 137 {
		t.Errorf("exit code %d, want 137: %s", code, out)
	}
	if out, code := run(t, b, "sh", "-c", "head -c 300000000 /dev/zero > /tmp/full"); code == 0 {
		t.Errorf("/tmp held more than the limit: %s", out)
	}
	sh(t, b, "rm -f /tmp/full; echo alive")
}

func TestCPULimit(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	if err := d.cgroups.available("cpu"); err != nil {
		_, err := d.Create(t.Context(), sandbox.Spec{ID: "x", CPUs: 1})
		var u *sandbox.Unsupported
		if !errors.As(err, &u) || u.Field != "cpus" {
			t.Errorf("error %v, want an Unsupported of cpus", err)
		}
		return
	}
	b := newBox(t, d, sandbox.Spec{ID: "x", CPUs: 0.5})
	dir := b.(*box).group.dirs[0]
	for file, want := range map[string]string{"cpu.cfs_quota_us": "50000", "cpu.max": "50000 100000"} {
		if got, err := os.ReadFile(filepath.Join(dir, file)); err == nil && strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(procs)) != strconv.Itoa(b.(*box).proc.Pid) {
		t.Errorf("the group holds %q, error %v, want the first process", procs, err)
	}
}

// TestInheritedDescriptors starts sandboxes from a process that holds descriptors which its
// own parent did not mark to be closed.
func TestInheritedDescriptors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	d := newDriver(t, Options{})
	need(t, d)
	clearCloseOnExec(t, w)
	b := newBox(t, d, sandbox.Spec{ID: "x"})
	if out := sh(t, b, "ls /proc/self/fd"); out != "0\n1\n2\n3\n" {
		t.Errorf("a program has the descriptors %q", out)
	}
	w.Close()
	if _, err := io.ReadAll(r); err != nil { // ends only when no process has the other end
		t.Error(err)
	}
}
