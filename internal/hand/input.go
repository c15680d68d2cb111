package hand

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"syscall"
	"time"
)

// maxTimeout bounds every time-out, so that no arithmetic on it overflows.
const maxTimeout = 24 * time.Hour

// integer is a whole number; models write 5 and, now and then, 5.0.
type integer int64

// UnmarshalJSON reads a number without a fraction, between -2^53 and 2^53.
func (n *integer) UnmarshalJSON(data []byte) error {
	var f float64
	if err := json.Unmarshal(data, &f); err != nil {
		return err
	}
	if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return fmt.Errorf("%s is not a whole number", data)
	}
	*n = integer(f)
	return nil
}

// decodeInput reads a call's input into v. No input at all is an empty object.
func decodeInput(call Call, v any) error {
	raw := bytes.TrimSpace(call.Input)
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	err := json.Unmarshal(raw, v)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong) && wrong.Field != "":
		return fmt.Errorf("invalid input: %s must not be a JSON %s", wrong.Field, wrong.Value)
	case errors.As(err, &wrong):
		return fmt.Errorf("invalid input: it must be an object, not a JSON %s", wrong.Value)
	}
	return fmt.Errorf("invalid input: %w", err)
}

// timeLimit is how long a call may take: what the input asks for, or DefaultTimeout, but
// at most what the caller allows.
func timeLimit(allowed time.Duration, askedMS int64) time.Duration {
	limit := DefaultTimeout
	if askedMS > 0 {
		limit = maxTimeout
		if askedMS < int64(maxTimeout/time.Millisecond) {
			limit = time.Duration(askedMS) * time.Millisecond
		}
	}
	if allowed > 0 {
		limit = min(limit, allowed)
	}
	return limit
}

// errorResult is the result of a call that failed. What it quotes of the input may be long.
func errorResult(tool string, err error) Result {
	const most = 4000
	text := tool + ": " + err.Error()
	if len(text) > most {
		text = text[:most] + "…"
	}
	return textResult(text, true)
}

// plainError words an error of the file system without the path, which the caller names as
// the model wrote it.
func plainError(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file or directory"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// join puts b on a line of its own below a; either may be empty.
func join(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	case strings.HasSuffix(a, "\n"):
		return a + b
	}
	return a + "\n" + b
}
