package policy_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"croft"
	"croft/internal/brain/policy"
	"croft/internal/session"
)

func TestPolicy(t *testing.T) {
	config := func(name string, enabled bool, rule string) croft.ToolConfig {
		return croft.ToolConfig{Name: name, Enabled: enabled, PermissionPolicy: croft.Typed{Type: rule}}
	}
	toolset := func(def *croft.ToolDefault, configs ...croft.ToolConfig) croft.Tool {
		return croft.Tool{Type: croft.ToolsetAgent, DefaultConfig: def, Configs: &configs}
	}
	asks := &croft.ToolDefault{Enabled: true, PermissionPolicy: croft.Typed{Type: croft.AlwaysAsk}}
	off := &croft.ToolDefault{PermissionPolicy: croft.Typed{Type: croft.AlwaysAllow}}
	look := croft.Tool{Type: croft.ToolCustom, Name: "look", Description: "d", InputSchema: json.RawMessage(`{"type":"object"}`)}
	const all = "bash edit glob grep read write"
	for name, c := range map[string]struct {
		tools   []croft.Tool
		offered string
		judged  map[string]session.Verdict
	}{
		"none":       {nil, "", map[string]session.Verdict{"bash": session.VerdictRefuse}},
		"defaults":   {[]croft.Tool{{Type: croft.ToolsetAgent}}, all, map[string]session.Verdict{"bash": session.VerdictAllow, "web_search": session.VerdictRefuse, "look": session.VerdictRefuse}},
		"asking":     {[]croft.Tool{toolset(asks, config("read", true, croft.AlwaysAllow))}, all, map[string]session.Verdict{"bash": session.VerdictAsk, "read": session.VerdictAllow}},
		"mostly off": {[]croft.Tool{toolset(off, config("read", true, croft.AlwaysAsk))}, "read", map[string]session.Verdict{"bash": session.VerdictRefuse, "read": session.VerdictAsk}},
		"one off":    {[]croft.Tool{toolset(nil, config("bash", false, croft.AlwaysAllow)), look}, "edit glob grep look read write", map[string]session.Verdict{"bash": session.VerdictRefuse, "look": session.VerdictClient}},
		"MCP":        {[]croft.Tool{{Type: croft.ToolsetMCP, MCPServerName: "s"}}, "", map[string]session.Verdict{"s": session.VerdictRefuse}},
	} {
		p := policy.Of(&croft.SessionAgent{Tools: c.tools})
		var offered []string
		for _, tool := range p.Tools() {
			offered = append(offered, tool.Name)
			if !json.Valid(tool.Schema) || tool.Description == "" {
				t.Errorf("%s: %s is offered as %+v", name, tool.Name, tool)
			}
		}
		slices.Sort(offered)
		if got := strings.Join(offered, " "); got != c.offered {
			t.Errorf("%s: offered %q, want %q", name, got, c.offered)
		}
		for tool, want := range c.judged {
			typ, got, reason := p.Judge(tool, json.RawMessage(`{}`))
			if got != want || (reason != "") != (want == session.VerdictRefuse) || (typ == croft.AgentCustomToolUse) != (want == session.VerdictClient) {
				t.Errorf("%s: %s is judged %s, %q (%s), want %s", name, tool, got, reason, typ, want)
			}
		}
	}
}
