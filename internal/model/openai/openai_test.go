package openai

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"croft/internal/model"
	"croft/internal/model/modeltest"
)

func provider(t testing.TB, o Options) *Provider {
	t.Helper()
	if o.BaseURL == "" {
		o.BaseURL = "http://127.0.0.1:1/v1"
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func blocks(role string, raw ...string) model.Message {
	m := model.Message{Role: role}
	for _, r := range raw {
		m.Content = append(m.Content, json.RawMessage(r))
	}
	return m
}

// messagesOf returns the chat messages for a conversation, one a line.
func messagesOf(t *testing.T, p *Provider, msgs ...model.Message) string {
	t.Helper()
	c, _, err := p.translate(&model.Request{Model: "m", Messages: msgs})
	if err != nil {
		return "error: " + err.Error()
	}
	var lines []string
	for _, m := range c.Messages {
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(raw))
	}
	return strings.Join(lines, "\n")
}

func TestBody(t *testing.T) {
	req := &model.Request{
		Model: "qwen3", MaxTokens: 100, System: []string{"One.", " ", "Two."}, Effort: "max", Speed: "standard", InferenceGeo: "global",
		Tools:    []model.Tool{{Name: "a", Description: "does a", Schema: json.RawMessage(`{"type":"object"}`)}, {Name: "b"}},
		Messages: []model.Message{modeltest.User("hi")},
	}
	const want = `{"model":"qwen3","messages":[{"role":"system","content":"One.\n\nTwo."},{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true},` +
		`"tools":[{"type":"function","function":{"name":"a","description":"does a","parameters":{"type":"object"}}},{"type":"function","function":{"name":"b","parameters":{"type":"object","properties":{}}}}],` +
		`"max_tokens":100,"reasoning_effort":"high"}`
	c, _, err := provider(t, Options{}).translate(req)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(raw)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// OpenAI's own models take the newer name of the limit alone.
	c, _, err = provider(t, Options{BaseURL: "https://api.openai.com/v1"}).translate(req)
	if err != nil || c.MaxTokens != 0 || c.MaxCompletion != 100 {
		t.Errorf("limits %d and %d, %v", c.MaxTokens, c.MaxCompletion, err)
	}
}

func TestTranslate(t *testing.T) {
	const (
		call   = `{"type":"tool_use","id":"c1","name":"bash","input":{"command":"ls"}}`
		pdf    = `{"type":"document","title":"a.pdf","source":{"type":"base64","media_type":"application/pdf","data":"JVBERi0="}}`
		image  = `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBO"}}`
		fileID = `{"type":"image","source":{"type":"file","file_id":"file_1"}}`
	)
	result := func(content string) string {
		return `{"type":"tool_result","tool_use_id":"c1","content":` + content + `}`
	}
	tests := []struct {
		name  string
		files bool
		msgs  []model.Message
		want  string
	}{
		{"tool results come first, their images after", false, []model.Message{
			blocks("assistant", `{"type":"text","text":"Look."}`, call, `{"type":"tool_use","id":"c2","name":"bash","input":{}}`),
			blocks("user", result(`[{"type":"text","text":"out"},`+image+`]`), `{"type":"text","text":"and"}`, `{"type":"tool_result","tool_use_id":"c2","is_error":true,"content":"broke"}`),
			modeltest.User("then"),
		}, `{"role":"assistant","content":"Look.","tool_calls":[{"id":"c1","type":"function","function":{"name":"bash","arguments":"{\"command\":\"ls\"}"}},{"id":"c2","type":"function","function":{"name":"bash","arguments":"{}"}}]}
{"role":"tool","content":"out","tool_call_id":"c1"}
{"role":"tool","content":"Error: broke","tool_call_id":"c2"}
{"role":"user","content":[{"type":"text","text":"From the result of tool call c1:"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBO"}},{"type":"text","text":"and"},{"type":"text","text":"then"}]}`},
		{"calls without text", false, []model.Message{blocks("assistant", call), blocks("user", result(`[]`))},
			`{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"bash","arguments":"{\"command\":\"ls\"}"}}]}
{"role":"tool","content":"(no output)","tool_call_id":"c1"}`},
		{"an image alone", false, []model.Message{blocks("assistant", call), blocks("user", result(`[`+image+`]`))},
			`{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"bash","arguments":"{\"command\":\"ls\"}"}}]}
{"role":"tool","content":"(the result is in the next message)","tool_call_id":"c1"}
{"role":"user","content":[{"type":"text","text":"From the result of tool call c1:"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBO"}}]}`},
		{"documents of text", false, []model.Message{blocks("user",
			`{"type":"document","title":"T","context":"C","source":{"type":"text","media_type":"text/plain","data":"body"}}`,
			`{"type":"document","source":{"type":"content","content":[{"type":"text","text":"inner"},`+image+`]}}`,
			`{"type":"document","source":{"type":"content","content":"plain"}}`,
			`{"type":"search_result","title":"S","source":"https://x","content":[{"type":"text","text":"found"}]}`)},
			`{"role":"user","content":[{"type":"text","text":"\u003cdocument title=\"T\"\u003e\n\u003ccontext\u003eC\u003c/context\u003e\nbody\n\u003c/document\u003e"},{"type":"text","text":"\u003cdocument\u003e\ninner\n\u003c/document\u003e"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBO"}},{"type":"text","text":"\u003cdocument\u003e\nplain\n\u003c/document\u003e"},{"type":"text","text":"\u003csearch_result title=\"S\" source=\"https://x\"\u003e\nfound\n\u003c/search_result\u003e"}]}`},
		{"a PDF from a user", false, []model.Message{blocks("user", pdf)},
			"error: openai: messages.0: a document (application/pdf) cannot be sent to this server: send its text, or set file_parts for this model if its server takes files"},
		{"a PDF as a file", true, []model.Message{blocks("user", pdf)},
			`{"role":"user","content":[{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,JVBERi0="}}]}`},
		{"a PDF in a result", false, []model.Message{blocks("assistant", call), blocks("user", result(`[`+pdf+`]`))},
			`{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"bash","arguments":"{\"command\":\"ls\"}"}}]}
{"role":"tool","content":"[A document title=\"a.pdf\" (application/pdf) was left out: this model's server takes documents as text alone.]","tool_call_id":"c1"}`},
		{"an image by file id", false, []model.Message{blocks("user", fileID)},
			"error: openai: messages.0: an image with a source of type file cannot be sent to an OpenAI-compatible server; base64 and url can"},
		{"reasoning goes back with calls, under its name", false, []model.Message{
			modeltest.User("a"),
			blocks("assistant", `{"type":"thinking","thinking":"hm","signature":"","reasoning_field":"reasoning"}`, call), blocks("user", result(`"x"`)),
			blocks("assistant", `{"type":"thinking","thinking":"done","signature":"","reasoning_field":"reasoning"}`, `{"type":"text","text":"Done."}`), modeltest.User("b"),
			blocks("assistant", `{"type":"tool_use","id":"c2","name":"bash","input":{}}`),
		}, `{"role":"user","content":"a"}
{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"bash","arguments":"{\"command\":\"ls\"}"}}],"reasoning":"hm"}
{"role":"tool","content":"x","tool_call_id":"c1"}
{"role":"assistant","content":"Done."}
{"role":"user","content":"b"}
{"role":"assistant","content":null,"tool_calls":[{"id":"c2","type":"function","function":{"name":"bash","arguments":"{}"}}],"reasoning":""}`},
		{"another provider's thinking stays out", false, []model.Message{
			blocks("assistant", `{"type":"thinking","thinking":"hm","signature":"Eq=="}`, `{"type":"redacted_thinking","data":"x"}`, call)},
			`{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"bash","arguments":"{\"command\":\"ls\"}"}}]}`},
		{"unknown blocks", false, []model.Message{blocks("assistant", `{"type":"server_tool_use"}`)},
			"error: openai: messages.0: a block of type server_tool_use cannot be sent to an OpenAI-compatible server"},
		{"no block", false, []model.Message{blocks("user", `[]`)}, "error: openai: messages.0: content.0 is no JSON object with a type"},
		{"unknown role", false, []model.Message{{Role: "developer"}}, `error: openai: messages.0: unknown role "developer"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, messagesOf(t, provider(t, Options{FileParts: tt.files}), tt.msgs...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for want, req := range map[string]*model.Request{
		"speed fast":       {Speed: "fast"},
		"inference_geo us": {InferenceGeo: "us"},
		"is no JSON":       {Tools: []model.Tool{{Name: "t", Schema: json.RawMessage("{")}}},
	} {
		_, err := provider(t, Options{}).Generate(context.Background(), req, nil)
		var e *model.Error
		if !errors.As(err, &e) || e.Retry || !strings.Contains(e.Message, want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// choice is a chunk with a delta and perhaps a finish reason.
func choice(delta, finish string) string {
	if finish != "" {
		finish = `"` + finish + `"`
	} else {
		finish = "null"
	}
	return `{"choices":[{"index":0,"delta":` + delta + `,"finish_reason":` + finish + `}]}`
}

// play reads chunks as a stream ending in [DONE], unless told otherwise.
func play(used map[string]bool, chunks ...string) (*model.Response, []string, error) {
	var seen []string
	if used == nil {
		used = map[string]bool{}
	}
	p, err := New(Options{BaseURL: "http://127.0.0.1:1"})
	if err != nil {
		return nil, nil, err
	}
	r := newReader(p.side, used, func(d model.Delta) { seen = append(seen, fmt.Sprintf("%d %s %v %q", d.Index, d.Kind, d.Start, d.Text)) })
	if err := r.stream(strings.NewReader("data: " + strings.Join(chunks, "\n\ndata: ") + "\n\n")); err != nil {
		return nil, seen, err
	}
	resp, err := r.finish()
	return resp, seen, err
}

func calls(t *testing.T, resp *model.Response) []string {
	t.Helper()
	var out []string
	ids := map[string]bool{}
	for _, raw := range resp.Content {
		var b struct {
			Type, ID, Name string
			Input          json.RawMessage
		}
		if err := json.Unmarshal(raw, &b); err != nil {
			t.Fatal(err)
		}
		if b.Type != "tool_use" {
			continue
		}
		if b.ID == "" || ids[b.ID] {
			t.Errorf("id %q is empty or twice", b.ID)
		}
		ids[b.ID] = true
		id := b.ID
		if strings.HasPrefix(id, "call_") && len(id) == len("call_")+26 {
			id = "new"
		}
		out = append(out, id+" "+b.Name+" "+string(b.Input))
	}
	return out
}

func TestToolCalls(t *testing.T) {
	frag := func(s string) string { return choice(`{"tool_calls":[`+s+`]}`, "") }
	tests := []struct {
		name   string
		used   []string
		chunks []string
		want   []string
	}{
		{"interleaved fragments", nil, []string{
			frag(`{"index":0,"id":"a","type":"function","function":{"name":"one","arguments":""}}`),
			frag(`{"index":1,"id":"b","type":"function","function":{"name":"two","arguments":"{\"x\""}}`),
			frag(`{"index":0,"function":{"arguments":"{\"y\":1}"}},{"index":1,"function":{"arguments":":2}"}}`),
		}, []string{`a one {"y":1}`, `b two {"x":2}`}},
		{"the index is always 0", nil, []string{
			frag(`{"index":0,"id":"a","function":{"name":"one","arguments":"{\"x\":1}"}}`),
			frag(`{"index":0,"id":"b","function":{"name":"one","arguments":"{\"x\":2}"}}`),
		}, []string{`a one {"x":1}`, `b one {"x":2}`}},
		{"the index is always 0 and there are no ids", nil, []string{
			frag(`{"index":0,"function":{"name":"one","arguments":"{\"x\":1}"}}`),
			frag(`{"index":0,"function":{"name":"one","arguments":"{\"x\":2}"}}`),
		}, []string{`new one {"x":1}`, `new one {"x":2}`}},
		{"no index", nil, []string{
			frag(`{"id":"a","function":{"name":"one","arguments":"{\"x\":"}}`),
			frag(`{"function":{"arguments":"1}"}}`),
			frag(`{"id":"b","function":{"name":"two","arguments":"{}"}},{"id":"c","function":{"name":"three","arguments":"{}"}}`),
		}, []string{`a one {"x":1}`, `b two {}`, `c three {}`}},
		{"neither index nor id", nil, []string{
			frag(`{"function":{"name":"one","arguments":{"x":1}}},{"function":{"name":"two","arguments":"{\"x\":2}"}}`),
			frag(`{"function":{"name":"two","arguments":"{\"x\":3}"}}`),
		}, []string{`new one {"x":1}`, `new two {"x":2}`, `new two {"x":3}`}},
		{"the id and the name in every fragment", nil, []string{
			frag(`{"index":0,"id":"a","function":{"name":"one","arguments":"{\"x\""}}`),
			frag(`{"index":0,"id":"a","function":{"name":"one","arguments":":1}"}}`),
			frag(`{"index":0,"id":"a","function":{"name":"one","arguments":""}}`),
		}, []string{`a one {"x":1}`}},
		{"ids twice, and used before", []string{"old"}, []string{
			frag(`{"index":0,"id":"a","function":{"name":"one","arguments":"{}"}}`),
			frag(`{"index":1,"id":"a","function":{"name":"two","arguments":"{}"}}`),
			frag(`{"index":2,"id":"old","function":{"name":"three","arguments":"{}"}}`),
		}, []string{`a one {}`, `new two {}`, `new three {}`}},
		{"odd arguments", nil, []string{
			frag(`{"index":0,"id":"a","function":{"name":"n","arguments":""}},{"index":1,"id":"b","function":{"name":"n","arguments":null}},{"index":2,"id":"c","function":{"name":"n","arguments":"null"}}`),
			frag(`{"index":3,"id":"d","function":{"name":"n","arguments":"ls -la"}},{"index":4,"id":"e","function":{"name":"n","arguments":"[1]"}},{"index":5,"id":"f","function":{"name":"n","arguments":"\"{\\\"x\\\":1}\""}}`),
			frag(`{"index":6,"id":"g","function":{"name":"n","arguments":" {\"x\": 1.50}\n"}}`),
		}, []string{`a n {}`, `b n {}`, `c n {}`, `d n {"_raw":"ls -la"}`, `e n {"_raw":"[1]"}`, `f n {"x":1}`, `g n {"x":1.50}`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			used := map[string]bool{}
			for _, u := range tt.used {
				used[u] = true
			}
			// Many servers end such a response with stop.
			resp, _, err := play(used, append(tt.chunks, choice("{}", "stop"), "[DONE]")...)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StopReason != model.StopToolUse {
				t.Errorf("stop reason %s", resp.StopReason)
			}
			if diff := cmp.Diff(tt.want, calls(t, resp)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestStream(t *testing.T) {
	text := func(s string) string { return choice(`{"content":"`+s+`"}`, "") }
	tests := []struct {
		name    string
		chunks  []string
		content []string
		stop    string
		deltas  []string
		err     string
	}{
		{"reasoning, blank text, a call", []string{
			choice(`{"reasoning":"Hm"}`, ""), choice(`{"reasoning":"m.","content":null}`, ""), text(`\n`), text(`\n `),
			choice(`{"tool_calls":[{"index":0,"id":"a","function":{"name":"n","arguments":"{}"}}]}`, ""), choice("{}", "tool_calls"), "[DONE]",
		}, []string{
			`{"reasoning_field":"reasoning","signature":"","thinking":"Hmm.","type":"thinking"}`,
			`{"id":"a","input":{},"name":"n","type":"tool_use"}`,
		}, model.StopToolUse, []string{`0 thinking true ""`, `1 tool_use true ""`}, ""},
		{"both names of reasoning at once", []string{
			choice(`{"reasoning":"x","reasoning_content":"x"}`, ""), text("Yes"), choice("{}", "stop"), "[DONE]",
		}, []string{`{"reasoning_field":"reasoning_content","signature":"","thinking":"x","type":"thinking"}`, `{"text":"Yes","type":"text"}`},
			model.StopEndTurn, nil, ""},
		{"blank text before text is kept", []string{text(`\n`), text("a"), text(" "), text("b"), choice("{}", "stop"), "[DONE]"},
			[]string{`{"text":"\na b","type":"text"}`}, model.StopEndTurn, []string{`0 text true ""`, `0 text false "\na"`, `0 text false " "`, `0 text false "b"`}, ""},
		{"parts of content", []string{choice(`{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}`, "stop"), "[DONE]"},
			[]string{`{"text":"ab","type":"text"}`}, model.StopEndTurn, nil, ""},
		{"no [DONE]", []string{text("a"), choice("{}", "stop")}, []string{`{"text":"a","type":"text"}`}, model.StopEndTurn, nil, ""},
		{"no finish reason", []string{text("a"), "[DONE]"}, []string{`{"text":"a","type":"text"}`}, model.StopEndTurn, nil, ""},
		{"neither", []string{text("a")}, nil, "", nil, "stream cut"},
		{"nothing", []string{"[DONE]"}, nil, "", nil, "empty answer"},
		{"garbage", []string{"{"}, nil, "", nil, "cannot be read"},
		{"other choices", []string{`{"choices":[{"index":1,"delta":{"content":"no"}},{"index":0,"delta":{"content":"yes"},"finish_reason":"stop"}]}`, "[DONE]"},
			[]string{`{"text":"yes","type":"text"}`}, model.StopEndTurn, nil, ""},
		{"a refusal's words", []string{choice(`{"refusal":"I cannot."}`, ""), choice("{}", "stop"), "[DONE]"}, []string{`{"text":"I cannot.","type":"text"}`}, model.StopRefusal, nil, ""},
		{"a filter drops calls", []string{choice(`{"tool_calls":[{"index":0,"id":"a","function":{"name":"n","arguments":"{}"}}]}`, "content_filter"), "[DONE]"}, nil, model.StopRefusal, nil, ""},
		{"a call cut by the length", []string{text("a"), choice(`{"tool_calls":[{"index":0,"id":"a","function":{"name":"n","arguments":"{\"x"}}]}`, ""), choice("{}", "length"), "[DONE]"},
			[]string{`{"text":"a","type":"text"}`}, model.StopMaxTokens, nil, ""},
		{"a whole call before the length", []string{choice(`{"tool_calls":[{"index":0,"id":"a","function":{"name":"n","arguments":"{}"}}]}`, "length"), "[DONE]"},
			[]string{`{"id":"a","input":{},"name":"n","type":"tool_use"}`}, model.StopMaxTokens, nil, ""},
		{"the server gives up", []string{text("a"), choice("{}", "error"), "[DONE]"}, nil, "", nil, "gave up"},
		{"a call without a name", []string{choice(`{"tool_calls":[{"index":0,"id":"a","function":{"arguments":"{}"}}]}`, "tool_calls"), "[DONE]"}, nil, "", nil, "without a name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, deltas, err := play(nil, tt.chunks...)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var content []string
			for _, raw := range resp.Content {
				content = append(content, string(raw))
			}
			if diff := cmp.Diff(tt.content, content); diff != "" {
				t.Errorf("content (-want +got):\n%s", diff)
			}
			if resp.StopReason != tt.stop {
				t.Errorf("stop reason %s, want %s", resp.StopReason, tt.stop)
			}
			if resp.Usage != (model.Usage{}) {
				t.Errorf("usage %v from nowhere", resp.Usage)
			}
			if tt.deltas != nil {
				if diff := cmp.Diff(tt.deltas, deltas); diff != "" {
					t.Errorf("deltas (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestFaultsInTheStream(t *testing.T) {
	tests := []struct {
		data  string
		kind  model.ErrorKind
		retry bool
	}{
		{`{"error":{"message":"busy","code":503}}`, model.Overloaded, true},
		{`{"error":{"message":"slow down","type":"rate_limit_exceeded"}}`, model.RateLimited, true},
		{`{"error":{"message":"slow down","code":429}}`, model.RateLimited, true},
		{`{"error":{"message":"no money","code":"insufficient_quota"}}`, model.BillingError, false},
		{`{"error":"CUDA out of memory"}`, model.RequestFailed, true},
		{`{"error":{"message":"too long","type":"invalid_request_error"}}`, model.RequestFailed, false},
		{`{"object":"error","message":"too long","type":"BadRequestError","code":400}`, model.RequestFailed, false},
	}
	for _, tt := range tests {
		_, _, err := play(nil, choice(`{"content":"a"}`, ""), tt.data)
		var e *model.Error
		if !errors.As(err, &e) || e.Kind != tt.kind || e.Retry != tt.retry {
			t.Errorf("%s: %+v", tt.data, err)
		}
	}
}

// TestServers tries answers that are no streams.
func TestServers(t *testing.T) {
	tests := []struct {
		name, kind, body string
		status           int
		want             string // the text, or the error's message
		kindOf           model.ErrorKind
		retry            bool
	}{
		{"whole", "application/json", `{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_cache_hit_tokens":4}}`, 200, "hi", "", false},
		{"a page", "text/html", "<html>", 200, "openai: HOST answered with a web page: does the base URL speak the chat-completions API, with its /v1?", model.RequestFailed, false},
		{"vLLM", "application/json", `{"object":"error","message":"model missing","type":"NotFoundError","param":null,"code":404}`, 404, "openai: 404 NotFoundError: model missing", model.RequestFailed, false},
		{"Ollama", "application/json", `{"error":{"message":"model \"x\" not found","type":"api_error","param":null,"code":null}}`, 404, `openai: 404 api_error: model "x" not found`, model.RequestFailed, false},
		{"a string", "application/json", `{"error":"loading"}`, 503, "openai: 503 service unavailable: loading", model.Overloaded, true},
		{"FastAPI", "application/json", `{"detail":[{"loc":["body"],"msg":"bad"}]}`, 422, `openai: 422 unprocessable entity: [{"loc":["body"],"msg":"bad"}]`, model.RequestFailed, false},
		{"quota", "application/json", `{"error":{"message":"You exceeded your quota","type":"insufficient_quota","code":"insufficient_quota"}}`, 429, "openai: 429 insufficient_quota: You exceeded your quota", model.BillingError, false},
		{"text", "text/plain", "upstream\n gone", 502, "openai: 502 bad gateway: upstream gone", model.RequestFailed, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/chat/completions" || r.Header.Get("Authorization") != "" {
					t.Errorf("%s with authorization %q", r.URL.Path, r.Header.Get("Authorization"))
				}
				w.Header().Set("Content-Type", tt.kind)
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			}))
			defer srv.Close()
			p := provider(t, Options{BaseURL: srv.URL}) // without a path: /v1 is added
			resp, err := p.Generate(context.Background(), modeltest.Request(modeltest.User("hi")), nil)
			if tt.kindOf == "" {
				if err != nil || len(resp.Content) != 1 || !strings.Contains(string(resp.Content[0]), tt.want) || resp.Usage.InputTokens != 5 || resp.Usage.CacheReadInputTokens != 4 {
					t.Errorf("%+v, %v", resp, err)
				}
				return
			}
			var e *model.Error
			want := strings.Replace(tt.want, "HOST", p.host, 1)
			if !errors.As(err, &e) || e.Message != want || e.Kind != tt.kindOf || e.Retry != tt.retry {
				t.Errorf("got %+v, want %s, %v, %s", err, tt.kindOf, tt.retry, want)
			}
		})
	}
}

func TestSSE(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	tests := []struct {
		in   string
		want []string
	}{
		{"data: a\n\ndata:b\n\n", []string{"a", "b"}},
		{"\xef\xbb\xbfdata: a\r\ndata: b\r\n\r\n", []string{"a\nb"}},
		{": comment\nevent: x\nid: 1\ndata: a\nretry: 5\n\n\n\ndata\n\n", []string{"a", ""}},
		{"data: " + long + "\n\ndata: end", []string{long, "end"}},
		{"event: x\n\n", nil},
		{"", nil},
	}
	for _, tt := range tests {
		s := newSSE(strings.NewReader(tt.in))
		var got []string
		for {
			data, err := s.next()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Errorf("%.20q: %v", tt.in, err)
				}
				break
			}
			got = append(got, string(data))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%.20q (-want +got):\n%s", tt.in, diff)
		}
	}
}

func FuzzSSE(f *testing.F) {
	f.Add([]byte("data: a\r\ndata: b\n\n: c\nevent: d\n\ndata"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := newSSE(strings.NewReader(string(in)))
		total := 0
		for {
			data, err := s.next()
			if err != nil {
				break
			}
			if total += len(data); total > len(in) {
				t.Fatalf("%d bytes came out of %d", total, len(in))
			}
		}
	})
}

func FuzzStream(f *testing.F) {
	f.Add([]byte("data: " + choice(`{"content":"a","reasoning":"b"}`, "") + "\n\ndata: " + choice("{}", "stop") + "\n\ndata: [DONE]\n\n"))
	f.Add([]byte("data: " + choice(`{"tool_calls":[{"index":0,"id":"a","function":{"name":"n","arguments":"{\"x\":1}"}},{"id":"b","function":{"name":"m","arguments":{}}}]}`, "tool_calls") + "\n\n"))
	f.Add([]byte(`data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":9}}}` + "\n\ndata: [DONE]\n\n"))
	f.Add([]byte(`data: {"error":{"message":"x","code":529}}` + "\n\n"))
	p := provider(f, Options{})
	f.Fuzz(func(t *testing.T, in []byte) {
		var texts strings.Builder
		r := newReader(p.side, map[string]bool{}, func(d model.Delta) { texts.WriteString(d.Text) })
		if err := r.stream(strings.NewReader(string(in))); err != nil {
			return
		}
		resp, err := r.finish()
		if err != nil {
			return
		}
		var said strings.Builder
		found := 0
		for _, raw := range resp.Content {
			var b struct {
				Type, Text, ID, Name string
				Input                map[string]any
			}
			if err := json.Unmarshal(raw, &b); err != nil {
				t.Fatalf("%v: %s", err, raw)
			}
			said.WriteString(b.Text)
			if b.Type == "tool_use" {
				found++
				if b.ID == "" || b.Name == "" || b.Input == nil {
					t.Fatalf("a call that cannot be run: %s", raw)
				}
			}
		}
		if strings.ToValidUTF8(said.String(), "") != strings.ToValidUTF8(texts.String(), "") {
			t.Fatalf("the deltas say %q, the response %q", texts.String(), said.String())
		}
		if (resp.StopReason == model.StopToolUse) != (found > 0) && resp.StopReason != model.StopMaxTokens {
			t.Fatalf("stop reason %s with %d calls", resp.StopReason, found)
		}
		if u := resp.Usage; u.InputTokens < 0 || u.OutputTokens < 0 || u.CacheReadInputTokens < 0 {
			t.Fatalf("usage %+v", u)
		}
		// What was accepted can be sent back.
		c, _, err := p.translate(modeltest.Request(modeltest.User("a"), modeltest.Assistant(resp)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(c); err != nil {
			t.Fatal(err)
		}
	})
}
