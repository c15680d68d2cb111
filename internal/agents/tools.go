package agents

import (
	"encoding/json"
	"slices"

	"croft"
	"croft/internal/wire"
)

// builtin are the tools of the agent toolset.
var builtin = []string{"bash", "edit", "read", "write", "glob", "grep", "web_fetch", "web_search"}

const (
	maxToolName        = 128
	maxToolDescription = 20_000
)

// ParseTools reads a list of tools, fills in what it leaves out, and checks its entries
// against one another. Null and absent are the empty list. Faults are kept in v's Doc.
func ParseTools(v wire.Value) []croft.Tool {
	tools := []croft.Tool{}
	if !v.Given() {
		return tools
	}
	var customs, sources []wire.Value
	toolset := false
	for _, e := range v.List(0, croft.MaxToolEntries) {
		if !e.AnyObject() {
			return nil
		}
		typ := e.Get("type")
		if typ.Is(croft.ToolsetMCP) {
			typ.NotServed(croft.ToolsetMCP)
		}
		switch typ.OneOf(croft.ToolsetAgent, croft.ToolCustom) {
		case croft.ToolsetAgent:
			if toolset {
				e.Fail("a second %s is not accepted: one entry configures the whole set", croft.ToolsetAgent)
			}
			toolset = true
			t, urls := agentToolset(e)
			tools = append(tools, t)
			if urls.Given() {
				sources = append(sources, urls)
			}
		case croft.ToolCustom:
			tools = append(tools, customTool(e))
			customs = append(customs, e.Get("name"))
		}
	}
	if v.Err() != nil {
		return nil
	}
	names := make(map[string]bool, len(customs))
	for _, c := range customs {
		name := c.Text(1, maxToolName)
		switch {
		case names[name]:
			c.Fail("another custom tool has this name: accepted is a name that is used once")
		case toolset && slices.Contains(builtin, name):
			c.Fail("a tool of %s has this name: accepted is another one", croft.ToolsetAgent)
		}
		names[name] = true
	}
	for _, s := range sources {
		clientTools(s, names)
	}
	return tools
}

// ParseMCPServers reads a list of MCP servers. None is served yet, so that it must be
// empty, null or absent.
func ParseMCPServers(v wire.Value) []croft.MCPServer {
	if v.Given() && v.Len(0, croft.MaxMCPServers) > 0 {
		v.NotServed("")
	}
	return []croft.MCPServer{}
}

// parseSkills is the same for skills.
func parseSkills(v wire.Value) []json.RawMessage {
	if v.Given() && v.Len(0, 500) > 0 {
		v.NotServed("")
	}
	return []json.RawMessage{}
}

// agentToolset reads the entry of the agent toolset. urls is the url_sources of web_fetch,
// whose names of tools can be checked once all tools are known.
func agentToolset(e wire.Value) (t croft.Tool, urls wire.Value) {
	o := e.Object("type", "default_config", "configs")
	base := croft.ToolDefault{Enabled: true, PermissionPolicy: croft.Typed{Type: croft.AlwaysAllow}}
	if d := o.Get("default_config"); d.Given() {
		d = d.Object("enabled", "permission_policy")
		readRule(d, &base.Enabled, &base.PermissionPolicy)
	}
	configs := []croft.ToolConfig{}
	if list := o.Get("configs"); list.Given() {
		for _, c := range list.List(0, len(builtin)) {
			cfg := toolConfig(c, base)
			for _, other := range configs {
				if other.Name == cfg.Name {
					c.Get("name").Fail("another entry configures this tool: accepted is one entry for each tool")
				}
			}
			if u := c.Get("url_sources"); u.Given() {
				urls = u
			}
			configs = append(configs, cfg)
		}
	}
	return croft.Tool{Type: croft.ToolsetAgent, DefaultConfig: &base, Configs: &configs}, urls
}

// readRule reads what every configuration of tools holds over what is the case without it.
func readRule(o wire.Value, enabled *bool, policy *croft.Typed) {
	if v := o.Get("enabled"); v.Given() {
		*enabled = v.Bool()
	}
	if v := o.Get("permission_policy"); v.Given() {
		typ := v.Object("type").Get("type")
		if typ.Is("auto") {
			v.NotServed("auto")
		}
		policy.Type = typ.OneOf(croft.AlwaysAllow, croft.AlwaysAsk)
	}
}

// toolConfig reads the configuration of one tool of the agent toolset.
func toolConfig(c wire.Value, base croft.ToolDefault) croft.ToolConfig {
	if !c.AnyObject() {
		return croft.ToolConfig{}
	}
	name := c.Get("name").OneOf(builtin...)
	fields := append(make([]string, 0, 8), "type", "name", "enabled", "permission_policy")
	switch name {
	case "web_search":
		fields = append(fields, "allowed_domains", "blocked_domains", "user_location")
	case "web_fetch":
		fields = append(fields, "allowed_domains", "blocked_domains", "max_content_tokens", "url_sources")
	}
	o := c.Object(fields...)
	cfg := croft.ToolConfig{Type: name, Name: name, Enabled: base.Enabled, PermissionPolicy: base.PermissionPolicy}
	if t := o.Get("type"); t.Given() {
		t.OneOf(name)
	}
	readRule(o, &cfg.Enabled, &cfg.PermissionPolicy)
	switch name {
	case "web_search":
		cfg.Web = webSearch(o)
	case "web_fetch":
		cfg.Web = webFetch(o)
	}
	return cfg
}

// customTool reads a tool that the client runs.
func customTool(e wire.Value) croft.Tool {
	o := e.Object("type", "name", "description", "input_schema")
	t := croft.Tool{Type: croft.ToolCustom}
	name := o.Get("name")
	t.Name = name.Text(1, maxToolName)
	for _, r := range t.Name {
		if r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			name.Fail("accepted are letters of ASCII, digits, underscores and hyphens")
			break
		}
	}
	t.Description = o.Get("description").Text(1, maxToolDescription)
	t.InputSchema = inputSchema(o.Get("input_schema"))
	return t
}

// inputSchema reads a JSON Schema of an object. What is inside is the model's to read;
// checked is what every provider insists on.
func inputSchema(v wire.Value) json.RawMessage {
	if !v.AnyObject() {
		return nil
	}
	v.Get("type").OneOf("object")
	if p := v.Get("properties"); p.Given() {
		p.AnyObject()
	}
	if r := v.Get("required"); r.Given() {
		for _, e := range r.List(0, 1000) {
			e.Text(1, -1)
		}
	}
	if v.Err() != nil {
		return nil
	}
	return v.Append(nil)
}
