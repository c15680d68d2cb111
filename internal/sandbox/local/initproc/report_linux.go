package initproc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ReportArg makes the binary, started as Name inside a sandbox, write a Report of what it
// finds there to its standard output, a line a finding: the name, a space, and "ok" or what
// is wrong.
const ReportArg = "report"

// Names of the findings.
const (
	FoundCapabilities = "capabilities"
	FoundNoNewPrivs   = "no_new_privs"
	FoundSeccomp      = "seccomp"
	FoundPty          = "pty"
	FoundLoopback     = "loopback"
	FoundWorkspace    = "workspace"
)

func report() {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Println("status", err)
		os.Exit(1)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(status)) {
		k, v, _ := strings.Cut(line, ":")
		fields[k] = strings.TrimSpace(v)
	}
	say := func(name string, err error) {
		word := "ok"
		if err != nil {
			word = err.Error()
		}
		fmt.Println(name, word)
	}
	var caps []string
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if strings.Trim(fields[set], "0") != "" {
			caps = append(caps, set+"="+fields[set])
		}
	}
	say(FoundCapabilities, unless(caps == nil, strings.Join(caps, " ")))
	say(FoundNoNewPrivs, unless(fields["NoNewPrivs"] == "1", "not set"))
	say(FoundSeccomp, unless(fields["Seccomp"] == "2", "no filter"))
	say(FoundPty, tryPty())
	say(FoundLoopback, tryLoopback())
	say(FoundWorkspace, unix.Access("/workspace", unix.W_OK))
	os.Exit(0)
}

func unless(ok bool, wrong string) error {
	if ok {
		return nil
	}
	return errors.New(wrong)
}

// tryPty opens a pseudo-terminal, both ends.
func tryPty() error {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	other, err := unix.Open("/dev/pts/"+strconv.Itoa(n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(other)
}

// tryLoopback connects to a port of its own on 127.0.0.1.
func tryLoopback() error {
	server, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeFD(server)
	at := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(server, at); err != nil {
		return err
	}
	if err := unix.Listen(server, 1); err != nil {
		return err
	}
	name, err := unix.Getsockname(server)
	if err != nil {
		return err
	}
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeFD(client)
	return unix.Connect(client, name)
}
