package anthropic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	sdk "github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/packages/ssestream"
	"github.com/google/go-cmp/cmp"

	"croft/internal/model"
	"croft/internal/model/modeltest"
)

func provider(t *testing.T, o Options) *Provider {
	t.Helper()
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// bodyOf returns the body for req, checked for being what the SDK's own type reads.
func bodyOf(t *testing.T, req *model.Request) string {
	t.Helper()
	raw, err := provider(t, Options{}).body(req)
	if err != nil {
		t.Fatal(err)
	}
	var params sdk.BetaMessageNewParams
	if err := json.Unmarshal(raw, &params); err != nil {
		t.Fatalf("the SDK cannot read the body: %v\n%s", err, raw)
	}
	if params.Model != req.Model || params.MaxTokens < 1 || len(params.Messages) == 0 {
		t.Errorf("the SDK reads model %s, max_tokens %d, %d messages", params.Model, params.MaxTokens, len(params.Messages))
	}
	return string(raw)
}

func blocks(role string, raw ...string) model.Message {
	m := model.Message{Role: role}
	for _, r := range raw {
		m.Content = append(m.Content, json.RawMessage(r))
	}
	return m
}

func TestBody(t *testing.T) {
	req := &model.Request{
		Model:  "claude-opus-5",
		System: []string{"", "Be <careful>.", "Second."},
		Tools:  []model.Tool{{Name: "a", Description: "does a", Schema: json.RawMessage(`{"type":"object"}`)}, {Name: "b"}},
		Messages: []model.Message{
			blocks("user", `{"type":"text","text":"hi"}`),
			blocks("assistant", `{"type": "thinking", "thinking": "", "signature": "Eq=="}`, `{"type":"text","text":" "}`, `{"type":"tool_use","id":"toolu_1","name":"a","input":{}}`),
			blocks("user", `{"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"text","text":""}], "is_error":true}`),
			blocks("system", `{"type":"text","text":"note"}`),
		},
		Effort: "xhigh", Speed: "fast", InferenceGeo: "us",
	}
	const want = `{"model":"claude-opus-5","max_tokens":128000,"stream":true,"thinking":{"type":"adaptive","display":"omitted"},` +
		`"output_config":{"effort":"xhigh"},"speed":"fast","inference_geo":"us",` +
		`"tools":[{"name":"a","description":"does a","input_schema":{"type":"object"}},{"name":"b","input_schema":{"type":"object"},"cache_control":{"type":"ephemeral"}}],` +
		`"system":[{"type":"text","text":"Be \u003ccareful\u003e."},{"type":"text","text":"Second.","cache_control":{"type":"ephemeral"}}],` +
		`"messages":[{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}}]},` +
		`{"role":"assistant","content":[{"type": "thinking", "thinking": "", "signature": "Eq=="},{"type":"tool_use","id":"toolu_1","name":"a","input":{}}]},` +
		`{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":[],"is_error":true}]},` +
		`{"role":"system","content":[{"type":"text","text":"note","cache_control":{"type":"ephemeral"}}]}]}`
	if diff := cmp.Diff(want, bodyOf(t, req)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMaxTokensAndThinking(t *testing.T) {
	tests := []struct {
		model, effort string
		asked, option int64
		want          int64
		adaptive      bool
	}{
		{"claude-opus-5", "", 0, 0, 64_000, true},
		{"claude-opus-5", "high", 0, 0, 64_000, true},
		{"claude-sonnet-5", "max", 0, 0, 128_000, true},
		{"claude-haiku-4-5", "", 0, 0, 64_000, false},
		{"claude-sonnet-4-5-20250929", "", 0, 0, 64_000, false},
		{"claude-future-9", "", 0, 0, 32_000, false},
		{"qwen3", "max", 0, 0, 8_192, false},
		{"qwen3", "", 0, 500, 500, false},
		{"claude-opus-5", "max", 7, 500, 7, true},
	}
	for _, tt := range tests {
		req := &model.Request{Model: tt.model, Effort: tt.effort, MaxTokens: tt.asked, Messages: []model.Message{modeltest.User("hi")}}
		raw, err := provider(t, Options{MaxTokens: tt.option}).body(req)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			MaxTokens int64           `json:"max_tokens"`
			Thinking  json.RawMessage `json:"thinking"`
		}
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if got.MaxTokens != tt.want || (got.Thinking != nil) != tt.adaptive {
			t.Errorf("%s %s %d %d: max_tokens %d, thinking %s", tt.model, tt.effort, tt.asked, tt.option, got.MaxTokens, got.Thinking)
		}
	}
}

var mark = regexp.MustCompile(`,"cache_control":\{"type":"ephemeral"\}`)

// TestCacheGrows plays a long session and holds each request to what the cache needs: at
// most four breakpoints, one where the previous request ended, and a prefix that never changes.
func TestCacheGrows(t *testing.T) {
	req := modeltest.Request(modeltest.User("start"))
	before := ""
	for turn := range 8 {
		got := bodyOf(t, req)
		plain := mark.ReplaceAllString(got, "")
		if n := len(mark.FindAllString(got, -1)); n > maxBreakpoints {
			t.Fatalf("turn %d: %d breakpoints", turn, n)
		}
		if before != "" {
			prefix := strings.TrimSuffix(mark.ReplaceAllString(before, ""), "]}")
			if !strings.HasPrefix(plain, prefix) {
				t.Fatalf("turn %d: the earlier request is no prefix of this one:\n%s\n%s", turn, prefix, plain)
			}
			// What the previous request wrote up to must be a breakpoint of this one.
			end := strings.LastIndex(before, `,"cache_control"`)
			lengths := markedPrefixes(got)
			if !lengths[len(mark.ReplaceAllString(before[:end], ""))] {
				t.Errorf("turn %d: no breakpoint where the previous request ended; there are at %v", turn, lengths)
			}
		}
		before = got
		// Twelve parallel calls: more blocks than the API looks back over.
		var calls, results []string
		for i := range 12 {
			id := "toolu_" + string(rune('a'+turn)) + string(rune('a'+i))
			calls = append(calls, `{"type":"tool_use","id":"`+id+`","name":"bash","input":{"command":"ls"}}`)
			results = append(results, `{"type":"tool_result","tool_use_id":"`+id+`","content":[{"type":"text","text":"out"}]}`)
		}
		req.Messages = append(req.Messages, blocks("assistant", calls...), blocks("user", results...))
		if turn%3 == 2 {
			req.Messages = append(req.Messages, blocks("system", `{"type":"text","text":"note"}`))
		}
	}
}

// markedPrefixes are the lengths of the prefixes that breakpoints close, without the marks.
func markedPrefixes(body string) map[int]bool {
	out := map[int]bool{}
	removed := 0
	for _, at := range mark.FindAllStringIndex(body, -1) {
		out[at[0]-removed] = true
		removed += at[1] - at[0]
	}
	return out
}

func TestStoredBreakpointsCount(t *testing.T) {
	marked := `{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}`
	req := modeltest.Request(blocks("user", marked, marked, marked))
	if n := strings.Count(bodyOf(t, req), `"cache_control"`); n != maxBreakpoints {
		t.Errorf("%d breakpoints, want %d", n, maxBreakpoints)
	}
}

func TestRefused(t *testing.T) {
	tests := []struct {
		req  model.Request
		want string
	}{
		{model.Request{Model: "claude-sonnet-5", Messages: []model.Message{modeltest.User("a"), modeltest.System("b")}},
			"anthropic: messages.1: model claude-sonnet-5 takes no system messages in mid-conversation"},
		{model.Request{Model: "m", Messages: []model.Message{{Role: "tool"}}}, `anthropic: messages.0: unknown role "tool"`},
		{model.Request{Model: "m", Messages: []model.Message{blocks("user", `{"text":"x"}`)}}, "anthropic: messages.0.content.0: the block is no JSON object with a type"},
		{model.Request{Model: "m", Messages: []model.Message{blocks("user", `{`)}}, "anthropic: messages.0.content.0: the block is no JSON object with a type"},
		{model.Request{Model: "m", Tools: []model.Tool{{Name: "t", Schema: json.RawMessage("{")}}, Messages: []model.Message{modeltest.User("a")}}, `anthropic: the input schema of tool "t" is no JSON`},
	}
	for _, tt := range tests {
		_, err := provider(t, Options{}).Generate(context.Background(), &tt.req, nil)
		var e *model.Error
		if !errors.As(err, &e) || e.Retry || e.Message != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

func TestForeignThinkingStaysOut(t *testing.T) {
	req := modeltest.Request(modeltest.User("a"), blocks("assistant", `{"type":"thinking","thinking":"x","signature":""}`), modeltest.User("b"))
	if got := bodyOf(t, req); strings.Contains(got, "thinking\":\"x") || strings.Contains(got, "assistant") {
		t.Errorf("unsigned thinking went out:\n%s", got)
	}
}

// TestEnvironmentIsNotRead sets every variable that the SDK reads by itself.
func TestEnvironmentIsNotRead(t *testing.T) {
	var seen http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer srv.Close()
	t.Setenv("ANTHROPIC_API_KEY", "sk-from-environment")
	t.Setenv("ANTHROPIC_AUTH_TOKEN", "token-from-environment")
	t.Setenv("ANTHROPIC_BASE_URL", "http://192.0.2.1:1")
	t.Setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Custom: from-environment")
	t.Setenv("ANTHROPIC_PROFILE", "from-environment")
	for _, key := range []string{"", "sk-own"} {
		_, err := provider(t, Options{BaseURL: srv.URL + "/v1/", APIKey: key}).Generate(context.Background(), modeltest.Request(modeltest.User("hi")), nil)
		if err == nil || seen == nil {
			t.Fatalf("the server was not asked: %v", err)
		}
		if got := seen.Get("x-api-key"); got != key {
			t.Errorf("x-api-key %q, want %q", got, key)
		}
		for name, values := range seen {
			if strings.Contains(strings.Join(values, " "), "from-environment") {
				t.Errorf("header %s comes from the environment", name)
			}
		}
		seen = nil
	}
	if p := provider(t, Options{}); p.host != "api.anthropic.com" {
		t.Errorf("host %s", p.host)
	}
}

func TestBetas(t *testing.T) {
	srv := modeltest.Anthropic(t, modeltest.Text("a"), modeltest.Text("b"))
	p := provider(t, Options{BaseURL: srv.URL, APIKey: modeltest.Key, Betas: []string{"x-2026"}})
	for _, speed := range []string{"standard", "fast"} {
		req := modeltest.Request(modeltest.User("hi"))
		req.Speed = speed
		if _, err := p.Generate(context.Background(), req, nil); err != nil {
			t.Fatal(err)
		}
	}
	h := srv.Headers()
	if a, b := h[0].Get("anthropic-beta"), h[1].Get("anthropic-beta"); a != "x-2026" || b != "x-2026,fast-mode-2026-02-01" {
		t.Errorf("anthropic-beta %q, then %q", a, b)
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	a := modeltest.Text("never")
	a.Fault = modeltest.Redirect
	srv := modeltest.Anthropic(t, a, modeltest.Text("elsewhere"))
	_, err := provider(t, Options{BaseURL: srv.URL, APIKey: modeltest.Key}).Generate(context.Background(), modeltest.Request(modeltest.User("hi")), nil)
	if err == nil || len(srv.Bodies()) != 1 {
		t.Errorf("%d requests, error %v", len(srv.Bodies()), err)
	}
}

func TestErrorsBeforeTheStream(t *testing.T) {
	tests := []struct {
		status     int
		kind, body string
		header     string // x-should-retry
		want       model.ErrorKind
		retry      bool
		message    string
	}{
		{429, "application/json", `{"type":"error","error":{"type":"rate_limit_error","message":"You have reached your API usage limits","details":{"error_code":"enforced_spend_limit_reached"}},"request_id":"req_1"}`, "",
			model.BillingError, false, "anthropic: 429 rate_limit_error: You have reached your API usage limits (request req_1)"},
		{500, "application/json", `{"type":"error","error":{"type":"api_error","message":"Oops"}}`, "false", model.RequestFailed, false, "anthropic: 500 api_error: Oops"},
		{400, "application/json", `{"type":"error","error":{"type":"invalid_request_error","message":"Odd"}}`, "true", model.RequestFailed, true, "anthropic: 400 invalid_request_error: Odd"},
		{502, "text/html", "<html>\n <b>Bad</b></html>", "", model.RequestFailed, true, "anthropic: 502 bad gateway: <html> <b>Bad</b></html>"},
		{401, "application/json", `"what"`, "", model.RequestFailed, false, "anthropic: 401 unauthorized"},
		{503, "text/plain", "", "", model.Overloaded, true, "anthropic: 503 service unavailable"},
		{200, "application/json", `{"type":"message"}`, "", model.RequestFailed, false, ""},
	}
	for _, tt := range tests {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", tt.kind)
			if tt.header != "" {
				w.Header().Set("x-should-retry", tt.header)
			}
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		}))
		_, err := provider(t, Options{BaseURL: srv.URL}).Generate(context.Background(), modeltest.Request(modeltest.User("hi")), nil)
		srv.Close()
		var e *model.Error
		if !errors.As(err, &e) {
			t.Errorf("%d: %v", tt.status, err)
			continue
		}
		if e.Kind != tt.want || e.Retry != tt.retry || tt.message != "" && !strings.HasPrefix(e.Message, tt.message) {
			t.Errorf("%d %s: %s, retry %v, %q; want %s, %v, %q", tt.status, tt.body, e.Kind, e.Retry, e.Message, tt.want, tt.retry, tt.message)
		}
	}
}

func TestBaseURLWithPath(t *testing.T) {
	for _, suffix := range []string{"/gateway", "/gateway/", "/gateway/v1"} {
		path := ""
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			path = r.URL.String()
			w.WriteHeader(http.StatusBadRequest)
		}))
		_, err := provider(t, Options{BaseURL: srv.URL + suffix}).Generate(context.Background(), modeltest.Request(modeltest.User("hi")), nil)
		srv.Close()
		if err == nil || path != "/gateway/v1/messages" {
			t.Errorf("%s leads to %s", suffix, path)
		}
	}
}

func TestBadBaseURL(t *testing.T) {
	for _, u := range []string{"api.anthropic.com", "ftp://x", "http://user:secret@x", "http://x?key=secret", "http://%zz"} {
		if _, err := New(Options{BaseURL: u}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", u, err)
		}
	}
}

// readStream assembles a response from the bytes of a stream.
func readStream(p *Provider, data []byte, sink func(model.Delta)) (*model.Response, error) {
	return p.read(ssestream.NewDecoder(&http.Response{Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(data))}), "", sink)
}

// events writes a stream from the data of its events.
func events(data ...string) []byte {
	var b bytes.Buffer
	for _, d := range data {
		var named struct{ Type string }
		if err := json.Unmarshal([]byte(d), &named); err != nil {
			panic(err)
		}
		b.WriteString("event: " + named.Type + "\ndata: " + d + "\n\n")
	}
	return b.Bytes()
}

const (
	begin   = `{"type":"message_start","message":{"content":[],"usage":{"input_tokens":3,"cache_creation_input_tokens":9,"cache_read_input_tokens":4,"output_tokens":1}}}`
	stopped = `{"type":"message_stop"}`
)

func blockStart(i string, block string) string {
	return `{"type":"content_block_start","index":` + i + `,"content_block":` + block + `}`
}

func blockDelta(i string, delta string) string {
	return `{"type":"content_block_delta","index":` + i + `,"delta":` + delta + `}`
}

func ended(reason string) string {
	return `{"type":"message_delta","delta":{"stop_reason":` + reason + `},"usage":{"output_tokens":8}}`
}

func TestStream(t *testing.T) {
	tests := []struct {
		name string
		data []string
		want *model.Response
		err  string
	}{
		{"kept as they came", []string{
			begin,
			blockStart("0", `{"type":"redacted_thinking","data":"abc"}`),
			blockStart("1", `{"type":"text","text":""}`), // never filled: left out
			blockStart("2", `{"type":"text","text":"A","citations":null}`),
			blockDelta("2", `{"type":"citations_delta","citation":{"type":"char_location","cited_text":"<x>"}}`),
			blockDelta("2", `{"type":"text_delta","text":"B"}`),
			blockDelta("2", `{"type":"future_delta","x":1}`),
			blockStart("3", `{"type":"server_tool_use","id":"srv_1","name":"web_search","input":{}}`),
			blockDelta("3", `{"type":"input_json_delta","partial_json":"{\"q\": 1}"}`),
			blockStart("4", `{"type":"tool_use","id":"t1","name":"n","input":{},"caller":{"type":"direct"}}`),
			ended(`"tool_use"`), stopped,
		}, &model.Response{
			Content: []json.RawMessage{
				json.RawMessage(`{"type":"redacted_thinking","data":"abc"}`),
				json.RawMessage(`{"type":"text","text":"AB","citations":[{"type":"char_location","cited_text":"<x>"}]}`),
				json.RawMessage(`{"type":"server_tool_use","id":"srv_1","name":"web_search","input":{"q": 1}}`),
				json.RawMessage(`{"type":"tool_use","id":"t1","name":"n","input":{},"caller":{"type":"direct"}}`),
			},
			StopReason: model.StopToolUse,
			Usage:      model.Usage{InputTokens: 3, OutputTokens: 8, CacheReadInputTokens: 4, CacheCreation5m: 9},
		}, ""},
		{"usage in full", []string{
			`{"type":"message_start","message":{"usage":{"input_tokens":3,"cache_creation_input_tokens":9,"cache_creation":{"ephemeral_5m_input_tokens":2,"ephemeral_1h_input_tokens":7},"speed":"fast","inference_geo":"us"}}}`,
			`{"type":"message_delta","delta":{"stop_reason":"pause_turn"},"usage":{"input_tokens":5,"output_tokens":6}}`, stopped,
		}, &model.Response{
			StopReason: model.StopPauseTurn,
			Usage:      model.Usage{InputTokens: 5, OutputTokens: 6, CacheCreation5m: 2, CacheCreate1h: 7, Speed: "fast", InferenceGeo: "us"},
		}, ""},
		{"a call cut by the length", []string{
			begin, blockStart("0", `{"type":"text","text":"A"}`),
			blockStart("1", `{"type":"tool_use","id":"t1","name":"n","input":{}}`),
			blockDelta("1", `{"type":"input_json_delta","partial_json":"{\"a\": \"b"}`),
			ended(`"max_tokens"`), stopped,
		}, &model.Response{
			Content: []json.RawMessage{json.RawMessage(`{"type":"text","text":"A"}`)}, StopReason: model.StopMaxTokens,
			Usage: model.Usage{InputTokens: 3, OutputTokens: 8, CacheReadInputTokens: 4, CacheCreation5m: 9},
		}, ""},
		{"a call cut before its input, by the window", []string{
			begin, blockStart("0", `{"type":"tool_use","id":"t1","name":"n","input":{}}`),
			ended(`"model_context_window_exceeded"`), stopped,
		}, &model.Response{
			StopReason: model.StopMaxTokens, Usage: model.Usage{InputTokens: 3, OutputTokens: 8, CacheReadInputTokens: 4, CacheCreation5m: 9},
		}, ""},
		{"a refusal drops calls", []string{
			begin, blockStart("0", `{"type":"tool_use","id":"t1","name":"n","input":{"a":1}}`),
			`{"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"type":"refusal","category":"bio"}}}`, stopped,
		}, &model.Response{
			StopReason: model.StopRefusal, StopDetails: json.RawMessage(`{"type":"refusal","category":"bio"}`),
			Usage: model.Usage{InputTokens: 3, OutputTokens: 1, CacheReadInputTokens: 4, CacheCreation5m: 9},
		}, ""},
		{"a reason that the content belies", []string{
			begin, blockStart("0", `{"type":"tool_use","id":"t1","name":"n","input":{"a":1}}`), ended(`"end_turn"`), stopped,
		}, &model.Response{
			Content: []json.RawMessage{json.RawMessage(`{"type":"tool_use","id":"t1","name":"n","input":{"a":1}}`)}, StopReason: model.StopToolUse,
			Usage: model.Usage{InputTokens: 3, OutputTokens: 8, CacheReadInputTokens: 4, CacheCreation5m: 9},
		}, ""},
		{"bad input", []string{
			begin, blockStart("0", `{"type":"tool_use","id":"t1","name":"n","input":{}}`),
			blockDelta("0", `{"type":"input_json_delta","partial_json":"[1]"}`), ended(`"tool_use"`), stopped,
		}, nil, "input that is no JSON object"},
		{"no name", []string{
			begin, blockStart("0", `{"type":"tool_use","id":"t1","name":"","input":{"a":1}}`), ended(`"tool_use"`), stopped,
		}, nil, "no name"},
		{"a delta without its block", []string{begin, blockDelta("4", `{"type":"text_delta","text":"x"}`)}, nil, "has not begun"},
		{"a block twice", []string{begin, blockStart("0", `{"type":"text","text":""}`), blockStart("0", `{"type":"text","text":""}`)}, nil, "began twice"},
		{"a stop without a start", []string{stopped}, nil, "before it began"},
		{"no stop", []string{begin, ended(`"end_turn"`)}, nil, "stream cut"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readStream(provider(t, Options{}), events(tt.data...), nil)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzStream(f *testing.F) {
	f.Add(events(begin, blockStart("0", `{"type":"text","text":""}`), blockDelta("0", `{"type":"text_delta","text":"hi"}`), ended(`"end_turn"`), stopped))
	f.Add(events(begin, blockStart("0", `{"type":"thinking","thinking":"","signature":""}`), blockDelta("0", `{"type":"signature_delta","signature":"E"}`),
		blockStart("1", `{"type":"tool_use","id":"t","name":"n","input":{}}`), blockDelta("1", `{"type":"input_json_delta","partial_json":"{}"}`), ended(`"tool_use"`), stopped))
	f.Add([]byte("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n"))
	f.Add([]byte("data: {\"type\":\"message_start\"}\r\n\r\n: comment\ndata: {\"type\":\"message_stop\"}\n\n"))
	p, err := New(Options{APIKey: modeltest.Key})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		resp, err := readStream(p, data, nil)
		if err != nil {
			return
		}
		calls := 0
		for _, raw := range resp.Content {
			var b struct {
				Type, ID, Name string
				Input          map[string]any
			}
			if !json.Valid(raw) {
				t.Fatalf("no JSON: %s", raw)
			}
			_ = json.Unmarshal(raw, &b) // fields of foreign blocks may have any type
			if b.Type == "tool_use" {
				calls++
				if b.ID == "" || b.Name == "" || b.Input == nil {
					t.Fatalf("a call that cannot be run: %s", raw)
				}
			}
		}
		if resp.StopReason == model.StopToolUse && calls == 0 || resp.StopReason == model.StopEndTurn && calls > 0 || resp.StopReason == model.StopRefusal && calls > 0 {
			t.Fatalf("stop reason %s with %d calls", resp.StopReason, calls)
		}
		// What was accepted can be sent back.
		req := modeltest.Request(modeltest.User("a"), modeltest.Assistant(resp))
		body, err := p.body(req)
		if err != nil && len(resp.Content) > 0 {
			return // a block of a kind without a type, say: refused, not sent
		}
		if !json.Valid(body) {
			t.Fatalf("the next body is no JSON: %s", body)
		}
	})
}
