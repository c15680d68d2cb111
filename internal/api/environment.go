package api

import (
	"context"

	"croft"
	"croft/internal/agents"
)

// Environments are where sessions' tools run. *agents.Store is one.
type Environments interface {
	CreateEnvironment(ctx context.Context, workspace string, body []byte) (*croft.Environment, error)
	GetEnvironment(ctx context.Context, workspace, id string) (*croft.Environment, error)
	UpdateEnvironment(ctx context.Context, workspace, id string, body []byte) (*croft.Environment, error)
	ArchiveEnvironment(ctx context.Context, workspace, id string) (*croft.Environment, error)
	DeleteEnvironment(ctx context.Context, workspace, id string) error
	Environments(ctx context.Context, workspace string, q agents.ListQuery) (*agents.List[*croft.Environment], error)
}

func (a *API) createEnvironment(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	e, err := a.environments.CreateEnvironment(c.ctx, c.workspace(), body)
	if err != nil {
		return err
	}
	return c.reply(e)
}

func (a *API) getEnvironment(c *call) error {
	e, err := a.environments.GetEnvironment(c.ctx, c.workspace(), c.param("environment_id"))
	if err != nil {
		return err
	}
	return c.reply(e)
}

func (a *API) updateEnvironment(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	e, err := a.environments.UpdateEnvironment(c.ctx, c.workspace(), c.param("environment_id"), body)
	if err != nil {
		return err
	}
	return c.reply(e)
}

func (a *API) archiveEnvironment(c *call) error {
	e, err := a.environments.ArchiveEnvironment(c.ctx, c.workspace(), c.param("environment_id"))
	if err != nil {
		return err
	}
	return c.reply(e)
}

func (a *API) deleteEnvironment(c *call) error {
	id := c.param("environment_id")
	if err := a.environments.DeleteEnvironment(c.ctx, c.workspace(), id); err != nil {
		return err
	}
	return c.reply(deleted{id, "environment_deleted"})
}

func (a *API) listEnvironments(c *call) error {
	q := &c.query
	in := agents.ListQuery{IncludeArchived: q.boolean("include_archived"), Limit: q.limit(100), Page: q.text("page")}
	if err := q.err(); err != nil {
		return err
	}
	list, err := a.environments.Environments(c.ctx, c.workspace(), in)
	if err != nil {
		return err
	}
	return c.reply(list)
}
