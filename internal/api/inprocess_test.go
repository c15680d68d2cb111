package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
)

// inProc asks a handler in process.
func inProc(t testing.TB, ctx context.Context, h http.HandlerFunc, body io.Reader) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://croft/v1/x?a=b", body)
	if err != nil {
		t.Fatal(err)
	}
	return InProcess(h).RoundTrip(req)
}

func TestInProcess(t *testing.T) {
	t.Run("a whole answer", func(t *testing.T) {
		resp, err := inProc(t, t.Context(), func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("request-id", "req_1")
			w.WriteHeader(http.StatusConflict)
			w.Header().Set("late", "too late")
			fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.RequestURI, r.Host, r.Proto, body)
		}, strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil || string(got) != "POST /v1/x?a=b croft HTTP/1.1 hello" || resp.ContentLength != int64(len(got)) {
			t.Errorf("%q, %v, %d bytes told", got, err, resp.ContentLength)
		}
		if resp.StatusCode != http.StatusConflict || resp.Status != "409 Conflict" || resp.Header.Get("request-id") != "req_1" || resp.Header.Get("late") != "" {
			t.Errorf("%s %v", resp.Status, resp.Header)
		}
	})
	t.Run("an empty answer", func(t *testing.T) {
		resp, err := inProc(t, t.Context(), func(http.ResponseWriter, *http.Request) {}, nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		if got, err := io.ReadAll(resp.Body); len(got) != 0 || err != nil || resp.Body.Close() != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestInProcessStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		step := make(chan string)
		go func() { step <- "one" }()
		resp, err := inProc(t, t.Context(), func(w http.ResponseWriter, _ *http.Request) {
			for line := range step {
				fmt.Fprintln(w, line)
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
			}
		}, nil)
		if err != nil || resp.ContentLength != -1 {
			t.Fatal(err)
		}
		lines := bufio.NewReader(resp.Body)
		for _, want := range []string{"one\n", "two\n", "three\n"} {
			if got, err := lines.ReadString('\n'); got != want || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
			switch want {
			case "one\n":
				step <- "two"
			case "two\n":
				step <- "three"
			}
		}
		close(step)
		if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("the end: %v", err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A handler that nobody listens to any more ends, and its caller waits for that.
func TestInProcessCallerLeaves(t *testing.T) {
	for name, leave := range map[string]func(cancel func(), body io.Closer){
		"by closing":       func(_ func(), body io.Closer) { _ = body.Close() },
		"by its context":   func(cancel func(), body io.Closer) { cancel(); _ = body.Close() },
		"without a stream": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := false
				if leave == nil {
					go cancel()
				}
				resp, err := inProc(t, ctx, func(w http.ResponseWriter, r *http.Request) {
					defer func() { ended = true }()
					if leave == nil {
						<-r.Context().Done()
						return
					}
					_ = http.NewResponseController(w).Flush()
					for {
						if _, err := io.WriteString(w, "more"); err != nil {
							break
						}
						if r.Context().Err() != nil {
							break
						}
					}
				}, nil)
				if leave == nil {
					if !errors.Is(err, context.Canceled) || !ended {
						t.Errorf("%v, the handler ended: %v", err, ended)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(resp.Body, make([]byte, 6)); err != nil {
					t.Fatal(err)
				}
				leave(cancel, resp.Body)
				if !ended {
					t.Error("Close returned before the handler")
				}
			})
		})
	}
}

func TestInProcessPanic(t *testing.T) {
	_, err := inProc(t, t.Context(), func(http.ResponseWriter, *http.Request) { panic("no") }, nil)
	if err == nil || !strings.Contains(err.Error(), "no") {
		t.Errorf("a panic before the response: %v", err)
	}
	resp, err := inProc(t, t.Context(), func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); string(got) != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q, %v; want a cut", got, err)
	}
}

// BenchmarkInProcess compares a call without a network with one over loopback.
func BenchmarkInProcess(b *testing.B) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"id":"work_1"}`)
	})
	run := func(b *testing.B, client *http.Client, url string) {
		for b.Loop() {
			resp, err := client.Post(url, "application/json", strings.NewReader("{}"))
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}
	b.Run("in process", func(b *testing.B) { run(b, &http.Client{Transport: InProcess(h)}, "http://croft/") })
	b.Run("loopback", func(b *testing.B) {
		srv := httptest.NewServer(h)
		defer srv.Close()
		run(b, srv.Client(), srv.URL)
	})
}
