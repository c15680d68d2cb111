package transport

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"croft/internal/model"
)

const key = "sk-secret-0123456789"

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		header, value string
		want          time.Duration
	}{
		{"retry-after", "7", 7 * time.Second},
		{"retry-after", "0.5", 500 * time.Millisecond},
		{"retry-after", "-3", 0},
		{"retry-after", "NaN", 0},
		{"retry-after", "1e300", 24 * time.Hour},
		{"retry-after", "Wed, 01 Jul 2026 12:00:30 GMT", 30 * time.Second},
		{"retry-after", "Wed, 01 Jul 2026 11:00:00 GMT", 0},
		{"retry-after", "Wed, 01 Jul 2099 11:00:00 GMT", 24 * time.Hour},
		{"retry-after", "soon", 0},
		{"retry-after-ms", "1500", 1500 * time.Millisecond},
		{"x-other", "7", 0},
	}
	for _, tt := range tests {
		h := http.Header{}
		h.Set(tt.header, tt.value)
		if got := RetryAfter(h, now); got != tt.want {
			t.Errorf("%s: %s: %s, want %s", tt.header, tt.value, got, tt.want)
		}
	}
}

func TestBroken(t *testing.T) {
	side := Side{Name: "p", Key: key}
	u := func(err error) error { return &url.Error{Op: "Post", URL: "http://h/?k=" + key, Err: err} }
	tests := []struct {
		err   error
		retry bool
		want  string
	}{
		{u(&net.OpError{Op: "dial", Err: errors.New("connection refused")}), true, "p: h: dial: connection refused"},
		{u(&net.OpError{Op: "read", Err: timeoutError{}}), true, "p: h: the connection timed out"},
		{u(&net.DNSError{Err: "no such host", Name: "h", IsNotFound: true}), true, "p: h: the server's name could not be resolved: no such host"},
		{u(io.EOF), true, "p: h: the connection was cut"},
		{fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), true, "p: h: the connection was cut"},
		{ErrCut, true, "p: h: the stream ended before the response was complete"},
		{ErrStalled, true, "p: h: the stream stalled: nothing came for too long"},
		{u(x509.UnknownAuthorityError{}), false, "p: h: the server's certificate is not trusted: x509: certificate signed by unknown authority"},
		{u(errors.New(`unsupported protocol scheme "x"`)), false, `p: h: unsupported protocol scheme "x"`},
		{errors.New("odd " + key), true, "p: h: odd [key]"},
	}
	for _, tt := range tests {
		e := side.Broken("h", tt.err)
		if e.Kind != model.RequestFailed || e.Retry != tt.retry || e.Message != tt.want {
			t.Errorf("%v:\n got %s, %v\nwant %s, %v", tt.err, e.Message, e.Retry, tt.want, tt.retry)
		}
		if e.Cause == nil || strings.Contains(e.Cause.Error(), key) {
			t.Errorf("cause %v", e.Cause)
		}
	}
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func TestMessagesAreShort(t *testing.T) {
	e := Side{Name: "p"}.Fault(Reply{Status: 500, Message: strings.Repeat("é", maxMessage)})
	if len(e.Message) > maxMessage+100 || !strings.HasSuffix(e.Message, "é…") {
		t.Errorf("%d bytes, ending in %q", len(e.Message), e.Message[len(e.Message)-10:])
	}
	if got := (Side{Name: "p", Key: "none"}).Clean("none of it"); got != "none of it" {
		t.Errorf("a word for no key was taken for a secret: %s", got)
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, w := NewWatch(context.Background(), time.Second)
		defer w.Stop()
		r, pw := io.Pipe()
		body := w.Body(r)
		go func() {
			for range 5 {
				time.Sleep(900 * time.Millisecond) // never silent for a second
				_, _ = pw.Write([]byte("x"))
			}
		}()
		buf := make([]byte, 1)
		for i := range 5 {
			if _, err := body.Read(buf); err != nil || ctx.Err() != nil {
				t.Fatalf("read %d: %v, %v", i, err, ctx.Err())
			}
		}
		<-ctx.Done()
		if err := Ended(context.Background(), ctx, ctx.Err()); !errors.Is(err, ErrStalled) {
			t.Errorf("the silence ended it with %v", err)
		}
		_ = pw.Close()
	})
	parent, cancel := context.WithCancel(context.Background())
	ctx, w := NewWatch(parent, 0)
	cancel()
	<-ctx.Done()
	if err := Ended(parent, ctx, errors.New("read: use of closed connection")); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller's end became %v", err)
	}
	w.Stop()
	if err := Ended(context.Background(), ctx, io.EOF); !errors.Is(err, io.EOF) {
		t.Errorf("an end of its own became %v", err)
	}
}

func TestClientFollowsNoRedirect(t *testing.T) {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	mine := &http.Client{Timeout: time.Minute}
	for _, c := range []*http.Client{Client(nil), Client(mine)} {
		resp, err := c.Post(srv.URL, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusTemporaryRedirect {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	if asked != 2 || mine.CheckRedirect != nil {
		t.Errorf("asked %d times; the given client was changed: %v", asked, mine.CheckRedirect != nil)
	}
}
