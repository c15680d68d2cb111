package proof

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/packages/param"
	"github.com/google/go-cmp/cmp"

	"croft/internal/store/storetest"
)

// script is the conversation of TestOfficialSDK: all six tools, a custom one, an ask that
// is allowed and one that is denied, and an endless command to interrupt.
const script = `
conversations:
  - user: use your tools
    turns:
      - reply:
          - {thinking: I shall begin with a file., signature: c2ln}
          - Let me write a file.
          - {write: {file_path: notes/a.txt, content: "alpha\nbeta\n"}}
          - {bash: "pwd; echo sandbox > /workspace/b.txt; id -u"}
      - expect: {tool_result: /workspace}
        reply:
          - {read: notes/a.txt}
          - {edit: {file_path: notes/a.txt, old_string: beta, new_string: gamma}}
      - reply:
          - {glob: "**/*.txt"}
          - {grep: gamma}
      - expect: {tool_result: gamma}
        reply: [{tool: get_weather, input: {location: Lisbon}}]
      - expect: {tool_result: "21 degrees"}
        reply: All tools work. It is 21 degrees.
      - reply: [{bash: "sleep 600"}]
      - expect: {user: never mind}
        reply: Stopped.
`

const asking = `
turns:
  - reply: [{bash: "echo first"}, {bash: "echo second"}]
  - expect: {tool_result: [first, not on a Tuesday]}
    reply: One ran, one did not.
`

func newAgent(t *testing.T, c anthropic.Client, model string, ask bool) *anthropic.BetaManagedAgentsAgent {
	t.Helper()
	set := &anthropic.BetaManagedAgentsAgentToolset20260401Params{Type: anthropic.BetaManagedAgentsAgentToolset20260401ParamsTypeAgentToolset20260401}
	if ask {
		set.DefaultConfig.PermissionPolicy = anthropic.BetaManagedAgentsAgentToolsetDefaultConfigParamsPermissionPolicyUnion{OfAlwaysAsk: &anthropic.BetaManagedAgentsAlwaysAskPolicyParam{Type: anthropic.BetaManagedAgentsAlwaysAskPolicyTypeAlwaysAsk}}
	}
	agent, err := c.Beta.Agents.New(t.Context(), anthropic.BetaAgentNewParams{
		Name:   "proof",
		Model:  anthropic.BetaManagedAgentsModelConfigParams{ID: model},
		System: anthropic.String("You test."),
		Tools: []anthropic.BetaAgentNewParamsToolUnion{{OfAgentToolset20260401: set}, {OfCustom: &anthropic.BetaManagedAgentsCustomToolParams{
			Type: anthropic.BetaManagedAgentsCustomToolParamsTypeCustom, Name: "get_weather", Description: "The weather of a place.",
			InputSchema: anthropic.BetaManagedAgentsCustomToolInputSchemaParam{Properties: map[string]any{"location": map[string]any{"type": "string"}}}}}},
	})
	if err != nil {
		t.Fatalf("creating an agent: %v", err)
	}
	return agent
}

func newSession(t *testing.T, c anthropic.Client, agent string) *anthropic.BetaManagedAgentsSession {
	t.Helper()
	env, err := c.Beta.Environments.New(t.Context(), anthropic.BetaEnvironmentNewParams{Name: "proof-" + agent})
	if err != nil {
		t.Fatalf("creating an environment: %v", err)
	}
	s, err := c.Beta.Sessions.New(t.Context(), anthropic.BetaSessionNewParams{
		Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: param.NewOpt(agent)}, EnvironmentID: env.ID, Title: anthropic.String("a proof")})
	if err != nil {
		t.Fatalf("creating a session: %v", err)
	}
	return s
}

func say(text string) anthropic.BetaManagedAgentsEventParamsUnion {
	return anthropic.BetaManagedAgentsEventParamsUnion{OfUserMessage: &anthropic.BetaManagedAgentsUserMessageEventParams{
		Type: anthropic.BetaManagedAgentsUserMessageEventParamsTypeUserMessage,
		Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{
			Type: anthropic.BetaManagedAgentsTextBlockTypeText, Text: text}}}}}
}

func send(t *testing.T, c anthropic.Client, session string, events ...anthropic.BetaManagedAgentsEventParamsUnion) {
	t.Helper()
	if _, err := c.Beta.Sessions.Events.Send(t.Context(), session, anthropic.BetaSessionEventSendParams{Events: events}); err != nil {
		t.Fatalf("sending: %v", err)
	}
}

// watcher follows a session's stream through the official client.
type watcher struct {
	t      *testing.T
	events chan anthropic.BetaManagedAgentsStreamSessionEventsUnion
	seen   []string // ids of stored events, in order
	texts  *anthropic.BetaManagedAgentsEventAccumulator
	starts map[string]bool
}

func watch(t *testing.T, c anthropic.Client, session string) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stream := c.Beta.Sessions.Events.StreamEvents(ctx, session, anthropic.BetaSessionEventStreamParams{
		EventDeltas: []anthropic.BetaManagedAgentsDeltaType{"agent.message", "agent.thinking"}})
	if err := stream.Err(); err != nil {
		t.Fatalf("opening the stream: %v", err)
	}
	w := &watcher{t: t, events: make(chan anthropic.BetaManagedAgentsStreamSessionEventsUnion, 1000), texts: &anthropic.BetaManagedAgentsEventAccumulator{}, starts: map[string]bool{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(w.events)
		for stream.Next() {
			w.events <- stream.Current()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// until reads on to an event of the given type.
func (w *watcher) until(typ string) anthropic.BetaManagedAgentsStreamSessionEventsUnion {
	w.t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		select {
		case e, ok := <-w.events:
			if !ok {
				w.t.Fatalf("the stream ended before %s", typ)
			}
			w.texts.Accumulate(e)
			switch {
			case e.Type == "event_start":
				w.starts[e.Event.ID] = true
			case e.ID != "":
				w.seen = append(w.seen, e.ID)
			}
			if e.Type == typ {
				return e
			}
			if e.Type == "session.error" {
				w.t.Logf("session.error: %s", e.RawJSON())
			}
		case <-deadline:
			w.t.Fatalf("no %s came", typ)
		}
	}
}

func list(t *testing.T, c anthropic.Client, session string) []anthropic.BetaManagedAgentsSessionEventUnion {
	t.Helper()
	var all []anthropic.BetaManagedAgentsSessionEventUnion
	pages := c.Beta.Sessions.Events.ListAutoPaging(t.Context(), session, anthropic.BetaSessionEventListParams{Limit: anthropic.Int(7)})
	for pages.Next() {
		all = append(all, pages.Current())
	}
	if err := pages.Err(); err != nil {
		t.Fatalf("listing: %v", err)
	}
	return all
}

func TestOfficialSDK(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		data := t.TempDir()
		up := serve(t, data, "up", "--listen", "127.0.0.1:0", "--database-url", url)
		c := up.client()
		agent := newAgent(t, c, cassette(t, script), false)
		s := newSession(t, c, agent.ID)
		if s.Status != anthropic.BetaManagedAgentsSessionStatusIdle || s.Agent.Version != 1 || s.Title != "a proof" {
			t.Errorf("a new session: %s", s.RawJSON())
		}
		w := watch(t, c, s.ID)
		send(t, c, s.ID, say("use your tools"))

		custom := w.until("agent.custom_tool_use")
		idle := w.until("session.status_idle")
		if idle.StopReason.Type != "requires_action" || len(idle.StopReason.EventIDs) != 1 || idle.StopReason.EventIDs[0] != custom.ID {
			t.Errorf("waiting for a custom tool: %s", idle.RawJSON())
		}
		send(t, c, s.ID, anthropic.BetaManagedAgentsEventParamsUnion{OfUserCustomToolResult: &anthropic.BetaManagedAgentsUserCustomToolResultEventParams{
			Type: anthropic.BetaManagedAgentsUserCustomToolResultEventParamsTypeUserCustomToolResult, CustomToolUseID: custom.ID,
			Content: []anthropic.BetaManagedAgentsUserCustomToolResultEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{
				Type: anthropic.BetaManagedAgentsTextBlockTypeText, Text: "21 degrees"}}}}})
		message := w.until("agent.message")
		if got, want := w.texts.AgentMessageText(message.ID), "All tools work. It is 21 degrees."; got != want || !w.starts[message.ID] {
			t.Errorf("the accumulated preview is %q, want %q", got, want)
		}
		idle = w.until("session.status_idle")
		if idle.StopReason.Type != "end_turn" {
			t.Errorf("the turn ended with %s", idle.RawJSON())
		}

		// An endless command is interrupted, and the message behind it answered.
		send(t, c, s.ID, say("work for a long time"))
		w.until("agent.tool_use")
		send(t, c, s.ID, anthropic.BetaManagedAgentsEventParamsUnion{OfUserInterrupt: &anthropic.BetaManagedAgentsUserInterruptEventParams{
			Type: anthropic.BetaManagedAgentsUserInterruptEventParamsTypeUserInterrupt}}, say("never mind"))
		if idle = w.until("session.status_idle"); idle.StopReason.Type != "end_turn" {
			t.Errorf("the interrupted turn ended with %s", idle.RawJSON())
		}
		if m := w.until("agent.message"); !strings.Contains(m.RawJSON(), "Stopped.") {
			t.Errorf("after the interrupt came %s", m.RawJSON())
		}
		w.until("session.status_idle")

		all := list(t, c, s.ID)
		var listed []string
		results := map[string]string{}
		names := map[string]string{}
		for _, e := range all {
			listed = append(listed, e.ID)
			switch e.Type {
			case "agent.tool_use":
				names[e.ID] = e.Name
			case "agent.tool_result":
				results[names[e.ToolUseID]] += e.RawJSON()
			}
		}
		if diff := cmp.Diff(listed, w.seen); diff != "" {
			t.Errorf("list and stream differ (-list +stream): %s", diff)
		}
		for name, want := range map[string]string{"bash": "/workspace", "write": "", "read": "alpha", "edit": "", "glob": "a.txt", "grep": "gamma"} {
			if r, ok := results[name]; !ok || !strings.Contains(r, want) {
				t.Errorf("the result of %s is %q, want one with %q", name, r, want)
			}
		}
		got, err := c.Beta.Sessions.Get(t.Context(), s.ID, anthropic.BetaSessionGetParams{})
		if err != nil || got.Status != anthropic.BetaManagedAgentsSessionStatusIdle || got.Stats.ActiveSeconds <= 0 {
			t.Errorf("the session at the end: %s, %v", got.RawJSON(), err)
		}
	})
}

func TestAskAllowAndDeny(t *testing.T) {
	storetest.Each(t, askAllowAndDeny)
}

func askAllowAndDeny(t *testing.T, url string) {
	up := serve(t, t.TempDir(), "up", "--listen", "127.0.0.1:0", "--database-url", url)
	c := up.client()
	s := newSession(t, c, newAgent(t, c, cassette(t, asking), true).ID)
	w := watch(t, c, s.ID)
	send(t, c, s.ID, say("go"))
	idle := w.until("session.status_idle")
	if idle.StopReason.Type != "requires_action" || len(idle.StopReason.EventIDs) != 2 {
		t.Fatalf("asking: %s", idle.RawJSON())
	}
	answer := func(i int, result anthropic.BetaManagedAgentsUserToolConfirmationEventParamsResult) {
		p := &anthropic.BetaManagedAgentsUserToolConfirmationEventParams{
			Type: anthropic.BetaManagedAgentsUserToolConfirmationEventParamsTypeUserToolConfirmation, ToolUseID: idle.StopReason.EventIDs[i], Result: result}
		if result == anthropic.BetaManagedAgentsUserToolConfirmationEventParamsResultDeny {
			p.DenyMessage = anthropic.String("not on a Tuesday")
		}
		send(t, c, s.ID, anthropic.BetaManagedAgentsEventParamsUnion{OfUserToolConfirmation: p})
	}
	answer(0, anthropic.BetaManagedAgentsUserToolConfirmationEventParamsResultAllow)
	if again := w.until("session.status_idle"); len(again.StopReason.EventIDs) != 1 || again.StopReason.EventIDs[0] != idle.StopReason.EventIDs[1] {
		t.Errorf("after one answer: %s", again.RawJSON())
	}
	answer(1, anthropic.BetaManagedAgentsUserToolConfirmationEventParamsResultDeny)
	if m := w.until("agent.message"); !strings.Contains(m.RawJSON(), "One ran, one did not.") {
		t.Errorf("the answer was %s", m.RawJSON())
	}
	if end := w.until("session.status_idle"); end.StopReason.Type != "end_turn" {
		t.Errorf("the turn ended with %s", end.RawJSON())
	}
	var listed []string
	told := false
	for _, e := range list(t, c, s.ID) {
		listed = append(listed, e.ID)
		told = told || e.Type == "agent.tool_result" && strings.Contains(e.RawJSON(), "not on a Tuesday")
	}
	if !told {
		t.Error("the agent was not told why its call was denied")
	}
	if diff := cmp.Diff(listed, w.seen); diff != "" {
		t.Errorf("list and stream differ (-list +stream): %s", diff)
	}
}
