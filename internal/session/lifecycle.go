package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"croft"
	"croft/internal/store"
)

func itoa(n int) string { return strconv.Itoa(n) }

// Create makes a session, and starts its first turn when it comes with events. Validation
// is all or nothing.
func (l *Log) Create(ctx context.Context, workspace string, in *CreateInput) (*croft.Session, error) {
	id, threadID := croft.NewID(croft.PrefixSession), croft.NewID(croft.PrefixThread)
	var session *croft.Session
	err := l.db.Write(ctx, func(tx *store.Tx) error {
		env, err := l.agents.Environment(tx, workspace, in.EnvironmentID)
		if err != nil {
			return at("environment_id", err)
		}
		if env.ArchivedAt != 0 {
			return croft.Invalid("environment_id", "environment %q is archived", env.ID)
		}
		agent, err := l.agents.Resolve(tx, workspace, in.Agent)
		if err != nil {
			return at("agent", err)
		}
		m, err := l.models.Model(agent.Model.ID)
		if err != nil {
			return croft.Invalid("agent.model.id", "%v", err)
		}
		if in.Budget != nil && m.Price == nil {
			return croft.Invalid("budget", "model_not_budgetable: model %q has no price in the configuration, so its cost cannot be limited: give it one under models: (price)", agent.Model.ID)
		}
		st := &state{Threads: []thread{{ID: threadID, Agent: agent.Name, Phase: phaseIdle}}}
		if c := env.Config.Croft; c != nil {
			st.CallS = c.TimeoutS
		}
		if in.Budget != nil {
			if st.Budget, err = cents(in.Budget); err != nil {
				return err
			}
			st.HadBudget = true
		}
		text, err := st.encode()
		if err != nil {
			return err
		}
		agentText, err := json.Marshal(agent)
		if err != nil {
			return fmt.Errorf("writing the session's agent: %w", err)
		}
		metadata := in.Metadata
		if metadata == nil {
			metadata = map[string]string{}
		}
		metaText, err := json.Marshal(metadata)
		if err != nil {
			return fmt.Errorf("writing the session's metadata: %w", err)
		}
		if _, err := tx.Exec(`INSERT INTO sessions (id, workspace_id, environment_id, environment_kind, agent_id, agent_version, agent, title, metadata, status, thread_id, last_seq, epoch, state, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, 0, $12, $13, $13)`,
			id, workspace, env.ID, env.Config.Type, agent.ID, agent.Version, string(agentText), in.Title, string(metaText), string(croft.StatusIdle), threadID, text, tx.Now); err != nil {
			return fmt.Errorf("creating a session: %w", err)
		}
		if len(in.Events) > 0 {
			err := l.applyTx(tx, workspace, id, func(c *change) error {
				var answer []json.RawMessage
				return c.send(Actor{Workspace: workspace}, in.Events, "initial_events", &answer)
			})
			if err != nil {
				return err
			}
		}
		session, err = l.read(tx, workspace, id)
		return err
	})
	return session, err
}

// at puts a field's path on an error that has none.
func at(path string, err error) error {
	var e *croft.Error
	if errors.As(err, &e) && e.Path == "" && e.Type == croft.InvalidRequest {
		e.Path = path
	}
	return err
}

func cents(b *croft.Budget) (int64, error) {
	n, err := strconv.ParseInt(b.MaxListCost.Amount, 10, 64)
	if err != nil || n <= 0 || n > 1e9 {
		return 0, croft.Invalid("budget.max_list_cost.amount", "accepted is a whole number of cents from 1 to 1000000000, written as a string")
	}
	return n, nil
}

// Update changes a session's title, metadata, budget, or its agent's tools. What changed
// is told by session.updated.
func (l *Log) Update(ctx context.Context, workspace, id string, in *UpdateInput) (*croft.Session, error) {
	var session *croft.Session
	err := l.db.Write(ctx, func(tx *store.Tx) error {
		err := l.applyTx(tx, workspace, id, func(c *change) error { return c.update(in) })
		if err != nil {
			return err
		}
		session, err = l.read(tx, workspace, id)
		return err
	})
	return session, err
}

func (c *change) update(in *UpdateInput) error {
	if c.row.status == croft.StatusTerminated {
		return croft.Errorf(croft.InvalidRequest, "session %q is terminated and cannot be changed", c.row.id)
	}
	var title *string
	var metaText, agentText string
	if err := c.tx.QueryRow(`SELECT title, metadata, agent FROM sessions WHERE id = $1`, c.row.id).Scan(&title, &metaText, &agentText); err != nil {
		return fmt.Errorf("reading session %s: %w", c.row.id, err)
	}
	var fields []string
	changed := false // something that no field of the event tells
	if in.Title != nil && !equal(title, *in.Title) {
		title = *in.Title
		b, err := json.Marshal(title)
		if err != nil {
			return err
		}
		fields = append(fields, "title", string(b))
	}
	if in.Metadata != nil {
		old := map[string]string{}
		if err := json.Unmarshal([]byte(metaText), &old); err != nil {
			return fmt.Errorf("reading the metadata of %s: %w", c.row.id, err)
		}
		merged := maps.Clone(old)
		for k, v := range in.Metadata {
			if v == nil {
				delete(merged, k)
			} else {
				merged[k] = *v
			}
		}
		if len(merged) > croft.MaxMetadata {
			return croft.Invalid("metadata", "at most %d pairs are accepted; there would be %d", croft.MaxMetadata, len(merged))
		}
		if !maps.Equal(old, merged) {
			b, err := json.Marshal(merged)
			if err != nil {
				return err
			}
			metaText = string(b)
			if len(merged) > 0 { // cleared to empty it is absent, as the public API has it
				fields = append(fields, "metadata", metaText)
			}
			changed = true
		}
	}
	if in.Tools != nil || in.MCPServers != nil {
		changed, err := c.updateAgent(in, &agentText)
		if err != nil {
			return err
		}
		if changed {
			fields = append(fields, "agent", agentText)
		}
	}
	resume := false
	if in.Budget != nil {
		changed, err := c.updateBudget(*in.Budget)
		if err != nil {
			return err
		}
		if changed {
			b, err := json.Marshal(c.st.budget())
			if err != nil {
				return err
			}
			fields = append(fields, "budget", string(b))
			resume = true
		}
	}
	if len(fields) == 0 && !changed {
		return nil
	}
	th := c.primary()
	c.touched = true
	c.emit(croft.SessionUpdated, th, "", fields...)
	if _, err := c.tx.Exec(`UPDATE sessions SET title = $1, metadata = $2, agent = $3 WHERE id = $4`, title, metaText, agentText, c.row.id); err != nil {
		return fmt.Errorf("updating session %s: %w", c.row.id, err)
	}
	if resume && th.Phase == phasePaused {
		return c.request(th)
	}
	return nil
}

func equal(a, b *string) bool { return a == b || (a != nil && b != nil && *a == *b) }

// updateAgent replaces the tools or MCP servers of the session's own copy of its agent.
func (c *change) updateAgent(in *UpdateInput, text *string) (changed bool, err error) {
	if c.row.status != croft.StatusIdle {
		return false, croft.Invalid("agent", "the session is %s: its agent can be changed while it is idle; send a user.interrupt and wait for session.status_idle", c.row.status)
	}
	var agent croft.SessionAgent
	if err := json.Unmarshal([]byte(*text), &agent); err != nil {
		return false, fmt.Errorf("reading the agent of %s: %w", c.row.id, err)
	}
	if in.Tools != nil {
		agent.Tools = *in.Tools
	}
	if in.MCPServers != nil {
		agent.MCPServers = *in.MCPServers
	}
	b, err := json.Marshal(agent)
	if err != nil {
		return false, err
	}
	if string(b) == *text {
		return false, nil
	}
	*text = string(b)
	c.st.Config++
	return true, nil
}

func (c *change) updateBudget(b *croft.Budget) (changed bool, err error) {
	if b == nil {
		changed = c.st.Budget != 0
		c.st.Budget = 0
		return changed, nil
	}
	if c.st.Budget == 0 {
		return false, croft.Invalid("budget", "budget_create_only: a budget can be set when a session is created, then raised, lowered or removed; this session has none")
	}
	n, err := cents(b)
	if err != nil {
		return false, err
	}
	if n*centNanos <= c.st.costNanos(c.now) {
		return false, croft.Invalid("budget.max_list_cost.amount", "budget_not_raised: accepted is more than the list cost so far (%.4f cents)", float64(c.st.costNanos(c.now))/centNanos)
	}
	changed = n != c.st.Budget
	c.st.Budget = n
	return changed, nil
}

// Archive ends a session and keeps its history. A running one is refused.
func (l *Log) Archive(ctx context.Context, workspace, id string) (*croft.Session, error) {
	var session *croft.Session
	err := l.db.Write(ctx, func(tx *store.Tx) error {
		err := l.applyTx(tx, workspace, id, func(c *change) error {
			if c.row.archivedAt != 0 {
				return nil
			}
			if err := c.mustRest("archived"); err != nil {
				return err
			}
			th := c.primary()
			for len(th.Calls) > 0 {
				c.fail(th, 0, "The session was archived before this call was answered.")
			}
			c.touched = true
			c.rest()
			c.row.archivedAt, c.row.status = c.now, croft.StatusTerminated
			th.Phase = phaseEnded
			c.ends = "archived"
			c.emit(croft.ThreadTerminated, th, "", "session_thread_id", quote(th.ID), "agent_name", quote(th.Agent))
			c.emit(croft.SessionTerminated, th, "")
			return nil
		})
		if err != nil {
			return err
		}
		session, err = l.read(tx, workspace, id)
		return err
	})
	return session, err
}

// mustRest refuses what a running session does not allow.
func (c *change) mustRest(verb string) error {
	if c.row.status == croft.StatusRunning || c.row.status == croft.StatusRescheduling {
		return croft.Errorf(croft.InvalidRequest, "session %q is %s and cannot be %s; send a user.interrupt by itself and wait for session.status_idle", c.row.id, c.row.status, verb)
	}
	return nil
}

// Delete removes a session, its log and its sandbox. A running one is refused. Open
// streams end with session.deleted.
func (l *Log) Delete(ctx context.Context, workspace, id string) error {
	return l.db.Write(ctx, func(tx *store.Tx) error {
		c, err := l.load(tx, id)
		if err != nil {
			return err
		}
		if c.row.workspace != workspace {
			return croft.Missing("session", id)
		}
		if err := c.mustRest("deleted"); err != nil {
			return err
		}
		for _, table := range []string{"events", "inbox", "work"} {
			if _, err := tx.Exec(`DELETE FROM `+table+` WHERE session_id = $1`, id); err != nil {
				return fmt.Errorf("deleting session %s: %w", id, err)
			}
		}
		if _, err := tx.Exec(`DELETE FROM sessions WHERE id = $1`, id); err != nil {
			return fmt.Errorf("deleting session %s: %w", id, err)
		}
		event := croft.NewID(croft.PrefixEvent)
		last := Frame{ID: event, Type: croft.SessionDeleted, Thread: c.row.thread,
			Data: json.RawMessage(`{"id":"` + event + `","type":"` + string(croft.SessionDeleted) + `","processed_at":"` + c.now.String() + `"}`)}
		tx.OnCommit(func() {
			l.hub.gone(id, last)
			if l.queue != nil {
				item := ""
				if c.st.Work != nil {
					item = c.st.Work.ID
				}
				l.queue.Gone(workspace, item, id)
			}
		})
		return nil
	})
}
