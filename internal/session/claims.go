package session

import (
	"context"
	"encoding/json"
	"fmt"

	"croft"
	"croft/internal/store"
	"croft/internal/work"
)

// The methods of this file are what the work queue calls (work.Sessions). Each locks the
// session's row before the queue touches the item's, so that the two never wait for each
// other in turn.

// Claimed notes in the session's fold that a worker holds its work item. Open calls that
// nobody was given yet are this worker's from now on.
func (l *Log) Claimed(tx *store.Tx, session, item, worker string, claim int64) error {
	return l.applyTx(tx, "", session, func(c *change) error {
		if c.st.Work == nil || c.st.Work.ID != item {
			return croft.Errorf(croft.Conflict, "work item %q is no longer on offer", item)
		}
		c.touched = true
		c.st.Work.Worker, c.st.Work.Claim = worker, claim
		for i := range c.st.Threads {
			for j := range c.st.Threads[i].Calls {
				if k := &c.st.Threads[i].Calls[j]; k.Status == callFleet && k.Worker == "" {
					k.Worker = worker
				}
			}
		}
		return nil
	})
}

// Released notes that the item's lease has ended: given back, lost, or stopped. It
// reports whether calls are open, so that the item must be offered again. When giveUp is
// not empty and calls are open, nobody is asked again: each call gets an error result and
// the session a session.error.
func (l *Log) Released(tx *store.Tx, session, item, giveUp string) (again bool, err error) {
	err = l.applyTx(tx, "", session, func(c *change) error {
		if c.st.Work == nil || c.st.Work.ID != item {
			return nil
		}
		c.touched = true
		open := 0
		for i := range c.st.Threads {
			for j := range c.st.Threads[i].Calls {
				if c.st.Threads[i].Calls[j].Status == callFleet {
					open++
				}
			}
		}
		if open > 0 && giveUp == "" {
			again = true
			c.st.Work.Worker, c.st.Work.Lost = "", true
			return nil
		}
		c.st.Work = nil
		if open == 0 {
			return nil
		}
		for i := range c.st.Threads {
			th := &c.st.Threads[i]
			c.emit(croft.SessionError, th, "", "error", `{"type":"unknown_error","message":`+quote(giveUp)+`,"retry_status":{"type":"exhausted"}}`)
			for j := len(th.Calls) - 1; j >= 0; j-- {
				if th.Calls[j].Status == callFleet {
					c.fail(th, j, giveUp)
				}
			}
		}
		return c.advance()
	})
	if croft.IsType(err, croft.NotFound) {
		return false, nil
	}
	return again, err
}

// Calls lists the open calls that the holder of the item must answer.
func (l *Log) Calls(ctx context.Context, session, item string) (calls []work.Call, err error) {
	err = l.db.Read(ctx, func(tx *store.Tx) error {
		calls = nil
		var text string
		if err := tx.QueryRow(`SELECT state FROM sessions WHERE id = $1`, session).Scan(&text); err != nil {
			return fmt.Errorf("reading session %s: %w", session, err)
		}
		st, err := decodeState(text)
		if err != nil {
			return err
		}
		if st.Work == nil || st.Work.ID != item {
			return nil
		}
		for i := range st.Threads {
			for _, k := range st.Threads[i].Calls {
				if k.Status != callFleet {
					continue
				}
				var payload string
				if err := tx.QueryRow(`SELECT payload FROM events WHERE id = $1`, k.ID).Scan(&payload); err != nil {
					return fmt.Errorf("reading tool use %s: %w", k.ID, err)
				}
				var use struct {
					Input json.RawMessage `json:"input"`
				}
				if err := json.Unmarshal([]byte(payload), &use); err != nil {
					return fmt.Errorf("reading tool use %s: %w", k.ID, err)
				}
				calls = append(calls, work.Call{ID: k.ID, Name: k.Name, Input: use.Input, FirstWorker: k.Worker})
			}
		}
		return nil
	})
	return calls, err
}
