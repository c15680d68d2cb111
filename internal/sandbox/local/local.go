// Package local is the sandbox driver that needs nothing but a Linux kernel: no daemon, no
// image, and no root where the kernel lets users make namespaces. It owns the plan of a
// sandbox's root, the folders it keeps, limits and the talk with the sandbox's first
// process, which is package initproc in the same binary. It imports the language, package
// sandbox, initproc, seccomp and golang.org/x/sys/unix.
//
// # A sandbox
//
// A sandbox is one process tree in user, mount, PID, network, IPC, UTS and cgroup
// namespaces of its own. Its root is built in memory: the host's system folders (/usr,
// /etc, /opt and their like) are shown read-only, everything else of the host is absent,
// and what Options.Hide lists is covered wherever it would show. /tmp, /var, /run,
// /dev/shm and the home folder are empty, in memory, and end with the sandbox. The root's
// own file list is in root.go.
//
// # Who the programs are
//
// Programs run as the ordinary user agent, 1000:1000 inside, without capabilities. They are
// not root: package managers of the system would want root and a network, and have
// neither; tools that refuse to run as root, or that change owners when they do, work.
// Outside, the user is the one who runs Croft, or, when that is root, an id that owns
// nothing (see identity). A folder of the host that is mounted keeps its owner either way:
// root's Croft mounts it with its owner mapped to the agent, so that the agent's files in
// it belong to that owner.
//
// # Life and death
//
// The worker and the first process hold the two ends of a socket. Requests to start and
// kill go over it, with the descriptors of a program's streams; when the worker's end
// closes, by Destroy or by the worker's death, the first process ends and the kernel kills
// what it leaves. Mounts end with the namespace. Cgroups stay, so a file in the sandbox's
// folder, locked for as long as the worker lives, names them for Sweep.
package local

import "log/slog"

// Options configures the driver.
type Options struct {
	// Data is Croft's data folder. The driver keeps workspaces below its "sandboxes" and
	// shows nothing else of it to any sandbox.
	Data string
	// Hide lists further paths of the host that no sandbox may see.
	Hide []string
	// Self is the croft binary; empty: the running one. Every user must be able to
	// execute it.
	Self string
	// Log is told what cannot be returned; nil: nothing is logged.
	Log *slog.Logger
}

// name is the driver's name in configuration and errors.
const name = "local"
