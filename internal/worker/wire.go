package worker

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"croft"
	"croft/internal/client"
)

// frame is one message of the stream of offers.
type frame struct {
	Type          string    `json:"type"` // hello, offer, call, cancel, stop
	WorkID        string    `json:"work_id"`
	EnvironmentID string    `json:"environment_id"`
	SessionID     string    `json:"session_id"`
	Call          *toolCall `json:"call"`
	CallID        string    `json:"call_id"`
	Reason        string    `json:"reason"`
	HeartbeatS    int       `json:"heartbeat_s"`
}

// toolCall is a tool call as the server gives it out.
type toolCall struct {
	ID    string          `json:"id"`
	Name  string          `json:"name"`
	Input json.RawMessage `json:"input"`
	// FirstWorker is the worker that was given the call first; empty means this one.
	FirstWorker string `json:"first_worker"`
}

// workSpec is what the server tells the holder of a work item.
type workSpec struct {
	Config croft.EnvironmentConfig `json:"config"`
	Calls  []toolCall              `json:"calls"`
}

// heartbeat is the answer to a heartbeat.
type heartbeat struct {
	LastHeartbeat string `json:"last_heartbeat"`
	State         string `json:"state"`
	TTLSeconds    int    `json:"ttl_seconds"`
}

// Time-outs of single requests.
const (
	ackTimeout  = 15 * time.Second
	beatTimeout = 10 * time.Second
	postTimeout = 60 * time.Second
)

// maxTTL bounds what a server may make of a lease.
const maxTTL = 10 * time.Minute

// noHeartbeat is what the first heartbeat of a lease echoes.
const noHeartbeat = "NO_HEARTBEAT"

// decodeFrame reads a frame.
func decodeFrame(data []byte) (frame, error) {
	var f frame
	if err := json.Unmarshal(data, &f); err != nil {
		return frame{}, fmt.Errorf("reading a frame: %w", err)
	}
	if f.Type == "call" && (f.Call == nil || !callID.MatchString(f.Call.ID)) {
		return frame{}, errors.New("reading a frame: a call without an id that can be used")
	}
	if f.Type == "offer" && (f.WorkID == "" || f.EnvironmentID == "" || !sessionID.MatchString(f.SessionID)) {
		return frame{}, errors.New("reading a frame: an offer without ids that can be used")
	}
	return f, nil
}

// decodeSecret finds the session token in a work item's secret.
func decodeSecret(secret string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(secret, "="))
	if err != nil {
		return "", errors.New("the work item's secret is not base64url")
	}
	var s struct {
		Token string `json:"sessions_token"`
	}
	if json.Unmarshal(b, &s) != nil || s.Token == "" {
		return "", errors.New("the work item's secret holds no sessions_token")
	}
	return s.Token, nil
}

// workPath is the path of a work item's route.
func workPath(environment, work, rest string) string {
	return "/v1/environments/" + url.PathEscape(environment) + "/work/" + url.PathEscape(work) + rest
}

// ack claims a work item and returns the token that speaks for it.
func (w *Worker) ack(ctx context.Context, environment, work string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	q := url.Values{"worker": {w.folder.ID()}, "incarnation": {w.incarnation}}
	var item struct {
		Secret string `json:"secret"`
	}
	if err := w.o.Client.Do(ctx, http.MethodPost, workPath(environment, work, "/ack?"+q.Encode()), nil, &item); err != nil {
		return "", err
	}
	return decodeSecret(item.Secret)
}

// stopWork gives a work item back.
func stopWork(ctx context.Context, api *client.Client, environment, work string) error {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	return api.Do(ctx, http.MethodPost, workPath(environment, work, "/stop"), []byte(`{"force":true}`), nil)
}

func (s *session) fetchSpec(ctx context.Context) (*workSpec, error) {
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	var spec workSpec
	if err := s.api.Do(ctx, http.MethodGet, workPath(s.env, s.work, "/croft/spec"), nil, &spec); err != nil {
		return nil, err
	}
	for i := range spec.Calls {
		if !callID.MatchString(spec.Calls[i].ID) {
			return nil, croft.Errorf(croft.InvalidRequest, "the work's specification lists a call without an id that can be used")
		}
	}
	return &spec, nil
}

func (s *session) sendHeartbeat(ctx context.Context, echo string, ttl time.Duration) (*heartbeat, error) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	q := url.Values{"expected_last_heartbeat": {echo}, "desired_ttl_seconds": {fmt.Sprint(int(ttl / time.Second))}}
	var h heartbeat
	if err := s.api.Do(ctx, http.MethodPost, workPath(s.env, s.work, "/heartbeat?"+q.Encode()), nil, &h); err != nil {
		return nil, err
	}
	return &h, nil
}

// lastHeartbeat asks the server which heartbeat it took last. It can be asked under the
// lease's own token only while the lease is held.
func (s *session) lastHeartbeat(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	var item struct {
		Latest *string `json:"latest_heartbeat_at"`
	}
	if err := s.api.Do(ctx, http.MethodGet, workPath(s.env, s.work, ""), nil, &item); err != nil {
		return "", err
	}
	if item.Latest == nil || *item.Latest == "" {
		return noHeartbeat, nil
	}
	return *item.Latest, nil
}

// postResult sends a result once.
func (s *session) postResult(ctx context.Context, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	return s.api.Do(ctx, http.MethodPost, "/v1/sessions/"+url.PathEscape(s.id)+"/events", body, nil)
}

// resultBody is the request that answers a call, as JSON on one line.
func resultBody(call string, content []json.RawMessage, isError bool) ([]byte, error) {
	if content == nil {
		content = []json.RawMessage{}
	}
	type event struct {
		Type      croft.EventType   `json:"type"`
		ToolUseID string            `json:"tool_use_id"`
		Content   []json.RawMessage `json:"content"`
		IsError   bool              `json:"is_error"`
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(struct {
		Events [1]event `json:"events"`
	}{[1]event{{croft.UserToolResult, call, content, isError}}})
	if err != nil {
		return nil, fmt.Errorf("writing a result: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// errorBody is the request that answers a call with an error's text.
func errorBody(call, text string) []byte {
	block, err := json.Marshal(map[string]string{"type": "text", "text": text})
	if err != nil {
		panic(err) // strings always have a JSON form
	}
	body, err := resultBody(call, []json.RawMessage{block}, true)
	if err != nil {
		panic(err) // so has what Marshal wrote
	}
	return body
}

var (
	sessionID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	callID    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
)
