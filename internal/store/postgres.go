package store

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"croft"
)

const (
	// migrateLock keeps two processes from migrating at once.
	migrateLock = 0x63726f66
	// heartbeatEvery is how often a process renews its row and looks at its lock.
	heartbeatEvery = 2 * time.Second
	tries          = 10
)

// postgresDB is a PostgreSQL database.
type postgresDB struct {
	pool *pgxpool.Pool
	db   *DB
	log  *slog.Logger
	stop context.CancelFunc
	done sync.WaitGroup
	once sync.Once
}

func openPostgres(ctx context.Context, url string, db *DB, log *slog.Logger) (*postgresDB, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("the URL cannot be read; accepted is postgres://user:password@host:port/database?options")
	}
	if cfg.MaxConns < 16 {
		cfg.MaxConns = 16
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, errors.New(hide(err))
	}
	p := &postgresDB{pool: pool, db: db, log: log}
	if err := p.migrate(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	if err := p.register(ctx, cfg.ConnConfig); err != nil {
		pool.Close()
		return nil, err
	}
	return p, nil
}

// hide returns an error's text without a password: pgx quotes the settings that it used.
func hide(err error) string {
	var c *pgconn.ConnectError
	if errors.As(err, &c) {
		return fmt.Sprintf("it cannot be reached: %v", errors.Unwrap(c))
	}
	return err.Error()
}

func (p *postgresDB) migrate(ctx context.Context) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return errors.New(hide(err))
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, migrateLock); err != nil {
		return fmt.Errorf("waiting to migrate: %w", err)
	}
	defer func() {
		if _, err := conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, migrateLock); err != nil {
			p.log.Error("giving the migration's lock back", "err", err)
		}
	}()
	return migrate(&pgTx{ctx: ctx, q: conn}, begin{begin: "BEGIN", commit: "COMMIT", rollback: "ROLLBACK"})
}

// lockKey is the advisory lock of an incarnation.
func lockKey(incarnation string) int64 {
	h := fnv.New64a()
	h.Write([]byte("croft/" + incarnation))
	return int64(h.Sum64())
}

// register takes this incarnation's lock on a connection of its own and watches over it.
func (p *postgresDB) register(ctx context.Context, cfg *pgx.ConnConfig) error {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return errors.New(hide(err))
	}
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, lockKey(p.db.incarnation)); err != nil {
		return fmt.Errorf("taking the incarnation's lock: %w", err)
	}
	now := int64(croft.Now())
	if _, err := conn.Exec(ctx, `INSERT INTO replicas (id, started_at, heartbeat_at) VALUES ($1, $2, $2)`, p.db.incarnation, now); err != nil {
		return fmt.Errorf("registering this process: %w", err)
	}
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.done.Add(1)
	go func() {
		defer p.done.Done()
		p.hold(ctx, conn)
	}()
	return nil
}

// hold renews the row over the connection that holds the lock. When that fails the lock
// may be gone, and with it the right to act as this incarnation.
func (p *postgresDB) hold(ctx context.Context, conn *pgx.Conn) {
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if _, err := conn.Exec(end, `DELETE FROM replicas WHERE id = $1`, p.db.incarnation); err != nil {
				p.log.Debug("taking this process off the list", "err", err)
			}
			if err := conn.Close(end); err != nil {
				p.log.Debug("closing the lock's connection", "err", err)
			}
			return
		case <-tick.C:
			beat, cancel := context.WithTimeout(ctx, 3*heartbeatEvery)
			_, err := conn.Exec(beat, `UPDATE replicas SET heartbeat_at = $1 WHERE id = $2`, int64(croft.Now()), p.db.incarnation)
			cancel()
			if err != nil && ctx.Err() == nil {
				p.log.Error("the connection that holds this process's lock broke", "err", err)
				close(p.db.lost)
				return
			}
		}
	}
}

func (p *postgresDB) close() error {
	p.once.Do(func() {
		p.stop()
		p.done.Wait()
		p.pool.Close()
	})
	return nil
}

// deadOwners tries each incarnation's lock: the dead hold none.
func (p *postgresDB) deadOwners(ctx context.Context, owners []string) ([]string, error) {
	var dead []string
	err := p.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		for _, o := range owners {
			if o == p.db.incarnation {
				continue
			}
			var free bool
			if err := c.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, lockKey(o)).Scan(&free); err != nil {
				return err
			}
			if !free {
				continue
			}
			dead = append(dead, o)
			if _, err := c.Exec(ctx, `SELECT pg_advisory_unlock($1)`, lockKey(o)); err != nil {
				return err
			}
			if _, err := c.Exec(ctx, `DELETE FROM replicas WHERE id = $1`, o); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("asking which processes are gone: %w", err)
	}
	return dead, nil
}

func (p *postgresDB) write(ctx context.Context, fn func(*Tx) error) error {
	for try := 1; ; try++ {
		select {
		case <-p.db.lost:
			return errors.New("store: this process lost its lock on the database and may not write")
		default:
		}
		err := p.writeOnce(ctx, fn)
		var e *pgconn.PgError
		if err == nil || try == tries || !errors.As(err, &e) || (e.Code != "40001" && e.Code != "40P01") {
			return err
		}
		// Two transactions waited for each other, and this one was chosen to try again.
		time.Sleep(rand.N(time.Duration(try) * 5 * time.Millisecond))
	}
}

func (p *postgresDB) writeOnce(ctx context.Context, fn func(*Tx) error) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("waiting for a connection: %w", err)
	}
	defer conn.Release()
	// What has begun runs to its end: a commit whose answer was not awaited would be neither.
	run := context.WithoutCancel(ctx)
	tx, err := conn.BeginTx(run, pgx.TxOptions{})
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	committed := false
	defer func() {
		if !committed {
			if err := tx.Rollback(run); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
				p.log.Debug("rolling back", "err", err)
			}
		}
	}()
	t := &Tx{Now: croft.Now(), ctx: ctx, run: &pgTx{ctx: run, q: tx}, lock: " FOR UPDATE"}
	if err := fn(t); err != nil {
		return err
	}
	if err := tx.Commit(run); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	committed = true
	for _, after := range t.after {
		after()
	}
	return nil
}

func (p *postgresDB) read(ctx context.Context, fn func(*Tx) error) error {
	return pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return fn(&Tx{Now: croft.Now(), ctx: ctx, run: &pgTx{ctx: ctx, q: tx}})
	})
}

// querier is a connection or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

type pgTx struct {
	ctx context.Context
	q   querier
}

func (t *pgTx) exec(query string, args []any) (int64, error) {
	tag, err := t.q.Exec(t.ctx, query, plain(args)...)
	return tag.RowsAffected(), err
}

func (t *pgTx) queryRow(query string, args []any) Row {
	return pgRow{t.q.QueryRow(t.ctx, query, plain(args)...)}
}

func (t *pgTx) query(query string, args []any) (rows, error) {
	r, err := t.q.Query(t.ctx, query, plain(args)...)
	if err != nil {
		return nil, err
	}
	return pgRows{r}, nil
}

type pgRow struct{ pgx.Row }

func (r pgRow) Scan(dest ...any) error {
	err := r.Row.Scan(dest...)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNoRows
	}
	return err
}

type pgRows struct{ pgx.Rows }

func (r pgRows) closeRows() { r.Rows.Close() }

// IsUnique tells whether err is a violated unique constraint.
func IsUnique(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code == "23505"
	}
	return isUniqueSQLite(err)
}
