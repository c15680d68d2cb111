// Package replay is the provider that plays a cassette: conversations written by hand, or
// recorded from another provider, with no network and no key. It owns the cassette's format
// (cassette.go, parse.go, encode.go), the playing of it (this file), and the Recorder
// (record.go). It may import package model and a YAML library; the registry makes it and the
// loop calls it.
//
// # Format
//
// A cassette is YAML or JSON. This one plays two conversations:
//
//	conversations:
//	  - user: count the files              # the first user message contains this
//	    turns:
//	      - reply:
//	          - Let me look.               # text
//	          - bash: ls | wc -l           # a tool call
//	      - expect: {tool_result: "3"}
//	        reply: There are {{tool_result}} files.
//	  - user: {regexp: "run (\\d+) times"}
//	    loop: true
//	    turns:
//	      - repeat: "{{match 1}}"
//	        reply: [{bash: "echo {{repeat}}"}]
//	      - reply: Done.
//
// At the top: conversations, or turns alone for a single conversation; timing (recorded,
// the default, keeps the delays; none leaves them out); pace (a delay between the pieces of
// text); templates (false leaves {{…}} alone); recorded (set by the Recorder).
//
// A conversation has user (a pattern for its first user message; without one it takes any),
// turns, and optionally name, session (whose recording it is) and loop (begin again after
// the last turn).
//
// A pattern is a string that the text must contain, "*" for any text, or an object with one
// of contains, equals and regexp.
//
// A turn is one answer: reply (a text, or a list of blocks), and optionally expect, repeat
// (give this answer so many times, each after the other), delay, pace, stop_reason,
// stop_details, usage, and fault. A block is a text, or an object: {text}, {thinking, signature}, {tool, input,
// id}, {bash: command}, {read: path}, {glob: pattern}, {grep: pattern}, {write: {…}},
// {edit: {…}} or {block: {…}}, a content block as it is; each with a delay, and a text with
// chunks, a list of [characters, milliseconds before them]. Expect is a pattern for the
// last user message, or an object with user, tool_result (a pattern, or several, each of
// which must match one of the results that came last) and system.
//
// Placeholders in replies: {{user}}, the last user message; {{tool_result}}, the last tool
// result's text; {{turn}}, which answer this is, from 1; {{repeat}}, which repetition, from
// 1; {{session}}; and {{match 1}}, a group of the regexp that chose the conversation, which
// may also be the value of repeat.
//
// A fault comes in place of, or within, an answer: overloaded, rate_limited, failed,
// refused (failed, and not to be tried again), billing, cut (the stream ends) or hang (it
// goes silent until the request is given up); or an object with kind, times (1, or always),
// after (pieces delivered before it strikes), retry_after and message; or a list of these,
// one after the other.
//
// # Matching
//
// Which answer comes is told by the request alone: the first user message chooses the
// conversation, the first that matches, and the number of assistant turns the turn. So any
// process gives the same answer, before and after a crash. Only faults need a memory, of
// how often each has struck: it is kept per session and turn, for the last 10,000 of them,
// and a new process begins anew.
package replay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"croft/internal/model"
)

// maxFile bounds a cassette, in bytes.
const maxFile = 64 << 20

// maxStruck bounds the memory of faults.
const maxStruck = 10_000

// Timing says whether a cassette's delays are kept.
type Timing string

// The timings.
const (
	AsRecorded Timing = "recorded"
	None       Timing = "none"
)

// Provider plays one cassette. It implements model.Provider.
type Provider struct {
	cassette *cassette
	timing   Timing

	mu     sync.Mutex
	struck map[string]int
	order  []string // keys of struck, oldest first
}

// Option changes how a cassette is played.
type Option func(*Provider)

// WithTiming replaces the cassette's own timing.
func WithTiming(t Timing) Option { return func(p *Provider) { p.timing = t } }

// Load reads the cassette at path. Its errors name the path and the line.
func Load(path string, opts ...Option) (*Provider, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the cassette: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("the cassette %s is larger than %d MB", path, maxFile>>20)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the cassette: %w", err)
	}
	return Parse(path, data, opts...)
}

// Parse reads a cassette from memory; name stands for the path in errors.
func Parse(name string, data []byte, opts ...Option) (*Provider, error) {
	c, err := parse(name, data)
	if err != nil {
		return nil, err
	}
	p := &Provider{cassette: c, timing: c.timing, struck: map[string]int{}}
	for _, o := range opts {
		o(p)
	}
	return p, nil
}

// Generate implements model.Provider.
func (p *Provider) Generate(ctx context.Context, req *model.Request, sink func(model.Delta)) (*model.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := p.find(req)
	if err != nil {
		return nil, err
	}
	pl := &player{ctx: ctx, sink: sink, keep: p.timing != None, pace: s.turn.pace}
	if pl.pace == 0 {
		pl.pace = p.cassette.pace
	}
	if f := p.fault(s); f != nil {
		pl.fault = f
		if f.after == 0 {
			return nil, pl.strike()
		}
	}
	if err := pl.wait(s.turn.delay); err != nil {
		return nil, err
	}
	resp := &model.Response{StopReason: s.turn.stop, StopDetails: s.turn.detail, Usage: s.turn.usage}
	for i := range s.turn.reply {
		raw, err := pl.play(&s.turn.reply[i], i, s)
		if err != nil {
			return nil, err
		}
		resp.Content = append(resp.Content, raw)
	}
	if pl.fault != nil { // it was to strike after more pieces than there are
		return nil, pl.strike()
	}
	return resp, nil
}

// scene is the place in the cassette that a request has come to.
type scene struct {
	conversation int
	turn         *turn
	number       int // assistant turns before this one
	again        bool
	values       values
}

// find tells which turn answers req.
func (p *Provider) find(req *model.Request) (*scene, error) {
	c := p.cassette
	h := read(req)
	for i := range c.conversations {
		conv := &c.conversations[i]
		groups, ok := conv.user.match(h.first)
		if !ok {
			continue
		}
		s := &scene{conversation: i, number: h.turns}
		s.values = values{user: h.lastUser, result: h.lastResult(), session: req.SessionID, turn: h.turns + 1, groups: groups}
		total, err := conv.total(c.name, groups)
		if err != nil {
			return nil, mismatch("%v", err)
		}
		n := h.turns
		if conv.loop {
			s.again = n >= total
			n %= total
		}
		if n >= total {
			return nil, mismatch("%s:%d: %s ends after %d turns, and turn %d was asked for, by %s",
				c.name, conv.line, conv.title(), total, h.turns+1, h.came())
		}
		for j := range conv.turns {
			t := &conv.turns[j]
			times, err := t.times(c.name, groups)
			if err != nil {
				return nil, mismatch("%v", err)
			}
			if n < times {
				s.turn = t
				s.values.repeat = n + 1
				s.again = s.again || times > 1
				break
			}
			n -= times
		}
		if err := s.turn.expect.check(h); err != "" {
			return nil, mismatch("%s:%d: turn %d of %s: %s", c.name, s.turn.line, h.turns+1, conv.title(), err)
		}
		return s, nil
	}
	var known []string
	for _, conv := range c.conversations {
		known = append(known, conv.user.String())
		if len(known) == 10 {
			known = append(known, "…")
			break
		}
	}
	return nil, mismatch("%s: no conversation begins with the user message %s; those here expect one that %s",
		c.name, quote(h.first), strings.Join(known, ", or "))
}

// mismatch is the error for a request that the cassette has no answer to.
func mismatch(format string, args ...any) *model.Error {
	return &model.Error{Kind: model.RequestFailed, Message: "replay: " + fmt.Sprintf(format, args...)}
}

// fault returns the fault that is to strike now, and counts it.
func (p *Provider) fault(s *scene) *fault {
	if len(s.turn.faults) == 0 {
		return nil
	}
	key := fmt.Sprintf("%s/%d/%d", s.values.session, s.conversation, s.number)
	p.mu.Lock()
	defer p.mu.Unlock()
	n, seen := p.struck[key]
	left := n
	for i := range s.turn.faults {
		f := &s.turn.faults[i]
		if f.times != always && left >= f.times {
			left -= f.times
			continue
		}
		if !seen {
			if len(p.order) >= maxStruck {
				delete(p.struck, p.order[0])
				p.order = p.order[1:]
			}
			p.order = append(p.order, key)
		}
		p.struck[key] = n + 1
		return f
	}
	return nil
}

// history is what the matching reads of a request. A long session asks again and again with
// all that was said, so only what is needed is looked at.
type history struct {
	req     *model.Request
	first   string   // the first user message's text
	results []string // the tool results since the last assistant turn
	turns   int      // the assistant's
}

// read gathers the history of a request. Blocks that cannot be read count as empty.
func read(req *model.Request) *history {
	h := &history{req: req}
	seen := false
	last := 0
	for i, m := range req.Messages {
		switch {
		case m.Role == "assistant":
			h.turns++
			last = i
		case m.Role == "user" && !seen:
			seen = true
			h.first, _ = contents(m.Content)
		}
	}
	for _, m := range req.Messages[last:] {
		if m.Role == "user" {
			_, results := contents(m.Content)
			h.results = append(h.results, results...)
		}
	}
	return h
}

// lastUser is the last text of a user.
func (h *history) lastUser() string {
	for i := len(h.req.Messages) - 1; i >= 0; i-- {
		if m := h.req.Messages[i]; m.Role == "user" {
			if text, _ := contents(m.Content); text != "" {
				return text
			}
		}
	}
	return ""
}

// system is the system prompt, and the system messages in mid-conversation.
func (h *history) system() string {
	texts := slices.Clone(h.req.System)
	for _, m := range h.req.Messages {
		if m.Role == "system" {
			text, _ := contents(m.Content)
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "\n\n")
}

func (h *history) lastResult() string {
	if len(h.results) == 0 {
		return ""
	}
	return h.results[len(h.results)-1]
}

// came describes what the request asks for, for a mismatch.
func (h *history) came() string {
	if len(h.results) > 0 {
		return "the tool result " + quote(h.lastResult())
	}
	return "the user message " + quote(h.lastUser())
}

// contents returns the text of a message's blocks, and the text of each tool result.
func contents(blocks []json.RawMessage) (text string, results []string) {
	var texts []string
	for _, raw := range blocks {
		var b struct {
			Type    string          `json:"type"`
			Text    string          `json:"text"`
			Content json.RawMessage `json:"content"`
		}
		if json.Unmarshal(raw, &b) != nil {
			continue
		}
		switch b.Type {
		case "text":
			texts = append(texts, b.Text)
		case "tool_result":
			var s string
			if json.Unmarshal(b.Content, &s) != nil {
				var inner []json.RawMessage
				_ = json.Unmarshal(b.Content, &inner) // neither: an empty result
				s, _ = contents(inner)
			}
			results = append(results, s)
		}
	}
	return strings.Join(texts, "\n\n"), results
}

// player streams one answer.
type player struct {
	ctx    context.Context
	sink   func(model.Delta)
	keep   bool // the delays
	pace   time.Duration
	fault  *fault
	pieces int
}

func (pl *player) wait(d time.Duration) error {
	if !pl.keep || d <= 0 {
		return pl.ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-pl.ctx.Done():
		return pl.ctx.Err()
	case <-timer.C:
		return nil
	}
}

// send delivers a delta, and lets the fault strike when its time has come.
func (pl *player) send(d model.Delta) error {
	if err := pl.ctx.Err(); err != nil {
		return err
	}
	if pl.sink != nil {
		pl.sink(d)
	}
	if d.Text != "" || d.Kind != "text" {
		pl.pieces++
		if pl.fault != nil && pl.pieces >= pl.fault.after {
			return pl.strike()
		}
	}
	return nil
}

func (pl *player) strike() error {
	if pl.fault.kind == faultHang {
		<-pl.ctx.Done()
		return pl.ctx.Err()
	}
	return pl.fault.err()
}

// play streams one block and returns it whole.
func (pl *player) play(b *block, i int, s *scene) (json.RawMessage, error) {
	if err := pl.wait(b.delay); err != nil {
		return nil, err
	}
	raw, text, err := b.render(i, s)
	if err != nil {
		return nil, mismatch("%v", err)
	}
	if b.kind != blockRaw || b.announce != "" {
		kind := b.announce
		if kind == "" {
			kind = b.kind
		}
		if err := pl.send(model.Delta{Index: i, Kind: kind, Start: true}); err != nil {
			return nil, err
		}
	}
	if text == "" {
		return raw, nil
	}
	for n, c := range b.cut(text) {
		wait := c.wait
		if len(b.chunks) == 0 && n > 0 {
			wait = pl.pace
		}
		if err := pl.wait(wait); err != nil {
			return nil, err
		}
		if err := pl.send(model.Delta{Index: i, Kind: blockText, Text: c.text}); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

// callID makes the id of a tool call: the same for the same session, turn and place.
func callID(s *scene, i int) string {
	sum := sha256.Sum256([]byte(s.values.session))
	return fmt.Sprintf("toolu_%s_%d_%d", hex.EncodeToString(sum[:6]), s.number+1, i+1)
}
