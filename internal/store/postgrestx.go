package store

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"croft"
)

// pgTx is a transaction of a connection. It begins with its first statement, in the same
// round trip.
type pgTx struct {
	ctx   context.Context
	q     *pgxpool.Conn
	begin string // how it begins; "" once it has, or when each statement is for itself
	open  bool
	rows  pgx.Rows // those of the last query
	log   *slog.Logger

	// failed is why it could not begin. A later statement must not run without it.
	failed error
}

// commit ends the transaction. One that no statement began needs no end.
func (t *pgTx) commit() error {
	if t.failed != nil {
		return t.failed
	}
	if !t.open {
		return nil
	}
	t.closeRows()
	tag, err := t.q.Exec(t.ctx, "COMMIT")
	t.open = false
	if err == nil && tag.String() != "COMMIT" {
		// A statement failed, and the function went on all the same.
		err = pgx.ErrTxCommitRollback
	}
	return err
}

// rollback ends a transaction that is still open. The pool gives up a connection where that
// fails.
func (t *pgTx) rollback() {
	if !t.open {
		return
	}
	t.open = false
	t.closeRows()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), 10*time.Second)
	defer cancel()
	if _, err := t.q.Exec(ctx, "ROLLBACK"); err != nil {
		t.log.Debug("rolling back", "err", err)
	}
}

// closeRows closes what the function left open: the connection could do nothing else.
func (t *pgTx) closeRows() {
	if t.rows != nil {
		t.rows.Close()
	}
}

func (t *pgTx) exec(query string, args []any) (int64, error) {
	if t.failed != nil {
		return 0, t.failed
	}
	if t.begin == "" {
		tag, err := t.q.Exec(t.ctx, query, plain(args)...)
		return tag.RowsAffected(), err
	}
	batch, err := t.first(query, args)
	if err != nil {
		return 0, errors.Join(err, batch.Close())
	}
	tag, err := batch.Exec()
	if end := batch.Close(); err == nil {
		err = end
	}
	return tag.RowsAffected(), err
}

func (t *pgTx) query(query string, args []any) (rows, error) {
	if t.failed != nil {
		return nil, t.failed
	}
	if t.begin == "" {
		r, err := t.q.Query(t.ctx, query, plain(args)...)
		if err != nil {
			return nil, err
		}
		t.rows = r
		return pgRows{r}, nil
	}
	batch, err := t.first(query, args)
	if err != nil {
		return nil, errors.Join(err, batch.Close())
	}
	r, err := batch.Query()
	if err != nil {
		batch.Close() //nolint:errcheck // it repeats the error
		return nil, err
	}
	t.rows = batchRows{r, batch}
	return pgRows{t.rows}, nil
}

// first sends the beginning and the first statement together. What it returns is to be
// read and closed.
func (t *pgTx) first(query string, args []any) (pgx.BatchResults, error) {
	var b pgx.Batch
	b.Queue(t.begin)
	b.Queue(query, plain(args)...)
	t.begin, t.open = "", true
	r := t.q.SendBatch(t.ctx, &b)
	_, t.failed = r.Exec()
	return r, t.failed
}

// batchRows are rows whose end is their batch's.
type batchRows struct {
	pgx.Rows
	batch pgx.BatchResults
}

// Next closes the batch behind the last row, as a query's rows close themselves.
func (r batchRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r batchRows) Close() {
	r.Rows.Close()
	r.batch.Close() //nolint:errcheck // what failed is in Err
}

func (t *pgTx) queryRow(query string, args []any) Row {
	r, err := t.query(query, args)
	return &firstRow{r: r, err: err}
}

type pgRows struct{ pgx.Rows }

func (r pgRows) closeRows() { r.Rows.Close() }

// plain turns the program's own types into those that the driver knows best. It leaves the
// caller's slice alone: a function may run again with it, or share it.
func plain(args []any) []any {
	out := args
	for i, a := range args {
		if t, ok := a.(croft.Time); ok {
			if &out[0] == &args[0] {
				out = slices.Clone(args)
			}
			out[i] = int64(t)
		}
	}
	return out
}
