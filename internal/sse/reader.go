package sse

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// MaxEvent is the default bound of one event that a Reader accepts, in bytes: a request's
// largest body, as one JSON string with every quote escaped, fits.
const MaxEvent = 80 << 20

// ErrTooLong is returned for a line or an event beyond the reader's bound. Nothing can be
// read behind it.
var ErrTooLong = errors.New("sse: an event of the stream is larger than this reader accepts")

// Reader reads a stream by the rules of the HTML standard: lines end with CR, LF or both,
// comments and unknown fields are skipped, an event without data is none, and what stands
// behind the last empty line is dropped. It is not safe for concurrent use.
type Reader struct {
	r      *bufio.Reader
	max    int
	lastID string
	line   []byte
	skipLF bool // the last line ended with CR: a LF right behind belongs to it
	begun  bool // the first line was read: no byte order mark any more
	err    error
}

// NewReader reads from r. max bounds one event in bytes; 0 means MaxEvent.
func NewReader(r io.Reader, max int) *Reader {
	if max <= 0 {
		max = MaxEvent
	}
	return &Reader{r: bufio.NewReader(r), max: max}
}

// LastID is the id that a client sends as Last-Event-ID to resume: that of the last event
// that had one, or empty.
func (r *Reader) LastID() string { return r.lastID }

// Next returns the next event. Its ID is empty where the event has none of its own, its
// Data belongs to the caller. At the stream's end Next returns io.EOF; after any error it
// returns the same again.
func (r *Reader) Next() (Frame, error) {
	var f Frame
	var id string
	var hasID, hasData bool
	size := 0
	for r.err == nil {
		line, err := r.readLine()
		if err != nil {
			r.err = err
			break
		}
		if size += len(line); size > r.max {
			r.err = ErrTooLong
			break
		}
		if len(line) == 0 {
			size = 0
			if hasID {
				r.lastID = id
			}
			if !hasData {
				f, id, hasID = Frame{}, "", false
				continue
			}
			f.ID = id
			return f, nil
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(name) {
		case "event":
			f.Event = string(value)
		case "data":
			if hasData {
				f.Data = append(f.Data, '\n')
			}
			f.Data, hasData = append(f.Data, value...), true
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				id, hasID = string(value), true
			}
		}
	}
	return Frame{}, r.err
}

// readLine returns the next line without its end; the slice is valid until the next call.
// A line that is cut off by the end of the stream is none.
func (r *Reader) readLine() ([]byte, error) {
	r.line = r.line[:0]
	for {
		if _, err := r.r.Peek(1); err != nil {
			return nil, err
		}
		buf, _ := r.r.Peek(r.r.Buffered())
		if r.skipLF {
			r.skipLF = false
			if buf[0] == '\n' {
				_, _ = r.r.Discard(1)
				continue
			}
		}
		end := bytes.IndexAny(buf, "\r\n")
		take := end
		if end < 0 {
			take = len(buf)
		}
		if len(r.line)+take > r.max {
			return nil, ErrTooLong
		}
		r.line = append(r.line, buf[:take]...)
		if end < 0 {
			_, _ = r.r.Discard(take)
			continue
		}
		r.skipLF = buf[end] == '\r'
		_, _ = r.r.Discard(end + 1)
		if !r.begun {
			r.begun = true
			return bytes.TrimPrefix(r.line, []byte("\xef\xbb\xbf")), nil
		}
		return r.line, nil
	}
}
