//go:build linux && (amd64 || arm64)

package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"unsafe"

	"golang.org/x/sys/unix"

	"croft/internal/sandbox"
	"croft/internal/sandbox/local/seccomp"
)

// Driver makes sandboxes out of namespaces of this host.
type Driver struct {
	data    string // resolved
	hide    []string
	self    *os.File // the croft binary
	log     *slog.Logger
	who     identity
	maps    idMaps
	layout  layout
	path    string // the sandboxes' PATH
	filter  []byte
	cgroups cgroups
}

var _ sandbox.Driver = (*Driver)(nil)

// New returns a driver that keeps its folders below o.Data, which it makes where it is
// missing. It does not try whether this host can make sandboxes: Probe does.
func New(o Options) (*Driver, error) {
	if o.Data == "" {
		return nil, errors.New("driver local: no data folder was given")
	}
	d := &Driver{log: o.Log}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(filepath.Join(o.Data, kept), 0o700); err != nil {
		return nil, fmt.Errorf("driver local: make the folder of kept workspaces: %w", err)
	}
	var err error
	if d.data, err = resolve(o.Data); err != nil {
		return nil, fmt.Errorf("driver local: find the data folder: %w", err)
	}
	for _, p := range o.Hide {
		p, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("driver local: find a folder to hide: %w", err)
		}
		d.hide = append(d.hide, p)
	}
	if d.self, err = openSelf(o.Self); err != nil {
		return nil, fmt.Errorf("driver local: open the croft binary: %w", err)
	}
	if d.who, err = whoami(); err != nil {
		return nil, fmt.Errorf("driver local: %w", err)
	}
	d.maps.self = d.self
	d.layout = newLayout(d.who)
	d.path = searchPath(os.Getenv("PATH"), d.layout.system)
	d.filter = filterBytes()
	return d, nil
}

// Name is "local".
func (d *Driver) Name() string { return name }

// openSelf opens the binary on a descriptor that no child's standard streams can take.
func openSelf(path string) (*os.File, error) {
	if path == "" {
		path = "/proc/self/exe"
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 16)
	if err != nil {
		return nil, fmt.Errorf("duplicate its descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// selfPath is a path of the binary that holds even after the file was replaced.
func (d *Driver) selfPath() string { return fmt.Sprintf("/proc/self/fd/%d", d.self.Fd()) }

// filterBytes returns the seccomp filter in the kernel's layout.
func filterBytes() []byte {
	prog := seccomp.Filter()
	size := len(prog) * int(unsafe.Sizeof(prog[0]))
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&prog[0])), size)...)
}

// kept is the folder, below the data folder, of one folder a sandbox.
const kept = "sandboxes"

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// folder is where the driver keeps what belongs to a sandbox.
func (d *Driver) folder(id string) string { return filepath.Join(d.data, kept, id) }

// Remove deletes what is kept of a sandbox that is no more; one that is unknown is no error.
func (d *Driver) Remove(ctx context.Context, id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("driver local: remove sandbox %q: not a sandbox's id", id)
	}
	if _, err := os.Stat(d.folder(id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	claim, err := d.claim(ctx, id)
	if err != nil {
		return fmt.Errorf("driver local: remove sandbox %s: %w", id, err)
	}
	defer claim.file.Close() // it goes with the folder
	if err := sandbox.RemoveKept(d.folder(id)); err != nil {
		return fmt.Errorf("driver local: remove sandbox %s: %w", id, err)
	}
	return nil
}

// resolve makes p absolute and follows its links.
func resolve(p string) (string, error) {
	p, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(p)
}

// closeAll closes what a failed step had opened.
func closeAll[C io.Closer](list []C) {
	for _, c := range list {
		c.Close()
	}
}
