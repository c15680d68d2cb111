package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	xterm "golang.org/x/term"

	"croft"
	"croft/internal/config"
	"croft/internal/server"
	"croft/internal/term"
)

// runFlags are what run is asked for beside the configuration.
type runFlags struct {
	task        string
	session     string
	agent       string
	environment string
	system      string
	title       string
	budget      int
	budgetSet   bool
	modelSet    bool // --model was given, not only configured: it goes before an agent's own
	ask         bool
	workdir     string
	mounts      []string
	record      string
	json        bool

	definition map[string]any // of --agent FILE
}

// maxTask bounds a task read from standard input, in bytes.
const maxTask = 16 << 20

func newRun(h *host) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] TASK…",
		Short: "Give an agent a task and watch it work",
		Long: `Gives an agent a task and shows what it does as it happens: what it says, each tool call
with its output, and at the end what was used. The agent works in a sandbox with a folder
of its own, which stays with the session; --workdir gives it one of yours.

If a server of the data folder runs (croft up), run is its client; else it serves by
itself for as long as it runs. A session that was left goes on with --session.

Ctrl-C interrupts the turn; pressed again, it leaves at once. A TASK of - is read from
standard input.

Exit codes: 0 the turn ended, 1 failure, 2 wrong usage, 3 an answer is needed and there is
no terminal to ask at, 4 the budget or the retries are used up, 130 interrupted.`,
		Example: `  croft run --model replay:examples/hello.yaml "Write a program that greets me, and run it"
  croft run --workdir . "Fix the failing test"
  croft run --ask --workdir . "Tidy up this folder"
  croft run --session sesn_… "Now write a test for it"
  git diff | croft run -`,
	}
	fs := cmd.Flags()
	fs.StringVar(&f.session, "session", "", "go on with this session (`ID`)")
	fs.StringVar(&f.agent, "agent", "", "agent: an id, or a YAML file that defines one (`ID|FILE`)")
	fs.StringVar(&f.environment, "environment", "", "environment to work in (`ID`)")
	fs.StringVar(&f.system, "system", "", "system prompt (`TEXT`)")
	fs.StringVar(&f.title, "title", "", "title of the session (`TEXT`; default the task's beginning)")
	fs.IntVar(&f.budget, "budget", 0, "stop when the session's list cost reaches so many `CENTS`")
	fs.BoolVar(&f.ask, "ask", false, "ask before each tool call")
	fs.StringVar(&f.workdir, "workdir", "", "folder of this machine to work in, as /workspace (`DIR`)")
	fs.StringArrayVar(&f.mounts, "mount", nil, "show `HOST:PATH[:ro]` inside the sandbox; may be given more than once")
	fs.StringVar(&f.record, "record", "", "record the model's answers into a cassette (`FILE`)")
	fs.BoolVar(&f.json, "json", false, "print the events as lines of JSON, and nothing else, on standard output")
	config.AddFlags(fs, "model", "data", "database_url", "base_url", "model_base_url", "model_retries", "driver", "capacity", "allow_mount",
		"idle_timeout", "call_timeout", "log_level", "shutdown_timeout")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := h.load(fs)
		if err != nil {
			return err
		}
		if f.task, err = task(h, args); err != nil {
			return err
		}
		f.budgetSet, f.modelSet = fs.Changed("budget"), fs.Changed("model")
		if err := f.check(cfg); err != nil {
			return err
		}
		return h.run(cmd.Context(), cfg, &f)
	}
	return cmd
}

// task is the text that the agent is given.
func task(h *host, args []string) (string, error) {
	text := strings.Join(args, " ")
	if text == "-" {
		b, err := io.ReadAll(io.LimitReader(h.stdin, maxTask+1))
		if err != nil {
			return "", fmt.Errorf("reading the task from standard input: %w", err)
		}
		if len(b) > maxTask {
			return "", usageError("the task on standard input is larger than %d bytes", maxTask)
		}
		text = string(b)
	}
	return strings.ToValidUTF8(strings.TrimSpace(text), "\uFFFD"), nil
}

// check refuses flags that contradict one another, and folders that are not there.
func (f *runFlags) check(cfg *config.Config) error {
	if f.session == "" && f.task == "" {
		return usageError(`what is to be done? croft run "TASK"`)
	}
	if f.session != "" {
		for name, set := range map[string]bool{"--agent": f.agent != "", "--environment": f.environment != "", "--system": f.system != "",
			"--title": f.title != "", "--ask": f.ask, "--workdir": f.workdir != "", "--mount": len(f.mounts) > 0, "--model": f.modelSet} {
			if set {
				return usageError("%s is for new sessions: %s keeps what it was made with", name, term.Short(f.session, 60))
			}
		}
	}
	if f.environment != "" && (f.workdir != "" || len(f.mounts) > 0) {
		return usageError("--workdir and --mount make an environment of their own: leave --environment out")
	}
	if f.agent != "" && f.ask {
		return usageError("--ask is for run's own agent: give yours a permission_policy of always_ask")
	}
	if f.budget < 0 || (f.budget == 0 && f.budgetSet) {
		return usageError("--budget: accepted is a whole number of cents above zero")
	}
	if f.agent != "" && !isAgentID(f.agent) {
		var err error
		if f.definition, err = readDefinition(f.agent); err != nil {
			return err
		}
	}
	if f.record != "" && cfg.BaseURL != "" {
		return usageError("--record records what this process asks a model: it cannot go with --base-url")
	}
	return nil
}

// run is the whole of croft run, from the flags to the exit code.
func (h *host) run(ctx context.Context, cfg *config.Config, f *runFlags) error {
	mounts, err := f.mountList()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	c, err := connectForRun(ctx, h, cfg, f)
	if err != nil {
		return h.startError(cfg, err)
	}
	look := term.Detect(h.stdout, h.lookup)
	if f.json {
		look = term.Options{}
	}
	out := io.Writer(h.stdout)
	if f.json {
		out = io.Discard
	}
	t := &turn{h: h, c: c, json: f.json, screen: term.NewScreen(out, look), pending: map[string]*term.Event{}, seen: map[string]bool{},
		mayAsk: !f.json && xterm.IsTerminal(int(h.stdin.Fd())) && xterm.IsTerminal(int(h.stdout.Fd()))}
	t.lines = term.NewTranscript(t.screen, false)
	err = t.whole(ctx, cfg, f, mounts, signals)
	if code := exitCode(err); err == nil || (code != exitInterrupted && code != exitFailure) {
		t.waitForOthers(ctx, signals)
	}
	cancel()
	closed := c.Close()
	t.farewell()
	if cerr := t.screen.Close(); closed == nil {
		closed = cerr
	}
	if err == nil {
		return closed
	}
	return err
}

func exitCode(err error) int {
	var e *exit
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &e):
		return e.code
	}
	return exitFailure
}

func connectForRun(ctx context.Context, h *host, cfg *config.Config, f *runFlags) (*connection, error) {
	c, err := connect(ctx, cfg, server.Options{Role: server.Up, Listen: "127.0.0.1:0", Record: f.record, Log: h.quietLogger(cfg)})
	if err != nil {
		return nil, err
	}
	if c.local != nil && cfg.Driver == server.DriverNone {
		for _, w := range c.local.Warnings() {
			fmt.Fprintln(h.stderr, "! "+w)
		}
	}
	if c.local == nil {
		for _, name := range []string{"driver", "capacity", "allow_mount", "model_base_url", "model_retries", "idle_timeout", "call_timeout"} {
			if cfg.IsSet(name) && flagged(h.args, name) {
				return nil, usageError("--%s is for a server, and one runs already: stop it first, or give it the flag", strings.ReplaceAll(name, "_", "-"))
			}
		}
		if f.record != "" {
			return nil, usageError("--record records what this process asks a model, and another one serves: stop croft up first")
		}
	}
	return c, nil
}

// flagged tells whether an argument is the flag of the setting of that name.
func flagged(args []string, name string) bool {
	flag := "--" + strings.ReplaceAll(name, "_", "-")
	for _, a := range args {
		if a == "--" {
			return false
		}
		if a == flag || strings.HasPrefix(a, flag+"=") {
			return true
		}
	}
	return false
}

// whole prepares the session, gives it the task, and shows the turn to its end.
func (t *turn) whole(ctx context.Context, cfg *config.Config, f *runFlags, mounts []croft.Mount, signals <-chan os.Signal) error {
	after := ""
	var past []json.RawMessage
	resume := f.session != ""
	// Until there is a turn, the first Ctrl-C leaves.
	prepare, done := untilSignal(ctx, signals)
	defer done()
	err := func() error {
		if !resume {
			id, err := t.create(prepare, cfg, f, mounts)
			t.id = id
			return err
		}
		s, err := getSession(prepare, t.c, f.session)
		if err != nil {
			return err
		}
		t.id = s.ID
		if f.budget > 0 {
			body := map[string]any{"budget": budget(f.budget)}
			if err := t.c.Do(prepare, http.MethodPost, t.path(""), body, s); err != nil {
				return err
			}
		}
		past, after, err = t.history(prepare)
		if err == nil && f.task == "" && s.Status == croft.StatusIdle && !t.waits(past) {
			return usageError("session %s has ended its turn: say how it goes on, as in croft run --session %s \"…\"", s.ID, s.ID)
		}
		if s.Status == croft.StatusIdle && !t.waits(past) {
			past = nil // what was is in croft logs
		}
		return err
	}()
	if err != nil {
		if prepare.Err() != nil && ctx.Err() == nil {
			return &exit{code: exitInterrupted}
		}
		return t.explain(err)
	}
	done()
	follow := t.follow(ctx, after)
	defer follow.stop()
	if err := follow.opened(ctx); err != nil {
		return err
	}
	t.show(past)
	if f.task != "" {
		if err := t.send(ctx, message(f.task)); err != nil {
			if croft.IsType(err, croft.InvalidRequest) && strings.Contains(err.Error(), "has reached its budget") {
				return &exit{exitExhausted, errors.New("the session's budget is used up; a larger --budget goes on")}
			}
			return err
		}
	}
	return t.watch(ctx, follow, signals)
}

// untilSignal is a context that ends with the first signal, or when done is called.
func untilSignal(ctx context.Context, signals <-chan os.Signal) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-finished }
}

func (t *turn) path(rest string) string { return "/v1/sessions/" + url.PathEscape(t.id) + rest }

// history reads the present turn's events, and the id of the last event of the log.
func (t *turn) history(ctx context.Context) (past []json.RawMessage, last string, err error) {
	err = pages(ctx, t.c, t.path("/events?order=desc&limit=100"), func(raw json.RawMessage) error {
		e, err := term.ParseEvent(raw)
		if err != nil || e.ProcessedAt == 0 {
			return err // what waits in the inbox is no part of the log yet
		}
		if last == "" {
			last = e.ID
		}
		past = append(past, raw)
		if e.Type == croft.SessionRunning || len(past) == 5000 {
			return io.EOF
		}
		return nil
	})
	for i, j := 0, len(past)-1; i < j; i, j = i+1, j-1 {
		past[i], past[j] = past[j], past[i]
	}
	return past, last, err
}

// waits tells whether the last of these events says that somebody must answer.
func (t *turn) waits(past []json.RawMessage) bool {
	for i := len(past) - 1; i >= 0; i-- {
		e, err := term.ParseEvent(past[i])
		if err == nil && e.Type == croft.SessionIdle {
			return e.StopReason != nil && (e.StopReason.Type == croft.StopRequiresAction || e.StopReason.Type == croft.StopBudgetReached)
		}
		if err == nil && e.Type == croft.SessionRunning {
			return false
		}
	}
	return false
}

// explain adds to an error what a newcomer can do about it.
func (t *turn) explain(err error) error {
	var e *croft.Error
	if !errors.As(err, &e) || !strings.HasPrefix(e.Error(), "agent.model") {
		return err
	}
	text := strings.TrimPrefix(e.Error(), "agent.model.id: ")
	if strings.Contains(text, "replay:") {
		return errors.New(text)
	}
	return fmt.Errorf(`%s

  With a key:     export ANTHROPIC_API_KEY=…
  With your own:  a configuration file with models: (--config FILE), or --model-base-url
  With none:      croft run --model replay:examples/hello.yaml "Write a program that greets me, and run it"`, text)
}

// waitForOthers keeps the server of this process running while sessions of other commands
// run on it. A signal ends the wait.
func (t *turn) waitForOthers(ctx context.Context, signals <-chan os.Signal) {
	if t.c.local == nil {
		return
	}
	ctx, done := untilSignal(ctx, signals)
	defer done()
	told := false
	for {
		other := ""
		err := pages(ctx, t.c, "/v1/sessions?statuses[]=running&statuses[]=rescheduling&limit=2", func(s struct {
			ID string `json:"id"`
		}) error {
			if s.ID != t.id {
				other = s.ID
				return io.EOF
			}
			return nil
		})
		if err != nil || other == "" {
			return
		}
		if !told {
			told = true
			t.note("Another session runs on this server: waiting for its turn to end (Ctrl-C leaves; it goes on with croft run --session " + other + ").")
		}
		if err := untilIdle(ctx, t.c, other); err != nil {
			return
		}
	}
}

// untilIdle waits for the end of a session's turn.
func untilIdle(ctx context.Context, c *connection, id string) error {
	s, err := c.Stream(ctx, "/v1/sessions/"+url.PathEscape(id)+"/events/stream", "")
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // it is read alone
	// It may have ended before the stream was open.
	now, err := getSession(ctx, c, id)
	if err != nil || now.Status == croft.StatusIdle || now.Status == croft.StatusTerminated {
		return err
	}
	for {
		f, err := s.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil || croft.EventType(f.Event) == croft.SessionIdle || croft.EventType(f.Event) == croft.SessionTerminated {
			return err
		}
	}
}

// farewell tells what was used and how the session goes on.
func (t *turn) farewell() {
	t.screen.Status("")
	if t.id == "" {
		return
	}
	if t.usage != nil {
		t.screen.FreshLine()
		t.screen.Line(term.Part{Style: term.Dim, Text: term.Tokens(t.usage)})
	}
	if !t.gone {
		t.note("Session " + t.id + ` goes on with: croft run --session ` + t.id + ` "…"`)
	}
}

// note tells something about the run itself. It goes to standard error, so that what
// stands on standard output is the session's alone.
func (t *turn) note(text string) {
	if t.json || !t.screen.Live() {
		fmt.Fprintln(t.h.stderr, text)
		return
	}
	t.screen.Line(term.Part{Style: term.Dim, Text: text})
}

func message(text string) map[string]any {
	return map[string]any{"type": croft.UserMessage, "content": []any{map[string]string{"type": "text", "text": text}}}
}

func budget(cents int) *croft.Budget {
	return &croft.Budget{Type: "limit", MaxListCost: croft.Money{Amount: strconv.Itoa(cents), Currency: "USD"}}
}

// send posts one event to the session. A message of ours is waited for.
func (t *turn) send(ctx context.Context, event map[string]any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var answer struct {
		Data []term.Event `json:"data"`
	}
	if err := t.c.Do(ctx, http.MethodPost, t.path("/events"), map[string]any{"events": []any{event}}, &answer); err != nil {
		return err
	}
	if len(answer.Data) == 1 && answer.Data[0].Type == croft.UserMessage && answer.Data[0].ProcessedAt == 0 && !t.seen[answer.Data[0].ID] {
		t.mine = answer.Data[0].ID
	}
	return nil
}
