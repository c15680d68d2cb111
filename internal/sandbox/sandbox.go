// Package sandbox is the seam to the places where an agent's tools run. It owns the
// Driver interface and the shape of a sandbox's specification; each driver lives in a
// folder of its own (local, none) and sandboxtest holds what every driver must pass. It
// may import the language alone and assumes no local process, descriptor or path, so that
// a driver may be a service at the other end of a network. The worker is the caller.
package sandbox

import (
	"context"
	"errors"
	"io"
	"time"

	"croft"
)

// Paths inside every sandbox.
const (
	Workspace = "/workspace"
	Outputs   = "/mnt/session/outputs"
)

// Spec says what a sandbox must be. A driver that cannot honour a field refuses the spec
// with an *Unsupported error that names it; it never ignores one.
type Spec struct {
	// ID names the sandbox among its driver's: letters, digits, '-' and '_', at most 64.
	// It is the session's id.
	ID string
	// Workspace is the host's folder that becomes /workspace; empty: the driver keeps a
	// folder of its own for this ID, which outlives the sandbox.
	Workspace string
	Image     string  // OCI reference; empty: the host's own root, read-only
	CPUs      float64 // cores; 0: no limit
	MemoryMB  int     // 0: no limit
	DiskMB    int     // 0: no limit
	Pids      int     // 0: the driver's default
	Mounts    []croft.Mount
	Env       map[string]string // added to the driver's small default environment
	// Network is nil for none but the sandbox's own loopback.
	Network *croft.Networking
}

// Driver makes sandboxes. It is safe for concurrent use.
type Driver interface {
	// Name is the word by which configuration chooses the driver.
	Name() string
	// Probe says what this host can and cannot give, by trying.
	Probe(ctx context.Context) []Capability
	// Create makes a sandbox and leaves it ready for Start.
	Create(ctx context.Context, spec Spec) (Sandbox, error)
	// Sweep removes what earlier processes of this driver left running or mounted, other
	// than kept workspaces, and returns the ids of the sandboxes it removed.
	Sweep(ctx context.Context) ([]string, error)
	// Remove deletes the kept workspace of a sandbox that is no more.
	Remove(ctx context.Context, id string) error
}

// Sandbox is one live sandbox.
type Sandbox interface {
	ID() string
	// Start runs a program inside. ctx bounds the start, not the program. The caller must
	// Wait for it. The error is fs.ErrNotExist when there is no such program or folder, and
	// ErrGone when there is no such sandbox any more.
	Start(ctx context.Context, cmd Command) (Process, error)
	// Destroy ends every process inside and releases all but the workspace. It may be
	// called twice and while processes run.
	Destroy(ctx context.Context) error
}

// Command is a program to start inside a sandbox.
type Command struct {
	// Args[0] is a path inside, a name looked up on the sandbox's PATH, or HandProgram.
	Args []string
	Dir  string // empty: /workspace
	Env  []string
	// Stdin, Stdout and Stderr may be nil. A Read of Stdin that is under way when the
	// program ends is not waited for, and what it brings is dropped. A local driver may hand
	// an *os.File to the program as it is.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// HandProgram is, as Args[0], Croft's own tool executor (package hand), which every driver
// brings into its sandboxes. Its protocol runs over Stdin and Stdout.
const HandProgram = "croft-hand"

// Process is a program that runs inside a sandbox.
type Process interface {
	// Wait returns the exit code once the program has ended and its output is copied;
	// 128+n when signal n ended it. It does not wait for what the program left running. The
	// error is of the sandbox, never of the program: ErrGone when the sandbox ended first.
	// It may be called again.
	Wait() (int, error)
	// Kill ends the program and everything it started, and returns when they are dead. It
	// may be called again, and after the program has ended.
	Kill() error
}

// Capability is one thing that a driver needs or gives.
type Capability struct {
	Name string // "user namespaces", "memory limits", …
	// OK tells whether it works here; Required whether the driver is of use without it.
	OK, Required bool
	// Detail says what was found; Fix, when not OK, what a person can do about it.
	Detail, Fix string
}

// Unsupported is the refusal of a spec that a driver cannot honour.
type Unsupported struct {
	Driver string
	Field  string // as the environment's configuration names it: "memory_mb", "image", …
	Reason string
}

// Error names the driver, the field and the reason.
func (e *Unsupported) Error() string {
	return "driver " + e.Driver + " cannot honour " + e.Field + ": " + e.Reason
}

// ErrGone is returned by a sandbox that was destroyed or whose host lost it.
var ErrGone = errors.New("the sandbox is gone")

// StopGrace is how long programs inside are given between the end of their input and
// being killed, when a sandbox is destroyed in an orderly way.
const StopGrace = 200 * time.Millisecond
