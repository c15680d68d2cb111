package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"croft/internal/store"
	"croft/internal/store/storetest"
)

// The test binary is its own child: with childRole set it opens the database and does what
// the role says, so that tests can kill a real process.
const (
	childRole = "CROFT_STORE_TEST_ROLE"
	childURL  = "CROFT_STORE_TEST_URL"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		if err := child(role, os.Getenv(childURL)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	storetest.Stop()
	os.Exit(code)
}

// child opens the database, says so with its incarnation, and plays its role until its
// standard input ends or it is killed.
func child(role, url string) error {
	ctx := context.Background()
	db, err := store.Open(ctx, store.Options{URL: url})
	var locked *store.LockedError
	if errors.As(err, &locked) {
		fmt.Println("locked", locked.PID)
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Println("open", db.Incarnation())
	switch role {
	case "hold":
		_, err = io.Copy(io.Discard, os.Stdin)
		return errors.Join(err, db.Close())
	case "write":
		failed := make(chan error)
		for w := range 8 {
			go func() {
				for i := 0; ; i++ {
					id := fmt.Sprintf("%d-%d", w, i)
					if err := db.Write(ctx, func(tx *store.Tx) error { return insertPair(tx, id) }); err != nil {
						failed <- err
						return
					}
					fmt.Println("acknowledged", id) // one write(2): a kill does not cut it
				}
			}()
		}
		return <-failed
	}
	return fmt.Errorf("unknown role %q", role)
}

// process is a child that runs.
type process struct {
	cmd   *exec.Cmd
	in    io.Closer
	out   *bufio.Scanner
	first []string // the words of its first line
}

// start starts a child and waits for its first line.
func start(t *testing.T, role, url string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childRole+"="+role, childURL+"="+url)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() { p.kill() })
	if !p.out.Scan() {
		t.Fatal("the child said nothing")
	}
	p.first = strings.Fields(p.out.Text())
	return p
}

// kill ends the child as kill -9 does, and returns what it had still to say.
func (p *process) kill() []string {
	if p.cmd.ProcessState != nil {
		return nil
	}
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended by itself
	var lines []string
	for p.out.Scan() {
		lines = append(lines, p.out.Text())
	}
	p.cmd.Wait() //nolint:errcheck // it was killed
	return lines
}

// open opens a database for the length of the test.
func open(t testing.TB, url string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), store.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return db
}

// withParameter sets a parameter of a PostgreSQL URL.
func withParameter(t testing.TB, text, key, value string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// insert adds a workspace, the simplest row of the schema.
func insert(tx *store.Tx, id string) error {
	_, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ($1, $2, $3)`, id, "name of "+id, tx.Now)
	return err
}

// insertPair adds two rows that belong together.
func insertPair(tx *store.Tx, id string) error {
	if err := insert(tx, id+"/a"); err != nil {
		return err
	}
	return insert(tx, id+"/b")
}

// ids returns the workspaces' ids in order.
func ids(t testing.TB, db *store.DB) []string {
	t.Helper()
	var all []string
	err := db.Read(t.Context(), func(tx *store.Tx) error {
		all = nil
		rows, err := tx.Query(`SELECT id FROM workspaces`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			all = append(all, id)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
