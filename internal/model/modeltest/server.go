package modeltest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server is a fake of a model's service: it plays a script of answers over HTTP.
type Server struct {
	URL string

	speak   speaker
	mu      sync.Mutex
	answers []Answer
	bodies  []string
	headers []http.Header
	ended   chan struct{}
}

// speaker writes answers in the words of one API.
type speaker interface {
	// stream writes the answer's events; it returns early where the answer's fault strikes.
	stream(w io.Writer, flush func(), a Answer)
	// failure is the body of an error answer.
	failure(status int, message string) string
	// broken writes an error event.
	broken(w io.Writer)
	// path is where requests must go.
	path() string
	// check returns what is wrong with a request, or "".
	check(h http.Header, body map[string]any) string
}

// Anthropic starts a fake of the Anthropic Messages API.
func Anthropic(t testing.TB, answers ...Answer) *Server { return start(t, anthropic{}, answers) }

// OpenAI starts a fake of the OpenAI chat-completions API.
func OpenAI(t testing.TB, answers ...Answer) *Server { return start(t, openai{}, answers) }

func start(t testing.TB, sp speaker, answers []Answer) *Server {
	s := &Server{speak: sp, answers: answers, ended: make(chan struct{})}
	srv := httptest.NewServer(s)
	s.URL = srv.URL
	t.Cleanup(func() {
		close(s.ended)
		srv.CloseClientConnections()
		srv.Close()
	})
	return s
}

// Bodies returns the bodies of the requests so far.
func (s *Server) Bodies() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.bodies...)
}

// Headers returns the headers of the requests so far.
func (s *Server) Headers() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]http.Header(nil), s.headers...)
}

// ServeHTTP plays the next answer.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client left
	}
	s.mu.Lock()
	s.bodies = append(s.bodies, string(raw))
	s.headers = append(s.headers, r.Header.Clone())
	var a Answer
	hang := len(s.answers) == 0
	if !hang {
		a, s.answers = s.answers[0], s.answers[1:]
	}
	s.mu.Unlock()
	var body map[string]any
	var wrong string
	switch {
	case r.Method != http.MethodPost || r.URL.Path != s.speak.path():
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, s.speak.failure(http.StatusNotFound, r.Method+" "+r.URL.Path+" is no route"))
		return
	case json.Unmarshal(raw, &body) != nil:
		wrong = "the body is no JSON"
	default:
		wrong = s.speak.check(r.Header, body)
	}
	if wrong != "" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, s.speak.failure(http.StatusBadRequest, wrong))
		return
	}
	if hang {
		s.wait(r)
		return
	}
	s.play(w, r, a)
}

// wait returns when the client has left or the test is over.
func (s *Server) wait(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-s.ended:
	}
}

func (s *Server) play(w http.ResponseWriter, r *http.Request, a Answer) {
	fail := func(status int, message string) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Request-Id", "req_fake")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, s.speak.failure(status, message))
	}
	switch a.Fault {
	case RateLimited:
		w.Header().Set("Retry-After", "7")
		fail(429, "Too many requests.")
		return
	case RateLimitedByDate:
		w.Header().Set("Retry-After", time.Now().Add(30*time.Second).UTC().Format(http.TimeFormat))
		fail(429, "Too many requests.")
		return
	case BadGateway:
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusBadGateway)
		_, _ = io.WriteString(w, "<html><body><h1>502 Bad Gateway</h1></body></html>")
		return
	case Unauthorized:
		fail(401, "Incorrect API key provided: "+Key)
		return
	case Redirect:
		w.Header().Set("Location", s.URL+s.speak.path())
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	case NoAnswer:
		reset(w)
		return
	case Overloaded, Unavailable, ServerError, RequestTimeout, Billing, BadRequest, Forbidden, NotFound, TooLarge:
		var status int
		if _, err := fmt.Sscanf(string(a.Fault), "%d", &status); err != nil {
			panic(err)
		}
		fail(status, "The fake was told to fail.")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	rc := http.NewResponseController(w)
	flush := func() { _ = rc.Flush() }
	s.speak.stream(w, flush, a)
	flush()
	switch a.Fault {
	case OverloadedMidway:
		s.speak.broken(w)
		flush()
	case Stall:
		s.wait(r)
	case Reset:
		reset(w)
	}
}

// reset closes the connection without the end that HTTP asks for.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// midway tells whether the answer's fault strikes after its first chunk of text.
func midway(a Answer) bool {
	switch a.Fault {
	case OverloadedMidway, Cut, Reset, Stall:
		return true
	}
	return false
}

func event(w io.Writer, name string, data any) {
	raw, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	if name != "" {
		_, _ = fmt.Fprintf(w, "event: %s\n", name)
	}
	_, _ = fmt.Fprintf(w, "data: %s\n\n", raw)
}

type obj = map[string]any

// pieces cuts s into pieces of at most n characters.
func pieces(s string, n int) []string {
	var out []string
	runes := []rune(s)
	for len(runes) > n {
		out = append(out, string(runes[:n]))
		runes = runes[n:]
	}
	return append(out, string(runes))
}

func str(v any) string { s, _ := v.(string); return s }

// anthropic speaks the Anthropic Messages API.
type anthropic struct{}

func (anthropic) path() string { return "/v1/messages" }

func (anthropic) check(h http.Header, body map[string]any) string {
	switch {
	case h.Get("x-api-key") != Key:
		return "x-api-key: missing"
	case h.Get("anthropic-version") != "2023-06-01":
		return "anthropic-version: header is required"
	case body["stream"] != true:
		return "stream: expected true"
	}
	if n, _ := body["max_tokens"].(float64); n < 1 {
		return "max_tokens: field required"
	}
	messages, _ := body["messages"].([]any)
	if len(messages) == 0 {
		return "messages: at least one message is required"
	}
	if wrong := emptyTexts("messages", messages); wrong != "" {
		return wrong
	}
	before := ""
	for i, m := range messages {
		m, _ := m.(obj)
		role := str(m["role"])
		if role == "system" && before != "user" && before != "system" {
			return fmt.Sprintf("messages.%d: a system message must follow a user turn", i)
		}
		if role == "user" && before == "system" {
			return fmt.Sprintf("messages.%d: a system message must be followed by an assistant turn or stand last", i)
		}
		before = role
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return err.Error()
	}
	if n := strings.Count(string(raw), `"cache_control":`); n > 4 {
		return fmt.Sprintf("A maximum of 4 blocks with cache_control may be provided. Found %d.", n)
	}
	return ""
}

// emptyTexts looks for text blocks without text, and marked thinking, wherever they stand.
func emptyTexts(path string, v any) string {
	switch v := v.(type) {
	case []any:
		for i, x := range v {
			if wrong := emptyTexts(fmt.Sprintf("%s.%d", path, i), x); wrong != "" {
				return wrong
			}
		}
	case obj:
		if v["type"] == "text" && strings.TrimSpace(str(v["text"])) == "" {
			return path + ".text: text content blocks must be non-empty"
		}
		if v["type"] == "thinking" && (str(v["signature"]) == "" || v["cache_control"] != nil) {
			return path + ": thinking without a signature, or with cache_control"
		}
		return emptyTexts(path+".content", v["content"])
	}
	return ""
}

func (anthropic) failure(status int, message string) string {
	kind := map[int]string{
		400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
		404: "not_found_error", 408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 503: "api_error", 529: "overloaded_error",
	}[status]
	raw, _ := json.Marshal(obj{"type": "error", "error": obj{"type": kind, "message": message}, "request_id": "req_fake"}) // always marshals
	return string(raw)
}

func (anthropic) broken(w io.Writer) {
	event(w, "error", obj{"type": "error", "error": obj{"type": "overloaded_error", "message": "Overloaded"}})
}

func (anthropic) stream(w io.Writer, flush func(), a Answer) {
	u := a.Usage
	event(w, "message_start", obj{"type": "message_start", "message": obj{
		"id": "msg_fake", "type": "message", "role": "assistant", "content": []any{}, "model": "claude-opus-5",
		"stop_reason": nil, "stop_sequence": nil,
		"usage": obj{"input_tokens": u.InputTokens, "output_tokens": 1, "cache_read_input_tokens": u.CacheReadInputTokens,
			"cache_creation_input_tokens": u.CacheCreation5m + u.CacheCreate1h,
			"cache_creation":              obj{"ephemeral_5m_input_tokens": u.CacheCreation5m, "ephemeral_1h_input_tokens": u.CacheCreate1h}},
	}})
	event(w, "ping", obj{"type": "ping"})
	for i, b := range a.Blocks {
		begin := func(block obj) {
			event(w, "content_block_start", obj{"type": "content_block_start", "index": i, "content_block": block})
		}
		delta := func(d obj) {
			event(w, "content_block_delta", obj{"type": "content_block_delta", "index": i, "delta": d})
		}
		switch {
		case b.Tool != "":
			begin(obj{"type": "tool_use", "id": b.ID, "name": b.Tool, "input": obj{}})
			delta(obj{"type": "input_json_delta", "partial_json": ""})
			for _, p := range pieces(b.Input, 7) {
				delta(obj{"type": "input_json_delta", "partial_json": p})
			}
		case b.Thinking != "" || b.Signature != "":
			begin(obj{"type": "thinking", "thinking": "", "signature": ""})
			for _, p := range pieces(b.Thinking, 9) {
				delta(obj{"type": "thinking_delta", "thinking": p})
			}
			delta(obj{"type": "signature_delta", "signature": b.Signature})
		default:
			begin(obj{"type": "text", "text": ""})
			for _, c := range b.Chunks {
				delta(obj{"type": "text_delta", "text": c})
				flush()
				if midway(a) {
					return
				}
			}
		}
		event(w, "content_block_stop", obj{"type": "content_block_stop", "index": i})
	}
	event(w, "something_new", obj{"type": "something_new", "anything": []int{1}})
	d := obj{"stop_reason": a.Stop, "stop_sequence": nil}
	if a.Stop == "refusal" {
		d["stop_details"] = obj{"type": "refusal", "category": "cyber", "explanation": "Declined."}
	}
	event(w, "message_delta", obj{"type": "message_delta", "delta": d, "usage": obj{"output_tokens": u.OutputTokens}})
	event(w, "message_stop", obj{"type": "message_stop"})
}

// openai speaks the OpenAI chat-completions API.
type openai struct{}

func (openai) path() string { return "/v1/chat/completions" }

func (openai) check(h http.Header, body map[string]any) string {
	switch {
	case h.Get("Authorization") != "Bearer "+Key:
		return "you didn't provide an API key"
	case body["stream"] != true:
		return "stream: expected true"
	}
	messages, _ := body["messages"].([]any)
	if len(messages) == 0 {
		return "messages: too short"
	}
	open := map[string]bool{}
	for i, m := range messages {
		m, _ := m.(obj)
		role := str(m["role"])
		if role != "tool" && len(open) > 0 {
			return fmt.Sprintf("messages.%d: tool calls without an answer before a message of role %s", i, role)
		}
		switch role {
		case "tool":
			id := str(m["tool_call_id"])
			if !open[id] {
				return fmt.Sprintf("messages.%d: no tool call %q", i, id)
			}
			delete(open, id)
			if _, ok := m["content"].(string); !ok {
				return fmt.Sprintf("messages.%d: the tool role takes text", i)
			}
		case "assistant":
			calls, _ := m["tool_calls"].([]any)
			for _, c := range calls {
				c, _ := c.(obj)
				f, _ := c["function"].(obj)
				if !json.Valid([]byte(str(f["arguments"]))) {
					return fmt.Sprintf("messages.%d: arguments are no JSON", i)
				}
				open[str(c["id"])] = true
			}
			if m["content"] == nil && len(calls) == 0 {
				return fmt.Sprintf("messages.%d: neither content nor tool calls", i)
			}
		case "user", "system":
			if m["content"] == nil {
				return fmt.Sprintf("messages.%d: content is required", i)
			}
		default:
			return fmt.Sprintf("messages.%d: unknown role %q", i, role)
		}
	}
	return ""
}

func (openai) failure(status int, message string) string {
	kind := map[int]string{400: "invalid_request_error", 429: "rate_limit_exceeded", 500: "server_error", 503: "overloaded"}[status]
	raw, _ := json.Marshal(obj{"error": obj{"message": message, "type": kind, "param": nil, "code": nil}}) // always marshals
	return string(raw)
}

func (openai) broken(w io.Writer) {
	event(w, "", obj{"error": obj{"message": "The engine is overloaded", "type": "overloaded_error", "code": 529}})
}

func (openai) stream(w io.Writer, flush func(), a Answer) {
	piece := func(delta obj, finish any) {
		event(w, "", obj{"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": "fake",
			"choices": []any{obj{"index": 0, "delta": delta, "finish_reason": finish}}, "usage": nil})
	}
	_, _ = io.WriteString(w, ": keep-alive\n\n")
	piece(obj{"role": "assistant", "content": ""}, nil)
	call := 0
	for _, b := range a.Blocks {
		switch {
		case b.Tool != "":
			piece(obj{"tool_calls": []any{obj{"index": call, "id": b.ID, "type": "function", "function": obj{"name": b.Tool, "arguments": ""}}}}, nil)
			for _, p := range pieces(b.Input, 7) {
				piece(obj{"tool_calls": []any{obj{"index": call, "function": obj{"arguments": p}}}}, nil)
			}
			call++
		case b.Thinking != "":
			for _, p := range pieces(b.Thinking, 9) {
				piece(obj{"reasoning_content": p}, nil)
			}
		default:
			for _, c := range b.Chunks {
				piece(obj{"content": c}, nil)
				flush()
				if midway(a) {
					return
				}
			}
		}
	}
	finish := map[string]string{"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length", "refusal": "content_filter"}[a.Stop]
	piece(obj{}, finish)
	u := a.Usage
	event(w, "", obj{"id": "chatcmpl-fake", "object": "chat.completion.chunk", "choices": []any{}, "usage": obj{
		"prompt_tokens": u.InputTokens + u.CacheReadInputTokens, "completion_tokens": u.OutputTokens,
		"total_tokens":          u.InputTokens + u.CacheReadInputTokens + u.OutputTokens,
		"prompt_tokens_details": obj{"cached_tokens": u.CacheReadInputTokens},
	}})
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}
