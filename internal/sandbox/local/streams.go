//go:build linux && (amd64 || arm64)

package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"croft/internal/sandbox"
)

// streams are a program's standard input, output and error: for each a pipe of the
// caller's, a pipe whose other end is copied, or nothing.
type streams struct {
	given  [3]bool
	theirs []*os.File // in the order of given
	made   []*os.File // those of theirs that are ours to close

	input   *os.File // the end that is written; nil: none is copied
	source  io.Reader
	outputs []output

	copying sync.WaitGroup // of the outputs
	mu      sync.Mutex
	err     error // the first that ended a copy of an output
}

type output struct {
	from *os.File
	to   io.Writer
}

// openStreams makes the pipes that cmd's streams take.
func openStreams(cmd *sandbox.Command) (*streams, error) {
	s := &streams{}
	if err := s.open(cmd); err != nil {
		s.abandon()
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	return s, nil
}

func (s *streams) open(cmd *sandbox.Command) error {
	switch f, piped := pipe(cmd.Stdin); {
	case cmd.Stdin == nil:
	case piped:
		s.give(0, f)
	default:
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		s.give(0, r)
		s.made = append(s.made, r)
		s.input, s.source = w, cmd.Stdin
	}
	for i, to := range []io.Writer{cmd.Stdout, cmd.Stderr} {
		switch f, piped := pipe(to); {
		case to == nil:
		case i == 1 && s.given[1] && same(to, cmd.Stdout):
			s.give(2, s.theirs[len(s.theirs)-1])
		case piped:
			s.give(1+i, f)
		default:
			r, w, err := os.Pipe()
			if err != nil {
				return err
			}
			s.give(1+i, w)
			s.made = append(s.made, w)
			s.outputs = append(s.outputs, output{r, to})
		}
	}
	return nil
}

func (s *streams) give(i int, f *os.File) {
	s.given[i] = true
	s.theirs = append(s.theirs, f)
}

// pipe tells whether a stream is a pipe, which a program can be given as it is. Other files
// are copied: a sandbox is given nothing of the host's that it could seek, map or reopen.
func pipe(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	if !ok || f == nil {
		return nil, false
	}
	st, err := f.Stat()
	return f, err == nil && st.Mode()&os.ModeNamedPipe != 0
}

// same tells whether two writers are one, which then must not be written from two sides.
func same(a, b io.Writer) bool {
	defer func() { _ = recover() }() // types that cannot be compared are not the same
	return a == b
}

// fds are the descriptors for the program. They block, as programs expect.
func (s *streams) fds() []int {
	var fds []int
	for _, f := range s.theirs {
		fds = append(fds, int(f.Fd()))
	}
	return fds
}

// copy starts the copying, once the program has its ends.
func (s *streams) copy() {
	closeAll(s.made)
	if s.input != nil {
		// Nobody waits for this one: a Read of the caller's that is under way when the
		// program ends returns when it will, and what it brings is dropped.
		go func() {
			_, _ = io.Copy(s.input, s.source) // ends with the program at the latest
			s.input.Close()
		}()
	}
	for _, o := range s.outputs {
		s.copying.Go(func() {
			if err := o.copy(); err != nil {
				s.mu.Lock()
				s.err = errors.Join(s.err, err)
				s.mu.Unlock()
			}
		})
	}
}

// copy copies until every writer has closed the pipe, or until what the program wrote
// before it ended has been copied.
func (o output) copy() error {
	defer o.from.Close()
	_, err := io.Copy(o.to, o.from)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	// The program has ended, and others may hold the pipe open: take what is there.
	if err := o.from.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	raw, err := o.from.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		var n int
		var rerr error
		if err := raw.Read(func(fd uintptr) bool {
			n, rerr = syscall.Read(int(fd), buf)
			return !errors.Is(rerr, syscall.EINTR)
		}); err != nil {
			return err
		}
		if n <= 0 {
			return nil // nothing more is there now, or the pipe is closed
		}
		if _, err := o.to.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// closeInput ends a copied standard input and tells whether there was one.
func (s *streams) closeInput() bool {
	if s.input == nil {
		return false
	}
	s.input.Close()
	return true
}

// finish is called when the program has ended.
func (s *streams) finish() {
	s.closeInput()
	for _, o := range s.outputs {
		_ = o.from.SetReadDeadline(time.Now()) // unless it is closed already
	}
}

// wait returns when the outputs are copied.
func (s *streams) wait() error {
	s.copying.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// abandon closes everything: the program was not started.
func (s *streams) abandon() {
	closeAll(s.made)
	s.closeInput()
	for _, o := range s.outputs {
		o.from.Close()
	}
}
