//go:build linux && (amd64 || arm64)

package local

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// limits are what the worker sets on a sandbox from outside, by cgroups; 0 is none.
type limits struct {
	memoryMB, pids int
	cpus           float64
}

// cgroups finds out, once, where this process may make cgroups. The zero value is ready.
//
// In version 1 each controller has a tree of its own, and a child of the worker's own group
// is as good a place as any. In version 2 there is one tree, and a group hands controllers
// to its children only while it holds no process: the worker moves into a child of its own
// group when it is alone in it, which is what a delegated systemd scope gives; root without
// one takes a group below the tree's root.
type cgroups struct {
	once    sync.Once
	parents map[string]parent // by controller
	err     error             // why there are none
}

// parent is a folder in which a group with the controller can be made.
type parent struct {
	dir     string
	version int
}

// errNoCgroups is the reason for a limit's refusal where nothing more is known.
var errNoCgroups = errors.New("this host lets no cgroups be made: run croft in a delegated scope (systemd-run --user --scope -p Delegate=yes croft …) or as root")

// available returns nil when groups with the controller can be made, or else why not.
func (c *cgroups) available(controller string) error {
	c.once.Do(func() {
		c.parents, c.err = findParents("/proc/self/mountinfo", "/proc/self/cgroup", os.Getpid())
	})
	if _, ok := c.parents[controller]; ok {
		return nil
	}
	if c.err != nil {
		return c.err
	}
	return errNoCgroups
}

// wanted are the controllers that carry limits.
var wanted = []string{"memory", "cpu", "pids"}

// findParents reads where cgroup trees are mounted and where this process stands in them.
func findParents(mountinfo, own string, pid int) (map[string]parent, error) {
	mounts, err := os.ReadFile(mountinfo)
	if err != nil {
		return nil, fmt.Errorf("find the cgroup trees: %w", err)
	}
	places, err := os.ReadFile(own)
	if err != nil {
		return nil, fmt.Errorf("find the own cgroup: %w", err)
	}
	parents := map[string]parent{}
	var first error
	for _, tree := range parseTrees(string(mounts), string(places)) {
		if tree.controllers != nil {
			for _, c := range tree.controllers {
				if unix.Access(tree.dir, unix.W_OK) == nil {
					parents[c] = parent{tree.dir, 1}
				}
			}
			continue
		}
		dir, controllers, err := delegate(tree.root, tree.dir, pid)
		if err != nil && first == nil {
			first = err
		}
		for _, c := range controllers {
			parents[c] = parent{dir, 2}
		}
	}
	return parents, first
}

// tree is a mounted hierarchy of cgroups.
type tree struct {
	root, dir   string   // the mount point, and this process's group in it
	controllers []string // of version 1; nil: version 2
}

// parseTrees reads the texts of /proc/self/mountinfo and /proc/self/cgroup.
func parseTrees(mountinfo, own string) []tree {
	places := map[string]string{} // controller → own group; "" for version 2
	for line := range strings.Lines(own) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(f) == 3 {
			for c := range strings.SplitSeq(f[1], ",") {
				places[c] = f[2]
			}
		}
	}
	var trees []tree
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		f, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(kind) < 3 {
			continue
		}
		mountRoot, mountPoint := f[3], f[4]
		place := func(controller string) string {
			if rel, err := filepath.Rel(mountRoot, places[controller]); err == nil && filepath.IsLocal(rel) {
				return filepath.Join(mountPoint, rel)
			}
			return mountPoint
		}
		switch kind[0] {
		case "cgroup":
			options := strings.Split(kind[2], ",")
			t := tree{root: mountPoint}
			for _, c := range wanted {
				if slices.Contains(options, c) {
					t.controllers = append(t.controllers, c)
					t.dir = place(c)
				}
			}
			if t.controllers != nil {
				trees = append(trees, t)
			}
		case "cgroup2":
			trees = append(trees, tree{root: mountPoint, dir: place("")})
		}
	}
	return trees
}

// workerGroup is the child into which the worker moves in version 2.
const workerGroup = "croft-worker"

// delegate finds, or makes, a group of version 2 that gives its children the wanted
// controllers, and says which.
func delegate(root, own string, pid int) (dir string, controllers []string, err error) {
	if filepath.Base(own) == workerGroup {
		own = filepath.Dir(own)
	}
	has, err := words(filepath.Join(own, "cgroup.controllers"))
	if err != nil {
		return "", nil, fmt.Errorf("read the controllers of the own cgroup: %w", err)
	}
	has = slices.DeleteFunc(has, func(c string) bool { return !slices.Contains(wanted, c) })
	if len(has) == 0 && own != root {
		return "", nil, errNoCgroups
	}
	if err := give(own, has); err == nil || own == root {
		return own, has, err
	}
	if procs, perr := words(filepath.Join(own, "cgroup.procs")); perr == nil && len(procs) == 1 && procs[0] == strconv.Itoa(pid) {
		if err := moveAside(own, pid); err != nil {
			return "", nil, fmt.Errorf("leave the own cgroup for its children: %w", err)
		}
		return own, has, give(own, has)
	}
	// Only root can make a group there.
	dir = filepath.Join(root, "croft")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", nil, errNoCgroups
	}
	if err := give(root, has); err != nil {
		return "", nil, err
	}
	return dir, has, give(dir, has)
}

// give hands a group's controllers to its children.
func give(dir string, controllers []string) error {
	file := filepath.Join(dir, "cgroup.subtree_control")
	given, err := words(file)
	if err != nil {
		return err
	}
	for _, c := range controllers {
		if slices.Contains(given, c) {
			continue
		}
		if err := control(file, "+"+c); err != nil {
			return fmt.Errorf("give controller %s to child groups: %w", c, err)
		}
	}
	return nil
}

// moveAside puts this process into a child of its own group.
func moveAside(own string, pid int) error {
	child := filepath.Join(own, workerGroup)
	if err := os.Mkdir(child, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return control(filepath.Join(child, "cgroup.procs"), strconv.Itoa(pid))
}

// control writes to a file that the kernel made; one that is missing is fs.ErrNotExist.
func control(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func words(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	return strings.Fields(string(b)), err
}

// group is the cgroups of one sandbox.
type group struct{ dirs []string }

// groupName is the name of a sandbox's groups, which the sandboxes of other data folders do
// not have.
func (d *Driver) groupName(id string) string {
	h := fnv.New32a()
	h.Write([]byte(d.data)) // never fails
	return fmt.Sprintf("croft-%08x-%s", h.Sum32(), id)
}

// setting is a file of a group and what is written to it.
type setting struct {
	file, value string
	optional    bool // kernels without swap accounting lack it
}

// place returns the folders that a sandbox with these limits needs, before they are made.
// name is theirs in each tree.
func (c *cgroups) place(name string, l limits) *group {
	g := &group{}
	for _, controller := range l.controllers() {
		if p, ok := c.parents[controller]; ok {
			if dir := filepath.Join(p.dir, name); !slices.Contains(g.dirs, dir) {
				g.dirs = append(g.dirs, dir)
			}
		}
	}
	return g
}

// make makes the folders and writes the limits.
func (c *cgroups) make(g *group, name string, l limits) error {
	for _, dir := range g.dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make a cgroup: %w", err)
		}
	}
	return c.set(name, l)
}

func (c *cgroups) set(name string, l limits) error {
	for _, controller := range l.controllers() {
		p := c.parents[controller]
		for _, s := range l.settings(controller, p.version) {
			err := control(filepath.Join(p.dir, name, s.file), s.value)
			if err != nil && !(s.optional && errors.Is(err, fs.ErrNotExist)) {
				return fmt.Errorf("set a cgroup's limit: %w", err)
			}
		}
	}
	return nil
}

func (l limits) controllers() []string {
	var list []string
	if l.memoryMB > 0 {
		list = append(list, "memory")
	}
	if l.cpus > 0 {
		list = append(list, "cpu")
	}
	if l.pids > 0 {
		list = append(list, "pids")
	}
	return list
}

// settings says what a controller's files must hold.
func (l limits) settings(controller string, version int) []setting {
	const period = 100_000 // microseconds
	bytes := strconv.Itoa(l.memoryMB << 20)
	quota := strconv.Itoa(int(l.cpus * period))
	switch {
	case controller == "pids":
		return []setting{{"pids.max", strconv.Itoa(l.pids), false}}
	case controller == "memory" && version == 1:
		return []setting{{"memory.limit_in_bytes", bytes, false}, {"memory.memsw.limit_in_bytes", bytes, true}}
	case controller == "memory":
		return []setting{{"memory.max", bytes, false}, {"memory.swap.max", "0", true}}
	case version == 1:
		return []setting{{"cpu.cfs_period_us", strconv.Itoa(period), false}, {"cpu.cfs_quota_us", quota, false}}
	default:
		return []setting{{"cpu.max", quota + " " + strconv.Itoa(period), false}}
	}
}

// add puts a process into the group.
func (g *group) add(pid int) error {
	for _, dir := range g.dirs {
		if err := control(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("put the sandbox into its cgroup: %w", err)
		}
	}
	return nil
}

// remove deletes the group, waiting for the last of its processes to be gone.
func (g *group) remove(ctx context.Context) error {
	for _, dir := range g.dirs {
		for {
			err := unix.Rmdir(dir)
			if err == nil || errors.Is(err, unix.ENOENT) {
				break
			}
			if !errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("remove cgroup %s: %w", dir, errors.Join(err, ctx.Err()))
			case <-time.After(2 * time.Millisecond):
			}
		}
	}
	return nil
}
