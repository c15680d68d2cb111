//go:build linux && (amd64 || arm64)

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"croft"
	"croft/internal/sandbox"
	"croft/internal/sandbox/local/initproc"
)

// Probe tries what this host can give, by making processes in namespaces, a whole sandbox,
// and cgroups.
func (d *Driver) Probe(ctx context.Context) []sandbox.Capability {
	list := d.probeNamespaces()
	list = append(list, d.probeIdentity())
	list = append(list, d.probeSandbox(ctx)...)
	list = append(list, d.probeLimits()...)
	return append(list,
		sandbox.Capability{
			Name: "network policies", Detail: "networking policies are not enforced yet: sandboxes have no network but their own loopback",
		},
		sandbox.Capability{Name: "disk limits", Detail: "not given by this driver: a workspace may fill the disk that it lies on"},
		sandbox.Capability{Name: "images", Detail: "not given by this driver: sandboxes show the host's own system folders"},
	)
}

// namespaces are the kinds that a sandbox takes. All but the first are tried within a user
// namespace, which is how they are made.
var namespaces = []struct {
	name string
	flag uintptr
}{
	{"user namespaces", 0},
	{"mount namespaces", unix.CLONE_NEWNS},
	{"PID namespaces", unix.CLONE_NEWPID},
	{"network namespaces", unix.CLONE_NEWNET},
	{"IPC namespaces", unix.CLONE_NEWIPC},
	{"UTS namespaces", unix.CLONE_NEWUTS},
}

func (d *Driver) probeNamespaces() []sandbox.Capability {
	var list []sandbox.Capability
	for _, ns := range namespaces {
		attr := d.who.attributes()
		attr.Cloneflags = unix.CLONE_NEWUSER | ns.flag
		c := sandbox.Capability{Name: ns.name, Required: true, OK: true}
		if err := d.tryProcess(attr); err != nil {
			c.OK, c.Detail, c.Fix = false, err.Error(), namespaceFix(err, os.ReadFile)
		}
		list = append(list, c)
	}
	return list
}

// tryProcess starts a first process that is told nothing and so ends at once.
func (d *Driver) tryProcess(attr *syscall.SysProcAttr) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	proc, err := startInit(d.selfPath(), theirs, nil, attr)
	theirs.Close()
	ours.Close()
	if err != nil {
		return err
	}
	_, err = proc.Wait()
	return err
}

// namespaceFix says what may keep this user from making namespaces. read is os.ReadFile.
func namespaceFix(err error, read func(string) ([]byte, error)) string {
	setting := func(file, bad string) bool {
		b, rerr := read("/proc/sys/" + file)
		return rerr == nil && strings.TrimSpace(string(b)) == bad
	}
	switch {
	case setting("kernel/unprivileged_userns_clone", "0"):
		return "sysctl -w kernel.unprivileged_userns_clone=1"
	case setting("user/max_user_namespaces", "0"):
		return "sysctl -w user.max_user_namespaces=15000"
	case setting("kernel/apparmor_restrict_unprivileged_userns", "1"):
		return "give the croft binary an AppArmor profile that allows userns, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	case errors.Is(err, unix.EACCES):
		return "make the croft binary executable by every user (chmod 755)"
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS):
		return "in a container, let it make namespaces (docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined); elsewhere, run croft as root"
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS):
		return "too many namespaces are in use: raise sysctl user.max_user_namespaces and its like"
	default:
		return "use a Linux of 5.14 or later with namespaces built in"
	}
}

func (d *Driver) probeIdentity() sandbox.Capability {
	c := sandbox.Capability{Name: "own user", OK: true}
	switch {
	case d.who.spare:
		c.Detail = fmt.Sprintf("sandboxes run as user %d of this host, which owns nothing", d.who.uid)
		if m, err := d.mapped(d.data); err == nil {
			m.Close()
		} else {
			c.OK = false
			c.Detail += fmt.Sprintf("; but folders of root cannot be mounted for writing: %v", err)
			c.Fix = "keep the data folder on ext4, xfs or btrfs"
		}
	case d.who.uid == 0:
		c.OK = false
		c.Detail = "sandboxes run as root of this host or container, without capabilities"
		c.Fix = "run croft as an ordinary user, or as root with CAP_SETUID and CAP_SETGID"
	default:
		c.Detail = fmt.Sprintf("sandboxes run as user %d of this host, who runs croft", d.who.uid)
	}
	return c
}

// findings names what a sandbox reports of itself.
var findings = []struct {
	key, name string
	required  bool
}{
	{initproc.FoundCapabilities, "no capabilities", true},
	{initproc.FoundNoNewPrivs, "no new privileges", true},
	{initproc.FoundSeccomp, "seccomp filter", true},
	{initproc.FoundWorkspace, "writable workspace", true},
	{initproc.FoundPty, "pseudo-terminals", false},
	{initproc.FoundLoopback, "loopback interface", false},
}

// probeSandbox makes a sandbox, lets it look around, and destroys it.
func (d *Driver) probeSandbox(ctx context.Context) []sandbox.Capability {
	whole := sandbox.Capability{Name: "read-only root and pivot_root", Required: true}
	found, err := d.lookAround(ctx)
	if err != nil {
		whole.Detail = err.Error()
		whole.Fix = namespaceFix(err, os.ReadFile)
		return []sandbox.Capability{whole}
	}
	whole.OK = true
	list := []sandbox.Capability{whole}
	for _, f := range findings {
		c := sandbox.Capability{Name: f.name, Required: f.required, OK: found[f.key] == "ok"}
		if !c.OK {
			c.Detail = found[f.key]
			c.Fix = "this should work wherever the root does: please report it with your kernel's version"
		}
		list = append(list, c)
	}
	return list
}

func (d *Driver) lookAround(ctx context.Context) (found map[string]string, err error) {
	id := croft.NewID("probe")
	b, err := d.create(ctx, &sandbox.Spec{ID: id})
	defer func() { err = errors.Join(err, d.Remove(context.WithoutCancel(ctx), id)) }()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Destroy(context.WithoutCancel(ctx))) }()
	var out strings.Builder
	p, err := b.start(ctx, &sandbox.Command{
		Args: []string{initproc.Name, initproc.ReportArg}, Stdout: &out,
	})
	if err != nil {
		return nil, err
	}
	if _, err := p.Wait(); err != nil {
		return nil, err
	}
	found = map[string]string{}
	for line := range strings.Lines(out.String()) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		found[k] = v
	}
	return found, nil
}

// probeLimits makes a cgroup for each limit.
func (d *Driver) probeLimits() []sandbox.Capability {
	var list []sandbox.Capability
	for _, l := range []struct {
		name, controller string
		limits           limits
	}{
		{"memory limits", "memory", limits{memoryMB: 64}},
		{"CPU limits", "cpu", limits{cpus: 1}},
		{"process limits", "pids", limits{pids: 64}},
	} {
		c := sandbox.Capability{Name: l.name, OK: true}
		switch err := d.tryLimit(l.controller, l.limits); {
		case l.controller == "pids" && d.who.uid != 0:
			c.Detail = "by resource limit"
		case err != nil:
			c.OK, c.Detail = false, err.Error()
			c.Fix = "run croft in a delegated scope (systemd-run --user --scope -p Delegate=yes croft …) or as root"
		default:
			c.Detail = fmt.Sprintf("by cgroup version %d", d.cgroups.parents[l.controller].version)
		}
		list = append(list, c)
	}
	return list
}

func (d *Driver) tryLimit(controller string, l limits) error {
	if err := d.cgroups.available(controller); err != nil {
		return err
	}
	name := d.groupName(croft.NewID("probe"))
	g := d.cgroups.place(name, l)
	return errors.Join(d.cgroups.make(g, name, l), g.remove(context.Background()))
}
