package initproc

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Main is this process from its start to its end: it never returns.
func Main() {
	// Namespaces, capabilities and the filter below belong to the thread.
	runtime.LockOSThread()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case serveArg:
			serve()
		case ReportArg:
			report()
		}
	}
	doing, err := setup()
	fail := Failure{Doing: doing + ": " + err.Error()}
	var errno unix.Errno
	if errors.As(err, &errno) {
		fail = Failure{Doing: doing, Errno: uint32(errno)}
	}
	writeAll(Frame(FrameFailed, 0, fail.Encode()))
	os.Exit(1)
}

// serveArg marks the second life.
const serveArg = "serve"

// Places in the new root that hold what other places show.
const (
	emptyDir  = ".croft/empty"
	emptyFile = ".croft/none"
)

// setup reads the Config, carries it out and executes the second life. It returns only with
// an error, and what was being done.
func setup() (doing string, err error) {
	// A worker may hold descriptors that it was itself given and that would pass on.
	if err := unix.CloseRange(socketFD+1, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return "close inherited descriptors", err
	}
	h, body, fds, err := readRequest(MaxFDs)
	if err != nil {
		return "read the configuration", err
	}
	if h.Kind != FrameConfig {
		return "read the configuration", ErrFrame
	}
	c, err := DecodeConfig(body)
	if err != nil {
		return "read the configuration", err
	}
	unix.Umask(0)
	if err := loopbackUp(); err != nil {
		return "bring the loopback interface up", err
	}
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return "set the host name", err
	}
	if doing, err := limits(c); err != nil {
		return doing, err
	}
	if doing, err := buildRoot(c, fds); err != nil {
		return doing, err
	}
	// From here on the cgroup that the worker put this process into is the root of all
	// cgroups; kernels without cgroup namespaces show the host's path, and no more.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil && !errors.Is(err, unix.EINVAL) {
		return "make a cgroup namespace", err
	}
	if doing, err := dropPrivileges(c.Filter); err != nil {
		return doing, err
	}
	return "execute the second stage", unix.Exec(Program, []string{Name, serveArg}, Environ)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// limits sets what every process of the sandbox inherits.
func limits(c *Config) (doing string, err error) {
	set := func(resource int, n uint64) error {
		var old unix.Rlimit
		if err := unix.Getrlimit(resource, &old); err != nil {
			return err
		}
		n = min(n, old.Max)
		return unix.Setrlimit(resource, &unix.Rlimit{Cur: n, Max: n})
	}
	// 1 and not 0: a core_pattern that pipes to a program of the host ignores 0, and that
	// program would read, as root, what the sandbox wrote.
	if err := set(unix.RLIMIT_CORE, 1); err != nil {
		return "limit core dumps", err
	}
	if err := set(unix.RLIMIT_NOFILE, c.OpenFiles); err != nil {
		return "limit open files", err
	}
	if c.Processes > 0 {
		if err := set(unix.RLIMIT_NPROC, c.Processes); err != nil {
			return "limit processes", err
		}
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", fmt.Append(nil, c.OOMScore), 0); err != nil {
		return "set the out-of-memory score", err
	}
	return "", nil
}

// root is the root under construction.
type root struct {
	fd  int
	fds []int // that came with the Config
}

// buildRoot makes the new root in memory, mounts what the Config lists into it, and leaves
// the old one. Everything that comes from the host is opened before the new root is put
// into place, because it covers a part of the host's tree.
func buildRoot(c *Config, fds []int) (doing string, err error) {
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return "make the mounts private", err
	}
	opened := make([]int, len(c.Ops))
	for i := range c.Ops {
		if opened[i], err = open(&c.Ops[i], fds); err != nil {
			return describe(&c.Ops[i]), err
		}
	}
	r := &root{fds: fds}
	r.fd, err = newFS("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, "mode", "0755",
		"size", fmt.Sprint(c.MemoryFiles), "nr_inodes", fmt.Sprint(max(c.MemoryFiles/4096, 4096)))
	if err != nil {
		return "make the root", err
	}
	if err := unix.MoveMount(r.fd, "", unix.AT_FDCWD, "/proc", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "put the root into place", err
	}
	if err := r.base(); err != nil {
		return "prepare the root", err
	}
	for i := range c.Ops {
		if err := r.do(&c.Ops[i], opened[i]); err != nil {
			return describe(&c.Ops[i]), err
		}
	}
	if err := unix.MountSetattr(r.fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return "make the root read-only", err
	}
	if err := unix.Fchdir(r.fd); err != nil {
		return "enter the root", err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return "change the root", err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return "leave the old root", err
	}
	if err := unix.Chdir("/"); err != nil {
		return "enter the root", err
	}
	return "", nil
}

// describe says what an Op does, for its error.
func describe(op *Op) string {
	switch op.Do {
	case MakeDir, MakeFile, CopyFile, MakeLink:
		return "make " + op.Path
	case Bind:
		if op.FD == 0 {
			return "mount " + op.Source + " at " + op.Path
		}
		return "mount at " + op.Path
	case Hide:
		return "hide " + op.Path
	default:
		return "mount " + op.Path
	}
}

// open gets hold of what op mounts from outside the new root: -1 for nothing.
func open(op *Op, fds []int) (int, error) {
	switch op.Do {
	case Bind:
		fd, err := source(op, fds)
		if err != nil {
			return -1, err
		}
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
		if !op.Devices {
			attr.Attr_set |= unix.MOUNT_ATTR_NODEV
		}
		if op.ReadOnly {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		return fd, unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr)
	case MountProc:
		return newFS("proc", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	case MountPts:
		return newFS("devpts", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "ptmxmode", "0666", "mode", "0620")
	}
	return -1, nil
}

// source returns the mount that a Bind names.
func source(op *Op, fds []int) (int, error) {
	switch {
	case op.FD == 0:
		return unix.OpenTree(unix.AT_FDCWD, op.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	case op.FD > 0 && op.FD <= len(fds):
		return fds[op.FD-1], nil
	default:
		return -1, ErrFrame
	}
}

// base makes what the other steps stand on.
func (r *root) base() error {
	if err := unix.Mkdirat(r.fd, ".croft", 0o755); err != nil {
		return err
	}
	if err := unix.Mkdirat(r.fd, emptyDir, 0o555); err != nil {
		return err
	}
	return r.makeFile("/"+emptyFile, "", 0)
}

func (r *root) do(op *Op, opened int) error {
	switch op.Do {
	case MakeDir:
		return r.makeDir(op.Path, op.Mode)
	case MakeFile:
		return r.makeFile(op.Path, op.Source, op.Mode)
	case CopyFile:
		return r.copyFile(op)
	case MakeLink:
		return r.inParent(op.Path, func(dir int, name string) error { return unix.Symlinkat(op.Source, dir, name) })
	case Bind, MountProc, MountPts:
		at, err := r.mountPoint(op.Path, opened)
		if err != nil {
			return err
		}
		defer closeFD(at)
		return attach(opened, at)
	case Inner:
		return r.inner(strings.TrimPrefix(op.Source, "/"), op.Path, op.ReadOnly)
	case Hide:
		isDir, err := r.isDir(op.Path)
		switch {
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
			return nil
		case err != nil:
			return err
		case isDir:
			return r.inner(emptyDir, op.Path, true)
		default:
			return r.inner(emptyFile, op.Path, true)
		}
	}
	return ErrFrame
}

// inner shows source, relative to the root, at target.
func (r *root) inner(source, target string, readOnly bool) error {
	fd, err := unix.OpenTree(r.fd, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	if readOnly {
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
			return err
		}
	}
	at, err := r.lookUp(target, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closeFD(at)
	return attach(fd, at)
}

// attach mounts what fd holds on what at holds.
func attach(fd, at int) error {
	return unix.MoveMount(fd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// lookUp opens a path inside; links never lead out of the new root.
func (r *root) lookUp(p string, flags uint64) (int, error) {
	return unix.Openat2(r.fd, p, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
}

func (r *root) isDir(p string) (bool, error) {
	fd, err := r.lookUp(p, unix.O_PATH)
	if err != nil {
		return false, err
	}
	defer closeFD(fd)
	return isDir(fd)
}

func isDir(fd int) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// inParent lets f make something in the folder of p, which is made where it is missing.
func (r *root) inParent(p string, f func(dir int, name string) error) error {
	folder := path.Dir(p)
	dir, err := r.lookUp(folder, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		if err := r.makeDir(folder, 0o755); err != nil {
			return err
		}
		dir, err = r.lookUp(folder, unix.O_PATH|unix.O_DIRECTORY)
	}
	if err != nil {
		return err
	}
	defer closeFD(dir)
	return f(dir, path.Base(p))
}

// makeDir makes a folder. One that is there keeps its mode.
func (r *root) makeDir(p string, mode uint32) error {
	err := r.inParent(p, func(dir int, name string) error { return unix.Mkdirat(dir, name, mode) })
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	dir, err := r.isDir(p)
	if err == nil && !dir {
		return unix.ENOTDIR
	}
	return err
}

func (r *root) makeFile(p, content string, mode uint32) error {
	return r.create(p, mode, func(fd int) error {
		for len(content) > 0 {
			n, err := unix.Write(fd, []byte(content))
			if err != nil {
				return err
			}
			content = content[n:]
		}
		return nil
	})
}

func (r *root) copyFile(op *Op) error {
	if op.FD < 1 || op.FD > len(r.fds) {
		return ErrFrame
	}
	return r.create(op.Path, op.Mode, func(fd int) error {
		for {
			n, err := unix.Sendfile(fd, r.fds[op.FD-1], nil, 1<<30)
			if n == 0 || err != nil {
				return err
			}
		}
	})
}

// create makes a new file and lets fill write it.
func (r *root) create(p string, mode uint32, fill func(fd int) error) error {
	return r.inParent(p, func(dir int, name string) error {
		fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, mode)
		if err != nil {
			return err
		}
		defer closeFD(fd)
		return fill(fd)
	})
}

// mountPoint opens p, which must be a folder if the mount is one, and makes it where it is
// missing.
func (r *root) mountPoint(p string, mount int) (int, error) {
	dir, err := isDir(mount)
	if err != nil {
		return -1, err
	}
	at, err := r.lookUp(p, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		if dir {
			err = r.makeDir(p, 0o755)
		} else {
			err = r.makeFile(p, "", 0o644)
		}
		if err == nil {
			at, err = r.lookUp(p, unix.O_PATH)
		}
	}
	if err != nil {
		return -1, err
	}
	there, err := isDir(at)
	switch {
	case err != nil:
	case dir && !there:
		err = unix.ENOTDIR
	case !dir && there:
		err = unix.EISDIR
	default:
		return at, nil
	}
	closeFD(at)
	return -1, err
}

// newFS makes a file system and returns a mount of it that is attached nowhere.
func newFS(kind string, attrs int, options ...string) (int, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer closeFD(fs)
	for i := 0; i < len(options); i += 2 {
		if err := unix.FsconfigSetString(fs, options[i], options[i+1]); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
}

// closeFD closes a descriptor that is needed no more.
func closeFD(fd int) { _ = unix.Close(fd) }

// Secure bits: user 0 means nothing, ids change no capability, and neither can be undone.
const secureBits = 1<<0 | 1<<1 | // no root
	1<<2 | 1<<3 | // no fix-up of capabilities when ids change
	1<<5 | // keep-capabilities stays off
	1<<6 | 1<<7 // no ambient capabilities

// dropPrivileges leaves this thread without a capability and without a way to one, under
// the filter. The exec that follows leaves no other thread.
func dropPrivileges(filter []byte) (doing string, err error) {
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secureBits, 0, 0, 0); err != nil {
		return "set the secure bits", err
	}
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > unix.CAP_AUDIT_READ {
			break // past the last that the kernel knows
		}
		if err != nil {
			return "drop capabilities from the bounding set", err
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return "drop ambient capabilities", err
	}
	var none [2]unix.CapUserData
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
		return "drop capabilities", err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return "forbid new privileges", err
	}
	const size = int(unsafe.Sizeof(unix.SockFilter{}))
	if len(filter) == 0 || len(filter)%size != 0 {
		return "install the seccomp filter", ErrFrame
	}
	prog := unix.SockFprog{Len: uint16(len(filter) / size), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return "install the seccomp filter", errno
	}
	runtime.KeepAlive(filter)
	return "", nil
}
