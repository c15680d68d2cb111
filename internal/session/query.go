package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"croft"
	"croft/internal/store"
	"croft/internal/wire"
)

const sessionColumns = `id, agent, environment_id, title, metadata, status, state, created_at, updated_at, archived_at`

type scanner interface{ Scan(dest ...any) error }

// scanSession reads a row of sessionColumns as the wire shows it.
func scanSession(row scanner, now croft.Time) (*croft.Session, *state, error) {
	s := &croft.Session{Type: "session", Resources: []json.RawMessage{}, OutcomeEvaluations: []json.RawMessage{}, VaultIDs: []string{}}
	var agent, metadata, text string
	if err := row.Scan(&s.ID, &agent, &s.EnvironmentID, &s.Title, &metadata, &s.Status, &text, &s.CreatedAt, &s.UpdatedAt, &s.ArchivedAt); err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal([]byte(agent), &s.Agent); err != nil {
		return nil, nil, fmt.Errorf("reading the agent of session %s: %w", s.ID, err)
	}
	if err := json.Unmarshal([]byte(metadata), &s.Metadata); err != nil {
		return nil, nil, fmt.Errorf("reading the metadata of session %s: %w", s.ID, err)
	}
	st, err := decodeState(text)
	if err != nil {
		return nil, nil, err
	}
	s.Usage, s.Budget = st.usage(now), st.budget()
	end := now
	if s.ArchivedAt != 0 {
		end = s.ArchivedAt
	}
	s.Stats = croft.SessionStats{ActiveSeconds: s.Usage.ActiveSeconds, DurationSeconds: math.Round(float64(end-s.CreatedAt)/1e3) / 1e3}
	return s, st, nil
}

// read reads one session inside a transaction.
func (l *Log) read(tx *store.Tx, workspace, id string) (*croft.Session, error) {
	s, _, err := scanSession(tx.QueryRow(`SELECT `+sessionColumns+` FROM sessions WHERE id = $1 AND workspace_id = $2`, id, workspace), tx.Now)
	if errors.Is(err, store.ErrNoRows) {
		return nil, croft.Missing("session", id)
	}
	return s, err
}

// Get returns a session.
func (l *Log) Get(ctx context.Context, workspace, id string) (s *croft.Session, err error) {
	err = l.db.Read(ctx, func(tx *store.Tx) error {
		s, err = l.read(tx, workspace, id)
		return err
	})
	return s, err
}

// Agent returns the agent as the session runs it, with the count of its changes.
func (l *Log) Agent(ctx context.Context, id string) (agent *croft.SessionAgent, config int64, err error) {
	err = l.db.Read(ctx, func(tx *store.Tx) error {
		var text, st string
		err := tx.QueryRow(`SELECT agent, state FROM sessions WHERE id = $1`, id).Scan(&text, &st)
		if errors.Is(err, store.ErrNoRows) {
			return croft.Missing("session", id)
		}
		if err != nil {
			return err
		}
		s, err := decodeState(st)
		if err != nil {
			return err
		}
		config, agent = s.Config, new(croft.SessionAgent)
		return json.Unmarshal([]byte(text), agent)
	})
	return agent, config, err
}

// ListQuery filters sessions. Zero values filter nothing.
type ListQuery struct {
	AgentID                                      string
	AgentVersion                                 int64
	CreatedGt, CreatedGte, CreatedLt, CreatedLte croft.Time
	DeploymentID, MemoryStoreID                  string
	IncludeArchived                              bool
	Statuses                                     []croft.SessionStatus
	Limit                                        int    // 1 to 100; 0: 20
	Order                                        string // by creation: desc (default) or asc
	Page                                         string // a cursor of an earlier page
}

// List is a page of sessions with the cursors of its neighbours.
type List struct {
	Data     []*croft.Session `json:"data"`
	NextPage *string          `json:"next_page"`
	PrevPage *string          `json:"prev_page"`
}

// where collects the conditions of a query and their values.
type where struct {
	conds []string
	args  []any
}

func (w *where) add(cond string, arg any) {
	w.args = append(w.args, arg)
	w.conds = append(w.conds, strings.ReplaceAll(cond, "?", "$"+strconv.Itoa(len(w.args))))
}

func (w *where) times(column string, gt, gte, lt, lte croft.Time) {
	for _, c := range []struct {
		op string
		t  croft.Time
	}{{">", gt}, {">=", gte}, {"<", lt}, {"<=", lte}} {
		if c.t != 0 {
			w.add(column+" "+c.op+" ?", c.t)
		}
	}
}

func in[T ~string](w *where, column string, values []T) {
	if len(values) == 0 {
		return
	}
	marks := make([]string, len(values))
	for i, v := range values {
		w.args = append(w.args, string(v))
		marks[i] = "$" + strconv.Itoa(len(w.args))
	}
	w.conds = append(w.conds, column+" IN ("+strings.Join(marks, ", ")+")")
}

func (w *where) String() string {
	if len(w.conds) == 0 {
		return "1 = 1"
	}
	return strings.Join(w.conds, " AND ")
}

// List pages through a workspace's sessions by creation.
func (l *Log) List(ctx context.Context, workspace string, q ListQuery) (*List, error) {
	order, limit := q.Order, q.Limit
	if order == "" {
		order = "desc"
	}
	if limit == 0 {
		limit = 20
	}
	var w where
	w.add("workspace_id = ?", workspace)
	if q.AgentID != "" {
		w.add("agent_id = ?", q.AgentID)
	}
	if q.AgentVersion != 0 {
		w.add("agent_version = ?", q.AgentVersion)
	}
	if q.DeploymentID != "" || q.MemoryStoreID != "" {
		return &List{Data: []*croft.Session{}}, nil // no session has either in this version
	}
	if !q.IncludeArchived {
		w.conds = append(w.conds, "archived_at = 0")
	}
	in(&w, "status", q.Statuses)
	w.times("created_at", q.CreatedGt, q.CreatedGte, q.CreatedLt, q.CreatedLte)
	back := false
	var cur cursor
	if q.Page != "" {
		if err := cur.read(q.Page, "sessions", order); err != nil {
			return nil, err
		}
		back = cur.Back
		if (q.CreatedGt != 0 && cur.At <= q.CreatedGt) || (q.CreatedGte != 0 && cur.At < q.CreatedGte) ||
			(q.CreatedLt != 0 && cur.At >= q.CreatedLt) || (q.CreatedLte != 0 && cur.At > q.CreatedLte) {
			return nil, croft.Invalid("page", "the cursor's place lies outside the created_at filter")
		}
		w.args = append(w.args, cur.At, cur.ID)
		a, b := "$"+strconv.Itoa(len(w.args)-1), "$"+strconv.Itoa(len(w.args))
		op := ">"
		if (order == "desc") != back {
			op = "<"
		}
		w.conds = append(w.conds, "(created_at "+op+" "+a+" OR (created_at = "+a+" AND id "+op+" "+b+"))")
	}
	dir := order
	if back {
		dir = map[string]string{"asc": "desc", "desc": "asc"}[order]
	}
	list := &List{}
	more := false
	err := l.db.Read(ctx, func(tx *store.Tx) error {
		list.Data, more = []*croft.Session{}, false
		rows, err := tx.Query(`SELECT `+sessionColumns+` FROM sessions WHERE `+w.String()+` ORDER BY created_at `+dir+`, id `+dir+` LIMIT `+itoa(limit+1), w.args...)
		if err != nil {
			return fmt.Errorf("listing sessions: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			if len(list.Data) == limit {
				more = true
				break
			}
			s, _, err := scanSession(rows, tx.Now)
			if err != nil {
				return err
			}
			list.Data = append(list.Data, s)
		}
		return rows.Err()
	})
	if err != nil || len(list.Data) == 0 {
		return list, err
	}
	if back {
		for i, j := 0, len(list.Data)-1; i < j; i, j = i+1, j-1 {
			list.Data[i], list.Data[j] = list.Data[j], list.Data[i]
		}
	}
	first, last := list.Data[0], list.Data[len(list.Data)-1]
	if more || back {
		list.NextPage = cursor{At: last.CreatedAt, ID: last.ID}.write("sessions", order)
	}
	if (back && more) || (!back && q.Page != "") {
		list.PrevPage = cursor{At: first.CreatedAt, ID: first.ID, Back: true}.write("sessions", order)
	}
	return list, nil
}

// cursor is a place in a list.
type cursor struct {
	At   croft.Time `json:"a,omitempty"`
	ID   string     `json:"i,omitempty"`
	Seq  int64      `json:"s,omitempty"`
	Back bool       `json:"b,omitempty"`
}

func (c cursor) write(list, order string) *string {
	s := wire.WriteCursor(list, order, c)
	return &s
}

func (c *cursor) read(text, list, order string) error {
	return wire.ReadCursor(text, list, order, c)
}

// EventsQuery filters a session's events. Zero values filter nothing.
type EventsQuery struct {
	Order                                        string // asc (default) or desc
	Types                                        []croft.EventType
	ThreadID                                     string
	CreatedGt, CreatedGte, CreatedLt, CreatedLte croft.Time
	Limit                                        int // 1 to 1000; 0: 100
	Page                                         string
}

// EventPage is a page of events as the wire shows them.
type EventPage struct {
	Data     []json.RawMessage `json:"data"`
	NextPage *string           `json:"next_page"`
}

// queuedSeq is where the inbox begins in a listing: behind every event of the log.
const queuedSeq = int64(1) << 60

// Events pages through a session's log; what waits in the inbox comes last, with
// processed_at null.
func (l *Log) Events(ctx context.Context, workspace, id string, q EventsQuery) (*EventPage, error) {
	order, limit := q.Order, q.Limit
	if order == "" {
		order = "asc"
	}
	if limit == 0 {
		limit = 100
	}
	var cur cursor
	if q.Page != "" {
		if err := cur.read(q.Page, "events:"+id, order); err != nil {
			return nil, err
		}
	}
	page := &EventPage{}
	err := l.db.Read(ctx, func(tx *store.Tx) error {
		page.Data, page.NextPage = []json.RawMessage{}, nil
		var thread string
		err := tx.QueryRow(`SELECT thread_id FROM sessions WHERE id = $1 AND workspace_id = $2`, id, workspace).Scan(&thread)
		if errors.Is(err, store.ErrNoRows) {
			return croft.Missing("session", id)
		}
		if err != nil {
			return err
		}
		if q.ThreadID != "" && q.ThreadID != thread {
			return croft.Missing("thread", q.ThreadID)
		}
		type entry struct {
			seq     int64
			payload json.RawMessage
		}
		var all []entry
		read := func(text string, args []any, waiting bool) error {
			rows, err := tx.Query(text, args...)
			if err != nil {
				return fmt.Errorf("listing events of %s: %w", id, err)
			}
			defer rows.Close()
			for rows.Next() && len(all) <= limit {
				var e entry
				var payload string
				if err := rows.Scan(&e.seq, &payload); err != nil {
					return err
				}
				e.payload = json.RawMessage(payload)
				if waiting {
					e.seq += queuedSeq
					e.payload = processedAt(e.payload, 0)
				}
				all = append(all, e)
			}
			return rows.Err()
		}
		stored := func() error {
			w := where{}
			w.add("session_id = ?", id)
			in(&w, "type", q.Types)
			w.times("processed_at", q.CreatedGt, q.CreatedGte, q.CreatedLt, q.CreatedLte)
			if cur.Seq > 0 {
				w.add(map[string]string{"asc": "seq > ?", "desc": "seq < ?"}[order], min(cur.Seq, queuedSeq))
			}
			return read(`SELECT seq, payload FROM events WHERE `+w.String()+` ORDER BY seq `+order+` LIMIT `+itoa(limit+1), w.args, false)
		}
		waiting := func() error {
			if q.CreatedGt != 0 || q.CreatedGte != 0 || q.CreatedLt != 0 || q.CreatedLte != 0 {
				return nil // what waits has no time yet
			}
			w := where{}
			w.add("session_id = ?", id)
			in(&w, "type", q.Types)
			if cur.Seq > queuedSeq {
				w.add(map[string]string{"asc": "pos > ?", "desc": "pos < ?"}[order], cur.Seq-queuedSeq)
			} else if cur.Seq > 0 && order == "desc" {
				return nil
			}
			return read(`SELECT pos, payload FROM inbox WHERE `+w.String()+` ORDER BY pos `+order+` LIMIT `+itoa(limit+1), w.args, true)
		}
		steps := []func() error{stored, waiting}
		if order == "desc" {
			steps = []func() error{waiting, stored}
		}
		for _, step := range steps {
			if len(all) > limit {
				break
			}
			if err := step(); err != nil {
				return err
			}
		}
		if len(all) > limit {
			all = all[:limit]
			page.NextPage = cursor{Seq: all[limit-1].seq}.write("events:"+id, order)
		}
		for _, e := range all {
			page.Data = append(page.Data, e.payload)
		}
		return nil
	})
	return page, err
}

// History calls fn with each event of a thread behind seq after, up to seq upTo, in order.
func (l *Log) History(ctx context.Context, id, threadID string, after, upTo int64, fn func(*croft.Event) error) error {
	return l.db.Read(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(`SELECT seq, id, type, thread_id, payload, raw FROM events WHERE session_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq`, id, after, upTo)
		if err != nil {
			return fmt.Errorf("reading the log of %s: %w", id, err)
		}
		defer rows.Close()
		for rows.Next() {
			var e croft.Event
			var payload string
			var raw *string
			if err := rows.Scan(&e.Seq, &e.ID, &e.Type, &e.ThreadID, &payload, &raw); err != nil {
				return fmt.Errorf("reading the log of %s: %w", id, err)
			}
			e.Payload = json.RawMessage(payload)
			if raw != nil {
				e.Raw = json.RawMessage(*raw)
			}
			if e.ThreadID != threadID {
				continue
			}
			if err := fn(&e); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

// threadView is a thread as the wire shows it.
type threadView struct {
	ID             string              `json:"id"`
	Type           string              `json:"type"`
	SessionID      string              `json:"session_id"`
	ParentThreadID *string             `json:"parent_thread_id"`
	WorkflowRunID  *string             `json:"workflow_run_id"`
	Agent          json.RawMessage     `json:"agent"`
	Status         croft.SessionStatus `json:"status"`
	Stats          *threadStats        `json:"stats"` // null until it first ran
	Usage          *croft.Usage        `json:"usage"` // null until it first rested
	CreatedAt      croft.Time          `json:"created_at"`
	UpdatedAt      croft.Time          `json:"updated_at"`
	ArchivedAt     croft.Time          `json:"archived_at"`
}

type threadStats struct {
	croft.SessionStats
	StartupSeconds float64 `json:"startup_seconds"`
}

// Threads lists a session's threads: in this version its primary one.
func (l *Log) Threads(ctx context.Context, workspace, id string) (views []json.RawMessage, err error) {
	err = l.db.Read(ctx, func(tx *store.Tx) error {
		s, st, err := scanSession(tx.QueryRow(`SELECT `+sessionColumns+` FROM sessions WHERE id = $1 AND workspace_id = $2`, id, workspace), tx.Now)
		if errors.Is(err, store.ErrNoRows) {
			return croft.Missing("session", id)
		}
		if err != nil {
			return err
		}
		agent := map[string]any{}
		b, err := json.Marshal(s.Agent)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, &agent); err != nil {
			return err
		}
		delete(agent, "multiagent")
		if b, err = json.Marshal(agent); err != nil {
			return err
		}
		usage := s.Usage
		if usage.ListCost != nil {
			// A thread's own cost leaves the running time out.
			usage.ListCost = &croft.Money{Amount: strconv.FormatInt((st.Usage.Nanos+centNanos/2)/centNanos, 10), Currency: "USD"}
		}
		view := threadView{ID: st.Threads[0].ID, Type: "session_thread", SessionID: id, Agent: b, Status: s.Status,
			CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt, ArchivedAt: s.ArchivedAt}
		if st.ActiveUS > 0 || st.Since != 0 {
			view.Stats = &threadStats{SessionStats: s.Stats}
		}
		if st.ActiveUS > 0 {
			view.Usage = &usage
		}
		v, err := json.Marshal(view)
		views = []json.RawMessage{v}
		return err
	})
	return views, err
}

// Thread returns one thread of a session.
func (l *Log) Thread(ctx context.Context, workspace, id, threadID string) (json.RawMessage, error) {
	views, err := l.Threads(ctx, workspace, id)
	if err != nil {
		return nil, err
	}
	for _, v := range views {
		var head struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(v, &head); err == nil && head.ID == threadID {
			return v, nil
		}
	}
	return nil, croft.Missing("thread", threadID)
}
