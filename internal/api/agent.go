package api

import (
	"context"

	"croft"
	"croft/internal/agents"
)

// Agents are what a workspace has defined. *agents.Store is one.
type Agents interface {
	CreateAgent(ctx context.Context, workspace string, body []byte) (*croft.Agent, error)
	// Agent returns a version of an agent; 0 is the latest.
	Agent(ctx context.Context, workspace, id string, version int64) (*croft.Agent, error)
	UpdateAgent(ctx context.Context, workspace, id string, body []byte) (*croft.Agent, error)
	ArchiveAgent(ctx context.Context, workspace, id string) (*croft.Agent, error)
	Agents(ctx context.Context, workspace string, q agents.ListQuery) (*agents.List[*croft.Agent], error)
	Versions(ctx context.Context, workspace, id string, q agents.ListQuery) (*agents.List[*croft.Agent], error)
}

func (a *API) createAgent(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	agent, err := a.agents.CreateAgent(c.ctx, c.workspace(), body)
	if err != nil {
		return err
	}
	return c.reply(agent)
}

func (a *API) getAgent(c *call) error {
	version := c.query.number("version", 1<<53)
	if err := c.query.err(); err != nil {
		return err
	}
	agent, err := a.agents.Agent(c.ctx, c.workspace(), c.param("agent_id"), version)
	if err != nil {
		return err
	}
	return c.reply(agent)
}

func (a *API) updateAgent(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	agent, err := a.agents.UpdateAgent(c.ctx, c.workspace(), c.param("agent_id"), body)
	if err != nil {
		return err
	}
	return c.reply(agent)
}

func (a *API) archiveAgent(c *call) error {
	agent, err := a.agents.ArchiveAgent(c.ctx, c.workspace(), c.param("agent_id"))
	if err != nil {
		return err
	}
	return c.reply(agent)
}

func (a *API) listAgents(c *call) error {
	q := &c.query
	in := agents.ListQuery{CreatedGte: q.time("created_at[gte]"), CreatedLte: q.time("created_at[lte]"),
		IncludeArchived: q.boolean("include_archived"), Limit: q.limit(100), Page: q.text("page")}
	if err := q.err(); err != nil {
		return err
	}
	list, err := a.agents.Agents(c.ctx, c.workspace(), in)
	if err != nil {
		return err
	}
	return c.reply(list)
}

func (a *API) listAgentVersions(c *call) error {
	in := agents.ListQuery{Limit: c.query.limit(100), Page: c.query.text("page")}
	if err := c.query.err(); err != nil {
		return err
	}
	list, err := a.agents.Versions(c.ctx, c.workspace(), c.param("agent_id"), in)
	if err != nil {
		return err
	}
	return c.reply(list)
}
