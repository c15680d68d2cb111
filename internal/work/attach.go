package work

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"croft"
	"croft/internal/store"
)

// Frame is one message to an attached worker.
type Frame struct {
	Type          string `json:"type"` // hello, offer, call, cancel, stop
	WorkID        string `json:"work_id,omitempty"`
	EnvironmentID string `json:"environment_id,omitempty"`
	SessionID     string `json:"session_id,omitempty"`
	Call          *Call  `json:"call,omitempty"`
	CallID        string `json:"call_id,omitempty"`
	Reason        string `json:"reason,omitempty"`
	HeartbeatS    int    `json:"heartbeat_s,omitempty"`
}

// attachFrames bounds what waits for one worker. A worker that lets it fill is cut off and
// comes back; nothing is lost, for everything is in the database.
const attachFrames = 8192

// Attach says who listens for offers, and of what.
type Attach struct {
	Workspace string
	// EnvironmentID limits the offers to one environment; empty: every cloud environment
	// of the workspace.
	EnvironmentID       string
	Worker, Incarnation string
	// Capacity is how many items it may hold at once; at least 1.
	Capacity int
}

// Attachment is a worker that listens. One reader at a time.
type Attachment struct {
	q *Queue
	Attach
	worker, incarnation string
	held, offers        int  // items it holds, and offers it has not acknowledged; under q.mu
	told                bool // of its open calls, which come before offers; under q.mu

	mu     sync.Mutex
	frames []Frame
	err    error
	ready  chan struct{}
}

// Attach registers a worker, ends the leases of its earlier incarnations, and begins to
// send it: its open calls first, then what waits in the queue, then what comes.
func (q *Queue) Attach(ctx context.Context, in Attach) (*Attachment, error) {
	if in.Worker == "" || len(in.Worker) > 100 {
		return nil, croft.Invalid("worker", "accepted is the worker's own id, 1 to 100 characters")
	}
	in.Capacity = max(in.Capacity, 1)
	a := &Attachment{q: q, Attach: in, worker: in.Worker, incarnation: in.Incarnation, ready: make(chan struct{}, 1)}
	a.push(Frame{Type: "hello", HeartbeatS: int(DefaultTTL / time.Second)})
	if err := q.endEarlier(ctx, in); err != nil {
		return nil, err
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil, croft.Errorf(croft.Overloaded, "this server is stopping")
	}
	for old := range q.attach {
		if old.worker == in.Worker && old.Workspace == in.Workspace {
			// The same worker came back before its old stream was seen to end.
			q.detach(old)
		}
	}
	q.attach[a] = struct{}{}
	q.mu.Unlock()

	held, err := q.list(ctx, `workspace_id = $1 AND worker = $2 AND incarnation = $3`, in.Workspace, in.Worker, in.Incarnation)
	if err != nil {
		a.Close()
		return nil, err
	}
	for _, i := range held {
		q.mu.Lock()
		q.hold(i.ID, i.claim, a)
		q.mu.Unlock()
		calls, err := q.sessions.Calls(ctx, i.Data.ID, i.ID)
		if err != nil {
			a.Close()
			return nil, err
		}
		for k := range calls {
			a.push(Frame{Type: "call", WorkID: i.ID, SessionID: i.Data.ID, Call: &calls[k]})
		}
	}
	q.mu.Lock()
	a.told = true
	q.mu.Unlock()
	if err := q.fill(ctx, in.Workspace); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// endEarlier ends the leases that earlier processes of the worker left.
func (q *Queue) endEarlier(ctx context.Context, in Attach) error {
	old, err := q.list(ctx, `workspace_id = $1 AND worker = $2 AND incarnation <> $3`, in.Workspace, in.Worker, in.Incarnation)
	if err != nil {
		return err
	}
	for _, i := range old {
		if err := q.lose(ctx, in.Workspace, i.ID, func(now *Item, _ *store.Tx) bool { return now.worker == in.Worker && now.incarnation != in.Incarnation }, 0); err != nil {
			return err
		}
	}
	return nil
}

// list reads items by a condition.
func (q *Queue) list(ctx context.Context, cond string, args ...any) (items []*Item, err error) {
	err = q.db.Read(ctx, func(tx *store.Tx) error {
		items = nil
		rows, err := tx.Query(`SELECT `+itemColumns+` FROM work WHERE `+cond+` ORDER BY available_at, id`, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			i, err := scanItem(rows)
			if err != nil {
				return err
			}
			items = append(items, i)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("listing work: %w", err)
	}
	return items, nil
}

// lockItem locks an item's session, as every change of a lease does first, then the item,
// and reads it.
func (q *Queue) lockItem(tx *store.Tx, workspace, environment, id string) (*Item, error) {
	if lock := tx.ForUpdate(); lock != "" {
		var session string
		err := tx.QueryRow(`SELECT id FROM sessions WHERE id = (SELECT session_id FROM work WHERE id = $1)`+lock, id).Scan(&session)
		if errors.Is(err, store.ErrNoRows) {
			return nil, croft.Missing("work item", id)
		}
		if err != nil {
			return nil, fmt.Errorf("locking the session of work item %s: %w", id, err)
		}
	}
	return q.item(tx, workspace, environment, id, true)
}

// lose ends a lease if it still is as still says, and offers the item again.
func (q *Queue) lose(ctx context.Context, workspace, id string, still func(*Item, *store.Tx) bool, after time.Duration) error {
	err := q.db.Write(ctx, func(tx *store.Tx) error {
		i, err := q.lockItem(tx, workspace, "", id)
		if croft.IsType(err, croft.NotFound) {
			return nil // the session was deleted
		}
		if err != nil {
			return err
		}
		if !still(i, tx) {
			return nil
		}
		return q.release(tx, i, after)
	})
	if err != nil {
		return fmt.Errorf("ending the lease of %s: %w", id, err)
	}
	return nil
}

// released follows the commit of a release: the holder is told, and the item offered.
func (q *Queue) released(i *Item, hadLease, again bool) {
	q.mu.Lock()
	q.forget(i.ID)
	q.mu.Unlock()
	if again && i.availableAt <= croft.Now() {
		q.Offer(i)
	} else if again {
		q.wake()
	} else if hadLease {
		q.wake() // somebody has room for what waits
	}
}

// Offer shows a queued item to one attached worker that has room. Where none has, it waits
// in the table until one comes or gets room.
func (q *Queue) Offer(i *Item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if o, ok := q.offered[i.ID]; ok && time.Since(o.at) < reclaimAfter {
		return
	}
	if h, ok := q.holders[i.ID]; ok && h.claim > i.claim {
		return // it was claimed since i was read
	}
	q.unhold(i.ID)  // its claim has ended
	q.unoffer(i.ID) // an old offer must not take the room of the new one
	var best *Attachment
	for a := range q.attach {
		if a.Workspace != i.workspace || (a.EnvironmentID != "" && a.EnvironmentID != i.EnvironmentID) {
			continue
		}
		if a.room() > 0 && (best == nil || a.room() > best.room()) {
			best = a
		}
	}
	if best == nil {
		return
	}
	q.offered[i.ID] = offer{to: best, at: time.Now()}
	best.offers++
	best.push(Frame{Type: "offer", WorkID: i.ID, EnvironmentID: i.EnvironmentID, SessionID: i.Data.ID})
	q.wake()
}

// room is how many more items a may be offered; q.mu is held. One that was cut off, or that
// is not told of its open calls yet, has none.
func (a *Attachment) room() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil || !a.told {
		return 0
	}
	return a.Capacity - a.held - a.offers
}

// hold notes that a holds an item by that claim; q.mu is held.
func (q *Queue) hold(id string, claim int64, a *Attachment) {
	q.unhold(id)
	q.holders[id] = holder{to: a, claim: claim}
	a.held++
}

// unhold forgets who holds an item; q.mu is held.
func (q *Queue) unhold(id string) {
	if h, ok := q.holders[id]; ok {
		delete(q.holders, id)
		h.to.held--
	}
}

// unoffer forgets an offer; q.mu is held.
func (q *Queue) unoffer(id string) {
	if o, ok := q.offered[id]; ok {
		o.to.offers--
		delete(q.offered, id)
	}
}

// fill offers what waits in the table. workspace "" means every one.
func (q *Queue) fill(ctx context.Context, workspace string) error {
	cond, args := `state = 'queued' AND available_at <= $1`, []any{croft.Now()}
	if workspace != "" {
		cond, args = cond+` AND workspace_id = $2`, append(args, workspace)
	}
	items, err := q.list(ctx, cond, args...)
	if err != nil {
		return err
	}
	for _, i := range items {
		q.Offer(i)
	}
	return nil
}

// tell sends a frame to the holder of an item, if it is attached here.
func (q *Queue) tell(id string, f Frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if h, ok := q.holders[id]; ok {
		h.to.push(f)
	}
}

// Push sends a call to the holder of an item.
func (q *Queue) Push(id, session string, c Call) {
	q.tell(id, Frame{Type: "call", WorkID: id, SessionID: session, Call: &c})
}

// Cancel tells the holder of an item that a call's result is no longer wanted.
func (q *Queue) Cancel(id, session, call string) {
	q.tell(id, Frame{Type: "cancel", WorkID: id, SessionID: session, CallID: call})
}

// End tells the holder of an item to give its sandbox up, with the reason.
func (q *Queue) End(id, session, reason string) {
	q.tell(id, Frame{Type: "stop", WorkID: id, SessionID: session, Reason: reason})
}

// Gone tells every attached worker of a workspace that a session was deleted, item and all:
// whoever keeps a folder of it may remove it. item is "" when it had none.
func (q *Queue) Gone(workspace, item, session string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for a := range q.attach {
		if a.Workspace == workspace {
			a.push(Frame{Type: "stop", WorkID: item, SessionID: session, Reason: "deleted"})
		}
	}
	q.forget(item)
	q.wake() // there is room for what waits
}

// forget drops what is kept in memory of an item; q.mu is held.
func (q *Queue) forget(id string) {
	q.unhold(id)
	q.revoke(id)
	q.unoffer(id)
}

// revoke drops the tokens of an item that were read, so that the table is asked again; q.mu
// is held.
func (q *Queue) revoke(id string) {
	for k, g := range q.grants {
		if g.WorkID == id {
			delete(q.grants, k)
		}
	}
}

// expire ends leases that run out and offers again what nobody acknowledged. It sleeps
// until the earliest of them.
func (q *Queue) expire(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.kick:
		case <-timer.C:
		}
		next, err := q.expireOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			q.log.Error("looking after leases failed; trying again", "err", err)
			timer.Reset(time.Second)
		case next.IsZero():
			timer.Stop()
		default:
			timer.Reset(max(time.Millisecond, time.Until(next)))
		}
	}
}

// expireOnce does what is due and returns when something will be next, or zero.
func (q *Queue) expireOnce(ctx context.Context) (next time.Time, err error) {
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	now := croft.Now()
	leased, err := q.list(ctx, `lease_until > 0 AND lease_until <= $1`, now)
	if err != nil {
		return next, err
	}
	for _, i := range leased {
		back := min(time.Second<<min(i.attempts, 5), 30*time.Second)
		if err := q.lose(ctx, i.workspace, i.ID, func(i *Item, tx *store.Tx) bool { return i.leaseUntil > 0 && i.leaseUntil <= tx.Now }, back); err != nil {
			return next, err
		}
	}
	if err := q.fill(ctx, ""); err != nil {
		return next, err
	}
	q.mu.Lock()
	for id, o := range q.offered {
		if at := o.at.Add(reclaimAfter); at.After(time.Now()) {
			sooner(at)
		} else {
			q.unoffer(id)
			sooner(time.Now())
		}
	}
	q.mu.Unlock()
	err = q.db.Read(ctx, func(tx *store.Tx) error {
		var lease, later *int64
		if err := tx.QueryRow(`SELECT MIN(lease_until) FROM work WHERE lease_until > 0`).Scan(&lease); err != nil {
			return err
		}
		if err := tx.QueryRow(`SELECT MIN(available_at) FROM work WHERE state = 'queued' AND available_at > $1`, now).Scan(&later); err != nil {
			return err
		}
		for _, t := range []*int64{lease, later} {
			if t != nil {
				sooner(croft.Time(*t).Std())
			}
		}
		return nil
	})
	if err != nil {
		return next, fmt.Errorf("looking for the next expiry: %w", err)
	}
	return next, nil
}

// push queues a frame.
func (a *Attachment) push(f Frame) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return
	}
	if len(a.frames) >= attachFrames {
		a.err = croft.Errorf(croft.Overloaded, "the worker does not read its offers; attach again")
		a.frames = nil
	} else {
		a.frames = append(a.frames, f)
	}
	select {
	case a.ready <- struct{}{}:
	default:
	}
}

// Next waits for the next frames; io.EOF when the attachment was closed.
func (a *Attachment) Next(ctx context.Context) ([]Frame, error) {
	for {
		a.mu.Lock()
		frames, err := a.frames, a.err
		a.frames = nil
		a.mu.Unlock()
		if len(frames) > 0 {
			return frames, nil
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-a.ready:
		}
	}
}

// Close detaches the worker. Its leases stay until they expire or it comes back; offers it
// has not acknowledged go to others.
func (a *Attachment) Close() {
	a.q.mu.Lock()
	a.q.detach(a)
	a.q.mu.Unlock()
}

// detach is Close with q.mu held.
func (q *Queue) detach(a *Attachment) {
	delete(q.attach, a)
	for id, h := range q.holders {
		if h.to == a {
			delete(q.holders, id)
		}
	}
	for id, o := range q.offered {
		if o.to == a {
			q.unoffer(id)
		}
	}
	q.wake()
	a.mu.Lock()
	if a.err == nil {
		a.err = io.EOF
	}
	a.mu.Unlock()
	select {
	case a.ready <- struct{}{}:
	default:
	}
}
