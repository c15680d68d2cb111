//go:build unix

package none

import (
	"os"
	"testing"

	"croft/internal/sandbox"
	"croft/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandboxtest.Hand()
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	sandboxtest.Run(t, sandboxtest.Driver{
		New: func(t *testing.T, data string) sandbox.Driver {
			d, err := New(Options{Data: data})
			if err != nil {
				t.Fatal(err)
			}
			return d
		},
		Refused: map[string]sandbox.Spec{
			"image": {Image: "alpine"}, "cpus": {CPUs: 1}, "memory_mb": {MemoryMB: 64}, "disk_mb": {DiskMB: 64}, "pids": {Pids: 64},
		},
	})
}

// TestSaysSo holds the driver to warning whoever asks.
func TestSaysSo(t *testing.T) {
	d, err := New(Options{Data: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range d.Probe(t.Context()) {
		if c.OK || c.Fix == "" {
			t.Errorf("%+v does not warn", c)
		}
	}
}
