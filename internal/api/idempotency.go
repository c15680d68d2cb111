package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"croft"
	"croft/internal/store"
)

// Idempotency keys. A create or send that carries the header Idempotency-Key is done once
// in the key's life, a day, within its workspace:
//
//   - repeated, it gets the first answer, with the header idempotent-replayed: true;
//   - at the same time as the first, it waits for the first; where the first is with
//     another server process, it gets a 409 that says when to come again;
//   - with another method, path or body it is a 400, since repeating can't help;
//   - after an answer that says nothing was done (a 4xx), the key is free again;
//   - where the server was killed, or failed, between the work and the note of its answer,
//     nobody knows whether it took effect: the repeated request gets a 409 that says so, and
//     is not done a second time. The client looks, and takes a new key.
//
// A request with a key is not given up when its client leaves: its answer is for the
// repeated one.

const (
	keyLife   = 24 * time.Hour
	maxKeyLen = 255
	// sweep is how many rows that outlived keyLife one request with a key removes.
	sweep = 100
)

// inFlight are the keys that this process is busy with.
type inFlight struct {
	mu   sync.Mutex
	busy map[string]chan struct{}
}

// enter waits until nobody else holds name, and holds it until leave is called.
func (f *inFlight) enter(ctx context.Context, name string) (leave func(), err error) {
	for {
		f.mu.Lock()
		done, held := f.busy[name]
		if !held {
			done = make(chan struct{})
			if f.busy == nil {
				f.busy = map[string]chan struct{}{}
			}
			f.busy[name] = done
			f.mu.Unlock()
			return func() {
				f.mu.Lock()
				delete(f.busy, name)
				f.mu.Unlock()
				close(done)
			}, nil
		}
		f.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// What a row's status may be beside that of the answer.
const (
	statusBusy    = 0  // the work is being done, or its process is dead
	statusUnknown = -1 // the work failed in a way that leaves open what it did
	statusNothing = -2 // of no row: the work had no effect
)

// kept is a row of the table.
type kept struct {
	request string
	status  int
	answer  string
	created croft.Time
}

// once serves a request that carries a key.
func (c *call) once(header []string) error {
	key := header[0]
	if len(header) > 1 || key == "" || len(key) > maxKeyLen || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return croft.Invalid("Idempotency-Key", "accepted is one value of 1 to %d printable ASCII characters", maxKeyLen)
	}
	body, err := c.readBody()
	if err != nil {
		return err
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s\n", c.r.Method, c.r.URL.Path)
	sum.Write(body)
	request := hex.EncodeToString(sum.Sum(nil))

	leave, err := c.api.keys.enter(c.ctx, c.workspace()+" "+key)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.r.Context()), c.api.timeout)
	defer cancel()
	c.ctx = ctx
	first, err := c.reserve(key, request)
	if err != nil {
		return err
	}
	if first != nil {
		return c.again(first, request)
	}
	outcome := statusUnknown // of a panic, too
	defer func() { c.settle(key, outcome) }()
	err = c.route.serve(c)
	switch {
	case err == nil:
		outcome = http.StatusOK
	case didNothing(err):
		outcome = statusNothing
	}
	return err
}

// reserve notes the key before the work is done, and removes some rows that are too old.
// Where the key is known it returns what is kept of it.
func (c *call) reserve(key, request string) (first *kept, err error) {
	err = c.api.db.Write(c.ctx, func(tx *store.Tx) error {
		first = nil
		old := tx.Now.Add(-keyLife)
		_, err := tx.Exec(`DELETE FROM idempotency WHERE created_at < $1 AND ((workspace_id = $2 AND key = $3) OR (workspace_id, key) IN
			(SELECT workspace_id, key FROM idempotency WHERE created_at < $1 ORDER BY created_at LIMIT $4))`, old, c.workspace(), key, sweep)
		if err != nil {
			return err
		}
		n, err := tx.Exec(`INSERT INTO idempotency (workspace_id, key, request, status, answer, created_at) VALUES ($1, $2, $3, $5, '', $4)
			ON CONFLICT (workspace_id, key) DO NOTHING`, c.workspace(), key, request, tx.Now, statusBusy)
		if err != nil || n > 0 {
			return err
		}
		first = &kept{}
		return tx.QueryRow(`SELECT request, status, answer, created_at FROM idempotency WHERE workspace_id = $1 AND key = $2`, c.workspace(), key).
			Scan(&first.request, &first.status, &first.answer, &first.created)
	})
	if err != nil {
		return nil, fmt.Errorf("noting an idempotency key: %w", err)
	}
	return first, nil
}

// again answers a request whose key is known.
func (c *call) again(first *kept, request string) error {
	switch {
	case first.request != request:
		return croft.Invalid("Idempotency-Key", "this key was used for another request: accepted is the same method, path and body, or a new key")
	case first.status > 0:
		c.Header().Set("Idempotent-Replayed", "true")
		c.answer = []byte(first.answer)
		return nil
	case first.status == statusBusy && croft.Now() < first.created.Add(c.api.timeout):
		return &croft.Error{Type: croft.Conflict, Message: "the first request with this Idempotency-Key is still being served", RetryAfter: time.Second}
	default:
		return croft.Errorf(croft.Conflict, "the first request with this Idempotency-Key failed or was cut off, and may have taken effect: look whether it did, and use a new key if not")
	}
}

// didNothing tells whether err says that a request had no effect.
func didNothing(err error) bool {
	var e *croft.Error
	var full *store.FullError
	return errors.As(err, &full) || (errors.As(err, &e) && e.Status() < http.StatusInternalServerError)
}

// settle writes what became of a key. Where that fails, the row stays as it is, and a
// repeated request is told that the outcome is not known.
func (c *call) settle(key string, outcome int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), 10*time.Second)
	defer cancel()
	err := c.api.db.Write(ctx, func(tx *store.Tx) error {
		if outcome == statusNothing {
			_, err := tx.Exec(`DELETE FROM idempotency WHERE workspace_id = $1 AND key = $2`, c.workspace(), key)
			return err
		}
		_, err := tx.Exec(`UPDATE idempotency SET status = $3, answer = $4 WHERE workspace_id = $1 AND key = $2`, c.workspace(), key, outcome, string(c.answer))
		return err
	})
	if err != nil {
		c.api.log.Error("what became of an idempotency key could not be kept", "request_id", c.id, "err", err)
	}
}
