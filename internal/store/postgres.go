package store

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net/url"
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
	// tries is how often a transaction that PostgreSQL chose to break a deadlock is tried.
	tries = 10
	// connsMost bounds the connections of the pool, unless the URL's pool_max_conns does. One
	// more holds the lock.
	connsMost = 24
)

// postgresDB is a PostgreSQL database.
type postgresDB struct {
	pool *pgxpool.Pool
	db   *DB
	log  *slog.Logger
	stop context.CancelFunc
	done sync.WaitGroup
	once sync.Once

	commits commitOrder
}

func openPostgres(ctx context.Context, text string, db *DB, log *slog.Logger) (*postgresDB, error) {
	cfg, err := pgxpool.ParseConfig(text)
	if err != nil {
		return nil, errors.New("the URL cannot be read; accepted is postgres://user:password@host:port/database?options")
	}
	if u, err := url.Parse(text); err != nil || !u.Query().Has("pool_max_conns") {
		cfg.MaxConns = connsMost
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, unreachable(err)
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

// unreachable says that the server could not be reached. What pgx says beyond the cause
// names settings, which is the caller's to choose.
func unreachable(err error) error {
	var c *pgconn.ConnectError
	if errors.As(err, &c) {
		err = c.Unwrap()
	}
	return fmt.Errorf("it cannot be reached: %w", err)
}

func (p *postgresDB) migrate(ctx context.Context) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return unreachable(err)
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
		return unreachable(err)
	}
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, lockKey(p.db.incarnation)); err != nil {
		hangUp(conn)
		return fmt.Errorf("taking the incarnation's lock: %w", err)
	}
	now := int64(croft.Now())
	if _, err := conn.Exec(ctx, `INSERT INTO replicas (id, started_at, heartbeat_at) VALUES ($1, $2, $2)`, p.db.incarnation, now); err != nil {
		hangUp(conn)
		return full(fmt.Errorf("registering this process: %w", err))
	}
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.done.Add(1)
	go func() {
		defer p.done.Done()
		p.hold(ctx, conn)
	}()
	return nil
}

// hangUp closes a connection, and the lock that it holds goes with it.
func hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn.Close(ctx) //nolint:errcheck // nothing more is wanted of it
}

// hold renews the row over the connection that holds the lock, and listens to it in
// between, so that its end is known at once. With it the lock may be gone, and with the
// lock the right to act as this incarnation.
func (p *postgresDB) hold(ctx context.Context, conn *pgx.Conn) {
	defer hangUp(conn)
	for {
		err := p.beat(ctx, conn)
		if ctx.Err() != nil {
			p.deregister(conn)
			return
		}
		if err != nil {
			p.log.Error("the connection that holds this process's lock broke", "err", err)
			close(p.db.lost)
			return
		}
	}
}

// beat listens for the time of a heartbeat, then renews the row.
func (p *postgresDB) beat(ctx context.Context, conn *pgx.Conn) error {
	quiet, cancel := context.WithTimeout(ctx, heartbeatEvery)
	defer cancel()
	// Nothing is sent to this connection but the news of its end.
	if _, err := conn.WaitForNotification(quiet); err != nil && quiet.Err() == nil {
		return err
	}
	answer, cancel := context.WithTimeout(ctx, 3*heartbeatEvery)
	defer cancel()
	_, err := conn.Exec(answer, `UPDATE replicas SET heartbeat_at = $1 WHERE id = $2`, int64(croft.Now()), p.db.incarnation)
	return err
}

// deregister takes this process off the list.
func (p *postgresDB) deregister(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := conn.Exec(ctx, `DELETE FROM replicas WHERE id = $1`, p.db.incarnation); err != nil {
		p.log.Debug("taking this process off the list", "err", err)
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

// deadOwners tries each incarnation's lock: the dead hold none. It tries in shared mode, so
// that two who ask at once do not take each other for the holder. A lock that was taken goes
// with the statement.
func (p *postgresDB) deadOwners(ctx context.Context, self string, owners []string) ([]string, error) {
	ids := make(map[int64]string, len(owners))
	var keys []int64
	for _, o := range owners {
		if o != self {
			key := lockKey(o)
			ids[key], keys = o, append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	var dead []string
	rows, _ := p.pool.Query(ctx, `SELECT key FROM unnest($1::bigint[]) AS key WHERE pg_try_advisory_xact_lock_shared(key)`, keys)
	free, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("asking which processes are gone: %w", err)
	}
	for _, key := range free {
		dead = append(dead, ids[key])
	}
	if len(dead) > 0 {
		if _, err := p.pool.Exec(ctx, `DELETE FROM replicas WHERE id = ANY($1)`, dead); err != nil {
			return nil, fmt.Errorf("taking dead processes off the list: %w", err)
		}
	}
	return dead, nil
}

var errLost = errors.New("store: this process lost its lock on the database and may not write")

func (p *postgresDB) write(ctx context.Context, fn func(*Tx) error) error {
	for try := 1; ; try++ {
		select {
		case <-p.db.lost:
			return errLost
		default:
		}
		err := p.writeOnce(ctx, fn)
		var e *pgconn.PgError
		if err == nil || try == tries || !errors.As(err, &e) || (e.Code != "40001" && e.Code != "40P01") {
			return full(err)
		}
		// Two transactions waited for each other, and this one was chosen to try again.
		select {
		case <-time.After(rand.N(time.Duration(try) * 5 * time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *postgresDB) writeOnce(ctx context.Context, fn func(*Tx) error) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("waiting for a connection: %w", err)
	}
	defer conn.Release()
	// What has begun runs to its end: a commit whose answer was not awaited would be neither.
	tx := &pgTx{ctx: context.WithoutCancel(ctx), q: conn, begin: "BEGIN", log: p.log}
	defer tx.rollback()
	t := &Tx{Now: croft.Now(), ctx: ctx, run: tx, lock: " FOR UPDATE"}
	if err := fn(t); err != nil {
		return err
	}
	// What follows the commit waits for its turn, also when this one fails.
	turn := p.commits.enter()
	defer turn.leave()
	err = tx.commit()
	turn.wait()
	if err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	for _, after := range t.after {
		after()
	}
	return nil
}

func (p *postgresDB) read(ctx context.Context, fn func(*Tx) error) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("waiting for a connection: %w", err)
	}
	defer conn.Release()
	tx := &pgTx{ctx: ctx, q: conn, begin: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", log: p.log}
	defer tx.rollback()
	return fn(&Tx{Now: croft.Now(), ctx: ctx, run: tx})
}
