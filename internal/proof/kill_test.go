package proof

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"croft/internal/store/storetest"
)

var (
	killCount = flag.Int("kills", 30, "how many kills TestKillAnywhere makes on each database; the soak makes 100")
	killSeed  = flag.Uint64("seed", 1, "the seed of the kills")
)

// murders is the script of the sessions that are killed: steps of one command each, with
// time in the model and in the tool. Each command leaves one line, so that a second run of
// it would be seen.
const murders = `
conversations:
  - user: {regexp: "^work (\\d+)$"}
    turns:
      - repeat: "{{match 1}}"
        delay: 15ms
        reply:
          - Step {{turn}} of the work begins now.
          - {bash: "echo step-{{turn}} >> /workspace/marks; sleep 0.04; echo done {{turn}}"}
      - reply: All steps are done.
      - expect: {user: and one more}
        delay: 15ms
        reply:
          - {bash: "echo more-{{turn}} >> /workspace/marks; sleep 0.02"}
          - {bash: "echo also-{{turn}} >> /workspace/marks"}
      - reply: Done with that, too.
pace: 1ms
`

// victim is the fleet that is killed: a server and a worker in processes of their own, at
// one address through all their lives.
type victim struct {
	t              *testing.T
	data, wdata    string
	address, url   string
	database       string
	fleetKey       string
	server, worker *croft
	startedAt      time.Time // of the present server process
}

func (v *victim) startServer() {
	v.startedAt = time.Now()
	v.server = serve(v.t, v.data, "server", "--listen", v.address, "--database-url", v.database)
}

func (v *victim) startWorker() {
	v.worker = launch(v.t, v.wdata, "worker", "--fleet", "--base-url", v.url, "--fleet-key", v.fleetKey, "--capacity", "64")
}

// seenEvent is an event as the stream showed it.
type seenEvent struct {
	id, typ string
	at      time.Time // processed_at
}

// observer follows one session over every kill with Last-Event-ID.
type observer struct {
	v    *victim
	id   string
	wake chan string // types of events, for whoever waits; never blocks

	mu   sync.Mutex
	seen []seenEvent
}

func (o *observer) follow(ctx context.Context) {
	for ctx.Err() == nil {
		if err := o.once(ctx); err != nil && ctx.Err() == nil {
			time.Sleep(3 * time.Millisecond)
		}
	}
}

func (o *observer) once(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.v.url+"/v1/sessions/"+o.id+"/events/stream?beta=true", nil)
	if err != nil {
		return err
	}
	headers(req)
	o.mu.Lock()
	if n := len(o.seen); n > 0 {
		req.Header.Set("Last-Event-ID", o.seen[n-1].id)
	}
	o.mu.Unlock()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the stream answered %s", resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e struct {
			ID   string    `json:"id"`
			Type string    `json:"type"`
			At   time.Time `json:"processed_at"`
		}
		if json.Unmarshal([]byte(data), &e) != nil || e.ID == "" {
			continue
		}
		o.mu.Lock()
		o.seen = append(o.seen, seenEvent{e.ID, e.Type, e.At})
		o.mu.Unlock()
		select {
		case o.wake <- e.Type:
		default:
		}
	}
	return lines.Err()
}

func headers(req *http.Request) {
	req.Header.Set("x-api-key", apiKey)
	req.Header.Set("anthropic-beta", "managed-agents-2026-04-01")
	req.Header.Set("content-type", "application/json")
}

// insist repeats a request with one idempotency key until the server has taken it.
func (v *victim) insist(ctx context.Context, method, path, key, body string, inFlight *atomic.Int64) map[string]any {
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, method, v.url+path, strings.NewReader(body))
		if err != nil {
			v.t.Error(err)
			return nil
		}
		headers(req)
		if key != "" {
			req.Header.Set("Idempotency-Key", key)
		}
		inFlight.Add(1)
		resp, err := http.DefaultClient.Do(req)
		var b []byte
		if err == nil {
			b, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		inFlight.Add(-1)
		if err != nil || resp.StatusCode >= http.StatusInternalServerError {
			time.Sleep(3 * time.Millisecond)
			continue
		}
		var out map[string]any
		if err := json.Unmarshal(b, &out); err != nil || resp.StatusCode != http.StatusOK {
			v.t.Errorf("%s %s answered %s: %s", method, path, resp.Status, b)
			return nil
		}
		return out
	}
	return nil
}

func TestKillAnywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("kills are left out of -short runs")
	}
	storetest.Each(t, func(t *testing.T, url string) { killAnywhere(t, url, *killCount, *killSeed) })
}

func killAnywhere(t *testing.T, database string, kills int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 42))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	v := &victim{t: t, data: t.TempDir(), wdata: t.TempDir(), address: address, url: "http://" + address, database: database}
	v.startServer()
	keys := exec.Command(binary, "keys", "create", "--kind", "fleet")
	keys.Env = []string{"HOME=" + v.data, "CROFT_DATA=" + v.data, "CROFT_API_KEY=" + apiKey, "PATH=" + os.Getenv("PATH")}
	out, err := keys.Output()
	if err != nil {
		t.Fatalf("making a fleet key: %v", err)
	}
	v.fleetKey = strings.TrimSpace(string(out))
	v.startWorker()
	c := v.server.client()
	agent := newAgent(t, c, cassette(t, murders), false)
	first := newSession(t, c, agent.ID)
	environment := first.EnvironmentID

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sessions := max(20, kills/3)
	const atOnce = 6
	var inFlight atomic.Int64
	var mu sync.Mutex
	observers := map[string]*observer{}
	var live []*observer
	wake := make(chan string, 1000)
	places := make(chan struct{}, atOnce)
	var all, followers sync.WaitGroup
	finished := make(chan struct{})
	// Each session is a conversation of several turns; new ones begin as long as kills are
	// to come, so that something is always running.
	killsDone := make(chan struct{})
	all.Add(1)
	go func() {
		defer all.Done()
		for n := 0; ctx.Err() == nil; n++ {
			select {
			case <-killsDone:
				if n >= sessions {
					return
				}
			default:
			}
			places <- struct{}{}
			all.Add(1)
			go func() {
				defer all.Done()
				defer func() { <-places }()
				s := v.insist(ctx, "POST", "/v1/sessions", fmt.Sprint("create-", n), fmt.Sprintf(`{"agent":%q,"environment_id":%q,"title":"victim %d"}`, agent.ID, environment, n), &inFlight)
				if s == nil {
					return
				}
				o := &observer{v: v, id: s["id"].(string), wake: wake}
				mu.Lock()
				observers[o.id] = o
				live = append(live, o)
				mu.Unlock()
				octx, ocancel := context.WithCancel(ctx)
				followers.Add(1)
				go func() { defer followers.Done(); o.follow(octx) }()
				defer ocancel()
				for turn, text := range []string{fmt.Sprint("work ", 3+n%4), "and one more"} {
					v.insist(ctx, "POST", "/v1/sessions/"+o.id+"/events", fmt.Sprint("send-", n, "-", turn), fmt.Sprintf(`{"events":[{"type":"user.message","content":[{"type":"text","text":%q}]}]}`, text), &inFlight)
					for ctx.Err() == nil && o.count("session.status_idle") <= turn {
						time.Sleep(2 * time.Millisecond)
					}
				}
				mu.Lock()
				live = slices.DeleteFunc(live, func(x *observer) bool { return x == o })
				mu.Unlock()
			}()
		}
	}()
	go func() { all.Wait(); close(finished) }()

	// The kills: some at any time, some right behind an event or a request in flight.
	where := map[string]int{}
	running := 0
	var recoveries []time.Duration
	victims := map[string]int{}
	for n := range kills {
		aim := []string{"any", "request", "span.model_request_start", "agent.tool_use", "agent.tool_result", "session.status_running", "span.model_request_end"}[rng.IntN(7)]
		for len(wake) > 0 {
			<-wake
		}
		limit := time.After(5 * time.Second)
		switch aim {
		case "any":
			time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
		case "request":
			for until := time.Now().Add(2 * time.Second); inFlight.Load() == 0 && time.Now().Before(until); {
				time.Sleep(50 * time.Microsecond)
			}
		default:
		aiming:
			for {
				select {
				case typ := <-wake:
					if typ == aim {
						break aiming
					}
				case <-limit:
					break aiming
				}
			}
			time.Sleep(time.Duration(rng.IntN(30_000)) * time.Microsecond)
		}
		who := []string{"server", "server", "worker", "both"}[rng.IntN(4)]
		victims[who]++
		mu.Lock()
		now := slices.Clone(live)
		mu.Unlock()
		requests := inFlight.Load()
		at := time.Now()
		if who != "worker" {
			v.server.kill()
		}
		if who != "server" {
			v.worker.kill()
		}
		// Where the kill fell: the last event of each live session tells, and how long ago it was.
		any := false
		for _, o := range now {
			place := o.place(at, requests > 0)
			where[place]++
			any = any || place != "between turns"
		}
		if any {
			running++
		}
		if who != "server" {
			v.startWorker()
		}
		if who != "worker" {
			v.startServer()
			born := v.startedAt
			time.Sleep(time.Duration(50+rng.IntN(100)) * time.Millisecond)
			for _, o := range now {
				if d, ok := o.firstAfter(born); ok {
					recoveries = append(recoveries, d)
				}
			}
		} else {
			time.Sleep(time.Duration(100+rng.IntN(100)) * time.Millisecond)
		}
		_ = n
	}
	close(killsDone)
	select {
	case <-finished:
	case <-time.After(45 * time.Second):
		mu.Lock()
		for _, o := range live {
			o.mu.Lock()
			t.Errorf("session %s did not come to its end: its last events are %v", o.id, o.seen[max(0, len(o.seen)-6):])
			o.mu.Unlock()
		}
		mu.Unlock()
		cancel()
		<-finished
		t.Logf("server:\n%s\nworker:\n%s", v.server.out, v.worker.out)
		return
	}
	cancel()
	followers.Wait()

	cut, calls := 0, 0
	for _, o := range observers {
		a, b := o.verify(t, v)
		cut, calls = cut+a, calls+b
	}
	slices.Sort(recoveries)
	pick := func(q float64) time.Duration {
		if len(recoveries) == 0 {
			return 0
		}
		return recoveries[int(q*float64(len(recoveries)-1))].Round(time.Millisecond)
	}
	t.Logf("seed %d: %d kills (%v) over %d sessions with %d tool calls, %d of them cut off; %d kills landed in a running turn", seed, kills, victims, len(observers), calls, cut, running)
	t.Logf("live sessions at the kills, by place: %v", where)
	t.Logf("recovery, from the start of the process to the session's next event: p50 %v, p95 %v, max %v of %d", pick(.5), pick(.95), pick(1), len(recoveries))
	if running*10 < kills*7 {
		t.Errorf("only %d of %d kills landed in a running turn: the harness aims badly", running, kills)
	}
}

func (o *observer) count(typ string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, e := range o.seen {
		if e.typ == typ {
			n++
		}
	}
	return n
}

// place tells where in its turn a session was.
func (o *observer) place(at time.Time, requests bool) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.seen) == 0 {
		if requests {
			return "append"
		}
		return "between turns"
	}
	last := o.seen[len(o.seen)-1]
	if at.Sub(last.at) < 3*time.Millisecond {
		return "commit"
	}
	switch last.typ {
	case "session.status_idle":
		if requests {
			return "append"
		}
		return "between turns"
	case "span.model_request_start":
		return "model stream"
	case "agent.tool_result":
		return "result"
	default:
		if at.Sub(last.at) > 40*time.Millisecond {
			return "result" // the command has ended, its result is on the way
		}
		return "tool execution"
	}
}

// firstAfter is how long after born the session had its next event.
func (o *observer) firstAfter(born time.Time) (time.Duration, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.seen {
		if e.at.After(born) {
			return e.at.Sub(born), true
		}
	}
	return 0, false
}

// verify holds the whole log of a session against what must be true of it.
func (o *observer) verify(t *testing.T, v *victim) (cut, calls int) {
	t.Helper()
	events := list(t, v.server.client(), o.id)
	var ids []string
	uses, results := map[string]string{}, map[string]string{}
	seen := map[string]bool{}
	idle := ""
	for _, e := range events {
		if seen[e.ID] {
			t.Errorf("%s: event %s is there twice", o.id, e.ID)
		}
		seen[e.ID] = true
		ids = append(ids, e.ID)
		switch e.Type {
		case "agent.tool_use":
			uses[e.ID] = e.RawJSON()
		case "agent.tool_result":
			if _, twice := results[e.ToolUseID]; twice || uses[e.ToolUseID] == "" {
				t.Errorf("%s: call %s is answered twice, or before it was made", o.id, e.ToolUseID)
			}
			results[e.ToolUseID] = e.RawJSON()
		case "session.status_idle":
			idle = e.StopReason.Type
		}
	}
	o.mu.Lock()
	var streamed []string
	for _, e := range o.seen {
		streamed = append(streamed, e.id)
	}
	o.mu.Unlock()
	// A stream begins with what comes after it was opened: where it was cut before its first
	// event, it may begin later. From there on it has every event, once and in order.
	if len(streamed) > 0 {
		from := slices.Index(ids, streamed[0])
		if from < 0 || len(ids)-from < len(streamed) || !slices.Equal(ids[from:from+len(streamed)], streamed) {
			t.Errorf("%s: what the stream showed over all kills is no stretch of the log:\nlog    %v\nstream %v", o.id, ids, streamed)
		}
	}
	if idle != "end_turn" {
		t.Errorf("%s: the session ended with %q", o.id, idle)
	}
	marks := map[string]int{}
	if b, err := os.ReadFile(filepath.Join(v.wdata, "sandboxes", o.id, "workspace", "marks")); err == nil {
		for line := range strings.Lines(string(b)) {
			marks[strings.TrimSpace(line)]++
		}
	}
	for id, use := range uses {
		r, ok := results[id]
		if !ok {
			t.Errorf("%s: call %s has no result", o.id, id)
			continue
		}
		calls++
		var call struct {
			Input struct {
				Command string `json:"command"`
			} `json:"input"`
		}
		if err := json.Unmarshal([]byte(use), &call); err != nil {
			t.Error(err)
		}
		mark := strings.Fields(call.Input.Command)[1]
		lost := strings.Contains(r, "cut off")
		if lost {
			cut++
		}
		if n := marks[mark]; n > 1 || (n == 0 && !lost) {
			t.Errorf("%s: the command of %s ran %d times; its result is %s", o.id, mark, n, r)
		}
	}
	return cut, calls
}
