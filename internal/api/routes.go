package api

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"croft/internal/access"
)

// The values that anthropic-beta must hold for a noun.
const (
	none     = ""
	managed  = "managed-agents-2026-04-01"
	memory   = "agent-memory-2026-07-22"
	tunnels  = "mcp-tunnels-2026-06-22"
	dreaming = "dreaming-2026-04-21"
	profiles = "user-profiles-2026-08-18"
)

// who says which kinds of credentials may call a route. What a kind may see of the route's
// resources is in access.go.
type who uint8

const (
	anyone  who = 0 // no credential is asked for
	byKey   who = 1 << iota
	byFleet     // a fleet key, for cloud environments
	byEnv       // an environment key, for its environment
	byToken     // a session token, for its work item and session
	workers = byEnv | byToken
	queues  = byKey | byFleet | byEnv
)

// kinds are the kinds of credentials, as the table and as errors name them.
var kinds = map[access.Kind]struct {
	bit  who
	name string
}{
	access.API:         {byKey, "an API key"},
	access.Fleet:       {byFleet, "a fleet key"},
	access.Environment: {byEnv, "an environment key"},
	access.Session:     {byToken, "a session token"},
}

// handler serves a request whose credential, scope and query are checked. It answers
// through call.reply, or by a stream.
type handler func(c *call) error

// route is a line of the table.
type route struct {
	path   string // method and pattern, as net/http writes them
	beta   string
	who    who
	serve  handler // nil: not served by this version
	query  string  // the query parameters it knows; one that ends in [] may come often
	keyed  bool    // it honours Idempotency-Key
	stream bool    // it answers by a stream, which has no time-out
}

// routes is the table of everything this API answers. The SDK's routes are all here, and a
// test compares them with the SDK's sources.
func (a *API) routes() []route {
	const (
		times  = " created_at[gt] created_at[gte] created_at[lt] created_at[lte]"
		paging = " limit page"
	)
	return slices.Concat([]route{
		{path: "POST /v1/agents", beta: managed, who: byKey, serve: a.createAgent, keyed: true},
		{path: "GET /v1/agents", beta: managed, who: byKey, serve: a.listAgents, query: "created_at[gte] created_at[lte] include_archived" + paging},
		{path: "GET /v1/agents/{agent_id}", beta: managed, who: byKey, serve: a.getAgent, query: "version"},
		{path: "POST /v1/agents/{agent_id}", beta: managed, who: byKey, serve: a.updateAgent},
		{path: "POST /v1/agents/{agent_id}/archive", beta: managed, who: byKey, serve: a.archiveAgent},
		{path: "GET /v1/agents/{agent_id}/versions", beta: managed, who: byKey, serve: a.listAgentVersions, query: paging},

		{path: "POST /v1/environments", beta: managed, who: byKey, serve: a.createEnvironment, keyed: true},
		{path: "GET /v1/environments", beta: managed, who: byKey, serve: a.listEnvironments, query: "include_archived" + paging},
		{path: "GET /v1/environments/{environment_id}", beta: managed, who: byKey, serve: a.getEnvironment},
		{path: "POST /v1/environments/{environment_id}", beta: managed, who: byKey, serve: a.updateEnvironment},
		{path: "DELETE /v1/environments/{environment_id}", beta: managed, who: byKey, serve: a.deleteEnvironment},
		{path: "POST /v1/environments/{environment_id}/archive", beta: managed, who: byKey, serve: a.archiveEnvironment},

		{path: "POST /v1/sessions", beta: managed, who: byKey, serve: a.createSession, keyed: true},
		{path: "GET /v1/sessions", beta: managed, who: byKey, serve: a.listSessions,
			query: "agent_id agent_version deployment_id include_archived memory_store_id order statuses[]" + times + paging},
		{path: "GET /v1/sessions/{session_id}", beta: managed, who: byKey | workers, serve: a.getSession},
		{path: "POST /v1/sessions/{session_id}", beta: managed, who: byKey, serve: a.updateSession},
		{path: "DELETE /v1/sessions/{session_id}", beta: managed, who: byKey, serve: a.deleteSession},
		{path: "POST /v1/sessions/{session_id}/archive", beta: managed, who: byKey, serve: a.archiveSession},

		{path: "POST /v1/sessions/{session_id}/events", beta: managed, who: byKey | workers, serve: a.sendEvents, keyed: true},
		{path: "GET /v1/sessions/{session_id}/events", beta: managed, who: byKey | workers, serve: a.listEvents, query: "order types[]" + times + paging},
		{path: "GET /v1/sessions/{session_id}/events/stream", beta: managed, who: byKey | workers, serve: a.streamEvents, query: "event_deltas[]", stream: true},

		{path: "GET /v1/sessions/{session_id}/threads", beta: managed, who: byKey, serve: a.listThreads, query: "statuses[]" + paging},
		{path: "GET /v1/sessions/{session_id}/threads/{thread_id}", beta: managed, who: byKey, serve: a.getThread},
		{path: "GET /v1/sessions/{session_id}/threads/{thread_id}/events", beta: managed, who: byKey, serve: a.listEvents, query: paging},
		{path: "GET /v1/sessions/{session_id}/threads/{thread_id}/stream", beta: managed, who: byKey, serve: a.streamEvents, query: "event_deltas[]", stream: true},

		{path: "GET /v1/environments/{environment_id}/work/{work_id}", beta: managed, who: queues | byToken, serve: a.getWork},
		{path: "POST /v1/environments/{environment_id}/work/{work_id}/ack", beta: managed, who: queues, serve: a.ackWork, query: "worker incarnation"},
		{path: "POST /v1/environments/{environment_id}/work/{work_id}/heartbeat", beta: managed, who: queues | byToken, serve: a.heartbeatWork, query: "desired_ttl_seconds expected_last_heartbeat"},
		{path: "POST /v1/environments/{environment_id}/work/{work_id}/stop", beta: managed, who: queues | byToken, serve: a.stopWork},
		{path: "GET /v1/environments/{environment_id}/work/{work_id}/croft/spec", beta: none, who: byToken, serve: a.workSpec},
		{path: "GET /v1/croft/offers", beta: none, who: byFleet | byEnv, serve: a.offers, query: "worker incarnation capacity", stream: true},

		{path: "POST /v1/croft/keys", beta: none, who: byKey, serve: a.createKey},
		{path: "GET /v1/croft/keys", beta: none, who: byKey, serve: a.listKeys, query: "kind"},
		{path: "DELETE /v1/croft/keys/{key_id}", beta: none, who: byKey, serve: a.revokeKey},

		{path: "GET /v1/models", beta: none, who: byKey, serve: a.listModels, query: "after_id before_id lifecycle[] limit"},
		{path: "GET /v1/models/{model_id}", beta: none, who: byKey, serve: a.getModel},

		{path: "GET /healthz", beta: none, who: anyone, serve: a.healthz},
		{path: "GET /readyz", beta: none, who: anyone, serve: a.readyz},
	},

		unserved(managed, byKey, "POST /v1/sessions/{}/threads/{}/archive",
			"GET /v1/sessions/{}/resources", "POST /v1/sessions/{}/resources",
			"GET /v1/sessions/{}/resources/{}", "POST /v1/sessions/{}/resources/{}", "DELETE /v1/sessions/{}/resources/{}"),
		unserved(managed, queues, "GET /v1/environments/{environment_id}/work", "GET /v1/environments/{environment_id}/work/poll",
			"GET /v1/environments/{environment_id}/work/stats", "POST /v1/environments/{environment_id}/work/{work_id}"),
		unserved(managed, byKey, "GET /v1/vaults", "POST /v1/vaults", "GET /v1/vaults/{}", "POST /v1/vaults/{}", "DELETE /v1/vaults/{}",
			"POST /v1/vaults/{}/archive", "GET /v1/vaults/{}/credentials", "POST /v1/vaults/{}/credentials",
			"GET /v1/vaults/{}/credentials/{}", "POST /v1/vaults/{}/credentials/{}", "DELETE /v1/vaults/{}/credentials/{}",
			"POST /v1/vaults/{}/credentials/{}/archive", "POST /v1/vaults/{}/credentials/{}/mcp_oauth_validate"),
		unserved(managed, byKey, "GET /v1/deployments", "POST /v1/deployments", "GET /v1/deployments/{}", "POST /v1/deployments/{}",
			"POST /v1/deployments/{}/archive", "POST /v1/deployments/{}/pause", "POST /v1/deployments/{}/run", "POST /v1/deployments/{}/unpause",
			"GET /v1/deployment_runs", "GET /v1/deployment_runs/{}"),
		unserved(memory, byKey|byToken, "GET /v1/memory_stores", "POST /v1/memory_stores", "GET /v1/memory_stores/{}", "POST /v1/memory_stores/{}", "DELETE /v1/memory_stores/{}",
			"POST /v1/memory_stores/{}/archive", "GET /v1/memory_stores/{}/memories", "POST /v1/memory_stores/{}/memories",
			"GET /v1/memory_stores/{}/memories/{}", "POST /v1/memory_stores/{}/memories/{}", "DELETE /v1/memory_stores/{}/memories/{}",
			"GET /v1/memory_stores/{}/memory_versions", "GET /v1/memory_stores/{}/memory_versions/{}", "POST /v1/memory_stores/{}/memory_versions/{}/redact"),
		unserved(dreaming, byKey, "GET /v1/dreams", "POST /v1/dreams", "GET /v1/dreams/{}", "POST /v1/dreams/{}/archive", "POST /v1/dreams/{}/cancel"),
		unserved(tunnels, byKey, "GET /v1/tunnels", "POST /v1/tunnels", "GET /v1/tunnels/{}", "POST /v1/tunnels/{}/archive",
			"POST /v1/tunnels/{}/reveal_token", "POST /v1/tunnels/{}/rotate_token", "GET /v1/tunnels/{}/certificates", "POST /v1/tunnels/{}/certificates",
			"GET /v1/tunnels/{}/certificates/{}", "POST /v1/tunnels/{}/certificates/{}/archive"),
		unserved(profiles, byKey, "GET /v1/user_profiles", "POST /v1/user_profiles", "GET /v1/user_profiles/{}", "POST /v1/user_profiles/{}", "DELETE /v1/user_profiles/{}",
			"POST /v1/user_profiles/{}/action_urls", "POST /v1/user_profiles/{}/enrollment_url"),
		unserved(none, byKey, "GET /v1/files", "POST /v1/files", "GET /v1/files/{}", "DELETE /v1/files/{}", "GET /v1/files/{}/content"),
		unserved(none, byKey|workers, "GET /v1/skills", "POST /v1/skills", "GET /v1/skills/{}", "DELETE /v1/skills/{}",
			"GET /v1/skills/{}/versions", "POST /v1/skills/{}/versions", "GET /v1/skills/{}/versions/{}", "DELETE /v1/skills/{}/versions/{}",
			"GET /v1/skills/{}/versions/{}/content"),
		unserved(none, byKey, "POST /v1/messages", "POST /v1/messages/count_tokens", "GET /v1/messages/batches", "POST /v1/messages/batches",
			"GET /v1/messages/batches/{}", "DELETE /v1/messages/batches/{}", "POST /v1/messages/batches/{}/cancel", "GET /v1/messages/batches/{}/results"),
		// Croft's own additions to nouns that are served.
		unserved(none, byKey, "POST /v1/sessions/{}/fork", "GET /v1/environments/{environment_id}/keys", "POST /v1/environments/{environment_id}/keys",
			"DELETE /v1/environments/{environment_id}/keys/{}"),
	)
}

// unserved makes the lines of routes that answer 501. An empty {} stands for an id.
func unserved(beta string, who who, paths ...string) []route {
	lines := make([]route, len(paths))
	for i, path := range paths {
		for n := 1; strings.Contains(path, "{}"); n++ {
			path = strings.Replace(path, "{}", fmt.Sprintf("{id%d}", n), 1)
		}
		lines[i] = route{path: path, beta: beta, who: who}
	}
	return lines
}

// byPath groups the table by pattern, since one handler answers all methods of a path: so
// the 405 is ours, with the envelope. Patterns that differ by the names of ids alone are one.
// Two lines for the same route are a fault of the program, and panic.
func byPath(table []route) map[string]map[string]*route {
	paths := map[string]map[string]*route{}
	shapes := map[string]string{} // the pattern without names: the first such pattern
	for i := range table {
		method, pattern, _ := strings.Cut(table[i].path, " ")
		shape := shapeOf(pattern)
		if first, ok := shapes[shape]; ok {
			pattern = first
		} else {
			shapes[shape] = pattern
			paths[pattern] = map[string]*route{}
		}
		if paths[pattern][method] != nil {
			panic("api: two lines for " + table[i].path)
		}
		paths[pattern][method] = &table[i]
	}
	return paths
}

// shapeOf drops the names of a pattern's ids.
func shapeOf(pattern string) string {
	parts := strings.Split(pattern, "/")
	for i := range parts {
		if strings.HasPrefix(parts[i], "{") {
			parts[i] = "{}"
		}
	}
	return strings.Join(parts, "/")
}

// endpoint is a path of the table.
type endpoint struct {
	api     *API
	methods map[string]*route
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := w.(*call)
	c.r = r // the mux has filled in the path's ids
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body away
	}
	c.route = e.methods[method]
	if c.route == nil || (c.route.stream && r.Method == http.MethodHead) {
		allow := slices.Sorted(maps.Keys(e.methods))
		e.api.fail(c, &methodError{r.Method, r.URL.Path, strings.Join(allow, ", ")})
		return
	}
	if err := c.run(); err != nil {
		e.api.fail(c, err)
		return
	}
	if c.status == 0 && c.answer != nil {
		c.send(http.StatusOK, c.answer)
	}
}
