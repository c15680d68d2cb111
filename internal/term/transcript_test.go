package term

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"croft"
)

// at is a moment so many milliseconds after the first event.
func at(ms int) string { return croft.Time(1_700_000_000_000_000 + int64(ms)*1000).String() }

// turn is a whole turn: a message in pieces, two calls at once, an error, an answer.
var turn = []string{
	`{"type":"session.status_running","id":"e1","processed_at":"` + at(0) + `"}`,
	`{"type":"user.message","id":"e2","content":[{"type":"text","text":"do it\u001b[2J\nplease"}],"processed_at":"` + at(0) + `"}`,
	`{"type":"span.model_request_start","id":"e3","processed_at":"` + at(0) + `"}`,
	`{"type":"event_start","event":{"type":"agent.thinking","id":"e4"}}`,
	`{"type":"event_start","event":{"type":"agent.message","id":"e5"}}`,
	`{"type":"event_delta","event_id":"e5","delta":{"type":"content_delta","index":0,"content":{"type":"text","text":"I shall \u001b]0;"}}}`,
	`{"type":"event_delta","event_id":"e5","delta":{"type":"content_delta","index":0,"content":{"type":"text","text":"title\u0007see."}}}`,
	`{"type":"agent.thinking","id":"e4","processed_at":"` + at(50) + `"}`,
	`{"type":"agent.message","id":"e5","content":[{"type":"text","text":"I shall \u001b]0;title\u0007see."},{"type":"text","text":"Now."}],"processed_at":"` + at(50) + `"}`,
	`{"type":"agent.tool_use","id":"e6","name":"bash","input":{"command":"go test ./...\n"},"evaluated_permission":"allow","processed_at":"` + at(60) + `"}`,
	`{"type":"agent.tool_use","id":"e7","name":"write","input":{"file_path":"a.txt","content":"1\n2\n"},"evaluated_permission":"allow","processed_at":"` + at(60) + `"}`,
	`{"type":"span.model_request_end","id":"e8","is_error":false,"processed_at":"` + at(60) + `"}`,
	`{"type":"agent.tool_result","id":"e9","tool_use_id":"e7","content":[],"is_error":false,"processed_at":"` + at(72) + `"}`,
	`{"type":"agent.tool_result","id":"e10","tool_use_id":"e6","content":[{"type":"text","text":"1\n  2\n3\n\u001b[31m4\n5\n6\n7\n"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":""}}],"is_error":true,"processed_at":"` + at(1360) + `"}`,
	`{"type":"session.error","id":"e11","error":{"type":"model_overloaded_error","message":"Overloaded","retry_status":{"type":"retrying"}},"processed_at":"` + at(1400) + `"}`,
	`{"type":"agent.message","id":"e12","content":[{"type":"text","text":"Done."}],"processed_at":"` + at(2000) + `"}`,
	`{"type":"session.status_idle","id":"e13","stop_reason":{"type":"end_turn"},"processed_at":"` + at(2000) + `"}`,
}

func show(t *testing.T, o Options, others bool, events []string) string {
	t.Helper()
	var out bytes.Buffer
	s := NewScreen(&out, o)
	tr := NewTranscript(s, others)
	for _, raw := range events {
		e, err := ParseEvent(json.RawMessage(raw))
		if err != nil {
			t.Fatal(err)
		}
		tr.Show(e)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestTranscript(t *testing.T) {
	for _, tt := range []struct {
		name   string
		others bool
		want   string
	}{
		{"own", false, `
I shall see.
Now.
● bash  go test ./...
● write  a.txt (2 lines)
↳ write  a.txt (2 lines)
  done in 12ms
↳ bash  go test ./...
  1
    2
  3
  4
  5
  … 3 more lines
  failed in 1.3s
error: Overloaded (it is tried again)
Done.
`},
		{"with others", true, `
> do it
> please
I shall see.
Now.
● bash  go test ./...
● write  a.txt (2 lines)
↳ write  a.txt (2 lines)
  done in 12ms
↳ bash  go test ./...
  1
    2
  3
  4
  5
  … 3 more lines
  failed in 1.3s
error: Overloaded (it is tried again)
Done.
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := show(t, Options{}, tt.others, turn)
			if d := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestLive shows the same turn where lines can be taken back: what stays is read from the
// bytes as a terminal would.
func TestLive(t *testing.T) {
	got := show(t, Options{Live: true, Color: true}, false, turn)
	var stays []string
	for line := range strings.SplitSeq(got, "\n") {
		if i := strings.LastIndex(line, "\r\x1b[K"); i >= 0 {
			line = line[i+len("\r\x1b[K"):]
		}
		if line = Clean(line); line != "" {
			stays = append(stays, line)
		}
	}
	want := []string{"I shall see.", "Now.", "● write  a.txt (2 lines)  12ms", "● bash  go test ./...  1.3s", "  1", "    2", "  3", "  4", "  5", "  … 3 more lines",
		"error: Overloaded (it is tried again)", "Done."}
	if d := cmp.Diff(want, stays); d != "" {
		t.Error(d)
	}
	if !strings.Contains(got, "\x1b[31m  1\x1b[0m") {
		t.Errorf("a failed call's output is not red: %q", got)
	}
}

func TestTranscriptOddities(t *testing.T) {
	ask := `{"type":"agent.tool_use","id":"u1","name":"bash","input":{"command":"rm x"},"evaluated_permission":"ask"}`
	for _, tt := range []struct {
		name   string
		events []string
		want   string
	}{
		{"the stored message is the last word", []string{
			`{"type":"event_delta","event_id":"m","delta":{"index":0,"content":{"type":"text","text":"wrong"}}}`,
			`{"type":"agent.message","id":"m","content":[{"type":"text","text":"right"}]}`,
		}, "wrong\nright\n"},
		{"a preview that ends early", []string{
			`{"type":"event_delta","event_id":"m","delta":{"index":0,"content":{"type":"text","text":"half"}}}`,
			`{"type":"span.model_request_end","id":"e","is_error":true}`,
		}, "half\n(the answer was cut off here)\n"},
		{"a result of an unknown call", []string{
			`{"type":"agent.tool_result","id":"r","tool_use_id":"u","content":[{"type":"text","text":"x"}]}`,
		}, "↳ a call  \n  x\n  done\n"},
		{"asked, denied", []string{ask,
			`{"type":"session.status_idle","id":"i","stop_reason":{"type":"requires_action","event_ids":["u1"]}}`,
			`{"type":"user.tool_confirmation","id":"c","tool_use_id":"u1","result":"deny","deny_message":"no\u001b[1m"}`,
		}, "● bash  rm x\nwaits for an answer: bash  rm x\ndenied  no\n"},
		{"fields of another shape", []string{
			`{"type":"agent.message","id":"m","content":"text","error":3,"stop_reason":[]}`,
			`{"type":"agent.tool_use","id":"u9","name":"new","input":[1]}`,
		}, "● new  [1]\n"},
		{"ends", []string{
			`{"type":"session.status_idle","id":"i","stop_reason":{"type":"budget_reached"}}`,
			`{"type":"session.status_idle","id":"i","stop_reason":{"type":"retries_exhausted"}}`,
			`{"type":"session.status_idle","id":"i","stop_reason":{"type":"refusal"}}`,
			`{"type":"session.status_terminated","id":"i"}`,
			`{"type":"session.deleted","id":"i"}`,
			`{"type":"something.new","id":"i"}`,
		}, "the session's budget is used up\nthe model could not be reached; the turn was given up\nthe model refused to go on\nthe session has ended for good\nthe session was deleted\n"},
	} {
		if d := cmp.Diff(tt.want, show(t, Options{}, true, tt.events)); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

func TestCallText(t *testing.T) {
	for _, tt := range []struct{ name, input, want string }{
		{"bash", `{"command":"ls"}`, "ls"},
		{"bash", `{"restart":true}`, "(restart)"},
		{"read", `{"file_path":"a","view_range":[1,9]}`, "a:1-9"},
		{"write", `{"file_path":"a","content":""}`, "a (0 lines)"},
		{"write", `{"file_path":"a","content":"x"}`, "a (1 line)"},
		{"glob", `{"pattern":"**/*.go","path":"src"}`, "**/*.go in src"},
		{"grep", `{"pattern":"x"}`, "x"},
		{"lookup", `{"city":"Rome"}`, `{"city":"Rome"}`},
		{"ping", `{}`, ""},
		{"bash", `[1]`, "[1]"},
	} {
		if got := CallText(tt.name, json.RawMessage(tt.input)); got != tt.want {
			t.Errorf("%s %s: %q, want %q", tt.name, tt.input, got, tt.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	if got := Number(1234567); got != "1,234,567" {
		t.Error(got)
	}
	for d, want := range map[time.Duration]string{12 * time.Millisecond: "12ms", 3400 * time.Millisecond: "3.4s", 125500 * time.Millisecond: "2m5s"} {
		if got := Took(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
	for in, want := range map[string]string{"7": "$0.07", "70": "$0.70", "1234": "$12.34"} {
		if got := Cost(&croft.Money{Amount: in}); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
	u := &croft.Usage{InputTokens: 10, OutputTokens: 2000, CacheReadInputTokens: 90, ActiveSeconds: 4.25, ListCost: &croft.Money{Amount: "3"}}
	if got, want := Tokens(u), "100 tokens in (90 from the cache), 2,000 out, 4.2s, $0.03"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("nobody reads") }

func TestScreenKeepsTheError(t *testing.T) {
	s := NewScreen(brokenWriter{}, Options{Live: true})
	s.Status("working")
	s.Line(Part{Plain, "x"})
	if err := s.Close(); err == nil {
		t.Error("the error of writing is lost")
	}
	if err := s.Close(); err == nil {
		t.Error("a second Close loses it")
	}
}

func TestScreenInParallel(t *testing.T) {
	var out bytes.Buffer
	s := NewScreen(&out, Options{Live: true})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				s.Status("a")
				s.Text(Plain, "x")
				s.FreshLine()
				s.Line(Part{Bold, "y"})
				s.Status("")
			}
		})
	}
	all.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "y\n"); n != 200 {
		t.Errorf("%d of 200 lines", n)
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, e := range turn {
		f.Add(e)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		e, err := ParseEvent(json.RawMessage(raw))
		if err != nil {
			return
		}
		got := show(t, Options{}, true, []string{raw, raw})
		for _, r := range got {
			if r != '\n' && hidden(r) {
				t.Fatalf("%s was shown as %q", raw, got)
			}
		}
		_ = e
	})
}
