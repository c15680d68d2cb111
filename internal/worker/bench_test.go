//go:build unix

package worker

import (
	"context"
	"testing"
)

// BenchmarkCall is a call's way through a worker whose sandbox is live: frame, journal, the
// pipes to a hand that answers at once, and the result's request over loopback.
func BenchmarkCall(b *testing.B) {
	srv := newServer(b)
	w, err := New(Options{Client: srv.client("fleet"), Data: b.TempDir(), Driver: &fakeDriver{answer: func(string) string { return "ok" }}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	x := srv.add("sesn_1", plain)
	srv.result(x, srv.bash(x, "first"))
	b.ReportAllocs()
	for b.Loop() {
		srv.result(x, srv.bash(x, "again"))
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
