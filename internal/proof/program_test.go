package proof

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"croft/internal/store/storetest"
)

// binary is the built program.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "croft-proof-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		defer storetest.Stop()
		binary = filepath.Join(dir, "croft")
		build := exec.Command("go", "build", "-o", binary, "croft/cmd/croft")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building croft: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

const apiKey = "croft_api_proof-proof-proof-proof-proof-proof-proof-01"

// croft is one process of the program.
type croft struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *tailBuffer
	url  string
	done chan struct{}
	err  error
}

// tailBuffer keeps the end of what a process says.
type tailBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.b.Len() > 1<<20 {
		b.b.Reset()
	}
	return b.b.Write(p)
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// launch starts the program with a data folder and waits for nothing.
func launch(t *testing.T, data string, args ...string) *croft {
	t.Helper()
	c := &croft{t: t, out: &tailBuffer{}, done: make(chan struct{})}
	c.cmd = exec.Command(binary, args...)
	c.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + data, "CROFT_DATA=" + data, "CROFT_API_KEY=" + apiKey, "TMPDIR=" + os.TempDir()}
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	t.Cleanup(func() {
		c.stop()
		if t.Failed() && testing.Verbose() {
			t.Logf("%s said:\n%s", args[0], c.out)
		}
	})
	return c
}

// kill ends the process as a power cut would.
func (c *croft) kill() {
	c.cmd.Process.Signal(syscall.SIGKILL)
	<-c.done
}

// stop ends the process in an orderly way.
func (c *croft) stop() {
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(30 * time.Second):
		c.t.Errorf("%s did not stop in 30 s:\n%s", strings.Join(c.cmd.Args[1:], " "), c.out)
		c.kill()
	}
}

// serve starts a serving command (up or server) and waits until it is ready.
func serve(t *testing.T, data string, args ...string) *croft {
	t.Helper()
	state := filepath.Join(data, "server.json")
	os.Remove(state)
	c := launch(t, data, args...)
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		select {
		case <-c.done:
			t.Fatalf("%s ended: %v\n%s", args[0], c.err, c.out)
		default:
		}
		if time.Now().After(until) {
			t.Fatalf("%s did not become ready:\n%s", args[0], c.out)
		}
		b, err := os.ReadFile(state)
		if err != nil {
			continue
		}
		var s struct {
			PID     int    `json:"pid"`
			Address string `json:"address"`
			URL     string `json:"url"`
		}
		if json.Unmarshal(b, &s) != nil || s.PID != c.cmd.Process.Pid {
			continue
		}
		if c.url = s.URL; c.url == "" {
			c.url = "http://" + strings.TrimPrefix(s.Address, "http://")
		}
		resp, err := http.Get(c.url + "/readyz")
		if err != nil {
			continue
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return c
		}
	}
}

func (c *croft) client() anthropic.Client { return clientOf(c.url) }

func clientOf(url string) anthropic.Client {
	return anthropic.NewClient(option.WithBaseURL(url), option.WithAPIKey(apiKey), option.WithMaxRetries(0))
}

// cassette writes a cassette and returns the model id that plays it.
func cassette(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cassette.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "replay:" + path
}
