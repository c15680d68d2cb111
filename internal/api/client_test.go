package api_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/anthropics/anthropic-sdk-go/packages/param"
	"github.com/anthropics/anthropic-sdk-go/packages/ssestream"

	"croft/internal/access"
	"croft/internal/api"
	"croft/internal/client"
	"croft/internal/sse"
)

type streamed = anthropic.BetaManagedAgentsStreamSessionEventsUnion

// made is an agent, an environment and a session of a workspace.
type made struct {
	agent   *anthropic.BetaManagedAgentsAgent
	env     *anthropic.BetaEnvironment
	session *anthropic.BetaManagedAgentsSession
}

func (s *stack) makeAll(c anthropic.Client) made {
	s.t.Helper()
	ctx := s.t.Context()
	agent, err := c.Beta.Agents.New(ctx, anthropic.BetaAgentNewParams{Name: "tester", Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "local"},
		Tools: []anthropic.BetaAgentNewParamsToolUnion{{OfAgentToolset20260401: &anthropic.BetaManagedAgentsAgentToolset20260401Params{
			Type: anthropic.BetaManagedAgentsAgentToolset20260401ParamsTypeAgentToolset20260401}}}})
	if err != nil {
		s.t.Fatalf("making an agent: %v", err)
	}
	env, err := c.Beta.Environments.New(ctx, anthropic.BetaEnvironmentNewParams{Name: "here"})
	if err != nil {
		s.t.Fatalf("making an environment: %v", err)
	}
	session, err := c.Beta.Sessions.New(ctx, anthropic.BetaSessionNewParams{
		Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: param.NewOpt(agent.ID)}, EnvironmentID: env.ID, Title: anthropic.String("a test")})
	if err != nil {
		s.t.Fatalf("making a session: %v", err)
	}
	return made{agent, env, session}
}

func (s *stack) say(c anthropic.Client, session string, texts ...string) {
	s.t.Helper()
	var events []anthropic.BetaManagedAgentsEventParamsUnion
	for _, text := range texts {
		events = append(events, anthropic.BetaManagedAgentsEventParamsUnion{OfUserMessage: &anthropic.BetaManagedAgentsUserMessageEventParams{
			Type: anthropic.BetaManagedAgentsUserMessageEventParamsTypeUserMessage,
			Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{
				Type: anthropic.BetaManagedAgentsTextBlockTypeText, Text: text}}}}})
	}
	_, err := c.Beta.Sessions.Events.Send(s.t.Context(), session, anthropic.BetaSessionEventSendParams{Events: events})
	if err != nil {
		s.t.Fatalf("sending: %v", err)
	}
}

// until reads a stream on to an event of that type, and keeps the ids of stored events.
func until(t *testing.T, stream *ssestream.Stream[streamed], typ string, seen *[]string) streamed {
	t.Helper()
	for stream.Next() {
		e := stream.Current()
		if e.ID != "" && seen != nil {
			*seen = append(*seen, e.ID)
		}
		if e.Type == typ {
			return e
		}
	}
	t.Fatalf("the stream ended before %s: %v", typ, stream.Err())
	return streamed{}
}

// status is the HTTP status of an SDK's error.
func status(err error) int {
	var e *anthropic.Error
	if errors.As(err, &e) {
		return e.StatusCode
	}
	return 0
}

func TestOfficialClient(t *testing.T) {
	each(t, func(s *stack) {
		ctx, c := s.t.Context(), s.client()
		m := s.makeAll(c)

		stream := c.Beta.Sessions.Events.StreamEvents(ctx, m.session.ID, anthropic.BetaSessionEventStreamParams{EventDeltas: []anthropic.BetaManagedAgentsDeltaType{"agent.message", "agent.thinking"}})
		defer stream.Close()
		s.say(c, m.session.ID, "hello")
		var seen []string
		var texts anthropic.BetaManagedAgentsEventAccumulator
		started := false
		for stream.Next() {
			e := stream.Current()
			texts.Accumulate(e)
			started = started || e.Type == "event_start"
			if e.ID != "" {
				seen = append(seen, e.ID)
			}
			if e.Type == "agent.message" {
				if got := texts.AgentMessageText(e.ID); got != "you said: hello" || !started {
					s.t.Errorf("the previews came to %q (begun: %v)", got, started)
				}
				break
			}
		}
		if idle := until(s.t, stream, "session.status_idle", &seen); idle.StopReason.Type != "end_turn" {
			s.t.Errorf("the end of the turn: %s", idle.RawJSON())
		}

		// What was listed is what was streamed, page by page, in both orders.
		for _, order := range []anthropic.BetaSessionEventListParamsOrder{"asc", "desc"} {
			var listed []string
			pages := c.Beta.Sessions.Events.ListAutoPaging(ctx, m.session.ID, anthropic.BetaSessionEventListParams{Limit: anthropic.Int(3), Order: order})
			for pages.Next() {
				listed = append(listed, pages.Current().ID)
			}
			if order == "desc" {
				slices.Reverse(listed)
			}
			if pages.Err() != nil || !slices.Equal(listed, seen) {
				s.t.Errorf("%s: listed %v, streamed %v, %v", order, listed, seen, pages.Err())
			}
		}
		only, err := c.Beta.Sessions.Events.List(ctx, m.session.ID, anthropic.BetaSessionEventListParams{Types: []anthropic.BetaManagedAgentsSessionEventType{"agent.message", "user.message"}})
		if err != nil || len(only.Data) != 2 {
			s.t.Errorf("two types of events: %v, %v", only, err)
		}

		threads, err := c.Beta.Sessions.Threads.List(ctx, m.session.ID, anthropic.BetaSessionThreadListParams{Statuses: []anthropic.BetaManagedAgentsSessionThreadStatus{"idle"}})
		if err != nil || len(threads.Data) != 1 {
			s.t.Fatalf("threads: %v, %v", threads, err)
		}
		thread := threads.Data[0].ID
		if got, err := c.Beta.Sessions.Threads.Get(ctx, thread, anthropic.BetaSessionThreadGetParams{SessionID: m.session.ID}); err != nil || got.ID != thread {
			s.t.Errorf("a thread: %v, %v", got, err)
		}
		if got, err := c.Beta.Sessions.Threads.Events.List(ctx, thread, anthropic.BetaSessionThreadEventListParams{SessionID: m.session.ID}); err != nil || len(got.Data) != len(seen) {
			s.t.Errorf("a thread's events: %v, %v", got, err)
		}
		follow := c.Beta.Sessions.Threads.Events.StreamEvents(ctx, thread, anthropic.BetaSessionThreadEventStreamParams{SessionID: m.session.ID})
		s.say(c, m.session.ID, "again")
		if !follow.Next() {
			s.t.Errorf("a thread's stream: %v", follow.Err())
		}
		follow.Close()
		until(s.t, stream, "session.status_idle", &seen)

		if got, err := c.Beta.Sessions.Update(ctx, m.session.ID, anthropic.BetaSessionUpdateParams{Title: anthropic.String("renamed"), Metadata: map[string]string{"a": "b"}}); err != nil || got.Title != "renamed" || got.Metadata["a"] != "b" {
			s.t.Errorf("updating a session: %v, %v", got, err)
		}
		var sessions []string
		for range 4 {
			sessions = append(sessions, s.makeAll(c).session.ID)
		}
		listed := c.Beta.Sessions.ListAutoPaging(ctx, anthropic.BetaSessionListParams{Limit: anthropic.Int(2), Order: "asc", AgentID: anthropic.String(m.agent.ID),
			CreatedAtGte: anthropic.Time(m.session.CreatedAt.Add(-time.Second)), Statuses: []string{"idle", "running"}})
		n := 0
		for listed.Next() {
			n++
		}
		if listed.Err() != nil || n != 1 {
			s.t.Errorf("%d sessions of the agent, %v", n, listed.Err())
		}
		all := c.Beta.Sessions.ListAutoPaging(ctx, anthropic.BetaSessionListParams{Limit: anthropic.Int(2)})
		var got []string
		for all.Next() {
			got = append(got, all.Current().ID)
		}
		slices.Reverse(got)
		if want := append([]string{m.session.ID}, sessions...); all.Err() != nil || !slices.Equal(got, want) {
			s.t.Errorf("sessions %v, want %v; %v", got, want, all.Err())
		}
		if gone, err := c.Beta.Sessions.Archive(ctx, sessions[0], anthropic.BetaSessionArchiveParams{}); err != nil || gone.ArchivedAt.IsZero() {
			s.t.Errorf("archiving a session: %v", err)
		}
		if _, err := c.Beta.Sessions.Delete(ctx, m.session.ID, anthropic.BetaSessionDeleteParams{}); err != nil {
			s.t.Errorf("deleting a session: %v", err)
		}
		until(s.t, stream, "session.deleted", nil)
		if stream.Next() || stream.Err() != nil {
			s.t.Errorf("behind session.deleted: %v", stream.Err())
		}
		if _, err := c.Beta.Sessions.Get(ctx, m.session.ID, anthropic.BetaSessionGetParams{}); status(err) != http.StatusNotFound {
			s.t.Errorf("a deleted session: %v", err)
		}
	})
}

func TestOfficialClientDefinitions(t *testing.T) {
	each(t, func(s *stack) {
		ctx, c := s.t.Context(), s.client()
		m := s.makeAll(c)
		if _, err := c.Beta.Agents.Update(ctx, m.agent.ID, anthropic.BetaAgentUpdateParams{Version: anthropic.Int(1), System: anthropic.String("Be brief.")}); err != nil {
			s.t.Fatal(err)
		}
		if got, err := c.Beta.Agents.Get(ctx, m.agent.ID, anthropic.BetaAgentGetParams{}); err != nil || got.Version != 2 || got.System != "Be brief." {
			s.t.Errorf("the latest version: %v, %v", got, err)
		}
		if got, err := c.Beta.Agents.Get(ctx, m.agent.ID, anthropic.BetaAgentGetParams{Version: anthropic.Int(1)}); err != nil || got.Version != 1 || got.System != "" {
			s.t.Errorf("the first version: %v, %v", got, err)
		}
		versions := c.Beta.Agents.Versions.ListAutoPaging(ctx, m.agent.ID, anthropic.BetaAgentVersionListParams{Limit: anthropic.Int(1)})
		n := 0
		for versions.Next() {
			n++
		}
		if versions.Err() != nil || n != 2 {
			s.t.Errorf("%d versions, %v", n, versions.Err())
		}
		if _, err := c.Beta.Agents.Archive(ctx, m.agent.ID, anthropic.BetaAgentArchiveParams{}); err != nil {
			s.t.Error(err)
		}
		agents := c.Beta.Agents.ListAutoPaging(ctx, anthropic.BetaAgentListParams{IncludeArchived: anthropic.Bool(true), CreatedAtLte: anthropic.Time(time.Now().Add(time.Minute))})
		for n = 0; agents.Next(); n++ {
		}
		if agents.Err() != nil || n != 1 {
			s.t.Errorf("%d agents, %v", n, agents.Err())
		}
		if got, err := c.Beta.Environments.Update(ctx, m.env.ID, anthropic.BetaEnvironmentUpdateParams{Description: anthropic.String("mine")}); err != nil || got.Description != "mine" {
			s.t.Errorf("updating an environment: %v, %v", got, err)
		}
		spare, err := c.Beta.Environments.New(ctx, anthropic.BetaEnvironmentNewParams{Name: "spare"})
		if err != nil {
			s.t.Fatal(err)
		}
		if got, err := c.Beta.Environments.Delete(ctx, spare.ID, anthropic.BetaEnvironmentDeleteParams{}); err != nil || got.Type != "environment_deleted" {
			s.t.Errorf("deleting an environment: %v, %v", got, err)
		}
		envs := c.Beta.Environments.ListAutoPaging(ctx, anthropic.BetaEnvironmentListParams{Limit: anthropic.Int(1)})
		for n = 0; envs.Next(); n++ {
		}
		if envs.Err() != nil || n != 1 {
			s.t.Errorf("%d environments, %v", n, envs.Err())
		}
		if _, err := c.Beta.Environments.Archive(ctx, m.env.ID, anthropic.BetaEnvironmentArchiveParams{}); err != nil {
			s.t.Error(err)
		}

		model, err := c.Models.Get(ctx, "claude-opus-5", anthropic.ModelGetParams{})
		if err != nil || model.DisplayName != "Claude Opus 5" || !model.Capabilities.Effort.High.Supported || model.Capabilities.Batch.Supported || model.MaxTokens != 128_000 {
			s.t.Errorf("a model: %v, %v", model, err)
		}
		models := c.Beta.Models.ListAutoPaging(ctx, anthropic.BetaModelListParams{Limit: anthropic.Int(1)})
		for n = 0; models.Next(); n++ {
		}
		if models.Err() != nil || n != 2 {
			s.t.Errorf("%d models, %v", n, models.Err())
		}

		_, err = c.Beta.Vaults.List(ctx, anthropic.BetaVaultListParams{})
		var e *anthropic.Error
		if !errors.As(err, &e) || e.StatusCode != http.StatusNotImplemented || string(e.Type()) != "api_error" || e.RequestID == "" || !strings.Contains(err.Error(), "GET /v1/vaults is not served by this version of Croft") {
			s.t.Errorf("vaults: %v", err)
		}
		// With its retries on, the client does not repeat what can't succeed.
		tries := 0
		count := option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			tries++
			return next(r)
		})
		again := s.client(option.WithMaxRetries(2), count)
		if _, err := again.Beta.Files.List(ctx, anthropic.BetaFileListParams{}); status(err) != http.StatusNotImplemented || tries != 1 {
			s.t.Errorf("files: %v, tried %d times", err, tries)
		}
	})
}

// A reader that was dropped, or whose line broke, misses nothing.
func TestStreamResumes(t *testing.T) {
	each(t, func(s *stack) {
		ctx, c := s.t.Context(), s.client()
		m := s.makeAll(c)
		var seen []string
		stream := c.Beta.Sessions.Events.StreamEvents(ctx, m.session.ID, anthropic.BetaSessionEventStreamParams{})
		s.say(c, m.session.ID, "one")
		until(s.t, stream, "session.status_running", &seen)
		last := seen[len(seen)-1]
		stream.Close()

		s.say(c, m.session.ID, "two")
		resume := option.WithHeader("Last-Event-ID", last)
		stream = c.Beta.Sessions.Events.StreamEvents(ctx, m.session.ID, anthropic.BetaSessionEventStreamParams{}, resume)
		defer stream.Close()
		for { // one turn or two: the second message may have come before the first one's end
			if e := until(s.t, stream, "agent.message", &seen); strings.Contains(e.RawJSON(), "you said: two") {
				break
			}
		}
		until(s.t, stream, "session.status_idle", &seen)
		var listed []string
		pages := c.Beta.Sessions.Events.ListAutoPaging(ctx, m.session.ID, anthropic.BetaSessionEventListParams{})
		for pages.Next() {
			listed = append(listed, pages.Current().ID)
		}
		if !slices.Equal(seen, listed) {
			s.t.Errorf("streamed in two parts %v, listed %v", seen, listed)
		}
		for _, id := range []string{"sevt_none", "nonsense"} {
			broken := c.Beta.Sessions.Events.StreamEvents(ctx, m.session.ID, anthropic.BetaSessionEventStreamParams{}, option.WithHeader("Last-Event-ID", id))
			if broken.Next() || status(broken.Err()) != http.StatusBadRequest {
				s.t.Errorf("Last-Event-ID %s: %v", id, broken.Err())
			}
		}
		other := s.makeAll(c)
		foreign := c.Beta.Sessions.Events.StreamEvents(ctx, other.session.ID, anthropic.BetaSessionEventStreamParams{}, resume)
		if foreign.Next() || status(foreign.Err()) != http.StatusBadRequest {
			s.t.Errorf("another session's event: %v", foreign.Err())
		}
	})
}

// A client that does not read is dropped with a reason, and resumes.
func TestSlowReader(t *testing.T) {
	each(t, func(s *stack) {
		ctx, c := s.t.Context(), s.client()
		m := s.makeAll(c)
		// In process nothing is buffered on the way: what the client leaves unread stays in the tail.
		direct := &http.Client{Transport: api.InProcess(s.api)}
		open := func(last string) *http.Response {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v1/sessions/"+m.session.ID+"/events/stream", nil)
			if err != nil {
				s.t.Fatal(err)
			}
			req.Header.Set("x-api-key", s.key)
			req.Header.Set("anthropic-beta", "managed-agents-2026-04-01")
			if last != "" {
				req.Header.Set("Last-Event-ID", last)
			}
			resp, err := direct.Do(req)
			if err != nil || resp.StatusCode != http.StatusOK {
				s.t.Fatal(resp, err)
			}
			s.t.Cleanup(func() { resp.Body.Close() })
			return resp
		}
		resp := open("")
		watch := c.Beta.Sessions.Events.StreamEvents(ctx, m.session.ID, anthropic.BetaSessionEventStreamParams{})
		defer watch.Close()
		var seen []string
		r := sse.NewReader(resp.Body, 0)
		read := func() (f sse.Frame, ok bool) {
			f, err := r.Next()
			if f.ID != "" {
				seen = append(seen, f.ID)
			}
			return f, err == nil
		}
		s.say(c, m.session.ID, "hello")
		for f, ok := read(); ok && f.Event != "session.status_idle"; f, ok = read() {
		}
		until(s.t, watch, "session.status_idle", nil)
		// From now on the first client does not read.
		for range 7 { // of a thousand: more events than a tail keeps, beside what the stream has taken from it
			s.say(c, m.session.ID, slices.Repeat([]string{"more"}, 1000)...)
			until(s.t, watch, "session.status_idle", nil)
		}
		reason := ""
		for f, ok := read(); ok; f, ok = read() {
			if f.Event == "error" {
				reason = string(f.Data)
			}
		}
		if !strings.Contains(reason, `"type":"timeout_error"`) || !strings.Contains(reason, "Last-Event-ID") || !strings.Contains(reason, `"request_id":"`+resp.Header.Get("request-id")+`"`) {
			s.t.Errorf("dropped after %d events with %q", len(seen), reason)
		}
		var listed []string
		pages := c.Beta.Sessions.Events.ListAutoPaging(ctx, m.session.ID, anthropic.BetaSessionEventListParams{Limit: anthropic.Int(1000)})
		for pages.Next() {
			listed = append(listed, pages.Current().ID)
		}
		if pages.Err() != nil || len(seen) >= len(listed) {
			s.t.Fatalf("it was not dropped: %d of %d events came; %v", len(seen), len(listed), pages.Err())
		}
		r = sse.NewReader(open(seen[len(seen)-1]).Body, 0)
		for len(seen) < len(listed) {
			if _, ok := read(); !ok {
				s.t.Fatal("the second stream ended")
			}
		}
		if !slices.Equal(seen, listed) {
			s.t.Error("what came in two parts is not what is listed")
		}
	})
}

// What Croft's worker does, over the network and in process.
func TestWorkerRoutes(t *testing.T) {
	each(t, func(s *stack) {
		for name, transport := range map[string]http.RoundTripper{"over the network": nil, "in process": api.InProcess(s.api)} {
			s.t.Run(name, func(t *testing.T) { serveWork(t, s, transport) })
		}
	})
}

func serveWork(t *testing.T, s *stack, transport http.RoundTripper) {
	ctx := t.Context()
	c := s.client()
	m := s.makeAll(c)
	key, err := s.access.Local(access.DefaultWorkspace, access.Fleet, "")
	if err != nil {
		t.Fatal(err)
	}
	worker, err := client.New(client.Options{BaseURL: s.url, Token: key, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	const who = "worker=w1&incarnation=i1"
	offers, err := worker.Stream(ctx, "/v1/croft/offers?"+who+"&capacity=4", "")
	if err != nil {
		t.Fatal(err)
	}
	defer offers.Close()
	next := func(event string) string {
		t.Helper()
		for {
			f, err := offers.Next()
			if err != nil {
				t.Fatalf("no %s came: %v", event, err)
			}
			if f.Event == event {
				return string(f.Data)
			}
			if f.Event != "ping" {
				t.Logf("%s: %s", f.Event, f.Data)
			}
		}
	}
	if hello := next("hello"); hello != `{"type":"hello","heartbeat_s":30}` {
		t.Errorf("%s", hello)
	}
	s.say(c, m.session.ID, "use bash")
	var offer struct {
		Work        string `json:"work_id"`
		Environment string `json:"environment_id"`
		Session     string `json:"session_id"`
	}
	unmarshal(t, next("offer"), &offer)
	if offer.Environment != m.env.ID || offer.Session != m.session.ID {
		t.Fatalf("%+v", offer)
	}
	item := "/v1/environments/" + offer.Environment + "/work/" + offer.Work
	var claimed struct{ State, Secret string }
	if err := worker.Do(ctx, http.MethodPost, item+"/ack?"+who, nil, &claimed); err != nil || claimed.State != "starting" {
		t.Fatalf("%+v, %v", claimed, err)
	}
	if err := worker.Do(ctx, http.MethodPost, item+"/ack?worker=w2&incarnation=i1", nil, nil); !strings.Contains(err.Error(), "claimed") && !strings.Contains(err.Error(), "another worker") {
		t.Errorf("a second claim: %v", err)
	}
	holder := worker.WithToken(token(t, claimed.Secret))
	var spec struct {
		Calls []struct{ ID, Name string } `json:"calls"`
	}
	if err := holder.Do(ctx, http.MethodGet, item+"/croft/spec", nil, &spec); err != nil || len(spec.Calls) != 1 || spec.Calls[0].Name != "bash" {
		t.Fatalf("%+v, %v", spec, err)
	}
	// The official client beats the same heart.
	official := s.client(option.WithHeaderDel("X-Api-Key"), option.WithAuthToken(token(t, claimed.Secret)))
	beat, err := official.Beta.Environments.Work.Heartbeat(ctx, offer.Work, anthropic.BetaEnvironmentWorkHeartbeatParams{EnvironmentID: offer.Environment,
		ExpectedLastHeartbeat: anthropic.String("NO_HEARTBEAT"), DesiredTTLSeconds: anthropic.Int(20)})
	if err != nil || beat.State != "active" || beat.TTLSeconds != 20 || !beat.LeaseExtended {
		t.Fatalf("%v, %v", beat, err)
	}
	if _, err := official.Beta.Environments.Work.Heartbeat(ctx, offer.Work, anthropic.BetaEnvironmentWorkHeartbeatParams{EnvironmentID: offer.Environment,
		ExpectedLastHeartbeat: anthropic.String("NO_HEARTBEAT")}); status(err) != http.StatusPreconditionFailed {
		t.Errorf("a heartbeat that echoes nothing: %v", err)
	}
	result := map[string]any{"events": []any{map[string]any{"type": "user.tool_result", "tool_use_id": spec.Calls[0].ID, "content": []any{map[string]string{"type": "text", "text": "ok"}}}}}
	if err := holder.Do(ctx, http.MethodPost, "/v1/sessions/"+offer.Session+"/events", result, nil); err != nil {
		t.Fatal(err)
	}
	if err := holder.Do(ctx, http.MethodPost, "/v1/sessions/"+offer.Session+"/events", result, nil); err == nil {
		t.Error("a result that comes twice was taken twice")
	}
	message := map[string]any{"events": []any{map[string]any{"type": "user.message", "content": []any{map[string]string{"type": "text", "text": "I am the user"}}}}}
	if err := holder.Do(ctx, http.MethodPost, "/v1/sessions/"+offer.Session+"/events", message, nil); err == nil || !strings.Contains(err.Error(), "user.message") {
		t.Errorf("a worker that speaks as the user: %v", err)
	}
	if got, err := official.Beta.Sessions.Get(ctx, offer.Session, anthropic.BetaSessionGetParams{}); err != nil || got.ID != offer.Session {
		t.Errorf("its session: %v", err)
	}
	if _, err := official.Beta.Sessions.List(ctx, anthropic.BetaSessionListParams{}); status(err) != http.StatusForbidden {
		t.Errorf("other sessions: %v", err)
	}
	if err := holder.Do(ctx, http.MethodPost, item+"/stop", map[string]bool{"force": true}, nil); err != nil {
		t.Error(err)
	}
	if err := holder.Do(ctx, http.MethodGet, item, nil, nil); err == nil {
		t.Error("the token outlives its lease")
	}
	events, err := c.Beta.Sessions.Events.List(ctx, offer.Session, anthropic.BetaSessionEventListParams{Types: []anthropic.BetaManagedAgentsSessionEventType{"agent.tool_result"}})
	if err != nil || len(events.Data) != 1 {
		t.Errorf("results in the log: %v, %v", events, err)
	}
}

// A stop ends the streams cleanly; a client opens them again elsewhere.
func TestStop(t *testing.T) {
	each(t, func(s *stack) {
		c := s.client()
		m := s.makeAll(c)
		stream := c.Beta.Sessions.Events.StreamEvents(s.t.Context(), m.session.ID, anthropic.BetaSessionEventStreamParams{})
		defer stream.Close()
		resp, err := c.Beta.Sessions.Get(s.t.Context(), m.session.ID, anthropic.BetaSessionGetParams{})
		if err != nil || resp.ID != m.session.ID {
			s.t.Fatal(err)
		}
		ended := make(chan error)
		go func() {
			for stream.Next() {
			}
			ended <- stream.Err()
		}()
		if err := s.api.Shutdown(context.Background()); err != nil {
			s.t.Error(err)
		}
		if err := <-ended; err != nil && !errors.Is(err, io.EOF) {
			s.t.Errorf("the stream's end: %v", err)
		}
		late := c.Beta.Sessions.Events.StreamEvents(s.t.Context(), m.session.ID, anthropic.BetaSessionEventStreamParams{})
		if late.Next() || status(late.Err()) != 529 {
			s.t.Errorf("a stream opened late: %v", late.Err())
		}
	})
}
