package shell

import (
	"io"
	"os"
	"sync"
	"time"
)

// screen is the reading end of a shell's terminal: one goroutine that reads it to its end,
// gives what the running command prints to that command's output, and drops the rest, such
// as what background jobs print between two calls.
type screen struct {
	// marks are those of the commands that were shown, in order.
	marks  chan mark
	master *os.File
	done   chan struct{}

	mu  sync.Mutex
	seq uint64    // of the command being shown
	out io.Writer // nil when none is
}

// watch starts to read master, which it closes at the end.
func watch(master *os.File, secret string) *screen {
	s := &screen{marks: make(chan mark, 16), master: master, done: make(chan struct{})}
	go s.read(secret)
	return s
}

// show gives what comes from now on to out, up to the mark of command seq.
func (s *screen) show(seq uint64, out io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq, s.out = seq, out
}

// hide lets go of the output, which is the caller's alone from then on.
func (s *screen) hide() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = nil
}

func (s *screen) read(secret string) {
	defer close(s.done)
	f := filter{secret: secret}
	text := func(p []byte) {
		if s.out != nil {
			_, _ = s.out.Write(p) // it keeps its troubles to itself
		}
	}
	ended := func(m mark) {
		if m.seq != s.seq {
			return
		}
		s.out = nil
		select {
		case s.marks <- m:
		default: // a mark printed over and over: one was enough
		}
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := s.master.Read(buf)
		s.mu.Lock()
		f.feed(buf[:n], text, ended)
		if err != nil { // EIO once nobody has the terminal open
			f.flush(text)
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// close waits until the terminal has been read to its end, which comes when its last user
// has closed it, or until grace has passed, and releases it.
func (s *screen) close(grace time.Duration) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C: // a process that left the session holds it open
	}
	s.master.Close()
	<-s.done
}
