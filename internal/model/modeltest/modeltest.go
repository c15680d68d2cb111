// Package modeltest holds what every model provider must pass, and the servers it is tried
// against. The servers are fakes: Anthropic and OpenAI speak the Anthropic Messages API and
// the OpenAI chat-completions API as their public specifications describe the wire, faults
// included, and know nothing of a model. They prove that a provider keeps to the protocol;
// they do not prove how a real service behaves beyond it.
//
// A provider's test gives Run a Subject for a script of answers; Run plays the
// conversations and judges what comes back. Only tests may import this package.
package modeltest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"croft/internal/model"
)

// Key is the API key that subjects are made with. It must never come out in an error.
const Key = "sk-test-0123456789abcdef"

// Idle is how long the streams of a subject with these answers may be silent: short where
// one of them stalls, and else so long that a slow machine does not stall by itself.
func Idle(answers []Answer) time.Duration {
	for _, a := range answers {
		if a.Fault == Stall {
			return 500 * time.Millisecond
		}
	}
	return time.Minute
}

// Answer scripts one response.
type Answer struct {
	Blocks []Block
	// Stop is the response's stop reason in the words of package model.
	Stop  string
	Usage model.Usage
	Fault Fault
}

// Block is one content block: text in Chunks, thinking, or a tool call.
type Block struct {
	Chunks    []string
	Thinking  string
	Signature string
	Tool      string
	ID        string
	Input     string // JSON, or a piece of it where the answer is cut
}

// Fault is what goes wrong instead of, or within, an answer.
type Fault string

// The faults. Those that end in a number are an HTTP status with the API's error body.
const (
	RateLimited       Fault = "429"           // retry-after: 7
	RateLimitedByDate Fault = "429 with date" // retry-after: a date half a minute away
	Overloaded        Fault = "529"
	Unavailable       Fault = "503"
	OverloadedMidway  Fault = "overloaded in mid-stream"
	ServerError       Fault = "500"
	BadGateway        Fault = "502" // a proxy's page
	RequestTimeout    Fault = "408"
	Billing           Fault = "402"
	BadRequest        Fault = "400"
	Unauthorized      Fault = "401" // the message repeats the key
	Forbidden         Fault = "403"
	NotFound          Fault = "404"
	TooLarge          Fault = "413"
	Redirect          Fault = "307"
	Cut               Fault = "stream cut"       // the body ends in the middle
	Reset             Fault = "connection reset" // in mid-stream
	NoAnswer          Fault = "no answer"        // the connection closes before a header
	Stall             Fault = "stall"            // silence in mid-stream
)

// expect is what a fault must become.
type expect struct {
	kind  model.ErrorKind
	retry bool
	after time.Duration
}

func expected() map[Fault]expect {
	return map[Fault]expect{
		RateLimited:       {model.RateLimited, true, 7 * time.Second},
		RateLimitedByDate: {model.RateLimited, true, 30 * time.Second},
		Overloaded:        {model.Overloaded, true, 0},
		Unavailable:       {model.Overloaded, true, 0},
		OverloadedMidway:  {model.Overloaded, true, 0},
		ServerError:       {model.RequestFailed, true, 0},
		BadGateway:        {model.RequestFailed, true, 0},
		RequestTimeout:    {model.RequestFailed, true, 0},
		Billing:           {model.BillingError, false, 0},
		BadRequest:        {model.RequestFailed, false, 0},
		Unauthorized:      {model.RequestFailed, false, 0},
		Forbidden:         {model.RequestFailed, false, 0},
		NotFound:          {model.RequestFailed, false, 0},
		TooLarge:          {model.RequestFailed, false, 0},
		Redirect:          {model.RequestFailed, false, 0},
		Cut:               {model.RequestFailed, true, 0},
		Reset:             {model.RequestFailed, true, 0},
		NoAnswer:          {model.RequestFailed, true, 0},
		Stall:             {model.RequestFailed, true, 0},
	}
}

// Faults lists all faults.
func Faults() []Fault {
	return []Fault{
		RateLimited, RateLimitedByDate, Overloaded, Unavailable, OverloadedMidway, ServerError,
		BadGateway, RequestTimeout, Billing, BadRequest, Unauthorized, Forbidden, NotFound, TooLarge,
		Redirect, Cut, Reset, NoAnswer, Stall,
	}
}

// Subject is a provider under test.
type Subject struct {
	Provider model.Provider
	// Bodies returns the bodies of the requests that reached the server so far; nil for a
	// provider without one.
	Bodies func() []string
	// Hang makes the answer after the scripted ones never come.
	Hang bool
}

// Suite is what a provider's test tells Run about it.
type Suite struct {
	// New returns a provider whose next answers are the given ones, in order, with Key and
	// Idle of them; after the last one it does not answer at all.
	New func(t *testing.T, answers ...Answer) Subject
	// Faults are the faults that New can script.
	Faults []Fault
	// Signed tells that thinking has signatures and goes back byte for byte.
	Signed bool
}

// Run holds the provider to the suite.
func Run(t *testing.T, s Suite) {
	t.Run("Text", s.text)
	t.Run("NoSink", s.noSink)
	t.Run("ParallelTools", s.parallelTools)
	t.Run("Thinking", s.thinking)
	t.Run("Media", s.media)
	t.Run("SystemMidway", s.systemMidway)
	t.Run("Stops", s.stops)
	t.Run("Usage", s.usage)
	t.Run("Faults", s.faults)
	t.Run("Cancel", s.cancel)
	t.Run("Concurrent", s.concurrent)
}

// Request returns a request with some history of the caller's.
func Request(messages ...model.Message) *model.Request {
	return &model.Request{
		Model:    "claude-opus-5",
		System:   []string{"You are careful."},
		Messages: messages,
		Tools: []model.Tool{
			{Name: "bash", Description: "Run a command.", Schema: json.RawMessage(`{"type":"object","properties":{"command":{"type":"string"}},"required":["command"]}`)},
			{Name: "read", Description: "Read a file.", Schema: json.RawMessage(`{"type":"object","properties":{"file_path":{"type":"string"}},"required":["file_path"]}`)},
		},
		SessionID: "sesn_modeltest",
	}
}

// User makes a user message of raw blocks, or of one text.
func User(blocks ...string) model.Message { return turn("user", blocks) }

// System makes a system message of one text.
func System(text string) model.Message { return turn("system", []string{text}) }

// Assistant makes an assistant turn of a response.
func Assistant(r *model.Response) model.Message {
	return model.Message{Role: "assistant", Content: r.Content}
}

func turn(role string, blocks []string) model.Message {
	m := model.Message{Role: role}
	for _, b := range blocks {
		if !strings.HasPrefix(b, "{") {
			raw, _ := json.Marshal(map[string]string{"type": "text", "text": b}) // strings always marshal
			b = string(raw)
		}
		m.Content = append(m.Content, json.RawMessage(b))
	}
	return m
}

// Text makes an answer of one text in chunks.
func Text(chunks ...string) Answer {
	return Answer{Blocks: []Block{{Chunks: chunks}}, Stop: model.StopEndTurn, Usage: model.Usage{InputTokens: 10, OutputTokens: 5}}
}

// block is a block of a response, read.
type block struct {
	Type      string         `json:"type"`
	Text      string         `json:"text"`
	Thinking  string         `json:"thinking"`
	Signature string         `json:"signature"`
	ID        string         `json:"id"`
	Name      string         `json:"name"`
	Input     map[string]any `json:"input"`
}

func read(t *testing.T, r *model.Response) []block {
	t.Helper()
	var out []block
	for i, raw := range r.Content {
		var b block
		if err := json.Unmarshal(raw, &b); err != nil {
			t.Fatalf("content %d is no block: %v\n%s", i, err, raw)
		}
		out = append(out, b)
	}
	return out
}

// deltas collects what a sink is told and checks its order.
type deltas struct {
	t     *testing.T
	kinds []string
	texts map[int]string
}

func newDeltas(t *testing.T) *deltas { return &deltas{t: t, texts: map[int]string{}} }

func (d *deltas) sink(x model.Delta) {
	switch {
	case x.Start:
		if x.Index != len(d.kinds) {
			d.t.Errorf("block %d began after %d blocks", x.Index, len(d.kinds))
		}
		d.kinds = append(d.kinds, x.Kind)
		if x.Text != "" {
			d.t.Errorf("a start delta of block %d holds text", x.Index)
		}
	case x.Index >= len(d.kinds):
		d.t.Errorf("text for block %d, which has not begun", x.Index)
	case x.Kind != "text" || d.kinds[x.Index] != "text":
		d.t.Errorf("a delta of kind %q continues block %d of kind %q: only text is previewed", x.Kind, x.Index, d.kinds[x.Index])
	default:
		d.texts[x.Index] += x.Text
	}
}

// agree checks the deltas against the response.
func (d *deltas) agree(blocks []block) {
	d.t.Helper()
	var kinds []string
	for i, b := range blocks {
		kinds = append(kinds, b.Type)
		if b.Type == "text" && d.texts[i] != b.Text {
			d.t.Errorf("block %d: the deltas say %q, the response %q", i, d.texts[i], b.Text)
		}
	}
	if diff := cmp.Diff(kinds, d.kinds); diff != "" {
		d.t.Errorf("kinds of blocks (-response +deltas):\n%s", diff)
	}
}

// generate asks for an answer that must come.
func generate(t *testing.T, p model.Provider, req *model.Request) (*model.Response, []block) {
	t.Helper()
	before := snapshot(t, req)
	d := newDeltas(t)
	resp, err := p.Generate(context.Background(), req, d.sink)
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	blocks := read(t, resp)
	d.agree(blocks)
	if diff := cmp.Diff(before, snapshot(t, req)); diff != "" {
		t.Errorf("the request was changed (-before +after):\n%s", diff)
	}
	return resp, blocks
}

func snapshot(t *testing.T, req *model.Request) string {
	t.Helper()
	raw, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func (s Suite) text(t *testing.T) {
	chunks := []string{"Hello", ", ", "wörld \U0001F30D ", "<b>&\"quoted\"\n", "  end"}
	sub := s.New(t, Text(chunks...))
	resp, blocks := generate(t, sub.Provider, Request(User("Say hello")))
	want := []block{{Type: "text", Text: strings.Join(chunks, "")}}
	if diff := cmp.Diff(want, blocks); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
	if resp.StopReason != model.StopEndTurn {
		t.Errorf("stop reason %q", resp.StopReason)
	}
}

func (s Suite) noSink(t *testing.T) {
	sub := s.New(t, Text("one", "two"))
	resp, err := sub.Provider.Generate(context.Background(), Request(User("Go")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b := read(t, resp); len(b) != 1 || b[0].Text != "onetwo" {
		t.Errorf("content %v", b)
	}
}

func (s Suite) parallelTools(t *testing.T) {
	calls := Answer{Stop: model.StopToolUse, Blocks: []Block{
		{Chunks: []string{"Two ", "calls."}},
		{Tool: "bash", ID: "call_one", Input: `{"command":"echo \"<hi>\" && ls"}`},
		{Tool: "read", ID: "call_two", Input: `{"file_path":"/workspace/ä.txt","range":[1,2.5,null,true]}`},
	}}
	sub := s.New(t, calls, Text("Done."))
	first := Request(User("Do it"))
	resp, blocks := generate(t, sub.Provider, first)
	if resp.StopReason != model.StopToolUse || len(blocks) != 3 {
		t.Fatalf("stop %q, %d blocks", resp.StopReason, len(blocks))
	}
	want := []map[string]any{
		{"command": `echo "<hi>" && ls`},
		{"file_path": "/workspace/ä.txt", "range": []any{1.0, 2.5, nil, true}},
	}
	for i, b := range blocks[1:] {
		if b.Type != "tool_use" || b.ID == "" || b.Name != calls.Blocks[i+1].Tool {
			t.Errorf("call %d: %+v", i, b)
		}
		if diff := cmp.Diff(want[i], b.Input); diff != "" {
			t.Errorf("input %d (-want +got):\n%s", i, diff)
		}
	}
	if blocks[1].ID == blocks[2].ID {
		t.Errorf("both calls have the id %s", blocks[1].ID)
	}
	second := Request(User("Do it"), Assistant(resp), User(
		result(blocks[1].ID, false, `{"type":"text","text":"out of one"}`),
		result(blocks[2].ID, true, `{"type":"text","text":"no such file"}`),
	))
	if _, b := generate(t, sub.Provider, second); len(b) != 1 || b[0].Text != "Done." {
		t.Errorf("second answer %v", b)
	}
	sub.holds(t, 1, "out of one", "no such file", blocks[1].ID, blocks[2].ID)
}

func result(id string, isError bool, blocks ...string) string {
	raw, _ := json.Marshal(map[string]any{ // these always marshal
		"type": "tool_result", "tool_use_id": id, "is_error": isError,
		"content": json.RawMessage("[" + strings.Join(blocks, ",") + "]"),
	})
	return string(raw)
}

// holds checks that the body of request n contains the words.
func (s Subject) holds(t *testing.T, n int, words ...string) {
	t.Helper()
	if s.Bodies == nil {
		return
	}
	bodies := s.Bodies()
	if n >= len(bodies) {
		t.Fatalf("the server saw %d requests, want more than %d", len(bodies), n)
	}
	for _, w := range words {
		if !strings.Contains(bodies[n], w) {
			t.Errorf("request %d lacks %q:\n%s", n, w, bodies[n])
		}
	}
}

func (s Suite) thinking(t *testing.T) {
	const thought, signature = "First, <list> the files & look.\nThen \"decide\" — ü.", "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds+/=="
	sub := s.New(t, Answer{Stop: model.StopToolUse, Blocks: []Block{
		{Thinking: thought, Signature: signature},
		{Tool: "bash", ID: "call_1", Input: `{"command":"ls"}`},
	}}, Text("Done."))
	resp, blocks := generate(t, sub.Provider, Request(User("Think")))
	if len(blocks) != 2 || blocks[0].Type != "thinking" || blocks[0].Thinking != thought {
		t.Fatalf("content %+v", blocks)
	}
	if s.Signed && blocks[0].Signature != signature {
		t.Errorf("signature %q", blocks[0].Signature)
	}
	_, _ = generate(t, sub.Provider, Request(User("Think"), Assistant(resp),
		User(result(blocks[1].ID, false, `{"type":"text","text":"a.go"}`))))
	if s.Signed {
		sub.holds(t, 1, string(resp.Content[0]))
	} else {
		quoted, _ := json.Marshal(thought) // a string always marshals
		sub.holds(t, 1, string(quoted))
	}
}

func (s Suite) media(t *testing.T) {
	const (
		png  = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
		jpeg = "aGVsbG8gZnJvbSBhIHRvb2wgcmVzdWx0"
	)
	sub := s.New(t, Answer{Stop: model.StopToolUse, Blocks: []Block{{Tool: "read", ID: "call_1", Input: `{"file_path":"x"}`}}}, Text("Seen."))
	user := User("Look at these",
		`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"`+png+`"}}`,
		`{"type":"image","source":{"type":"url","url":"https://example.com/cat.png"}}`,
		`{"type":"document","title":"notes","source":{"type":"text","media_type":"text/plain","data":"plain document text"}}`)
	resp, blocks := generate(t, sub.Provider, Request(user))
	sub.holds(t, 0, "Look at these", png, "https://example.com/cat.png", "plain document text", "notes")
	generate(t, sub.Provider, Request(user, Assistant(resp), User(result(blocks[0].ID, false,
		`{"type":"text","text":""}`,
		`{"type":"text","text":"text of the result"}`,
		`{"type":"image","source":{"type":"base64","media_type":"image/jpeg","data":"`+jpeg+`"}}`,
		`{"type":"document","source":{"type":"text","media_type":"text/plain","data":"document of the result"}}`,
		`{"type":"search_result","title":"A page","source":"https://example.com/page","content":[{"type":"text","text":"found words"}]}`,
	))))
	sub.holds(t, 1, "text of the result", jpeg, "document of the result", "found words", "https://example.com/page")
}

func (s Suite) systemMidway(t *testing.T) {
	sub := s.New(t, Text("one"), Text("two"))
	resp, _ := generate(t, sub.Provider, Request(User("Hello")))
	generate(t, sub.Provider, Request(User("Hello"), Assistant(resp), User("Go on"), System("The budget is low."), User("now")))
	sub.holds(t, 1, `"role":"system"`, "The budget is low.")
}

// concurrent asks one provider from many goroutines, for the race detector to watch.
func (s Suite) concurrent(t *testing.T) {
	const n = 16
	answers := make([]Answer, n)
	for i := range answers {
		answers[i] = Text("the ", "same")
	}
	sub := s.New(t, answers...)
	errs := make(chan error, n)
	for i := range n {
		go func() {
			req := Request(User("Go"))
			req.SessionID = fmt.Sprintf("sesn_%d", i)
			text := ""
			resp, err := sub.Provider.Generate(context.Background(), req, func(d model.Delta) { text += d.Text })
			if err == nil && (len(resp.Content) != 1 || text != "the same") {
				err = fmt.Errorf("content %s, deltas %q", resp.Content, text)
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func (s Suite) stops(t *testing.T) {
	t.Run("max_tokens", func(t *testing.T) {
		sub := s.New(t, Answer{Stop: model.StopMaxTokens, Blocks: []Block{{Chunks: []string{"Half a"}}}})
		if resp, b := generate(t, sub.Provider, Request(User("Go"))); resp.StopReason != model.StopMaxTokens || len(b) != 1 {
			t.Errorf("stop %q, content %v", resp.StopReason, b)
		}
	})
	t.Run("refusal", func(t *testing.T) {
		sub := s.New(t, Answer{Stop: model.StopRefusal, Blocks: []Block{{Chunks: []string{"I can"}}}})
		resp, _ := generate(t, sub.Provider, Request(User("Go")))
		if resp.StopReason != model.StopRefusal {
			t.Errorf("stop %q", resp.StopReason)
		}
	})
}

func (s Suite) usage(t *testing.T) {
	want := model.Usage{InputTokens: 120, OutputTokens: 34, CacheReadInputTokens: 5000}
	a := Text("ok")
	a.Usage = want
	sub := s.New(t, a)
	resp, _ := generate(t, sub.Provider, Request(User("Count")))
	if diff := cmp.Diff(want, resp.Usage); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

func (s Suite) faults(t *testing.T) {
	for _, f := range s.Faults {
		t.Run(string(f), func(t *testing.T) {
			bad := Text("Before ", "the fault")
			bad.Fault = f
			sub := s.New(t, bad, Text("Recovered."))
			req := Request(User("Go"))
			resp, err := sub.Provider.Generate(context.Background(), req, newDeltas(t).sink)
			if err == nil {
				t.Fatalf("no error, but %+v", resp)
			}
			var e *model.Error
			if !errors.As(err, &e) {
				t.Fatalf("a %T, not a *model.Error: %v", err, err)
			}
			want := expected()[f]
			if e.Kind != want.kind || e.Retry != want.retry {
				t.Errorf("kind %s, retry %v; want %s, %v\n%v", e.Kind, e.Retry, want.kind, want.retry, err)
			}
			if f == RateLimitedByDate {
				if e.RetryAfter <= 0 || e.RetryAfter > want.after {
					t.Errorf("retry after %s, want at most %s", e.RetryAfter, want.after)
				}
			} else if e.RetryAfter != want.after {
				t.Errorf("retry after %s, want %s", e.RetryAfter, want.after)
			}
			if e.Message == "" {
				t.Error("no message")
			}
			for err := error(e); err != nil; err = errors.Unwrap(err) {
				if strings.Contains(err.Error(), Key) {
					t.Errorf("the key is in %q", err.Error())
				}
			}
			if !want.retry {
				return
			}
			if _, b := generate(t, sub.Provider, req); len(b) != 1 || b[0].Text != "Recovered." {
				t.Errorf("the second try answered %v", b)
			}
		})
	}
}

func (s Suite) cancel(t *testing.T) {
	t.Run("waiting", func(t *testing.T) {
		sub := s.New(t)
		if !sub.Hang {
			sub = s.New(t, Text("never read"))
		}
		ctx, cancel := context.WithCancel(context.Background())
		timer := time.AfterFunc(20*time.Millisecond, cancel)
		defer timer.Stop()
		if !sub.Hang {
			cancel()
		}
		_, err := sub.Provider.Generate(ctx, Request(User("Go")), nil)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want the context's", err)
		}
		var e *model.Error
		if errors.As(err, &e) {
			t.Errorf("the context's end came as a %T", e)
		}
	})
	t.Run("in mid-stream", func(t *testing.T) {
		a := Text("first", "second", "third")
		a.Fault = Stall
		sub := s.New(t, a)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		_, err := sub.Provider.Generate(ctx, Request(User("Go")), func(d model.Delta) {
			if d.Text != "" {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want the context's", err)
		}
	})
}
