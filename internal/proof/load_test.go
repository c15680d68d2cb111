package proof

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"croft/internal/store/storetest"
)

var sessionCount = flag.Int("sessions", 200, "how many sessions TestThousandSessions runs at once; the soak runs 1000")

const herd = `
conversations:
  - user: {regexp: "^go (\\d+)$"}
    turns:
      - reply: [{bash: "echo my number is {{match 1}} | tee number"}]
      - delay: 1s
        reply: "{{tool_result}}"
`

// post sends a request as any program would and returns the status and the body.
func post(url, path, body string) (int, string, error) {
	req, err := http.NewRequest(http.MethodPost, url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	headers(req)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// All sessions run at the same time, each in a sandbox of its own, and none sees another's.
func TestThousandSessions(t *testing.T) {
	if testing.Short() {
		t.Skip("load is left out of -short runs")
	}
	storetest.Each(t, func(t *testing.T, url string) {
		n := *sessionCount
		data := t.TempDir()
		up := serve(t, data, "up", "--listen", "127.0.0.1:0", "--database-url", url, "--capacity", fmt.Sprint(n))
		c := up.client()
		agent := newAgent(t, c, cassette(t, herd), false)
		env := newSession(t, c, agent.ID).EnvironmentID
		ids := make([]string, n)
		var wg sync.WaitGroup
		var failed atomic.Int64
		gate := make(chan struct{}, 32)
		for i := range n {
			wg.Add(1)
			go func() {
				defer wg.Done()
				gate <- struct{}{}
				defer func() { <-gate }()
				status, body, err := post(up.url, "/v1/sessions", fmt.Sprintf(`{"agent":%q,"environment_id":%q,"initial_events":[{"type":"user.message","content":[{"type":"text","text":"go %d"}]}]}`, agent.ID, env, i))
				var s struct {
					ID     string `json:"id"`
					Status string `json:"status"`
				}
				if err != nil || status != http.StatusOK || json.Unmarshal([]byte(body), &s) != nil || s.Status != "running" {
					failed.Add(1)
					t.Errorf("creating session %d: %d %s %v", i, status, body, err)
					return
				}
				ids[i] = s.ID
			}()
		}
		wg.Wait()
		if failed.Load() > 0 {
			return
		}
		for i, id := range ids {
			want := fmt.Sprintf("my number is %d\\n", i)
			var story string
			for until := time.Now().Add(4 * time.Minute); !strings.Contains(story, "session.status_idle"); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(until) {
					t.Fatalf("session %d did not come to its end: %s", i, story)
				}
				story = ""
				for _, e := range list(t, c, id) {
					story += e.RawJSON() + "\n"
				}
			}
			if !strings.Contains(story, `"stop_reason":{"type":"end_turn"}`) || !strings.Contains(story, `"text":"`+want) || strings.Count(story, "agent.tool_result") != 1 {
				t.Errorf("session %d: %s", i, story)
			}
		}
	})
}

// A disk without room: the append fails, the client is told, nothing is half-written, and
// when there is room again the same session goes on.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		needs(t, "mounting a small disk needs root")
	}
	dir := t.TempDir()
	model := cassette(t, "turns: [{reply: one}, {reply: two}, {reply: three}]\n")
	// The disk is mounted in a namespace of the server's own and goes with it.
	script := `mount -t tmpfs -o size=24m croft-proof "$CROFT_DATA" && head -c 14m /dev/zero >"$CROFT_DATA/filler" && exec "$@"`
	c := &croft{t: t, out: &tailBuffer{}, done: make(chan struct{})}
	c.cmd = exec.Command("unshare", "-m", "sh", "-c", script, "sh", binary, "server", "--listen", "127.0.0.1:0")
	c.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "CROFT_DATA=" + dir, "CROFT_API_KEY=" + apiKey, "TMPDIR=" + os.TempDir()}
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.err = c.cmd.Wait(); close(c.done) }()
	t.Cleanup(c.stop)
	inside := func(args ...string) (string, error) {
		b, err := exec.Command("nsenter", append([]string{"-m", "-t", fmt.Sprint(c.cmd.Process.Pid)}, args...)...).Output()
		return string(b), err
	}
	for until := time.Now().Add(30 * time.Second); c.url == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("the server did not start: %s", c.out)
		}
		text, err := inside("cat", filepath.Join(dir, "server.json"))
		var s struct {
			Address string `json:"address"`
		}
		if err == nil && json.Unmarshal([]byte(text), &s) == nil {
			c.url = s.Address
		}
	}
	client := c.client()
	s := newSession(t, client, newAgent(t, client, model, false).ID)
	w := watch(t, client, s.ID)
	send(t, client, s.ID, say("first"))
	w.until("session.status_idle")
	before := len(list(t, client, s.ID))
	// Titles are appends, too, and large ones fill the disk.
	var status int
	var body string
	for i := 0; i < 2000 && status < 500; i++ {
		var err error
		status, body, err = post(c.url, "/v1/sessions/"+s.ID, fmt.Sprintf(`{"metadata":{"pad":%q}}`, strings.Repeat(fmt.Sprint(i%10), 500))+"")
		if err == nil && status == http.StatusOK {
			status, body, err = post(c.url, "/v1/agents", fmt.Sprintf(`{"name":"pad","model":%q,"system":%q}`, model, strings.Repeat(fmt.Sprint(i%10), 90_000)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if status < 500 || !strings.Contains(body, "disk") {
		t.Fatalf("the disk did not fill up, or nobody was told: %d %s", status, body)
	}
	full := list(t, client, s.ID) // reading still works
	status, body, err := post(c.url, "/v1/sessions/"+s.ID+"/events", `{"events":[{"type":"user.message","content":[{"type":"text","text":"`+strings.Repeat("second ", 3000)+`"}]}]}`)
	if err != nil || status < 500 {
		t.Errorf("a message without room got %d %s %v", status, body, err)
	}
	if got := list(t, client, s.ID); len(got) != len(full) || len(got) < before {
		t.Errorf("a failed append left %d events, there were %d", len(got), len(full))
	}
	if _, err := inside("rm", filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	send(t, client, s.ID, say("third"))
	if m := w.until("agent.message"); !strings.Contains(m.RawJSON(), "two") {
		t.Errorf("with room again came %s", m.RawJSON())
	}
	w.until("session.status_idle")
}

// needs skips a test for want of something, and fails where nothing may be missing.
func needs(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// A client that opens the stream and does not read is dropped while the server's memory
// stays bounded, and goes on with Last-Event-ID.
func TestSlowReader(t *testing.T) {
	if testing.Short() {
		t.Skip("load is left out of -short runs")
	}
	data := t.TempDir()
	up := serve(t, data, "server", "--listen", "127.0.0.1:0")
	c := up.client()
	s := newSession(t, c, newAgent(t, c, cassette(t, "turns: [{reply: one}]"), false).ID)
	conn, err := net.Dial("tcp", strings.TrimPrefix(up.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/sessions/%s/events/stream HTTP/1.1\r\nHost: x\r\nx-api-key: %s\r\nanthropic-beta: managed-agents-2026-04-01\r\n\r\n", s.ID, apiKey)
	before := resident(t, up.cmd.Process.Pid)
	// 36 MB of events, none of which is read: more than the sockets' buffers and the tail hold.
	const count = 1200
	body := `{"events":[` + strings.TrimSuffix(strings.Repeat(`{"type":"system.message","content":[{"type":"text","text":"`+strings.Repeat("x", 30_000)+`"}]},`, 1), ",") + `]}`
	for range count {
		if status, answer, err := post(up.url, "/v1/sessions/"+s.ID+"/events", body); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, answer, err)
		}
	}
	if grown := resident(t, up.cmd.Process.Pid) - before; grown > 200<<20 {
		t.Errorf("the server grew by %d MB for one reader that does not read", grown>>20)
	}
	// The reader wakes up, finds what was sent and then the end, and goes on from there.
	conn.SetReadDeadline(time.Now().Add(60 * time.Second))
	reader := bufio.NewReader(conn)
	last, events := "", 0
	for {
		line, err := reader.ReadString('\n')
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			last = strings.TrimSpace(id)
			events++
		}
		if err != nil {
			break
		}
	}
	if last == "" || events >= count {
		t.Fatalf("the slow reader was given %d events, the last %q: it was to be dropped behind some", events, last)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, up.url+"/v1/sessions/"+s.ID+"/events/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	headers(req)
	req.Header.Set("Last-Event-ID", last)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for rest := 0; rest < count-events; {
		if !lines.Scan() {
			t.Fatalf("%d events came behind %s, want %d: %v", rest, last, count-events, lines.Err())
		}
		if strings.HasPrefix(lines.Text(), "id: ") {
			rest++
		}
	}
}

// resident is a process's resident memory in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, rss int
	if _, err := fmt.Sscan(string(b), &size, &rss); err != nil {
		t.Fatal(err)
	}
	return rss * os.Getpagesize()
}
