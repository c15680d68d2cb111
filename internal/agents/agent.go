package agents

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"croft"
	"croft/internal/store"
	"croft/internal/wire"
)

// CreateAgent makes the first version of an agent from the body of a request.
func (s *Store) CreateAgent(ctx context.Context, workspace string, body []byte) (*croft.Agent, error) {
	a, err := s.parseAgent(body)
	if err != nil {
		return nil, err
	}
	a.ID, a.Version = croft.NewID(croft.PrefixAgent), 1
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		a.CreatedAt, a.UpdatedAt = tx.Now, tx.Now
		text, err := json.Marshal(a)
		if err != nil {
			return fmt.Errorf("writing an agent: %w", err)
		}
		if _, err := tx.Exec(`INSERT INTO agents (id, workspace_id, version, body, created_at, updated_at) VALUES ($1, $2, 1, $3, $4, $4)`,
			a.ID, workspace, string(text), tx.Now); err != nil {
			return fmt.Errorf("creating an agent: %w", err)
		}
		return addVersion(tx, a, text)
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

func addVersion(tx *store.Tx, a *croft.Agent, text []byte) error {
	if _, err := tx.Exec(`INSERT INTO agent_versions (agent_id, version, body, created_at) VALUES ($1, $2, $3, $4)`,
		a.ID, a.Version, string(text), tx.Now); err != nil {
		return fmt.Errorf("adding version %d of agent %s: %w", a.Version, a.ID, err)
	}
	return nil
}

// Agent returns a version of an agent; 0 is the latest.
func (s *Store) Agent(ctx context.Context, workspace, id string, version int64) (a *croft.Agent, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		a, err = agentVersion(tx, workspace, id, version)
		return err
	})
	return a, err
}

// agentVersion reads a version of an agent; 0 is the latest. What is the agent's and not
// the version's (archived_at) is as it is now.
func agentVersion(tx *store.Tx, workspace, id string, version int64) (*croft.Agent, error) {
	a, err := lookAt(tx, workspace, id, "")
	if err != nil || version == 0 || version == a.Version {
		return a, err
	}
	var text string
	err = tx.QueryRow(`SELECT body FROM agent_versions WHERE agent_id = $1 AND version = $2`, id, version).Scan(&text)
	if errors.Is(err, store.ErrNoRows) {
		return nil, croft.Errorf(croft.NotFound, "agent %q has no version %d; its latest is %d", id, version, a.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("reading version %d of agent %s: %w", version, id, err)
	}
	return decodeAgent(text, a.ArchivedAt)
}

// lookAt reads the latest version of an agent. suffix may lock its row.
func lookAt(tx *store.Tx, workspace, id, suffix string) (*croft.Agent, error) {
	var text string
	var archived croft.Time
	err := tx.QueryRow(`SELECT body, archived_at FROM agents WHERE id = $1 AND workspace_id = $2`+suffix, id, workspace).Scan(&text, &archived)
	if errors.Is(err, store.ErrNoRows) {
		return nil, croft.Missing("agent", id)
	}
	if err != nil {
		return nil, fmt.Errorf("reading agent %s: %w", id, err)
	}
	return decodeAgent(text, archived)
}

func decodeAgent(text string, archived croft.Time) (*croft.Agent, error) {
	a := new(croft.Agent)
	if err := json.Unmarshal([]byte(text), a); err != nil {
		return nil, fmt.Errorf("reading a stored agent: %w", err)
	}
	a.ArchivedAt = archived
	return a, nil
}

// UpdateAgent makes the next version of an agent. A change that changes nothing returns the
// version that there is. A version in the body that is not the latest is a 409.
func (s *Store) UpdateAgent(ctx context.Context, workspace, id string, body []byte) (a *croft.Agent, err error) {
	u, err := s.parseUpdate(body)
	if err != nil {
		return nil, err
	}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		old, err := lookAt(tx, workspace, id, tx.ForUpdate())
		if err != nil {
			return err
		}
		if old.ArchivedAt != 0 {
			return croft.Errorf(croft.InvalidRequest, "agent %q is archived and cannot be changed", id)
		}
		if u.version != 0 && u.version != old.Version {
			return &croft.Error{Type: croft.Conflict, Path: "version",
				Message: fmt.Sprintf("the agent's version is %d, not %d: read it again and repeat the change, or leave version out", old.Version, u.version)}
		}
		if a, err = u.apply(old); err != nil {
			return err
		}
		same, err := sameAgent(old, a)
		if err != nil || same {
			a = old
			return err
		}
		a.Version, a.UpdatedAt = old.Version+1, tx.Now
		text, err := json.Marshal(a)
		if err != nil {
			return fmt.Errorf("writing agent %s: %w", id, err)
		}
		if _, err := tx.Exec(`UPDATE agents SET version = $1, body = $2, updated_at = $3 WHERE id = $4`, a.Version, string(text), tx.Now, id); err != nil {
			return fmt.Errorf("updating agent %s: %w", id, err)
		}
		return addVersion(tx, a, text)
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// sameAgent compares agents by their JSON, where the order of members means nothing: some
// clients write the members of a schema in another order each time.
func sameAgent(a, b *croft.Agent) (bool, error) {
	x, err := sorted(a)
	if err != nil {
		return false, err
	}
	y, err := sorted(b)
	return bytes.Equal(x, y), err
}

func sorted(a *croft.Agent) ([]byte, error) {
	text, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("comparing agents: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("comparing agents: %w", err)
	}
	return json.Marshal(v)
}

// ArchiveAgent makes an agent read-only for good: new sessions cannot take it, those that
// run go on. Archiving again returns the agent as it is.
func (s *Store) ArchiveAgent(ctx context.Context, workspace, id string) (a *croft.Agent, err error) {
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(`UPDATE agents SET archived_at = $1 WHERE id = $2 AND workspace_id = $3 AND archived_at = 0`, tx.Now, id, workspace); err != nil {
			return fmt.Errorf("archiving agent %s: %w", id, err)
		}
		a, err = lookAt(tx, workspace, id, "")
		return err
	})
	return a, err
}

// Agents lists a workspace's agents, each at its latest version.
func (s *Store) Agents(ctx context.Context, workspace string, q ListQuery) (list *List[*croft.Agent], err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		list, err = pageOf(tx, "agents", "body, archived_at", workspace, q, func(row store.Row) (*croft.Agent, place, error) {
			var text string
			var archived croft.Time
			if err := row.Scan(&text, &archived); err != nil {
				return nil, place{}, err
			}
			a, err := decodeAgent(text, archived)
			if err != nil {
				return nil, place{}, err
			}
			return a, place{At: a.CreatedAt, ID: a.ID}, nil
		})
		return err
	})
	return list, err
}

// Versions lists an agent's versions. Of q it reads Limit and Page.
func (s *Store) Versions(ctx context.Context, workspace, id string, q ListQuery) (list *List[*croft.Agent], err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		latest, err := lookAt(tx, workspace, id, "")
		if err != nil {
			return err
		}
		name, before := "versions of "+id, place{Version: latest.Version + 1}
		if q.Page != "" {
			if err := wire.ReadCursor(q.Page, name, newestFirst, &before); err != nil {
				return err
			}
		}
		rows, err := tx.Query(`SELECT body FROM agent_versions WHERE agent_id = $1 AND version < $2 ORDER BY version DESC LIMIT $3`, id, before.Version, q.limit()+1)
		if err != nil {
			return fmt.Errorf("listing the versions of agent %s: %w", id, err)
		}
		list, err = page(rows, q.limit(), name, func(row store.Row) (*croft.Agent, place, error) {
			var text string
			if err := row.Scan(&text); err != nil {
				return nil, place{}, err
			}
			a, err := decodeAgent(text, latest.ArchivedAt)
			if err != nil {
				return nil, place{}, err
			}
			return a, place{Version: a.Version}, nil
		})
		return err
	})
	return list, err
}
