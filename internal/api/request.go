package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"croft"
)

// run brings a request through the checks to its handler.
func (c *call) run() error {
	if c.route.who != anyone {
		if err := c.admit(); err != nil {
			return err
		}
	}
	if c.route.serve == nil {
		return errNotServed(c.r.Method, c.r.URL.Path)
	}
	if err := c.readQuery(); err != nil {
		return err
	}
	c.ctx = c.r.Context()
	if c.route.stream {
		return c.route.serve(c)
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.api.timeout)
	defer cancel()
	c.ctx = ctx
	if key := c.r.Header.Values("Idempotency-Key"); c.route.keyed && len(key) > 0 {
		return c.once(key)
	}
	return c.route.serve(c)
}

// readBody returns the request's body. It is read once, within the request's time.
func (c *call) readBody() ([]byte, error) {
	if c.body != nil {
		return c.body, nil
	}
	if e := c.r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return nil, croft.Invalid("", "the header content-encoding: accepted is a body that is not encoded")
	}
	if c.r.ContentLength > croft.MaxBody {
		return nil, &http.MaxBytesError{Limit: croft.MaxBody}
	}
	control := http.NewResponseController(c)
	// Where there is no connection there is no deadline: a call in process.
	_ = control.SetReadDeadline(time.Now().Add(c.api.timeout))
	var b bytes.Buffer
	b.Grow(int(min(max(c.r.ContentLength, 0), 1<<20)) + bytes.MinRead)
	_, err := b.ReadFrom(http.MaxBytesReader(c.ResponseWriter, c.r.Body, croft.MaxBody))
	var large *http.MaxBytesError
	switch {
	case err == nil:
		_ = control.SetReadDeadline(time.Time{}) // else it stays: the server must not wait for the rest, either
	case errors.As(err, &large):
		return nil, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.late = true
		return nil, croft.Errorf(croft.Timeout, "the body did not arrive within %s", c.api.timeout)
	default:
		return nil, &croft.Error{Type: croft.InvalidRequest, Message: "the body could not be read to its end", Cause: err}
	}
	c.body = b.Bytes()
	return c.body, nil
}

// reply answers with v.
func (c *call) reply(v any) (err error) {
	c.answer, err = encode(v)
	return err
}

// replyData answers with data whose elements have their JSON form already.
func (c *call) replyData(data []json.RawMessage) error {
	c.answer = append(appendData(data), '}')
	return nil
}

// replyPage is replyData for a page of a list; next is the next page's cursor.
func (c *call) replyPage(data []json.RawMessage, next *string) error {
	cursor, err := encode(next)
	if err != nil {
		return err
	}
	c.answer = append(append(append(appendData(data), `,"next_page":`...), cursor...), '}')
	return nil
}

func appendData(data []json.RawMessage) []byte {
	size := 256
	for _, d := range data {
		size += len(d) + 1
	}
	b := append(make([]byte, 0, size), `{"data":[`...)
	for i, d := range data {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, d...)
	}
	return append(b, ']')
}

const (
	// small is a body for which no write deadline is set, in bytes.
	small = 4 << 10
	// answerTime is how long a client may take for an answer.
	answerTime = 2 * time.Minute
)

// send writes a whole response of JSON.
func (c *call) send(status int, body []byte) {
	h := c.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if len(body) > small {
		// A client that does not read must not hold the handler for ever. What is small
		// fits into the connection's buffers.
		control := http.NewResponseController(c)
		_ = control.SetWriteDeadline(time.Now().Add(answerTime))
		defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	}
	c.WriteHeader(status)
	_, _ = c.Write(body) // the client may have left
}
