//go:build linux && (amd64 || arm64)

package local

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"croft/internal/sandbox"
	"croft/internal/sandbox/local/initproc"
	"croft/internal/sandbox/sandboxtest"
)

// TestMain makes the test binary what the croft binary is in a sandbox's life.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case initproc.Name:
		initproc.Main()
	case workerName:
		worker()
	case sandbox.HandProgram:
		if len(os.Args) > 1 {
			switch os.Args[1] {
			case "attempts":
				tryAll()
			case "i386":
				callI386()
			}
		}
	}
	sandboxtest.Hand()
	os.Exit(m.Run())
}

func newDriver(tb testing.TB, o Options) *Driver {
	tb.Helper()
	if o.Data == "" {
		o.Data = tb.TempDir()
	}
	d, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// need skips a test where the kernel lets this user make no sandboxes.
func need(tb testing.TB, d *Driver) {
	tb.Helper()
	for _, c := range d.Probe(tb.Context()) {
		if c.Required && !c.OK {
			if os.Getenv("CI") == "true" {
				tb.Fatalf("this host gives no %s: %s; %s", c.Name, c.Detail, c.Fix)
			}
			tb.Skipf("this host gives no %s: %s; %s", c.Name, c.Detail, c.Fix)
		}
	}
}

func newBox(tb testing.TB, d *Driver, spec sandbox.Spec) sandbox.Sandbox {
	tb.Helper()
	b, err := d.Create(context.Background(), spec)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Destroy(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return b
}
