// Package access knows who speaks: workspaces, and the keys that open them. It owns the
// tables workspaces and keys, and imports the store and the language. The API asks it who
// a credential belongs to; what that principal may do is written in the API's table of
// routes.
//
// A key is shown once, when it is made; the store holds its SHA-256 and its last four
// characters. The kinds:
//
//	croft_api_…    a workspace: everything in it
//	croft_fleet_…  a worker of the workspace's cloud environments
//	croft_env_…    a worker of one self-hosted environment
//
// and 43 characters, 256 random bits, behind. Session tokens of work items are no keys:
// the work queue makes them and knows them.
//
// Who a key belongs to is remembered for a second, so that the store isn't asked at every
// request. A key that is revoked here is refused at once; one that another process of the
// same database revoked, within that second. When a key was last used is written by a
// goroutine of its own, at most once a minute for a key.
package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"croft"
	"croft/internal/store"
)

// DefaultWorkspace is the id of the workspace that the first start makes.
const DefaultWorkspace = "wrkspc_default"

// Kind is what a credential opens.
type Kind string

// The kinds. Keys are of the first three.
const (
	API         Kind = "api"
	Fleet       Kind = "fleet"
	Environment Kind = "environment"
	Session     Kind = "session" // a work item's session token
)

// prefixes begin the keys of each kind.
var prefixes = map[Kind]string{API: "croft_api_", Fleet: "croft_fleet_", Environment: "croft_env_"}

// Principal is whom a credential speaks for. It must not be changed.
type Principal struct {
	Workspace string
	Kind      Kind
	KeyID     string // empty for a session token
	// EnvironmentID is set for an environment key and a session token.
	EnvironmentID string
	// WorkID, SessionID and Claim are set for a session token: its lease.
	WorkID, SessionID string
	Claim             int64
}

// Key is a key as it may be shown: all but the key itself.
type Key struct {
	ID            string     `json:"id"`
	Workspace     string     `json:"workspace_id"`
	Kind          Kind       `json:"kind"`
	EnvironmentID string     `json:"environment_id,omitempty"`
	Name          string     `json:"name"`
	Hint          string     `json:"hint"` // the last four characters
	CreatedAt     croft.Time `json:"created_at"`
	LastUsedAt    croft.Time `json:"last_used_at"` // to a minute
	RevokedAt     croft.Time `json:"revoked_at"`
}

const (
	// remember is how long an answer of the store is believed.
	remember = time.Second
	// rememberMax bounds the number of answers kept.
	rememberMax = 4096
	// usedEvery is how often a key's last use is written at most.
	usedEvery = time.Minute
	// usedMax bounds the keys whose last use waits to be written.
	usedMax = 4096
)

type digest = [sha256.Size]byte

// answer is what the store said of a digest; p is nil where no such key is in force.
type answer struct {
	p     *Principal
	until time.Time
}

// Store knows workspaces and keys. It is safe for concurrent use.
type Store struct {
	db  *store.DB
	log *slog.Logger

	mu      sync.Mutex
	answers map[digest]answer
	local   map[digest]*Principal // keys of this process, in no table
	changes int                   // counts what made remembered answers void
	used    map[string]croft.Time // by key id: the last use that was written or waits
	waiting map[string]croft.Time // by key id: uses to write

	wake chan struct{}
	stop context.CancelFunc
	done sync.WaitGroup
}

// New makes a Store over db. log may be nil.
func New(db *store.DB, log *slog.Logger) *Store {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{db: db, log: log, answers: map[digest]answer{}, local: map[digest]*Principal{},
		used: map[string]croft.Time{}, waiting: map[string]croft.Time{}, wake: make(chan struct{}, 1)}
}

// Start begins to write when keys were last used.
func (s *Store) Start(ctx context.Context) {
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done.Add(1)
	go func() {
		defer s.done.Done()
		s.writeUses(ctx)
	}()
}

// Stop writes what waits and ends what Start began.
func (s *Store) Stop() {
	if s.stop != nil {
		s.stop()
	}
	s.done.Wait()
}

// errUnknown is the one answer to every credential that is not in force: it does not tell
// a wrong key from a revoked one.
func errUnknown() error {
	return croft.Errorf(croft.Authentication, "the credential is unknown or was revoked")
}

// Authenticate tells whom a key speaks for. A key that is unknown or revoked, or whose
// workspace is archived, is a 401; any other error is the store's.
func (s *Store) Authenticate(ctx context.Context, credential string) (*Principal, error) {
	if credential == "" || len(credential) > maxKey {
		return nil, errUnknown()
	}
	sum := sha256.Sum256([]byte(credential))
	now := time.Now()
	s.mu.Lock()
	if p := s.local[sum]; p != nil {
		s.mu.Unlock()
		return p, nil
	}
	a, ok := s.answers[sum]
	changes := s.changes
	s.mu.Unlock()
	if !ok || now.After(a.until) {
		p, err := s.find(ctx, sum)
		if err != nil {
			return nil, err
		}
		a = answer{p, now.Add(remember)}
		s.keep(sum, a, changes)
	}
	if a.p == nil {
		return nil, errUnknown()
	}
	s.touch(a.p.KeyID)
	return a.p, nil
}

// find asks the store for a key in force; nil where there is none.
func (s *Store) find(ctx context.Context, sum digest) (*Principal, error) {
	var p Principal
	var stored string
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT k.id, k.workspace_id, k.kind, k.environment_id, k.hash FROM keys k JOIN workspaces w ON w.id = k.workspace_id
			WHERE k.hash = $1 AND k.revoked_at = 0 AND w.archived_at = 0`, hex.EncodeToString(sum[:])).
			Scan(&p.KeyID, &p.Workspace, &p.Kind, &p.EnvironmentID, &stored)
	})
	if errors.Is(err, store.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for a key: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(stored), []byte(hex.EncodeToString(sum[:]))) != 1 {
		return nil, nil
	}
	return &p, nil
}

// keep remembers an answer, unless a key has changed since the store was asked.
func (s *Store) keep(sum digest, a answer, changes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes != changes {
		return
	}
	if len(s.answers) >= rememberMax {
		now := time.Now()
		for k, old := range s.answers {
			if now.After(old.until) {
				delete(s.answers, k)
			}
		}
		if len(s.answers) >= rememberMax {
			clear(s.answers) // a flood of wrong keys: ask the store again for the others
		}
	}
	s.answers[sum] = a
}

// forget makes every remembered answer void.
func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	clear(s.answers)
}

// touch notes that a key was used just now, unless that was noted within the last minute.
func (s *Store) touch(id string) {
	now := croft.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now < s.used[id].Add(usedEvery) || len(s.waiting) >= usedMax {
		return
	}
	if len(s.used) >= usedMax {
		clear(s.used) // costs a few writes more
	}
	s.used[id], s.waiting[id] = now, now
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// writeUses writes the uses that wait, until ctx ends, and then what is left.
func (s *Store) writeUses(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
		s.flush(context.WithoutCancel(ctx))
	}
}

func (s *Store) flush(ctx context.Context) {
	s.mu.Lock()
	uses := s.waiting
	s.waiting = map[string]croft.Time{}
	s.mu.Unlock()
	if len(uses) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		for id, at := range uses {
			// Another process may have written a later one.
			if _, err := tx.Exec(`UPDATE keys SET last_used_at = $1 WHERE id = $2 AND last_used_at < $1`, at, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.log.Warn("the last use of keys could not be written", "keys", len(uses), "err", err)
	}
}

// newKey makes a key of a kind.
func newKey(kind Kind) (string, error) {
	prefix, ok := prefixes[kind]
	if !ok {
		return "", croft.Invalid("kind", "%q is no kind of key: accepted are api, fleet, environment", kind)
	}
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("making a key: %w", err)
	}
	return prefix + base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// Limits of a key that a person chose, in characters.
const (
	minKey = 8
	maxKey = 512
)

// checkChosen refuses a chosen key that could not be sent in a header, or be guessed at once.
func checkChosen(key string) error {
	if len(key) < minKey || len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("the API key must have %d to %d characters, of ASCII without blanks", minKey, maxKey)
	}
	return nil
}
