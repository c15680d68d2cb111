package store

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrNoRows is what Scan returns when a query had no row.
var ErrNoRows = errors.New("store: no row")

// LockedError says that another process uses the database's file.
type LockedError struct {
	Path string
	PID  int // 0 when it is not known
}

// Error names the file and the process.
func (e *LockedError) Error() string {
	who := "another process"
	if e.PID > 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("%s is in use by %s: stop it, or use another data folder (--data)", e.Path, who)
}

// FutureError says that a newer program wrote the database.
type FutureError struct{ Database, Program int }

// Error names both versions and what to do.
func (e *FutureError) Error() string {
	return fmt.Sprintf("its schema is version %d and this program knows version %d: use the newer program that wrote it, or another data folder", e.Database, e.Program)
}

// MigrationError says that a migration failed or was changed after it was applied.
type MigrationError struct {
	Version int
	Name    string
	Cause   error
}

// Error names the migration.
func (e *MigrationError) Error() string {
	return fmt.Sprintf("migration %d (%s): %v", e.Version, e.Name, e.Cause)
}

// Unwrap returns the cause.
func (e *MigrationError) Unwrap() error { return e.Cause }

// FullError says that the disk, or the database's own limit, has no room left. What was
// being written was not written at all.
type FullError struct{ Cause error }

// Error says that there is no room.
func (e *FullError) Error() string { return fmt.Sprintf("the database's disk is full: %v", e.Cause) }

// Unwrap returns the cause.
func (e *FullError) Unwrap() error { return e.Cause }

// errClosed is the error of a database that was closed.
var errClosed = errors.New("store: the database is closed")

// full wraps err in a *FullError when want of room caused it.
func full(err error) error {
	var already *FullError
	if err == nil || errors.As(err, &already) {
		return err
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		switch {
		case lite.Code()&0xff == sqlite3.SQLITE_FULL:
			return &FullError{Cause: err}
		case lite.Code() == sqlite3.SQLITE_IOERR_WRITE, lite.Code() == sqlite3.SQLITE_IOERR_SHMSIZE:
			// A file that may not grow, because of a quota or a limit, reports an error of writing.
			return &FullError{Cause: err}
		}
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "53100" {
		return &FullError{Cause: err}
	}
	if errors.Is(err, syscall.ENOSPC) {
		return &FullError{Cause: err}
	}
	return err
}

// IsUnique tells whether err is a violated unique constraint.
func IsUnique(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "23505"
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		switch lite.Code() {
		case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID:
			return true
		}
	}
	return false
}

// passwords are the parameters of a connection that are secret.
var passwords = regexp.MustCompile(`(?i)\b((?:ssl)?password\s*=\s*)('[^']*'|[^&\s]*)`)

// Redact returns a database URL fit for messages: its password is left out, and so is
// whatever stands where a password could, in a URL that cannot be read.
func Redact(text string) string {
	if strings.HasPrefix(text, "sqlite:") {
		return text
	}
	u, err := url.Parse(text)
	readable := err == nil && u.User != nil
	if readable {
		u.User = url.User(u.User.Username())
		text = u.String()
	}
	if at := strings.LastIndex(text, "@"); at >= 0 && (!readable || strings.Count(text, "@") > 1) {
		text = "…" + text[at:]
	} else if scheme, _, found := strings.Cut(text, "://"); at < 0 && err != nil && found {
		text = scheme + "://…"
	}
	return passwords.ReplaceAllString(text, "${1}…")
}
