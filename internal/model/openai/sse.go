package openai

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// maxEvent bounds one event of a stream, in bytes.
const maxEvent = 32 << 20

var errTooLong = errors.New("an event of the stream is too long")

// sse reads the data of server-sent events. It joins several data lines by a newline, and
// passes over comments and all other fields. Lines end in \n or \r\n; the lone \r that the
// specification also knows is not looked for, since telling it apart would hold back each
// event until the next one begins.
type sse struct {
	r     *bufio.Reader
	begun bool
}

func newSSE(r io.Reader) *sse { return &sse{r: bufio.NewReaderSize(r, 16<<10)} }

// next returns the next event's data, valid until the following call, or io.EOF at the end.
// An event that the end cuts off before its blank line is returned too: servers exist that
// leave out the last one.
func (s *sse) next() ([]byte, error) {
	var data []byte
	has := false
	size := 0
	for {
		line, err := s.line()
		if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0) {
			if errors.Is(err, io.EOF) && has {
				return data, nil
			}
			return nil, err
		}
		if size += len(line); size > maxEvent {
			return nil, errTooLong
		}
		if len(line) == 0 {
			if has {
				return data, nil
			}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if string(name) != "data" {
			continue
		}
		value = bytes.TrimPrefix(value, []byte(" "))
		if has {
			data = append(data, '\n')
		}
		data = append(data, value...)
		has = true
	}
}

// line returns the next line without its ending (\n or \r\n), valid until the following
// call. At the end it returns what is left together with io.EOF.
func (s *sse) line() ([]byte, error) {
	if !s.begun {
		s.begun = true
		if b, err := s.r.Peek(3); err == nil && string(b) == "\xef\xbb\xbf" {
			_, _ = s.r.Discard(3) // just seen
		}
	}
	line, err := s.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := bytes.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			if len(long) > maxEvent {
				return nil, errTooLong
			}
			line, err = s.r.ReadSlice('\n')
			long = append(long, line...)
		}
		line = long
	}
	if err == nil {
		line = line[:len(line)-1]
	}
	return bytes.TrimSuffix(line, []byte("\r")), err
}
