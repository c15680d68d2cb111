package agents

import (
	"encoding/json"

	"croft"
	"croft/internal/store"
	"croft/internal/wire"
)

// Ref names the agent of a session: its latest version, or a given one, with changes for
// that session alone.
type Ref struct {
	ID        string
	Version   int64 // 0: the latest
	Overrides *Overrides
}

// Overrides replace parts of an agent for one session. A nil field leaves the agent's.
type Overrides struct {
	Model      *croft.ModelConfig
	System     **string // to nil: none
	Tools      *[]croft.Tool
	MCPServers *[]croft.MCPServer
	Skills     *[]json.RawMessage
}

// ParseRef reads the agent of a session's body: an id, {"type":"agent"} with an id and a
// version, or {"type":"agent_with_overrides"}. Faults are kept in v's Doc.
func ParseRef(v wire.Value) Ref {
	const maxID = 256
	if v.IsText() {
		return Ref{ID: v.Text(1, maxID)}
	}
	if !v.IsObject() {
		if v.Present() {
			v.Fail("accepted is an agent's id or an object with a type")
		} else {
			v.Fail("is required: accepted is an agent's id or an object with a type")
		}
		return Ref{}
	}
	const pinned, overridden = "agent", "agent_with_overrides"
	fields := []string{"type", "id", "version"}
	typ := v.Get("type").OneOf(pinned, overridden)
	if typ == overridden {
		fields = append(fields, "model", "system", "tools", "mcp_servers", "skills")
	}
	o := v.Object(fields...)
	r := Ref{ID: o.Get("id").Text(1, maxID)}
	if n := o.Get("version"); n.Given() {
		r.Version = n.Int(1, 1<<53)
	}
	if typ == overridden {
		r.Overrides = parseOverrides(o)
	}
	return r
}

func parseOverrides(o wire.Value) *Overrides {
	out := new(Overrides)
	if v := o.Get("model"); v.Present() {
		m := parseModel(v).ModelConfig
		// An override's effort is not applied, and the agent's own goes with its model.
		m.Effort = &croft.Typed{Type: defaultEffort}
		out.Model = &m
	}
	if v := o.Get("system"); v.Present() {
		s := orNull(v.TextOrNull(maxSystem))
		out.System = &s
	}
	if v := o.Get("tools"); v.Present() {
		t := ParseTools(v)
		out.Tools = &t
	}
	if v := o.Get("mcp_servers"); v.Present() {
		m := ParseMCPServers(v)
		out.MCPServers = &m
	}
	if v := o.Get("skills"); v.Present() {
		s := parseSkills(v)
		out.Skills = &s
	}
	return out
}

// Resolve returns the agent as a new session runs it. An archived agent is a 400, one that
// is not of the workspace, or lacks the version, a 404.
func (s *Store) Resolve(tx *store.Tx, workspace string, ref Ref) (*croft.SessionAgent, error) {
	a, err := agentVersion(tx, workspace, ref.ID, ref.Version)
	if err != nil {
		return nil, err
	}
	if a.ArchivedAt != 0 {
		return nil, croft.Errorf(croft.InvalidRequest, "agent %q is archived: accepted is one that is not", ref.ID)
	}
	out := &croft.SessionAgent{ID: a.ID, Type: a.Type, Name: a.Name, Description: a.Description, Model: a.Model, System: a.System,
		Tools: a.Tools, MCPServers: a.MCPServers, Skills: a.Skills, Multiagent: a.Multiagent,
		ExecutionIdentity: a.ExecutionIdentity, Version: a.Version}
	if ref.Overrides == nil {
		return out, nil
	}
	if o := ref.Overrides; o.Model != nil {
		if s.models != nil {
			if err := s.models.Check(o.Model.ID); err != nil {
				return nil, croft.Invalid("agent.model.id", "%v", err)
			}
		}
		out.Model = *o.Model
	}
	if o := ref.Overrides; o.System != nil {
		out.System = *o.System
	}
	if o := ref.Overrides; o.Tools != nil {
		out.Tools = *o.Tools
	}
	if o := ref.Overrides; o.MCPServers != nil {
		out.MCPServers = *o.MCPServers
	}
	if o := ref.Overrides; o.Skills != nil {
		out.Skills = *o.Skills
	}
	return out, nil
}
