//go:build linux && (amd64 || arm64)

package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"croft"
	"croft/internal/sandbox"
	"croft/internal/sandbox/local/initproc"
)

// Limits that every sandbox has.
const (
	defaultPids = 512
	minPids     = 16 // the first process and its threads are among them
	openFiles   = 65_536
	minMemoryMB = 32
	minCPUs     = 0.01
	maxMounts   = 200
	// oomScore makes the kernel, when the host is out of memory, end an agent's program
	// before anything of the user's.
	oomScore = 300
)

// plan is a checked spec: what the first process is told, the descriptors that go with it
// (mounts, nearly always), and the limits that the worker sets from outside.
type plan struct {
	config *initproc.Config
	mounts []*os.File
	limits limits
}

func (p *plan) close() { closeAll(p.mounts) }

// bind adds a step that shows the mount m at path.
func (p *plan) bind(m *os.File, path string, readOnly bool) {
	p.mounts = append(p.mounts, m)
	p.config.Ops = append(p.config.Ops, initproc.Op{Do: initproc.Bind, Path: path, FD: len(p.mounts), ReadOnly: readOnly})
}

// unsupported is the refusal of a field.
func unsupported(field, format string, args ...any) error {
	return &sandbox.Unsupported{Driver: name, Field: field, Reason: fmt.Sprintf(format, args...)}
}

// plan checks a spec and gets hold of everything that it names.
func (d *Driver) plan(spec *sandbox.Spec) (*plan, error) {
	if err := d.check(spec); err != nil {
		return nil, err
	}
	hidden := d.hidden()
	p := &plan{
		config: &initproc.Config{Hostname: hostname, MemoryFiles: memoryFiles(spec.MemoryMB), OpenFiles: openFiles, OOMScore: oomScore, Filter: d.filter},
		limits: limits{memoryMB: spec.MemoryMB, cpus: spec.CPUs},
	}
	pids := spec.Pids
	if pids == 0 {
		pids = defaultPids
	}
	// The kernel counts tasks by user namespace and user, which makes the rlimit a limit of
	// this sandbox alone, at no cost; it exempts the real root, for whom it takes a cgroup.
	switch {
	case d.who.uid != 0:
		p.config.Processes = uint64(pids)
	case spec.Pids > 0 || d.cgroups.available("pids") == nil:
		p.limits.pids = pids
	}
	p.config.Ops = d.layout.ops(hidden)
	if err := d.planFolders(p, spec, hidden); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// memoryFiles is how many bytes of files a sandbox may keep in memory: a quarter of what
// the host has, and no more than half of the sandbox's limit, because a limit that files
// use up is kept by killing processes, which frees nothing.
func memoryFiles(limitMB int) uint64 {
	size := uint64(512 << 20)
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		size = info.Totalram * uint64(info.Unit) / 4
	}
	if limitMB > 0 {
		size = min(size, uint64(limitMB)<<20/2)
	}
	return size
}

// check refuses what no sandbox of this driver can be.
func (d *Driver) check(spec *sandbox.Spec) error {
	if !idPattern.MatchString(spec.ID) {
		return fmt.Errorf("sandbox id %q: letters, digits, '-' and '_', at most 64", spec.ID)
	}
	switch {
	case spec.Image != "":
		return unsupported("image", "its sandboxes show the host's own system folders")
	case spec.DiskMB != 0:
		return unsupported("disk_mb", "workspaces are folders of the host's file system, without a quota")
	case spec.Pids != 0 && spec.Pids < minPids:
		return unsupported("pids", "at least %d are needed", minPids)
	case spec.MemoryMB != 0 && spec.MemoryMB < minMemoryMB:
		return unsupported("memory_mb", "at least %d are needed", minMemoryMB)
	case spec.CPUs != 0 && !(spec.CPUs >= minCPUs):
		return unsupported("cpus", "at least %g is needed", minCPUs)
	case len(spec.Mounts) > maxMounts:
		return unsupported("mounts", "at most %d", maxMounts)
	}
	for _, l := range []struct {
		field, controller string
		asked             bool
	}{
		{"memory_mb", "memory", spec.MemoryMB != 0},
		{"cpus", "cpu", spec.CPUs != 0},
		{"pids", "pids", spec.Pids != 0 && d.who.uid == 0},
	} {
		if l.asked {
			if err := d.cgroups.available(l.controller); err != nil {
				return unsupported(l.field, "%v", err)
			}
		}
	}
	for k, v := range spec.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
			return fmt.Errorf("environment variable %q: not a name and a value", k)
		}
	}
	return nil
}

// hidden lists what of the host no sandbox may see, with links followed.
func (d *Driver) hidden() []string {
	list := []string{d.data}
	for _, p := range d.hide {
		list = append(list, p)
		if real, err := filepath.EvalSymlinks(p); err == nil && real != p {
			list = append(list, real)
		}
	}
	return list
}

// planFolders adds the binary, the workspace, the outputs and the spec's mounts.
func (d *Driver) planFolders(p *plan, spec *sandbox.Spec, hidden []string) error {
	if err := d.planBinary(p); err != nil {
		return fmt.Errorf("show the croft binary: %w", err)
	}
	workspace := spec.Workspace
	if workspace == "" {
		dir, err := d.keep(spec.ID, "workspace")
		if err == nil {
			err = d.planKept(p, dir, sandbox.Workspace)
		}
		if err != nil {
			return fmt.Errorf("workspace: %w", err)
		}
	} else {
		st, err := os.Stat(workspace)
		if err == nil && !st.IsDir() {
			err = &fs.PathError{Op: "use", Path: workspace, Err: errors.New("not a folder")}
		}
		if err == nil {
			err = d.planMount(p, croft.Mount{Host: workspace, Path: sandbox.Workspace}, hidden)
		}
		if err != nil {
			return fmt.Errorf("workspace: %w", err)
		}
	}
	outputs, err := d.keep(spec.ID, "outputs")
	if err == nil {
		err = d.planKept(p, outputs, sandbox.Outputs)
	}
	if err != nil {
		return fmt.Errorf("outputs: %w", err)
	}
	for _, m := range spec.Mounts {
		if err := checkMount(m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Path, err)
		}
		if err := d.planMount(p, m, hidden); err != nil {
			return fmt.Errorf("mount %s: %w", m.Path, err)
		}
	}
	return nil
}

// checkMount refuses places where a mount would undo the sandbox's own.
func checkMount(m croft.Mount) error {
	if !filepath.IsAbs(m.Path) || filepath.Clean(m.Path) != m.Path || m.Path == "/" {
		return errors.New("the path inside must be absolute and clean, and not /")
	}
	for _, r := range reserved {
		if within(m.Path, r) {
			return fmt.Errorf("%s is the sandbox's own", r)
		}
	}
	if !filepath.IsAbs(m.Host) {
		return fmt.Errorf("the host's path %q is not absolute", m.Host)
	}
	return nil
}

// planMount shows a path of the host, less what is hidden of it.
func (d *Driver) planMount(p *plan, m croft.Mount, hidden []string) error {
	host, err := resolve(m.Host)
	if err != nil {
		return err
	}
	for _, h := range hidden {
		if within(host, h) {
			return fmt.Errorf("%s: lies in %s, which no sandbox may see", host, h)
		}
	}
	if !d.who.spare {
		p.config.Ops = append(p.config.Ops, initproc.Op{Do: initproc.Bind, Path: m.Path, Source: host, ReadOnly: m.ReadOnly})
	} else {
		mount, err := d.mapped(host)
		switch {
		case errors.Is(err, errNoIDMap) && m.ReadOnly:
			mount, err = plain(host)
		case errors.Is(err, errNoIDMap):
			return unsupported("mounts", "%s cannot be written by root's sandboxes: %v; run croft as the folder's owner", host, err)
		}
		if err != nil {
			return err
		}
		p.bind(mount, m.Path, m.ReadOnly)
	}
	for _, h := range hidden {
		if rel, err := filepath.Rel(host, h); err == nil && within(h, host) {
			p.config.Ops = append(p.config.Ops, initproc.Op{Do: initproc.Hide, Path: filepath.Join(m.Path, rel)})
		}
	}
	return nil
}

// planKept shows a folder of the driver's own for writing.
func (d *Driver) planKept(p *plan, dir, path string) error {
	if !d.who.spare {
		p.config.Ops = append(p.config.Ops, initproc.Op{Do: initproc.Bind, Path: path, Source: dir})
		return nil
	}
	mount, err := d.mapped(dir)
	if errors.Is(err, errNoIDMap) {
		// The folder is the driver's, so it may change hands instead.
		if err = os.Chown(dir, d.who.uid, d.who.gid); err == nil {
			mount, err = plain(dir)
		}
	}
	if err != nil {
		return err
	}
	p.bind(mount, path, false)
	return nil
}

// planBinary shows the croft binary, the one that runs, although its file may have been
// replaced since.
func (d *Driver) planBinary(p *plan) error {
	// What is mounted must stand at a path; an unprivileged process also needs to know it.
	running, err := d.self.Stat()
	if err != nil {
		return err
	}
	path, err := os.Readlink(d.selfPath())
	if err != nil {
		return err
	}
	if there, err := os.Stat(path); err == nil && os.SameFile(running, there) {
		if !d.who.spare {
			p.config.Ops = append(p.config.Ops, initproc.Op{Do: initproc.Bind, Path: initproc.Program, Source: path, ReadOnly: true})
			return nil
		}
		mount, err := plain(d.selfPath())
		if err != nil {
			return err
		}
		p.bind(mount, initproc.Program, true)
		return nil
	}
	copied, err := os.Open(d.selfPath())
	if err != nil {
		return err
	}
	p.mounts = append(p.mounts, copied)
	p.config.Ops = append(p.config.Ops, initproc.Op{Do: initproc.CopyFile, Path: initproc.Program, FD: len(p.mounts), Mode: 0o555})
	return nil
}

// keep makes a kept folder where it is missing and returns its path.
func (d *Driver) keep(id, what string) (string, error) {
	dir := filepath.Join(d.folder(id), what)
	return dir, os.MkdirAll(dir, 0o755)
}
