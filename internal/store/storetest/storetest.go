// Package storetest gives tests fresh databases of both kinds: SQLite in a temporary
// folder and PostgreSQL on a real server that the test binary starts for itself. Only tests
// import it.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Each runs fn as a subtest for each kind of database, with the URL of a fresh one.
func Each(t *testing.T, fn func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { fn(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { fn(t, Postgres(t)) })
}

// URL returns the URL of a fresh database of a kind: sqlite or postgres.
func URL(t testing.TB, kind string) string {
	t.Helper()
	if kind == "postgres" {
		return Postgres(t)
	}
	return SQLite(t)
}

// SQLite returns the URL of a fresh SQLite database.
func SQLite(t testing.TB) string {
	t.Helper()
	return "sqlite:" + filepath.Join(t.TempDir(), "croft.db")
}

var server struct {
	sync.Mutex
	url  string // of the maintenance database, with %s for the database's name
	err  error
	cmd  *exec.Cmd
	dir  string
	made atomic.Int64
}

// Postgres returns the URL of a fresh PostgreSQL database: on the server that
// CROFT_TEST_POSTGRES names, else on one that is started here and lives as long as the test
// binary. Without PostgreSQL the test is skipped, and fails when CI=true.
func Postgres(t testing.TB) string {
	t.Helper()
	pattern, err := start()
	if err != nil {
		message := fmt.Sprintf("PostgreSQL is missing: %v; install it (apt-get install postgresql) or set CROFT_TEST_POSTGRES to a server's URL", err)
		if os.Getenv("CI") == "true" {
			t.Fatal(message)
		}
		t.Skip(message)
	}
	name := fmt.Sprintf("croft_%d_%d", os.Getpid(), server.made.Add(1))
	ctx := context.Background()
	admin, err := pgx.Connect(ctx, fmt.Sprintf(pattern, "postgres"))
	if err != nil {
		t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer admin.Close(ctx)
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("creating a database: %v", err)
	}
	t.Cleanup(func() {
		admin, err := pgx.Connect(ctx, fmt.Sprintf(pattern, "postgres"))
		if err != nil {
			return // the server is gone, and the database with it
		}
		defer admin.Close(ctx)
		if _, err := admin.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Logf("dropping %s: %v", name, err)
		}
	})
	return fmt.Sprintf(pattern, name)
}

// start starts the server once, and returns its URL with %s for the database.
func start() (string, error) {
	server.Lock()
	defer server.Unlock()
	if server.url != "" || server.err != nil {
		return server.url, server.err
	}
	server.url, server.err = launch()
	return server.url, server.err
}

// sweep removes the folders of servers whose test binary is gone: most end without Stop.
func sweep() {
	owners, _ := filepath.Glob(filepath.Join(os.TempDir(), "croft-pg-*", "owner"))
	for _, name := range owners {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(string(text))
		if err != nil || pid <= 0 {
			continue
		}
		if p, err := os.FindProcess(pid); err != nil || errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone) {
			os.RemoveAll(filepath.Dir(name))
		}
	}
}

func launch() (string, error) {
	if given := os.Getenv("CROFT_TEST_POSTGRES"); given != "" {
		cfg, err := pgx.ParseConfig(given)
		if err != nil {
			return "", err
		}
		return strings.Replace(strings.ReplaceAll(given, "%", "%%"), "/"+cfg.Database, "/%s", 1), nil
	}
	bin := ""
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); len(found) > 0 {
		bin = filepath.Dir(found[len(found)-1])
	} else if path, err := exec.LookPath("postgres"); err == nil {
		bin = filepath.Dir(path)
	} else {
		return "", err
	}
	sweep()
	dir, err := os.MkdirTemp("", "croft-pg-")
	if err != nil {
		return "", err
	}
	server.dir = dir
	if err := os.WriteFile(filepath.Join(dir, "owner"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return "", err
	}
	attr := &syscall.SysProcAttr{}
	// The server must end with the test binary, however that ends.
	pdeathsig(attr)
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return "", err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return "", err
		}
		credential(attr, uid, gid)
	}
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, attr
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + dir}
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8").CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	logFile, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return "", err
	}
	cmd := run("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "max_connections=300")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	started := make(chan error, 1)
	go startPinned(cmd, started)
	if err := <-started; err != nil {
		return "", err
	}
	server.cmd = cmd
	pattern := "postgres://postgres@/%s?host=" + dir
	for until := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := pgx.Connect(context.Background(), fmt.Sprintf(pattern, "postgres"))
		if err == nil {
			return pattern, conn.Close(context.Background())
		}
		if time.Now().After(until) {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			return "", fmt.Errorf("the server did not start: %w: %s", err, text)
		}
	}
}

// Stop ends the server that Postgres started. A test binary that cares for its temporary
// folder calls it at the end of TestMain; without it the server ends with the process.
func Stop() {
	server.Lock()
	defer server.Unlock()
	if server.cmd != nil {
		server.cmd.Process.Signal(syscall.SIGQUIT) //nolint:errcheck // it is ending anyway
		server.cmd = nil
	}
	if server.dir != "" {
		os.RemoveAll(server.dir)
	}
}
