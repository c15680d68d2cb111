// Package policy says which tools a model is offered and who may run a call: the agent's
// configuration decides, nothing else. It imports the language, the tools' definitions and
// the shapes of model and session; the brain asks it.
package policy

import (
	"encoding/json"
	"fmt"

	"croft"
	"croft/internal/hand/tools"
	"croft/internal/model"
	"croft/internal/session"
)

// rule is what holds for one tool.
type rule struct {
	verdict session.Verdict
	custom  bool
}

// Policy is an agent's rules, made once per session and configuration.
type Policy struct {
	tools []model.Tool
	rules map[string]rule
}

// Of reads an agent's tools.
func Of(agent *croft.SessionAgent) *Policy {
	p := &Policy{rules: map[string]rule{}}
	for i := range agent.Tools {
		t := &agent.Tools[i]
		switch t.Type {
		case croft.ToolCustom:
			p.tools = append(p.tools, model.Tool{Name: t.Name, Description: t.Description, Schema: t.InputSchema})
			p.rules[t.Name] = rule{verdict: session.VerdictClient, custom: true}
		case croft.ToolsetAgent:
			p.toolset(t)
		}
	}
	return p
}

// toolset adds the tools of the agent toolset that are switched on and that exist here.
func (p *Policy) toolset(t *croft.Tool) {
	for _, d := range tools.Definitions() {
		enabled, ask := true, false
		if t.DefaultConfig != nil {
			enabled, ask = t.DefaultConfig.Enabled, t.DefaultConfig.PermissionPolicy.Type == croft.AlwaysAsk
		}
		if t.Configs != nil {
			for _, c := range *t.Configs {
				if c.Name == d.Name {
					enabled, ask = c.Enabled, c.PermissionPolicy.Type == croft.AlwaysAsk
				}
			}
		}
		if !enabled {
			continue
		}
		v := session.VerdictAllow
		if ask {
			v = session.VerdictAsk
		}
		p.tools = append(p.tools, model.Tool{Name: d.Name, Description: d.Description, Schema: d.Schema})
		p.rules[d.Name] = rule{verdict: v}
	}
}

// Tools are what the model is offered.
func (p *Policy) Tools() []model.Tool { return p.tools }

// Judge says what is to become of a call.
func (p *Policy) Judge(name string, input json.RawMessage) (typ croft.EventType, v session.Verdict, reason string) {
	r, ok := p.rules[name]
	if !ok {
		return croft.AgentToolUse, session.VerdictRefuse, fmt.Sprintf("There is no tool named %q here, or it is switched off.", name)
	}
	if r.custom {
		return croft.AgentCustomToolUse, r.verdict, ""
	}
	return croft.AgentToolUse, r.verdict, ""
}
