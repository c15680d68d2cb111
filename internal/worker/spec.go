package worker

import (
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"croft"
	"croft/internal/sandbox"
)

// Ceiling is the most that an environment may ask of this worker. It is the worker's owner's
// word, where environments are their authors'.
type Ceiling struct {
	// Mounts are folders of the host under which environments may mount; none: nothing
	// may be mounted. "/" allows everything.
	Mounts []string
	// CPUs, MemoryMB and Pids are limits of one sandbox, which an environment that asks
	// for none gets too; 0: no ceiling.
	CPUs     float64
	MemoryMB int
	Pids     int
}

// refused says which field of an environment's configuration this worker won't serve.
type refused struct{ field, reason string }

func (r *refused) Error() string {
	return "the environment's config.croft." + r.field + ": " + r.reason
}

// limit is what a sandbox gets of something an environment asks for.
func limit[T int | float64](field string, asked, most T) (T, error) {
	switch {
	case most <= 0:
		return asked, nil
	case asked <= 0:
		return most, nil
	case asked > most:
		return 0, &refused{field, fmt.Sprintf("%v is more than this worker gives, which is at most %v", asked, most)}
	}
	return asked, nil
}

// sandboxSpec makes the sandbox's specification from the environment's configuration.
func (w *Worker) sandboxSpec(session string, config *croft.EnvironmentConfig) (sandbox.Spec, error) {
	spec := sandbox.Spec{ID: session, Network: config.Networking}
	c := config.Croft
	if c == nil {
		c = &croft.EnvironmentCroft{}
	}
	if mine := w.o.Driver.Name(); c.Driver != "" && c.Driver != mine {
		return spec, &refused{"driver", fmt.Sprintf("%q is not what this worker has: its sandboxes are made by %q", c.Driver, mine)}
	}
	var err error
	if spec.CPUs, err = limit("cpus", c.CPUs, w.o.Ceiling.CPUs); err != nil {
		return spec, err
	}
	if spec.MemoryMB, err = limit("memory_mb", c.MemoryMB, w.o.Ceiling.MemoryMB); err != nil {
		return spec, err
	}
	if spec.Pids, err = limit("pids", c.Pids, w.o.Ceiling.Pids); err != nil {
		return spec, err
	}
	spec.Env = c.Env
	for i, m := range c.Mounts {
		field := "mounts." + strconv.Itoa(i)
		if m.Host, err = w.mayMount(field+".host", m.Host); err != nil {
			return spec, err
		}
		if !path.IsAbs(m.Path) {
			return spec, &refused{field + ".path", fmt.Sprintf("%q is not absolute", m.Path)}
		}
		if m.Path = path.Clean(m.Path); m.Path != sandbox.Workspace {
			spec.Mounts = append(spec.Mounts, m)
			continue
		}
		if m.ReadOnly {
			return spec, &refused{field + ".read_only", "the folder at " + sandbox.Workspace + " is the agent's to write to"}
		}
		if spec.Workspace != "" {
			return spec, &refused{field + ".path", sandbox.Workspace + " is mounted twice"}
		}
		spec.Workspace = m.Host
	}
	return spec, nil
}

// mayMount checks a path of the host against the ceiling and returns it with its symbolic
// links resolved, so that it is what was checked.
func (w *Worker) mayMount(field, host string) (string, error) {
	if !filepath.IsAbs(host) {
		return "", &refused{field, fmt.Sprintf("%q is not an absolute path", host)}
	}
	real, err := filepath.EvalSymlinks(host)
	if err != nil {
		return "", &refused{field, fmt.Sprintf("%s can't be mounted: %v", host, err)}
	}
	for _, allowed := range w.o.Ceiling.Mounts {
		root, err := filepath.EvalSymlinks(allowed)
		if err != nil {
			continue // what isn't there allows nothing
		}
		if rel, err := filepath.Rel(root, real); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
			return real, nil
		}
	}
	return "", &refused{field, fmt.Sprintf("%s is not under a folder that this worker lets environments mount", host)}
}

// bounds are the times that the configuration sets.
func (w *Worker) bounds(config *croft.EnvironmentConfig) (call, idle time.Duration) {
	call, idle = w.o.CallTimeout, w.o.IdleTimeout
	if c := config.Croft; c != nil {
		if c.TimeoutS > 0 {
			call = time.Duration(c.TimeoutS) * time.Second
		}
		if c.IdleTimeoutS > 0 {
			idle = time.Duration(c.IdleTimeoutS) * time.Second
		}
	}
	return call, idle
}
