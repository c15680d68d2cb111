package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"

	"croft"
	"croft/internal/store"
)

// hintLen is how many characters of a key are shown to tell it from others.
const hintLen = 4

// MaxName is how long a key's name may be, in characters.
const MaxName = 256

// Create makes a key and returns its id and the key, which is shown this once. An
// environment key needs the id of its environment, which the caller has checked; the
// others take none. A workspace that is not there is a 404.
func (s *Store) Create(ctx context.Context, workspace string, kind Kind, name, environmentID string) (id, key string, err error) {
	if (kind == Environment) != (environmentID != "") {
		return "", "", croft.Invalid("environment_id", "an environment key names its environment; no other kind does")
	}
	if utf8.RuneCountInString(name) > MaxName {
		return "", "", croft.Invalid("name", "accepted are at most %d characters", MaxName)
	}
	if key, err = newKey(kind); err != nil {
		return "", "", err
	}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		var archived croft.Time
		err := tx.QueryRow(`SELECT archived_at FROM workspaces WHERE id = $1`, workspace).Scan(&archived)
		if errors.Is(err, store.ErrNoRows) || archived != 0 {
			return croft.Missing("workspace", workspace)
		}
		if err != nil {
			return fmt.Errorf("reading workspace %s: %w", workspace, err)
		}
		id, err = insert(tx, workspace, kind, name, environmentID, key)
		return err
	})
	if err != nil {
		return "", "", err
	}
	s.forget() // the key may have been asked for before it was there
	return id, key, nil
}

func insert(tx *store.Tx, workspace string, kind Kind, name, environmentID, key string) (id string, err error) {
	id = croft.NewID(croft.PrefixKey)
	sum := sha256.Sum256([]byte(key))
	hint := ""
	if len(key) >= 4*hintLen { // a short one of one's own would be half told
		hint = key[len(key)-hintLen:]
	}
	_, err = tx.Exec(`INSERT INTO keys (id, workspace_id, kind, environment_id, name, hint, hash, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		id, workspace, kind, environmentID, name, hint, hex.EncodeToString(sum[:]), tx.Now)
	if err != nil {
		return "", fmt.Errorf("storing a key: %w", err)
	}
	return id, nil
}

// List returns the keys of a workspace by creation, revoked ones too. Kind, where it is
// not empty, and environmentID, likewise, choose among them.
func (s *Store) List(ctx context.Context, workspace string, kind Kind, environmentID string) (keys []Key, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		keys = []Key{}
		rows, err := tx.Query(`SELECT id, workspace_id, kind, environment_id, name, hint, created_at, last_used_at, revoked_at FROM keys
			WHERE workspace_id = $1 AND ($2 = '' OR kind = $2) AND ($3 = '' OR environment_id = $3) ORDER BY created_at, id`, workspace, string(kind), environmentID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k Key
			if err := rows.Scan(&k.ID, &k.Workspace, &k.Kind, &k.EnvironmentID, &k.Name, &k.Hint, &k.CreatedAt, &k.LastUsedAt, &k.RevokedAt); err != nil {
				return err
			}
			keys = append(keys, k)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	return keys, nil
}

// Revoke ends a key: the next request with it fails. Revoking again changes nothing; a key
// that is not there, or another workspace's, is a 404.
func (s *Store) Revoke(ctx context.Context, workspace, id string) error {
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`UPDATE keys SET revoked_at = CASE WHEN revoked_at = 0 THEN $1 ELSE revoked_at END WHERE id = $2 AND workspace_id = $3`, tx.Now, id, workspace)
		if err != nil {
			return fmt.Errorf("revoking key %s: %w", id, err)
		}
		if n == 0 {
			return croft.Missing("key", id)
		}
		return nil
	})
	s.forget()
	return err
}

// Local makes a key that holds in this process alone, until it ends, and is in no table:
// the embedded worker's.
func (s *Store) Local(workspace string, kind Kind, environmentID string) (key string, err error) {
	if key, err = newKey(kind); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local[sha256.Sum256([]byte(key))] = &Principal{Workspace: workspace, Kind: kind, EnvironmentID: environmentID, KeyID: "key_local"}
	return key, nil
}

// EnsureDefault makes the default workspace where there is none, and its first API key:
// the given one, or, where apiKey is empty and the workspace has had no API key yet, a new
// one. It returns the key and true where it made one. A given key that is not known yet is
// added at a later start too, so that changing the setting changes what is accepted; the
// earlier one stays until it is revoked. A given key that was revoked, or opens something
// else, is refused.
func (s *Store) EnsureDefault(ctx context.Context, apiKey string) (created bool, key string, err error) {
	if apiKey != "" {
		if err := checkChosen(apiKey); err != nil {
			return false, "", err
		}
	}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		created, key = false, ""
		_, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING`, DefaultWorkspace, "Default", tx.Now)
		if err != nil {
			return fmt.Errorf("making the default workspace: %w", err)
		}
		name := "set at start"
		if apiKey == "" {
			var n int
			if err := tx.QueryRow(`SELECT COUNT(*) FROM keys WHERE workspace_id = $1 AND kind = $2`, DefaultWorkspace, API).Scan(&n); err != nil {
				return fmt.Errorf("counting keys: %w", err)
			}
			if n > 0 {
				return nil
			}
			if key, err = newKey(API); err != nil {
				return err
			}
			name = "made at the first start"
		} else {
			known, err := knows(tx, apiKey)
			if known || err != nil {
				return err
			}
			key = apiKey
		}
		created = true
		_, err = insert(tx, DefaultWorkspace, API, name, "", key)
		return err
	})
	if err != nil {
		return false, "", err
	}
	s.forget()
	return created, key, nil
}

// knows tells whether key is an API key of the default workspace in force. A key that is
// there and is not that is an error.
func knows(tx *store.Tx, key string) (bool, error) {
	sum := sha256.Sum256([]byte(key))
	var workspace string
	var kind Kind
	var revoked croft.Time
	err := tx.QueryRow(`SELECT workspace_id, kind, revoked_at FROM keys WHERE hash = $1`, hex.EncodeToString(sum[:])).Scan(&workspace, &kind, &revoked)
	switch {
	case errors.Is(err, store.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking for the API key: %w", err)
	case revoked != 0:
		return false, errors.New("the API key that is set was revoked: set another one")
	case workspace != DefaultWorkspace || kind != API:
		return false, fmt.Errorf("the API key that is set is known already, as a key of kind %s in workspace %s", kind, workspace)
	}
	return true, nil
}
