package initproc

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// server is the second life: it has no capability, the programs' user and the programs'
// seccomp filter.
type server struct {
	out sync.Mutex // one frame at a time
	mu  sync.Mutex // guards what follows
	// hasChild wakes the reaper when there is a child again.
	hasChild sync.Cond
	programs map[int]uint32 // pid → the program's number
	kills    chan uint32    // programs to kill, one at a time
	tags     uint64         // see tag
	devNull  int
}

// serve answers requests until the worker's end of the socket closes.
func serve() {
	// The programs have this process's user, and may not look into it or change it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		os.Exit(1)
	}
	s := &server{programs: map[int]uint32{}, kills: make(chan uint32, 64)}
	s.hasChild.L = &s.mu
	var err error
	var locks unix.Rlimit
	if err = unix.Getrlimit(unix.RLIMIT_LOCKS, &locks); err != nil {
		os.Exit(1)
	}
	s.tags = min(locks.Max, 1<<40)
	if s.devNull, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		os.Exit(1)
	}
	unix.CloseOnExec(socketFD)
	unix.Umask(0o022)
	startThreads()
	go s.reap()
	go s.serveKills()
	s.send(FrameReady, 0, nil)
	for {
		h, body, fds, err := readRequest(3)
		if err != nil {
			os.Exit(0) // the namespace's other processes end with this one
		}
		switch h.Kind {
		case FrameStart:
			s.start(h.ID, body, fds)
		case FrameKill:
			s.kills <- h.ID
		default:
			os.Exit(1)
		}
		for _, fd := range fds {
			closeFD(fd)
		}
	}
}

// startThreads makes every thread that this process will need, and leaves them to the
// runtime. It counts among the processes of the sandbox: were its threads made when they
// are needed, programs that use up the limit would end it, and all of the sandbox with it.
func startThreads() {
	const threads = 6 // two that run, those that wait in the kernel here, and one more
	var started sync.WaitGroup
	release := make(chan struct{})
	for range threads {
		started.Add(1)
		go func() {
			runtime.LockOSThread()
			started.Done()
			<-release
			runtime.UnlockOSThread()
		}()
	}
	started.Wait()
	close(release)
}

// tag is the number by which a program and everything it starts are known, however they
// detach from one another: the hard limit on file locks, which no kernel has enforced since
// 2.4, every process inherits and none can raise. A program that lowers its own gets away
// from a Kill, not from the sandbox's end.
func (s *server) tag(id uint32) uint64 { return s.tags - uint64(id) }

func (s *server) start(id uint32, body []byte, fds []int) {
	refuse := func(doing string, err error) {
		f := Failure{Doing: doing}
		if errno := unix.Errno(0); errors.As(err, &errno) {
			f.Errno = uint32(errno)
		}
		s.send(FrameRefused, id, f.Encode())
	}
	req, err := DecodeStart(body)
	if err != nil || len(req.Args) == 0 {
		refuse("read the request", unix.EBADMSG)
		return
	}
	files := [3]uintptr{uintptr(s.devNull), uintptr(s.devNull), uintptr(s.devNull)}
	for i, given := range req.Streams {
		if given && len(fds) > 0 {
			files[i], fds = uintptr(fds[0]), fds[1:]
		}
	}
	if err := unix.Access(req.Dir, unix.X_OK); err != nil {
		refuse("enter "+req.Dir, err)
		return
	}
	path := req.Path
	if path == "" {
		if path, err = lookPath(req.Args[0], req.Env); err != nil {
			refuse("find "+req.Args[0], err)
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	tag := s.tag(id)
	if err := unix.Setrlimit(unix.RLIMIT_LOCKS, &unix.Rlimit{Cur: tag, Max: tag}); err != nil {
		refuse("mark "+req.Args[0], err)
		return
	}
	pid, err := syscall.ForkExec(path, req.Args, &syscall.ProcAttr{
		Dir: req.Dir, Env: req.Env, Files: files[:], Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		refuse("execute "+path, err)
		return
	}
	s.programs[pid] = id
	// While the lock is held, so that the reaper's word comes after this one.
	s.send(FrameStarted, id, nil)
	s.hasChild.Signal()
}

// lookPath finds a program as a shell does. A name with a slash stands for itself.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var dirs string
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			dirs = v
		}
	}
	found := error(unix.ENOENT)
	for _, dir := range strings.Split(dirs, ":") {
		if dir == "" || name == "" {
			continue
		}
		p := dir + "/" + name
		var st unix.Stat_t
		if unix.Stat(p, &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		if unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
		found = unix.EACCES
	}
	return "", found
}

// reap collects every dead process of the namespace and reports those that were asked for.
func (s *server) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		s.mu.Lock()
		switch {
		case errors.Is(err, unix.ECHILD):
			// A child that was started since Wait4 looked stands in the table.
			for len(s.programs) == 0 {
				s.hasChild.Wait()
			}
		case err == nil:
			if id, ok := s.programs[pid]; ok {
				delete(s.programs, pid)
				s.send(FrameExited, id, binary.LittleEndian.AppendUint32(nil, uint32(status)))
			}
		}
		s.mu.Unlock()
	}
}

// serveKills kills programs in the order of the requests.
func (s *server) serveKills() {
	for id := range s.kills {
		s.kill(id)
	}
}

// kill ends a program and everything it started and reports it. It stops them all first, so
// that none can start another while it is looked for; only a process that cannot be killed
// (waiting for a broken disk) is left after some seconds.
func (s *server) kill(id uint32) {
	tag := s.tag(id)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		stopped := map[int]bool{}
		for fresh := true; fresh; {
			fresh = false
			for _, pid := range tagged(tag) {
				if !stopped[pid] && unix.Kill(pid, unix.SIGSTOP) == nil {
					stopped[pid], fresh = true, true
				}
			}
		}
		if len(stopped) == 0 {
			break
		}
		for pid := range stopped {
			_ = unix.Kill(pid, unix.SIGKILL) // unless it has ended
		}
		time.Sleep(time.Millisecond)
	}
	s.send(FrameKilled, id, nil)
}

// tagged lists the living processes that carry a tag.
func tagged(tag uint64) []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == 1 {
			continue
		}
		var locks unix.Rlimit
		if unix.Prlimit(pid, unix.RLIMIT_LOCKS, nil, &locks) == nil && locks.Max == tag && !isZombie(name) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func isZombie(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	return strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

// readRequest reads one frame and the descriptors, at most max, that came with it.
func readRequest(max int) (Header, []byte, []int, error) {
	head := make([]byte, HeaderSize)
	oob := make([]byte, unix.CmsgSpace(4*max))
	var n, oobn int
	var err error
	for {
		n, oobn, _, _, err = unix.Recvmsg(socketFD, head, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_WAITALL)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return Header{}, nil, nil, err
	}
	if n < HeaderSize {
		return Header{}, nil, nil, unix.ECONNRESET
	}
	var fds []int
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return Header{}, nil, nil, err
		}
		for i := range msgs {
			got, err := unix.ParseUnixRights(&msgs[i])
			if err != nil {
				return Header{}, nil, nil, err
			}
			fds = append(fds, got...)
		}
	}
	h, err := ParseHeader(head)
	if err != nil {
		return Header{}, nil, nil, err
	}
	body := make([]byte, h.Size)
	for at := 0; at < len(body); {
		n, err := unix.Read(socketFD, body[at:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return Header{}, nil, nil, err
		}
		if n == 0 {
			return Header{}, nil, nil, unix.ECONNRESET
		}
		at += n
	}
	return h, body, fds, nil
}

func (s *server) send(kind Kind, id uint32, body []byte) {
	s.out.Lock()
	defer s.out.Unlock()
	writeAll(Frame(kind, id, body))
}

// writeAll sends a frame. A worker that is gone is noticed by the next read.
func writeAll(b []byte) {
	for len(b) > 0 {
		n, err := unix.Write(socketFD, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		b = b[n:]
	}
}
