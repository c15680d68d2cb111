package croft

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// ErrorType is the wire's error.type.
type ErrorType string

// The error types of the wire, each with its HTTP status (see Status).
const (
	InvalidRequest     ErrorType = "invalid_request_error"
	Authentication     ErrorType = "authentication_error"
	Billing            ErrorType = "billing_error"
	Permission         ErrorType = "permission_error"
	NotFound           ErrorType = "not_found_error"
	Conflict           ErrorType = "conflict_error"
	PreconditionFailed ErrorType = "precondition_failed_error"
	TooLarge           ErrorType = "request_too_large"
	RateLimited        ErrorType = "rate_limit_error"
	Internal           ErrorType = "api_error"
	Timeout            ErrorType = "timeout_error"
	Overloaded         ErrorType = "overloaded_error"
	NotServed          ErrorType = "not_served" // written on the wire as api_error with status 501
)

// Error is the one error type that a client may see: everything else is answered as an
// opaque 500 and logged with its cause. Message never holds a secret.
type Error struct {
	Type ErrorType
	// Path names the field at fault, as in "agent.tools.0.configs.1.name"; empty when no field is.
	Path string
	// Message says what is wrong and what would be accepted.
	Message string
	// RetryAfter, when positive, becomes the retry-after header.
	RetryAfter time.Duration
	// Cause is logged, never sent.
	Cause error
}

// Error gives the message as the wire carries it: the path, a colon, the message.
func (e *Error) Error() string {
	if e.Path == "" {
		return e.Message
	}
	return e.Path + ": " + e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Status is the HTTP status of the error's type.
func (e *Error) Status() int {
	switch e.Type {
	case InvalidRequest:
		return http.StatusBadRequest
	case Authentication:
		return http.StatusUnauthorized
	case Billing:
		return http.StatusPaymentRequired
	case Permission:
		return http.StatusForbidden
	case NotFound:
		return http.StatusNotFound
	case Conflict:
		return http.StatusConflict
	case PreconditionFailed:
		return http.StatusPreconditionFailed
	case TooLarge:
		return http.StatusRequestEntityTooLarge
	case RateLimited:
		return http.StatusTooManyRequests
	case Timeout:
		return http.StatusGatewayTimeout
	case Overloaded:
		return 529
	case NotServed:
		return http.StatusNotImplemented
	default:
		return http.StatusInternalServerError
	}
}

// Errorf makes an Error without a path.
func Errorf(t ErrorType, format string, args ...any) *Error {
	return &Error{Type: t, Message: fmt.Sprintf(format, args...)}
}

// Invalid makes the 400 for the field at path.
func Invalid(path, format string, args ...any) *Error {
	return &Error{Type: InvalidRequest, Path: path, Message: fmt.Sprintf(format, args...)}
}

// Missing makes the 404 for an id of the given noun ("session", "agent", …).
func Missing(noun, id string) *Error {
	return &Error{Type: NotFound, Message: fmt.Sprintf("%s %q was not found", noun, id)}
}

// IsType tells whether err is, or wraps, an Error of type t.
func IsType(err error, t ErrorType) bool {
	var e *Error
	return errors.As(err, &e) && e.Type == t
}
