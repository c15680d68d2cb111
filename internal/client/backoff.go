package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"croft"
)

// Bounds of the wait between two attempts, jitter aside.
const (
	minWait = 50 * time.Millisecond
	maxWait = 3 * time.Second
	// maxAsked bounds what a server may ask for by retry-after.
	maxAsked = time.Minute
)

// Backoff paces repeated attempts at something that should work: 50 ms after the first
// failure, then a tenth of the time since that failure, at most 3 s, give or take a
// quarter. So an outage is made a tenth longer at worst, and a long one costs little. The
// zero value is ready. It is not safe for concurrent use.
type Backoff struct {
	since time.Time // of the first failure; zero: none
}

// Reset notes that the attempts have succeeded.
func (b *Backoff) Reset() { b.since = time.Time{} }

// Next returns how long to wait after an attempt that failed with err; a retry-after of
// the server's is honoured up to a minute.
func (b *Backoff) Next(err error) time.Duration {
	now := time.Now()
	if b.since.IsZero() {
		b.since = now
	}
	wait := min(max(now.Sub(b.since)/10, minWait), maxWait)
	wait = time.Duration(float64(wait) * (0.75 + rand.Float64()/2))
	var e *croft.Error
	if errors.As(err, &e) {
		wait = max(wait, min(e.RetryAfter, maxAsked))
	}
	return wait
}

// Wait waits as Next says, shorter if wake is closed or sent to; wake may be nil. It
// returns the context's error when ctx ends.
func (b *Backoff) Wait(ctx context.Context, err error, wake <-chan struct{}) error {
	t := time.NewTimer(b.Next(err))
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
	}
	return ctx.Err()
}
