package api

import (
	"context"
	"fmt"

	"croft/internal/access"
	"croft/internal/sse"
	"croft/internal/wire"
	"croft/internal/work"
)

// Work is the queue of every environment. *work.Queue is one.
type Work interface {
	workItems
	// Token tells whom a session token speaks for; one that is unknown or expired is a 401.
	Token(ctx context.Context, token string) (*work.Grant, error)
	Attach(ctx context.Context, a work.Attach) (*work.Attachment, error)
}

type workItems interface {
	Get(ctx context.Context, workspace, environmentID, workID string) (*work.Item, error)
	Ack(ctx context.Context, workspace, environmentID, workID, worker, incarnation string) (*work.Item, error)
	Heartbeat(ctx context.Context, workspace, environmentID, workID, expected string, ttlSeconds int) (*work.Heartbeat, error)
	Stop(ctx context.Context, workspace, environmentID, workID string, force bool) (*work.Item, error)
	Spec(ctx context.Context, workspace, workID string) (*work.Spec, error)
}

func (a *API) getWork(c *call) error {
	item, err := a.work.Get(c.ctx, c.workspace(), c.param("environment_id"), c.param("work_id"))
	if err != nil {
		return err
	}
	return c.reply(item)
}

func (a *API) ackWork(c *call) error {
	item, err := a.work.Ack(c.ctx, c.workspace(), c.param("environment_id"), c.param("work_id"), c.query.text("worker"), c.query.text("incarnation"))
	if err != nil {
		return err
	}
	return c.reply(item)
}

func (a *API) heartbeatWork(c *call) error {
	expected, ttl := c.query.text("expected_last_heartbeat"), c.query.number("desired_ttl_seconds", 1<<31-1)
	if err := c.query.err(); err != nil {
		return err
	}
	h, err := a.work.Heartbeat(c.ctx, c.workspace(), c.param("environment_id"), c.param("work_id"), expected, int(ttl))
	if err != nil {
		return err
	}
	return c.reply(h)
}

func (a *API) stopWork(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	force := false
	if len(body) > 0 {
		d := wire.Parse(body)
		if v := d.Root().Object("force").Get("force"); v.Given() {
			force = v.Bool()
		}
		if err := d.Err(); err != nil {
			return err
		}
	}
	item, err := a.work.Stop(c.ctx, c.workspace(), c.param("environment_id"), c.param("work_id"), force)
	if err != nil {
		return err
	}
	return c.reply(item)
}

func (a *API) workSpec(c *call) error {
	spec, err := a.work.Spec(c.ctx, c.workspace(), c.param("work_id"))
	if err != nil {
		return err
	}
	return c.reply(spec)
}

// offers is the stream that Croft's worker holds. The handler stays for as long as the
// worker does, so that the queue knows at once when it is gone.
func (a *API) offers(c *call) error {
	in := work.Attach{Workspace: c.workspace(), EnvironmentID: c.who.EnvironmentID,
		Worker: c.query.text("worker"), Incarnation: c.query.text("incarnation"), Capacity: int(c.query.number("capacity", 100_000))}
	if c.who.Kind == access.Fleet {
		in.EnvironmentID = ""
	}
	if err := c.query.err(); err != nil {
		return err
	}
	at, err := a.work.Attach(c.ctx, in)
	if err != nil {
		return err
	}
	defer at.Close()
	return a.streams.ServeNext(c, c.r, func(ctx context.Context) ([]sse.Frame, error) {
		frames, err := at.Next(ctx)
		out := make([]sse.Frame, len(frames))
		for i := range frames {
			data, err := encode(&frames[i])
			if err != nil {
				return nil, fmt.Errorf("offering work: %w", err)
			}
			out[i] = sse.Frame{Event: frames[i].Type, Data: data}
		}
		return out, err
	})
}
