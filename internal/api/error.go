package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"croft"
	"croft/internal/session"
	"croft/internal/sse"
	"croft/internal/store"
)

// statusClientLeft is what the log shows for a request whose client did not wait. It is
// never sent.
const statusClientLeft = 499

// fail answers a request with err. It is the one way out for errors.
func (a *API) fail(c *call, err error) {
	if c.r.Context().Err() != nil && !c.late {
		a.log.Debug("the client left", "request_id", c.id, "err", err)
		if c.status == 0 {
			c.status = statusClientLeft
		}
		return
	}
	if c.status != 0 {
		// The response has begun: all that is left is to cut it, so that no client takes
		// the part for the whole.
		a.log.Error("a response was cut", "request_id", c.id, "err", err)
		panic(http.ErrAbortHandler)
	}
	e := a.public(c.id, err)
	status := e.Status()
	h := c.Header()
	var method *methodError
	if errors.As(err, &method) {
		status = http.StatusMethodNotAllowed
		h.Set("Allow", method.allow)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	switch status {
	case http.StatusConflict:
		// The official clients repeat a 409 by themselves; most conflicts here stay.
		h.Set("X-Should-Retry", strconv.FormatBool(e.RetryAfter > 0))
	case http.StatusNotImplemented:
		h.Set("X-Should-Retry", "false")
	}
	c.send(status, envelope(e, c.id))
}

// public is what a client may see of err. What it may not see is logged.
func (a *API) public(request string, err error) *croft.Error {
	var e *croft.Error
	var large *http.MaxBytesError
	var slow *session.SlowError
	var method *methodError
	var full *store.FullError
	switch {
	case errors.As(err, &e):
		if e.Cause != nil {
			a.log.Warn("request failed", "request_id", request, "err", e, "cause", e.Cause)
		}
		return e
	case errors.As(err, &method):
		return croft.Errorf(croft.InvalidRequest, "%s", method.Error())
	case errors.As(err, &full):
		a.log.Error("the disk is full", "request_id", request, "err", err)
		return croft.Errorf(croft.Internal, "this server's disk is full: nothing was stored")
	case errors.As(err, &large):
		return croft.Errorf(croft.TooLarge, "the body is larger than the %d bytes that are accepted", large.Limit)
	case errors.As(err, &slow):
		return croft.Errorf(croft.Timeout, "%s", slow.Error())
	case errors.Is(err, sse.ErrSlow):
		return croft.Errorf(croft.Timeout, "%s", sse.ErrSlow.Error())
	case errors.Is(err, sse.ErrStopping):
		return &croft.Error{Type: croft.Overloaded, Message: "this server is stopping", RetryAfter: time.Second}
	case errors.Is(err, context.DeadlineExceeded):
		return croft.Errorf(croft.Timeout, "the request took too long and was given up; whether it took effect is not known")
	case !errors.Is(err, errPanic): // which is logged already, with its stack
		a.log.Error("request failed", "request_id", request, "err", err)
	}
	return croft.Errorf(croft.Internal, "an error of this server; its log says more under %s", request)
}

// methodError is a 405.
type methodError struct{ method, path, allow string }

func (e *methodError) Error() string {
	return e.method + " is not allowed for " + e.path + ": accepted is " + e.allow
}

// envelope is the wire form of an error.
func envelope(e *croft.Error, request string) []byte {
	typ := e.Type
	if typ == croft.NotServed {
		typ = croft.Internal
	}
	type inner struct {
		Type    croft.ErrorType `json:"type"`
		Message string          `json:"message"`
	}
	b, err := encode(struct {
		Type      string `json:"type"`
		Error     inner  `json:"error"`
		RequestID string `json:"request_id"`
	}{"error", inner{typ, e.Error()}, request})
	if err != nil {
		panic(err) // strings always have a JSON form
	}
	return b
}

// lastWords is the error frame's data when a stream ends early.
func (a *API) lastWords(err error, request string) []byte {
	return envelope(a.public(request, err), request)
}

// errNotServed is the 501 of a route that this version lacks.
func errNotServed(method, pattern string) *croft.Error {
	return croft.Errorf(croft.NotServed, "%s %s is not served by this version of Croft", method, pattern)
}

// encode is json.Marshal without the escapes for HTML, and without a line end.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
