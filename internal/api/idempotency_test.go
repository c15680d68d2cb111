package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"croft"
	"croft/internal/store"
)

// made answers each creation with a session of its own.
func made(n *atomic.Int64) func(context.Context) (*croft.Session, error) {
	return func(context.Context) (*croft.Session, error) {
		return &croft.Session{ID: fmt.Sprintf("sesn_made_%d", n.Add(1)), Type: "session"}, nil
	}
}

func (s *server) create(key, body string) response {
	s.t.Helper()
	comma := ","
	if body == "{}" {
		comma = ""
	}
	body = `{"agent":"agent_x","environment_id":"env_x"` + comma + body[1:]
	return s.do("POST", "/v1/sessions", body, "idempotency-key", key)
}

func TestIdempotencyKey(t *testing.T) {
	withDB(t, func(t *testing.T, s *server) {
		var n atomic.Int64
		s.rooms.create = made(&n)
		first := s.create("k1", `{"title":"a"}`)
		if first.StatusCode != http.StatusOK || first.Header.Get("idempotent-replayed") != "" {
			t.Fatalf("%d %s", first.StatusCode, first.body)
		}
		again := s.create("k1", `{"title":"a"}`)
		if again.StatusCode != http.StatusOK || again.body != first.body || again.Header.Get("idempotent-replayed") != "true" || again.Header.Get("request-id") == first.Header.Get("request-id") {
			t.Errorf("repeated: %d %s", again.StatusCode, again.body)
		}
		if got := s.create("k1", `{"title":"b"}`); got.StatusCode != http.StatusBadRequest {
			t.Errorf("with another body: %d %s", got.StatusCode, got.body)
		}
		if got := s.do("POST", "/v1/agents", `{"title":"a"}`, "idempotency-key", "k1"); got.StatusCode != http.StatusBadRequest || !strings.Contains(got.body, "another request") {
			t.Errorf("with another path: %d %s", got.StatusCode, got.body)
		}
		if got := s.create("k2", `{"title":"a"}`); got.body == first.body {
			t.Error("another key gave the first answer")
		}
		if n.Load() != 2 {
			t.Errorf("%d sessions were made", n.Load())
		}
		// Another process over the same database knows the key too.
		other := serve(t, s.api.db, nil)
		other.rooms.create = made(&n)
		if got := other.create("k1", `{"title":"a"}`); got.body != first.body {
			t.Errorf("in another process: %s", got.body)
		}
		// A key belongs to a workspace.
		stranger := serve(t, s.api.db, func(o *Options) {
			p := *principals()[apiKey]
			p.Workspace = "wrkspc_other"
			o.Access = fakeAccess{apiKey: &p}
		})
		stranger.rooms.create = made(&n)
		if got := stranger.create("k1", `{"title":"a"}`); got.body == first.body || got.StatusCode != http.StatusOK {
			t.Errorf("in another workspace: %d %s", got.StatusCode, got.body)
		}
		// A route that makes nothing takes no notice.
		if got := s.do("POST", "/v1/sessions/"+sessionID+"/archive", "", "idempotency-key", "k1"); got.StatusCode == http.StatusBadRequest {
			t.Errorf("%s", got.body)
		}
	})
}

func TestIdempotencyKeyAfterRefusal(t *testing.T) {
	withDB(t, func(t *testing.T, s *server) {
		var n atomic.Int64
		s.rooms.create = func(context.Context) (*croft.Session, error) { return nil, croft.Invalid("agent", "is missing") }
		if got := s.create("k", `{}`); got.StatusCode != http.StatusBadRequest {
			t.Fatalf("%d %s", got.StatusCode, got.body)
		}
		s.rooms.create = made(&n)
		if got := s.create("k", `{"title":"b"}`); got.StatusCode != http.StatusOK {
			t.Errorf("nothing was done, the key is free: %d %s", got.StatusCode, got.body)
		}
	})
}

func TestIdempotencyKeyAfterFault(t *testing.T) {
	withDB(t, func(t *testing.T, s *server) {
		for key, fault := range map[string]func(context.Context) (*croft.Session, error){
			"fails":  func(context.Context) (*croft.Session, error) { return nil, errors.New("the disk burns") },
			"panics": func(context.Context) (*croft.Session, error) { panic("at the disco") },
		} {
			s.rooms.create = fault
			if got := s.create(key, `{}`); got.StatusCode != http.StatusInternalServerError || strings.Contains(got.body, "disk") || strings.Contains(got.body, "disco") {
				t.Errorf("%s: %d %s", key, got.StatusCode, got.body)
			}
			var n atomic.Int64
			s.rooms.create = made(&n)
			if got := s.create(key, `{}`); got.StatusCode != http.StatusOK || n.Load() != 1 {
				t.Errorf("%s: nothing was kept, so the key is free: %d %s", key, got.StatusCode, got.body)
			}
		}
	})
}

// The work and the note of its answer are one transaction: where the note is missing, so is
// the work.
func TestIdempotencyKeyAndWorkAreOne(t *testing.T) {
	withDB(t, func(t *testing.T, s *server) {
		work := func(ctx context.Context, id string) error {
			return s.api.db.Write(ctx, func(tx *store.Tx) error {
				_, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ($1, $1, 1)`, id)
				return err
			})
		}
		s.rooms.create = func(ctx context.Context) (*croft.Session, error) {
			if err := work(ctx, "wrkspc_undone"); err != nil {
				return nil, err
			}
			return nil, errors.New("the process dies here")
		}
		s.create("k", `{}`)
		s.rooms.create = func(ctx context.Context) (*croft.Session, error) {
			return &croft.Session{ID: "sesn_done"}, work(ctx, "wrkspc_done")
		}
		s.create("k", `{}`)
		var ids []string
		err := s.api.db.Read(t.Context(), func(tx *store.Tx) error {
			rows, err := tx.Query(`SELECT id FROM workspaces WHERE id IN ('wrkspc_done', 'wrkspc_undone')`)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var id string
				if err := rows.Scan(&id); err != nil {
					return err
				}
				ids = append(ids, id)
			}
			return rows.Err()
		})
		if err != nil || len(ids) != 1 || ids[0] != "wrkspc_done" || s.keys() != 1 {
			t.Errorf("kept: %v, %d keys, %v", ids, s.keys(), err)
		}
	})
}

// age makes every key older.
func (s *server) age(by time.Duration) {
	s.t.Helper()
	err := s.api.db.Write(s.t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE idempotency SET created_at = created_at - $1`, by.Microseconds())
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) keys() (n int) {
	s.t.Helper()
	err := s.api.db.Read(s.t.Context(), func(tx *store.Tx) error { return tx.QueryRow(`SELECT COUNT(*) FROM idempotency`).Scan(&n) })
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func TestIdempotencyKeyEnds(t *testing.T) {
	withDB(t, func(t *testing.T, s *server) {
		var n atomic.Int64
		s.rooms.create = made(&n)
		for i := range 5 {
			s.create(fmt.Sprint("old", i), `{}`)
		}
		s.age(keyLife + time.Minute)
		if got := s.create("old0", `{"title":"another body"}`); got.StatusCode != http.StatusOK || got.Header.Get("idempotent-replayed") != "" {
			t.Errorf("a key past its life: %d %s", got.StatusCode, got.body)
		}
		if n.Load() != 6 || s.keys() != 1 {
			t.Errorf("%d sessions, %d keys left", n.Load(), s.keys())
		}
	})
}

func TestIdempotencyKeyAtTheSameTime(t *testing.T) {
	withDB(t, func(t *testing.T, s *server) {
		var n atomic.Int64
		release := make(chan struct{})
		s.rooms.create = func(ctx context.Context) (*croft.Session, error) {
			<-release
			return made(&n)(ctx)
		}
		other := serve(t, s.api.db, nil)
		other.rooms.create = made(&n)
		answers := make(chan response, 8)
		var wg sync.WaitGroup
		for range cap(answers) {
			wg.Go(func() { answers <- s.create("k", `{}`) })
		}
		eventually(t, "one has begun", func() bool { s.rooms.mu.Lock(); defer s.rooms.mu.Unlock(); return s.rooms.creates == 1 })
		elsewhere := make(chan response, 1)
		go func() { elsewhere <- other.create("k", `{}`) }()
		close(release)
		wg.Wait()
		close(answers)
		want := (<-elsewhere).body
		for got := range answers {
			if got.StatusCode != http.StatusOK || got.body != want {
				t.Errorf("%d %s, want %s", got.StatusCode, got.body, want)
			}
		}
	})
}

// The answer to a client that left is kept for when it comes back.
func TestIdempotencyKeyOfAClientThatLeft(t *testing.T) {
	withDB(t, func(t *testing.T, s *server) {
		var n atomic.Int64
		began, release := make(chan struct{}), make(chan struct{})
		s.rooms.create = func(ctx context.Context) (*croft.Session, error) {
			close(began)
			<-release
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			return made(&n)(ctx)
		}
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/v1/sessions", strings.NewReader(newSession))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"X-Api-Key": {apiKey}, "Anthropic-Beta": {managed}, "Idempotency-Key": {"k"}}
		go func() {
			<-began
			cancel()
		}()
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			t.Fatal("the request was answered")
		}
		close(release)
		if got := s.create("k", `{}`); got.StatusCode != http.StatusOK || got.Header.Get("idempotent-replayed") != "true" || n.Load() != 1 {
			t.Errorf("%d %s; %d sessions were made", got.StatusCode, got.body, n.Load())
		}
	})
}
