//go:build unix

package hand_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"croft/internal/hand"
	"croft/internal/hand/tools"
)

// BenchmarkEcho is a bash call on the live shell, its acknowledgement included.
func BenchmarkEcho(b *testing.B) {
	l := start(b, folder(b))
	input := json.RawMessage(`{"command":"echo hi"}`)
	for b.Loop() {
		l.use(b, tools.Bash, input)
	}
}

// BenchmarkRead reads a small file.
func BenchmarkRead(b *testing.B) {
	dir := folder(b)
	if err := os.WriteFile(filepath.Join(dir, "small.txt"), []byte("a small file\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	l := start(b, dir)
	input := json.RawMessage(`{"file_path":"small.txt"}`)
	for b.Loop() {
		l.use(b, tools.Read, input)
	}
}

// BenchmarkStart starts a hand, from fork and exec to its end: to the hello, and to the
// first result of a tool. The binary is the tests' own, which is as large as Croft's.
func BenchmarkStart(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	dir := folder(b)
	for _, tool := range []string{"hello", tools.Bash, tools.Read} {
		b.Run(tool, func(b *testing.B) {
			for b.Loop() {
				cmd := &exec.Cmd{Path: self, Args: []string{hand.Program}, Dir: dir}
				stdin, err := cmd.StdinPipe()
				if err != nil {
					b.Fatal(err)
				}
				stdout, err := cmd.StdoutPipe()
				if err != nil {
					b.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				client, err := hand.Dial(stdout, stdin)
				if err != nil {
					b.Fatal(err)
				}
				if tool != "hello" {
					l := &live{client, cmd, dir}
					l.use(b, tool, json.RawMessage(`{"command":"echo hi","file_path":"none"}`))
				}
				b.StopTimer()
				_ = client.Close()
				_ = cmd.Wait()
				b.StartTimer()
			}
		})
	}
}
