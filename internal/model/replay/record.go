package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"croft/internal/model"
)

// Tape is a cassette that is being recorded, by one or several Recorders.
//
// It holds the user's messages, the answers and their timing: whatever secret stands in a
// conversation stands there too, but no key and no header, which a Recorder never sees.
// After each answer the file is replaced as a whole, so that a reader, or a crash, finds the
// old or the new one. What a request brings along of the conversation and the recording
// lacks, because it began late, is added from the request, without timing. Two conversations
// that begin with the same message could not be told apart: the later one replaces the
// earlier. Faults are not recorded, nor is an answer without content.
type Tape struct {
	path string

	mu  sync.Mutex
	c   *cassette
	err error
}

// Recorder passes requests on to another provider and records its answers on a Tape. It
// implements model.Provider.
type Recorder struct {
	inner model.Provider
	*Tape
}

// NewRecorder records inner alone into the file at path; see NewTape.
func NewRecorder(inner model.Provider, path string) (*Recorder, error) {
	t, err := NewTape(path)
	if err != nil {
		return nil, err
	}
	return t.Wrap(inner), nil
}

// Wrap returns a provider that asks inner and records its answers here.
func (t *Tape) Wrap(inner model.Provider) *Recorder { return &Recorder{inner, t} }

// NewTape begins a recording. One that is at path already is continued; any other file there
// is an error, and so is a folder that does not exist.
func NewTape(path string) (*Tape, error) {
	c := &cassette{name: path, recorded: true, timing: AsRecorded, literal: true}
	switch data, err := os.ReadFile(path); {
	case err == nil:
		if c, err = parse(path, data); err != nil {
			return nil, fmt.Errorf("continuing the recording: %w", err)
		}
		if !c.recorded || !c.literal {
			return nil, fmt.Errorf("%s is a cassette written by hand; record into another file", path)
		}
	case errors.Is(err, fs.ErrNotExist):
		if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("the folder of the recording %s does not exist", path)
		}
	default:
		return nil, fmt.Errorf("continuing the recording: %w", err)
	}
	return &Tape{path: path, c: c}, nil
}

// Err returns the first failure to write the cassette, or nil. Answers are passed on all
// the same: they have been paid for.
func (t *Tape) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Generate implements model.Provider.
func (r *Recorder) Generate(ctx context.Context, req *model.Request, sink func(model.Delta)) (*model.Response, error) {
	take := &take{began: time.Now(), blocks: map[int]*timed{}}
	take.last = take.began
	resp, err := r.inner.Generate(ctx, req, func(d model.Delta) {
		take.note(d)
		if sink != nil {
			sink(d)
		}
	})
	if err != nil {
		return nil, err
	}
	if len(resp.Content) > 0 {
		r.keep(req, take.turn(resp))
	}
	return resp, nil
}

// keep puts the turn in its place and writes the file.
func (t *Tape) keep(req *model.Request, now turn) {
	h := read(req)
	t.mu.Lock()
	defer t.mu.Unlock()
	conv := t.conversation(req.SessionID, h.first)
	past := turnsOf(req)
	if len(conv.turns) > h.turns {
		conv.turns = conv.turns[:h.turns] // the request was repeated
	}
	for i := len(conv.turns); i < h.turns; i++ {
		earlier := turn{reply: blocks(past[i].content, nil)}
		if len(earlier.reply) == 0 { // it counts as an answer all the same
			earlier.reply = []block{{kind: blockText, text: literalTemplate("")}}
		}
		earlier.stop = model.StopEndTurn
		if slices.ContainsFunc(earlier.reply, func(b block) bool { return b.kind == blockTool || b.announce == blockTool }) {
			earlier.stop = model.StopToolUse
		}
		earlier.expect = expecting(i, past[i].user)
		conv.turns = append(conv.turns, earlier)
	}
	now.expect = expecting(h.turns, past[h.turns].user)
	conv.turns = append(conv.turns, now)
	if err := t.write(); err != nil && t.err == nil {
		t.err = err
	}
}

// expecting is what a turn of a recording expects: the user's message, where one came
// before it. Tool results are left open, because commands do not print the same twice.
func expecting(turn int, user string) *expect {
	if turn == 0 || user == "" {
		return nil // the first message chooses the conversation anyway
	}
	return &expect{user: &pattern{how: "equals", text: user}}
}

// conversation finds or adds the conversation of a session.
func (t *Tape) conversation(session, first string) *conversation {
	for i := range t.c.conversations {
		c := &t.c.conversations[i]
		if _, ok := c.user.match(first); !ok {
			continue
		}
		if c.session != session {
			*c = conversation{session: session, user: c.user}
		}
		return c
	}
	t.c.conversations = append(t.c.conversations, conversation{session: session, user: &pattern{how: "equals", text: first}})
	return &t.c.conversations[len(t.c.conversations)-1]
}

// write replaces the file.
func (t *Tape) write() (err error) {
	data, err := encode(t.c)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing the recording %s: %w", t.path, err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(t.path), "."+filepath.Base(t.path)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already when all went well
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), t.path)
}

// past is one assistant turn of a request, and the user's text before it.
type past struct {
	user    string
	content []json.RawMessage
}

// turnsOf lists the assistant turns of a request, and last the one that is to come.
func turnsOf(req *model.Request) []past {
	out := []past{{}}
	for _, m := range req.Messages {
		last := &out[len(out)-1]
		switch m.Role {
		case "assistant":
			last.content = m.Content
			out = append(out, past{})
		case "user":
			if text, _ := contents(m.Content); text != "" {
				last.user = text
			}
		}
	}
	return out
}

// take notes the timing of one answer.
type take struct {
	began, last time.Time
	blocks      map[int]*timed
}

type timed struct {
	delay  time.Duration
	chunks []chunk
}

func (t *take) note(d model.Delta) {
	now := time.Now()
	since := now.Sub(t.last).Round(time.Millisecond)
	t.last = now
	b := t.blocks[d.Index]
	if b == nil {
		b = &timed{}
		t.blocks[d.Index] = b
	}
	if d.Start {
		b.delay = since
		return
	}
	if n := utf8.RuneCountInString(d.Text); n > 0 {
		b.chunks = append(b.chunks, chunk{chars: n, wait: since})
	}
}

func (t *take) turn(resp *model.Response) turn {
	return turn{
		reply:  blocks(resp.Content, t.blocks),
		stop:   resp.StopReason,
		detail: resp.StopDetails,
		usage:  resp.Usage,
	}
}

// blocks turns content into blocks of a cassette.
func blocks(content []json.RawMessage, timing map[int]*timed) []block {
	out := make([]block, 0, len(content))
	for i, raw := range content {
		b := fromContent(raw)
		if t := timing[i]; t != nil {
			b.delay = t.delay
			if b.kind == blockText {
				b.chunks = t.chunks
			}
		}
		out = append(out, b)
	}
	return out
}

// fromContent is the plainest block that plays to raw.
func fromContent(raw json.RawMessage) block {
	var keys map[string]json.RawMessage
	var c struct {
		Type      string          `json:"type"`
		Text      string          `json:"text"`
		Thinking  string          `json:"thinking"`
		Signature string          `json:"signature"`
		ID        string          `json:"id"`
		Name      string          `json:"name"`
		Input     json.RawMessage `json:"input"`
	}
	_ = json.Unmarshal(raw, &keys) // providers return objects
	_ = json.Unmarshal(raw, &c)
	switch {
	case c.Type == "text":
		return block{kind: blockText, text: literalTemplate(c.Text)}
	case c.Type == "thinking" && len(keys) == 3:
		return block{kind: blockThinking, text: literalTemplate(c.Thinking), signature: c.Signature}
	case c.Type == "tool_use" && len(keys) == 4:
		return block{kind: blockTool, tool: c.Name, id: c.ID, input: literalTemplate(string(c.Input))}
	}
	b := block{kind: blockRaw, raw: literalTemplate(string(raw))}
	switch c.Type {
	case "tool_use":
		b.announce = blockTool
	case "thinking", "redacted_thinking":
		b.announce = blockThinking
	}
	return b
}
