package croft

import "encoding/json"

// Limits of the wire that several rooms share.
const (
	MaxBody        = 32 << 20 // bytes of a request's body
	MaxToolEntries = 128      // entries of an agent's tools
	MaxMCPServers  = 20       // MCP servers of an agent
	MaxMetadata    = 16       // pairs of metadata of one resource
	MaxOutputChars = 100_000  // characters of a tool's output that the model sees whole
)

// Agent is a versioned definition: who does the work, with which model and tools.
// It is what GET /v1/agents/{id} answers.
type Agent struct {
	ID                string            `json:"id"`
	Type              string            `json:"type"` // "agent"
	Name              string            `json:"name"`
	Description       *string           `json:"description"`
	Model             ModelConfig       `json:"model"`
	System            *string           `json:"system"`
	Tools             []Tool            `json:"tools"`
	MCPServers        []MCPServer       `json:"mcp_servers"`
	Skills            []json.RawMessage `json:"skills"`
	Multiagent        json.RawMessage   `json:"multiagent"`
	ExecutionIdentity json.RawMessage   `json:"execution_identity"`
	Metadata          map[string]string `json:"metadata"`
	Version           int64             `json:"version"`
	CreatedAt         Time              `json:"created_at"`
	UpdatedAt         Time              `json:"updated_at"`
	ArchivedAt        Time              `json:"archived_at"`
}

// SessionAgent is the agent as one session runs it: the version it was created from,
// with the session's overrides applied.
type SessionAgent struct {
	ID                string            `json:"id"`
	Type              string            `json:"type"` // "agent"
	Name              string            `json:"name"`
	Description       *string           `json:"description"`
	Model             ModelConfig       `json:"model"`
	System            *string           `json:"system"`
	Tools             []Tool            `json:"tools"`
	MCPServers        []MCPServer       `json:"mcp_servers"`
	Skills            []json.RawMessage `json:"skills"`
	Multiagent        json.RawMessage   `json:"multiagent"`
	ExecutionIdentity json.RawMessage   `json:"execution_identity"`
	Version           int64             `json:"version"`
}

// ModelConfig names the model and how it is asked.
type ModelConfig struct {
	ID           string  `json:"id"`
	Effort       *Typed  `json:"effort,omitempty"` // {"type": "low|medium|high|xhigh|max"}
	Speed        string  `json:"speed,omitempty"`  // "standard" or "fast"
	InferenceGeo *string `json:"inference_geo,omitempty"`
}

// Typed is an object that holds its type and nothing else.
type Typed struct {
	Type string `json:"type"`
}

// Kinds of tool entries.
const (
	ToolsetAgent = "agent_toolset_20260401"
	ToolsetMCP   = "mcp_toolset"
	ToolCustom   = "custom"
)

// Policies of tools.
const (
	AlwaysAllow = "always_allow"
	AlwaysAsk   = "always_ask"
)

// Tool is one entry of an agent's tools: a toolset (agent or MCP) or a custom tool. Fields
// that its type lacks are absent on the wire.
type Tool struct {
	Type          string          `json:"type"`
	DefaultConfig *ToolDefault    `json:"default_config,omitempty"`
	Configs       *[]ToolConfig   `json:"configs,omitempty"`
	MCPServerName string          `json:"mcp_server_name,omitempty"`
	Name          string          `json:"name,omitempty"`
	Description   string          `json:"description,omitempty"`
	InputSchema   json.RawMessage `json:"input_schema,omitempty"`
}

// ToolDefault is what holds for each tool of a toolset that has no entry of its own.
type ToolDefault struct {
	Enabled          bool  `json:"enabled"`
	PermissionPolicy Typed `json:"permission_policy"`
}

// ToolConfig is the configuration of one tool of a toolset.
type ToolConfig struct {
	Type             string `json:"type,omitempty"`
	Name             string `json:"name"`
	Enabled          bool   `json:"enabled"`
	PermissionPolicy Typed  `json:"permission_policy"`
	// Web holds the further settings of web_search and web_fetch as they were accepted.
	Web map[string]json.RawMessage `json:"-"`
}

// MarshalJSON writes the web settings beside the common ones.
func (c ToolConfig) MarshalJSON() ([]byte, error) {
	type plain ToolConfig
	b, err := json.Marshal(plain(c))
	if err != nil || len(c.Web) == 0 {
		return b, err
	}
	all := map[string]json.RawMessage{}
	for k, v := range c.Web {
		all[k] = v
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *ToolConfig) UnmarshalJSON(b []byte) error {
	type plain ToolConfig
	if err := json.Unmarshal(b, (*plain)(c)); err != nil {
		return err
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for _, k := range []string{"type", "name", "enabled", "permission_policy"} {
		delete(all, k)
	}
	if len(all) > 0 {
		c.Web = all
	}
	return nil
}

// MCPServer is a remote MCP server that an agent may use.
type MCPServer struct {
	Type string `json:"type"` // "url"
	Name string `json:"name"`
	URL  string `json:"url"`
}

// Kinds of environments.
const (
	EnvironmentCloud      = "cloud"
	EnvironmentSelfHosted = "self_hosted"
)

// Environment says where and how a session's tools run.
type Environment struct {
	ID          string            `json:"id"`
	Type        string            `json:"type"` // "environment"
	Name        string            `json:"name"`
	Description *string           `json:"description"`
	Config      EnvironmentConfig `json:"config"`
	Metadata    map[string]string `json:"metadata"`
	Scope       string            `json:"scope,omitempty"` // "organization" or "account"
	CreatedAt   Time              `json:"created_at"`
	UpdatedAt   Time              `json:"updated_at"`
	ArchivedAt  Time              `json:"archived_at"`
}

// EnvironmentConfig is cloud (Croft's own fleet) or self_hosted (the user's workers).
type EnvironmentConfig struct {
	Type       string            `json:"type"`
	Networking *Networking       `json:"networking,omitempty"`
	Packages   *Packages         `json:"packages,omitempty"`
	Croft      *EnvironmentCroft `json:"croft,omitempty"`
}

// Networking is the outbound policy of a sandbox.
type Networking struct {
	Type                 string    `json:"type"` // "unrestricted" or "limited"
	AllowedHosts         *[]string `json:"allowed_hosts,omitempty"`
	AllowMCPServers      *bool     `json:"allow_mcp_servers,omitempty"`
	AllowPackageManagers *bool     `json:"allow_package_managers,omitempty"`
}

// Packages lists what is installed before the agent starts, by package manager.
type Packages struct {
	Type  string   `json:"type,omitempty"` // "packages"
	Apt   []string `json:"apt"`
	Cargo []string `json:"cargo"`
	Gem   []string `json:"gem"`
	Go    []string `json:"go"`
	Npm   []string `json:"npm"`
	Pip   []string `json:"pip"`
}

// EnvironmentCroft is Croft's addition to an environment's configuration. Zero values mean
// the worker's defaults. See docs/configuration.md.
type EnvironmentCroft struct {
	Driver       string            `json:"driver,omitempty"`
	CPUs         float64           `json:"cpus,omitempty"`
	MemoryMB     int               `json:"memory_mb,omitempty"`
	Pids         int               `json:"pids,omitempty"`
	TimeoutS     int               `json:"timeout_s,omitempty"`      // of one tool call
	IdleTimeoutS int               `json:"idle_timeout_s,omitempty"` // until an idle session's sandbox is released
	Mounts       []Mount           `json:"mounts,omitempty"`
	Env          map[string]string `json:"env,omitempty"`
	// Unenforced lists, in answers only, what this version accepts and stores without enforcing.
	Unenforced []string `json:"unenforced,omitempty"`
}

// Mount shows a folder or file of the worker's host inside a sandbox.
type Mount struct {
	Host     string `json:"host"`
	Path     string `json:"path"` // absolute, inside
	ReadOnly bool   `json:"read_only,omitempty"`
}

// SessionStatus is a session's, or a thread's, state as the wire names it.
type SessionStatus string

// The statuses.
const (
	StatusIdle         SessionStatus = "idle"
	StatusRunning      SessionStatus = "running"
	StatusRescheduling SessionStatus = "rescheduling"
	StatusTerminated   SessionStatus = "terminated"
)

// Session is what GET /v1/sessions/{id} answers.
type Session struct {
	ID                 string            `json:"id"`
	Type               string            `json:"type"` // "session"
	Agent              SessionAgent      `json:"agent"`
	EnvironmentID      string            `json:"environment_id"`
	Title              *string           `json:"title"`
	Metadata           map[string]string `json:"metadata"`
	Status             SessionStatus     `json:"status"`
	Budget             *Budget           `json:"budget"`
	Resources          []json.RawMessage `json:"resources"`
	OutcomeEvaluations []json.RawMessage `json:"outcome_evaluations"`
	VaultIDs           []string          `json:"vault_ids"`
	DeploymentID       *string           `json:"deployment_id"`
	Stats              SessionStats      `json:"stats"`
	Usage              Usage             `json:"usage"`
	CreatedAt          Time              `json:"created_at"`
	UpdatedAt          Time              `json:"updated_at"`
	ArchivedAt         Time              `json:"archived_at"`
}

// SessionStats are a session's times in seconds.
type SessionStats struct {
	ActiveSeconds   float64 `json:"active_seconds"`
	DurationSeconds float64 `json:"duration_seconds"`
}

// Budget is a ceiling on a session's list cost.
type Budget struct {
	Type        string `json:"type"` // "limit"
	MaxListCost Money  `json:"max_list_cost"`
}

// Money is a whole number of cents, written as a string.
type Money struct {
	Amount   string `json:"amount"`
	Currency string `json:"currency"` // "USD"
}

// Usage is what a session has used so far. Tokens are counts; ListCost is nil where no
// price is known for any model used.
type Usage struct {
	InputTokens          int64         `json:"input_tokens"`
	OutputTokens         int64         `json:"output_tokens"`
	CacheReadInputTokens int64         `json:"cache_read_input_tokens"`
	CacheCreation        CacheCreation `json:"cache_creation"`
	ActiveSeconds        float64       `json:"active_seconds"`
	ListCost             *Money        `json:"list_cost"`
	ServerToolUse        ServerToolUse `json:"server_tool_use"`
}

// CacheCreation splits tokens written to the prompt cache by the entry's lifetime.
type CacheCreation struct {
	Ephemeral5m int64 `json:"ephemeral_5m_input_tokens"`
	Ephemeral1h int64 `json:"ephemeral_1h_input_tokens"`
}

// ServerToolUse counts requests of tools that run on the server.
type ServerToolUse struct {
	WebSearchRequests int64 `json:"web_search_requests"`
	WebFetchRequests  int64 `json:"web_fetch_requests"`
}

// ModelUsage is the usage of one model request, as span.model_request_end carries it.
type ModelUsage struct {
	InputTokens              int64   `json:"input_tokens"`
	OutputTokens             int64   `json:"output_tokens"`
	CacheReadInputTokens     int64   `json:"cache_read_input_tokens"`
	CacheCreationInputTokens int64   `json:"cache_creation_input_tokens"`
	Speed                    *string `json:"speed"`
}
