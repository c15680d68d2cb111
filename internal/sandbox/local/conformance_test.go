//go:build linux && (amd64 || arm64)

package local

import (
	"testing"

	"croft/internal/sandbox"
	"croft/internal/sandbox/sandboxtest"
)

func TestConformance(t *testing.T) {
	sandboxtest.Run(t, sandboxtest.Driver{
		New:  func(t *testing.T, data string) sandbox.Driver { return newDriver(t, Options{Data: data}) },
		Root: true, Mounts: true,
		Refused: map[string]sandbox.Spec{
			"image": {Image: "alpine"}, "disk_mb": {DiskMB: 64},
			"pids": {Pids: 3}, "memory_mb": {MemoryMB: 1}, "cpus": {CPUs: -1},
		},
	})
}
