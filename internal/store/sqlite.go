package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"

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
	lock    *os.File
	writer  *sql.DB
	pool    *sql.DB
	readers chan *sqliteConn // nil for one that is not open yet
	jobs    chan *job
	log     *slog.Logger
	closing chan struct{} // closed when the closing begins
	written chan struct{} // closed when the writer has ended
	closed  chan struct{} // closed when the database is
	mu      sync.RWMutex  // held for reading while a job is being queued
}

// job is one Write.
type job struct {
	ctx    context.Context
	fn     func(*Tx) error
	taken  atomic.Bool // by the writer, or by its caller who gave up
	alone  bool        // it shares no commit: the one it shared had no room
	tx     *Tx
	err    error
	panics any
	done   chan struct{}
}

// pragmas of every connection. FULL: a commit is on the disk when it returns. The cache is
// 32 MB, the log is folded back into the file each 4,000 pages (16 MB), which keeps the
// pauses short.
const pragmas = "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-32768)" +
	"&_pragma=wal_autocheckpoint(4000)&_pragma=temp_store(MEMORY)&_pragma=foreign_keys(1)"

// lockWait is how long a new process waits for the lock of one that is just dying.
const lockWait = 2 * time.Second

func openSQLite(ctx context.Context, path string, log *slog.Logger) (_ *sqliteDB, err error) {
	if path == "" {
		return nil, errors.New("the path is missing: sqlite:PATH")
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, full(err)
	}
	// Two names of one file must find the same lock.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	s := &sqliteDB{
		log: log, jobs: make(chan *job, queueMost), readers: make(chan *sqliteConn, max(4, 2*runtime.GOMAXPROCS(0))),
		closing: make(chan struct{}), written: make(chan struct{}), closed: make(chan struct{}),
	}
	if s.lock, err = lockFile(path + ".lock"); err != nil {
		return nil, full(err)
	}
	defer func() {
		if err != nil {
			err = full(err)
			if s.writer != nil {
				err = errors.Join(err, s.writer.Close())
			}
			s.lock.Close()
		}
	}()
	// SQLite would make the file readable for everyone; its log takes over the file's mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	// fdatasync(2) is what the system's own SQLite uses: all but the file's timestamps is on
	// the disk. Where there is none, it stays fsync.
	if _, err := sqlite.Fdatasync(true); err != nil && !errors.Is(err, sqlite.ErrFdatasyncUnavailable) {
		return nil, err
	}
	name := fileURI(path) + pragmas
	if s.writer, err = sql.Open("sqlite", name); err != nil {
		return nil, err
	}
	c, err := openConn(ctx, s.writer)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close(log)
		}
	}()
	if err := c.watch(); err != nil {
		return nil, err
	}
	if err := migrate(c, begin{begin: "BEGIN IMMEDIATE", commit: "COMMIT", rollback: "ROLLBACK"}); err != nil {
		return nil, err
	}
	if s.pool, err = sql.Open("sqlite", name+"&_pragma=query_only(1)"); err != nil {
		return nil, err
	}
	for range cap(s.readers) {
		s.readers <- nil // opened at first use
	}
	go s.writeAll(c)
	return s, nil
}

// fileURI names a file for SQLite whatever characters its path has.
func fileURI(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath()
}

func (s *sqliteDB) close() error {
	s.mu.Lock()
	if s.isClosing() {
		s.mu.Unlock()
		<-s.closed
		return nil
	}
	close(s.closing)
	close(s.jobs)
	s.mu.Unlock()
	<-s.written
	// The readers under way bring their connections back.
	for range cap(s.readers) {
		if c := <-s.readers; c != nil {
			c.close(s.log)
		}
	}
	defer close(s.closed)
	// The last connection to close folds the log back into the file: that is the writer's.
	return errors.Join(s.pool.Close(), s.writer.Close(), s.lock.Close())
}

func (s *sqliteDB) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

func (s *sqliteDB) write(ctx context.Context, fn func(*Tx) error) error {
	j := &job{ctx: ctx, fn: fn, done: make(chan struct{})}
	s.mu.RLock()
	if s.isClosing() {
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
	select {
	case <-j.done:
	case <-ctx.Done():
		if j.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-j.done
	}
	if j.panics != nil {
		panic(j.panics)
	}
	return j.err
}

// writeAll is the writer: it takes what waits into one transaction, commits, and answers.
func (s *sqliteDB) writeAll(c *sqliteConn) {
	defer close(s.written)
	defer c.close(s.log)
	// Those whose transaction failed by no fault of theirs run again before others.
	var again []*job
	for {
		first, ok := s.next(&again, true)
		if !ok {
			return
		}
		undone := s.group(c, first, &again)
		again = append(undone, again...)
		c.trim()
	}
}

// next returns a job that nobody has taken yet: one that runs again, else a queued one.
// When none is there it waits, or returns false; it returns false too when the queue ended.
func (s *sqliteDB) next(again *[]*job, wait bool) (*job, bool) {
	if a := *again; len(a) > 0 {
		*again = a[1:]
		return a[0], true
	}
	for {
		var j *job
		var ok bool
		if wait {
			j, ok = <-s.jobs
		} else {
			select {
			case j, ok = <-s.jobs:
			default:
			}
		}
		if !ok {
			return nil, false
		}
		if j.taken.CompareAndSwap(false, true) {
			return j, true
		}
	}
}

// group runs first, and what else waits, in one transaction, and answers them. It returns
// those that must run again: SQLite gave the whole transaction up over another's statement,
// as it does when the disk is full, or the commit had no room.
func (s *sqliteDB) group(c *sqliteConn, first *job, again *[]*job) []*job {
	c.rolledBack, c.cause = false, nil
	if _, err := c.run("BEGIN IMMEDIATE", nil); err != nil {
		first.end(full(fmt.Errorf("beginning a transaction: %w", err)))
		return nil
	}
	if !s.attempt(c, first, false) {
		return nil
	}
	group := append(make([]*job, 0, 16), first)
	for len(group) < groupMost && !first.alone && (len(*again) == 0 || !(*again)[0].alone) {
		j, ok := s.next(again, false)
		if !ok {
			break
		}
		if s.attempt(c, j, true) {
			group = append(group, j)
		} else if c.rolledBack {
			return group
		}
	}
	if _, err := c.run("COMMIT", nil); err != nil {
		c.rollback(s.log)
		err = full(fmt.Errorf("committing: %w", err))
		var noRoom *FullError
		if len(group) > 1 && errors.As(err, &noRoom) {
			// One may have wanted all the room that there was: each gets its own answer.
			for _, j := range group {
				j.alone = true
			}
			return group
		}
		for _, j := range group {
			j.end(err)
		}
		return nil
	}
	for _, j := range group {
		j.committed(s.log)
	}
	return nil
}

// end answers a job.
func (j *job) end(err error) {
	j.err = err
	close(j.done)
}

// committed runs what was to be run on the commit and answers the job.
func (j *job) committed(log *slog.Logger) {
	defer func() {
		if j.panics = recover(); j.panics != nil {
			log.Error("a function of OnCommit panicked", "panic", j.panics, "stack", string(debug.Stack()))
		}
		j.end(nil)
	}()
	for _, fn := range j.tx.after {
		fn()
	}
}

// attempt runs one job, and answers it when it fails. A later one has a savepoint of its
// own; the first has the whole transaction, which its failure ends.
func (s *sqliteDB) attempt(c *sqliteConn, j *job, later bool) bool {
	err := j.ctx.Err() // when it has ended, nobody waits for the write any more
	if err == nil {
		err = s.run(c, j, later)
	}
	if err == nil && j.panics == nil {
		return true
	}
	if !later && !c.rolledBack {
		c.rollback(s.log)
	}
	j.end(full(err))
	return false
}

// run runs one job's function, in a savepoint when it is a later one's.
func (s *sqliteDB) run(c *sqliteConn, j *job, later bool) error {
	if later {
		if _, err := c.run("SAVEPOINT job", nil); err != nil {
			return err
		}
	}
	j.tx = &Tx{Now: croft.Now(), ctx: j.ctx, run: c}
	err := j.call(s.log)
	c.closeRows()
	if c.rolledBack {
		// Whatever the function made of the statement's failure, nothing is left of its work.
		if c.cause == nil {
			c.cause = errRolledBack
		}
		if !errors.Is(err, c.cause) {
			err = errors.Join(err, c.cause)
		}
		return err
	}
	if !later {
		return err
	}
	if err != nil || j.panics != nil {
		if _, undo := c.run("ROLLBACK TO job", nil); undo != nil {
			s.log.Error("undoing a write failed", "err", undo)
			c.rollback(s.log)
			return errors.Join(err, undo)
		}
	}
	if _, release := c.run("RELEASE job", nil); release != nil {
		c.rollback(s.log)
		return errors.Join(err, release)
	}
	return err
}

// call calls the job's function and catches its panic, which is its caller's.
func (j *job) call(log *slog.Logger) error {
	returned := false
	defer func() {
		if j.panics = recover(); j.panics != nil {
			log.Error("a write panicked", "panic", j.panics, "stack", string(debug.Stack()))
		} else if !returned {
			panic("store: a function given to Write ended the writer's goroutine (runtime.Goexit, testing's FailNow)")
		}
	}()
	err := j.fn(j.tx)
	returned = true
	return err
}

func (s *sqliteDB) read(ctx context.Context, fn func(*Tx) error) error {
	var c *sqliteConn
	select {
	case c = <-s.readers:
	case <-s.closing:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.readers <- c }()
	if s.isClosing() {
		return errClosed
	}
	if c == nil {
		var err error
		if c, err = openConn(ctx, s.pool); err != nil {
			return fmt.Errorf("opening a reading connection: %w", err)
		}
	}
	if _, err := c.run("BEGIN", nil); err != nil {
		c.close(s.log)
		c = nil
		return fmt.Errorf("beginning to read: %w", err)
	}
	defer func() {
		c.closeRows()
		if _, err := c.run("ROLLBACK", nil); err != nil {
			s.log.Error("ending a read failed", "err", err)
			c.close(s.log)
			c = nil
			return
		}
		c.trim()
	}()
	return fn(&Tx{Now: croft.Now(), ctx: ctx, run: c})
}

// deadOwners: the file's lock is ours, so that nobody else lives.
func (s *sqliteDB) deadOwners(_ context.Context, self string, owners []string) ([]string, error) {
	var dead []string
	for _, o := range owners {
		if o != self {
			dead = append(dead, o)
		}
	}
	return dead, nil
}
