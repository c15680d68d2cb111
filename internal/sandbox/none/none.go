// Package none is the sandbox driver that isolates nothing: it runs programs on the host,
// as the user who runs Croft, in a folder kept for each sandbox. It exists for tests of
// work that is trusted, on systems where package local cannot run, and says so wherever it
// is asked. It imports the language and package sandbox.
//
// There is no /workspace here. A program's folder is the host's: Command.Dir is translated
// where it names sandbox.Workspace, sandbox.Outputs or something below them, and only
// there; paths in arguments are the host's. Programs get a small environment, not the
// worker's, which may hold keys; nothing keeps them from reading these elsewhere.
package none

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"

	"croft/internal/sandbox"
)

// Options configures the driver.
type Options struct {
	// Data is Croft's data folder; workspaces are kept below its "sandboxes".
	Data string
	// Self is the croft binary, which is started as the hand; empty: the running one.
	Self string
}

// Driver runs programs on the host.
type Driver struct {
	folders string // of all sandboxes
	self    string

	mu   sync.Mutex
	live map[string]bool
}

var _ sandbox.Driver = (*Driver)(nil)

const name = "none"

// New returns a driver that keeps its folders below o.Data, which it makes where it is
// missing.
func New(o Options) (*Driver, error) {
	if o.Data == "" {
		return nil, errors.New("driver none: no data folder was given")
	}
	folders, err := filepath.Abs(filepath.Join(o.Data, "sandboxes"))
	if err != nil {
		return nil, fmt.Errorf("driver none: find the data folder: %w", err)
	}
	if err := os.MkdirAll(folders, 0o700); err != nil {
		return nil, fmt.Errorf("driver none: make the folder of kept workspaces: %w", err)
	}
	if o.Self == "" {
		if o.Self, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("driver none: find the croft binary: %w", err)
		}
	}
	return &Driver{folders: folders, self: o.Self, live: map[string]bool{}}, nil
}

// Name is "none".
func (d *Driver) Name() string { return name }

// Probe says that nothing is isolated.
func (d *Driver) Probe(context.Context) []sandbox.Capability {
	const fix = `use driver "local" for anything that is not trusted`
	return []sandbox.Capability{
		{Name: "isolation", Detail: "NONE: agents run as you, on this host, with all your files and your network", Fix: fix},
		{Name: "limits", Detail: "NONE: agents may use all of this host's memory, processors and disk", Fix: fix},
		{Name: "network policies", Detail: "NONE: agents use this host's network, whatever their environment says", Fix: fix},
	}
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Create makes the sandbox's folders.
func (d *Driver) Create(_ context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	b, err := d.create(&spec)
	if err != nil {
		return nil, fmt.Errorf("driver none: create sandbox: %w", err)
	}
	return b, nil
}

func (d *Driver) create(spec *sandbox.Spec) (*box, error) {
	if !idPattern.MatchString(spec.ID) {
		return nil, fmt.Errorf("sandbox id %q: letters, digits, '-' and '_', at most 64", spec.ID)
	}
	for _, f := range []struct {
		field string
		asked bool
	}{
		{"image", spec.Image != ""}, {"cpus", spec.CPUs != 0}, {"memory_mb", spec.MemoryMB != 0},
		{"disk_mb", spec.DiskMB != 0}, {"pids", spec.Pids != 0}, {"mounts", len(spec.Mounts) != 0},
	} {
		if f.asked {
			return nil, &sandbox.Unsupported{Driver: name, Field: f.field, Reason: "it runs programs on the host as they are"}
		}
	}
	workspace, err := filepath.Abs(spec.Workspace)
	if err != nil {
		return nil, fmt.Errorf("workspace: %w", err)
	}
	if spec.Workspace == "" {
		workspace = filepath.Join(d.folders, spec.ID, "workspace")
		if err := os.MkdirAll(workspace, 0o755); err != nil {
			return nil, fmt.Errorf("workspace: %w", err)
		}
	}
	if st, err := os.Stat(workspace); err != nil {
		return nil, fmt.Errorf("workspace: %w", err)
	} else if !st.IsDir() {
		return nil, fmt.Errorf("workspace: %w", &fs.PathError{Op: "use", Path: workspace, Err: errors.New("not a folder")})
	}
	outputs := filepath.Join(d.folders, spec.ID, "outputs")
	if err := os.MkdirAll(outputs, 0o755); err != nil {
		return nil, fmt.Errorf("outputs: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live[spec.ID] {
		return nil, fmt.Errorf("sandbox %s: a sandbox with this id is live", spec.ID)
	}
	d.live[spec.ID] = true
	return &box{
		d: d, id: spec.ID, workspace: workspace, outputs: outputs, env: environment(spec.Env),
		programs: map[*program]bool{}, destroying: make(chan struct{}, 1),
	}, nil
}

// Sweep has nothing to remove: nothing tells a dead worker's programs from the user's own.
func (d *Driver) Sweep(context.Context) ([]string, error) { return nil, nil }

// Remove deletes the kept folders of a sandbox that is no more; an unknown one is no error.
func (d *Driver) Remove(_ context.Context, id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("driver none: remove sandbox %q: not a sandbox's id", id)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live[id] {
		return fmt.Errorf("driver none: remove sandbox %s: it is live", id)
	}
	if err := sandbox.RemoveKept(filepath.Join(d.folders, id)); err != nil {
		return fmt.Errorf("driver none: remove sandbox %s: %w", id, err)
	}
	return nil
}

// passed are the variables of the worker's that programs of the host need.
var passed = []string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "TEMP", "TMP", "SystemRoot", "PATHEXT"}

func environment(spec map[string]string) []string {
	var env []string
	for _, k := range passed {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	for k, v := range spec {
		env = append(env, k+"="+v)
	}
	return env
}

// dir translates a command's folder to the host's.
func (b *box) dir(p string) string {
	if p == "" {
		return b.workspace
	}
	for inside, host := range map[string]string{sandbox.Workspace: b.workspace, sandbox.Outputs: b.outputs} {
		if rest, ok := strings.CutPrefix(path.Clean(p), inside); ok && (rest == "" || rest[0] == '/') {
			return filepath.Join(host, filepath.FromSlash(rest))
		}
	}
	return p
}

// selfPath is the croft binary's path, also after the file was replaced where that is known.
func (d *Driver) selfPath() string {
	if exe, err := os.Executable(); runtime.GOOS == "linux" && err == nil && exe == d.self {
		return "/proc/self/exe"
	}
	return d.self
}
