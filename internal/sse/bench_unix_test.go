//go:build unix

package sse

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The clients of these benchmarks are bare sockets, so that what is measured in this
// process is the server's.

// socket opens a stream and returns once the response has begun.
func socket(b *testing.B, addr *net.TCPAddr) int {
	b.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		b.Fatal(err)
	}
	to := &syscall.SockaddrInet4{Port: addr.Port}
	copy(to.Addr[:], addr.IP.To4())
	if err := syscall.Connect(fd, to); err != nil {
		b.Fatal(err)
	}
	request := "GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: a-client/1.0\r\nAccept: text/event-stream\r\n" +
		"x-api-key: croft_api_0123456789012345678901234567890123456789012\r\nanthropic-beta: managed-agents-2026-04-01\r\n\r\n"
	if _, err := syscall.Write(fd, []byte(request)); err != nil {
		b.Fatal(err)
	}
	var answer [1024]byte
	if n, err := syscall.Read(fd, answer[:]); n == 0 || err != nil {
		b.Fatalf("no answer: %v", err)
	}
	return fd
}

// ways serve a stream in both manners: "plain" hides the connection from the hub.
var ways = []struct {
	name string
	wrap func(http.ResponseWriter) http.ResponseWriter
}{
	{"plain", func(w http.ResponseWriter) http.ResponseWriter { return notHijackable{w} }},
	{"taken", func(w http.ResponseWriter) http.ResponseWriter { return w }},
}

type notHijackable struct{ http.ResponseWriter }

func (n notHijackable) FlushError() error {
	return http.NewResponseController(n.ResponseWriter).Flush()
}

// openMany opens n streams.
func openMany(b *testing.B, n int, wrap func(http.ResponseWriter) http.ResponseWriter) (fds []int, sources []*queue, done func()) {
	b.Helper()
	hub := NewHub(Options{})
	var mu sync.Mutex
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		src := newQueue()
		mu.Lock()
		sources = append(sources, src)
		mu.Unlock()
		_ = hub.Serve(wrap(w), r, src)
	}))
	for range n {
		fds = append(fds, socket(b, srv.Listener.Addr().(*net.TCPAddr)))
	}
	return fds, sources, func() {
		_ = hub.Shutdown(context.Background())
		for _, fd := range fds {
			_ = syscall.Close(fd)
		}
		srv.Close()
	}
}

// memory is what the process holds after a collection: heap and stacks, in bytes.
func memory() (heap, stack uint64) {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, m.StackInuse
}

// BenchmarkMemory reports the bytes of heap and stack of one of 2,000 open streams that
// have each delivered an event and then wait.
func BenchmarkMemory(b *testing.B) {
	const streams = 2000
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			for b.Loop() {
				heap, stack := memory()
				_, sources, done := openMany(b, streams, way.wrap)
				for i, src := range sources {
					src.push(frame(i))
				}
				time.Sleep(200 * time.Millisecond)
				moreHeap, moreStack := memory()
				b.ReportMetric(float64(moreHeap-heap)/streams, "heap-B/stream")
				b.ReportMetric(float64(moreStack-stack)/streams, "stack-B/stream")
				b.ReportMetric(0, "ns/op")
				done()
			}
		})
	}
}

// BenchmarkBroadcast measures how long one event takes to 2,000 streams, until the last
// client has it.
func BenchmarkBroadcast(b *testing.B) {
	const streams = 2000
	f := Frame{ID: "sevt_01", Event: "agent.message", Data: fmt.Appendf(nil, `{"type":"agent.message","text":"%0512d"}`, 1)}
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			fds, sources, done := openMany(b, streams, way.wrap)
			defer done()
			buf := make([]byte, 4096)
			for b.Loop() {
				for _, src := range sources {
					src.push(f)
				}
				for _, fd := range fds {
					if n, err := syscall.Read(fd, buf); n < len(f.Data) || err != nil {
						b.Fatalf("%d bytes, %v", n, err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/streams, "µs/stream")
		})
	}
}
