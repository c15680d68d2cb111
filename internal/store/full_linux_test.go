package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"croft/internal/store"
)

// smallDisk runs the calling test again in a process with a mount namespace of its own, and
// calls fn there with a folder on a file system of size bytes.
func smallDisk(t *testing.T, size int, fn func(dir string)) {
	t.Helper()
	const inside = "CROFT_STORE_TEST_SMALL_DISK"
	if dir := os.Getenv(inside); dir != "" {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			t.Fatal(err)
		}
		fn(dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		message := fmt.Sprintf("no mount namespace: %v; run as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1)", err)
		if os.Getenv("CI") == "true" {
			t.Fatal(message)
		}
		t.Skip(message)
	}
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("the test did not run inside:\n%s", out)
	}
}

// fill takes all the room there is, and returns what gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 1<<16); len(block) > 0; {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// insertBig adds two rows, of which the second needs n bytes.
func insertBig(tx *store.Tx, id string, n int) error {
	if err := insert(tx, id+"/a"); err != nil {
		return err
	}
	_, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ($1, $2, $3)`, id+"/b", strings.Repeat("x", n), tx.Now)
	return err
}

// TestDiskFull fails at the commit, where SQLite writes its log.
func TestDiskFull(t *testing.T) {
	smallDisk(t, 4<<20, func(dir string) {
		db := open(t, "sqlite:"+filepath.Join(dir, "croft.db"))
		want := map[string]bool{}
		written := func(id string, err error) bool {
			var full *store.FullError
			if err != nil && !errors.As(err, &full) {
				t.Errorf("%s: got %v, want a FullError", id, err)
			}
			if err == nil {
				want[id+"/a"], want[id+"/b"] = true, true
			}
			return err == nil
		}
		for round := range 3 {
			free := fill(t, dir)
			failed := 0
			for i := 0; failed < 5; i++ {
				id := fmt.Sprintf("alone-%d-%d", round, i)
				if !written(id, db.Write(t.Context(), func(tx *store.Tx) error { return insertBig(tx, id, 20_000) })) {
					failed++
				}
			}
			check(t, db, want)

			// Many at once fail together, and none is half written.
			release := behind(t, db)
			var wg sync.WaitGroup
			var mu sync.Mutex
			told := map[string]bool{}
			for i := range 20 {
				wg.Go(func() {
					id := fmt.Sprintf("group-%d-%d", round, i)
					err := db.Write(t.Context(), func(tx *store.Tx) error {
						tx.OnCommit(func() {
							mu.Lock()
							defer mu.Unlock()
							told[id] = true
						})
						return insertBig(tx, id, 20_000)
					})
					mu.Lock()
					defer mu.Unlock()
					if written(id, err) != told[id] {
						t.Errorf("%s: %v, but OnCommit ran: %v", id, err, told[id])
					}
				})
			}
			release()
			wg.Wait()
			check(t, db, want)

			free()
			id := fmt.Sprint("again-", round)
			if !written(id, db.Write(t.Context(), func(tx *store.Tx) error { return insertBig(tx, id, 20_000) })) {
				t.Fatal("there is room again, and still it does not write")
			}
			check(t, db, want)
		}
		// What was kept is on the disk.
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		check(t, open(t, "sqlite:"+filepath.Join(dir, "croft.db")), want)
	})
}

// TestDiskFullByOne: the one of a group that wants more room than there is fails alone.
func TestDiskFullByOne(t *testing.T) {
	smallDisk(t, 8<<20, func(dir string) {
		db := open(t, "sqlite:"+filepath.Join(dir, "croft.db"))
		want := map[string]bool{}
		release := behind(t, db)
		var wg sync.WaitGroup
		for i := range 20 {
			id := fmt.Sprint(i)
			size := 10
			if i%10 == 5 {
				size = 10 << 20
			} else {
				want[id+"/a"], want[id+"/b"] = true, true
			}
			wg.Go(func() {
				err := db.Write(t.Context(), func(tx *store.Tx) error { return insertBig(tx, id, size) })
				var full *store.FullError
				if size == 10 && err != nil || size != 10 && !errors.As(err, &full) {
					t.Errorf("%s: got %v", id, err)
				}
			})
		}
		release()
		wg.Wait()
		check(t, db, want)
	})
}

// TestDiskFullInAStatement fails in the middle of a transaction: it outgrows the cache, so
// that SQLite writes before the commit, and gives the whole transaction up. The others of
// the group are kept, and what the function does after the failure is not.
func TestDiskFullInAStatement(t *testing.T) {
	smallDisk(t, 24<<20, func(dir string) {
		db := open(t, "sqlite:"+filepath.Join(dir, "croft.db"))
		// size is in megabytes; the cache has 32.
		huge := func(tx *store.Tx, id string, size int) error {
			for i := range size {
				if err := insertBig(tx, fmt.Sprintf("%s-%d", id, i), 1<<20); err != nil {
					return err
				}
			}
			return nil
		}
		want := map[string]bool{}
		for round := range 2 {
			release := behind(t, db)
			var wg sync.WaitGroup
			for i := range 20 {
				id := fmt.Sprintf("%d-%d", round, i)
				if i%10 != 5 {
					want[id+"/a"], want[id+"/b"] = true, true
				}
				wg.Go(func() {
					err := db.Write(t.Context(), func(tx *store.Tx) error {
						if i%10 != 5 {
							return insertPair(tx, id)
						}
						err := huge(tx, id, 80)
						if err == nil {
							t.Error("the disk is larger than it should be")
						}
						if insert(tx, id+"-after") == nil {
							t.Error("a statement was run outside its transaction")
						}
						var n int
						if tx.QueryRow(`SELECT count(*) FROM workspaces`).Scan(&n) == nil {
							t.Error("a query was run outside its transaction")
						}
						if i == 5 {
							return nil // as if nothing had happened
						}
						return errRefused
					})
					var full *store.FullError
					if i%10 != 5 && err != nil {
						t.Errorf("%s: %v", id, err)
					}
					if i%10 == 5 && !errors.As(err, &full) {
						t.Errorf("%s: got %v, want a FullError", id, err)
					}
				})
			}
			release()
			wg.Wait()
			check(t, db, want)

			// The same for one that is alone.
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				huge(tx, "alone", 80) //nolint:errcheck // that is what is tried
				return nil
			})
			var full *store.FullError
			if !errors.As(err, &full) {
				t.Errorf("alone: got %v, want a FullError", err)
			}
			check(t, db, want)
		}
	})
}

func TestOpenOnFullDisk(t *testing.T) {
	smallDisk(t, 1<<20, func(dir string) {
		free := fill(t, dir)
		url := "sqlite:" + filepath.Join(dir, "croft.db")
		db, err := store.Open(t.Context(), store.Options{URL: url})
		var full *store.FullError
		if !errors.As(err, &full) {
			t.Errorf("got %v, want a FullError", err)
		}
		if err == nil {
			db.Close()
		}
		free()
		open(t, url)
	})
}

// check compares the rows that are there with those that should be.
func check(t *testing.T, db *store.DB, want map[string]bool) {
	t.Helper()
	got := map[string]bool{}
	for _, id := range ids(t, db) {
		got[id] = true
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("rows (-want +got):\n%s", d)
	}
}
