package agents_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"croft"
	"croft/internal/agents"
)

const (
	notServed = "is not served by this version of Croft"
	ws        = "wrkspc_test"
)

// known accepts the models that begin with claude-.
type known struct{}

func (known) Check(id string) error {
	if !strings.HasPrefix(id, "claude-") {
		return errors.New("no model is called so; accepted are claude-opus-5 and claude-sonnet-5")
	}
	return nil
}

type bad struct{ name, body, want string }

// refuses checks that each body is a 400 with exactly that path and message. No database is
// there: a body's faults are told before one is asked.
func refuses[T any](t *testing.T, call func(*agents.Store, []byte) (T, error), tests []bad) {
	t.Helper()
	s := agents.New(nil, known{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := call(s, []byte(tt.body))
			if !croft.IsType(err, croft.InvalidRequest) || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// badTools are lists of tools and their faults, with paths that begin at the list.
func badTools() []bad {
	const toolset = `"type":"agent_toolset_20260401"`
	set := func(s string) string { return `[{` + toolset + `,` + s + `}]` }
	config := func(s string) string { return set(`"configs":[` + s + `]`) }
	search := func(s string) string { return config(`{"name":"web_search",` + s + `}`) }
	fetch := func(s string) string { return config(`{"name":"web_fetch",` + s + `}`) }
	custom := func(s string) string { return `[{"type":"custom",` + s + `}]` }
	named := func(name string) string {
		return `{"type":"custom","name":"` + name + `","description":"x","input_schema":{"type":"object"}}`
	}
	domain := func(d string) string { return fetch(`"allowed_domains":["` + d + `"]`) }
	list := `accepted is "bash", "edit", "read", "write", "glob", "grep", "web_fetch" or "web_search"`
	plain := `accepted is a plain hostname like "example.com"`
	many := strings.TrimSuffix(strings.Repeat(`"x.com",`, 65), ",")
	schema := func(s string) string { return custom(`"name":"a","description":"x","input_schema":` + s) }
	const common = "Accepted are enabled, name, permission_policy, type"
	tests := []bad{
		{"an object", `{}`, "tools: accepted is a list of at most 128 elements"},
		{"too many", `[` + strings.Repeat(named("a")+",", 128) + named("a") + `]`, "tools: accepted is a list of at most 128 elements; this has 129"},
		{"text", `["bash"]`, "tools.0: accepted is an object"},
		{"no type", `[{"name":"bash"}]`, `tools.0.type: is required: accepted is "agent_toolset_20260401" or "custom"`},
		{"a tool of the Messages API", `[{"type":"bash_20250124"}]`, `tools.0.type: accepted is "agent_toolset_20260401" or "custom"`},
		{"an MCP toolset", `[{"type":"mcp_toolset","mcp_server_name":"x"}]`, "tools.0.type: mcp_toolset " + notServed},
		{"two toolsets", `[{` + toolset + `},{` + toolset + `}]`, "tools.1: a second agent_toolset_20260401 is not accepted: one entry configures the whole set"},
		{"a member of another entry", set(`"name":"x"`), "tools.0.name: is not known: Accepted are configs, default_config, type"},
		{"enabled text", set(`"default_config":{"enabled":"no"}`), "tools.0.default_config.enabled: accepted is true or false"},
		{"policy text", set(`"default_config":{"permission_policy":"always_ask"}`), "tools.0.default_config.permission_policy: accepted is an object"},
		{"policy unknown", set(`"default_config":{"permission_policy":{"type":"never"}}`), `tools.0.default_config.permission_policy.type: accepted is "always_allow" or "always_ask"`},
		{"policy auto", config(`{"name":"bash"},{"name":"read","permission_policy":{"type":"auto"}}`), "tools.0.configs.1.permission_policy: auto " + notServed},
		{"configs an object", set(`"configs":{}`), "tools.0.configs: accepted is a list of at most 8 elements"},
		{"config without a name", config(`{"enabled":true}`), "tools.0.configs.0.name: is required: " + list},
		{"config of no tool", config(`{"name":"bash"},{"name":"shell"}`), "tools.0.configs.1.name: " + list},
		{"config twice", config(`{"name":"bash"},{"name":"bash"}`), "tools.0.configs.1.name: another entry configures this tool: accepted is one entry for each tool"},
		{"config of two tools", config(`{"name":"bash","type":"read"}`), `tools.0.configs.0.type: accepted is "bash"`},
		{"config of another tool's setting", config(`{"name":"bash","allowed_domains":["x.com"]}`), "tools.0.configs.0.allowed_domains: is not known: " + common},
		{"max_uses", search(`"max_uses":3`), "tools.0.configs.0.max_uses: is not known: Accepted are allowed_domains, blocked_domains, enabled, name, permission_policy, type, user_location"},
		{"max_content_tokens of a search", search(`"max_content_tokens":3`), "tools.0.configs.0.max_content_tokens: is not known: Accepted are allowed_domains, blocked_domains, enabled, name, permission_policy, type, user_location"},
		{"no tokens", fetch(`"max_content_tokens":0`), "tools.0.configs.0.max_content_tokens: accepted is a whole number from 1 to 1000000000"},
		{"half a token", fetch(`"max_content_tokens":0.5`), "tools.0.configs.0.max_content_tokens: accepted is a whole number from 1 to 1000000000"},
		{"both lists", fetch(`"allowed_domains":["a.com"],"blocked_domains":["b.com"]`), "tools.0.configs.0: Only one of allowed_domains or blocked_domains may be set."},
		{"an empty list", search(`"allowed_domains":[]`), "tools.0.configs.0.allowed_domains: Empty list of domains is ambiguous. Provide at least one domain or null."},
		{"too many domains", fetch(`"blocked_domains":[` + many + `]`), "tools.0.configs.0.blocked_domains: accepted is a list of 1 to 64 elements; this has 65"},
		{"a long domain", domain(strings.Repeat("a.", 127) + "com"), "tools.0.configs.0.allowed_domains.0: accepted is text of 1 to 255 characters; this has 257"},
		{"a domain twice", fetch(`"blocked_domains":["x.com","X.com/"]`), "tools.0.configs.0.blocked_domains.1: the list holds this domain already: accepted is each domain once"},
		{"a URL", domain("https://example.com"), "tools.0.configs.0.allowed_domains.0: a scheme is not accepted; " + plain},
		{"a path", domain("example.com/*"), "tools.0.configs.0.allowed_domains.0: a path is not accepted; " + plain},
		{"a path with a query", search(`"allowed_domains":["example.com/a?b"]`), "tools.0.configs.0.allowed_domains.0: a path must not hold spaces, ?, # or any of $ , | ^ !"},
		{"a port", domain("example.com:443"), "tools.0.configs.0.allowed_domains.0: a port, credentials and wildcards are not accepted; " + plain},
		{"a wildcard", domain("*.example.com"), "tools.0.configs.0.allowed_domains.0: a port, credentials and wildcards are not accepted; " + plain},
		{"IPv4", domain("10.0.0.1"), `tools.0.configs.0.allowed_domains.0: IP addresses are not supported; provide a plain hostname like "example.com"`},
		{"IPv4 in short", domain("127.1"), `tools.0.configs.0.allowed_domains.0: IP addresses are not supported; provide a plain hostname like "example.com"`},
		{"IPv6", domain("[::1]"), `tools.0.configs.0.allowed_domains.0: IP addresses are not supported; provide a plain hostname like "example.com"`},
		{"a hyphen in front", domain("-a.example.com"), "tools.0.configs.0.allowed_domains.0: a part between dots must not be empty and neither begin nor end with a hyphen; " + plain},
		{"two dots", domain("example..com"), "tools.0.configs.0.allowed_domains.0: a part between dots must not be empty and neither begin nor end with a hyphen; " + plain},
		{"white space", domain("exa mple.com"), "tools.0.configs.0.allowed_domains.0: accepted are letters of ASCII, digits, hyphens, underscores and dots"},
		{"an umlaut", domain("münchen.de"), "tools.0.configs.0.allowed_domains.0: characters outside ASCII are not accepted; write the name in its xn-- form"},
		{"one label", domain("intranet"), "tools.0.configs.0.allowed_domains.0: a name of a single part is not accepted; " + plain},
		{"a local name", domain("db.internal"), "tools.0.configs.0.allowed_domains.0: names of the local network are not accepted; " + plain},
		{"a suffix", domain("co.uk"), `tools.0.configs.0.allowed_domains.0: a suffix under which names are registered is not accepted; list a full domain such as "example.co.uk"`},
		{"no kind of location", search(`"user_location":{"country":"US"}`), `tools.0.configs.0.user_location.type: is required: accepted is "approximate"`},
		{"a country by name", search(`"user_location":{"type":"approximate","country":"usa"}`), "tools.0.configs.0.user_location.country: accepted are the two capital letters of ISO 3166-1, as in US"},
		{"no time zone", search(`"user_location":{"type":"approximate","timezone":"Mars/Olympus"}`), "tools.0.configs.0.user_location.timezone: accepted is a name of the IANA time zone database, as in America/Los_Angeles"},
		{"the server's time zone", search(`"user_location":{"type":"approximate","timezone":"Local"}`), "tools.0.configs.0.user_location.timezone: accepted is a name of the IANA time zone database, as in America/Los_Angeles"},
		{"sources of a list", fetch(`"url_sources":[]`), "tools.0.configs.0.url_sources: accepted is an object"},
		{"a source of a number", fetch(`"url_sources":{"user_input":1}`), `tools.0.configs.0.url_sources.user_input: accepted is "all", "none" or an object with a type`},
		{"a short source", fetch(`"url_sources":{"user_input":"only"}`), `tools.0.configs.0.url_sources.user_input: accepted is "all" or "none"`},
		{"only some input", fetch(`"url_sources":{"user_input":{"type":"only","tools":[]}}`), `tools.0.configs.0.url_sources.user_input.type: accepted is "all" or "none"`},
		{"no source at all", fetch(`"url_sources":{"user_input":"none","client_tool_results":{"type":"none"},"server_tool_results":"none"}`), "tools.0.configs.0.url_sources: no URL could ever be fetched: accepted is at least one source other than none; to switch the tool off, set enabled to false"},
		{"only nothing", fetch(`"url_sources":{"server_tool_results":{"type":"only","tools":[]}}`), "tools.0.configs.0.url_sources.server_tool_results.tools: accepted is a list of 1 to 128 elements; this has 0"},
		{"a reference without a type", fetch(`"url_sources":{"server_tool_results":{"type":"only","tools":[{"name":"bash"}]}}`), `tools.0.configs.0.url_sources.server_tool_results.tools.0.type: is required: accepted is "tool_reference"`},
		{"a server tool", fetch(`"url_sources":{"server_tool_results":{"type":"only","tools":[{"type":"tool_reference","name":"bash"}]}}`), `tools.0.configs.0.url_sources.server_tool_results.tools.0.name: accepted is "web_search" or "web_fetch"`},
		{"a client tool", fetch(`"url_sources":{"client_tool_results":{"type":"except","tools":[{"type":"tool_reference","name":"a"}]}}`), "tools.0.configs.0.url_sources.client_tool_results.tools.0.name: accepted is the name of a custom tool of the same list of tools"},
		{"a reference twice", fetch(`"url_sources":{"server_tool_results":{"type":"only","tools":[{"type":"tool_reference","name":"web_search"},{"type":"tool_reference","name":"web_search"}]}}`), "tools.0.configs.0.url_sources.server_tool_results.tools.1.name: the list names this tool already: accepted is each tool once"},
		{"a custom tool's policy", custom(`"name":"a","permission_policy":{}`), "tools.0.permission_policy: is not known: Accepted are description, input_schema, name, type"},
		{"a custom tool without a name", custom(`"description":"x"`), "tools.0.name: is required: accepted is text of 1 to 128 characters"},
		{"a custom tool with a long name", `[` + named(strings.Repeat("a", 129)) + `]`, "tools.0.name: accepted is text of 1 to 128 characters; this has 129"},
		{"a custom tool with a point", `[` + named("a.b") + `]`, "tools.0.name: accepted are letters of ASCII, digits, underscores and hyphens"},
		{"a custom tool without a description", custom(`"name":"a"`), "tools.0.description: is required: accepted is text of 1 to 20000 characters"},
		{"a custom tool without a schema", custom(`"name":"a","description":"x"`), "tools.0.input_schema: is required: accepted is an object"},
		{"a schema without a type", schema(`{}`), `tools.0.input_schema.type: is required: accepted is "object"`},
		{"a schema of a string", schema(`{"type":"string"}`), `tools.0.input_schema.type: accepted is "object"`},
		{"properties in a list", schema(`{"type":"object","properties":[]}`), "tools.0.input_schema.properties: accepted is an object"},
		{"required text", schema(`{"type":"object","required":"a"}`), "tools.0.input_schema.required: accepted is a list of at most 1000 elements"},
		{"a member of a schema twice", schema(`{"type":"object","x":{"a":1,"a":2}}`), "tools.0.input_schema.x.a: is given twice"},
		{"two of one name", `[` + named("a") + `,` + named("b") + `,` + named("a") + `]`, "tools.2.name: another custom tool has this name: accepted is a name that is used once"},
		{"the name of a tool of the set", `[` + named("bash") + `,{` + toolset + `}]`, "tools.0.name: a tool of agent_toolset_20260401 has this name: accepted is another one"},
	}
	return tests
}

func TestCreateAgentRefuses(t *testing.T) {
	with := func(s string) string { return `{"name":"x","model":"claude-opus-5",` + s + `}` }
	model := func(s string) string { return `{"name":"x","model":` + s + `}` }
	all := "Accepted are croft, description, execution_identity, mcp_servers, metadata, model, multiagent, name, skills, system, tools"
	tests := []bad{
		{"nothing", ``, "the body is empty: accepted is a JSON object"},
		{"text", `"x"`, "accepted is an object"},
		{"no name", `{"model":"claude-opus-5"}`, "name: is required: accepted is text of 1 to 256 characters"},
		{"name null", `{"name":null,"model":"claude-opus-5"}`, "name: accepted is text of 1 to 256 characters"},
		{"name empty", `{"name":"","model":"claude-opus-5"}`, "name: accepted is text of 1 to 256 characters; this has 0"},
		{"name blank", `{"name":" ","model":"claude-opus-5"}`, "name: accepted is a name that holds more than white space"},
		{"name long", `{"name":"` + strings.Repeat("ü", 257) + `","model":"claude-opus-5"}`, "name: accepted is text of 1 to 256 characters; this has 257"},
		{"no model", `{"name":"x"}`, "model: is required: accepted is a model's id or an object with an id"},
		{"model null", model(`null`), "model: agent_model_required: an agent needs a model; accepted is a model's id or an object with an id"},
		{"model a list", model(`[]`), "model: accepted is a model's id or an object with an id"},
		{"model empty", model(`""`), "model: accepted is text of 1 to 256 characters; this has 0"},
		{"model without an id", model(`{"speed":"fast"}`), "model.id: is required: accepted is text of 1 to 256 characters"},
		{"model unknown", model(`"gpt"`), "model: no model is called so; accepted are claude-opus-5 and claude-sonnet-5"},
		{"model unknown by id", model(`{"id":"gpt"}`), "model.id: no model is called so; accepted are claude-opus-5 and claude-sonnet-5"},
		{"model with a temperature", model(`{"id":"claude-opus-5","temperature":1}`), "model.temperature: is not known: Accepted are effort, id, inference_geo, speed"},
		{"effort", model(`{"id":"claude-opus-5","effort":"huge"}`), `model.effort: accepted is "low", "medium", "high", "xhigh" or "max"`},
		{"effort by type", model(`{"id":"claude-opus-5","effort":{"type":1}}`), `model.effort.type: accepted is "low", "medium", "high", "xhigh" or "max"`},
		{"speed", model(`{"id":"claude-opus-5","speed":"slow"}`), `model.speed: accepted is "standard" or "fast"`},
		{"geography", model(`{"id":"claude-opus-5","inference_geo":"eu"}`), `model.inference_geo: accepted is "us" or "global"`},
		{"description long", with(`"description":"` + strings.Repeat("x", 10_001) + `"`), "description: accepted is text of at most 10000 characters; this has 10001"},
		{"system long", with(`"system":"` + strings.Repeat("x", 100_001) + `"`), "system: accepted is text of at most 100000 characters; this has 100001"},
		{"system a list", with(`"system":[]`), "system: accepted is text of at most 100000 characters"},
		{"system by another name", with(`"system_prompt":"x"`), "system_prompt: is not known; was system meant? " + all},
		{"version", with(`"version":1`), "version: is not known: " + all},
		{"a misspelt member", with(`"metdata":{}`), "metdata: is not known; was metadata meant? " + all},
		{"MCP servers", with(`"mcp_servers":[{"type":"url","name":"x","url":"https://x"}]`), "mcp_servers: " + notServed},
		{"skills", with(`"skills":[{"type":"anthropic","skill_id":"xlsx"}]`), "skills: " + notServed},
		{"multiagent", with(`"multiagent":{"type":"coordinator","agents":[]}`), "multiagent: " + notServed},
		{"identity", with(`"execution_identity":{"type":"aws_role","role_arn":"x"}`), "execution_identity: aws_role " + notServed},
		{"identity unknown", with(`"execution_identity":{"type":"root"}`), `execution_identity.type: accepted is "service_account"`},
		{"metadata", with(`"metadata":{"a":null}`), "metadata.a: accepted is text of at most 512 characters"},
		{"an addition", with(`"croft":{"x":1}`), "croft.x: is not known: accepted is an object without members"},
	}
	for _, b := range badTools() {
		tests = append(tests, bad{"tools: " + b.name, with(`"tools":` + b.body), b.want})
	}
	refuses(t, func(s *agents.Store, body []byte) (*croft.Agent, error) {
		return s.CreateAgent(context.Background(), ws, body)
	}, tests)
}

func TestUpdateAgentRefuses(t *testing.T) {
	many := `"k0":"x"`
	for i := 1; i <= croft.MaxMetadata; i++ {
		many += fmt.Sprintf(`,"k%d":"x"`, i)
	}
	refuses(t, func(s *agents.Store, body []byte) (*croft.Agent, error) {
		return s.UpdateAgent(context.Background(), ws, "agent_1", body)
	}, []bad{
		{"version 0", `{"version":0}`, "version: accepted is a whole number from 1 to 9007199254740992"},
		{"version text", `{"version":"1"}`, "version: accepted is a whole number from 1 to 9007199254740992"},
		{"name null", `{"name":null}`, "name: accepted is text of 1 to 256 characters"},
		{"model null", `{"model":null}`, "model: agent_model_required: an agent needs a model; accepted is a model's id or an object with an id"},
		{"model unknown", `{"model":"gpt"}`, "model: no model is called so; accepted are claude-opus-5 and claude-sonnet-5"},
		{"tools", `{"tools":[{"type":"web"}]}`, `tools.0.type: accepted is "agent_toolset_20260401" or "custom"`},
		{"multiagent", `{"multiagent":{}}`, "multiagent: " + notServed},
		{"metadata", `{"metadata":{"a":1}}`, "metadata.a: accepted is text of at most 512 characters"},
		{"too much metadata", `{"metadata":{` + many + `}}`, "metadata: accepted are at most 16 pairs; there would be 17"},
		{"archived_at", `{"archived_at":null}`, "archived_at: is not known: Accepted are croft, description, execution_identity, mcp_servers, metadata, model, multiagent, name, skills, system, tools, version"},
	})
}

func TestCreateEnvironmentRefuses(t *testing.T) {
	config := func(s string) string { return `{"name":"x","config":` + s + `}` }
	cloud := func(s string) string { return config(`{"type":"cloud",` + s + `}`) }
	limited := func(s string) string { return cloud(`"networking":{"type":"limited",` + s + `}`) }
	own := func(s string) string { return cloud(`"croft":{` + s + `}`) }
	host := `accepted is a hostname like "api.example.com", or "*." and one, without scheme, port or path`
	tests := []bad{
		{"no name", `{}`, "name: is required: accepted is text of 1 to 256 characters"},
		{"description", `{"name":"x","description":1}`, "description: accepted is text of at most 10000 characters"},
		{"scope account", `{"name":"x","scope":"account"}`, `scope: every credential of a workspace sees all its environments: accepted is "organization"`},
		{"scope", `{"name":"x","scope":"world"}`, `scope: accepted is "organization"`},
		{"an addition in the wrong place", `{"name":"x","croft":{"cpus":1}}`, "croft.cpus: is not known: accepted is an object without members"},
		{"config text", config(`"cloud"`), "config: accepted is an object"},
		{"no type", config(`{}`), `config.type: is required: accepted is "cloud" or "self_hosted"`},
		{"type", config(`{"type":"docker"}`), `config.type: accepted is "cloud" or "self_hosted"`},
		{"networking of one's own", config(`{"type":"self_hosted","networking":{}}`), "config.networking: is not known: Accepted are croft, type"},
		{"networking text", cloud(`"networking":"none"`), "config.networking: accepted is an object"},
		{"networking without a type", cloud(`"networking":{}`), `config.networking.type: is required: accepted is "unrestricted" or "limited"`},
		{"hosts of unrestricted", cloud(`"networking":{"type":"unrestricted","allowed_hosts":[]}`), "config.networking.allowed_hosts: is not known: Accepted are type"},
		{"hosts text", limited(`"allowed_hosts":"x.com"`), "config.networking.allowed_hosts: accepted is a list of at most 1000 elements"},
		{"a URL as host", limited(`"allowed_hosts":["a.com","https://x.com"]`), "config.networking.allowed_hosts.1: " + host},
		{"a port", limited(`"allowed_hosts":["x.com:443"]`), "config.networking.allowed_hosts.0: " + host},
		{"a path", limited(`"allowed_hosts":["x.com/a"]`), "config.networking.allowed_hosts.0: " + host},
		{"a star alone", limited(`"allowed_hosts":["*"]`), "config.networking.allowed_hosts.0: " + host},
		{"a star within", limited(`"allowed_hosts":["a.*.com"]`), "config.networking.allowed_hosts.0: " + host},
		{"allow text", limited(`"allow_mcp_servers":"yes"`), "config.networking.allow_mcp_servers: accepted is true or false"},
		{"packages", cloud(`"packages":{"apt":[],"pip":["pandas"]}`), "config.packages.pip: " + notServed},
		{"packages of no manager", cloud(`"packages":{"brew":[]}`), "config.packages.brew: is not known: Accepted are apt, cargo, gem, go, npm, pip, type"},
		{"packages text", cloud(`"packages":{"pip":"pandas"}`), "config.packages.pip: accepted is a list of at most 1000 elements"},
		{"image", own(`"image":"debian:12"`), "config.croft.image: " + notServed},
		{"setup", own(`"setup":"apt update"`), "config.croft.setup: " + notServed},
		{"disk", own(`"disk_mb":100`), "config.croft.disk_mb: " + notServed},
		{"memory by another name", own(`"memory":100`), "config.croft.memory: is not known; was memory_mb meant? Accepted are cpus, disk_mb, driver, env, idle_timeout_s, image, memory_mb, mounts, networking, packages, pids, setup, timeout_s, unenforced, user, workdir"},
		{"driver", own(`"driver":"docker"`), `config.croft.driver: accepted is "local" or "none"`},
		{"cpus", own(`"cpus":0`), "config.croft.cpus: accepted is a number from 0.01 to 1024"},
		{"memory", own(`"memory_mb":1.5`), "config.croft.memory_mb: accepted is a whole number from 16 to 16777216"},
		{"pids", own(`"pids":-1`), "config.croft.pids: accepted is a whole number from 16 to 4194304"},
		{"timeout", own(`"timeout_s":"60"`), "config.croft.timeout_s: accepted is a whole number from 1 to 86400"},
		{"idle timeout", own(`"idle_timeout_s":9999999999`), "config.croft.idle_timeout_s: accepted is a whole number from 1 to 2592000"},
		{"a mount without a path", own(`"mounts":[{"host":"/a"}]`), "config.croft.mounts.0.path: is required: accepted is text of 1 to 4096 characters"},
		{"a relative mount", own(`"mounts":[{"host":"a","path":"/a"}]`), "config.croft.mounts.0.host: accepted is an absolute path without . or .. and without a slash at its end"},
		{"a mount that climbs", own(`"mounts":[{"host":"/a/../b","path":"/a"}]`), "config.croft.mounts.0.host: accepted is an absolute path without . or .. and without a slash at its end"},
		{"a mount over all", own(`"mounts":[{"host":"/a","path":"/"}]`), "config.croft.mounts.0.path: the sandbox's root cannot be mounted over: accepted is a path below it"},
		{"a mount twice", own(`"mounts":[{"host":"/a","path":"/x"},{"host":"/b","path":"/x"}]`), "config.croft.mounts.1.path: another mount has this path: accepted is a path that is used once"},
		{"a mount's mode", own(`"mounts":[{"host":"/a","path":"/x","mode":"ro"}]`), "config.croft.mounts.0.mode: is not known: Accepted are host, path, read_only"},
		{"env", own(`"env":["A=b"]`), "config.croft.env: accepted is an object"},
		{"a variable", own(`"env":{"1A":"b"}`), "config.croft.env.1A: accepted is a name of at most 256 letters of ASCII, digits and underscores that does not begin with a digit"},
		{"a variable's value", own(`"env":{"A":1}`), "config.croft.env.A: accepted is text of at most 32768 characters"},
		{"metadata", `{"name":"x","metadata":{"a":true}}`, "metadata.a: accepted is text of at most 512 characters"},
	}
	refuses(t, func(s *agents.Store, body []byte) (*croft.Environment, error) {
		return s.CreateEnvironment(context.Background(), ws, body)
	}, tests)
	refuses(t, func(s *agents.Store, body []byte) (*croft.Environment, error) {
		return s.UpdateEnvironment(context.Background(), ws, "env_1", body)
	}, []bad{
		{"update: name", `{"name":""}`, "name: accepted is text of 1 to 256 characters; this has 0"},
		{"update: packages", `{"config":{"type":"cloud","packages":{"apt":["x"]}}}`, "config.packages.apt: " + notServed},
		{"update: id", `{"id":"env_1"}`, "id: is not known: Accepted are config, croft, description, metadata, name, scope"},
	})
}
