// Package transport holds what the providers that speak HTTP share: a client that follows
// no redirects, the table from HTTP faults to model.Error, and the watch over streams that
// stall. It knows no provider's request or response. The providers (anthropic, openai) call
// it; it may import package model and the standard library.
//
// The rules of the table, the same for every provider:
//
//	429                          rate limited, tried again, after what retry-after says
//	503, 529, "overloaded"       overloaded, tried again
//	402, a used-up quota         billing, not tried again
//	408, 409, other 5xx          failed, tried again
//	other 4xx, 3xx               failed, not tried again: the request itself is at fault
//	no answer, a cut or stalled stream   failed, tried again
//	a bad certificate or address failed, not tried again
//
// The header x-should-retry, where a server sends it, has the last word on trying again.
// Messages name the provider and what it said, and never hold the key: every occurrence of
// it is replaced before an error leaves this package.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"croft/internal/model"
)

// DefaultIdle is how long a stream may be silent before it counts as stalled.
const DefaultIdle = 5 * time.Minute

const (
	maxMessage    = 2000           // bytes of a provider's words that a message repeats
	maxRetryAfter = 24 * time.Hour // longer waits are cut to this
	minSecret     = 8              // shorter keys ("none", "ollama") are no secrets
)

// Side is one provider's end: who speaks, and which secret must not be repeated.
type Side struct {
	Name string // "anthropic", "openai": the first word of every message
	Key  string // the API key, or ""
}

// Reply is a fault as a server described it. Header may be nil.
type Reply struct {
	Status  int // 0 when the fault came inside a stream
	Header  http.Header
	Type    string // the error's type, such as overloaded_error
	Code    string // the error's code, such as insufficient_quota
	Message string
	ID      string // the server's id of the request
}

// Client returns an HTTP client for a provider: base, or one of its own when base is nil,
// without redirects, because a redirect would carry the key's header to another host.
func Client(base *http.Client) *http.Client {
	c := &http.Client{}
	if base != nil {
		*c = *base
	} else if t, ok := http.DefaultTransport.(*http.Transport); ok {
		own := t.Clone()
		// Sessions by the hundred ask the same host; the default keeps two connections.
		own.MaxIdleConnsPerHost = 256
		own.MaxIdleConns = 512
		c.Transport = own
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// BaseURL checks and cleans a configured base URL: http or https, a host, no user, query or
// fragment (a key there would reach logs). The result has no slash at its end.
func BaseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("the base URL cannot be read as a URL")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, errors.New("the base URL must begin with http:// or https:// and name a host")
	case u.User != nil:
		return nil, errors.New("the base URL must not hold a user or a password; name the key's variable instead")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the base URL must have no query and no fragment")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u, nil
}

// Fault maps what a server said to an error.
func (s Side) Fault(r Reply) *model.Error {
	e := &model.Error{Message: s.message(r)}
	words := strings.ToLower(r.Type + " " + r.Code)
	switch {
	case r.Status == http.StatusPaymentRequired, contains(words, "billing", "insufficient_quota", "spend_limit"):
		// A used-up quota often comes as a 429, but waiting does not help.
		e.Kind = model.BillingError
	case r.Status == http.StatusTooManyRequests, r.Status == 0 && contains(words, "rate_limit", "too_many_requests", "429"):
		e.Kind, e.Retry = model.RateLimited, true
	case r.Status == http.StatusServiceUnavailable, r.Status == 529, contains(words, "overloaded"),
		r.Status == 0 && contains(words, "529", "503", "unavailable"):
		e.Kind, e.Retry = model.Overloaded, true
	case r.Status == http.StatusRequestTimeout, r.Status == http.StatusConflict, r.Status >= 500:
		e.Kind, e.Retry = model.RequestFailed, true
	case r.Status == 0:
		// In mid-stream the request had been accepted: unless the server blames it, it may work again.
		e.Kind, e.Retry = model.RequestFailed, !contains(words, "invalid_request", "badrequest", "authentication", "permission", "not_found", "400", "401", "403", "404", "413")
	default:
		e.Kind = model.RequestFailed
	}
	if r.Header != nil {
		switch r.Header.Get("x-should-retry") {
		case "true":
			e.Retry = true
		case "false":
			e.Retry = false
		}
		if e.Retry {
			e.RetryAfter = RetryAfter(r.Header, time.Now())
		}
	}
	return e
}

// Broken maps a failure of the connection or of the stream: err is what the HTTP client or
// the reading of the body returned, host the server's name.
func (s Side) Broken(host string, err error) *model.Error {
	e := &model.Error{Kind: model.RequestFailed, Retry: true}
	var (
		ue      *url.Error
		certErr *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		dns     *net.DNSError
		said    string
		timeout interface{ Timeout() bool }
	)
	inner := err
	if errors.As(err, &ue) {
		inner = ue.Err // the URL itself is left out of the message
	}
	switch {
	case errors.Is(err, ErrStalled):
		said = "the stream stalled: nothing came for too long"
	case errors.Is(err, ErrCut):
		said = "the stream ended before the response was complete"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		said = "the connection was cut"
	case errors.As(err, &certErr), errors.As(err, &unknown), errors.As(err, &name):
		e.Retry = false
		said = "the server's certificate is not trusted: " + inner.Error()
	case errors.As(err, &dns):
		said = "the server's name could not be resolved: " + dns.Err
	case errors.As(err, &timeout) && timeout.Timeout():
		said = "the connection timed out"
	case ue != nil && strings.Contains(inner.Error(), "unsupported protocol scheme"):
		e.Retry = false
		said = inner.Error()
	default:
		said = inner.Error()
	}
	e.Message = s.Clean(fmt.Sprintf("%s: %s: %s", s.Name, host, said))
	e.Cause = errors.New(s.Clean(inner.Error()))
	return e
}

// Refuse makes the error for a request that this provider cannot carry: it is never sent
// and trying again does not help.
func (s Side) Refuse(format string, args ...any) *model.Error {
	return &model.Error{Kind: model.RequestFailed, Message: s.Clean(s.Name + ": " + fmt.Sprintf(format, args...))}
}

// Garbled makes the error for an answer that breaks the protocol; the next one may not.
func (s Side) Garbled(format string, args ...any) *model.Error {
	e := s.Refuse(format, args...)
	e.Retry = true
	return e
}

func (s Side) message(r Reply) string {
	var b strings.Builder
	b.WriteString(s.Name)
	b.WriteString(": ")
	if r.Status != 0 {
		b.WriteString(strconv.Itoa(r.Status))
		b.WriteByte(' ')
	}
	switch {
	case r.Type != "":
		b.WriteString(r.Type)
	case r.Code != "":
		b.WriteString(r.Code)
	case r.Status != 0:
		b.WriteString(strings.ToLower(http.StatusText(r.Status)))
	default:
		b.WriteString("error")
	}
	if m := strings.TrimSpace(r.Message); m != "" {
		b.WriteString(": ")
		b.WriteString(Excerpt(m, maxMessage))
	}
	if r.ID != "" {
		b.WriteString(" (request ")
		b.WriteString(Excerpt(r.ID, 100))
		b.WriteByte(')')
	}
	return s.Clean(b.String())
}

// Clean replaces the key, wherever it stands in text, by a placeholder.
func (s Side) Clean(text string) string {
	if len(s.Key) < minSecret {
		return text
	}
	return strings.ReplaceAll(text, s.Key, "[key]")
}

// Excerpt cuts s to at most n bytes, at a character's border, and marks the cut.
func Excerpt(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// RetryAfter reads retry-after-ms, or retry-after in seconds or as an HTTP date. It is 0
// when neither is there or readable, and at most a day.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	if d, ok := seconds(h.Get("retry-after-ms"), time.Millisecond); ok {
		return d
	}
	v := strings.TrimSpace(h.Get("retry-after"))
	if d, ok := seconds(v, time.Second); ok {
		return d
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

func seconds(v string, unit time.Duration) (time.Duration, bool) {
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || math.IsNaN(n) {
		return 0, false
	}
	return time.Duration(min(max(n*float64(unit), 0), float64(maxRetryAfter))), true
}

func contains(s string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// Faults of streams that only the reader can notice.
var (
	ErrStalled = errors.New("stream stalled")
	ErrCut     = errors.New("stream cut")
)

// Watch ends a request whose server falls silent. Every read of a watched body, and the
// arrival of the response's header, starts the waiting anew.
type Watch struct {
	idle   time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// NewWatch returns a context for one request, which ends with ErrStalled as its cause after
// idle of silence (DefaultIdle when idle is 0), and the watch, which the caller must Stop.
func NewWatch(ctx context.Context, idle time.Duration) (context.Context, *Watch) {
	if idle <= 0 {
		idle = DefaultIdle
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w := &Watch{idle: idle, cancel: cancel}
	w.timer = time.AfterFunc(idle, func() { cancel(ErrStalled) })
	return ctx, w
}

// Stop ends the watch and its context.
func (w *Watch) Stop() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}

// Body returns r, watched.
func (w *Watch) Body(r io.ReadCloser) io.ReadCloser {
	w.timer.Reset(w.idle)
	return &watched{r, w}
}

type watched struct {
	io.ReadCloser
	watch *Watch
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watch.timer.Reset(b.watch.idle)
	}
	return n, err
}

// Ended tells what err, met under the watch's context ctx, comes down to: the caller's own
// end (parent.Err()), a stall, or err itself.
func Ended(parent, ctx context.Context, err error) error {
	if perr := parent.Err(); perr != nil {
		return perr
	}
	if errors.Is(context.Cause(ctx), ErrStalled) {
		return ErrStalled
	}
	return err
}
