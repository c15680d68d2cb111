package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/store"
	"croft/internal/store/storetest"
)

var errRefused = errors.New("refused")

// behind holds the writer of a SQLite database until its function is called, so that what
// is written meanwhile waits and shares one commit. On PostgreSQL it holds nobody up.
func behind(t *testing.T, db *store.DB) (release func()) {
	t.Helper()
	entered, leave := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	var once sync.Once
	go func() {
		done <- db.Write(context.Background(), func(*store.Tx) error {
			once.Do(func() { close(entered) })
			<-leave
			return nil
		})
	}()
	<-entered
	return func() {
		close(leave)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestGroupKeepsTheOthers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		release := behind(t, db)
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				id := fmt.Sprintf("w%02d", i)
				defer func() {
					if p := recover(); (p != nil) != (i%10 == 7) {
						t.Errorf("%s: panic %v", id, p)
					}
				}()
				err := db.Write(t.Context(), func(tx *store.Tx) error {
					if err := insertPair(tx, id); err != nil {
						return err
					}
					switch i % 10 {
					case 3:
						return fmt.Errorf("%s: %w", id, errRefused)
					case 7:
						panic(id)
					case 9:
						return insert(tx, id+"/a") // violates the primary key
					}
					return nil
				})
				switch i % 10 {
				case 3:
					if !errors.Is(err, errRefused) || err.Error() != id+": refused" {
						t.Errorf("%s: got %v", id, err)
					}
				case 9:
					if !store.IsUnique(err) {
						t.Errorf("%s: got %v, want a violated unique constraint", id, err)
					}
				default:
					if err != nil {
						t.Errorf("%s: %v", id, err)
					}
				}
			})
		}
		release()
		wg.Wait()
		var want []string
		for i := range 40 {
			if i%10 != 3 && i%10 != 7 && i%10 != 9 {
				want = append(want, fmt.Sprintf("w%02d/a", i), fmt.Sprintf("w%02d/b", i))
			}
		}
		got := ids(t, db)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("rows (-want +got):\n%s", d)
		}
	})
}

func TestPanicCarriesItsValue(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		func() {
			defer func() {
				if p := recover(); p != any(errRefused) { //nolint:errorlint // the value itself is carried over
					t.Errorf("recovered %v", p)
				}
			}()
			db.Write(t.Context(), func(tx *store.Tx) error { //nolint:errcheck // it panics
				if err := insert(tx, "a"); err != nil {
					return err
				}
				panic(errRefused)
			})
			t.Error("did not panic")
		}()
		func() {
			defer func() {
				if p := recover(); p != any(errRefused) { //nolint:errorlint // the value itself is carried over
					t.Errorf("recovered %v from OnCommit", p)
				}
			}()
			db.Write(t.Context(), func(tx *store.Tx) error { //nolint:errcheck // it panics
				tx.OnCommit(func() { panic(errRefused) })
				return insert(tx, "b")
			})
			t.Error("did not panic in OnCommit")
		}()
		if d := cmp.Diff([]string{"b"}, ids(t, db)); d != "" {
			t.Errorf("rows (-want +got):\n%s", d)
		}
	})
}

func TestOnCommit(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		other := db
		if db.Kind() == "postgres" {
			other = open(t, url) // what another process sees
		}
		release := behind(t, db)
		var wg sync.WaitGroup
		var order, commits []int64
		var mu sync.Mutex
		for i := range 20 {
			wg.Go(func() {
				var position int64
				err := db.Write(t.Context(), func(tx *store.Tx) error {
					if err := insert(tx, fmt.Sprint(i)); err != nil {
						return err
					}
					if err := tx.QueryRow(`SELECT count(*) FROM workspaces`).Scan(&position); err != nil {
						return err
					}
					if i%4 == 3 {
						tx.OnCommit(func() { t.Error("ran although nothing was committed") })
						return errRefused
					}
					for k := range int64(2) {
						tx.OnCommit(func() {
							mu.Lock()
							defer mu.Unlock()
							order = append(order, position*2+k)
						})
					}
					return nil
				})
				if i%4 == 3 {
					if !errors.Is(err, errRefused) {
						t.Errorf("got %v", err)
					}
					return
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if !slices.Contains(order, position*2+1) {
					t.Error("Write returned before its OnCommit ran")
				}
				commits = append(commits, position)
			})
		}
		release()
		wg.Wait()
		if len(order) != 2*len(commits) {
			t.Fatalf("%d functions ran for %d commits", len(order), len(commits))
		}
		if db.Kind() == "sqlite" && !slices.IsSorted(order) {
			t.Errorf("not in the order of the commits: %v", order)
		}

		// What is committed is visible when OnCommit runs.
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			tx.OnCommit(func() {
				done := make(chan bool)
				go func() { done <- slices.Contains(ids(t, other), "durable") }()
				if !<-done {
					t.Error("OnCommit ran before the commit")
				}
			})
			return insert(tx, "durable")
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestForUpdateLosesNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ('n', '', 0)`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		const clients, each = 12, 20
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				for range each {
					err := db.Write(t.Context(), func(tx *store.Tx) error {
						var n int64
						if err := tx.QueryRow(`SELECT created_at FROM workspaces WHERE id = $1`+tx.ForUpdate(), "n").Scan(&n); err != nil {
							return err
						}
						_, err := tx.Exec(`UPDATE workspaces SET created_at = $1 WHERE id = 'n'`, croft.Time(n+1))
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		var n int64
		err = db.Read(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT created_at FROM workspaces WHERE id = 'n'`).Scan(&n)
		})
		if err != nil || n != clients*each {
			t.Errorf("counted %d (%v), want %d", n, err, clients*each)
		}
	})
}

// TestDeadlockIsTriedAgain takes two rows in opposite orders: one of the two is chosen by
// PostgreSQL to fail, and must run again.
func TestDeadlockIsTriedAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return insertPair(tx, "x") }); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var runs atomic.Int64
		var met sync.WaitGroup // both have their first row
		met.Add(2)
		for _, rows := range [][]string{{"x/a", "x/b"}, {"x/b", "x/a"}} {
			wg.Go(func() {
				err := db.Write(t.Context(), func(tx *store.Tx) error {
					run := runs.Add(1)
					for i, id := range rows {
						if i == 1 && run <= 2 && db.Kind() == "postgres" {
							met.Done()
							met.Wait()
						}
						if _, err := tx.Exec(`UPDATE workspaces SET created_at = created_at + 1 WHERE id = $1`, id); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if db.Kind() == "postgres" && runs.Load() < 3 {
			t.Errorf("%d runs: there was no deadlock", runs.Load())
		}
	})
}

func TestCancelledWhileWaiting(t *testing.T) {
	db := open(t, storetest.SQLite(t))
	release := behind(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		result <- db.Write(ctx, func(tx *store.Tx) error { return insert(tx, "late") })
	}()
	cancel()
	// The writer is still held: the end of the context alone brings the answer.
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	release()
	if got := ids(t, db); len(got) != 0 {
		t.Errorf("written all the same: %v", got)
	}
}

// TestCancelledWhileAllConnectionsWork is the same for PostgreSQL, where a Write waits for
// a connection.
func TestCancelledWhileAllConnectionsWork(t *testing.T) {
	db := open(t, withParameter(t, storetest.Postgres(t), "pool_max_conns", "1"))
	release := behind(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		result <- db.Write(ctx, func(tx *store.Tx) error { return insert(tx, "late") })
	}()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	release()
	if got := ids(t, db); len(got) != 0 {
		t.Errorf("written all the same: %v", got)
	}
}

// TestRunsToItsEnd: a context that ends within a Write does not take it back.
func TestRunsToItsEnd(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		ctx, cancel := context.WithCancel(t.Context())
		err := db.Write(ctx, func(tx *store.Tx) error {
			cancel()
			return insertPair(tx, "x")
		})
		if err != nil {
			t.Error(err)
		}
		if got := ids(t, db); len(got) != 2 {
			t.Errorf("got %v", got)
		}
	})
}

func TestClose(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		var wg sync.WaitGroup
		var kept atomic.Int64
		for i := range 50 {
			wg.Go(func() {
				if db.Write(context.Background(), func(tx *store.Tx) error { return insert(tx, fmt.Sprint(i)) }) == nil {
					kept.Add(1)
				}
			})
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if err := db.Write(t.Context(), func(*store.Tx) error { return nil }); err == nil {
			t.Error("a closed database took a write")
		}
		if err := db.Read(t.Context(), func(*store.Tx) error { return nil }); err == nil {
			t.Error("a closed database was read")
		}
		if got := ids(t, open(t, url)); int64(len(got)) != kept.Load() {
			t.Errorf("%d acknowledged, %d kept", kept.Load(), len(got))
		}
	})
}
