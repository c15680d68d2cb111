package agents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"croft"
	"croft/internal/store"
)

// CreateEnvironment makes an environment from the body of a request.
func (s *Store) CreateEnvironment(ctx context.Context, workspace string, body []byte) (*croft.Environment, error) {
	e, err := parseEnvironment(body)
	if err != nil {
		return nil, err
	}
	e.ID = croft.NewID(croft.PrefixEnvironment)
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		e.CreatedAt, e.UpdatedAt = tx.Now, tx.Now
		text, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("writing an environment: %w", err)
		}
		if _, err := tx.Exec(`INSERT INTO environments (id, workspace_id, kind, body, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $5)`,
			e.ID, workspace, e.Config.Type, string(text), tx.Now); err != nil {
			return fmt.Errorf("creating an environment: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	tellUnenforced(e)
	return e, nil
}

// GetEnvironment returns an environment.
func (s *Store) GetEnvironment(ctx context.Context, workspace, id string) (e *croft.Environment, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		e, err = s.Environment(tx, workspace, id)
		return err
	})
	return e, err
}

// Environment reads an environment within a transaction of the caller's, who looks at
// ArchivedAt where that matters.
func (s *Store) Environment(tx *store.Tx, workspace, id string) (*croft.Environment, error) {
	e, err := storedEnvironment(tx, workspace, id, "")
	if err != nil {
		return nil, err
	}
	tellUnenforced(e)
	return e, nil
}

// storedEnvironment reads an environment as it is stored. suffix may lock its row.
func storedEnvironment(tx *store.Tx, workspace, id, suffix string) (*croft.Environment, error) {
	var text string
	var archived croft.Time
	err := tx.QueryRow(`SELECT body, archived_at FROM environments WHERE id = $1 AND workspace_id = $2`+suffix, id, workspace).Scan(&text, &archived)
	if errors.Is(err, store.ErrNoRows) {
		return nil, croft.Missing("environment", id)
	}
	if err != nil {
		return nil, fmt.Errorf("reading environment %s: %w", id, err)
	}
	return decodeEnvironment(text, archived)
}

func decodeEnvironment(text string, archived croft.Time) (*croft.Environment, error) {
	e := new(croft.Environment)
	if err := json.Unmarshal([]byte(text), e); err != nil {
		return nil, fmt.Errorf("reading a stored environment: %w", err)
	}
	e.ArchivedAt = archived
	return e, nil
}

// UpdateEnvironment changes an environment. Sandboxes that live keep what they were made
// with.
func (s *Store) UpdateEnvironment(ctx context.Context, workspace, id string, body []byte) (e *croft.Environment, err error) {
	u, err := parseEnvironmentUpdate(body)
	if err != nil {
		return nil, err
	}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		old, err := storedEnvironment(tx, workspace, id, tx.ForUpdate())
		if err != nil {
			return err
		}
		if old.ArchivedAt != 0 {
			return croft.Errorf(croft.InvalidRequest, "environment %q is archived and cannot be changed", id)
		}
		if e, err = u.apply(old); err != nil {
			return err
		}
		before, err := json.Marshal(old)
		if err != nil {
			return fmt.Errorf("comparing environments: %w", err)
		}
		text, err := json.Marshal(e)
		if err != nil || string(text) == string(before) {
			return err
		}
		e.UpdatedAt = tx.Now
		if text, err = json.Marshal(e); err != nil {
			return fmt.Errorf("writing environment %s: %w", id, err)
		}
		if _, err := tx.Exec(`UPDATE environments SET body = $1, updated_at = $2 WHERE id = $3`, string(text), tx.Now, id); err != nil {
			return fmt.Errorf("updating environment %s: %w", id, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	tellUnenforced(e)
	return e, nil
}

// ArchiveEnvironment makes an environment read-only for good: new sessions cannot take it,
// those that are there go on. Archiving again returns the environment as it is.
func (s *Store) ArchiveEnvironment(ctx context.Context, workspace, id string) (e *croft.Environment, err error) {
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(`UPDATE environments SET archived_at = $1 WHERE id = $2 AND workspace_id = $3 AND archived_at = 0`, tx.Now, id, workspace); err != nil {
			return fmt.Errorf("archiving environment %s: %w", id, err)
		}
		e, err = s.Environment(tx, workspace, id)
		return err
	})
	return e, err
}

// DeleteEnvironment removes an environment that no session refers to; a 409 where one does.
func (s *Store) DeleteEnvironment(ctx context.Context, workspace, id string) error {
	inUse := func(tx *store.Tx) error {
		var session string
		err := tx.QueryRow(`SELECT id FROM sessions WHERE environment_id = $1 LIMIT 1`, id).Scan(&session)
		switch {
		case errors.Is(err, store.ErrNoRows):
			return nil
		case err != nil:
			return fmt.Errorf("looking for the sessions of environment %s: %w", id, err)
		}
		return croft.Errorf(croft.Conflict, "environment %q has sessions, such as %s: delete them first, or archive the environment", id, session)
	}
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		if _, err := storedEnvironment(tx, workspace, id, tx.ForUpdate()); err != nil {
			return err
		}
		if err := inUse(tx); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM environments WHERE id = $1`, id); err != nil {
			return fmt.Errorf("deleting environment %s: %w", id, err)
		}
		return nil
	})
	var known *croft.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	// A session that was made at the same moment fails the deletion by its foreign key.
	if used := s.db.Read(ctx, inUse); errors.As(used, &known) {
		return used
	}
	return err
}

// Environments lists a workspace's environments. Of q it does not read the times.
func (s *Store) Environments(ctx context.Context, workspace string, q ListQuery) (list *List[*croft.Environment], err error) {
	q.CreatedGte, q.CreatedLte = 0, 0
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		list, err = pageOf(tx, "environments", "body, archived_at", workspace, q, func(row store.Row) (*croft.Environment, place, error) {
			var text string
			var archived croft.Time
			if err := row.Scan(&text, &archived); err != nil {
				return nil, place{}, err
			}
			e, err := decodeEnvironment(text, archived)
			if err != nil {
				return nil, place{}, err
			}
			tellUnenforced(e)
			return e, place{At: e.CreatedAt, ID: e.ID}, nil
		})
		return err
	})
	return list, err
}
