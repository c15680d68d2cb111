package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"croft"
	"croft/internal/store"
)

// Bounds of one tail: beyond them its reader is too slow.
const (
	tailFrames = 4096
	tailBytes  = 8 << 20
	// Previews are shed earlier, so that a slow reader loses them before it is dropped.
	previewFrames = tailFrames / 2
	previewBytes  = tailBytes / 2
	// A page of the stored log ends at the first of these bounds.
	backlogPage  = 200
	backlogBytes = 4 << 20
)

// Frame is what a tail delivers: an event, or a preview. It is shared by every tail of the
// session and must not be changed.
type Frame struct {
	ID   string // the event's id; empty on previews
	Seq  int64  // 0 on previews
	Type croft.EventType
	Data json.RawMessage
	// Thread is whose history it belongs to.
	Thread string
	// preview is the id of the event that this frame previews, previewType its type.
	preview     string
	previewType croft.EventType
}

// SlowError ends a tail whose reader fell too far behind. After is the id of the last
// event it was given: a new tail may go on behind it.
type SlowError struct{ After string }

// Error says what to do.
func (e *SlowError) Error() string {
	return "the reader fell too far behind and was dropped; open the stream again with Last-Event-ID"
}

// hub brings committed events and previews to the tails of each session.
type hub struct {
	l        *Log
	mu       sync.Mutex
	sessions map[string]*watch
	closed   bool
}

// unknown is a watch's place before the log's end was read.
const unknown = int64(-1)

// watch is the live side of one session that somebody looks at.
type watch struct {
	last  int64           // the last event that was delivered; unknown while it is being read
	early map[int64]Frame // committed out of order by another connection of the pool
	tails map[*Tail]struct{}
}

func (h *hub) init(l *Log) { h.l, h.sessions = l, map[string]*watch{} }

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, w := range h.sessions {
		for t := range w.tails {
			t.end(io.EOF)
		}
	}
	h.sessions = map[string]*watch{}
}

// publish delivers committed events in the order of the log.
func (h *hub) publish(session string, events []croft.Event) {
	if len(events) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.sessions[session]
	if w == nil {
		return
	}
	for i := range events {
		e := &events[i]
		f := Frame{ID: e.ID, Seq: e.Seq, Type: e.Type, Data: e.Payload, Thread: e.ThreadID}
		if w.last == unknown || e.Seq > w.last+1 {
			// The place to begin at is still being read, or an earlier append has
			// committed and is not shown yet.
			w.early[e.Seq] = f
			continue
		}
		if e.Seq == w.last+1 {
			w.deliver(f)
		}
	}
	w.drain()
}

func (w *watch) drain() {
	for w.last != unknown {
		f, ok := w.early[w.last+1]
		if !ok {
			return
		}
		delete(w.early, f.Seq)
		w.deliver(f)
	}
}

func (w *watch) deliver(f Frame) {
	w.last = f.Seq
	for t := range w.tails {
		t.push(f)
	}
}

// Watched tells whether anybody looks at the session, so that previews are worth making.
func (l *Log) Watched(session string) bool {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	return l.hub.sessions[session] != nil
}

// PreviewStart announces the event that is being generated. Previews are never stored.
func (l *Log) PreviewStart(session, thread, id string, typ croft.EventType) {
	l.hub.preview(session, Frame{Type: croft.EventStart, Thread: thread, preview: id, previewType: typ,
		Data: json.RawMessage(`{"type":"event_start","event":{"type":"` + string(typ) + `","id":"` + id + `"}}`)})
}

// PreviewText adds text to the announced message's content block of that index.
func (l *Log) PreviewText(session, thread, id string, index int, text string) {
	l.hub.preview(session, Frame{Type: croft.EventDelta, Thread: thread, preview: id, previewType: croft.AgentMessage,
		Data: json.RawMessage(`{"type":"event_delta","event_id":"` + id + `","delta":{"type":"content_delta","index":` + itoa(index) +
			`,"content":{"type":"text","text":` + quote(text) + `}}}`)})
}

func (h *hub) preview(session string, f Frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.sessions[session]; w != nil {
		for t := range w.tails {
			t.push(f)
		}
	}
}

// gone ends a session's tails with a last frame.
func (h *hub) gone(session string, last Frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.sessions[session]
	if w == nil {
		return
	}
	for t := range w.tails {
		t.push(last)
		t.end(io.EOF)
	}
	delete(h.sessions, session)
}

// TailQuery says what a tail is to deliver.
type TailQuery struct {
	// After is the id of the last event the reader has; empty: what comes from now on.
	After string
	// Deltas are the event types whose previews are wanted.
	Deltas []croft.EventType
	// Thread limits the tail to one thread's history; empty: the session's.
	Thread string
}

// Tail is a reader's place at the end of a session's log. It holds no goroutine: whoever
// reads it calls Poll when Ready is signalled, or Next. One reader at a time.
type Tail struct {
	h       *hub
	session string
	thread  string
	deltas  map[croft.EventType]bool
	ready   chan struct{}

	mu      sync.Mutex
	queue   []Frame
	bytes   int
	err     error // once the queue is empty, the end
	sent    int64 // the last event handed to the reader
	sentID  string
	behind  bool   // the reader is still in the stored log; live events are not queued
	started string // the preview under way, and whether it was cut short
	shed    bool
}

// Tail begins to follow a session.
func (l *Log) Tail(ctx context.Context, workspace, id string, q TailQuery) (*Tail, error) {
	t := &Tail{h: &l.hub, session: id, thread: q.Thread, ready: make(chan struct{}, 1), deltas: map[croft.EventType]bool{}}
	for _, d := range q.Deltas {
		t.deltas[d] = true
	}
	// First listen, then ask where the log ends: nothing falls between.
	l.hub.mu.Lock()
	if l.hub.closed {
		l.hub.mu.Unlock()
		return nil, croft.Errorf(croft.Overloaded, "this server is stopping")
	}
	w := l.hub.sessions[id]
	if w == nil {
		w = &watch{last: unknown, early: map[int64]Frame{}, tails: map[*Tail]struct{}{}}
		l.hub.sessions[id] = w
	}
	t.behind = true
	w.tails[t] = struct{}{}
	l.hub.mu.Unlock()

	var last, after int64
	err := l.db.Read(ctx, func(tx *store.Tx) error {
		var owner, thread string
		err := tx.QueryRow(`SELECT workspace_id, last_seq, thread_id FROM sessions WHERE id = $1`, id).Scan(&owner, &last, &thread)
		if errors.Is(err, store.ErrNoRows) || (err == nil && owner != workspace) {
			return croft.Missing("session", id)
		}
		if err != nil {
			return fmt.Errorf("reading session %s: %w", id, err)
		}
		if q.Thread != "" && q.Thread != thread {
			return croft.Missing("thread", q.Thread)
		}
		after = last
		if q.After == "" {
			return nil
		}
		err = tx.QueryRow(`SELECT seq FROM events WHERE id = $1 AND session_id = $2`, q.After, id).Scan(&after)
		if errors.Is(err, store.ErrNoRows) {
			return croft.Invalid("Last-Event-ID", "%q is no event of this session", q.After)
		}
		return err
	})
	if err != nil {
		t.Close()
		return nil, err
	}
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	if w.last == unknown {
		// Nobody looked on before. (Where somebody did, what is not shown to them yet
		// must still reach them; this tail passes over it in push.)
		w.last = last
		for seq := range w.early {
			if seq <= last {
				delete(w.early, seq)
			}
		}
		w.drain()
	}
	t.mu.Lock()
	t.sent, t.sentID = after, q.After
	t.behind = after < w.last
	t.mu.Unlock()
	if t.behind {
		t.signal()
	}
	return t, nil
}

// push queues a frame; the hub's lock is held.
func (t *Tail) push(f Frame) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil || (t.thread != "" && f.Thread != t.thread) {
		return
	}
	if f.preview != "" {
		if t.behind || !t.deltas[f.previewType] {
			return
		}
		if f.Type == croft.EventStart {
			t.started, t.shed = f.preview, false
		}
		// A preview that was not seen from its start, or lost a piece, goes no further:
		// what was delivered stays a prefix.
		if t.started != f.preview || t.shed {
			return
		}
		if len(t.queue) >= previewFrames || t.bytes >= previewBytes {
			t.shed = true
			return
		}
	} else if t.behind && f.Type != croft.SessionDeleted {
		t.signal()
		return
	} else if f.Seq > 0 && f.Seq <= t.sent {
		return
	}
	// An event larger than the whole bound goes through where nothing else waits.
	if len(t.queue) >= tailFrames || (len(t.queue) > 0 && t.bytes+len(f.Data) > tailBytes) {
		t.err = &SlowError{After: t.sentID}
		t.queue, t.bytes = nil, 0
		t.signal()
		return
	}
	t.queue = append(t.queue, f)
	t.bytes += len(f.Data)
	t.signal()
}

// end lets the reader finish what is queued and then gives it err.
func (t *Tail) end(err error) {
	t.mu.Lock()
	if t.err == nil {
		t.err = err
	}
	t.mu.Unlock()
	t.signal()
}

func (t *Tail) signal() {
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

// Ready is signalled when Poll may have something. Signals are merged.
func (t *Tail) Ready() <-chan struct{} { return t.ready }

// Poll returns what there is, without waiting for more than the database. Once the tail
// has ended it returns the reason: io.EOF behind session.deleted and at the server's end,
// a *SlowError for a reader that was dropped.
func (t *Tail) Poll(ctx context.Context) ([]Frame, error) {
	t.mu.Lock()
	if t.behind {
		from := t.sent
		t.mu.Unlock()
		return t.backlog(ctx, from)
	}
	frames := t.queue
	t.queue, t.bytes = nil, 0
	for i := range frames {
		if frames[i].Seq > 0 {
			t.sent, t.sentID = frames[i].Seq, frames[i].ID
		}
	}
	err := t.err
	t.mu.Unlock()
	if len(frames) > 0 {
		if err != nil {
			t.signal() // the end is told at the next call
		}
		return frames, nil
	}
	return nil, err
}

// backlog reads the next page of the stored log, and joins the live side at its end.
func (t *Tail) backlog(ctx context.Context, from int64) ([]Frame, error) {
	var frames []Frame
	size := 0
	err := t.h.l.db.Read(ctx, func(tx *store.Tx) error {
		frames, size = nil, 0
		rows, err := tx.Query(`SELECT seq, id, type, thread_id, payload FROM events WHERE session_id = $1 AND seq > $2 ORDER BY seq LIMIT $3`, t.session, from, backlogPage)
		if err != nil {
			return err
		}
		defer rows.Close()
		for size < backlogBytes && rows.Next() {
			var f Frame
			var payload string
			if err := rows.Scan(&f.Seq, &f.ID, &f.Type, &f.Thread, &payload); err != nil {
				return err
			}
			f.Data = json.RawMessage(payload)
			size += len(payload)
			frames = append(frames, f)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("reading the log of %s: %w", t.session, err)
	}
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(frames); n > 0 {
		t.sent, t.sentID = frames[n-1].Seq, frames[n-1].ID
	}
	w := t.h.sessions[t.session]
	switch {
	case w == nil:
		t.behind = false // deleted meanwhile: the end is set
	case t.sent >= w.last:
		t.behind = false // what the page showed already is passed over in push
	default:
		t.signal()
	}
	if t.err != nil {
		t.signal()
	}
	if t.thread != "" {
		kept := frames[:0]
		for _, f := range frames {
			if f.Thread == t.thread {
				kept = append(kept, f)
			}
		}
		frames = kept
	}
	return frames, nil
}

// Next waits for the next frames. See Poll for the errors.
func (t *Tail) Next(ctx context.Context) ([]Frame, error) {
	for {
		frames, err := t.Poll(ctx)
		if len(frames) > 0 || err != nil {
			return frames, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-t.ready:
		}
	}
}

// Close ends the tail. It may be called more than once.
func (t *Tail) Close() {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	if w := t.h.sessions[t.session]; w != nil {
		delete(w.tails, t)
		if len(w.tails) == 0 {
			delete(t.h.sessions, t.session)
		}
	}
	t.end(io.EOF)
}
