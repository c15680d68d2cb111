//go:build linux && (amd64 || arm64)

package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"croft"
	"croft/internal/sandbox"
)

func TestSearchPath(t *testing.T) {
	system := []shown{{path: "/usr"}, {path: "/opt"}, {"/bin", "usr/bin"}}
	got := searchPath("/root/go/bin:/usr/local/go/bin/:.:relative:/usr/bin:/opt/tool:/usrlocal", system)
	want := "/usr/local/go/bin:/usr/bin:/opt/tool:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestSystemLines(t *testing.T) {
	dir := t.TempDir()
	group := filepath.Join(dir, "group")
	if err := os.WriteFile(group, []byte("root:x:0:\nsudo:x:27:alice,bob\nalice:x:1000:\nnogroup:x:65534:\n# comment\nbad:x:zz:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, want := systemLines(group), "root:x:0:\nsudo:x:27:\nnogroup:x:65534:\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for line := range strings.Lines(systemLines("/etc/passwd")) {
		if strings.Count(line, ":") != 6 {
			t.Errorf("passwd line %q", line)
		}
	}
}

func TestMergeEnv(t *testing.T) {
	got := mergeEnv([]string{"A=1", "B=2", "A=3", "C=", "B=2=2"})
	if diff := cmp.Diff([]string{"A=3", "B=2=2", "C="}, got); diff != "" {
		t.Error(diff)
	}
}

func TestIsMapped(t *testing.T) {
	for _, tt := range []struct {
		text string
		id   int
		want bool
	}{
		{"         0          0 4294967295\n", 1_900_000_000, true},
		{"0 1000 1\n1 100000 65536\n", 65_533, true},
		{"0 1000 1\n1 100000 65536\n", 1_900_000_000, false},
		{"0 1000 1\n", 65_533, false},
		{"rubbish\n", 0, false},
	} {
		if got := isMapped(tt.text, tt.id); got != tt.want {
			t.Errorf("%q maps %d: %t, want %t", tt.text, tt.id, got, tt.want)
		}
	}
}

func TestNamespaceFix(t *testing.T) {
	for _, tt := range []struct {
		file, value string
		err         error
		want        string
	}{
		{"/proc/sys/kernel/unprivileged_userns_clone", "0\n", unix.EPERM, "sysctl -w kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0\n", unix.ENOSPC, "sysctl -w user.max_user_namespaces"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n", unix.EACCES, "AppArmor"},
		{"", "", &os.PathError{Err: unix.EPERM}, "as root"},
		{"", "", unix.EACCES, "chmod 755"},
		{"", "", unix.EINVAL, "Linux of"},
	} {
		read := func(file string) ([]byte, error) {
			if file == tt.file {
				return []byte(tt.value), nil
			}
			return nil, os.ErrNotExist
		}
		if got := namespaceFix(tt.err, read); !strings.Contains(got, tt.want) {
			t.Errorf("%s=%q, %v: %q, want %q in it", tt.file, tt.value, tt.err, got, tt.want)
		}
	}
}

func TestProbe(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	seen := map[string]bool{}
	for _, c := range d.Probe(t.Context()) {
		if seen[c.Name] {
			t.Errorf("%s is there twice", c.Name)
		}
		seen[c.Name] = true
		if !c.OK && c.Detail == "" {
			t.Errorf("%+v does not say why", c)
		}
	}
	for _, name := range []string{"user namespaces", "mount namespaces", "PID namespaces", "network namespaces", "read-only root and pivot_root",
		"seccomp filter", "no new privileges", "no capabilities", "pseudo-terminals", "memory limits", "CPU limits", "process limits", "network policies"} {
		if !seen[name] {
			t.Errorf("%s is not probed", name)
		}
	}
	if left, err := os.ReadDir(filepath.Join(d.data, kept)); err != nil || len(left) > 0 {
		t.Errorf("Probe left %v, error %v", left, err)
	}
}

// TestOwners mounts a folder that belongs to another user than the one who runs Croft.
func TestOwners(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	if !d.who.spare {
		return // without root one mounts what one may write oneself
	}
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o755), os.Chown(dir, 12345, 54321), os.Chown(filepath.Join(dir, "sub"), 12345, 54321)); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, d, sandbox.Spec{ID: "x", Workspace: dir})
	sh(t, b, "echo x > sub/file; test -O sub/file")
	st, err := os.Stat(filepath.Join(dir, "sub/file"))
	if err != nil {
		t.Fatal(err)
	}
	if sys := st.Sys().(*syscall.Stat_t); sys.Uid != 12345 || sys.Gid != 54321 {
		t.Errorf("the file belongs to %d:%d, want the folder's 12345:54321", sys.Uid, sys.Gid)
	}
}

// TestNoOwnerMapping mounts a file system that cannot map owners.
func TestNoOwnerMapping(t *testing.T) {
	d := newDriver(t, Options{})
	need(t, d)
	if !d.who.spare {
		return // no owner is mapped without root
	}
	b := newBox(t, d, sandbox.Spec{ID: "x", Mounts: []croft.Mount{{Host: "/sys/kernel", Path: "/mnt/kernel", ReadOnly: true}}})
	sh(t, b, "ls /mnt/kernel/mm")
	_, err := d.Create(t.Context(), sandbox.Spec{ID: "y", Mounts: []croft.Mount{{Host: "/sys/kernel", Path: "/mnt/kernel"}}})
	var u *sandbox.Unsupported
	if !errors.As(err, &u) || u.Field != "mounts" {
		t.Errorf("error %v, want an Unsupported of mounts", err)
	}
}
