package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/session"
	"croft/internal/store"
)

// newSession is the body of a creation.
const newSession = `{"agent":"agent_x","environment_id":"env_x"}`

// bearer is the header of a credential that stands alone.
func bearer(text string) []string {
	return []string{"x-api-key", "", "authorization", "Bearer " + text}
}

func TestRefusals(t *testing.T) {
	s := serve(t, new(store.DB), nil)
	const body = `{"events":[{"type":"user.message","content":[{"type":"text","text":"hi"}]}]}`
	sessions, events := "/v1/sessions/"+sessionID, "/v1/sessions/"+sessionID+"/events"
	work := "/v1/environments/" + envID + "/work/" + workID
	ownWork := "/v1/environments/" + ownEnvID + "/work/" + workID
	for _, tt := range []struct {
		name           string
		method, path   string
		body           string
		headers        []string
		status         int
		typ, mentioned string
	}{
		{"no credential", "GET", sessions, "", []string{"x-api-key", ""}, 401, "authentication_error", "x-api-key"},
		{"a NUL in the path", "GET", "/v1/sessions/sesn_%00x", "", nil, 404, "not_found_error", "no text"},
		{"no UTF-8 in the path", "GET", "/v1/agents/agent_%ff", "", nil, 404, "not_found_error", "no text"},
		{"a NUL in the query", "GET", "/v1/sessions?agent_id=%00", "", nil, 400, "invalid_request_error", "no text"},
		{"no UTF-8 in the query", "GET", events + "?types[]=%ff", "", nil, 400, "invalid_request_error", "no text"},
		{"a wrong key", "GET", sessions, "", []string{"x-api-key", "croft_api_wrong"}, 401, "authentication_error", "unknown"},
		{"a wrong token", "GET", sessions, "", bearer("croft_sess_wrong"), 401, "authentication_error", "token"},
		{"two credentials", "GET", sessions, "", []string{"authorization", "Bearer other"}, 401, "authentication_error", "two different credentials"},
		{"two keys", "GET", sessions, "", []string{"x-api-key", apiKey, "x-api-key", "other"}, 401, "authentication_error", "two different credentials"},
		{"basic authentication", "GET", sessions, "", []string{"x-api-key", "", "authorization", "Basic abc"}, 401, "authentication_error", "Bearer"},
		{"an empty bearer", "GET", sessions, "", []string{"authorization", "Bearer "}, 401, "authentication_error", "Bearer"},
		{"another workspace", "GET", sessions, "", []string{"anthropic-workspace-id", "wrkspc_other"}, 403, "permission_error", "workspace"},

		{"no beta", "GET", sessions, "", []string{"anthropic-beta", ""}, 404, "not_found_error", managed},
		{"another beta", "GET", sessions, "", []string{"anthropic-beta", "files-api-2025-04-14,x" + managed}, 404, "not_found_error", managed},
		{"the beta of another noun", "GET", "/v1/dreams", "", nil, 404, "not_found_error", dreaming},
		{"no beta, and not served", "GET", "/v1/vaults", "", []string{"anthropic-beta", ""}, 404, "not_found_error", managed},

		{"an unknown route", "GET", "/v1/nothing", "", nil, 404, "not_found_error", "GET /v1/nothing is no route"},
		{"an unknown route, without a credential", "GET", "/", "", []string{"x-api-key", ""}, 404, "not_found_error", "no route"},
		{"a route with a slash behind", "GET", sessions + "/", "", nil, 404, "not_found_error", "no route"},
		{"a route that is not clean", "GET", "/v1//sessions/../sessions", "", nil, 404, "not_found_error", "no route"},
		{"a wrong method", "PUT", sessions, "", nil, 405, "invalid_request_error", "DELETE, GET, POST"},
		{"a wrong method, without a credential", "PATCH", "/v1/agents", "", []string{"x-api-key", ""}, 405, "invalid_request_error", "GET, POST"},
		{"HEAD of a stream", "HEAD", events + "/stream", "", nil, 405, "", ""},

		{"a foreign session", "GET", "/v1/sessions/sesn_2", "", nil, 404, "not_found_error", "sesn_2"},
		{"a foreign agent", "GET", "/v1/agents/agent_2", "", nil, 404, "not_found_error", "agent_2"},

		{"an environment key: agents", "GET", "/v1/agents", "", bearer(envKey), 403, "permission_error", "an environment key"},
		{"an environment key: a session's end", "DELETE", sessions, "", bearer(envKey), 403, "permission_error", "DELETE /v1/sessions/{session_id}"},
		{"an environment key: another environment's work", "GET", work, "", bearer(envKey), 404, "not_found_error", envID},
		{"an environment key: a session elsewhere", "GET", "/v1/sessions/sesn_2", "", bearer(envKey), 404, "not_found_error", "sesn_2"},
		{"an environment key: speaks as the user", "POST", events, body, bearer(envKey), 403, "permission_error", "user.message"},
		{"an environment key: allows its own call", "POST", events, `{"events":[{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"allow"}]}`, bearer(envKey), 403, "permission_error", "user.tool_confirmation"},
		{"a session token: another session", "GET", "/v1/sessions/sesn_2", "", bearer(sessToken), 404, "not_found_error", "sesn_2"},
		{"a session token: another item", "GET", "/v1/environments/" + envID + "/work/work_2", "", bearer(sessToken), 404, "not_found_error", "work_2"},
		{"a session token: another environment", "GET", ownWork, "", bearer(sessToken), 404, "not_found_error", ownEnvID},
		{"a session token: claims", "POST", work + "/ack", "", bearer(sessToken), 403, "permission_error", "a session token"},
		{"a session token: interrupts", "POST", events, `{"events":[{"type":"user.interrupt"}]}`, bearer(sessToken), 403, "permission_error", "user.interrupt"},
		{"a session token: offers", "GET", "/v1/croft/offers?worker=w", "", bearer(sessToken), 403, "permission_error", ""},
		{"an API key: offers", "GET", "/v1/croft/offers?worker=w", "", nil, 403, "permission_error", ""},
		{"an API key: a spec", "GET", work + "/croft/spec", "", nil, 403, "permission_error", ""},
		{"a fleet key: sessions", "GET", sessions, "", bearer(fleetKey), 403, "permission_error", "a fleet key"},
		{"a fleet key: a self-hosted environment", "GET", ownWork, "", bearer(fleetKey), 404, "not_found_error", ownEnvID},
		{"a fleet key: no such environment", "GET", "/v1/environments/env_0/work/" + workID, "", bearer(fleetKey), 404, "not_found_error", "env_0"},

		{"a lost offer", "POST", work + "/ack?worker=late&incarnation=1", "", bearer(fleetKey), 409, "conflict_error", ""},
		{"a lost lease", "POST", work + "/heartbeat?expected_last_heartbeat=old", "", nil, 412, "precondition_failed_error", "lease"},
		{"a time to live that is none", "POST", work + "/heartbeat?desired_ttl_seconds=soon", "", nil, 400, "invalid_request_error", "desired_ttl_seconds: "},
		{"a stop that is no object", "POST", work + "/stop", "[]", nil, 400, "invalid_request_error", "object"},
		{"a stop with more", "POST", work + "/stop", `{"force":true,"now":true}`, nil, 400, "invalid_request_error", "now: "},

		{"a query that is none", "GET", "/v1/sessions?a=%zz", "", nil, 400, "invalid_request_error", "query"},
		{"an unknown parameter", "GET", "/v1/sessions?colour=red", "", nil, 400, "invalid_request_error", "colour: "},
		{"an unknown parameter of a route without any", "DELETE", sessions + "?force=true", "", nil, 400, "invalid_request_error", "force: "},
		{"a parameter that comes twice", "GET", "/v1/sessions?limit=1&limit=2", "", nil, 400, "invalid_request_error", "limit: "},
		{"a limit of no number", "GET", "/v1/sessions?limit=ten", "", nil, 400, "invalid_request_error", "limit: accepted is a whole number from 1 to 100"},
		{"a limit of nothing", "GET", events + "?limit=0", "", nil, 400, "invalid_request_error", "limit: accepted is a whole number from 1 to 1000"},
		{"a limit that is too large", "GET", "/v1/sessions?limit=101", "", nil, 400, "invalid_request_error", "limit: "},
		{"an order that is none", "GET", "/v1/sessions?order=up", "", nil, 400, "invalid_request_error", "order: accepted are asc, desc"},
		{"a status that is none", "GET", "/v1/sessions?statuses[]=idle&statuses[]=sleepy", "", nil, 400, "invalid_request_error", "statuses.1: "},
		{"a time that is none", "GET", "/v1/sessions?created_at[gte]=yesterday", "", nil, 400, "invalid_request_error", "created_at[gte]: "},
		{"a truth that is none", "GET", "/v1/sessions?include_archived=maybe", "", nil, 400, "invalid_request_error", "include_archived: "},
		{"a preview that is none", "GET", events + "/stream?event_deltas[]=agent.tool_use", "", nil, 400, "invalid_request_error", "event_deltas.0: "},
		{"too many previews", "GET", events + "/stream?event_deltas=" + strings.Repeat("agent.message,", 101), "", nil, 400, "invalid_request_error", "event_deltas: "},
		{"a cursor of a list of one page", "GET", sessions + "/threads?page=x", "", nil, 400, "invalid_request_error", "page: "},

		{"a body that is encoded", "POST", "/v1/sessions", "x", []string{"content-encoding", "gzip"}, 400, "invalid_request_error", "content-encoding"},
		{"a body that is too large", "POST", "/v1/sessions", strings.Repeat(" ", croft.MaxBody+1), nil, 413, "request_too_large", "33554432"},
		{"a bad body", "POST", "/v1/agents", "{}", nil, 400, "invalid_request_error", "name: is missing"},
		{"an idempotency key without end", "POST", "/v1/agents", "{}", []string{"idempotency-key", strings.Repeat("k", 256)}, 400, "invalid_request_error", "Idempotency-Key: "},
		{"two idempotency keys", "POST", "/v1/agents", "{}", []string{"idempotency-key", "a", "idempotency-key", "b"}, 400, "invalid_request_error", "Idempotency-Key: "},

		{"a key of no kind", "POST", "/v1/croft/keys", `{"kind":"root"}`, nil, 400, "invalid_request_error", "kind: "},
		{"a key with more", "POST", "/v1/croft/keys", `{"kind":"api","key":"mine"}`, nil, 400, "invalid_request_error", "key: "},
		{"a key that is not there", "DELETE", "/v1/croft/keys/key_9", "", nil, 404, "not_found_error", "key_9"},
		{"a fleet key: keys", "POST", "/v1/croft/keys", `{"kind":"api"}`, bearer(fleetKey), 403, "permission_error", ""},
		{"keys of no kind", "GET", "/v1/croft/keys?kind=root", "", nil, 400, "invalid_request_error", "kind: "},

		{"a model that is not there", "GET", "/v1/models/m9", "", nil, 404, "not_found_error", "m9"},
		{"a model after one that is not there", "GET", "/v1/models?after_id=m9", "", nil, 400, "invalid_request_error", "after_id: "},
		{"models in both directions", "GET", "/v1/models?after_id=m1&before_id=m2", "", nil, 400, "invalid_request_error", "before_id: "},
		{"a fault of the program", "GET", "/v1/models/panic", "", nil, 500, "api_error", "its log says more under req_"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			got := s.do(tt.method, tt.path, tt.body, tt.headers...)
			if got.StatusCode != tt.status || got.Header.Get("request-id") == "" {
				t.Errorf("status %d, want %d; request-id %q; %s", got.StatusCode, tt.status, got.Header.Get("request-id"), got.body)
			}
			if tt.method == http.MethodHead {
				return
			}
			if typ, message := got.envelope(); typ != tt.typ || !strings.Contains(message, tt.mentioned) {
				t.Errorf("%s: %s; want %s with %q", typ, message, tt.typ, tt.mentioned)
			}
			if got.Header.Get("Content-Type") != "application/json" {
				t.Errorf("content type %q", got.Header.Get("Content-Type"))
			}
			if want := map[int]string{409: "false", 501: "false"}[tt.status]; got.Header.Get("x-should-retry") != want {
				t.Errorf("x-should-retry: %q", got.Header.Get("x-should-retry"))
			}
			if (tt.status == 405) != (got.Header.Get("Allow") != "") {
				t.Errorf("Allow: %q", got.Header.Get("Allow"))
			}
			for _, secret := range []string{apiKey, fleetKey, envKey, sessToken, "croft_api_wrong", "croft_sess_wrong", "other-secret"} {
				if strings.Contains(got.body, secret) {
					t.Errorf("the answer repeats a credential: %s", got.body)
				}
			}
		})
	}
	if log := s.log.String(); !strings.Contains(log, "a handler panicked") || !strings.Contains(log, "status=500") {
		t.Error("the log does not hold the panic")
	} else if strings.Contains(strings.ReplaceAll(log, "with a secret: "+apiKey, ""), apiKey) {
		t.Error("the log holds a key")
	}
}

func TestAccepted(t *testing.T) {
	s := serve(t, new(store.DB), nil)
	work := "/v1/environments/" + envID + "/work/" + workID
	ownWork := "/v1/environments/" + ownEnvID + "/work/" + workID
	result := `{"events":[{"type":"user.tool_result","tool_use_id":"sevt_1"},{"type":"user.custom_tool_result","custom_tool_use_id":"sevt_2"}]}`
	for _, tt := range []struct {
		name               string
		method, path, body string
		headers            []string
		want               string
	}{
		{"a key", "GET", "/v1/sessions", "", nil, `{"data":[],"next_page":null,"prev_page":null}`},
		{"a key as bearer", "GET", "/v1/sessions", "", bearer(apiKey), `{"data":[]`},
		{"a bearer in small letters", "GET", "/v1/sessions", "", []string{"x-api-key", "", "authorization", "bearer  " + apiKey}, `{"data":[]`},
		{"the same key twice", "GET", "/v1/sessions", "", []string{"authorization", "Bearer " + apiKey}, `{"data":[]`},
		{"an empty header beside", "GET", "/v1/sessions", "", []string{"authorization", " "}, `{"data":[]`},
		{"its own workspace", "GET", "/v1/sessions", "", []string{"anthropic-workspace-id", ws}, `{"data":[]`},
		{"beta=true", "GET", "/v1/sessions?beta=true", "", nil, `{"data":[]`},
		{"betas in a list", "GET", "/v1/sessions", "", []string{"anthropic-beta", "a, " + managed + " ,b"}, `{"data":[]`},
		{"betas in several lines", "GET", "/v1/sessions", "", []string{"anthropic-beta", "a,b", "anthropic-beta", managed}, `{"data":[]`},
		{"a version", "GET", "/v1/sessions", "", []string{"anthropic-version", "2023-06-01"}, `{"data":[]`},
		{"a page of events", "GET", "/v1/sessions/" + sessionID + "/events", "", nil, `{"data":[{"id":"sevt_1"},{"id":"sevt_2"}],"next_page":"a\"cursor"}`},
		{"a delete", "DELETE", "/v1/sessions/" + sessionID, "", nil, `{"id":"sesn_1","type":"session_deleted"}`},
		{"threads", "GET", "/v1/sessions/" + sessionID + "/threads?statuses[]=idle&limit=5", "", nil, `{"data":[{"id":"sthr_1","status":"idle"}],"next_page":null}`},
		{"no such threads", "GET", "/v1/sessions/" + sessionID + "/threads?statuses[]=running", "", nil, `{"data":[],"next_page":null}`},

		{"a session by an environment key", "GET", "/v1/sessions/" + sessionID, "", bearer(envKey), `{"id":"sesn_1"`},
		{"results by an environment key", "POST", "/v1/sessions/" + sessionID + "/events", result, bearer(envKey), `{"data":[{"id":"sevt_1"},{"id":"sevt_1"}]}`},
		{"work by an environment key", "GET", ownWork, "", bearer(envKey), `{"id":"work_1"`},
		{"an ack by an environment key", "POST", ownWork + "/ack?worker=w&incarnation=1", "", bearer(envKey), `{"id":"work_1"`},
		{"work by a fleet key", "POST", work + "/ack?worker=w&incarnation=1", "", bearer(fleetKey), `{"id":"work_1"`},
		{"a heartbeat by a token", "POST", work + "/heartbeat?beta=true&expected_last_heartbeat=NO_HEARTBEAT&desired_ttl_seconds=30", "", bearer(sessToken), `"ttl_seconds":30`},
		{"a stop by a token", "POST", work + "/stop", `{"force":true}`, bearer(sessToken), `{"id":"work_1"`},
		{"a stop without a body", "POST", work + "/stop", "", bearer(sessToken), `{"id":"work_1"`},
		{"a spec by a token, without the beta", "GET", work + "/croft/spec", "", append(bearer(sessToken), "anthropic-beta", ""), `{"type":"work_spec"`},
		{"a session by its token", "GET", "/v1/sessions/" + sessionID, "", bearer(sessToken), `{"id":"sesn_1"`},

		{"a new key", "POST", "/v1/croft/keys", `{"kind":"fleet","name":"n"}`, []string{"anthropic-beta", ""}, `{"id":"key_new","type":"key","kind":"fleet","name":"n","key":"croft_fleet_new_n"}`},
		{"keys", "GET", "/v1/croft/keys?kind=api", "", nil, `"created_at":null,"last_used_at":null,"revoked_at":null}],"next_page":null}`},
		{"a revoked key", "DELETE", "/v1/croft/keys/key_1", "", nil, `{"id":"key_1","type":"key_revoked"}`},

		{"health without a credential", "GET", "/healthz", "", []string{"x-api-key", "", "anthropic-beta", ""}, `{"status":"ok"}`},
		{"readiness without a credential", "GET", "/readyz", "", []string{"x-api-key", "", "anthropic-beta", ""}, `{"status":"ready"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			got := s.do(tt.method, tt.path, tt.body, tt.headers...)
			if got.StatusCode != http.StatusOK || !strings.Contains(got.body, tt.want) || got.Header.Get("request-id") == "" {
				t.Errorf("%d %s; want %s", got.StatusCode, got.body, tt.want)
			}
		})
	}
	s.t = t
	s.do("POST", "/v1/sessions/"+sessionID+"/events", result, bearer(sessToken)...)
	if want := (session.Actor{Workspace: ws, WorkID: workID, Claim: 7}); s.rooms.actor != want {
		t.Errorf("the token's actor: %+v", s.rooms.actor)
	}
	s.do("POST", "/v1/sessions/"+sessionID+"/events", result)
	if want := (session.Actor{Workspace: ws}); s.rooms.actor != want {
		t.Errorf("the key's actor: %+v", s.rooms.actor)
	}
	if got := s.do("HEAD", "/v1/sessions/"+sessionID, ""); got.StatusCode != http.StatusOK || got.body != "" {
		t.Errorf("HEAD: %d %q", got.StatusCode, got.body)
	}
}

func TestQueries(t *testing.T) {
	s := serve(t, new(store.DB), nil)
	at := croft.TimeOf(time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC))
	got := s.do("GET", "/v1/sessions?beta=true&agent_id=agent_1&agent_version=3&created_at%5Bgt%5D=2026-04-01T12:00:00Z&created_at[lte]=2026-04-01T14:00:00%2B02:00"+
		"&include_archived=true&limit=7&order=asc&page=p&statuses[]=idle&statuses[]=running&deployment_id=d&memory_store_id=m", "")
	want := session.ListQuery{AgentID: "agent_1", AgentVersion: 3, CreatedGt: at, CreatedLte: at, IncludeArchived: true, Limit: 7, Order: "asc", Page: "p",
		Statuses: []croft.SessionStatus{"idle", "running"}, DeploymentID: "d", MemoryStoreID: "m"}
	if diff := cmp.Diff(want, s.rooms.list); diff != "" || got.StatusCode != http.StatusOK {
		t.Errorf("%d (-want +got)\n%s", got.StatusCode, diff)
	}
	for _, form := range []string{"types[]=a&types[]=b&types[]=c", "types=a&types=b&types=c", "types=a,b,c", "types[]=a&types[]=b,c"} {
		s.do("GET", "/v1/sessions/"+sessionID+"/events?"+form, "")
		if diff := cmp.Diff([]croft.EventType{"a", "b", "c"}, s.rooms.events.Types); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", form, diff)
		}
	}
	s.do("GET", "/v1/sessions/"+sessionID+"/threads/"+threadID+"/events?limit=2", "")
	if s.rooms.events.ThreadID != threadID || s.rooms.events.Limit != 2 {
		t.Errorf("%+v", s.rooms.events)
	}
}

func TestModels(t *testing.T) {
	s := serve(t, new(store.DB), nil)
	for _, tt := range []struct{ query, want string }{
		{"", "m1 m2 m3 org/m4 more=false"},
		{"?limit=2", "m1 m2 more=true"},
		{"?limit=2&after_id=m2", "m3 org/m4 more=false"},
		{"?limit=1&after_id=m2", "m3 more=true"},
		{"?after_id=org/m4", " more=false"},
		{"?limit=2&before_id=m3", "m1 m2 more=false"},
		{"?limit=1&before_id=m3", "m2 more=true"},
		{"?lifecycle[]=retired", " more=false"},
		{"?lifecycle[]=active&lifecycle[]=retired", "m1 m2 m3 org/m4 more=false"},
	} {
		var page struct {
			Data []struct {
				ID   string `json:"id"`
				Type string `json:"type"`
			} `json:"data"`
			More  bool    `json:"has_more"`
			First *string `json:"first_id"`
			Last  *string `json:"last_id"`
		}
		resp := s.do("GET", "/v1/models"+tt.query, "", "anthropic-beta", "")
		decode(t, resp.body, &page)
		var ids []string
		for _, m := range page.Data {
			ids = append(ids, m.ID)
		}
		if got := fmt.Sprintf("%s more=%v", strings.Join(ids, " "), page.More); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.query, got, tt.want)
		}
		if n := len(ids); n == 0 && (page.First != nil || page.Last != nil) || n > 0 && (*page.First != ids[0] || *page.Last != ids[n-1]) {
			t.Errorf("%s: first and last of %v", tt.query, ids)
		}
	}
	if got := s.do("GET", "/v1/models/org%2Fm4", ""); got.StatusCode != http.StatusOK || !strings.Contains(got.body, `"id":"org/m4"`) {
		t.Errorf("an id with a slash: %d %s", got.StatusCode, got.body)
	}
}

func TestCapabilities(t *testing.T) {
	tree := capabilityTree([]string{"effort.high", "thinking.types.adaptive", "image_input", "unheard_of"})
	yes, no := map[string]any{"supported": true}, map[string]any{"supported": false}
	for name, want := range map[string]any{
		"image_input": yes,
		"batch":       no,
		"effort":      map[string]any{"supported": true, "low": no, "medium": no, "high": yes, "xhigh": no, "max": no},
		"thinking":    map[string]any{"supported": true, "types": map[string]any{"adaptive": yes, "between_tools": no, "disabled": no, "enabled": no}},
		"compaction":  map[string]any{"supported": false, "summarize": no},
	} {
		if diff := cmp.Diff(want, tree[name]); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
	if len(tree) != 11 {
		t.Errorf("%d capabilities", len(tree))
	}
}

func TestNotReady(t *testing.T) {
	s := serve(t, new(store.DB), func(o *Options) {
		o.Ready = func(context.Context) error { return fmt.Errorf("sessions are still being taken up") }
	})
	got := s.do("GET", "/readyz", "")
	if got.StatusCode != http.StatusServiceUnavailable || got.body != `{"reason":"sessions are still being taken up","status":"not ready"}` {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if got := s.do("GET", "/healthz", ""); got.StatusCode != http.StatusOK {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

func TestRequestTimeOut(t *testing.T) {
	s := serve(t, new(store.DB), func(o *Options) { o.Timeout = 20 * time.Millisecond })
	s.rooms.create = func(ctx context.Context) (*croft.Session, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("storing: %w", ctx.Err())
	}
	got := s.do("POST", "/v1/sessions", newSession)
	if typ, _ := got.envelope(); got.StatusCode != http.StatusGatewayTimeout || typ != "timeout_error" {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	// A body that does not come.
	conn := s.dial("POST /v1/sessions HTTP/1.1\r\nHost: x\r\nx-api-key: " + apiKey + "\r\nanthropic-beta: " + managed + "\r\nContent-Length: 10\r\n\r\n{")
	if answer := conn.all(t); !strings.HasPrefix(answer, "HTTP/1.1 504") || !strings.Contains(answer, "did not arrive") {
		t.Error(answer)
	}
}

func TestFullDisk(t *testing.T) {
	s := serve(t, new(store.DB), nil)
	s.rooms.create = func(context.Context) (*croft.Session, error) {
		return nil, fmt.Errorf("storing session sesn_x: %w", &store.FullError{Cause: errors.New("/var/secret/croft.db: no space left")})
	}
	got := s.do("POST", "/v1/sessions", newSession)
	if typ, message := got.envelope(); got.StatusCode != http.StatusInternalServerError || typ != "api_error" || message != "this server's disk is full: nothing was stored" {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

func TestClientLeaves(t *testing.T) {
	s := serve(t, new(store.DB), nil)
	began, ended := make(chan struct{}), make(chan struct{})
	s.rooms.create = func(ctx context.Context) (*croft.Session, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/v1/sessions", strings.NewReader(newSession))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-api-key", apiKey)
	req.Header.Set("anthropic-beta", managed)
	go func() {
		<-began
		cancel()
	}()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Fatal("the request was answered")
	}
	<-ended
	eventually(t, "the log has it", func() bool { return strings.Contains(s.log.String(), "status=499") })
	if log := s.log.String(); strings.Contains(log, "level=ERROR") || strings.Contains(log, "level=WARN") {
		t.Errorf("a client that leaves is no fault:\n%s", log)
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("an API without rooms")
	}
}
