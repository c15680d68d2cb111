//go:build linux && (amd64 || arm64)

package worker

import (
	"os"
	"path/filepath"
	"testing"

	"croft"
	"croft/internal/sandbox/local"
	"croft/internal/sandbox/local/initproc"
)

// becomeLocal is a sandbox's first process where this one was started as such.
func becomeLocal() {
	if filepath.Base(os.Args[0]) == initproc.Name {
		initproc.Main()
	}
}

// TestLocal serves a session in a sandbox of the driver that people use.
func TestLocal(t *testing.T) {
	data := t.TempDir()
	d, err := local.New(local.Options{Data: data, Log: testLog()})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range d.Probe(t.Context()) {
		if !c.Required || c.OK {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s: %s. %s", c.Name, c.Detail, c.Fix)
		}
		t.Skipf("driver local does not work here. %s: %s. %s", c.Name, c.Detail, c.Fix)
	}
	shown := t.TempDir()
	srv := newServer(t)
	begin(t, srv, Options{Driver: d, Data: data, Ceiling: Ceiling{Mounts: []string{filepath.Dir(shown)}}})
	config := plain
	config.Croft = &croft.EnvironmentCroft{Driver: "local", Env: map[string]string{"GREETING": "hello"}, Mounts: []croft.Mount{{Host: shown, Path: "/shown", ReadOnly: true}}}
	if err := os.WriteFile(filepath.Join(shown, "f"), []byte("from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	x := srv.add("sesn_1", config)
	srv.want(x, srv.bash(x, "echo kept > f; pwd; echo $GREETING; cat /shown/f; touch /shown/g || echo read-only"), "/workspace\nhello\nfrom the host", false)
	srv.want(x, srv.call(x, "read", map[string]string{"file_path": "/workspace/f"}), "kept", false)
	srv.want(x, srv.bash(x, "kill -9 $PPID; sleep 1000"), "cut off", true)
	srv.want(x, srv.bash(x, "cat f"), "kept", false)
}
