package replay

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"croft/internal/model"
)

// scripted answers with the given responses, in order, and then with an error.
type scripted struct{ responses []*model.Response }

func (s *scripted) Generate(_ context.Context, _ *model.Request, sink func(model.Delta)) (*model.Response, error) {
	if len(s.responses) == 0 {
		return nil, &model.Error{Kind: model.Overloaded, Retry: true, Message: "no more"}
	}
	r := s.responses[0]
	s.responses = s.responses[1:]
	for i, raw := range r.Content {
		var b struct{ Type, Text string }
		if err := json.Unmarshal(raw, &b); err != nil {
			return nil, err
		}
		sink(model.Delta{Index: i, Kind: b.Type, Start: true})
		for _, c := range strings.SplitAfter(b.Text, " ") {
			if c != "" {
				sink(model.Delta{Index: i, Kind: "text", Text: c})
			}
		}
	}
	return r, nil
}

func response(stop string, blocks ...string) *model.Response {
	r := &model.Response{StopReason: stop, Usage: model.Usage{InputTokens: 7, OutputTokens: 3, CacheReadInputTokens: 11, CacheCreation5m: 2, Speed: "standard"}}
	for _, b := range blocks {
		r.Content = append(r.Content, json.RawMessage(b))
	}
	return r
}

func user(blocks ...string) model.Message {
	m := model.Message{Role: "user"}
	for _, b := range blocks {
		raw := json.RawMessage(b)
		if !strings.HasPrefix(b, "{") {
			raw = rawText(b)
		}
		m.Content = append(m.Content, raw)
	}
	return m
}

func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rec.yaml")
	const result = `{"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"text","text":"a.go\nb.go"}]}`
	want := []*model.Response{
		response(model.StopToolUse,
			`{"type":"thinking","thinking":"Hm {{user}} <b>\nnext","signature":"EqQ=="}`,
			`{"type":"redacted_thinking","data":"xyz"}`,
			`{"type":"text","text":"Let me look.\r\n  Indented  \n\n"}`,
			`{"type":"tool_use","id":"toolu_1","name":"bash","input":{"command":"ls {{.Name}}\n"}}`,
			`{"type":"tool_use","id":"toolu_2","name":"t","input":{"z":1,"a":[2.50,null,1e3,""]},"caller":{"type":"direct"}}`),
		response(model.StopEndTurn, `{"type":"text","text":"Two files."}`),
		response(model.StopRefusal, `{"type":"text","text":"No."}`),
	}
	want[2].StopDetails = json.RawMessage(`{"type":"refusal","category":null}`)
	var requests []*model.Request
	msgs := []model.Message{user("List the files: {{x}}")}
	add := func(m ...model.Message) {
		requests = append(requests, &model.Request{SessionID: "sesn_1", Messages: append([]model.Message(nil), msgs...)})
		msgs = append(msgs, m...)
	}
	add(model.Message{Role: "assistant", Content: want[0].Content}, user(result))
	add(model.Message{Role: "assistant", Content: want[1].Content}, user("Now delete them"))
	add()

	// Every answer comes from a recorder of its own, as if the process were killed between.
	for i, req := range requests {
		rec, err := NewRecorder(&scripted{responses: want[i : i+1]}, path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rec.Generate(context.Background(), req, func(model.Delta) {}); err != nil {
			t.Fatal(err)
		}
		if _, err := rec.Generate(context.Background(), req, nil); err == nil {
			t.Error("the inner provider's fault was swallowed")
		}
		if err := rec.Err(); err != nil {
			t.Fatal(err)
		}
	}
	play := func(want []*model.Response) {
		t.Helper()
		p, err := Load(path, WithTiming(None))
		if err != nil {
			t.Fatal(err)
		}
		for i, req := range requests {
			got, err := p.Generate(context.Background(), req, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(readable(want[i]), readable(got)); diff != "" {
				t.Errorf("turn %d (-recorded +played):\n%s", i+1, diff)
			}
		}
	}
	play(want)

	// A recording that begins late takes the earlier turns from the request.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	rec, err := NewRecorder(&scripted{responses: want[2:]}, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rec.Generate(context.Background(), requests[2], nil); err != nil {
		t.Fatal(err)
	}
	late := []*model.Response{{Content: want[0].Content, StopReason: want[0].StopReason}, {Content: want[1].Content, StopReason: want[1].StopReason}, want[2]}
	play(late)

	// Another session that begins alike replaces the first.
	if _, err := rec.Tape.Wrap(&scripted{responses: []*model.Response{response(model.StopEndTurn, `{"type":"text","text":"Newer."}`)}}).
		Generate(context.Background(), &model.Request{SessionID: "sesn_2", Messages: msgs[:1]}, nil); err != nil {
		t.Fatal(err)
	}
	if n := len(rec.c.conversations); n != 1 || rec.c.conversations[0].session != "sesn_2" {
		t.Errorf("%d conversations, of %s", n, rec.c.conversations[0].session)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

// readable is a response as text, so that a difference can be read.
func readable(r *model.Response) string {
	var b strings.Builder
	for _, raw := range r.Content {
		b.Write(raw)
		b.WriteByte('\n')
	}
	b.WriteString(r.StopReason + " " + string(r.StopDetails))
	u, err := json.Marshal(r.Usage)
	if err != nil {
		panic(err)
	}
	return b.String() + "\n" + string(u)
}

func TestRecordingIsReadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rec.yaml")
	rec, err := NewRecorder(&scripted{responses: []*model.Response{response(model.StopToolUse,
		`{"type":"text","text":"First line\nsecond line\n"}`,
		`{"type":"tool_use","id":"toolu_1","name":"bash","input":{"command":"ls"}}`)}}, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rec.Generate(context.Background(), &model.Request{SessionID: "sesn_1", Messages: []model.Message{user("List")}}, nil); err != nil {
		t.Fatal(err)
	}
	for i := range rec.c.conversations[0].turns[0].reply { // the clock is no part of this test
		b := &rec.c.conversations[0].turns[0].reply[i]
		b.delay, b.chunks = 0, nil
	}
	data, err := encode(rec.c)
	if err != nil {
		t.Fatal(err)
	}
	const want = `recorded: true
templates: false
conversations:
  - session: sesn_1
    user:
      equals: List
    turns:
      - reply:
          - text: |
              First line
              second line
          - bash: ls
            id: toolu_1
        stop_reason: tool_use
        usage: {input_tokens: 7, output_tokens: 3, cache_read_input_tokens: 11, cache_creation_input_tokens: 2, speed: standard}
`
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRecordRefuses(t *testing.T) {
	dir := t.TempDir()
	hand := filepath.Join(dir, "hand.yaml")
	if err := os.WriteFile(hand, []byte("turns: [reply: x]"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte("turns: [x]"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{hand, broken, filepath.Join(dir, "no", "folder.yaml"), dir} {
		if _, err := NewRecorder(&scripted{}, path); err == nil {
			t.Errorf("%s was taken for a recording", path)
		}
	}
}

func TestRecordReportsAFailedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "rec.yaml")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	rec, err := NewRecorder(&scripted{responses: []*model.Response{response(model.StopEndTurn, `{"type":"text","text":"x"}`)}}, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := rec.Generate(context.Background(), &model.Request{Messages: []model.Message{user("a")}}, nil); err != nil {
		t.Errorf("the answer was lost: %v", err)
	}
	if err := rec.Err(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
