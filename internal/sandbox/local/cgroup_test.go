//go:build linux && (amd64 || arm64)

package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTrees(t *testing.T) {
	const hybrid = `25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
30 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 25 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
32 25 0:27 /docker/ab /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
33 25 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
34 25 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	const places = "12:pids:/docker/ab\n9:memory:/user/one\n8:cpu,cpuacct:/\n1:name=systemd:/init\n0::/init.scope\n"
	for name, tt := range map[string]struct {
		mountinfo, own string
		want           []tree
	}{
		"hybrid": {hybrid, places, []tree{
			{"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", []string{"cpu"}},
			{"/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/user/one", []string{"memory"}},
			{"/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids", []string{"pids"}},
			{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/init.scope", nil},
		}},
		"unified": {
			"29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			"0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope\n",
			[]tree{{"/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope", nil}},
		},
		"own group out of sight": {
			"29 22 0:26 /ctr /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/../..\n", []tree{{"/sys/fs/cgroup", "/sys/fs/cgroup", nil}},
		},
		"rubbish": {"\n1\n - \n1 2 3 4 5 - cgroup2\n", "x\n0:\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parseTrees(tt.mountinfo, tt.own), cmp.AllowUnexported(tree{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// unified lays out a tree of version 2 in a folder: what plain files can show of it.
func unified(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestDelegate goes through the places in which a worker may find itself in version 2. The
// kernel's refusals are not played: a plain file takes every write.
func TestDelegate(t *testing.T) {
	controllers := []string{"cpu", "memory", "pids"}
	t.Run("the root", func(t *testing.T) {
		root := unified(t, map[string]string{"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": ""})
		dir, has, err := delegate(root, root, 7)
		if diff := cmp.Diff(controllers, has); dir != root || err != nil || diff != "" {
			t.Errorf("%s, error %v, %s", dir, err, diff)
		}
	})
	t.Run("given already", func(t *testing.T) {
		root := unified(t, map[string]string{"own/cgroup.controllers": "cpu memory pids\n", "own/cgroup.subtree_control": "cpu memory pids\n"})
		own := filepath.Join(root, "own")
		dir, has, err := delegate(root, own, 7)
		if diff := cmp.Diff(controllers, has); dir != own || err != nil || diff != "" {
			t.Errorf("%s, error %v, %s", dir, err, diff)
		}
	})
	t.Run("after a restart in place", func(t *testing.T) {
		root := unified(t, map[string]string{"own/cgroup.controllers": "memory\n", "own/cgroup.subtree_control": "memory\n", "own/croft-worker/cgroup.controllers": "memory\n"})
		dir, _, err := delegate(root, filepath.Join(root, "own", workerGroup), 7)
		if dir != filepath.Join(root, "own") || err != nil {
			t.Errorf("%s, error %v", dir, err)
		}
	})
	t.Run("no controllers", func(t *testing.T) {
		root := unified(t, map[string]string{"own/cgroup.controllers": "\n"})
		if dir, has, err := delegate(root, filepath.Join(root, "own"), 7); err == nil {
			t.Errorf("%s gives %q, want an error", dir, has)
		}
	})
	t.Run("aside", func(t *testing.T) {
		root := unified(t, map[string]string{"own/croft-worker/cgroup.procs": ""})
		if err := moveAside(filepath.Join(root, "own"), 7); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(root, "own/croft-worker/cgroup.procs")); err != nil || string(b) != "7" {
			t.Errorf("moved %q, error %v", b, err)
		}
	})
}

func TestSettings(t *testing.T) {
	l := limits{memoryMB: 64, cpus: 1.5, pids: 99}
	var got []string
	for _, c := range l.controllers() {
		for version := 1; version <= 2; version++ {
			for _, s := range l.settings(c, version) {
				got = append(got, s.file+"="+s.value)
			}
		}
	}
	want := []string{
		"memory.limit_in_bytes=67108864", "memory.memsw.limit_in_bytes=67108864", "memory.max=67108864", "memory.swap.max=0",
		"cpu.cfs_period_us=100000", "cpu.cfs_quota_us=150000", "cpu.max=150000 100000", "pids.max=99", "pids.max=99",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestGroup sets limits in a tree of version 2 made of plain files.
func TestGroup(t *testing.T) {
	root := unified(t, map[string]string{"croft-id/memory.max": "", "croft-id/cpu.max": "", "croft-id/cgroup.procs": ""}) // no swap
	c := &cgroups{parents: map[string]parent{"memory": {root, 2}, "cpu": {root, 2}}}
	c.once.Do(func() {})
	l := limits{memoryMB: 64, cpus: 1}
	g := c.place("croft-id", l)
	if diff := cmp.Diff([]string{filepath.Join(root, "croft-id")}, g.dirs); diff != "" {
		t.Fatal(diff)
	}
	if err := errors.Join(c.set("croft-id", l), g.add(7)); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"memory.max": "67108864", "cpu.max": "100000 100000", "cgroup.procs": "7"} {
		if b, err := os.ReadFile(filepath.Join(root, "croft-id", file)); err != nil || string(b) != want {
			t.Errorf("%s holds %q, error %v, want %q", file, b, err, want)
		}
	}
	if err := c.available("pids"); err == nil || !strings.Contains(err.Error(), "Delegate") {
		t.Errorf("pids: error %v, want one that says what to do", err)
	}
}
