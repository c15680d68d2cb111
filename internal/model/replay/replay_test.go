package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"croft/internal/model"
)

// talk plays a conversation: each step is a user message, or with a leading "=" the result
// of every open tool call. A new provider is made for each step, as after a crash.
type talk struct {
	t       *testing.T
	yaml    string
	session string
	msgs    []model.Message
	open    []string
}

func newTalk(t *testing.T, yaml string) *talk { return &talk{t: t, yaml: yaml, session: "sesn_1"} }

func (k *talk) request() *model.Request {
	return &model.Request{Model: "m", System: []string{"Be brief."}, Messages: k.msgs, SessionID: k.session}
}

// say returns what the cassette answers: texts, and calls as name input.
func (k *talk) say(step string) string {
	k.t.Helper()
	var content []json.RawMessage
	if result, ok := strings.CutPrefix(step, "="); ok {
		for _, id := range k.open {
			raw, err := json.Marshal(map[string]any{"type": "tool_result", "tool_use_id": id, "content": []json.RawMessage{rawText(result)}})
			if err != nil {
				k.t.Fatal(err)
			}
			content = append(content, raw)
		}
	} else {
		content = append(content, rawText(step))
	}
	k.msgs = append(k.msgs, model.Message{Role: "user", Content: content})
	p, err := Parse("test.yaml", []byte(k.yaml), WithTiming(None))
	if err != nil {
		k.t.Fatal(err)
	}
	resp, err := p.Generate(context.Background(), k.request(), nil)
	if err != nil {
		return "error: " + err.Error()
	}
	k.msgs = append(k.msgs, model.Message{Role: "assistant", Content: resp.Content})
	k.open = nil
	var out []string
	for _, raw := range resp.Content {
		var b struct {
			Type, Text, ID, Name string
			Input                json.RawMessage
		}
		if err := json.Unmarshal(raw, &b); err != nil {
			k.t.Fatalf("%v: %s", err, raw)
		}
		switch b.Type {
		case "text":
			out = append(out, b.Text)
		case "tool_use":
			k.open = append(k.open, b.ID)
			out = append(out, b.Name+" "+string(b.Input))
		default:
			out = append(out, b.Type)
		}
	}
	if (resp.StopReason == model.StopToolUse) != (len(k.open) > 0) {
		k.t.Errorf("stop reason %s with %d calls", resp.StopReason, len(k.open))
	}
	return strings.Join(out, " | ")
}

func TestConversations(t *testing.T) {
	const two = `
conversations:
  - user: count the files
    turns:
      - reply:
          - thinking: hm
          - Let me look.
          - bash: ls | wc -l
          - tool: weather
            input: {city: "{{session}}", deep: [{x: "<{{user}}>"}]}
      - expect: {tool_result: ["3", {regexp: '^\s*3'}]}
        reply: There are {{tool_result}} files.
      - expect: thanks
        reply: {text: never}
`
	tests := []struct {
		name  string
		yaml  string
		steps [][2]string
	}{
		{"turns", strings.Replace(two, "{text: never}", "[You are welcome.]", 1), [][2]string{
			{"please count the files", `thinking | Let me look. | bash {"command":"ls | wc -l"} | weather {"city":"sesn_1","deep":[{"x":"<please count the files>"}]}`},
			{"=3 ", "There are 3  files."},
			{"many thanks", "You are welcome."},
			{"more", `error: replay: test.yaml:3: the conversation ends after 3 turns, and turn 4 was asked for, by the user message "more"`},
		}},
		{"alone", "turns: [reply: one, {reply: [two]}]", [][2]string{{"anything", "one"}, {"", "two"}}},
		{"repeat", `
conversations:
  - user: {regexp: "run (\\d+) times"}
    loop: true
    turns:
      - repeat: "{{match 1}}"
        reply: [{bash: "echo {{repeat}} of {{match 1}} in turn {{turn}}"}]
      - reply: Done.
`, [][2]string{
			{"run 2 times", `bash {"command":"echo 1 of 2 in turn 1"}`},
			{"=ok", `bash {"command":"echo 2 of 2 in turn 2"}`},
			{"=ok", "Done."},
			{"once more", `bash {"command":"echo 1 of 2 in turn 4"}`},
		}},
		{"first match", `
conversations:
  - {user: {equals: " hello\n"}, turns: [reply: exact]}
  - {user: hello, turns: [reply: contains]}
  - {user: "*", turns: [reply: any]}
`, [][2]string{{"hello", "exact"}}},
		{"second match", `{"conversations":[{"user":{"equals":"hello"},"turns":[{"reply":"exact"}]},{"turns":[{"reply":"any {{user}} \"{{match 3}}\""}]}]}`,
			[][2]string{{"hello\n\tyou", "any hello\n\tyou \"\""}}},
		{"no match", "conversations: [{user: one, turns: [reply: x]}, {user: {regexp: two}, turns: [reply: x]}]",
			[][2]string{{"three", `error: replay: test.yaml: no conversation begins with the user message "three"; those here expect one that contains "one", or matches "two"`}}},
		{"wrong user", "turns: [reply: x, {expect: later, reply: y}]", [][2]string{
			{"a", "x"}, {"b", `error: replay: test.yaml:1: turn 2 of the conversation: expected a last user message that contains "later", and "b" came`}}},
		{"wrong result", "{turns: [{reply: [{bash: ls}]}, {expect: {tool_result: main.go}, reply: y}]}", [][2]string{
			{"a", `bash {"command":"ls"}`},
			{"=nothing", `error: replay: test.yaml:1: turn 2 of the conversation: expected a tool result that contains "main.go", and "nothing" came`}}},
		{"no result", "{turns: [{reply: x}, {expect: {tool_result: main.go}, reply: y}]}", [][2]string{
			{"a", "x"},
			{"b", `error: replay: test.yaml:1: turn 2 of the conversation: expected a tool result that contains "main.go", and the user message "b" came`}}},
		{"system", "{turns: [{expect: {system: be long}, reply: x}]}", [][2]string{
			{"a", `error: replay: test.yaml:1: turn 1 of the conversation: expected a system prompt that contains "be long", and it is "Be brief."`}}},
		{"literal", "{templates: false, turns: [{reply: ['{{user}} {{ .Values }}', {bash: 'echo {{'}]}]}", [][2]string{
			{"a", `{{user}} {{ .Values }} | bash {"command":"echo {{"}`}}},
		{"inputs", `{turns: [{reply: [{write: {file_path: a, content: "x\ny"}}, {tool: t, input: {z: 1, a: 1e3, m: 0x10, d: 2024-01-01, n: null, b: True, f: .5}}]}]}`, [][2]string{
			{"a", `write {"file_path":"a","content":"x\ny"} | t {"z":1,"a":1e3,"m":16,"d":"2024-01-01","n":null,"b":true,"f":0.5}`}}},
		{"bad repeat", `{conversations: [{user: {regexp: "(.*)"}, turns: [{repeat: "{{match 1}}", reply: x}]}]}`, [][2]string{
			{"many", `error: replay: test.yaml:1: repeat: "many" is no number between 0 and 1000000`}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newTalk(t, tt.yaml)
			for i, s := range tt.steps {
				if got := k.say(s[0]); got != s[1] {
					t.Errorf("step %d:\n got %s\nwant %s", i+1, got, s[1])
				}
			}
		})
	}
}

// TestIDs: ids are told by session, turn and place, so that a process that repeats a request
// gives the same ones, and they never come twice in a session.
func TestIDs(t *testing.T) {
	const yaml = "{conversations: [{loop: true, turns: [{reply: [{bash: a}, {bash: b, id: mine}]}]}]}"
	seen := map[string]bool{}
	for _, session := range []string{"sesn_1", "sesn_2"} {
		k := newTalk(t, yaml)
		k.session = session
		for range 3 {
			k.say("=x")
			for _, id := range k.open {
				if seen[session+id] {
					t.Errorf("%s comes twice in %s", id, session)
				}
				seen[session+id] = true
			}
		}
		before := k.open
		k.msgs = k.msgs[:len(k.msgs)-2]
		k.say("=x")
		if diff := cmp.Diff(before, k.open); diff != "" {
			t.Errorf("the repeated request has other ids:\n%s", diff)
		}
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct{ yaml, want string }{
		{"", "t.yaml: the cassette is empty; it needs conversations, or turns"},
		{"a: [", "t.yaml: line 1: did not find expected node content"},
		{"- 1", "t.yaml:1: the cassette must be an object, not a list"},
		{"conversations: []", "t.yaml:1: the cassette has no conversations"},
		{"conversation: []", `t.yaml:1: the cassette: unknown key "conversation"; known are conversations, pace, recorded, templates, timing, turns`},
		{"timing: fast\nturns: [reply: x]", `t.yaml:1: timing must be recorded or none, not "fast"`},
		{"turns: [reply: x]\nconversations: [{turns: [reply: y]}]", "t.yaml:1: the cassette has both conversations and turns; put the turns into a conversation"},
		{"conversations:\n  - user: a\n", "t.yaml:2: the conversation has no turns"},
		{"conversations:\n  - user: {like: a}\n    turns: [reply: x]", `t.yaml:2: user: unknown key "like"; known are contains, equals, regexp`},
		{"conversations:\n  - user: {regexp: '('}\n    turns: [reply: x]", "t.yaml:2: user.regexp: error parsing regexp: missing closing ): `(`"},
		{"turns:\n  - replies: x\n", `t.yaml:2: a turn: unknown key "replies"; known are delay, expect, fault, pace, repeat, reply, stop_details, stop_reason, usage`},
		{"turns:\n  - reply: x\n    reply: y\n", `t.yaml:3: a turn: the key "reply" comes twice`},
		{"turns:\n  - expect: x\n", "t.yaml:2: a turn needs a reply"},
		{"turns:\n  - reply: []\n", "t.yaml:2: a reply needs a block: the number of answers given so far tells the next one, and an empty answer would not count"},
		{"turns:\n  - reply:\n      - text: a\n        bash: b\n", "t.yaml:3: a block of the reply must be one of text, thinking, tool, block, bash, read, write, edit, glob and grep"},
		{"turns:\n  - reply:\n      - txt: a\n", `t.yaml:3: a block of the reply: unknown key "txt"; known are bash, block, chunks, delay, edit, glob, grep, id, input, read, signature, text, thinking, tool, write`},
		{"turns:\n  - reply: [{write: path}]\n", "t.yaml:2: the input of write must be an object, not text"},
		{"turns:\n  - reply: [{bash: ls, input: {}}]\n", "t.yaml:2: the tool call has two inputs"},
		{"turns:\n  - reply: 'hello {{usr}}'\n", "t.yaml:2: {{usr}} is no placeholder; there are {{user}}, {{tool_result}}, {{turn}}, {{repeat}}, {{session}} and {{match N}}; set templates: false to keep such text as it is"},
		{"turns:\n  - reply: 'hello {{'\n", "t.yaml:2: {{ without }}; set templates: false to keep such text as it is"},
		{"turns:\n  - reply: x\n    fault: sometimes\n", `t.yaml:3: fault: "sometimes" is not known; known are overloaded, rate_limited, failed, refused, billing, cut, hang`},
		{"turns:\n  - reply: x\n    fault: {kind: cut, times: never}\n", "t.yaml:3: fault.times must be a whole number up to 1000000, or always"},
		{"turns:\n  - reply: x\n    delay: soon\n", "t.yaml:3: delay must be a duration such as 250ms or 2s"},
		{"turns:\n  - reply: x\n    stop_reason: tool_use\n", "t.yaml:2: stop_reason tool_use needs a tool call in the reply"},
		{"turns:\n  - reply: [{bash: x}]\n    stop_reason: end_turn\n", "t.yaml:2: stop_reason end_turn cannot follow a tool call"},
		{"turns:\n  - reply: x\n    repeat: '{{user}}'\n", "t.yaml:2: repeat: only {{match N}} may stand here, since the number must be the same in every turn"},
		{"turns:\n  - reply: x\n    repeat: -1\n", `t.yaml:2: repeat: "-1" is no number between 0 and 1000000`},
		{"turns:\n  - reply: x\n    usage: {input: 1}\n", `t.yaml:3: usage: unknown key "input"; known are cache_creation_1h_tokens, cache_creation_input_tokens, cache_read_input_tokens, inference_geo, input_tokens, output_tokens, speed`},
		{"turns:\n  - reply: [{tool: t, input: {a: .nan}}]\n", "t.yaml:2: .nan is no number that JSON knows"},
		{"turns:\n  - reply: [{tool: t, input: &a {b: *a}}]\n", "t.yaml:2: values nest deeper than 100"},
	}
	for _, tt := range tests {
		_, err := Parse("t.yaml", []byte(tt.yaml))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%q:\n got %v\nwant %s", tt.yaml, err, tt.want)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("turns: [x]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), path+":1: ") {
		t.Errorf("a bad file: %v", err)
	}
}

func TestFaults(t *testing.T) {
	p, err := Parse("t.yaml", []byte(`
turns:
  - reply: fine
    fault:
      - {kind: overloaded, times: 2, message: busy}
      - {kind: rate_limited, retry_after: 3s}
`))
	if err != nil {
		t.Fatal(err)
	}
	req := &model.Request{Messages: []model.Message{{Role: "user", Content: []json.RawMessage{rawText("go")}}}, SessionID: "a"}
	other := *req
	other.SessionID = "b"
	var got []string
	for _, r := range []*model.Request{req, &other, req, req, req, &other, req} {
		resp, err := p.Generate(context.Background(), r, nil)
		var e *model.Error
		switch {
		case errors.As(err, &e):
			got = append(got, fmt.Sprintf("%s %s %v %s %s", r.SessionID, e.Kind, e.Retry, e.RetryAfter, e.Message))
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, r.SessionID+" "+resp.StopReason)
		}
	}
	want := []string{
		"a model_overloaded_error true 0s replay: busy",
		"b model_overloaded_error true 0s replay: busy",
		"a model_overloaded_error true 0s replay: busy",
		"a model_rate_limited_error true 3s replay: rate limited",
		"a end_turn",
		"b model_overloaded_error true 0s replay: busy",
		"a end_turn",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFaultMemoryIsBounded(t *testing.T) {
	p, err := Parse("t.yaml", []byte("{turns: [{reply: x, fault: failed}]}"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxStruck + 50 {
		req := &model.Request{SessionID: fmt.Sprint(i)}
		if _, err := p.Generate(context.Background(), req, nil); err == nil {
			t.Fatalf("session %d had no fault", i)
		}
	}
	if len(p.struck) != maxStruck || len(p.order) != maxStruck {
		t.Errorf("%d and %d faults are remembered", len(p.struck), len(p.order))
	}
}

func TestTiming(t *testing.T) {
	const yaml = `
pace: 10ms
turns:
  - delay: 1s
    reply:
      - {text: abcdef, chunks: [[2, 100], [3, 200]]}
      - {text: "` + "0123456789012345678901234567890123456789" + `", delay: 50ms}
`
	for _, timing := range []Timing{AsRecorded, None} {
		synctest.Test(t, func(t *testing.T) {
			p, err := Parse("t.yaml", []byte(yaml), WithTiming(timing))
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			var got []string
			_, err = p.Generate(context.Background(), &model.Request{}, func(d model.Delta) {
				got = append(got, fmt.Sprintf("%s %d %q", time.Since(began), d.Index, d.Text))
			})
			if err != nil {
				t.Fatal(err)
			}
			want := []string{
				`1s 0 ""`, `1.1s 0 "ab"`, `1.3s 0 "cde"`, `1.3s 0 "f"`,
				`1.35s 1 ""`, `1.35s 1 "012345678901234567890123"`, `1.36s 1 "4567890123456789"`,
			}
			if timing == None {
				for i, w := range want {
					_, rest, _ := strings.Cut(w, " ")
					want[i] = "0s " + rest
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", timing, diff)
			}
		})
	}
}

func FuzzCassette(f *testing.F) {
	for _, s := range []string{
		"turns: [reply: x]",
		"recorded: true\ntemplates: false\nconversations:\n  - session: s\n    user: {equals: \"a\\r\\nb\"}\n    turns:\n      - reply:\n          - {text: \" x\\n  y\\n\", chunks: [[1, 2]], delay: 3ms}\n          - {thinking: t, signature: s}\n          - {bash: ls, id: i}\n          - {tool: t, input: {a: [1, 2.50, null, true, \"\\u2028\"]}}\n          - {block: {type: other, x: 1}}\n        usage: {input_tokens: 5, speed: fast}\n",
		"timing: none\npace: 1.5\nconversations:\n  - {name: n, loop: true, user: {regexp: '(\\d+)'}, turns: [{repeat: '{{match 1}}', expect: {tool_result: [a, '*'], system: {contains: '*'}}, reply: '{{user}}{{turn}}', fault: [{kind: cut, times: always, after: 3, retry_after: 2s, message: m}, hang]}]}\n",
		"turns: [{reply: [{tool: a, input: {? b : c, 0x1F: 1_000, d: 12e03}}]}]",
		"a: &a [*a]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("f.yaml", data)
		if err != nil {
			return
		}
		once, err := encode(p.cassette)
		if err != nil {
			t.Fatalf("an accepted cassette cannot be written: %v", err)
		}
		again, err := Parse("f.yaml", once)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, once)
		}
		twice, err := encode(again.cassette)
		if err != nil || string(once) != string(twice) {
			t.Fatalf("reading what was written changes it (%v):\n%s\n---\n%s", err, once, twice)
		}
		req := &model.Request{SessionID: "s", Messages: []model.Message{{Role: "user", Content: []json.RawMessage{rawText("a 3")}}}}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for _, q := range []*Provider{p, again} {
			q.timing = None
			resp, err := q.Generate(ctx, req, nil)
			if err != nil {
				continue
			}
			for _, raw := range resp.Content {
				if !json.Valid(raw) {
					t.Fatalf("no JSON: %s", raw)
				}
			}
		}
	})
}
