package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"croft"
)

const (
	// groupMost is how many writes share a commit.
	groupMost = 256
	// queueMost is how many writes may wait; more wait for a place in the queue.
	queueMost = 4096
)

// sqliteDB is a SQLite database with its one writer.
type sqliteDB struct {
	path    string
	lock    *os.File
	writer  *sql.DB
	readers chan *sqliteConn
	pool    *sql.DB
	jobs    chan *job
	log     *slog.Logger
	done    chan struct{}

	mu     sync.RWMutex // held for reading while a job is being queued
	closed bool
}

// job is one Write.
type job struct {
	ctx    context.Context
	fn     func(*Tx) error
	tx     *Tx
	err    error
	panics any
	done   chan struct{}
}

// pragmas of every connection. FULL: a commit is on the disk when it returns. The cache is
// 32 MB, the log is folded back into the file each 4,000 pages (16 MB), which keeps the
// pauses short.
const pragmas = "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-32768)" +
	"&_pragma=wal_autocheckpoint(4000)&_pragma=temp_store(MEMORY)&_pragma=foreign_keys(0)"

func openSQLite(ctx context.Context, path string, log *slog.Logger) (*sqliteDB, error) {
	if path == "" {
		return nil, errors.New("the path is missing: sqlite:PATH")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	s := &sqliteDB{path: path, lock: lock, log: log, jobs: make(chan *job, queueMost), done: make(chan struct{}), readers: make(chan *sqliteConn, 64)}
	fail := func(err error) (*sqliteDB, error) {
		if s.writer != nil {
			s.writer.Close()
		}
		lock.Close()
		return nil, full(err)
	}
	if s.writer, err = sql.Open("sqlite", "file:"+path+pragmas); err != nil {
		return fail(err)
	}
	s.writer.SetMaxOpenConns(1)
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return fail(err)
	}
	c := &sqliteConn{conn: conn, stmts: map[string]*sql.Stmt{}}
	if err := migrate(c, begin{begin: "BEGIN IMMEDIATE", commit: "COMMIT", rollback: "ROLLBACK"}); err != nil {
		return fail(err)
	}
	if s.pool, err = sql.Open("sqlite", "file:"+path+pragmas+"&_pragma=query_only(1)"); err != nil {
		return fail(err)
	}
	n := max(4, 2*runtime.GOMAXPROCS(0))
	s.pool.SetMaxOpenConns(n)
	s.pool.SetMaxIdleConns(n)
	for range n {
		s.readers <- nil // opened at first use
	}
	go s.writeAll(c)
	return s, nil
}

func (s *sqliteDB) close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.jobs)
	s.mu.Unlock()
	<-s.done
	err := errors.Join(s.writer.Close(), s.pool.Close())
	s.lock.Close()
	return err
}

func (s *sqliteDB) write(ctx context.Context, fn func(*Tx) error) error {
	j := &job{ctx: ctx, fn: fn, done: make(chan struct{})}
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return errClosed
	}
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		s.mu.RUnlock()
		return ctx.Err()
	}
	s.mu.RUnlock()
	<-j.done
	if j.panics != nil {
		panic(j.panics)
	}
	return j.err
}

// writeAll is the writer: it takes what waits into one transaction, commits, and answers.
func (s *sqliteDB) writeAll(c *sqliteConn) {
	defer close(s.done)
	for first := range s.jobs {
		group := make([]*job, 0, 16)
		ok := s.begin(c, first) && s.attempt(c, first, false)
		if !ok {
			close(first.done)
			continue
		}
		group = append(group, first)
	fill:
		for len(group) < groupMost {
			select {
			case j, open := <-s.jobs:
				if !open {
					break fill
				}
				if s.attempt(c, j, true) {
					group = append(group, j)
				} else {
					close(j.done)
				}
			default:
				break fill
			}
		}
		_, err := c.exec("COMMIT", nil)
		if err != nil {
			c.rollback(s.log)
			err = full(fmt.Errorf("committing: %w", err))
		}
		for _, j := range group {
			if j.err = err; err == nil {
				for _, fn := range j.tx.after {
					fn()
				}
			}
			close(j.done)
		}
	}
}

// begin opens the group's transaction; a failure is its first job's.
func (s *sqliteDB) begin(c *sqliteConn, j *job) bool {
	if _, err := c.exec("BEGIN IMMEDIATE", nil); err != nil {
		j.err = full(fmt.Errorf("beginning a transaction: %w", err))
		return false
	}
	return true
}

// attempt runs one job. A later one has a savepoint of its own; the first has the whole
// transaction, which its failure ends.
func (s *sqliteDB) attempt(c *sqliteConn, j *job, later bool) (ok bool) {
	undo := func() {
		if !later {
			c.rollback(s.log)
			return
		}
		for _, q := range []string{"ROLLBACK TO job", "RELEASE job"} {
			if _, err := c.exec(q, nil); err != nil {
				s.log.Error("undoing a write failed", "err", err)
			}
		}
	}
	if err := j.ctx.Err(); err != nil {
		// Nobody waits for it any more.
		j.err = err
		if !later {
			c.rollback(s.log)
		}
		return false
	}
	if later {
		if _, err := c.exec("SAVEPOINT job", nil); err != nil {
			j.err = full(err)
			return false
		}
	}
	j.tx = &Tx{Now: croft.Now(), ctx: j.ctx, run: c}
	defer func() {
		if p := recover(); p != nil {
			undo()
			j.panics, ok = p, false
		}
	}()
	if err := j.fn(j.tx); err != nil {
		undo()
		j.err = full(err)
		return false
	}
	if later {
		if _, err := c.exec("RELEASE job", nil); err != nil {
			undo()
			j.err = full(err)
			return false
		}
	}
	return true
}

func (s *sqliteDB) read(ctx context.Context, fn func(*Tx) error) error {
	var c *sqliteConn
	select {
	case c = <-s.readers:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.readers <- c }()
	if c == nil {
		conn, err := s.pool.Conn(ctx)
		if err != nil {
			return fmt.Errorf("opening a reading connection: %w", err)
		}
		c = &sqliteConn{conn: conn, stmts: map[string]*sql.Stmt{}}
	}
	if _, err := c.exec("BEGIN", nil); err != nil {
		return fmt.Errorf("beginning to read: %w", err)
	}
	defer c.rollback(s.log)
	return fn(&Tx{Now: croft.Now(), ctx: ctx, run: c})
}

// deadOwners: the file's lock is ours, so that nobody else lives.
func (s *sqliteDB) deadOwners(_ context.Context, owners []string) ([]string, error) {
	return owners, nil
}

// sqliteConn is a connection with its prepared statements.
type sqliteConn struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

// stmtsMost bounds the prepared statements of a connection: queries with lists have many
// texts.
const stmtsMost = 512

func (c *sqliteConn) stmt(query string) (*sql.Stmt, error) {
	if s := c.stmts[query]; s != nil {
		return s, nil
	}
	if len(c.stmts) >= stmtsMost {
		for q, s := range c.stmts {
			s.Close()
			delete(c.stmts, q)
			break
		}
	}
	s, err := c.conn.PrepareContext(context.Background(), query)
	if err == nil {
		c.stmts[query] = s
	}
	return s, err
}

func (c *sqliteConn) exec(query string, args []any) (int64, error) {
	s, err := c.stmt(query)
	if err != nil {
		return 0, err
	}
	// A context that can end would cost a goroutine a statement; what has begun runs to its end.
	r, err := s.ExecContext(context.Background(), plain(args)...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (c *sqliteConn) queryRow(query string, args []any) Row {
	r, err := c.query(query, args)
	return &sqliteRow{r: r, err: err}
}

func (c *sqliteConn) query(query string, args []any) (rows, error) {
	s, err := c.stmt(query)
	if err != nil {
		return nil, err
	}
	//nolint:rowserrcheck,sqlclosecheck // the caller reads, checks and closes them
	r, err := s.QueryContext(context.Background(), plain(args)...)
	if err != nil {
		return nil, err
	}
	return sqliteRows{r}, nil
}

func (c *sqliteConn) rollback(log *slog.Logger) {
	if _, err := c.exec("ROLLBACK", nil); err != nil {
		log.Debug("rolling back", "err", err) // a failed statement may have ended the transaction by itself
	}
}

// plain turns the program's own types into those that the driver knows.
func plain(args []any) []any {
	for i, a := range args {
		if t, ok := a.(croft.Time); ok {
			args[i] = int64(t)
		}
	}
	return args
}

type sqliteRows struct{ *sql.Rows }

func (r sqliteRows) closeRows() { r.Rows.Close() }

type sqliteRow struct {
	r   rows
	err error
}

func (r *sqliteRow) Scan(dest ...any) error {
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
	return r.r.Scan(dest...)
}

// full wraps err in a *FullError when want of room caused it.
func full(err error) error {
	var already *FullError
	if err == nil || errors.As(err, &already) {
		return err
	}
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch {
		case e.Code()&0xff == sqlite3.SQLITE_FULL:
			return &FullError{Cause: err}
		case e.Code() == sqlite3.SQLITE_IOERR_WRITE, e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE, e.Code() == sqlite3.SQLITE_IOERR_FSYNC:
			// A file that may not grow reports an error of writing.
			return &FullError{Cause: err}
		}
	}
	if errors.Is(err, syscall.ENOSPC) {
		return &FullError{Cause: err}
	}
	return err
}

// isUniqueSQLite tells a violated unique constraint.
func isUniqueSQLite(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// lockWait is how long a new process waits for the lock of one that is just dying.
const lockWait = 2 * time.Second
