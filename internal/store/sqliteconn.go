package store

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"slices"

	"modernc.org/sqlite"
)

// sqliteConn is a connection with its prepared statements. One goroutine at a time uses it.
type sqliteConn struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	open  []*sql.Rows // those whose caller has not closed them yet

	// rolledBack is set when the transaction ended without a COMMIT: by a ROLLBACK, or by
	// SQLite itself, which gives the whole transaction up when the disk is full or broken.
	// The writer's connection alone keeps it. cause is the error of the statement that did.
	rolledBack bool
	cause      error
}

// stmtsMost bounds the prepared statements of a connection: queries with lists have many
// texts.
const stmtsMost = 512

func openConn(ctx context.Context, db *sql.DB) (*sqliteConn, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &sqliteConn{conn: conn, stmts: map[string]*sql.Stmt{}}, nil
}

// watch has the connection keep rolledBack.
func (c *sqliteConn) watch() error {
	return c.conn.Raw(func(driver any) error {
		h, ok := driver.(sqlite.HookRegisterer)
		if !ok {
			return errors.New("the SQLite driver has no hook for rollbacks")
		}
		h.RegisterRollbackHook(func() { c.rolledBack = true })
		return nil
	})
}

func (c *sqliteConn) close(log *slog.Logger) {
	c.closeRows()
	for q := range c.stmts {
		c.forget(q)
	}
	if err := c.conn.Close(); err != nil {
		log.Debug("closing a connection", "err", err)
	}
}

// trim forgets statements when there are too many. It is called between transactions, so
// that no statement has rows to be read.
func (c *sqliteConn) trim() {
	for q := range c.stmts {
		if len(c.stmts) <= stmtsMost {
			return
		}
		c.forget(q)
	}
}

func (c *sqliteConn) forget(query string) {
	c.stmts[query].Close() //nolint:errcheck // it repeats the error of the statement's last run
	delete(c.stmts, query)
}

func (c *sqliteConn) stmt(query string) (*sql.Stmt, error) {
	if s := c.stmts[query]; s != nil {
		return s, nil
	}
	s, err := c.conn.PrepareContext(context.Background(), query)
	if err == nil {
		c.stmts[query] = s
	}
	return s, err
}

// errRolledBack is the error of a statement after the one that ended its transaction. It
// would otherwise be committed alone.
var errRolledBack = errors.New("the transaction was rolled back by an earlier statement's failure")

func (c *sqliteConn) exec(query string, args []any) (int64, error) {
	if c.rolledBack {
		return 0, errRolledBack
	}
	return c.run(query, args)
}

// run is exec for the statements that begin and end transactions too.
func (c *sqliteConn) run(query string, args []any) (int64, error) {
	s, err := c.stmt(query) //nolint:sqlclosecheck // trim closes it
	if err != nil {
		return 0, err
	}
	// A context that can end would cost a goroutine a statement; what has begun runs to its end.
	r, err := s.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, c.failed(err)
	}
	return r.RowsAffected()
}

// failed notes an error that ended the transaction.
func (c *sqliteConn) failed(err error) error {
	if c.rolledBack && c.cause == nil {
		c.cause = err
	}
	return err
}

func (c *sqliteConn) queryRow(query string, args []any) Row {
	r, err := c.query(query, args)
	return &firstRow{r: r, err: err}
}

func (c *sqliteConn) query(query string, args []any) (rows, error) {
	if c.rolledBack {
		return nil, errRolledBack
	}
	s, err := c.stmt(query) //nolint:sqlclosecheck // trim closes it
	if err != nil {
		return nil, err
	}
	//nolint:rowserrcheck,sqlclosecheck // the caller reads, checks and closes them
	r, err := s.QueryContext(context.Background(), args...)
	if err != nil {
		return nil, c.failed(err)
	}
	c.open = append(c.open, r)
	return sqliteRows{r, c}, nil
}

// closeRows closes the rows that a function left open: their statement could not be run
// again.
func (c *sqliteConn) closeRows() {
	for _, r := range c.open {
		r.Close() //nolint:errcheck // nobody reads them any more
	}
	clear(c.open)
	c.open = c.open[:0]
}

// rollback ends the transaction. A failed statement may have ended it by itself.
func (c *sqliteConn) rollback(log *slog.Logger) {
	if _, err := c.run("ROLLBACK", nil); err != nil {
		log.Debug("rolling back", "err", err)
	}
}

type sqliteRows struct {
	*sql.Rows
	c *sqliteConn
}

func (r sqliteRows) Err() error {
	err := r.Rows.Err()
	if err != nil {
		return r.c.failed(err)
	}
	return nil
}

func (r sqliteRows) closeRows() {
	r.Rows.Close() //nolint:errcheck // what failed is in Err
	if i := slices.Index(r.c.open, r.Rows); i >= 0 {
		r.c.open = slices.Delete(r.c.open, i, i+1)
	}
}
