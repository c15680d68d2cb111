package session

import (
	"context"
	"fmt"
	"time"

	"croft"
	"croft/internal/store"
)

// recover takes over the sessions whose owner is gone: their model requests are made again.
func (l *Log) recover(ctx context.Context) error {
	owned := map[string][]string{}
	err := l.db.Read(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(`SELECT id, owner FROM sessions WHERE owner <> ''`)
		if err != nil {
			return fmt.Errorf("listing owned sessions: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var id, owner string
			if err := rows.Scan(&id, &owner); err != nil {
				return fmt.Errorf("listing owned sessions: %w", err)
			}
			if owner != l.db.Incarnation() {
				owned[owner] = append(owned[owner], id)
			}
		}
		return rows.Err()
	})
	if err != nil || len(owned) == 0 {
		return err
	}
	owners := make([]string, 0, len(owned))
	for o := range owned {
		owners = append(owners, o)
	}
	dead, err := l.db.DeadOwners(ctx, owners)
	if err != nil {
		return fmt.Errorf("asking which owners are gone: %w", err)
	}
	for _, o := range dead {
		for _, id := range owned[o] {
			if err := l.takeOver(ctx, id, o); err != nil {
				return fmt.Errorf("taking over session %s: %w", id, err)
			}
		}
	}
	return nil
}

// takeOver closes the spans that a dead owner left open and makes their requests again.
func (l *Log) takeOver(ctx context.Context, id, from string) error {
	err := l.apply(ctx, "", id, func(c *change) error {
		if c.row.owner != from {
			return nil // somebody else was faster
		}
		for i := range c.st.Threads {
			th := &c.st.Threads[i]
			if th.Phase != phaseModel {
				continue
			}
			c.endSpan(th, true, croft.ModelUsage{}, nil)
			c.beginSpan(th)
		}
		if len(c.runs) == 0 {
			c.row.owner = ""
			c.touched = true
		}
		return nil
	})
	if croft.IsType(err, croft.NotFound) {
		return nil
	}
	return err
}

// wakeDue starts the requests of sessions whose retry is due. It sleeps until the earliest
// of them, or until an earlier one is written.
func (l *Log) wakeDue(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.rescan:
		case <-timer.C:
		}
		next, err := l.wakeOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.log.Error("waking sessions failed; trying again", "err", err)
			timer.Reset(time.Second)
		case next == 0:
			timer.Stop() // nobody waits: the next append that sets a time rescans
		default:
			timer.Reset(max(0, time.Until(next.Std())))
		}
	}
}

// wakeOnce wakes what is due and returns when the next one will be, or 0.
func (l *Log) wakeOnce(ctx context.Context) (next croft.Time, err error) {
	var due []string
	err = l.db.Read(ctx, func(tx *store.Tx) error {
		due, next = nil, 0
		rows, err := tx.Query(`SELECT id, wake_at FROM sessions WHERE wake_at > 0 ORDER BY wake_at LIMIT 257`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			var at croft.Time
			if err := rows.Scan(&id, &at); err != nil {
				return err
			}
			if at > tx.Now || len(due) == 256 {
				next = at
				break
			}
			due = append(due, id)
		}
		return rows.Err()
	})
	if err != nil {
		return 0, fmt.Errorf("listing sessions to wake: %w", err)
	}
	for _, id := range due {
		err := l.apply(ctx, "", id, func(c *change) error {
			th := c.primary()
			if th.Phase != phaseRetry || c.row.wakeAt == 0 || c.row.wakeAt > c.now {
				return nil
			}
			c.row.wakeAt = 0
			return c.request(th)
		})
		if err != nil && !croft.IsType(err, croft.NotFound) {
			return 0, fmt.Errorf("waking session %s: %w", id, err)
		}
	}
	return next, nil
}
