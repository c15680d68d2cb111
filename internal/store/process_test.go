package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"croft/internal/store"
	"croft/internal/store/storetest"
)

func TestLocked(t *testing.T) {
	url := storetest.SQLite(t)
	holder := start(t, "hold", url)
	pid := holder.cmd.Process.Pid

	_, err := store.Open(t.Context(), store.Options{URL: url})
	var locked *store.LockedError
	if !errors.As(err, &locked) || locked.PID != pid || "sqlite:"+locked.Path != url {
		t.Fatalf("got %v, want it locked by %d", err, pid)
	}
	if !strings.Contains(err.Error(), strconv.Itoa(pid)) {
		t.Errorf("the message does not name the process: %v", err)
	}

	// The lock goes with the process: the next may come before it is even reaped.
	if err := holder.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	db := open(t, url)
	if other := start(t, "hold", url); strings.Join(other.first, " ") != fmt.Sprint("locked ", os.Getpid()) {
		t.Errorf("the other way round it said %v", other.first)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// And with the closing.
	if next := start(t, "hold", url); next.first[0] != "open" {
		t.Errorf("after closing it said %v", next.first)
	}
}

// TestKill kills a process in the middle of its writes: what it was told is there, and
// nothing is there by half.
func TestKill(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		acknowledged := map[string]bool{}
		for round := range 3 {
			p := start(t, "write", url)
			lines := make([]string, 0, 1000)
			for len(lines) < 50+40*round && p.out.Scan() {
				lines = append(lines, p.out.Text())
			}
			lines = append(lines, p.kill()...)
			for _, line := range lines {
				id, found := strings.CutPrefix(line, "acknowledged ")
				if !found {
					t.Fatalf("the child said %q", line)
				}
				acknowledged[id] = true
			}
			db := open(t, url)
			got := map[string]int{}
			for _, id := range ids(t, db) {
				id, _, _ = strings.Cut(id, "/")
				got[id]++
			}
			for id, n := range got {
				if n != 2 {
					t.Errorf("%s is half there", id)
				}
			}
			for id := range acknowledged {
				if got[id] == 0 {
					t.Errorf("%s was acknowledged and is lost", id)
				}
			}
			// The next child starts anew.
			clear(acknowledged)
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(`DELETE FROM workspaces`)
				return err
			})
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestDeadOwners(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		var p *process
		var db *store.DB
		if strings.HasPrefix(url, "sqlite:") {
			p = start(t, "hold", url)
			p.kill()
			db = open(t, url)
		} else {
			db = open(t, url)
			p = start(t, "hold", url)
		}
		other := p.first[1]
		ask := func() []string {
			t.Helper()
			dead, err := db.DeadOwners(t.Context(), []string{other, db.Incarnation(), "repl_never"})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(dead)
			return dead
		}
		want := []string{"repl_never", other}
		slices.Sort(want)
		if db.Kind() == "postgres" {
			for range 3 { // asking takes nothing away from the living
				if d := cmp.Diff([]string{"repl_never"}, ask()); d != "" {
					t.Errorf("while it lives (-want +got):\n%s", d)
				}
			}
			p.kill()
			waitForLock(t, url, other)
		}
		if d := cmp.Diff(want, ask()); d != "" {
			t.Errorf("after its death (-want +got):\n%s", d)
		}
		if dead, err := db.DeadOwners(t.Context(), nil); err != nil || len(dead) != 0 {
			t.Errorf("of nobody: %v, %v", dead, err)
		}
	})
}

// waitForLock waits until PostgreSQL has noticed the end of a process: by its locks alone,
// without the store.
func waitForLock(t *testing.T, url, incarnation string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for {
		var holders int
		// Each store of this test holds one lock for its incarnation.
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&holders); err != nil {
			t.Fatalf("waiting for the end of %s: %v", incarnation, err)
		}
		if holders == 1 {
			return
		}
	}
}

func TestLost(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		select {
		case <-db.Lost():
			t.Fatal("lost from the beginning")
		default:
		}
		if db.Kind() == "sqlite" {
			return // it never is
		}
		admin, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer admin.Close(context.Background())
		tag, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
		if err != nil || tag.RowsAffected() != 1 {
			t.Fatalf("terminated %d: %v", tag.RowsAffected(), err)
		}
		<-db.Lost()
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return insert(tx, "a") }); err == nil {
			t.Error("wrote without the lock")
		}
		if got := ids(t, db); len(got) != 0 {
			t.Errorf("got %v", got)
		}
		// Another sees it as dead.
		dead, err := open(t, url).DeadOwners(t.Context(), []string{db.Incarnation()})
		if err != nil || !slices.Contains(dead, db.Incarnation()) {
			t.Errorf("dead are %v, %v", dead, err)
		}
	})
}

// TestRegistered: a process is on the list of replicas while it runs.
func TestRegistered(t *testing.T) {
	url := storetest.Postgres(t)
	watcher := open(t, url)
	db := open(t, url)
	listed := func() (n int) {
		t.Helper()
		err := watcher.Read(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT count(*) FROM replicas WHERE id = $1`, db.Incarnation()).Scan(&n)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := listed(); n != 1 {
		t.Errorf("listed %d times", n)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if n := listed(); n != 0 {
		t.Errorf("listed %d times after its end", n)
	}
}
