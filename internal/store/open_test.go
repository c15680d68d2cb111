package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"croft/internal/store"
	"croft/internal/store/storetest"
)

const secret = "hunter2-and-more"

func TestRedact(t *testing.T) {
	tests := []struct{ in, want string }{
		{"sqlite:/data/a@b/croft.db", "sqlite:/data/a@b/croft.db"},
		{"postgres://h/croft", "postgres://h/croft"},
		{"postgres://u@h/croft?sslmode=disable", "postgres://u@h/croft?sslmode=disable"},
		{"postgres://u:" + secret + "@h:5432/croft", "postgres://u@h:5432/croft"},
		{"postgresql://u:" + secret + "@h1,h2/croft", "postgresql://u@h1,h2/croft"},
		{"postgres://u:x@" + secret + "@h/croft", "postgres://u@h/croft"},
		{"postgres://u:%zz" + secret + "@h/croft", "…@h/croft"},
		{"postgres://u:" + secret + "/x@h/croft", "…@h/croft"},
		{"postgres://u:1?" + secret + "@h/croft", "…@h/croft"},
		{"postgres://u:1#" + secret + "@h/croft", "…@h/croft"},
		{"postgres://u:" + secret, "postgres://…"},
		{"postgres:///croft?user=u&password=" + secret + "&host=/run", "postgres:///croft?user=u&password=…&host=/run"},
		{"postgres://u:x@h/croft?sslpassword=" + secret, "postgres://u@h/croft?sslpassword=…"},
		{"host=h user=u password=" + secret + " dbname=croft", "host=h user=u password=… dbname=croft"},
		{"host=h password = '" + secret + " x' dbname=croft", "host=h password = … dbname=croft"},
		{"mysql://u:" + secret + "@h/croft", "mysql://u@h/croft"},
		{"", ""},
	}
	for _, tt := range tests {
		if got := store.Redact(tt.in); got != tt.want {
			t.Errorf("Redact(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

// FuzzRedact looks for a password that a well-formed or a carelessly written URL betrays.
func FuzzRedact(f *testing.F) {
	for _, s := range []string{"", "/", "?", "#", "@", ":", "%", "%4", " ", "&", "'", "x@y:1/z", "\x00", "…"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		password := secret + s + secret
		for _, text := range []string{
			(&url.URL{Scheme: "postgres", User: url.UserPassword("u", password), Host: "h", Path: "/db"}).String(),
			"postgres://u:" + password + "@h/db",
			"postgres://h/db?" + url.Values{"password": {password}, "host": {"x"}}.Encode(),
		} {
			if got := store.Redact(text); strings.Contains(got, secret) {
				t.Errorf("Redact(%q) = %q", text, got)
			}
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	noDatabase := filepath.Join(dir, "text.db")
	if err := os.WriteFile(noDatabase, bytes.Repeat([]byte("this is no database. "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	tests := []struct{ name, url, want string }{
		{"nothing", "", "accepted are sqlite:PATH and postgres://"},
		{"another kind", "mysql://u:" + secret + "@h/x", "accepted are sqlite:PATH and postgres://"},
		{"keywords", "host=h password=" + secret, "accepted are sqlite:PATH and postgres://"},
		{"no path", "sqlite:", "the path is missing"},
		{"a folder", "sqlite:" + dir, "is a directory"},
		{"a file as folder", "sqlite:" + noDatabase + "/croft.db", "not a directory"},
		{"no database", "sqlite:" + noDatabase, "not a database"},
		{"kernel's folder", "sqlite:/proc/croft.db", "/proc/croft.db"},
		{"malformed", "postgres://u:" + secret + "@h:port/x", "accepted is postgres://user:password@host"},
		{"wrong option", "postgres://u:" + secret + "@h/x?sslmode=perhaps", "accepted is postgres://user:password@host"},
		{"unreachable", fmt.Sprintf("postgres://u:%s@%s/x?connect_timeout=5", secret, closed.Addr()), "cannot be reached"},
		{"unreachable socket", "postgres://u:" + secret + "@/x?host=" + dir, "cannot be reached"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			db, err := store.Open(t.Context(), store.Options{URL: tt.url, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			if err == nil {
				db.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, want %q in it", err, tt.want)
			}
			if said := err.Error() + fmt.Sprintf("%+v", err) + log.String(); strings.Contains(said, secret) {
				t.Errorf("the password is in %q", said)
			}
		})
	}
}

func TestOpenCancelled(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		db, err := store.Open(ctx, store.Options{URL: url})
		if err == nil {
			db.Close()
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		open(t, url) // nothing stays locked
	})
}

func TestUnwritableFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	asNobody(t, dir, func(t *testing.T) {
		db, err := store.Open(t.Context(), store.Options{URL: "sqlite:" + filepath.Join(dir, "croft.db")})
		if err == nil {
			db.Close()
		}
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v", err)
		}
	})
}

// TestOddPaths opens files whose names mean something in a URL, and says who may read them.
func TestOddPaths(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, path := range []string{"a?b#c%41 d&e.db", "ü@x:y.db", "new/folder/croft.db", filepath.Join(dir, "absolute.db")} {
		db, err := store.Open(t.Context(), store.Options{URL: "sqlite:" + path})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		// The readers open their connections later, wherever the process is then.
		t.Chdir(os.TempDir())
		if got := ids(t, db); len(got) != 0 {
			t.Errorf("%s: %v", path, got)
		}
		t.Chdir(dir)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, info, err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*-wal")); err != nil || len(left) > 0 {
			t.Errorf("after closing, %v is left (%v)", left, err)
		}
	}
}

// TestLockFollowsLinks: two names of one file are one database.
func TestLockFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link.db")
	open(t, "sqlite:"+filepath.Join(dir, "croft.db"))
	if err := os.Symlink(filepath.Join(dir, "croft.db"), link); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Options{URL: "sqlite:" + link})
	if err == nil {
		db.Close()
	}
	var locked *store.LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Errorf("got %v", err)
	}
}
