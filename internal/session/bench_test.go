package session_test

import (
	"encoding/json"
	"testing"

	"croft"
	"croft/internal/agents"
	"croft/internal/session"
	"croft/internal/store"
	"croft/internal/store/storetest"
)

// BenchmarkSend is one append of three events to a session at rest, by one client.
func BenchmarkSend(b *testing.B) {
	db, err := store.Open(b.Context(), store.Options{URL: storetest.SQLite(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	log := session.New(session.Options{DB: db, Agents: fixed{croft.EnvironmentCloud}, Models: fixed{}})
	err = db.Write(b.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ('` + ws + `', 'test', 1)`); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO environments (id, workspace_id, kind, body, created_at, updated_at) VALUES ('` + env + `', '` + ws + `', 'cloud', '{}', 1, 1)`)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	s, err := log.Create(b.Context(), ws, &session.CreateInput{Agent: agents.Ref{ID: "a"}, EnvironmentID: env})
	if err != nil {
		b.Fatal(err)
	}
	three := []session.Input{}
	for range 3 {
		three = append(three, session.Input{Type: croft.UserInterrupt, Payload: json.RawMessage(`{"type":"user.interrupt"}`)})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := log.Send(b.Context(), session.Actor{Workspace: ws}, s.ID, three); err != nil {
			b.Fatal(err)
		}
	}
}
