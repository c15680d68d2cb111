package api

import (
	"context"

	"croft/internal/access"
	"croft/internal/wire"
)

// Access knows who a key belongs to, and keeps the keys. *access.Store is one.
type Access interface {
	// Authenticate fails with a 401 for a key that is not in force.
	Authenticate(ctx context.Context, key string) (*access.Principal, error)
	Create(ctx context.Context, workspace string, kind access.Kind, name, environmentID string) (id, key string, err error)
	List(ctx context.Context, workspace string, kind access.Kind, environmentID string) ([]access.Key, error)
	Revoke(ctx context.Context, workspace, id string) error
}

// Keys of a workspace, for croft keys: Croft's addition. Keys of environments have routes
// of their own.

// newKey is the answer to the making of a key, the one time that it is shown.
type newKey struct {
	ID   string      `json:"id"`
	Type string      `json:"type"`
	Kind access.Kind `json:"kind"`
	Name string      `json:"name"`
	Key  string      `json:"key"`
}

func (a *API) createKey(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	d := wire.Parse(body)
	in := d.Root().Object("kind", "name")
	kind := access.Kind(in.Get("kind").OneOf(string(access.API), string(access.Fleet)))
	name := ""
	if v := in.Get("name"); v.Given() {
		name = v.Text(0, access.MaxName)
	}
	if err := d.Err(); err != nil {
		return err
	}
	id, key, err := a.access.Create(c.ctx, c.workspace(), kind, name, "")
	if err != nil {
		return err
	}
	return c.reply(newKey{id, "key", kind, name, key})
}

func (a *API) listKeys(c *call) error {
	kind := access.Kind(c.query.choice("kind", string(access.API), string(access.Fleet), string(access.Environment)))
	if err := c.query.err(); err != nil {
		return err
	}
	keys, err := a.access.List(c.ctx, c.workspace(), kind, "")
	if err != nil {
		return err
	}
	return c.reply(struct {
		Data     []access.Key `json:"data"`
		NextPage *string      `json:"next_page"`
	}{keys, nil})
}

func (a *API) revokeKey(c *call) error {
	id := c.param("key_id")
	if err := a.access.Revoke(c.ctx, c.workspace(), id); err != nil {
		return err
	}
	return c.reply(deleted{id, "key_revoked"})
}
