package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"croft"
	"croft/internal/store"
	"croft/internal/work"
)

// row is a session's row as the append path reads it: all but the agent and what clients
// named it.
type row struct {
	id, workspace, environment string
	kind                       string // of the environment
	status                     croft.SessionStatus
	thread                     string
	lastSeq, epoch             int64
	owner                      string
	wakeAt                     croft.Time
	archivedAt                 croft.Time
}

const rowColumns = `id, workspace_id, environment_id, environment_kind, status, thread_id, last_seq, epoch, owner, wake_at, archived_at, state`

// change is one append in the making: the session's row and fold, locked, the events that
// are to follow, and what is to happen after the commit.
type change struct {
	l     *Log
	tx    *store.Tx
	now   croft.Time
	row   row
	st    *state
	queue []queued // inputs that wait to be taken up by a turn, oldest first
	fresh int      // how many of queue were sent in this append and have no row

	events  []croft.Event
	runs    []Run       // model requests to start
	cancels []string    // spans to cancel
	calls   []work.Call // calls to push to the holder of the lease
	stops   []string    // calls that the holder must stop
	offer   *work.Item  // an item to offer
	ends    string      // why the holder must give up its sandbox
	touched bool
}

// queued is an input that no turn has taken up yet.
type queued struct {
	pos     int64
	id      string
	typ     croft.EventType
	payload json.RawMessage // without processed_at
}

// apply locks the session, lets fn decide, and commits what it decided: all of it or
// nothing. workspace "" is the loop's and the queue's: they are given ids, not asked for
// them. fn may be called more than once (the store may try a transaction again), so it
// must not change anything outside.
func (l *Log) apply(ctx context.Context, workspace, id string, fn func(*change) error) error {
	return l.db.Write(ctx, func(tx *store.Tx) error {
		return l.applyTx(tx, workspace, id, fn)
	})
}

func (l *Log) applyTx(tx *store.Tx, workspace, id string, fn func(*change) error) error {
	c, err := l.load(tx, id)
	if err != nil {
		return err
	}
	if workspace != "" && c.row.workspace != workspace {
		return croft.Missing("session", id)
	}
	if err := fn(c); err != nil {
		return err
	}
	return c.commit()
}

// load reads and locks a session's row.
func (l *Log) load(tx *store.Tx, id string) (*change, error) {
	c := &change{l: l, tx: tx, now: tx.Now}
	r := &c.row
	var text string
	err := tx.QueryRow(`SELECT `+rowColumns+` FROM sessions WHERE id = $1`+tx.ForUpdate(), id).
		Scan(&r.id, &r.workspace, &r.environment, &r.kind, &r.status, &r.thread, &r.lastSeq, &r.epoch, &r.owner, &r.wakeAt, &r.archivedAt, &text)
	if errors.Is(err, store.ErrNoRows) {
		return nil, croft.Missing("session", id)
	}
	if err != nil {
		return nil, fmt.Errorf("reading session %s: %w", id, err)
	}
	if c.st, err = decodeState(text); err != nil {
		return nil, err
	}
	return c, nil
}

// primary is the session's first thread.
func (c *change) primary() *thread { return &c.st.Threads[0] }

// emit adds an event with the given fields, each a name and a raw JSON value in turn, and
// returns its id. id "" makes a new one.
func (c *change) emit(typ croft.EventType, th *thread, id string, fields ...string) string {
	if id == "" {
		id = croft.NewID(croft.PrefixEvent)
	}
	var b strings.Builder
	b.Grow(160)
	b.WriteString(`{"id":"`)
	b.WriteString(id)
	b.WriteString(`","type":"`)
	b.WriteString(string(typ))
	b.WriteByte('"')
	for i := 0; i+1 < len(fields); i += 2 {
		b.WriteString(`,"`)
		b.WriteString(fields[i])
		b.WriteString(`":`)
		b.WriteString(fields[i+1])
	}
	b.WriteString(`,"processed_at":"`)
	b.WriteString(c.now.String())
	b.WriteString(`"}`)
	c.add(croft.Event{ID: id, Type: typ, ThreadID: th.ID, Payload: json.RawMessage(b.String())})
	return id
}

// emitInput adds an event that a client sent: its object, with the time of processing.
func (c *change) emitInput(q queued) {
	c.add(croft.Event{ID: q.id, Type: q.typ, ThreadID: c.primary().ID, Payload: processedAt(q.payload, c.now)})
}

func (c *change) add(e croft.Event) {
	e.Seq = c.row.lastSeq + int64(len(c.events)) + 1
	e.ProcessedAt = c.now
	c.events = append(c.events, e)
}

// processedAt returns a copy of the object with processed_at added at its end.
func processedAt(object json.RawMessage, at croft.Time) json.RawMessage {
	value := `"` + at.String() + `"`
	if at == 0 {
		value = "null"
	}
	out := make([]byte, 0, len(object)+len(value)+20)
	out = append(out, object[:len(object)-1]...)
	out = append(out, `,"processed_at":`...)
	out = append(out, value...)
	return append(out, '}')
}

// commit writes the events and the fold, and arranges what follows the commit.
func (c *change) commit() error {
	if err := c.saveQueue(); err != nil {
		return err
	}
	if len(c.events) == 0 && !c.touched {
		return nil
	}
	if err := c.insertEvents(); err != nil {
		return err
	}
	text, err := c.st.encode()
	if err != nil {
		return fmt.Errorf("writing the session's state: %w", err)
	}
	r := &c.row
	n, err := c.tx.Exec(`UPDATE sessions SET status = $1, last_seq = last_seq + $2, epoch = $3, owner = $4, wake_at = $5, archived_at = $6, state = $7, updated_at = $8
		WHERE id = $9 AND last_seq = $10`,
		r.status, len(c.events), r.epoch, r.owner, r.wakeAt, r.archivedAt, text, c.now, r.id, r.lastSeq)
	if err != nil {
		return fmt.Errorf("writing session %s: %w", r.id, err)
	}
	if n != 1 {
		return fmt.Errorf("writing session %s: its log moved on under the lock", r.id)
	}
	c.tx.OnCommit(c.after)
	return nil
}

// insertEvents writes the events, several rows a statement.
func (c *change) insertEvents() error {
	const columns, most = 8, 100
	for from := 0; from < len(c.events); from += most {
		part := c.events[from:min(from+most, len(c.events))]
		args := make([]any, 0, len(part)*columns)
		for i := range part {
			e := &part[i]
			var raw any
			if e.Raw != nil {
				raw = string(e.Raw)
			}
			args = append(args, c.row.id, e.Seq, e.ID, string(e.Type), e.ThreadID, e.ProcessedAt, string(e.Payload), raw)
		}
		if _, err := c.tx.Exec(insertEventsSQL(len(part)), args...); err != nil {
			return fmt.Errorf("appending to session %s: %w", c.row.id, err)
		}
	}
	return nil
}

var insertEventsTexts = func() (texts [101]string) {
	for n := 1; n < len(texts); n++ {
		var b strings.Builder
		b.WriteString(`INSERT INTO events (session_id, seq, id, type, thread_id, processed_at, payload, raw) VALUES `)
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteByte('(')
			for j := range 8 {
				if j > 0 {
					b.WriteByte(',')
				}
				b.WriteByte('$')
				b.WriteString(strconv.Itoa(i*8 + j + 1))
			}
			b.WriteByte(')')
		}
		texts[n] = b.String()
	}
	return texts
}()

func insertEventsSQL(n int) string { return insertEventsTexts[n] }

// after runs once the commit is durable: it shows the events to whoever looks on, and
// wakes whoever must act.
func (c *change) after() {
	l := c.l
	l.hub.publish(c.row.id, c.events)
	for _, span := range c.cancels {
		if l.runner != nil {
			l.runner.Cancel(c.row.id, span)
		}
	}
	for _, run := range c.runs {
		run.Seq = c.row.lastSeq + int64(len(c.events))
		if l.runner != nil {
			l.runner.Run(run)
		}
	}
	if l.queue != nil {
		if c.offer != nil {
			l.queue.Offer(c.offer)
		}
		if w := c.st.Work; w != nil {
			for _, call := range c.stops {
				l.queue.Cancel(w.ID, c.row.id, call)
			}
			for _, call := range c.calls {
				l.queue.Push(w.ID, c.row.id, call)
			}
		}
		if c.ends != "" {
			if w := c.st.Work; w != nil {
				l.queue.End(w.ID, c.row.id, c.ends)
			}
		}
	}
	if c.row.wakeAt > 0 {
		select {
		case l.rescan <- struct{}{}:
		default:
		}
	}
}

// loadQueue reads the inbox; it is read only when it may be taken up.
func (c *change) loadQueue() error {
	if c.st.Queued == 0 || len(c.queue) > c.fresh {
		return nil
	}
	rows, err := c.tx.Query(`SELECT pos, id, type, payload FROM inbox WHERE session_id = $1 ORDER BY pos`, c.row.id)
	if err != nil {
		return fmt.Errorf("reading the inbox of %s: %w", c.row.id, err)
	}
	defer rows.Close()
	var old []queued
	for rows.Next() {
		var q queued
		var payload string
		if err := rows.Scan(&q.pos, &q.id, &q.typ, &payload); err != nil {
			return fmt.Errorf("reading the inbox of %s: %w", c.row.id, err)
		}
		q.payload = json.RawMessage(payload)
		old = append(old, q)
	}
	c.queue = append(old, c.queue...)
	return rows.Err()
}

// takeQueue puts the whole inbox into the log.
func (c *change) takeQueue() error {
	if err := c.loadQueue(); err != nil {
		return err
	}
	for _, q := range c.queue {
		c.emitInput(q)
	}
	if c.st.Queued > 0 {
		if _, err := c.tx.Exec(`DELETE FROM inbox WHERE session_id = $1`, c.row.id); err != nil {
			return fmt.Errorf("emptying the inbox of %s: %w", c.row.id, err)
		}
	}
	// NextPos grows on: a place in the inbox never comes again, so that a page's cursor holds.
	c.queue, c.fresh, c.st.Queued = nil, 0, 0
	return nil
}

// saveQueue writes the inputs of this append that nobody took up.
func (c *change) saveQueue() error {
	for _, q := range c.queue[len(c.queue)-c.fresh:] {
		c.st.NextPos++
		c.st.Queued++
		c.touched = true
		if _, err := c.tx.Exec(`INSERT INTO inbox (session_id, pos, id, type, payload) VALUES ($1, $2, $3, $4, $5)`,
			c.row.id, c.st.NextPos, q.id, string(q.typ), string(q.payload)); err != nil {
			return fmt.Errorf("queueing for session %s: %w", c.row.id, err)
		}
	}
	c.fresh = 0
	return nil
}

// quote writes s as a JSON string.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""` // a string always marshals
	}
	return string(b)
}
