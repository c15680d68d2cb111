package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/store"
	"croft/internal/store/storetest"
)

func TestReadSeesOneState(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		count := func(tx *store.Tx) (n int) {
			if err := tx.QueryRow(`SELECT count(*) FROM workspaces`).Scan(&n); err != nil {
				t.Error(err)
			}
			return n
		}
		err := db.Read(t.Context(), func(tx *store.Tx) error {
			before := count(tx)
			wrote := make(chan error)
			go func() {
				wrote <- db.Write(t.Context(), func(tx *store.Tx) error { return insert(tx, "a") })
			}()
			if err := <-wrote; err != nil {
				return err
			}
			if after := count(tx); after != before {
				t.Errorf("the state changed within a read: %d, then %d", before, after)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := ids(t, db); len(got) != 1 {
			t.Errorf("a later read saw %v", got)
		}
	})
}

func TestReadRefusesWrites(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		for range 10 { // each of the reading connections
			if err := db.Read(t.Context(), func(tx *store.Tx) error { return insert(tx, "a") }); err == nil {
				t.Error("a read wrote")
			}
		}
		if got := ids(t, db); len(got) != 0 {
			t.Errorf("a read left %v", got)
		}
	})
}

// TestReadAfterTrouble: neither a panic nor rows left open harm the next read or write.
func TestReadAfterTrouble(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return insertPair(tx, "x") }); err != nil {
			t.Fatal(err)
		}
		leave := func(tx *store.Tx) error {
			rows, err := tx.Query(`SELECT id FROM workspaces`)
			if err != nil {
				return err
			}
			rows.Next()
			panic("in the middle of rows")
		}
		for range 20 {
			for _, do := range []func() error{
				func() error { return db.Read(t.Context(), leave) },
				func() error { return db.Write(t.Context(), leave) },
			} {
				func() {
					defer func() {
						if recover() == nil {
							t.Error("did not panic")
						}
					}()
					do() //nolint:errcheck // it panics
				}()
			}
		}
		if got := ids(t, db); len(got) != 2 {
			t.Errorf("got %v", got)
		}
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return insertPair(tx, "y") }); err != nil {
			t.Fatal(err)
		}
	})
}

func TestValues(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		type event struct {
			Seq     int64
			At      croft.Time
			Payload string
			Raw     *string
		}
		raw := "{\"a\":\"é\U0001F600\"}"
		want := []event{
			{Seq: 1, At: 1_700_000_000_123_456, Payload: "", Raw: nil},
			{Seq: 1 << 62, At: -1, Payload: strings.Repeat("x", 1<<20), Raw: &raw},
		}
		args := []any{"s", int64(0), "", "t", "th", croft.Time(0), "", (*string)(nil)}
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			for i, e := range want {
				args[1], args[2], args[5], args[6], args[7] = e.Seq, fmt.Sprint("e", i), e.At, e.Payload, e.Raw
				n, err := tx.Exec(`INSERT INTO events (session_id, seq, id, type, thread_id, processed_at, payload, raw) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, args...)
				if err != nil || n != 1 {
					return fmt.Errorf("inserted %d: %w", n, err)
				}
				if args[5] != any(e.At) {
					t.Errorf("the caller's arguments were changed: %T", args[5])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []event
		err = db.Read(t.Context(), func(tx *store.Tx) error {
			rows, err := tx.Query(`SELECT seq, processed_at, payload, raw FROM events WHERE session_id = $1 ORDER BY seq`, "s")
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var e event
				if err := rows.Scan(&e.Seq, &e.At, &e.Payload, &e.Raw); err != nil {
					return err
				}
				got = append(got, e)
			}
			rows.Close()
			return rows.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		var text string
		err = db.Read(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT raw FROM events WHERE seq = 1`).Scan(&text)
		})
		if err == nil {
			t.Error("NULL was read into a string")
		}
	})
}

func TestNoRows(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		var id string
		find := func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT id FROM workspaces WHERE id = $1`+tx.ForUpdate(), "nobody").Scan(&id)
		}
		if err := db.Read(t.Context(), find); !errors.Is(err, store.ErrNoRows) {
			t.Errorf("Read: %v", err)
		}
		if err := db.Write(t.Context(), find); !errors.Is(err, store.ErrNoRows) {
			t.Errorf("Write: %v", err)
		}
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`UPDATE workspaces SET name = '' WHERE id = $1 RETURNING id`, "nobody").Scan(&id)
		})
		if !errors.Is(err, store.ErrNoRows) {
			t.Errorf("RETURNING: %v", err)
		}
	})
}

// TestSkipLocked: on PostgreSQL two claims at once get two rows; on SQLite there is never
// more than one at once.
func TestSkipLocked(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return insertPair(tx, "x") }); err != nil {
			t.Fatal(err)
		}
		claim := func(tx *store.Tx) (id string, err error) {
			err = tx.QueryRow(`SELECT id FROM workspaces WHERE archived_at = 0 ORDER BY id LIMIT 1` + tx.SkipLocked()).Scan(&id)
			if err == nil {
				_, err = tx.Exec(`UPDATE workspaces SET archived_at = 1 WHERE id = $1`, id)
			}
			return id, err
		}
		var first, second string
		err := db.Write(t.Context(), func(tx *store.Tx) (err error) {
			if first, err = claim(tx); err != nil || db.Kind() == "sqlite" {
				return err
			}
			inner := make(chan error)
			go func() {
				inner <- db.Write(t.Context(), func(tx *store.Tx) (err error) {
					second, err = claim(tx)
					return err
				})
			}()
			return <-inner
		})
		if err != nil {
			t.Fatal(err)
		}
		if db.Kind() == "sqlite" {
			err = db.Write(t.Context(), func(tx *store.Tx) (err error) {
				second, err = claim(tx)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if first != "x/a" || second != "x/b" {
			t.Errorf("claimed %q and %q", first, second)
		}
	})
}

// TestManyTexts uses more different queries than a connection keeps prepared.
func TestManyTexts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		for range 2 {
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				for i := range 700 {
					var n int
					if err := tx.QueryRow(fmt.Sprintf(`SELECT %d`, i)).Scan(&n); err != nil || n != i {
						return fmt.Errorf("%d: %w", n, err)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestFirstStatement: whatever the first statement of a transaction is, what follows is in
// the same transaction, and nothing of it stays when the first one failed.
func TestFirstStatement(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return insert(tx, "there") }); err != nil {
			t.Fatal(err)
		}
		var id string
		firsts := map[string]func(tx *store.Tx) error{
			"violation":    func(tx *store.Tx) error { return insert(tx, "there") },
			"syntax":       func(tx *store.Tx) error { _, err := tx.Exec(`INSERT INTO nowhere VALUES (1)`); return err },
			"query":        func(tx *store.Tx) error { _, err := tx.Query(`SELECT nothing FROM nowhere`); return err },
			"row":          func(tx *store.Tx) error { return tx.QueryRow(`SELECT nothing FROM nowhere`).Scan(&id) },
			"fine":         func(tx *store.Tx) error { return insert(tx, "first") },
			"fine row":     func(tx *store.Tx) error { return tx.QueryRow(`SELECT id FROM workspaces`).Scan(&id) },
			"no row":       func(tx *store.Tx) error { return tx.QueryRow(`SELECT id FROM workspaces WHERE id = ''`).Scan(&id) },
			"wrong target": func(tx *store.Tx) error { var n int; return tx.QueryRow(`SELECT id FROM workspaces`).Scan(&n) },
		}
		for name, first := range firsts {
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				err := first(tx)
				if good := strings.HasPrefix(name, "fine"); good != (err == nil) {
					t.Errorf("%s: got %v", name, err)
				}
				insert(tx, "second") //nolint:errcheck // on PostgreSQL it may be refused
				return errRefused
			})
			if !errors.Is(err, errRefused) {
				t.Errorf("%s: got %v", name, err)
			}
			if d := cmp.Diff([]string{"there"}, ids(t, db)); d != "" {
				t.Errorf("%s: rows (-want +got):\n%s", name, d)
			}
		}
		if db.Kind() == "sqlite" {
			return
		}
		// PostgreSQL gives a transaction up with its first failure: a function that goes on all
		// the same is told.
		for _, name := range []string{"violation", "syntax", "query", "row"} {
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				firsts[name](tx)     //nolint:errcheck // that is what is tried
				insert(tx, "second") //nolint:errcheck // it is refused
				return nil
			})
			if err == nil {
				t.Errorf("%s: a failed transaction was called committed", name)
			}
			if d := cmp.Diff([]string{"there"}, ids(t, db)); d != "" {
				t.Errorf("%s: rows (-want +got):\n%s", name, d)
			}
		}
	})
}
