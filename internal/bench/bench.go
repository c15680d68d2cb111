// Package bench measures a whole server: API, log, loop, worker and sandbox, with a
// scripted model of no think time, beside the limits of the machine in the same run. It
// owns what croft bench prints. It imports the server's wiring, as the command line does,
// and drives it as a client does, over loopback HTTP.
//
// What is measured:
//
//	a  one turn: from the sending of a message to session.status_idle on the stream
//	b  sessions per second: created with a first message, followed to their end
//	c  a tool call: from agent.tool_use on the stream (so: stored) to the next model request
//	d  appends per second to the log, each of three events and the session's row
//	e  from the sending of a message to the first delta on the stream
//
// and as limits: a commit of one row with a synced disk, a loopback request, and a round
// trip to the scripted model through the same provider.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"croft"
	"croft/internal/client"
	"croft/internal/config"
	"croft/internal/model"
	"croft/internal/model/registry"
	"croft/internal/server"
)

// Options say what is measured.
type Options struct {
	// Only are the letters to measure; empty: all.
	Only string
	// Turns is how many turns and calls are timed one after the other; 0: 300.
	Turns int
	// Clients are the numbers of clients at once; nil: 16 and 64.
	Clients []int
	// Seconds is how long each throughput is measured; 0: 5.
	Seconds int
	// DatabaseURL names the database; empty: SQLite in a fresh folder.
	DatabaseURL string
	// Driver is the sandbox driver; empty: local.
	Driver string
	Out    io.Writer
}

// Row is one figure: durations in milliseconds, or a rate.
type Row struct {
	Key   string  `json:"key"`
	Name  string  `json:"name"`
	P50   float64 `json:"p50_ms,omitempty"`
	P95   float64 `json:"p95_ms,omitempty"`
	P99   float64 `json:"p99_ms,omitempty"`
	Rate  float64 `json:"per_second,omitempty"`
	Count int     `json:"count"`
}

// Report is a whole run.
type Report struct {
	At       croft.Time `json:"at"`
	System   string     `json:"system"`
	Database string     `json:"database"`
	Rows     []Row      `json:"rows"`
	// Verdicts compare figures with the aims, in words.
	Verdicts []string `json:"verdicts"`
}

// run is a measurement under way.
type run struct {
	Options
	dir    string
	model  *scripted
	server *server.Server
	api    *client.Client
	agent  string
	env    string
	report *Report
}

// Run measures and returns the report. It leaves nothing behind.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Turns <= 0 {
		o.Turns = 300
	}
	if o.Clients == nil {
		o.Clients = []int{16, 64}
	}
	if o.Seconds <= 0 {
		o.Seconds = 5
	}
	if o.Only == "" {
		o.Only = "abcde"
	}
	if o.Driver == "" {
		o.Driver = "local"
	}
	dir, err := os.MkdirTemp("", "croft-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	if o.DatabaseURL == "" {
		o.DatabaseURL = "sqlite:" + filepath.Join(dir, "data", "croft.db")
	}
	kind, _, _ := strings.Cut(o.DatabaseURL, ":")
	r := &run{Options: o, dir: dir, report: &Report{At: croft.Now(), Database: kind,
		System: fmt.Sprintf("%s/%s, %d CPUs, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())}}
	if r.model, err = newScripted(ctx); err != nil {
		return nil, err
	}
	defer r.model.close()
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	err = r.measure(ctx)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if err := errors.Join(err, r.server.Stop(stopping)); err != nil {
		return nil, err
	}
	if strings.Contains(o.Only, "d") {
		if err := r.appends(ctx); err != nil {
			return nil, err
		}
	}
	r.judge()
	return r.report, nil
}

// start starts the server in this process and makes an agent and an environment.
func (r *run) start(ctx context.Context) error {
	const key = "croft_api_bench-bench-bench-bench-bench-bench-bench-1"
	cfg := &config.Config{Listen: "127.0.0.1:0", Data: filepath.Join(r.dir, "data"), DatabaseURL: r.DatabaseURL, APIKey: key, Driver: r.Driver,
		Capacity: 512, ModelRetries: 1, ShutdownTimeout: 10 * time.Second,
		Models: []registry.Entry{{ID: "scripted", Provider: registry.Anthropic, BaseURL: r.model.url, Price: &registry.Price{Input: 1, Output: 1}}}}
	var err error
	if r.server, err = server.Start(ctx, server.Options{Config: cfg, Role: server.Up, Listen: cfg.Listen, Version: "bench"}); err != nil {
		return fmt.Errorf("starting the server: %w", err)
	}
	if r.api, err = client.New(client.Options{BaseURL: r.server.URL(), APIKey: key}); err != nil {
		return err
	}
	var made struct {
		ID string `json:"id"`
	}
	if err := r.api.Do(ctx, http.MethodPost, "/v1/agents", json.RawMessage(`{"name":"bench","model":"scripted","tools":[{"type":"agent_toolset_20260401"}]}`), &made); err != nil {
		return err
	}
	r.agent = made.ID
	if err := r.api.Do(ctx, http.MethodPost, "/v1/environments", json.RawMessage(`{"name":"bench"}`), &made); err != nil {
		return err
	}
	r.env = made.ID
	return nil
}

func (r *run) measure(ctx context.Context) error {
	steps := []struct {
		letter string
		fn     func(context.Context) error
	}{{"", r.limits}, {"a", r.turns}, {"c", r.calls}, {"b", r.sessions}}
	if strings.Contains(r.Only, "e") && !strings.Contains(r.Only, "a") {
		steps[1].letter = "e"
	}
	for _, s := range steps {
		if s.letter == "" || strings.Contains(r.Only, s.letter) {
			if err := s.fn(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// times adds a row of durations.
func (r *run) times(key, name string, all []time.Duration) {
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	at := func(q float64) float64 { return ms(all[int(q*float64(len(all)-1))]) }
	r.add(Row{Key: key, Name: name, P50: at(.5), P95: at(.95), P99: at(.99), Count: len(all)})
}

func (r *run) add(row Row) {
	r.report.Rows = append(r.report.Rows, row)
	if r.Out == nil {
		return
	}
	if row.Rate > 0 {
		fmt.Fprintf(r.Out, "%-4s %-52s %10.0f /s  (%d)\n", row.Key, row.Name, row.Rate, row.Count)
		return
	}
	fmt.Fprintf(r.Out, "%-4s %-52s p50 %8.3f  p95 %8.3f  p99 %8.3f ms  (%d)\n", row.Key, row.Name, row.P50, row.P95, row.P99, row.Count)
}

// limits measures what the machine itself gives.
func (r *run) limits(ctx context.Context) error {
	url, what := "sqlite:"+filepath.Join(r.dir, "limit.db"), "a commit of one row, synced (SQLite, FULL)"
	if r.report.Database != "sqlite" {
		url, what = r.DatabaseURL, "a commit of one row (the same PostgreSQL)"
	}
	commits, err := commitTimes(ctx, url, r.Turns)
	if err != nil {
		return err
	}
	r.times("lim", what, commits)
	var loop []time.Duration
	for range r.Turns {
		began := time.Now()
		if err := r.api.Do(ctx, http.MethodGet, "/healthz", nil, nil); err != nil {
			return err
		}
		loop = append(loop, time.Since(began))
	}
	r.times("lim", "a loopback request", loop)
	provider, err := registry.New(registry.Config{Entries: []registry.Entry{{ID: "scripted", Provider: registry.Anthropic, BaseURL: r.model.url}}})
	if err != nil {
		return err
	}
	m, err := provider.Resolve("scripted")
	if err != nil {
		return err
	}
	var asks []time.Duration
	for range r.Turns {
		began := time.Now()
		if _, err := m.Provider.Generate(ctx, &model.Request{Model: "scripted", Messages: []model.Message{{Role: "user", Content: []json.RawMessage{json.RawMessage(`{"type":"text","text":"say"}`)}}}}, nil); err != nil {
			return fmt.Errorf("asking the scripted model: %w", err)
		}
		asks = append(asks, time.Since(began))
	}
	r.times("lim", "a round trip to the scripted model", asks)
	return nil
}

// session makes a session; text, when not empty, is its first message.
func (r *run) session(ctx context.Context, text string) (string, error) {
	body := `{"agent":"` + r.agent + `","environment_id":"` + r.env + `"`
	if text != "" {
		body += `,"initial_events":[` + message(text) + `]`
	}
	var made struct {
		ID string `json:"id"`
	}
	err := r.api.Do(ctx, http.MethodPost, "/v1/sessions", json.RawMessage(body+"}"), &made)
	return made.ID, err
}

func message(text string) string {
	return `{"type":"user.message","content":[{"type":"text","text":"` + text + `"}]}`
}

func (r *run) send(ctx context.Context, id, text string) error {
	return r.api.Do(ctx, http.MethodPost, "/v1/sessions/"+id+"/events", json.RawMessage(`{"events":[`+message(text)+`]}`), nil)
}

// perSession is how many turns, or calls, are timed in one session: what a model is asked
// grows with each of them, and that is the model's cost, not the server's.
const perSession = 25

// turns measures a and e: one turn after the other, the session's stream open.
func (r *run) turns(ctx context.Context) error {
	var whole, first []time.Duration
	for len(whole) < r.Turns {
		if err := r.someTurns(ctx, &whole, &first); err != nil {
			return err
		}
	}
	if strings.Contains(r.Only, "a") {
		r.times("a", "one turn, send to idle", whole)
	}
	if strings.Contains(r.Only, "e") {
		r.times("e", "send to the first delta", first)
	}
	return nil
}

// someTurns times the turns of one session, all but the first, which opens connections.
func (r *run) someTurns(ctx context.Context, whole, first *[]time.Duration) error {
	id, err := r.session(ctx, "")
	if err != nil {
		return err
	}
	stream, err := r.api.Stream(ctx, "/v1/sessions/"+id+"/events/stream?event_deltas[]=agent.message", "")
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // nothing was written
	for n := range perSession + 1 {
		began := time.Now()
		sent := make(chan error, 1)
		go func() { sent <- r.send(ctx, id, "say") }()
		var delta time.Duration
		for {
			f, err := stream.Next()
			if err != nil {
				return fmt.Errorf("following a turn: %w", err)
			}
			if f.Event == string(croft.EventDelta) && delta == 0 {
				delta = time.Since(began)
			}
			if f.Event == string(croft.SessionIdle) {
				break
			}
		}
		took := time.Since(began)
		if err := <-sent; err != nil {
			return err
		}
		if n > 0 {
			*whole = append(*whole, took)
			if delta > 0 {
				*first = append(*first, delta)
			}
		}
	}
	return nil
}

// calls measures c: one session with a live sandbox, and the first call of fresh ones.
func (r *run) calls(ctx context.Context) error {
	var warm, cold []time.Duration
	one := func(text string, all *[]time.Duration, skip int) error {
		id, err := r.session(ctx, "")
		if err != nil {
			return err
		}
		stream, err := r.api.Stream(ctx, "/v1/sessions/"+id+"/events/stream", "")
		if err != nil {
			return err
		}
		defer stream.Close() //nolint:errcheck // nothing was written
		arrivals := r.model.watch(text)
		defer r.model.unwatch(text)
		if err := r.send(ctx, id, text); err != nil {
			return err
		}
		<-arrivals // the first request
		for n := 0; ; {
			f, err := stream.Next()
			if err != nil {
				return fmt.Errorf("following tool calls: %w", err)
			}
			switch f.Event {
			case string(croft.AgentToolUse):
				stored := time.Now()
				select {
				case at := <-arrivals:
					if n++; n > skip {
						*all = append(*all, at.Sub(stored))
					}
				case <-time.After(30 * time.Second):
					return errors.New("no model request came behind a tool call")
				}
			case string(croft.SessionError):
				return fmt.Errorf("the session reports %s", f.Data)
			case string(croft.SessionIdle):
				return nil
			}
		}
	}
	for n := 0; len(warm) < r.Turns; n++ {
		if err := one(fmt.Sprintf("use %d warm%d", perSession+1, n), &warm, 1); err != nil {
			return err
		}
	}
	for n := range 20 {
		if err := one(fmt.Sprintf("use 1 cold%d", n), &cold, 0); err != nil {
			return err
		}
	}
	r.times("c", "a tool call, stored to the next request, live sandbox", warm)
	r.times("c", "  the same, cold: the sandbox is made first", cold)
	return nil
}

// sessions measures b.
func (r *run) sessions(ctx context.Context) error {
	for _, clients := range r.Clients {
		var done atomic.Int64
		var wg sync.WaitGroup
		limited, cancel := context.WithTimeout(ctx, time.Duration(r.Seconds)*time.Second)
		errs := make(chan error, clients)
		began := time.Now()
		for range clients {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for limited.Err() == nil {
					if err := r.whole(limited); err != nil {
						if limited.Err() == nil {
							errs <- err
						}
						return
					}
					done.Add(1)
				}
			}()
		}
		wg.Wait()
		took := time.Since(began)
		cancel()
		select {
		case err := <-errs:
			return err
		default:
		}
		r.add(Row{Key: "b", Name: fmt.Sprintf("sessions, %d clients", clients), Rate: float64(done.Load()) / took.Seconds(), Count: int(done.Load())})
	}
	return nil
}

// whole is one session from its creation to its end, with the stream open.
func (r *run) whole(ctx context.Context) error {
	id, err := r.session(ctx, "")
	if err != nil {
		return err
	}
	stream, err := r.api.Stream(ctx, "/v1/sessions/"+id+"/events/stream", "")
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // nothing was written
	if err := r.send(ctx, id, "say"); err != nil {
		return err
	}
	for {
		f, err := stream.Next()
		if err != nil {
			return err
		}
		if f.Event == string(croft.SessionIdle) {
			return nil
		}
	}
}

// find returns the row of a key whose name begins so.
func (r *run) find(key, name string) *Row {
	for i := range r.report.Rows {
		if row := &r.report.Rows[i]; row.Key == key && strings.HasPrefix(row.Name, name) {
			return row
		}
	}
	return nil
}

// judge compares with the aims: at most two commits and two milliseconds.
func (r *run) judge() {
	commit := r.find("lim", "a commit")
	for _, c := range []struct{ key, name, what string }{{"a", "one turn", "one turn"}, {"c", "a tool call", "a tool call"}} {
		if row := r.find(c.key, c.name); row != nil && commit != nil {
			limit := 2*commit.P50 + 2
			word := "within"
			if row.P50 > limit {
				word = "above"
			}
			r.verdict(fmt.Sprintf("%s: p50 %.3f ms, %s two commits + 2 ms (%.3f ms)", c.what, row.P50, word, limit))
		}
	}
	for i := range r.report.Rows {
		if row := &r.report.Rows[i]; row.Key == "d" {
			r.verdict(fmt.Sprintf("%s: %.0f a second; aim 10000 at many clients", row.Name, row.Rate))
		}
	}
}

func (r *run) verdict(text string) {
	r.report.Verdicts = append(r.report.Verdicts, text)
	if r.Out != nil {
		fmt.Fprintln(r.Out, "  "+text)
	}
}
