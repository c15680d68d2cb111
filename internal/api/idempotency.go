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
// in the key's life, a day, within its workspace. The work and the note of its answer are
// one transaction, so that no crash leaves one without the other:
//
//   - repeated, it gets the first answer, with the header idempotent-replayed: true;
//   - at the same time as the first, it waits for the first;
//   - with another method, path or body it is a 400, since repeating can't help;
//   - after an error nothing was done, and the key is free again.
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

// kept is a row of the table.
type kept struct {
	request string
	answer  string
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
	first, err := c.onceOrAgain(ctx, key, request)
	if store.IsUnique(err) {
		// Another server process was faster; its answer is there now.
		first, err = c.onceOrAgain(ctx, key, request)
	}
	c.ctx = ctx
	if err != nil || first == nil {
		return err
	}
	if first.request != request {
		return croft.Invalid("Idempotency-Key", "this key was used for another request: accepted is the same method, path and body, or a new key")
	}
	c.Header().Set("Idempotent-Replayed", "true")
	c.answer = []byte(first.answer)
	return nil
}

// onceOrAgain serves the request and notes its answer, or returns what is kept of the first
// one. It also removes some rows that are too old.
func (c *call) onceOrAgain(ctx context.Context, key, request string) (first *kept, err error) {
	err = c.api.db.Write(ctx, func(tx *store.Tx) error {
		first, c.answer = nil, nil
		old := tx.Now.Add(-keyLife)
		_, err := tx.Exec(`DELETE FROM idempotency WHERE created_at < $1 AND ((workspace_id = $2 AND key = $3) OR (workspace_id, key) IN
			(SELECT workspace_id, key FROM idempotency WHERE created_at < $1 ORDER BY created_at LIMIT $4))`, old, c.workspace(), key, sweep)
		if err != nil {
			return fmt.Errorf("removing old idempotency keys: %w", err)
		}
		var k kept
		err = tx.QueryRow(`SELECT request, answer FROM idempotency WHERE workspace_id = $1 AND key = $2`, c.workspace(), key).Scan(&k.request, &k.answer)
		if err == nil {
			first = &k
			return nil
		}
		if !errors.Is(err, store.ErrNoRows) {
			return fmt.Errorf("looking for an idempotency key: %w", err)
		}
		c.ctx = c.api.db.Joined(ctx, tx)
		if err := c.route.serve(c); err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO idempotency (workspace_id, key, request, status, answer, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			c.workspace(), key, request, http.StatusOK, string(c.answer), tx.Now)
		if err != nil {
			return fmt.Errorf("noting an idempotency key: %w", err)
		}
		return nil
	})
	return first, err
}
