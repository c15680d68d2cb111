package agents_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/agents"
	"croft/internal/store"
	"croft/internal/store/storetest"
	"croft/internal/wire/wiretest"
)

// bench is a Store over a database, with two workspaces of a test's own.
type bench struct {
	*agents.Store
	t         *testing.T
	db        *store.DB
	ctx       context.Context
	ws, other string
}

// TestStore runs every test of the store on both databases, one database of each kind.
func TestStore(t *testing.T) {
	tests := []struct {
		name string
		run  func(*bench)
	}{
		{"agent's defaults", testAgentDefaults},
		{"agent of the SDK", testAgentOfSDK},
		{"agent's versions", testAgentVersions},
		{"list of agents", testListAgents},
		{"resolve", testResolve},
		{"environment", testEnvironment},
		{"delete an environment", testDeleteEnvironment},
		{"concurrent updates", testConcurrentUpdates},
	}
	storetest.Each(t, func(t *testing.T, url string) {
		db, err := store.Open(t.Context(), store.Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				b := &bench{Store: agents.New(db, known{}), t: t, db: db, ctx: t.Context(),
					ws: croft.NewID(croft.PrefixWorkspace), other: croft.NewID(croft.PrefixWorkspace)}
				err := db.Write(b.ctx, func(tx *store.Tx) error {
					for _, id := range []string{b.ws, b.other} {
						if _, err := tx.Exec(`INSERT INTO workspaces (id, name, created_at) VALUES ($1, 'test', 1)`, id); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				tt.run(b)
			})
		}
	})
}

// body is what the official SDK writes for params.
func body(t *testing.T, params any) []byte {
	t.Helper()
	b, err := json.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answer is a resource as the API writes it, checked against the SDK's type.
func answer[T any](t *testing.T, v any) *T {
	t.Helper()
	return wiretest.Decode[T](t, body(t, v))
}

func (b *bench) agent(text string) *croft.Agent {
	b.t.Helper()
	a, err := b.CreateAgent(b.ctx, b.ws, []byte(text))
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func (b *bench) update(id, text string) *croft.Agent {
	b.t.Helper()
	a, err := b.UpdateAgent(b.ctx, b.ws, id, []byte(text))
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func (b *bench) environment(text string) *croft.Environment {
	b.t.Helper()
	e, err := b.CreateEnvironment(b.ctx, b.ws, []byte(text))
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

// fails checks an error's type and text.
func fails(t *testing.T, err error, typ croft.ErrorType, want string) {
	t.Helper()
	if !croft.IsType(err, typ) || err.Error() != want {
		t.Errorf("got  %v\nwant %s: %s", err, typ, want)
	}
}

func same(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func testAgentDefaults(b *bench) {
	a := b.agent(`{"name":"Coder","model":"claude-opus-5","tools":[{"type":"agent_toolset_20260401"}]}`)
	got := string(body(b.t, a))
	at := a.CreatedAt.String()
	want := `{"id":"` + a.ID + `","type":"agent","name":"Coder","description":null,"model":{"id":"claude-opus-5","effort":{"type":"high"},"speed":"standard"},` +
		`"system":null,"tools":[{"type":"agent_toolset_20260401","default_config":{"enabled":true,"permission_policy":{"type":"always_allow"}},"configs":[]}],` +
		`"mcp_servers":[],"skills":[],"multiagent":null,"execution_identity":{"type":"service_account"},"metadata":{},"version":1,` +
		`"created_at":"` + at + `","updated_at":"` + at + `","archived_at":null}`
	if got != want {
		b.t.Errorf("got  %s\nwant %s", got, want)
	}
	read, err := b.Agent(b.ctx, b.ws, a.ID, 0)
	if err != nil || string(body(b.t, read)) != want {
		b.t.Errorf("read %v: %s", err, body(b.t, read))
	}
}

// testAgentOfSDK makes an agent of everything that the official SDK can write and that is
// served, reads the answer with its types, and sends the answer back as an update.
func testAgentOfSDK(b *bench) {
	allow := &anthropic.BetaManagedAgentsAlwaysAllowPolicyParam{Type: "always_allow"}
	ask := &anthropic.BetaManagedAgentsAlwaysAskPolicyParam{Type: "always_ask"}
	params := anthropic.BetaAgentNewParams{
		Name:        "All",
		Description: anthropic.String("D"),
		System:      anthropic.String("S <b>\u2028"),
		Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "claude-opus-5", Speed: "fast", InferenceGeo: anthropic.String("us"),
			Effort: anthropic.BetaManagedAgentsModelConfigParamsEffortUnion{OfBetaManagedAgentsEffortLow: &anthropic.BetaManagedAgentsEffortLowParam{Type: "low"}}},
		Metadata: map[string]string{"a": "b"},
		Tools: []anthropic.BetaAgentNewParamsToolUnion{
			{OfAgentToolset20260401: &anthropic.BetaManagedAgentsAgentToolset20260401Params{Type: "agent_toolset_20260401",
				DefaultConfig: anthropic.BetaManagedAgentsAgentToolsetDefaultConfigParams{Enabled: anthropic.Bool(false),
					PermissionPolicy: anthropic.BetaManagedAgentsAgentToolsetDefaultConfigParamsPermissionPolicyUnion{OfAlwaysAsk: ask}},
				Configs: []anthropic.BetaManagedAgentsAgentToolConfigParamsUnion{
					{OfBash: &anthropic.BetaManagedAgentsBashToolConfigParams{Enabled: anthropic.Bool(true)}},
					{OfRead: &anthropic.BetaManagedAgentsReadToolConfigParams{Type: "read",
						PermissionPolicy: anthropic.BetaManagedAgentsReadToolConfigParamsPermissionPolicyUnion{OfAlwaysAllow: allow}}},
					{OfWebSearch: &anthropic.BetaManagedAgentsWebSearchToolConfigParams{AllowedDomains: []string{"docs.example.com", "example.org/blog"},
						UserLocation: anthropic.BetaManagedAgentsUserLocationParam{Country: anthropic.String("US"), Timezone: anthropic.String("America/Los_Angeles")}}},
					{OfWebFetch: &anthropic.BetaManagedAgentsWebFetchToolConfigParams{BlockedDomains: []string{"ads.example.com"}, MaxContentTokens: anthropic.Int(50_000),
						URLSources: anthropic.BetaManagedAgentsWebFetchURLSourcesParams{
							UserInput: anthropic.BetaManagedAgentsWebFetchURLSourceUserInputParamsUnion{OfBetaManagedAgentsWebFetchURLSourceShorthand: anthropic.Opt(anthropic.BetaManagedAgentsWebFetchURLSourceShorthandNone)},
							ClientToolResults: anthropic.BetaManagedAgentsWebFetchURLSourceToolFilterParamsUnion{OfBetaManagedAgentsWebFetchURLSourceToolFilterUnion: &anthropic.BetaManagedAgentsWebFetchURLSourceToolFilterUnionParam{
								OfOnly: &anthropic.BetaManagedAgentsWebFetchURLSourceOnlyParam{Tools: []anthropic.BetaManagedAgentsWebFetchURLSourceToolReferenceParam{{Name: "look_up"}}}}}}}},
				}}},
			{OfCustom: &anthropic.BetaManagedAgentsCustomToolParams{Type: "custom", Name: "look_up", Description: "Looks up.",
				InputSchema: anthropic.BetaManagedAgentsCustomToolInputSchemaParam{Properties: map[string]any{"q": map[string]any{"type": "string"}}, Required: []string{"q"}}}},
		},
	}
	a := b.agent(string(body(b.t, params)))
	got := answer[anthropic.BetaManagedAgentsAgent](b.t, a)
	set := got.Tools[0].AsAgentToolset20260401()
	fetch := set.Configs[3].AsWebFetch()
	same(b.t, []any{"All", "D", "S <b>\u2028", "low", anthropic.BetaManagedAgentsModelConfigSpeed("fast"), "us", int64(1), "b", "service_account",
		false, "always_ask", true, "always_ask", false, "always_allow", []string{"docs.example.com", "example.org/blog"}, "America/Los_Angeles",
		[]string{"ads.example.com"}, int64(50_000), "none", "look_up", "", []string{"q"}},
		[]any{got.Name, got.Description, got.System, got.Model.Effort.Type, got.Model.Speed, got.Model.InferenceGeo, got.Version, got.Metadata["a"], got.ExecutionIdentity.Type,
			set.DefaultConfig.Enabled, set.DefaultConfig.PermissionPolicy.Type, set.Configs[0].Enabled, set.Configs[0].PermissionPolicy.Type, set.Configs[1].Enabled, set.Configs[1].PermissionPolicy.Type,
			set.Configs[2].AllowedDomains, set.Configs[2].UserLocation.Timezone,
			fetch.BlockedDomains, fetch.MaxContentTokens, fetch.URLSources.UserInput.Type, fetch.URLSources.ClientToolResults.Tools[0].Name, fetch.URLSources.ServerToolResults.Type,
			got.Tools[1].AsCustom().InputSchema.Required})

	// The answer's own parts, sent back, change nothing.
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(body(b.t, a), &parts); err != nil {
		b.t.Fatal(err)
	}
	for _, name := range []string{"id", "type", "created_at", "updated_at", "archived_at"} {
		delete(parts, name)
	}
	again := b.update(a.ID, string(body(b.t, parts)))
	same(b.t, a, again)
}

func testAgentVersions(b *bench) {
	a := b.agent(`{"name":"x","model":{"id":"claude-opus-5","effort":"low","inference_geo":"us"},"system":"S","description":"D","metadata":{"a":"1","b":"2"},
		"tools":[{"type":"custom","name":"t","description":"d","input_schema":{"type":"object","properties":{"a":{},"b":{"type":"string","minimum":1.50}}}}]}`)
	step := func(version int64, change string) *croft.Agent {
		b.t.Helper()
		got := b.update(a.ID, change)
		if got.Version != version {
			b.t.Errorf("%s: version %d, not %d", change, got.Version, version)
		}
		latest, err := b.Agent(b.ctx, b.ws, a.ID, 0)
		if err != nil {
			b.t.Fatal(err)
		}
		same(b.t, got, latest)
		answer[anthropic.BetaManagedAgentsAgent](b.t, got)
		return got
	}

	step(1, `{}`)
	step(1, `{"version":1,"name":"x","system":"S","metadata":{"a":"1","gone":null},"mcp_servers":null,"skills":[],"multiagent":null,"execution_identity":{"type":"service_account"}}`)
	// The order of a schema's members, and white space, mean nothing.
	step(1, `{"tools":[{"name":"t","type":"custom","description":"d","input_schema":{ "properties":{"b":{"minimum":1.50,"type":"string"},"a":{}},"type":"object"}}]}`)
	// The effort stays while the model does; the geography does not.
	if got := step(2, `{"model":"claude-opus-5"}`); got.Model.Effort.Type != "low" || got.Model.InferenceGeo != nil {
		b.t.Errorf("the model: %+v", got.Model)
	}
	if got := step(3, `{"version":2,"model":"claude-sonnet-5"}`); got.Model.Effort.Type != "high" || got.Name != "x" || *got.System != "S" {
		b.t.Errorf("the model: %+v", got.Model)
	}
	if got := step(4, `{"metadata":{"a":null,"c":"3","b":""}}`); got.Metadata["b"] != "" || len(got.Metadata) != 2 || got.Metadata["c"] != "3" {
		b.t.Errorf("metadata: %v", got.Metadata)
	}
	got := step(5, `{"system":null,"description":"","tools":null}`)
	if got.System != nil || got.Description != nil || len(got.Tools) != 0 || got.Tools == nil {
		b.t.Errorf("cleared: %+v", got)
	}
	if got.CreatedAt != a.CreatedAt || got.UpdatedAt <= a.UpdatedAt {
		b.t.Errorf("times: %s, %s", got.CreatedAt, got.UpdatedAt)
	}

	_, err := b.UpdateAgent(b.ctx, b.ws, a.ID, []byte(`{"version":4,"name":"x"}`))
	fails(b.t, err, croft.Conflict, "version: the agent's version is 5, not 4: read it again and repeat the change, or leave version out")
	full := `{"metadata":{"k0":""`
	for _, k := range strings.Split("123456789abcdef", "") {
		full += `,"k` + k + `":""`
	}
	_, err = b.UpdateAgent(b.ctx, b.ws, a.ID, []byte(full+`}}`))
	fails(b.t, err, croft.InvalidRequest, "metadata: accepted are at most 16 pairs; there would be 18")
	_, err = b.UpdateAgent(b.ctx, b.other, a.ID, []byte(`{"name":"y"}`))
	fails(b.t, err, croft.NotFound, `agent "`+a.ID+`" was not found`)

	first, err := b.Agent(b.ctx, b.ws, a.ID, 1)
	if err != nil {
		b.t.Fatal(err)
	}
	same(b.t, a, first)
	_, err = b.Agent(b.ctx, b.ws, a.ID, 6)
	fails(b.t, err, croft.NotFound, `agent "`+a.ID+`" has no version 6; its latest is 5`)
	_, err = b.Agent(b.ctx, b.other, a.ID, 0)
	fails(b.t, err, croft.NotFound, `agent "`+a.ID+`" was not found`)

	// Versions come newest first, in pages.
	var seen []int64
	page := ""
	for {
		list, err := b.Versions(b.ctx, b.ws, a.ID, agents.ListQuery{Limit: 2, Page: page})
		if err != nil {
			b.t.Fatal(err)
		}
		for _, v := range list.Data {
			seen = append(seen, v.Version)
		}
		if list.NextPage == nil {
			break
		}
		page = *list.NextPage
	}
	same(b.t, []int64{5, 4, 3, 2, 1}, seen)
	_, err = b.Versions(b.ctx, b.ws, b.agent(`{"name":"y","model":"claude-opus-5"}`).ID, agents.ListQuery{Page: page})
	fails(b.t, err, croft.InvalidRequest, "page: is the cursor of another list: accepted is next_page or prev_page of an earlier answer of this list, unchanged")
	_, err = b.Versions(b.ctx, b.other, a.ID, agents.ListQuery{})
	fails(b.t, err, croft.NotFound, `agent "`+a.ID+`" was not found`)

	// Archiving is for good, and may be repeated.
	archived, err := b.ArchiveAgent(b.ctx, b.ws, a.ID)
	if err != nil || archived.ArchivedAt == 0 {
		b.t.Fatal(err, archived)
	}
	twice, err := b.ArchiveAgent(b.ctx, b.ws, a.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	same(b.t, archived, twice)
	if old, err := b.Agent(b.ctx, b.ws, a.ID, 1); err != nil || old.ArchivedAt != archived.ArchivedAt {
		b.t.Errorf("an archived agent's version: %v, %v", old, err)
	}
	_, err = b.UpdateAgent(b.ctx, b.ws, a.ID, []byte(`{"name":"z"}`))
	fails(b.t, err, croft.InvalidRequest, `agent "`+a.ID+`" is archived and cannot be changed`)
	_, err = b.ArchiveAgent(b.ctx, b.other, a.ID)
	fails(b.t, err, croft.NotFound, `agent "`+a.ID+`" was not found`)
}

func testListAgents(b *bench) {
	var all []string
	var times []croft.Time
	for range 5 {
		a := b.agent(`{"name":"x","model":"claude-opus-5"}`)
		all, times = append([]string{a.ID}, all...), append([]croft.Time{a.CreatedAt}, times...)
	}
	if _, err := b.CreateAgent(b.ctx, b.other, []byte(`{"name":"x","model":"claude-opus-5"}`)); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.ArchiveAgent(b.ctx, b.ws, all[2]); err != nil {
		b.t.Fatal(err)
	}
	walk := func(q agents.ListQuery) (ids []string) {
		b.t.Helper()
		for {
			list, err := b.Agents(b.ctx, b.ws, q)
			if err != nil {
				b.t.Fatal(err)
			}
			for _, a := range list.Data {
				answer[anthropic.BetaManagedAgentsAgent](b.t, a)
				ids = append(ids, a.ID)
			}
			if list.NextPage == nil {
				return ids
			}
			if len(list.Data) != q.Limit {
				b.t.Fatalf("%d on a page of %d with a next one", len(list.Data), q.Limit)
			}
			q.Page = *list.NextPage
		}
	}
	live := []string{all[0], all[1], all[3], all[4]}
	same(b.t, live, walk(agents.ListQuery{}))
	same(b.t, live, walk(agents.ListQuery{Limit: 1}))
	same(b.t, live, walk(agents.ListQuery{Limit: 4}))
	same(b.t, all, walk(agents.ListQuery{Limit: 2, IncludeArchived: true}))
	same(b.t, all[1:4], walk(agents.ListQuery{IncludeArchived: true, CreatedGte: times[3], CreatedLte: times[1]}))

	list, err := b.Agents(b.ctx, b.ws, agents.ListQuery{Limit: 1})
	if err != nil {
		b.t.Fatal(err)
	}
	_, err = b.Agents(b.ctx, b.ws, agents.ListQuery{Page: *list.NextPage, CreatedLte: times[4]})
	fails(b.t, err, croft.InvalidRequest, "page: the cursor's place lies outside the created_at filter")
	_, err = b.Environments(b.ctx, b.ws, agents.ListQuery{Page: *list.NextPage})
	fails(b.t, err, croft.InvalidRequest, "page: is the cursor of another list: accepted is next_page or prev_page of an earlier answer of this list, unchanged")
	if list, err := b.Agents(b.ctx, "wrkspc_none", agents.ListQuery{}); err != nil || string(body(b.t, list)) != `{"data":[],"next_page":null}` {
		b.t.Errorf("an empty list: %s, %v", body(b.t, list), err)
	}
}

func testResolve(b *bench) {
	a := b.agent(`{"name":"x","model":{"id":"claude-opus-5","effort":"low"},"system":"S","tools":[{"type":"agent_toolset_20260401"}]}`)
	b.update(a.ID, `{"system":"T"}`)
	resolve := func(workspace string, ref agents.Ref) (got *croft.SessionAgent, err error) {
		err = b.db.Write(b.ctx, func(tx *store.Tx) error {
			got, err = b.Resolve(tx, workspace, ref)
			return err
		})
		return got, err
	}
	got, err := resolve(b.ws, agents.Ref{ID: a.ID})
	if err != nil || got.Version != 2 || *got.System != "T" || got.Model.Effort.Type != "low" || len(got.Tools) != 1 {
		b.t.Fatalf("%+v, %v", got, err)
	}
	answer[anthropic.BetaManagedAgentsSessionAgent](b.t, got)
	if got, err = resolve(b.ws, agents.Ref{ID: a.ID, Version: 1}); err != nil || got.Version != 1 || *got.System != "S" {
		b.t.Fatalf("%+v, %v", got, err)
	}
	got, err = resolve(b.ws, agents.Ref{ID: a.ID, Overrides: &agents.Overrides{System: new(*string), Tools: &[]croft.Tool{},
		Model: &croft.ModelConfig{ID: "claude-sonnet-5", Speed: "standard"}, MCPServers: &[]croft.MCPServer{}, Skills: &[]json.RawMessage{}}})
	if err != nil || got.Version != 2 || got.System != nil || len(got.Tools) != 0 || got.Model.ID != "claude-sonnet-5" {
		b.t.Fatalf("%+v, %v", got, err)
	}
	_, err = resolve(b.ws, agents.Ref{ID: a.ID, Overrides: &agents.Overrides{Model: &croft.ModelConfig{ID: "gpt"}}})
	fails(b.t, err, croft.InvalidRequest, "agent.model.id: no model is called so; accepted are claude-opus-5 and claude-sonnet-5")
	_, err = resolve(b.other, agents.Ref{ID: a.ID})
	fails(b.t, err, croft.NotFound, `agent "`+a.ID+`" was not found`)
	_, err = resolve(b.ws, agents.Ref{ID: a.ID, Version: 9})
	fails(b.t, err, croft.NotFound, `agent "`+a.ID+`" has no version 9; its latest is 2`)
	if _, err := b.ArchiveAgent(b.ctx, b.ws, a.ID); err != nil {
		b.t.Fatal(err)
	}
	for _, version := range []int64{0, 1} {
		_, err = resolve(b.ws, agents.Ref{ID: a.ID, Version: version})
		fails(b.t, err, croft.InvalidRequest, `agent "`+a.ID+`" is archived: accepted is one that is not`)
	}
}

func testEnvironment(b *bench) {
	plain := b.environment(`{"name":"x"}`)
	none := `"packages":{"type":"packages","apt":[],"cargo":[],"gem":[],"go":[],"npm":[],"pip":[]}`
	if got, want := string(body(b.t, plain.Config)), `{"type":"cloud","networking":{"type":"unrestricted"},`+none+`,"croft":{"unenforced":["networking"]}}`; got != want {
		b.t.Errorf("got  %s\nwant %s", got, want)
	}
	params := anthropic.BetaEnvironmentNewParams{Name: "y", Description: anthropic.String("D"), Scope: "organization", Metadata: map[string]string{"a": "b", "c": "d"},
		Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfCloud: &anthropic.BetaCloudConfigParams{
			Networking: anthropic.BetaCloudConfigParamsNetworkingUnion{OfLimited: &anthropic.BetaLimitedNetworkParams{AllowedHosts: []string{"api.example.com", "*.example.org"}, AllowMCPServers: anthropic.Bool(true)}},
			Packages:   anthropic.BetaPackagesParams{Pip: []string{}}}}}
	e := b.environment(string(body(b.t, params)))
	got := answer[anthropic.BetaEnvironment](b.t, e)
	n := got.Config.Networking
	same(b.t, []any{"y", "D", "b", anthropic.BetaEnvironmentScope("organization"), "limited", true, false, []string{"api.example.com", "*.example.org"}},
		[]any{got.Name, got.Description, got.Metadata["a"], got.Scope, n.Type, n.AllowMCPServers, n.AllowPackageManagers, n.AllowedHosts})

	step := func(change, want string) *croft.Environment {
		b.t.Helper()
		got, err := b.UpdateEnvironment(b.ctx, b.ws, e.ID, []byte(change))
		if err != nil {
			b.t.Fatal(err)
		}
		if text := string(body(b.t, got.Config)); text != want {
			b.t.Errorf("%s:\ngot  %s\nwant %s", change, text, want)
		}
		read, err := b.GetEnvironment(b.ctx, b.ws, e.ID)
		if err != nil {
			b.t.Fatal(err)
		}
		same(b.t, got, read)
		answer[anthropic.BetaEnvironment](b.t, got)
		return got
	}
	hosts := `"allowed_hosts":["api.example.com","*.example.org"]`
	config := func(networking, own string) string {
		return `{"type":"cloud","networking":{"type":` + networking + `},` + none + `,"croft":{` + own + `}}`
	}
	unenforced := `"unenforced":["networking"]`
	was := config(`"limited",`+hosts+`,"allow_mcp_servers":true,"allow_package_managers":false`, unenforced)
	if got := step(`{}`, was); got.UpdatedAt != e.UpdatedAt {
		b.t.Error("no change, another updated_at")
	}
	// What was answered, sent back, changes nothing.
	if got := step(`{"config":`+was+`}`, was); got.UpdatedAt != e.UpdatedAt {
		b.t.Error("no change, another updated_at")
	}
	// Members that are left out stay, at every depth.
	step(`{"config":{"type":"cloud","networking":{"type":"limited","allow_package_managers":true}}}`, config(`"limited",`+hosts+`,"allow_mcp_servers":true,"allow_package_managers":true`, unenforced))
	own := `"cpus":1.5,"memory_mb":512,"timeout_s":60,"mounts":[{"host":"/data","path":"/mnt/data","read_only":true}],"env":{"A":"1"},`
	step(`{"config":{"type":"cloud","croft":{"cpus":1.5,"memory_mb":512,"timeout_s":60,"mounts":[{"host":"/data","path":"/mnt/data","read_only":true}],"env":{"A":"1"},"image":null,"setup":""}}}`,
		config(`"limited",`+hosts+`,"allow_mcp_servers":true,"allow_package_managers":true`, own+unenforced))
	step(`{"config":{"type":"cloud","croft":{"cpus":null,"mounts":[],"driver":"local","idle_timeout_s":5,"pids":100}}}`,
		config(`"limited",`+hosts+`,"allow_mcp_servers":true,"allow_package_managers":true`, `"driver":"local","memory_mb":512,"pids":100,"timeout_s":60,"idle_timeout_s":5,"env":{"A":"1"},`+unenforced))
	// A policy that lets nothing through is what the sandbox has.
	last := step(`{"name":"z","description":null,"metadata":{"a":"","c":null,"e":"f"},"config":{"type":"cloud","networking":{"type":"limited","allowed_hosts":[],"allow_mcp_servers":false,"allow_package_managers":false},"croft":null}}`,
		strings.Replace(config(`"limited","allowed_hosts":[],"allow_mcp_servers":false,"allow_package_managers":false`, ""), `,"croft":{}`, "", 1))
	same(b.t, map[string]string{"e": "f"}, last.Metadata)
	if last.Name != "z" || last.Description != nil {
		b.t.Errorf("%+v", last)
	}

	_, err := b.UpdateEnvironment(b.ctx, b.ws, e.ID, []byte(`{"config":{"type":"self_hosted"}}`))
	fails(b.t, err, croft.InvalidRequest, `config.type: an environment keeps its type: accepted is "cloud"`)
	_, err = b.GetEnvironment(b.ctx, b.other, e.ID)
	fails(b.t, err, croft.NotFound, `environment "`+e.ID+`" was not found`)
	_, err = b.UpdateEnvironment(b.ctx, b.other, e.ID, []byte(`{}`))
	fails(b.t, err, croft.NotFound, `environment "`+e.ID+`" was not found`)

	hosted := b.environment(`{"name":"h","config":{"type":"self_hosted"}}`)
	if text := string(body(b.t, hosted.Config)); text != `{"type":"self_hosted"}` {
		b.t.Error(text)
	}
	answer[anthropic.BetaEnvironment](b.t, hosted)
	served := b.environment(`{"name":"h","config":{"type":"self_hosted","croft":{}}}`)
	if text := string(body(b.t, served.Config)); text != `{"type":"self_hosted","croft":{}}` {
		b.t.Error(text)
	}

	archived, err := b.ArchiveEnvironment(b.ctx, b.ws, e.ID)
	if err != nil || archived.ArchivedAt == 0 {
		b.t.Fatal(archived, err)
	}
	twice, err := b.ArchiveEnvironment(b.ctx, b.ws, e.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	same(b.t, archived, twice)
	_, err = b.UpdateEnvironment(b.ctx, b.ws, e.ID, []byte(`{"name":"q"}`))
	fails(b.t, err, croft.InvalidRequest, `environment "`+e.ID+`" is archived and cannot be changed`)

	list, err := b.Environments(b.ctx, b.ws, agents.ListQuery{Limit: 2})
	if err != nil || len(list.Data) != 2 || list.Data[0].ID != served.ID || list.Data[1].ID != hosted.ID || list.NextPage == nil {
		b.t.Fatalf("%+v, %v", list, err)
	}
	list, err = b.Environments(b.ctx, b.ws, agents.ListQuery{Limit: 2, Page: *list.NextPage})
	if err != nil || len(list.Data) != 1 || list.Data[0].ID != plain.ID || list.NextPage != nil || list.Data[0].Config.Croft.Unenforced == nil {
		b.t.Fatalf("%+v, %v", list, err)
	}
	if list, err = b.Environments(b.ctx, b.ws, agents.ListQuery{IncludeArchived: true}); err != nil || len(list.Data) != 4 {
		b.t.Fatalf("%+v, %v", list, err)
	}
}

func testDeleteEnvironment(b *bench) {
	e := b.environment(`{"name":"x"}`)
	err := b.db.Write(b.ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO sessions (id, workspace_id, environment_id, environment_kind, agent_id, agent_version, agent, metadata, status, thread_id, last_seq, epoch, state, created_at, updated_at)
			VALUES ('sesn_1', $1, $2, 'cloud', 'a', 1, '{}', '{}', 'idle', 't', 0, 0, '{}', 1, 1)`, b.ws, e.ID)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	fails(b.t, b.DeleteEnvironment(b.ctx, b.ws, e.ID), croft.Conflict,
		`environment "`+e.ID+`" has sessions, such as sesn_1: delete them first, or archive the environment`)
	fails(b.t, b.DeleteEnvironment(b.ctx, b.other, e.ID), croft.NotFound, `environment "`+e.ID+`" was not found`)
	err = b.db.Write(b.ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`DELETE FROM sessions WHERE id = 'sesn_1'`)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.DeleteEnvironment(b.ctx, b.ws, e.ID); err != nil {
		b.t.Fatal(err)
	}
	fails(b.t, b.DeleteEnvironment(b.ctx, b.ws, e.ID), croft.NotFound, `environment "`+e.ID+`" was not found`)
}

// testConcurrentUpdates holds that no update of an agent is lost and none is doubled.
func testConcurrentUpdates(b *bench) {
	a := b.agent(`{"name":"x","model":"claude-opus-5"}`)
	const n = 12
	errs := make(chan error, n)
	for i := range n {
		go func() {
			key := string(rune('a' + i))
			_, err := b.UpdateAgent(b.ctx, b.ws, a.ID, []byte(`{"metadata":{"`+key+`":"1"}}`))
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			b.t.Error(err)
		}
	}
	got, err := b.Agent(b.ctx, b.ws, a.ID, 0)
	if err != nil || got.Version != n+1 || len(got.Metadata) != n {
		b.t.Errorf("%+v, %v", got, err)
	}
}
