package store_test

import (
	"fmt"
	"sync"
	"testing"

	"croft"
	"croft/internal/store"
	"croft/internal/store/storetest"
)

// appendOnce is what an append of the log costs the store: three events in one insert, the
// session's row read and written back.
func appendOnce(db *store.DB, b *testing.B, session string) {
	payload := `{"id":"sevt_00000000000000000000000000","type":"agent.message","content":[{"type":"text","text":"some words of an answer that is not very long"}]}`
	err := db.Write(b.Context(), func(tx *store.Tx) error {
		var last int64
		var state string
		if err := tx.QueryRow(`SELECT last_seq, state FROM sessions WHERE id = $1`+tx.ForUpdate(), session).Scan(&last, &state); err != nil {
			return err
		}
		args := make([]any, 0, 24)
		for i := range int64(3) {
			args = append(args, session, last+i+1, croft.NewID("sevt"), "agent.message", "sthr_1", tx.Now, payload, nil)
		}
		if _, err := tx.Exec(`INSERT INTO events (session_id, seq, id, type, thread_id, processed_at, payload, raw) VALUES ($1,$2,$3,$4,$5,$6,$7,$8),($9,$10,$11,$12,$13,$14,$15,$16),($17,$18,$19,$20,$21,$22,$23,$24)`, args...); err != nil {
			return err
		}
		_, err := tx.Exec(`UPDATE sessions SET last_seq = last_seq + 3, state = $1, updated_at = $2 WHERE id = $3`, state, tx.Now, session)
		return err
	})
	if err != nil {
		b.Error(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgres"} {
		for _, clients := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("%s/clients=%d", kind, clients), func(b *testing.B) {
				url := storetest.URL(b, kind)
				db, err := store.Open(b.Context(), store.Options{URL: url})
				if err != nil {
					b.Fatal(err)
				}
				defer db.Close()
				err = db.Write(b.Context(), func(tx *store.Tx) error {
					if _, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ('w', 'w', 1)`); err != nil {
						return err
					}
					if _, err := tx.Exec(`INSERT INTO environments (id, workspace_id, kind, body, created_at, updated_at) VALUES ('e', 'w', 'cloud', '{}', 1, 1)`); err != nil {
						return err
					}
					for i := range clients {
						if _, err := tx.Exec(`INSERT INTO sessions (id, workspace_id, environment_id, environment_kind, agent_id, agent_version, agent, metadata, status, thread_id, last_seq, epoch, state, created_at, updated_at)
							VALUES ($1, 'w', 'e', 'cloud', 'a', 1, '{}', '{}', 'idle', 't', 0, 0, '{"threads":[]}', 1, 1)`, fmt.Sprint("s", i)); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
				b.ResetTimer()
				var wg sync.WaitGroup
				for i := range clients {
					n := b.N / clients
					if i < b.N%clients {
						n++
					}
					wg.Add(1)
					go func() {
						defer wg.Done()
						for range n {
							appendOnce(db, b, fmt.Sprint("s", i))
						}
					}()
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			})
		}
	}
}

// BenchmarkRead is what looking up one row costs: a transaction with one query.
func BenchmarkRead(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgres"} {
		b.Run(kind, func(b *testing.B) {
			db := open(b, storetest.URL(b, kind))
			if err := db.Write(b.Context(), func(tx *store.Tx) error { return insert(tx, "w") }); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				err := db.Read(b.Context(), func(tx *store.Tx) error {
					var name string
					return tx.QueryRow(`SELECT name FROM workspaces WHERE id = $1`, "w").Scan(&name)
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
