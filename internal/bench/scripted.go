package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// scripted is a model server without think time, made from the published shape of the
// Messages API's stream. The first user message is its script: "say" is answered with one
// text; "use N word" with N calls of bash, one after the other, and then a text.
type scripted struct {
	url    string
	server *http.Server

	mu       sync.Mutex
	watchers map[string]chan time.Time
}

func newScripted(ctx context.Context) (*scripted, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the scripted model: %w", err)
	}
	s := &scripted{url: "http://" + l.Addr().String(), watchers: map[string]chan time.Time{}}
	s.server = &http.Server{Handler: http.HandlerFunc(s.answer), ReadHeaderTimeout: 10 * time.Second}
	go s.server.Serve(l) //nolint:errcheck // it ends with close
	return s, nil
}

func (s *scripted) close() { _ = s.server.Close() }

// watch tells when each request of that script arrived.
func (s *scripted) watch(script string) <-chan time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan time.Time, 4)
	s.watchers[script] = c
	return c
}

func (s *scripted) unwatch(script string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, script)
}

func (s *scripted) answer(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var req struct {
		Messages []struct {
			Role    string `json:"role"`
			Content []struct {
				Text string `json:"text"`
			} `json:"content"`
		} `json:"messages"`
	}
	if err := json.Unmarshal(body, &req); err != nil || len(req.Messages) == 0 || len(req.Messages[0].Content) == 0 {
		http.Error(w, "unreadable", http.StatusBadRequest)
		return
	}
	script := req.Messages[0].Content[0].Text
	s.mu.Lock()
	watcher := s.watchers[script]
	s.mu.Unlock()
	if watcher != nil {
		select {
		case watcher <- arrived:
		default:
		}
	}
	turns := 0
	for _, m := range req.Messages {
		if m.Role == "assistant" {
			turns++
		}
	}
	calls := 0
	if _, err := fmt.Sscanf(script, "use %d", &calls); err != nil {
		calls = 0
	}
	w.Header().Set("content-type", "text/event-stream")
	var b strings.Builder
	event := func(name, data string) { fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", name, data) }
	event("message_start", `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"scripted","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"output_tokens":1}}}`)
	stop := "end_turn"
	if turns < calls {
		stop = "tool_use"
		event("content_block_start", fmt.Sprintf(`{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"toolu_%d","name":"bash","input":{}}}`, turns))
		event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"command\":\"echo hi\"}"}}`)
	} else {
		event("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)
		event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Here it is."}}`)
	}
	event("content_block_stop", `{"type":"content_block_stop","index":0}`)
	event("message_delta", `{"type":"message_delta","delta":{"stop_reason":"`+stop+`","stop_sequence":null},"usage":{"output_tokens":5}}`)
	event("message_stop", `{"type":"message_stop"}`)
	io.WriteString(w, b.String()) //nolint:errcheck // the server notices a client that left
}
