package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestFull(t *testing.T) {
	tests := []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("no"), false},
		{&pgconn.PgError{Code: "53100"}, true},
		{&pgconn.PgError{Code: "23505"}, false},
		{fmt.Errorf("x: %w", &os.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC}), true},
	}
	for _, tt := range tests {
		err := full(tt.err)
		var e *FullError
		if errors.As(err, &e) != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("full(%v) = %v", tt.err, err)
		}
		if again := full(err); again != err { //nolint:errorlint // the very same is meant
			t.Errorf("wrapped twice: %v", again)
		}
	}
}
