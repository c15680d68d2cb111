//go:build linux && (amd64 || arm64)

package local

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"croft/internal/sandbox/local/initproc"
)

// The agent's ids inside every sandbox.
const (
	agentUID = 1000
	agentGID = 1000
)

// spareIDs are the ids outside that root's Croft gives its sandboxes: the first lies above
// every range that distributions and systemd hand out, the second is for hosts that are
// themselves in a user namespace of 65536 ids.
var spareIDs = []int{1_900_000_000, 65_533}

// identity is the user outside that the agent is.
type identity struct {
	uid, gid int
	// spare tells that the ids are none of a user's, which takes root. Folders of the host
	// are then mounted with their owner mapped to these ids.
	spare bool
}

// whoami chooses the sandboxes' user. Without root there is no choice but one's own.
func whoami() (identity, error) {
	own := identity{uid: os.Geteuid(), gid: os.Getegid()}
	if own.uid != 0 {
		return own, nil
	}
	uids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return own, fmt.Errorf("read the user mapping: %w", err)
	}
	gids, err := os.ReadFile("/proc/self/gid_map")
	if err != nil {
		return own, fmt.Errorf("read the group mapping: %w", err)
	}
	for _, id := range spareIDs {
		if isMapped(string(uids), id) && isMapped(string(gids), id) && hasCapability(unix.CAP_SETUID) &&
			hasCapability(unix.CAP_SETGID) {
			return identity{uid: id, gid: id, spare: true}, nil
		}
	}
	return own, nil
}

// isMapped tells whether an id map, as the kernel writes it, has a line for id.
func isMapped(idMap string, id int) bool {
	for line := range strings.Lines(idMap) {
		var inside, outside, size int
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err == nil && id >= inside && id-inside < size {
			return true
		}
	}
	return false
}

// hasCapability tells whether this process has a capability in effect.
func hasCapability(c uint) bool {
	var caps [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0])
	return err == nil && caps[c/32].Effective&(1<<(c%32)) != 0
}

// setupCaps are the capabilities, in the new user namespace, that building a sandbox takes.
var setupCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SETPCAP, unix.CAP_DAC_OVERRIDE}

// attributes describes the first process of a sandbox to the kernel.
func (w identity) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
			unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: agentUID, HostID: w.uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: agentGID, HostID: w.gid, Size: 1}},
		AmbientCaps: setupCaps,
	}
	if w.spare {
		attr.GidMappingsEnableSetgroups = true // to leave root's groups
		attr.Credential = &syscall.Credential{Uid: agentUID, Gid: agentGID}
	}
	return attr
}

// owner is the owner of a file of the host.
type owner struct{ uid, gid int }

// idMaps keeps the user namespaces that describe, to the kernel, how a mount translates its
// owner's ids. There is one for each owner of a mounted folder.
type idMaps struct {
	self *os.File
	mu   sync.Mutex
	made map[owner]*os.File
}

// namespace returns a user namespace in which owner o is the user w.
func (m *idMaps) namespace(o owner, w identity) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ns := m.made[o]; ns != nil {
		return ns, nil
	}
	// A namespace is described by a process in it. This one waits for a configuration on
	// its socket and ends when it is told none.
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	proc, err := startInit(fmt.Sprintf("/proc/self/fd/%d", m.self.Fd()), theirs, nil, &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: o.uid, HostID: w.uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: o.gid, HostID: w.gid, Size: 1}},
	})
	theirs.Close()
	if err != nil {
		return nil, err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", proc.Pid))
	ours.Close()
	if _, werr := proc.Wait(); werr != nil {
		err = errors.Join(err, werr)
	}
	if err != nil {
		return nil, err
	}
	if m.made == nil {
		m.made = map[owner]*os.File{}
	}
	m.made[o] = ns
	return ns, nil
}

// mapped returns a mount of path, with all below it, whose owner is the sandboxes' user.
// It needs root. The error wraps errNoIDMap where the file system cannot do it.
func (d *Driver) mapped(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, fmt.Errorf("open the folder: %w", err)
	}
	mount := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		mount.Close()
		return nil, fmt.Errorf("look at the folder: %w", err)
	}
	attr := &unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if o := (owner{int(st.Uid), int(st.Gid)}); o.uid != d.who.uid || o.gid != d.who.gid {
		ns, err := d.maps.namespace(o, d.who)
		if err != nil {
			mount.Close()
			return nil, fmt.Errorf("make a user namespace: %w", err)
		}
		attr.Attr_set, attr.Userns_fd = unix.MOUNT_ATTR_IDMAP, uint64(ns.Fd())
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
		mount.Close()
		if attr.Attr_set != 0 {
			return nil, fmt.Errorf("%w: %w", errNoIDMap, err)
		}
		return nil, fmt.Errorf("set the mount's attributes: %w", err)
	}
	return mount, nil
}

// plain returns a mount of path, with all below it, as it is. It needs root.
func plain(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, fmt.Errorf("open the folder: %w", err)
	}
	attr := &unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set the mount's attributes: %w", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

var errNoIDMap = errors.New("its file system cannot map owners")

// socketPair makes the socket between the worker and a first process.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "sandbox"), os.NewFile(uintptr(fds[1]), "worker"), nil
}

// startInit starts the binary as the first process of something. What it says on standard
// error goes to words, which may be nil.
func startInit(binary string, socket, words *os.File, attr *syscall.SysProcAttr) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	if words == nil {
		words = null
	}
	return os.StartProcess(binary, []string{initproc.Name}, &os.ProcAttr{
		Dir:   "/",
		Env:   initproc.Environ,
		Files: []*os.File{null, null, words, socket},
		Sys:   attr,
	})
}
