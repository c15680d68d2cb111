package replay

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"croft/internal/model"
)

const (
	maxTimes   = 1_000_000 // repetitions of one turn
	pieceChars = 24        // characters of a piece of text that has no chunks
	maxQuote   = 200       // bytes of a text in a message
)

// cassette is a file, read and checked.
type cassette struct {
	name          string
	recorded      bool
	timing        Timing
	literal       bool // templates: false
	pace          time.Duration
	conversations []conversation
}

type conversation struct {
	line    int
	name    string
	session string
	user    *pattern // nil matches all
	loop    bool
	turns   []turn
}

type turn struct {
	line   int
	expect *expect
	reply  []block
	repeat *template // nil: once
	stop   string    // a stop reason, set even where the file has none
	detail json.RawMessage
	usage  model.Usage
	delay  time.Duration
	pace   time.Duration
	faults []fault
}

// Kinds of blocks.
const (
	blockText     = "text"
	blockThinking = "thinking"
	blockTool     = "tool_use"
	blockRaw      = "block"
)

type block struct {
	kind      string
	text      *template // of text and thinking
	signature string
	tool      string
	id        string
	input     *template // JSON, of a tool call
	raw       *template // JSON, of a raw block
	announce  string    // of a raw block: the kind in its delta, or ""
	chunks    []chunk
	delay     time.Duration
}

type chunk struct {
	chars int
	wait  time.Duration
}

// always stands for a fault that strikes every time.
const always = -1

// Kinds of faults.
const (
	faultOverloaded = "overloaded"
	faultLimited    = "rate_limited"
	faultFailed     = "failed"
	faultRefused    = "refused"
	faultBilling    = "billing"
	faultCut        = "cut"
	faultHang       = "hang"
)

type fault struct {
	kind       string
	times      int
	after      int
	retryAfter time.Duration
	message    string
}

func (f *fault) err() *model.Error {
	e := &model.Error{Kind: model.RequestFailed, Retry: true, RetryAfter: f.retryAfter, Message: f.message}
	said := "the request failed"
	switch f.kind {
	case faultOverloaded:
		e.Kind, said = model.Overloaded, "overloaded"
	case faultLimited:
		e.Kind, said = model.RateLimited, "rate limited"
	case faultRefused:
		e.Retry, said = false, "the request was refused"
	case faultBilling:
		e.Kind, e.Retry, said = model.BillingError, false, "no credit"
	case faultCut:
		said = "the stream ended before the response was complete"
	}
	if e.Message == "" {
		e.Message = said
	}
	e.Message = "replay: " + e.Message
	return e
}

// pattern is a test of a text. The zero value takes any.
type pattern struct {
	how  string // "", contains, equals, regexp
	text string
	re   *regexp.Regexp
}

// match tells whether s passes, and the groups of a regexp, the whole match first.
func (p *pattern) match(s string) (groups []string, ok bool) {
	if p == nil {
		return nil, true
	}
	switch p.how {
	case "contains":
		return nil, strings.Contains(s, p.text)
	case "equals":
		return nil, strings.TrimSpace(s) == strings.TrimSpace(p.text)
	case "regexp":
		groups = p.re.FindStringSubmatch(s)
		return groups, groups != nil
	default:
		return nil, true
	}
}

// takes tells whether s passes.
func (p *pattern) takes(s string) bool {
	_, ok := p.match(s)
	return ok
}

// String says what the pattern asks, to follow "one that".
func (p *pattern) String() string {
	if p == nil || p.how == "" {
		return "is anything"
	}
	verb := map[string]string{"contains": "contains", "equals": "equals", "regexp": "matches"}[p.how]
	return verb + " " + quote(p.text)
}

// expect is what must be true of a request that a turn answers.
type expect struct {
	user    *pattern
	results []pattern
	system  *pattern
}

// check returns what is wrong, or "".
func (e *expect) check(h *history) string {
	if e == nil {
		return ""
	}
	if e.user != nil {
		if text := h.lastUser(); !e.user.takes(text) {
			return fmt.Sprintf("expected a last user message that %s, and %s came", e.user, quote(text))
		}
	}
	if e.system != nil {
		if text := h.system(); !e.system.takes(text) {
			return fmt.Sprintf("expected a system prompt that %s, and it is %s", e.system, quote(text))
		}
	}
	for i := range e.results {
		p := &e.results[i]
		found := false
		for _, r := range h.results {
			if p.takes(r) {
				found = true
				break
			}
		}
		switch {
		case found:
		case len(h.results) == 0:
			return fmt.Sprintf("expected a tool result that %s, and %s came", p, h.came())
		default:
			quoted := make([]string, 0, len(h.results))
			for _, r := range h.results {
				quoted = append(quoted, quote(r))
			}
			return fmt.Sprintf("expected a tool result that %s, and %s came", p, strings.Join(quoted, ", "))
		}
	}
	return ""
}

// title names a conversation in messages.
func (c *conversation) title() string {
	if c.name != "" {
		return fmt.Sprintf("conversation %q", c.name)
	}
	return "the conversation"
}

// total is the number of turns, repetitions included.
func (c *conversation) total(file string, groups []string) (int, error) {
	sum := 0
	for i := range c.turns {
		n, err := c.turns[i].times(file, groups)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	if sum == 0 {
		return 0, fmt.Errorf("%s:%d: %s has no turns for this message", file, c.line, c.title())
	}
	return sum, nil
}

// times is how often the turn is played.
func (t *turn) times(file string, groups []string) (int, error) {
	if t.repeat == nil {
		return 1, nil
	}
	text := t.repeat.text(values{groups: groups})
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < 0 || n > maxTimes {
		return 0, fmt.Errorf("%s:%d: repeat: %s is no number between 0 and %d", file, t.line, quote(text), maxTimes)
	}
	return n, nil
}

// piece is a part of a text, and the wait before it.
type piece struct {
	text string
	wait time.Duration
}

// cut divides a text as the chunks say, or evenly. What the chunks leave over comes last.
func (b *block) cut(text string) []piece {
	var out []piece
	take := func(n int, wait time.Duration) {
		end := 0
		for ; n > 0 && end < len(text); n-- {
			_, size := utf8.DecodeRuneInString(text[end:])
			end += size
		}
		if end > 0 {
			out = append(out, piece{text[:end], wait})
			text = text[end:]
		}
	}
	for _, c := range b.chunks {
		take(c.chars, c.wait)
	}
	if len(b.chunks) > 0 {
		take(len(text), 0)
	}
	for text != "" {
		take(pieceChars, 0)
	}
	return out
}

// render fills in the block, the i-th of its turn, and returns it with its text to stream.
func (b *block) render(i int, s *scene) (raw json.RawMessage, text string, err error) {
	var v any
	switch b.kind {
	case blockText:
		text = b.text.text(s.values)
		v = typedText{Type: "text", Text: text}
	case blockThinking:
		v = typedThinking{Type: "thinking", Thinking: b.text.text(s.values), Signature: b.signature}
	case blockTool:
		id := b.id
		switch {
		case id == "":
			id = callID(s, i)
		case s.again:
			id = fmt.Sprintf("%s_%d", id, s.number+1)
		}
		v = typedCall{Type: "tool_use", ID: id, Name: b.tool, Input: json.RawMessage(b.input.json(s.values))}
	default:
		return json.RawMessage(b.raw.json(s.values)), "", nil
	}
	raw, err = marshal(v)
	return raw, text, err
}

type typedText struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type typedThinking struct {
	Type      string `json:"type"`
	Thinking  string `json:"thinking"`
	Signature string `json:"signature"`
}

type typedCall struct {
	Type  string          `json:"type"`
	ID    string          `json:"id"`
	Name  string          `json:"name"`
	Input json.RawMessage `json:"input"`
}

// marshal writes JSON without escaping what only HTML minds.
func marshal(v any) (json.RawMessage, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return json.RawMessage(strings.TrimSuffix(b.String(), "\n")), nil
}

// quote writes the beginning of s in quotes.
func quote(s string) string {
	if len(s) > maxQuote {
		n := maxQuote
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		return strconv.Quote(s[:n]) + "…"
	}
	return strconv.Quote(s)
}
