// Package store is the database: it opens, migrates and writes SQLite (the default, pure
// Go) and PostgreSQL with one hand-written SQL text ($1 placeholders, RETURNING, ON
// CONFLICT, ids and times made by the program). It imports the language alone; every room
// that keeps something goes through it.
//
// Write is the one way to write. On SQLite one goroutine owns the writing connection: it
// takes up to 256 waiting functions into one transaction, a savepoint each, commits once,
// and answers after the commit; readers have connections of their own. A lone writer waits
// for nobody. On PostgreSQL a Write is a transaction.
//
// Each process has an incarnation, the name under which it owns sessions. On SQLite the
// lock on the database's file tells that every other incarnation is dead; on PostgreSQL
// each process holds an advisory lock of its own, and one that can be taken belongs to the
// dead.
package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"croft"
)

// Options say which database to open.
type Options struct {
	// URL is sqlite:PATH or postgres://…
	URL string
	Log *slog.Logger
}

// backend is what the two databases do in their own way.
type backend interface {
	write(ctx context.Context, fn func(*Tx) error) error
	read(ctx context.Context, fn func(*Tx) error) error
	deadOwners(ctx context.Context, self string, owners []string) ([]string, error)
	close() error
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	backend
	kind        string
	incarnation string
	lost        chan struct{}
}

// Open opens the database, brings its schema up to date, and registers this process. Its
// errors are *LockedError, *FutureError, *MigrationError, *FullError, or say in words what
// could not be reached; none holds a password.
func Open(ctx context.Context, o Options) (*DB, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	db := &DB{incarnation: croft.NewID("repl"), lost: make(chan struct{})}
	var err error
	switch {
	case strings.HasPrefix(o.URL, "sqlite:"):
		db.kind = "sqlite"
		db.backend, err = openSQLite(ctx, strings.TrimPrefix(o.URL, "sqlite:"), o.Log)
	case strings.HasPrefix(o.URL, "postgres://"), strings.HasPrefix(o.URL, "postgresql://"):
		db.kind = "postgres"
		db.backend, err = openPostgres(ctx, o.URL, db, o.Log)
	default:
		return nil, fmt.Errorf("database URL %q: accepted are sqlite:PATH and postgres://…", Redact(o.URL))
	}
	if err != nil {
		return nil, fmt.Errorf("opening the database %s: %w", Redact(o.URL), err)
	}
	return db, nil
}

// Close waits for the reads and writes under way and closes the database. Later ones fail.
func (db *DB) Close() error { return db.close() }

// Kind is sqlite or postgres.
func (db *DB) Kind() string { return db.kind }

// Incarnation is the name under which this process owns sessions. It is new in each process.
func (db *DB) Incarnation() string { return db.incarnation }

// Lost is closed when this process may no longer act as its incarnation, because the
// connection that holds its advisory lock broke. On SQLite it never is.
func (db *DB) Lost() <-chan struct{} { return db.lost }

// DeadOwners returns those of the given incarnations that are surely gone. This process is
// never one of them.
func (db *DB) DeadOwners(ctx context.Context, owners []string) ([]string, error) {
	return db.deadOwners(ctx, db.incarnation, owners)
}

// Write runs fn in a transaction and returns once its commit is durable. When fn fails, or
// panics, nothing of it is kept and Write returns its error, or panics. fn may run more
// than once: it must change nothing but the database and variables that it sets anew, and it
// must not call Write or Read, which would wait for itself. While the write waits for its
// turn, the end of ctx takes it back; once begun, it runs to its end. A *FullError says that
// nothing was kept for want of room. After an error of a broken connection to PostgreSQL
// the transaction may have been committed.
func (db *DB) Write(ctx context.Context, fn func(*Tx) error) error {
	if tx, ok := ctx.Value(joinKey{db}).(*Tx); ok {
		return fn(tx)
	}
	return db.write(ctx, fn)
}

// Read runs fn in a read-only transaction: from its first query on it sees one state of the
// database. Statements that write fail.
func (db *DB) Read(ctx context.Context, fn func(*Tx) error) error {
	if tx, ok := ctx.Value(joinKey{db}).(*Tx); ok {
		return fn(tx)
	}
	return db.read(ctx, fn)
}

// joinKey is a context's key for the transaction that Write and Read join.
type joinKey struct{ db *DB }

// Joined returns a context with which db's Write and Read run inside tx instead of a
// transaction of their own, so that the work of several rooms commits together or not at
// all. It is for the goroutine that runs tx alone; an error that a joined Write returned
// must be returned from tx's function as well.
func (db *DB) Joined(ctx context.Context, tx *Tx) context.Context {
	return context.WithValue(ctx, joinKey{db}, tx)
}

// Row is the answer to QueryRow.
type Row interface {
	// Scan reads the row's columns; ErrNoRows when there is none.
	Scan(dest ...any) error
}

// rows is what the drivers' rows have in common.
type rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	closeRows()
}

// Rows is the answer to Query. It must be closed before the transaction's next statement:
// PostgreSQL has one answer under way at a time.
type Rows struct{ rows }

// Close ends the reading. It may be called more than once.
func (r *Rows) Close() { r.closeRows() }

// firstRow is the Row of a query of which the first row is wanted.
type firstRow struct {
	r   rows
	err error
}

func (r *firstRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.r.closeRows()
	if !r.r.Next() {
		if err := r.r.Err(); err != nil {
			return err
		}
		return ErrNoRows
	}
	if err := r.r.Scan(dest...); err != nil {
		return err
	}
	r.r.closeRows()
	return r.r.Err()
}

// runner is a transaction of a driver.
type runner interface {
	exec(query string, args []any) (int64, error)
	queryRow(query string, args []any) Row
	query(query string, args []any) (rows, error)
}

// Tx is a transaction. It ends with the function it was given to.
type Tx struct {
	// Now is the one moment of the whole transaction.
	Now   croft.Time
	ctx   context.Context
	run   runner
	lock  string
	after []func()
}

// Context is the context of the Write or Read.
func (tx *Tx) Context() context.Context { return tx.ctx }

// Exec runs a statement and returns how many rows it changed.
func (tx *Tx) Exec(query string, args ...any) (int64, error) { return tx.run.exec(query, args) }

// QueryRow runs a query of which one row is wanted.
func (tx *Tx) QueryRow(query string, args ...any) Row { return tx.run.queryRow(query, args) }

// Query runs a query.
func (tx *Tx) Query(query string, args ...any) (*Rows, error) {
	r, err := tx.run.query(query, args)
	if err != nil {
		return nil, err
	}
	return &Rows{r}, nil
}

// OnCommit has fn run once the commit is durable, before Write returns, and in the order of
// the commits: of two Writes of this process that lock the same row, the first one's runs
// first. fn must be quick and must not use the store.
func (tx *Tx) OnCommit(fn func()) { tx.after = append(tx.after, fn) }

// ForUpdate is the suffix of a SELECT that locks its rows until the transaction ends.
func (tx *Tx) ForUpdate() string { return tx.lock }

// SkipLocked is the suffix of a SELECT that locks its rows and passes over locked ones.
func (tx *Tx) SkipLocked() string {
	if tx.lock == "" {
		return ""
	}
	return tx.lock + " SKIP LOCKED"
}
