// Package brain is the loop's step: it takes a model request that the log says is due,
// builds the conversation, asks the model, and appends what came. It keeps nothing that it
// cannot read again: a killed brain is taken over by the next one from the log.
//
//	session.Run ──► conversation (cache or log) ──► model.Provider ──► session.Reply
//	                                                     │ deltas        or session.Fault
//	                                                     └──► previews
//
// It imports session, model and its own rooms prompt and policy; never the API, the worker
// or a sandbox. The log calls Run and Cancel.
package brain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"croft"
	"croft/internal/brain/policy"
	"croft/internal/brain/prompt"
	"croft/internal/model"
	"croft/internal/session"
)

// Bounds of a brain.
const (
	// MaxTurns is how many model requests may be under way at once.
	MaxTurns = 20_000
	// cacheBytes bounds the conversations kept between requests.
	cacheBytes = 256 << 20
	firstWait  = 500 * time.Millisecond
	longWait   = 60 * time.Second
	appendTry  = 250 * time.Millisecond
)

// Brain runs model requests. It is safe for concurrent use.
type Brain struct {
	log    *session.Log
	models session.Models
	logger *slog.Logger

	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	cancels map[string]context.CancelFunc // by span
	cache   cache
}

// New makes a brain; it runs nothing until the log calls it.
func New(log *session.Log, models session.Models, logger *slog.Logger) *Brain {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	b := &Brain{log: log, models: models, logger: logger, cancels: map[string]context.CancelFunc{}, cache: newCache(cacheBytes)}
	b.ctx, b.stop = context.WithCancel(context.Background())
	return b
}

// Stop cancels the requests under way and waits for them. Their sessions are taken up by
// whoever opens the database next.
func (b *Brain) Stop() {
	b.mu.Lock()
	b.stop()
	b.mu.Unlock()
	b.done.Wait()
}

// Admit tells whether one more turn may start.
func (b *Brain) Admit() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.cancels) < MaxTurns
}

// Run starts a model request.
func (b *Brain) Run(r session.Run) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(b.ctx)
	b.cancels[r.Fence.Span] = cancel
	b.done.Add(1)
	go func() {
		defer b.done.Done()
		defer func() {
			b.mu.Lock()
			delete(b.cancels, r.Fence.Span)
			b.mu.Unlock()
			cancel()
		}()
		b.step(ctx, r)
	}()
}

// Cancel stops the request of that span.
func (b *Brain) Cancel(_, span string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cancel := b.cancels[span]; cancel != nil {
		cancel()
	}
}

// step makes one model request and appends its outcome. An append that fails for want of
// room or of the database is tried again: the model's answer is not to be lost.
func (b *Brain) step(ctx context.Context, r session.Run) {
	reply, err := b.ask(ctx, r)
	if ctx.Err() != nil {
		return // interrupted, or stopping: whoever did it has the word
	}
	append := func() error { return b.log.Reply(ctx, r.Session, r.Fence, *reply) }
	if err != nil {
		f := fault(err, r.Attempt)
		b.logger.Warn("model request failed", "session", r.Session, "attempt", r.Attempt, "retry", f.Retry, "err", err)
		append = func() error { return b.log.Fault(ctx, r.Session, r.Fence, f) }
	}
	for wait := appendTry; ; wait = min(2*wait, longWait) {
		err := append()
		if err == nil || errors.Is(err, session.ErrFenced) || ctx.Err() != nil {
			return
		}
		b.logger.Error("appending a model's reply failed; trying again", "session", r.Session, "err", err, "wait", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// fault says what a failed request means for the session.
func fault(err error, attempt int) session.Fault {
	f := session.Fault{Kind: model.RequestFailed, Message: "The model request failed inside the server.", Retry: true, Backoff: backoff(attempt)}
	var e *model.Error
	if errors.As(err, &e) {
		f.Kind, f.Message, f.Retry, f.RetryAfter = e.Kind, e.Message, e.Retry, e.RetryAfter
	}
	return f
}

// backoff doubles from half a second up to a minute, and takes a random half off.
func backoff(attempt int) time.Duration {
	d := min(firstWait<<min(attempt-1, 10), longWait)
	return d/2 + rand.N(d/2)
}

// ask builds the request and asks the model.
func (b *Brain) ask(ctx context.Context, r session.Run) (*session.Reply, error) {
	mind, err := b.mind(ctx, r)
	if err != nil {
		return nil, err
	}
	defer b.cache.put(r.Session, mind)
	m, err := b.models.Model(mind.agent.Model.ID)
	if err != nil {
		return nil, &model.Error{Kind: model.RequestFailed, Message: err.Error(), Cause: err}
	}
	req := &model.Request{Model: mind.agent.Model.ID, Messages: mind.talk.Messages(), Tools: mind.policy.Tools(), Speed: mind.agent.Model.Speed, SessionID: r.Session}
	if mind.agent.System != nil && *mind.agent.System != "" {
		req.System = []string{*mind.agent.System}
	}
	// "high" is what a model does unasked; not every model takes the field.
	if e := mind.agent.Model.Effort; e != nil && e.Type != "high" {
		req.Effort = e.Type
	}
	if mind.agent.Model.InferenceGeo != nil {
		req.InferenceGeo = *mind.agent.Model.InferenceGeo
	}
	view := newView(b.log, r)
	resp, err := m.Provider.Generate(ctx, req, view.delta)
	if err != nil {
		return nil, err
	}
	return reply(resp, view, mind.policy, m)
}

// reply turns a model's response into what the log appends.
func reply(resp *model.Response, view *view, p *policy.Policy, m *model.Model) (*session.Reply, error) {
	out := &session.Reply{Content: resp.Content, StopReason: resp.StopReason, StopDetails: resp.StopDetails, Usage: resp.Usage}
	if m.Price != nil {
		n := m.Price.Nanos(resp.Usage)
		out.Nanos = &n
	}
	if resp.StopReason == model.StopRefusal {
		out.Content = nil // a refused turn is not carried on
	}
	var text *session.Part
	flush := func() {
		if text != nil {
			out.Parts = append(out.Parts, *text)
			text = nil
		}
	}
	ids := map[string]bool{}
	for i, raw := range resp.Content {
		var block struct {
			Type  string          `json:"type"`
			Text  string          `json:"text"`
			ID    string          `json:"id"`
			Name  string          `json:"name"`
			Input json.RawMessage `json:"input"`
		}
		if err := json.Unmarshal(raw, &block); err != nil {
			return nil, fmt.Errorf("reading block %d of the response: %w", i, err)
		}
		switch block.Type {
		case "text":
			if text == nil {
				text = &session.Part{Type: croft.AgentMessage, ID: view.id(i)}
			}
			b, err := json.Marshal(struct {
				Type string `json:"type"`
				Text string `json:"text"`
			}{"text", block.Text})
			if err != nil {
				return nil, fmt.Errorf("writing block %d of the response: %w", i, err)
			}
			text.Content = append(text.Content, b)
		case "thinking", "redacted_thinking":
			flush()
			out.Parts = append(out.Parts, session.Part{Type: croft.AgentThinking, ID: view.id(i)})
		case "tool_use":
			flush()
			if resp.StopReason == model.StopRefusal {
				continue
			}
			if ids[block.ID] {
				// Some servers name each call of a turn alike. A result must find its own.
				block.ID = croft.NewID("toolu")
				renamed, err := withID(raw, block.ID)
				if err != nil {
					return nil, fmt.Errorf("reading block %d of the response: %w", i, err)
				}
				out.Content = slices.Clone(out.Content)
				out.Content[i] = renamed
			}
			ids[block.ID] = true
			typ, verdict, reason := p.Judge(block.Name, block.Input)
			out.Parts = append(out.Parts, session.Part{Type: typ, ToolUseID: block.ID, Name: block.Name, Input: block.Input, Verdict: verdict, Reason: reason})
		default:
			flush() // a message's blocks stand side by side, as they were previewed
		}
	}
	flush()
	return out, nil
}

// withID returns a copy of a block with another id.
func withID(block json.RawMessage, id string) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(block, &fields); err != nil {
		return nil, err
	}
	fields["id"] = json.RawMessage(`"` + id + `"`)
	return json.Marshal(fields)
}

// mind is what the brain knows of a session between requests: all of it can be read again.
type mind struct {
	agent  *croft.SessionAgent
	config int64
	policy *policy.Policy
	talk   *prompt.Conversation
	thread string
}

// mind brings what is known of the session up to the run's last event.
func (b *Brain) mind(ctx context.Context, r session.Run) (*mind, error) {
	m := b.cache.take(r.Session)
	if m != nil && (m.thread != r.Fence.Thread || m.talk.Seq() > r.Seq) {
		m = nil
	}
	if m == nil {
		m = &mind{talk: prompt.New(), thread: r.Fence.Thread, config: -1}
	}
	if m.config != r.Config {
		agent, config, err := b.log.Agent(ctx, r.Session)
		if err != nil {
			return nil, fmt.Errorf("reading the session's agent: %w", err)
		}
		m.agent, m.config, m.policy = agent, config, policy.Of(agent)
	}
	if err := b.log.History(ctx, r.Session, m.thread, m.talk.Seq(), r.Seq, m.talk.Add); err != nil {
		return nil, fmt.Errorf("reading the session's log: %w", err)
	}
	return m, nil
}
