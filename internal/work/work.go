// Package work is an environment's queue: it offers the sessions that have something to
// run to workers, and keeps who holds which. It owns the work table, the session tokens,
// the leases and their expiry, and the attachments of workers that listen for offers. It
// imports the store and the language; the log calls Insert inside its own transactions
// and is called back through Sessions.
//
// An item's life:
//
//	queued ──ack──► starting ──first heartbeat──► active ──stop──► stopped
//	  ▲                │                            │
//	  └── lease lost ──┴────────────────────────────┘   while calls are open, with back-off
//
// A claim counts up the item's claim number; a session token speaks for one claim, so that
// a result under a lost lease is refused. A worker is known by an id of its own, kept with
// its journal of calls, and by the incarnation of its process: a new incarnation ends the
// leases of the earlier one at once.
package work

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"croft"
	"croft/internal/store"
)

// Times of leases.
const (
	DefaultTTL = 30 * time.Second
	minTTL     = 5 * time.Second
	maxTTL     = 10 * time.Minute
	// reclaimAfter is when an offer that nobody acknowledged is made again.
	reclaimAfter = 5 * time.Second
	// maxAttempts is how many claims in a row may end without a result.
	maxAttempts = 5
)

// States of an item.
const (
	queued   = "queued"
	starting = "starting"
	active   = "active"
	stopping = "stopping"
	stopped  = "stopped"
)

// NoHeartbeat is what the first heartbeat of a claim echoes.
const NoHeartbeat = "NO_HEARTBEAT"

// Call is a tool call for the holder of an item.
type Call struct {
	ID    string          `json:"id"` // of the agent.tool_use event: the idempotency key
	Name  string          `json:"name"`
	Input json.RawMessage `json:"input"`
	// FirstWorker is the first worker that was given the call. Any other one must report
	// it as cut off, never run it.
	FirstWorker string `json:"first_worker,omitempty"`
}

// Item is a work item as the wire shows it.
type Item struct {
	ID              string            `json:"id"`
	Type            string            `json:"type"` // "work"
	EnvironmentID   string            `json:"environment_id"`
	Data            Data              `json:"data"`
	State           string            `json:"state"`
	Metadata        map[string]string `json:"metadata"`
	Secret          *string           `json:"secret"` // base64url JSON {"sessions_token": …}, in the answer to an ack alone
	CreatedAt       croft.Time        `json:"created_at"`
	AcknowledgedAt  croft.Time        `json:"acknowledged_at"`
	StartedAt       croft.Time        `json:"started_at"`
	LatestHeartbeat croft.Time        `json:"latest_heartbeat_at"`
	StopRequestedAt croft.Time        `json:"stop_requested_at"`
	StoppedAt       croft.Time        `json:"stopped_at"`

	workspace   string
	worker      string
	incarnation string
	heartbeat   string
	claim       int64
	attempts    int64
	availableAt croft.Time
	leaseUntil  croft.Time
}

// Data is what an item is about: a session.
type Data struct {
	ID   string `json:"id"`
	Type string `json:"type"` // "session"
}

// Heartbeat is the answer to a heartbeat.
type Heartbeat struct {
	Type          string `json:"type"` // "work_heartbeat"
	LastHeartbeat string `json:"last_heartbeat"`
	LeaseExtended bool   `json:"lease_extended"`
	State         string `json:"state"`
	TTLSeconds    int    `json:"ttl_seconds"`
}

// Spec is what Croft's worker must know to serve an item.
type Spec struct {
	Type          string                  `json:"type"` // "work_spec"
	WorkID        string                  `json:"work_id"`
	SessionID     string                  `json:"session_id"`
	EnvironmentID string                  `json:"environment_id"`
	Config        croft.EnvironmentConfig `json:"config"`
	Calls         []Call                  `json:"calls"`
	LeaseTTL      int                     `json:"lease_ttl_s"`
}

// Grant is whom a session token speaks for.
type Grant struct {
	Workspace, EnvironmentID, WorkID, SessionID string
	Claim                                       int64
	until                                       croft.Time
}

// Sessions is the log, as the queue needs it. Claimed and Released run inside the queue's
// transaction and lock the session before the queue writes the item.
type Sessions interface {
	Claimed(tx *store.Tx, session, item, worker string, claim int64) error
	Released(tx *store.Tx, session, item, giveUp string) (again bool, err error)
	Calls(ctx context.Context, session, item string) ([]Call, error)
}

// Queue is the queue of every environment of one database. It is safe for concurrent use.
type Queue struct {
	db       *store.DB
	log      *slog.Logger
	sessions Sessions

	mu      sync.Mutex
	closed  bool
	attach  map[*Attachment]struct{}
	holders map[string]holder // by work id: who is to be told of calls
	offered map[string]offer  // by work id: offers that nobody has acknowledged
	grants  map[string]Grant  // by token hash

	stop context.CancelFunc
	done sync.WaitGroup
	kick chan struct{} // an earlier expiry may have been written
}

// holder is who holds an item by which of its claims.
type holder struct {
	to    *Attachment
	claim int64
}

type offer struct {
	to *Attachment
	at time.Time
}

// New makes a Queue; it expires nothing before Start.
func New(db *store.DB, log *slog.Logger) *Queue {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Queue{db: db, log: log, attach: map[*Attachment]struct{}{}, holders: map[string]holder{},
		offered: map[string]offer{}, grants: map[string]Grant{}, kick: make(chan struct{}, 1)}
}

// Bind gives the queue its log. It is called once, before Start.
func (q *Queue) Bind(s Sessions) { q.sessions = s }

// Start begins to end leases that expire.
func (q *Queue) Start(ctx context.Context) {
	ctx, q.stop = context.WithCancel(context.WithoutCancel(ctx))
	q.done.Add(1)
	go func() {
		defer q.done.Done()
		q.expire(ctx)
	}()
}

// Close ends every attachment. Leases stay: their holders come back to another server, or
// to this one started again.
func (q *Queue) Close() {
	if q.stop != nil {
		q.stop()
	}
	q.done.Wait()
	q.mu.Lock()
	q.closed = true
	all := make([]*Attachment, 0, len(q.attach))
	for a := range q.attach {
		all = append(all, a)
	}
	q.mu.Unlock()
	for _, a := range all {
		a.Close()
	}
}

// Insert puts a session's item into the queue, inside the log's transaction. The caller
// offers it after the commit.
func Insert(tx *store.Tx, workspace, environment, session string) (*Item, error) {
	i := &Item{ID: croft.NewID(croft.PrefixWork), Type: "work", EnvironmentID: environment, Data: Data{ID: session, Type: "session"},
		State: queued, Metadata: map[string]string{}, CreatedAt: tx.Now, workspace: workspace, availableAt: tx.Now}
	_, err := tx.Exec(`INSERT INTO work (id, workspace_id, environment_id, session_id, state, available_at, created_at) VALUES ($1, $2, $3, $4, $5, $6, $6)`,
		i.ID, workspace, environment, session, queued, tx.Now)
	if err != nil {
		return nil, fmt.Errorf("queueing work of session %s: %w", session, err)
	}
	return i, nil
}

const itemColumns = `id, workspace_id, environment_id, session_id, state, worker, incarnation, claim, attempts, available_at, lease_until, heartbeat, metadata,
	created_at, acknowledged_at, started_at, heartbeat_at, stop_requested_at, stopped_at`

type scanner interface{ Scan(...any) error }

func scanItem(row scanner) (*Item, error) {
	i := &Item{Type: "work", Data: Data{Type: "session"}}
	var metadata string
	err := row.Scan(&i.ID, &i.workspace, &i.EnvironmentID, &i.Data.ID, &i.State, &i.worker, &i.incarnation, &i.claim, &i.attempts, &i.availableAt, &i.leaseUntil, &i.heartbeat, &metadata,
		&i.CreatedAt, &i.AcknowledgedAt, &i.StartedAt, &i.LatestHeartbeat, &i.StopRequestedAt, &i.StoppedAt)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(metadata), &i.Metadata); err != nil {
		return nil, fmt.Errorf("reading work item %s: %w", i.ID, err)
	}
	return i, nil
}

// item reads an item; lock locks its row.
func (q *Queue) item(tx *store.Tx, workspace, environment, id string, lock bool) (*Item, error) {
	text := `SELECT ` + itemColumns + ` FROM work WHERE id = $1`
	if lock {
		text += tx.ForUpdate()
	}
	i, err := scanItem(tx.QueryRow(text, id))
	if errors.Is(err, store.ErrNoRows) || (err == nil && (i.workspace != workspace || (environment != "" && i.EnvironmentID != environment))) {
		return nil, croft.Missing("work item", id)
	}
	if err != nil {
		return nil, fmt.Errorf("reading work item %s: %w", id, err)
	}
	return i, nil
}

// Get returns an item.
func (q *Queue) Get(ctx context.Context, workspace, environment, id string) (i *Item, err error) {
	err = q.db.Read(ctx, func(tx *store.Tx) error {
		i, err = q.item(tx, workspace, environment, id, false)
		return err
	})
	return i, err
}

func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// Ack claims an item for a worker and returns it with its secret. Somebody else's claim is
// a 409: the offer is lost, nothing more. The same process may ask again until its first
// heartbeat, where it did not get the answer: it is given another secret for the same claim.
func (q *Queue) Ack(ctx context.Context, workspace, environment, id, worker, incarnation string) (*Item, error) {
	if worker == "" {
		return nil, croft.Invalid("worker", "accepted is the worker's own id, at most 100 characters")
	}
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("making a session token: %w", err)
	}
	token := "croft_sess_" + base64.RawURLEncoding.EncodeToString(b[:])
	var item *Item
	err := q.db.Write(ctx, func(tx *store.Tx) error {
		// The session is locked before the item is read: its claim number must be the latest.
		i, err := q.lockItem(tx, workspace, environment, id)
		if err != nil {
			return err
		}
		if i.State == starting && i.worker == worker && i.incarnation == incarnation && i.heartbeat == NoHeartbeat {
			if _, err := tx.Exec(`UPDATE work SET token_hash = $1 WHERE id = $2`, hash(token), id); err != nil {
				return fmt.Errorf("claiming work item %s: %w", id, err)
			}
			item = i
			tx.OnCommit(func() {
				q.mu.Lock()
				defer q.mu.Unlock()
				q.revoke(id) // the secret that was lost on the way
			})
			return i.setSecret(token)
		}
		if i.State != queued {
			return croft.Errorf(croft.Conflict, "work item %q is %s: another worker has it", id, i.State)
		}
		if err := q.sessions.Claimed(tx, i.Data.ID, id, worker, i.claim+1); err != nil {
			return err
		}
		until := tx.Now.Add(DefaultTTL)
		n, err := tx.Exec(`UPDATE work SET state = $1, worker = $2, incarnation = $3, claim = claim + 1, attempts = attempts + 1, token_hash = $4, lease_until = $5,
			heartbeat = $6, acknowledged_at = $7, started_at = 0, heartbeat_at = 0 WHERE id = $8 AND state = $9`,
			starting, worker, incarnation, hash(token), until, NoHeartbeat, tx.Now, id, queued)
		if err != nil {
			return fmt.Errorf("claiming work item %s: %w", id, err)
		}
		if n == 0 {
			return croft.Errorf(croft.Conflict, "work item %q was claimed by another worker", id)
		}
		i.State, i.AcknowledgedAt, i.claim, i.worker = starting, tx.Now, i.claim+1, worker
		if err := i.setSecret(token); err != nil {
			return err
		}
		item = i
		tx.OnCommit(func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.unoffer(id)
			for a := range q.attach {
				if a.Workspace == workspace && a.worker == worker && a.incarnation == incarnation {
					q.hold(id, i.claim, a)
					break
				}
			}
			q.wake()
		})
		return nil
	})
	return item, err
}

// setSecret puts the token into the item as workers read it.
func (i *Item) setSecret(token string) error {
	b, err := json.Marshal(map[string]string{"sessions_token": token})
	if err != nil {
		return fmt.Errorf("writing the secret of %s: %w", i.ID, err)
	}
	text := base64.RawURLEncoding.EncodeToString(b)
	i.Secret = &text
	return nil
}

func (q *Queue) wake() {
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

// Heartbeat extends a lease. expected must echo the last answer's last_heartbeat, the
// first time NoHeartbeat; anything else, or a lease that is lost, is a 412.
func (q *Queue) Heartbeat(ctx context.Context, workspace, environment, id, expected string, ttlSeconds int) (*Heartbeat, error) {
	ttl := DefaultTTL
	if ttlSeconds > 0 {
		ttl = min(max(time.Duration(ttlSeconds)*time.Second, minTTL), maxTTL)
	}
	var h *Heartbeat
	err := q.db.Write(ctx, func(tx *store.Tx) error {
		i, err := q.item(tx, workspace, environment, id, true)
		if err != nil {
			return err
		}
		if i.State == queued || i.State == stopped || i.leaseUntil == 0 || i.leaseUntil < tx.Now {
			return croft.Errorf(croft.PreconditionFailed, "the lease of work item %q is lost", id)
		}
		if expected != i.heartbeat {
			return croft.Errorf(croft.PreconditionFailed, "expected_last_heartbeat does not match the last heartbeat of work item %q: another worker may hold it", id)
		}
		state, started := i.State, i.StartedAt
		if state == starting {
			state, started = active, tx.Now
		}
		until, echo := tx.Now.Add(ttl), tx.Now.String()
		if _, err := tx.Exec(`UPDATE work SET state = $1, started_at = $2, lease_until = $3, heartbeat = $4, heartbeat_at = $5 WHERE id = $6`,
			state, started, until, echo, tx.Now, id); err != nil {
			return fmt.Errorf("extending the lease of %s: %w", id, err)
		}
		earlier := until < i.leaseUntil
		h = &Heartbeat{Type: "work_heartbeat", LastHeartbeat: echo, LeaseExtended: true, State: state, TTLSeconds: int(ttl / time.Second)}
		tx.OnCommit(func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			for k, g := range q.grants {
				if g.WorkID == id {
					g.until = until
					q.grants[k] = g
				}
			}
			if earlier {
				q.wake()
			}
		})
		return nil
	})
	return h, err
}

// Stop gives an item back: at once with force, or when nobody holds it; else its holder is
// asked to, again at each call. An item that is stopped already is a 409.
func (q *Queue) Stop(ctx context.Context, workspace, environment, id string, force bool) (*Item, error) {
	var item *Item
	err := q.db.Write(ctx, func(tx *store.Tx) error {
		i, err := q.lockItem(tx, workspace, environment, id)
		if err != nil {
			return err
		}
		if i.State == stopped {
			return croft.Errorf(croft.Conflict, "work item %q is stopped already", id)
		}
		if !force && (i.State == active || i.State == starting || i.State == stopping) {
			if _, err := tx.Exec(`UPDATE work SET state = $1, stop_requested_at = $2 WHERE id = $3`, stopping, tx.Now, id); err != nil {
				return fmt.Errorf("stopping work item %s: %w", id, err)
			}
			i.State, i.StopRequestedAt = stopping, tx.Now
			item = i
			session := i.Data.ID
			tx.OnCommit(func() { q.tell(id, Frame{Type: "stop", WorkID: id, SessionID: session, Reason: "requested"}) })
			return nil
		}
		item = i
		return q.release(tx, i, 0)
	})
	return item, err
}

// release ends an item's lease inside tx. While calls are open the item goes back to the
// queue, not before after has passed; else it is stopped. i is brought up to date.
func (q *Queue) release(tx *store.Tx, i *Item, after time.Duration) error {
	giveUp := ""
	if i.attempts >= maxAttempts {
		giveUp = fmt.Sprintf("No worker could run this: %d tried and were lost before they had a result.", i.attempts)
	}
	again, err := q.sessions.Released(tx, i.Data.ID, i.ID, giveUp)
	if err != nil {
		return fmt.Errorf("releasing work item %s: %w", i.ID, err)
	}
	hadLease := i.leaseUntil > 0
	if again {
		i.State, i.availableAt = queued, tx.Now.Add(after)
		_, err = tx.Exec(`UPDATE work SET state = $1, worker = '', incarnation = '', token_hash = '', lease_until = 0, heartbeat = '', available_at = $2, stop_requested_at = 0 WHERE id = $3`,
			queued, i.availableAt, i.ID)
	} else {
		i.State, i.StoppedAt = stopped, tx.Now
		_, err = tx.Exec(`UPDATE work SET state = $1, worker = '', incarnation = '', token_hash = '', lease_until = 0, stopped_at = $2 WHERE id = $3`, stopped, tx.Now, i.ID)
	}
	if err != nil {
		return fmt.Errorf("releasing work item %s: %w", i.ID, err)
	}
	i.worker, i.incarnation, i.leaseUntil = "", "", 0
	next := *i
	tx.OnCommit(func() { q.released(&next, hadLease, again) })
	return nil
}

// Progress notes that a claim had a result, so that earlier losses count no more. It is
// called by the log's transaction through the item's id.
func Progress(tx *store.Tx, id string) error {
	_, err := tx.Exec(`UPDATE work SET attempts = 1 WHERE id = $1 AND attempts > 1`, id)
	return err
}

// Spec returns what the holder of an item must know to serve it.
func (q *Queue) Spec(ctx context.Context, workspace, id string) (*Spec, error) {
	s := &Spec{Type: "work_spec", WorkID: id, LeaseTTL: int(DefaultTTL / time.Second)}
	err := q.db.Read(ctx, func(tx *store.Tx) error {
		i, err := q.item(tx, workspace, "", id, false)
		if err != nil {
			return err
		}
		s.SessionID, s.EnvironmentID = i.Data.ID, i.EnvironmentID
		var body string
		if err := tx.QueryRow(`SELECT body FROM environments WHERE id = $1`, i.EnvironmentID).Scan(&body); err != nil {
			return fmt.Errorf("reading environment %s: %w", i.EnvironmentID, err)
		}
		var env croft.Environment
		if err := json.Unmarshal([]byte(body), &env); err != nil {
			return fmt.Errorf("reading environment %s: %w", i.EnvironmentID, err)
		}
		s.Config = env.Config
		return nil
	})
	if err != nil {
		return nil, err
	}
	if s.Calls, err = q.sessions.Calls(ctx, s.SessionID, id); s.Calls == nil {
		s.Calls = []Call{}
	}
	return s, err
}

// Token finds whom a session token speaks for. A token whose lease is lost, or that never
// was, is a 401.
func (q *Queue) Token(ctx context.Context, token string) (*Grant, error) {
	h := hash(token)
	q.mu.Lock()
	g, ok := q.grants[h]
	q.mu.Unlock()
	if ok && g.until >= croft.Now() {
		return &g, nil
	}
	err := q.db.Read(ctx, func(tx *store.Tx) error {
		i, err := scanItem(tx.QueryRow(`SELECT `+itemColumns+` FROM work WHERE token_hash = $1`, h))
		if errors.Is(err, store.ErrNoRows) || (err == nil && i.leaseUntil < tx.Now) {
			return croft.Errorf(croft.Authentication, "the session token is unknown, or its lease is lost")
		}
		if err != nil {
			return fmt.Errorf("reading a session token: %w", err)
		}
		g = Grant{Workspace: i.workspace, EnvironmentID: i.EnvironmentID, WorkID: i.ID, SessionID: i.Data.ID, Claim: i.claim, until: i.leaseUntil}
		return nil
	})
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	q.grants[h] = g
	q.mu.Unlock()
	return &g, nil
}
