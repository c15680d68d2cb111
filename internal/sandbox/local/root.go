//go:build linux && (amd64 || arm64)

package local

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"croft/internal/sandbox/local/initproc"
)

// home is the agent's home folder, inside.
const home = "/home/agent"

// hostname is what every sandbox is called.
const hostname = "sandbox"

// shown is one of the host's system folders, at the same path inside: as it is, or, where
// link is set, as the symbolic link that the host has there too.
type shown struct{ path, link string }

// systemNames are the top-level folders in which distributions keep programs and their
// configuration, and no one's own files.
var systemNames = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix/store", "/gnu/store"}

// stateNames are folders of places that are otherwise not shown, without which programs
// under /usr do not work, or cannot say what is installed or what the processors are.
var stateNames = []string{"/sys/devices/system/cpu", "/var/lib/dpkg", "/var/lib/rpm", "/var/lib/texmf", "/var/lib/aspell", "/var/cache/fontconfig"}

// systemFolders looks which of these this host has.
func systemFolders() []shown {
	var list []shown
	for _, p := range slices.Concat(systemNames, stateNames) {
		if link, err := os.Readlink(p); err == nil {
			list = append(list, shown{p, link})
		} else if st, err := os.Stat(p); err == nil && st.IsDir() {
			list = append(list, shown{path: p})
		}
	}
	return list
}

// searchPath is the PATH of sandboxes: what of the worker's own lies in folders that are
// shown, then the usual.
func searchPath(own string, system []shown) string {
	var dirs []string
	add := func(dir string) {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range filepath.SplitList(own) {
		for _, s := range system {
			if filepath.IsAbs(dir) && within(filepath.Clean(dir), s.path) {
				add(filepath.Clean(dir))
			}
		}
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		add(dir)
	}
	return strings.Join(dirs, ":")
}

// within tells whether the clean path p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

// secrets are files of the host that are nobody's business inside, although some who run
// Croft may read them.
var secrets = []string{"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d",
	"/etc/ssl/private", "/etc/krb5.keytab", "/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_ecdsa_key", "/etc/ssh/ssh_host_ed25519_key"}

// kernelFiles are parts of /proc that tell of the host's kernel or steer it.
var kernelFiles = []string{"/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/kmsg", "/proc/latency_stats", "/proc/sched_debug",
	"/proc/sysrq-trigger", "/proc/timer_list", "/proc/timer_stats", "/proc/kpagecount", "/proc/kpageflags",
	"/proc/kpagecgroup", "/proc/kallsyms", "/proc/interrupts", "/proc/config.gz", "/proc/acpi", "/proc/asound", "/proc/scsi",
	"/proc/dynamic_debug", "/proc/mtrr"}

// kernelSettings are parts of /proc that programs read and none may write.
var kernelSettings = []string{"/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq"}

// coverable picks, of files whose permissions may already keep the sandboxes' user out,
// those that a mount must cover. Each mount costs every start some time.
func coverable(paths []string, w identity) []string {
	var list []string
	for _, p := range paths {
		var st unix.Stat_t
		if unix.Stat(p, &st) != nil {
			continue
		}
		open := st.Mode&0o007 != 0
		if !w.spare {
			open = w.uid == 0 || unix.Access(p, unix.R_OK) == nil || unix.Access(p, unix.W_OK) == nil
		}
		if open {
			list = append(list, p)
		}
	}
	return list
}

// devices are all that /dev has beside terminals and links.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// writable are the folders that are in memory, with their modes.
var writable = []struct {
	path string
	mode uint32
}{
	{"/tmp", 0o1777}, {"/var", 0o755}, {"/run", 0o755}, {home, 0o700}, {"/dev/shm", 0o1777},
}

// layout is what the roots of all of a driver's sandboxes have in common.
type layout struct {
	system  []shown
	etc     []initproc.Op
	covered []string
}

func newLayout(w identity) layout {
	return layout{systemFolders(), etcOps(), coverable(slices.Concat(kernelFiles, secrets), w)}
}

// ops are the steps that every root takes before what its spec adds. hidden are resolved
// paths of the host.
func (l *layout) ops(hidden []string) []initproc.Op {
	ops := make([]initproc.Op, 0, 80)
	dir := func(p string, mode uint32) {
		ops = append(ops, initproc.Op{Do: initproc.MakeDir, Path: p, Mode: mode})
	}
	for _, w := range writable {
		dir(w.path, w.mode)
	}
	dir("/var/tmp", 0o1777)
	for _, p := range []string{"/var/cache", "/var/lib", "/var/log", "/run/lock", "/sys", "/srv", "/root", "/mnt"} {
		dir(p, 0o755)
	}
	ops = append(ops, initproc.Op{Do: initproc.MakeLink, Path: "/var/run", Source: "/run"})
	// Every writable folder is a mount of its own, of a part of the one file system in
	// memory, because the root around them becomes read-only.
	for _, w := range writable {
		ops = append(ops, initproc.Op{Do: initproc.Inner, Source: w.path, Path: w.path})
	}
	for _, s := range l.system {
		covered := func(h string) bool { return within(s.path, h) }
		switch {
		case slices.ContainsFunc(hidden, covered):
		case s.link != "":
			ops = append(ops, initproc.Op{Do: initproc.MakeLink, Path: s.path, Source: s.link})
		default:
			ops = append(ops, initproc.Op{Do: initproc.Bind, Path: s.path, Source: s.path, ReadOnly: true})
		}
	}
	ops = append(ops, l.etc...)
	for _, name := range devices {
		ops = append(ops, initproc.Op{Do: initproc.Bind, Path: "/dev/" + name, Source: "/dev/" + name, Devices: true})
	}
	ops = append(ops, initproc.Op{Do: initproc.MountPts, Path: "/dev/pts"})
	for link, to := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		ops = append(ops, initproc.Op{Do: initproc.MakeLink, Path: "/dev/" + link, Source: to})
	}
	ops = append(ops, initproc.Op{Do: initproc.MountProc, Path: "/proc"})
	for _, p := range kernelSettings {
		ops = append(ops, initproc.Op{Do: initproc.Inner, Source: p, Path: p, ReadOnly: true})
	}
	for _, p := range l.covered {
		ops = append(ops, initproc.Op{Do: initproc.Hide, Path: p})
	}
	for _, h := range hidden {
		if slices.ContainsFunc(l.system, func(s shown) bool { return s.link == "" && within(h, s.path) }) {
			ops = append(ops, initproc.Op{Do: initproc.Hide, Path: h})
		}
	}
	return ops
}

// etcOps put the agent's user in the place of the host's, and take the host's name and
// addresses away.
func etcOps() []initproc.Op {
	uid, gid := strconv.Itoa(agentUID), strconv.Itoa(agentGID)
	files := []struct{ name, content string }{
		{"passwd", systemLines("/etc/passwd") + "agent:x:" + uid + ":" + gid + ":agent:" + home + ":/bin/sh\n"},
		{"group", systemLines("/etc/group") + "agent:x:" + gid + ":\n"},
		{"hostname", hostname + "\n"},
		{"hosts", "127.0.0.1 localhost " + hostname + "\n::1 localhost ip6-localhost ip6-loopback\n"},
	}
	var ops []initproc.Op
	for _, f := range files {
		made := "/.croft/" + f.name
		ops = append(ops,
			initproc.Op{Do: initproc.MakeFile, Path: made, Source: f.content, Mode: 0o444},
			initproc.Op{Do: initproc.Inner, Source: made, Path: "/etc/" + f.name, ReadOnly: true})
	}
	return ops
}

// systemLines returns the lines of the system's own accounts of a passwd or group file:
// programs look them up, and the people of this host are nobody's business inside.
func systemLines(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "root:x:0:\n"
	}
	defer f.Close()
	var kept strings.Builder
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 3 {
			continue
		}
		if id, err := strconv.Atoi(fields[2]); err == nil && (id < 1000 || id == 65534) {
			kept.WriteString(strings.Join(fields[:3], ":"))
			for i := 3; i < len(fields); i++ {
				kept.WriteString(":")
				if path == "/etc/passwd" {
					kept.WriteString(fields[i])
				}
			}
			kept.WriteString("\n")
		}
	}
	return kept.String()
}

// folders inside that no mount may cover or lie in.
var reserved = []string{"/proc", "/dev", "/sys", "/.croft", initproc.Program}

// environment is what every program of a sandbox finds in its environment: the driver's
// small default and what the spec sets.
func (d *Driver) environment(spec map[string]string) []string {
	env := []string{"PATH=" + d.path, "HOME=" + home, "USER=agent", "LOGNAME=agent", "SHELL=/bin/sh", "LANG=C.UTF-8"}
	for k, v := range spec {
		env = append(env, k+"="+v)
	}
	return env
}

// mergeEnv keeps the last setting of each name.
func mergeEnv(env []string) []string {
	at := map[string]int{}
	var merged []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			merged[i] = kv
			continue
		}
		at[name] = len(merged)
		merged = append(merged, kv)
	}
	return merged
}
