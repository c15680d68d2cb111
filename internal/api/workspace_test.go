package api_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"croft"
	"croft/internal/access"
	"croft/internal/store"
)

// ask sends a request under a key and returns the status and the body.
func (s *stack) ask(key, method, path, body string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + key}, "Anthropic-Beta": {"managed-agents-2026-04-01"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// A stranger's key reaches nothing of a workspace, and is not told what is there.
func TestWorkspaces(t *testing.T) {
	each(t, func(s *stack) {
		m := s.makeAll(s.client())
		threads, err := s.log.Threads(s.t.Context(), access.DefaultWorkspace, m.session.ID)
		if err != nil {
			s.t.Fatal(err)
		}
		var thread struct{ ID string }
		unmarshal(s.t, string(threads[0]), &thread)
		const other = "wrkspc_other"
		err = s.db.Write(s.t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ($1, $1, $2)`, other, tx.Now)
			return err
		})
		if err != nil {
			s.t.Fatal(err)
		}
		_, key, err := s.access.Create(s.t.Context(), other, access.API, "", "")
		if err != nil {
			s.t.Fatal(err)
		}
		agent, env, session := "/v1/agents/"+m.agent.ID, "/v1/environments/"+m.env.ID, "/v1/sessions/"+m.session.ID
		message := `{"events":[{"type":"user.message","content":[{"type":"text","text":"hi"}]}]}`
		for _, tt := range []struct{ method, path, body string }{
			{"GET", agent, ""}, {"POST", agent, `{"version":1,"name":"mine"}`}, {"POST", agent + "/archive", ""}, {"GET", agent + "/versions", ""},
			{"GET", env, ""}, {"POST", env, `{"name":"mine"}`}, {"POST", env + "/archive", ""}, {"DELETE", env, ""},
			{"GET", session, ""}, {"POST", session, `{"title":"mine"}`}, {"POST", session + "/archive", ""}, {"DELETE", session, ""},
			{"GET", session + "/events", ""}, {"POST", session + "/events", message}, {"GET", session + "/events/stream", ""},
			{"GET", session + "/threads", ""}, {"GET", session + "/threads/" + thread.ID, ""}, {"GET", session + "/threads/" + thread.ID + "/events", ""},
			{"GET", session + "/threads/" + thread.ID + "/stream", ""}, {"GET", session + "/threads/sthr_none/stream", ""},
		} {
			if status, body := s.ask(key, tt.method, tt.path, tt.body); status != http.StatusNotFound || !strings.Contains(body, "was not found") {
				s.t.Errorf("%s %s by a stranger: %d %s", tt.method, tt.path, status, body)
			}
		}
		for _, list := range []string{"/v1/agents", "/v1/environments", "/v1/sessions"} {
			if status, body := s.ask(key, "GET", list, ""); status != http.StatusOK || !strings.Contains(body, `"data":[]`) {
				s.t.Errorf("%s by a stranger: %d %s", list, status, body)
			}
		}
		create := `{"agent":"` + m.agent.ID + `","environment_id":"` + m.env.ID + `"}`
		if status, body := s.ask(key, "POST", "/v1/sessions", create); status != http.StatusNotFound {
			s.t.Errorf("a session of a stranger's agent: %d %s", status, body)
		}
		if status, _ := s.ask(s.key, "GET", session, ""); status != http.StatusOK {
			s.t.Error("the session did not survive the stranger")
		}
		if status, body := s.ask(s.key, "GET", session+"/threads/sthr_none/events", ""); status != http.StatusNotFound {
			s.t.Errorf("a thread that is not there: %d %s", status, body)
		}
	})
}

// A cursor holds for its own list and order.
func TestCursors(t *testing.T) {
	each(t, func(s *stack) {
		c := s.client()
		m := s.makeAll(c)
		s.makeAll(c)
		s.say(c, m.session.ID, "one", "two")
		cursor := func(path string) string {
			_, body := s.ask(s.key, "GET", path, "")
			var page struct {
				Next string `json:"next_page"`
			}
			unmarshal(s.t, body, &page)
			if page.Next == "" {
				s.t.Fatalf("%s has one page: %s", path, body)
			}
			return page.Next
		}
		events := "/v1/sessions/" + m.session.ID + "/events"
		ofSessions, ofEvents, ofAgents := cursor("/v1/sessions?limit=1"), cursor(events+"?limit=1"), cursor("/v1/agents?limit=1")
		for path, want := range map[string]int{
			"/v1/sessions?limit=1&page=" + ofSessions:           http.StatusOK,
			"/v1/sessions?limit=1&order=asc&page=" + ofSessions: http.StatusBadRequest,
			"/v1/sessions?page=nonsense":                        http.StatusBadRequest,
			"/v1/sessions?page=" + ofEvents:                     http.StatusBadRequest,
			"/v1/sessions?page=" + ofAgents:                     http.StatusBadRequest,
			events + "?limit=1&page=" + ofEvents:                http.StatusOK,
			events + "?order=desc&page=" + ofEvents:             http.StatusBadRequest,
			events + "?page=" + ofSessions:                      http.StatusBadRequest,
			"/v1/agents?page=" + ofAgents:                       http.StatusOK,
			"/v1/environments?page=" + ofAgents:                 http.StatusBadRequest,
			"/v1/agents?page=" + strings.Repeat("A", 5000):      http.StatusBadRequest,
		} {
			status, body := s.ask(s.key, "GET", path, "")
			if status != want || (want == http.StatusBadRequest && !strings.Contains(body, `"message":"page: `)) {
				s.t.Errorf("%s: %d %s", path, status, body)
			}
		}
	})
}

// A key that is revoked over the wire fails at the next request.
func TestKeysOverTheWire(t *testing.T) {
	each(t, func(s *stack) {
		_, body := s.ask(s.key, "POST", "/v1/croft/keys", `{"kind":"api","name":"spare"}`)
		var made struct{ ID, Key string }
		unmarshal(s.t, body, &made)
		if status, body := s.ask(made.Key, "GET", "/v1/sessions", ""); status != http.StatusOK {
			s.t.Fatalf("%d %s", status, body)
		}
		if status, body := s.ask(s.key, "GET", "/v1/croft/keys?kind=api", ""); status != http.StatusOK || !strings.Contains(body, made.ID) || strings.Contains(body, made.Key) {
			s.t.Errorf("%d %s", status, body)
		}
		if status, body := s.ask(s.key, "DELETE", "/v1/croft/keys/"+made.ID, ""); status != http.StatusOK {
			s.t.Errorf("%d %s", status, body)
		}
		if status, body := s.ask(made.Key, "GET", "/v1/sessions", ""); status != http.StatusUnauthorized || strings.Contains(body, made.Key) {
			s.t.Errorf("a revoked key: %d %s", status, body)
		}
		if _, err := s.access.Authenticate(s.t.Context(), made.Key); !croft.IsType(err, croft.Authentication) {
			s.t.Error(err)
		}
	})
}
