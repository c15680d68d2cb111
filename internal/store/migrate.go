package store

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"croft"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one numbered step of the schema.
type migration struct {
	version int
	name    string
	text    string
}

// extraMigrations lets a test add steps behind the embedded ones.
var extraMigrations []migration

// migrations returns the steps in order.
func migrations() ([]migration, error) {
	var all []migration
	entries, err := fs.ReadDir(migrationFiles, "migrations")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != len(all)+1 {
			return nil, fmt.Errorf("migration file %s is out of order", e.Name())
		}
		b, err := fs.ReadFile(migrationFiles, "migrations/"+e.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, migration{version: version, name: strings.TrimSuffix(e.Name(), ".sql"), text: string(b)})
	}
	return append(all, extraMigrations...), nil
}

func (m migration) sum() string {
	sum := sha256.Sum256([]byte(m.text))
	return hex.EncodeToString(sum[:])
}

// begin is how a connection opens and ends a transaction.
type begin struct{ begin, commit, rollback string }

// migrate brings the schema up to date: each missing step in a transaction of its own.
func migrate(c runner, b begin) error {
	steps, err := migrations()
	if err != nil {
		return err
	}
	if _, err := c.exec(`CREATE TABLE IF NOT EXISTS migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at BIGINT NOT NULL)`, nil); err != nil {
		return fmt.Errorf("reading the schema's version: %w", err)
	}
	rows, err := c.query(`SELECT version, name, sha256 FROM migrations ORDER BY version`, nil)
	if err != nil {
		return fmt.Errorf("reading the schema's version: %w", err)
	}
	defer rows.closeRows()
	applied := 0
	for rows.Next() {
		var version int
		var name, sum string
		if err := rows.Scan(&version, &name, &sum); err != nil {
			return fmt.Errorf("reading the schema's version: %w", err)
		}
		applied = version
		if version <= len(steps) && steps[version-1].sum() != sum {
			return &MigrationError{Version: version, Name: name, Cause: errors.New("it was changed after it was applied: this database was made by another build")}
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading the schema's version: %w", err)
	}
	rows.closeRows()
	if applied > len(steps) {
		return &FutureError{Database: applied, Program: len(steps)}
	}
	for _, m := range steps[applied:] {
		if err := apply(c, b, m); err != nil {
			return &MigrationError{Version: m.version, Name: m.name, Cause: full(err)}
		}
	}
	return nil
}

// apply runs one step.
func apply(c runner, b begin, m migration) error {
	if _, err := c.exec(b.begin, nil); err != nil {
		return err
	}
	for _, q := range statements(m.text) {
		if _, err := c.exec(q, nil); err != nil {
			c.exec(b.rollback, nil) //nolint:errcheck // the failure may have ended the transaction, and the connection is given up
			return fmt.Errorf("%.60q: %w", q, err)
		}
	}
	if _, err := c.exec(`INSERT INTO migrations (version, name, sha256, applied_at) VALUES ($1, $2, $3, $4)`, []any{m.version, m.name, m.sum(), int64(croft.Now())}); err != nil {
		c.exec(b.rollback, nil) //nolint:errcheck // as above
		return err
	}
	_, err := c.exec(b.commit, nil)
	return err
}

// statements splits a migration at the semicolons that end a line's statement. Comments
// run from -- to the end of their line and may hold semicolons.
func statements(text string) []string {
	var clean strings.Builder
	for line := range strings.Lines(text) {
		code, _, _ := strings.Cut(line, "--")
		clean.WriteString(strings.TrimRight(code, " \t\n"))
		clean.WriteByte('\n')
	}
	var out []string
	for s := range strings.SplitSeq(clean.String(), ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}
