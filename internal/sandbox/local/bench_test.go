//go:build linux && (amd64 || arm64)

package local

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"croft/internal/sandbox"
)

// firstByte runs echo in a sandbox until its first byte of output is here.
func firstByte(tb testing.TB, b sandbox.Sandbox) {
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	p, err := b.Start(context.Background(), sandbox.Command{Args: []string{"/bin/echo", "hi"}, Stdout: w})
	w.Close()
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		tb.Fatal(err)
	}
	if code, err := p.Wait(); code != 0 || err != nil {
		tb.Fatalf("exit code %d, error %v", code, err)
	}
}

// BenchmarkCreate is a sandbox's whole life: made, one echo, destroyed.
func BenchmarkCreate(b *testing.B) {
	d := newDriver(b, Options{})
	n := 0
	for b.Loop() {
		n++
		box, err := d.Create(context.Background(), sandbox.Spec{ID: fmt.Sprintf("b%d", n%8)})
		if err != nil {
			b.Fatal(err)
		}
		firstByte(b, box)
		if err := box.Destroy(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStart is an echo in a live sandbox.
func BenchmarkStart(b *testing.B) {
	d := newDriver(b, Options{})
	box := newBox(b, d, sandbox.Spec{ID: "live"})
	for b.Loop() {
		firstByte(b, box)
	}
}

// BenchmarkPlain is the limit: the same echo without a sandbox.
func BenchmarkPlain(b *testing.B) {
	for b.Loop() {
		if err := exec.Command("/bin/echo", "hi").Run(); err != nil {
			b.Fatal(err)
		}
	}
}
