package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"croft/internal/store/storetest"
)

// withMigrations adds steps behind the embedded ones, as a newer program would have them.
func withMigrations(t *testing.T, texts ...string) {
	t.Helper()
	extraMigrations = nil
	steps, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		extraMigrations = append(extraMigrations, migration{version: len(steps) + 1 + i, name: "added", text: text})
	}
	t.Cleanup(func() { extraMigrations = nil })
}

// openAndClose opens a database, runs a statement, and closes it.
func openAndClose(t *testing.T, url, statement string) error {
	t.Helper()
	db, err := Open(t.Context(), Options{URL: url})
	if err != nil {
		return err
	}
	err = db.Write(t.Context(), func(tx *Tx) error {
		if statement == "" {
			return nil
		}
		_, err := tx.Exec(statement)
		return err
	})
	return errors.Join(err, db.Close())
}

const later = `
-- A step; with a comment that ends in a semicolon;
CREATE TABLE later (id TEXT PRIMARY KEY, n BIGINT NOT NULL DEFAULT 7); -- and one behind;
INSERT INTO later (id) SELECT id FROM workspaces;
ALTER TABLE workspaces ADD COLUMN note TEXT NOT NULL DEFAULT 'none';
`

func TestMigrateOldToNew(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		if err := openAndClose(t, url, `INSERT INTO workspaces (id, name, created_at) VALUES ('old', 'kept', 1)`); err != nil {
			t.Fatal(err)
		}
		withMigrations(t, later)
		for range 2 { // the second time there is nothing to do
			if err := openAndClose(t, url, ""); err != nil {
				t.Fatal(err)
			}
		}
		db, err := Open(t.Context(), Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var name, note string
		var n, steps int
		err = db.Read(t.Context(), func(tx *Tx) error {
			if err := tx.QueryRow(`SELECT w.name, w.note, l.n FROM workspaces w JOIN later l ON l.id = w.id WHERE w.id = $1`, "old").Scan(&name, &note, &n); err != nil {
				return err
			}
			return tx.QueryRow(`SELECT count(*) FROM migrations`).Scan(&steps)
		})
		all, listErr := migrations()
		if err := errors.Join(err, listErr); err != nil {
			t.Fatal(err)
		}
		if name != "kept" || note != "none" || n != 7 || steps != len(all) {
			t.Errorf("got %q, %q, %d, %d steps", name, note, n, steps)
		}
	})
}

func TestMigrateRefuses(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		withMigrations(t, later)
		if err := openAndClose(t, url, ""); err != nil {
			t.Fatal(err)
		}
		withMigrations(t)
		embedded, err := migrations()
		if err != nil {
			t.Fatal(err)
		}
		n := len(embedded)
		var future *FutureError
		if err := openAndClose(t, url, ""); !errors.As(err, &future) || future.Database != n+1 || future.Program != n {
			t.Errorf("a newer program's database: got %v", err)
		}
		withMigrations(t, later+"CREATE TABLE more (id TEXT);")
		var changed *MigrationError
		if err := openAndClose(t, url, ""); !errors.As(err, &changed) || changed.Version != n+1 || !strings.Contains(err.Error(), "changed after it was applied") {
			t.Errorf("a changed migration: got %v", err)
		}
		// Nothing of it harmed the database.
		withMigrations(t, later)
		if err := openAndClose(t, url, `INSERT INTO later (id) VALUES ('x')`); err != nil {
			t.Error(err)
		}
	})
}

// TestMigrationFails: a step that fails leaves nothing, and the steps before it stay.
func TestMigrationFails(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		withMigrations(t, "CREATE TABLE one (id TEXT);", "CREATE TABLE two (id TEXT);\nINSERT INTO nowhere VALUES (1);\n")
		version := len(extraMigrations)
		all, err := migrations()
		if err != nil {
			t.Fatal(err)
		}
		var failed *MigrationError
		if err := openAndClose(t, url, ""); !errors.As(err, &failed) || failed.Version != len(all) || version != 2 || !strings.Contains(err.Error(), "nowhere") {
			t.Fatalf("got %v", err)
		}
		withMigrations(t, "CREATE TABLE one (id TEXT);", "CREATE TABLE two (id TEXT);")
		if err := openAndClose(t, url, `INSERT INTO two (id) VALUES ('x')`); err != nil {
			t.Error(err)
		}
	})
}

func TestMigrateAtOnce(t *testing.T) {
	url := storetest.Postgres(t)
	withMigrations(t, later)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			db, err := Open(context.Background(), Options{URL: url})
			if err != nil {
				t.Error(err)
				return
			}
			db.Close()
		})
	}
	wg.Wait()
}

func TestStatements(t *testing.T) {
	tests := []struct {
		text string
		want []string
	}{
		{"", nil},
		{"-- only a comment;\n", nil},
		{"A;\nB", []string{"A", "B"}},
		{"A (\n\tb, -- one; two\n\tc\n);  \n\n;\nB;", []string{"A (\n\tb,\n\tc\n)", "B"}},
		{"A VALUES ('x;y');\nB;\n", []string{"A VALUES ('x;y')", "B"}},
	}
	for _, tt := range tests {
		if d := cmp.Diff(tt.want, statements(tt.text)); d != "" {
			t.Errorf("statements(%q) (-want +got):\n%s", tt.text, d)
		}
	}
}
