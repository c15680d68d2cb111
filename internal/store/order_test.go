package store_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"croft/internal/store"
	"croft/internal/store/storetest"
)

// TestOnCommitFollowsTheCommits: of Writes that wait for one another's row, what follows the
// first commit runs first, on both databases.
func TestOnCommitFollowsTheCommits(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ('row', '', 0)`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []int64
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for j := range 20 {
					var ran atomic.Bool
					err := db.Write(context.Background(), func(tx *store.Tx) error {
						var n int64
						if err := tx.QueryRow(`SELECT created_at FROM workspaces WHERE id = 'row'` + tx.ForUpdate()).Scan(&n); err != nil {
							return err
						}
						if _, err := tx.Exec(`UPDATE workspaces SET created_at = $1 WHERE id = 'row'`, n+1); err != nil {
							return err
						}
						tx.OnCommit(func() {
							ran.Store(true)
							mu.Lock()
							defer mu.Unlock()
							order = append(order, n+1)
						})
						if (i+j)%7 == 0 {
							return errRefused
						}
						return nil
					})
					if ran.Load() != (err == nil) {
						t.Errorf("the Write ended with %v, and what was to follow its commit ran: %v", err, ran.Load())
					}
				}
			})
		}
		wg.Wait()
		for i, n := range order {
			if n != int64(i+1) {
				t.Fatalf("they came in the order %v", order[:i+1])
			}
		}
	})
}

// TestManyAskForTheDead: none takes another that asks for the holder of the lock.
func TestManyAskForTheDead(t *testing.T) {
	url := storetest.Postgres(t)
	first, second := open(t, url), open(t, url)
	var wg sync.WaitGroup
	for range 50 {
		for _, db := range []*store.DB{first, second} {
			wg.Go(func() {
				dead, err := db.DeadOwners(t.Context(), []string{"repl_gone", "repl_gone_too"})
				if err != nil || len(dead) != 2 {
					t.Errorf("dead are %v, %v", dead, err)
				}
			})
		}
	}
	wg.Wait()
}
