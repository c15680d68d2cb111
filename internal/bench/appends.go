package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"croft"
	"croft/internal/agents"
	"croft/internal/model"
	"croft/internal/session"
	"croft/internal/store"
)

// commitTimes measures the commit of one row.
func commitTimes(ctx context.Context, url string, n int) ([]time.Duration, error) {
	db, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		return nil, err
	}
	defer db.Close() //nolint:errcheck // it is thrown away
	var all []time.Duration
	for range n {
		began := time.Now()
		err := db.Write(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ($1, $1, $2)`, croft.NewID("w"), tx.Now)
			return err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, time.Since(began))
	}
	return all, nil
}

// room is the least that a log needs around it.
type room struct{}

func (room) Resolve(*store.Tx, string, agents.Ref) (*croft.SessionAgent, error) {
	return &croft.SessionAgent{ID: "agent_bench", Type: "agent", Name: "bench", Model: croft.ModelConfig{ID: "m"}}, nil
}

func (room) Environment(*store.Tx, string, string) (*croft.Environment, error) {
	return &croft.Environment{ID: "env_bench", Config: croft.EnvironmentConfig{Type: croft.EnvironmentCloud}}, nil
}

func (room) Model(string) (*model.Model, error) { return &model.Model{}, nil }

// appends measures d: the log alone, without HTTP, three interrupts of a resting session an
// append.
func (r *run) appends(ctx context.Context) error {
	url := r.DatabaseURL
	if r.report.Database == "sqlite" {
		url = "sqlite:" + filepath.Join(r.dir, "appends.db")
	}
	db, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // it is thrown away
	err = db.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ('w_bench', 'bench', 1) ON CONFLICT DO NOTHING`); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO environments (id, workspace_id, kind, body, created_at, updated_at) VALUES ('env_bench', 'w_bench', 'cloud', '{}', 1, 1) ON CONFLICT DO NOTHING`)
		return err
	})
	if err != nil {
		return err
	}
	log := session.New(session.Options{DB: db, Agents: room{}, Models: room{}})
	input := session.Input{Type: croft.UserInterrupt, Payload: json.RawMessage(`{"type":"user.interrupt"}`)}
	three := []session.Input{input, input, input}
	for _, clients := range append([]int{1}, r.Clients...) {
		ids := make([]string, clients)
		for i := range ids {
			s, err := log.Create(ctx, "w_bench", &session.CreateInput{EnvironmentID: "env_bench"})
			if err != nil {
				return err
			}
			ids[i] = s.ID
		}
		limited, cancel := context.WithTimeout(ctx, time.Duration(r.Seconds)*time.Second)
		var done atomic.Int64
		var failed atomic.Value
		var wg sync.WaitGroup
		began := time.Now()
		for _, id := range ids {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for limited.Err() == nil {
					if _, err := log.Send(ctx, session.Actor{Workspace: "w_bench"}, id, three); err != nil {
						failed.Store(err)
						return
					}
					done.Add(1)
				}
			}()
		}
		wg.Wait()
		took := time.Since(began)
		cancel()
		if err, ok := failed.Load().(error); ok {
			return fmt.Errorf("appending: %w", err)
		}
		r.add(Row{Key: "d", Name: fmt.Sprintf("appends of 3 events, %d at once", clients), Rate: float64(done.Load()) / took.Seconds(), Count: int(done.Load())})
	}
	return nil
}
