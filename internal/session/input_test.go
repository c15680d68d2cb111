package session_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"croft"
	"croft/internal/agents"
	"croft/internal/session"
	"croft/internal/wire/wiretest"
)

const (
	notServed = "is not served by this version of Croft"
	pixel     = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)

type badInput struct{ name, body, want string }

// refuses checks that every body is a 400 with exactly that path and message.
func refuses[T any](t *testing.T, parse func([]byte) (T, error), tests []badInput) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse([]byte(tt.body))
			if !croft.IsType(err, croft.InvalidRequest) || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestParseSendRefuses(t *testing.T) {
	event := func(s string) string { return `{"events":[` + s + `]}` }
	content := func(s string) string { return event(`{"type":"user.message","content":[` + s + `]}`) }
	image := func(s string) string { return content(`{"type":"image","source":` + s + `}`) }
	document := func(s string) string { return content(`{"type":"document","source":` + s + `}`) }
	result := func(s string) string {
		return event(`{"type":"user.tool_result","tool_use_id":"sevt_1",` + s + `}`)
	}
	const hello = `{"type":"user.message","content":[{"type":"text","text":"hi"}]}`
	const guide = `{"type":"system.message","content":[{"type":"text","text":"hi"}]}`
	base64 := "accepted is standard base64 with its padding and without line breaks; "
	refuses(t, session.ParseSend, []badInput{
		{"nothing", ``, "the body is empty: accepted is a JSON object"},
		{"a list", `[]`, "accepted is an object"},
		{"no events", `{}`, "events: is required: accepted is a list of 1 to 1000 elements"},
		{"events null", `{"events":null}`, "events: accepted is a list of 1 to 1000 elements"},
		{"events an object", `{"events":{}}`, "events: accepted is a list of 1 to 1000 elements"},
		{"events empty", `{"events":[]}`, "events: accepted is a list of 1 to 1000 elements; this has 0"},
		{"too many events", event(strings.Repeat(hello+",", 1000) + hello), "events: accepted is a list of 1 to 1000 elements; this has 1001"},
		{"another member", `{"event":[]}`, "event: is not known; was events meant? Accepted are events"},
		{"an event that is text", event(`"hi"`), "events.0: accepted is an object"},
		{"no type", event(`{"content":[]}`), `events.0.type: is required: accepted is "user.message", "user.interrupt", "user.tool_confirmation", "user.tool_result", "user.custom_tool_result" or "system.message"`},
		{"a type of the agent", event(hello + `,{"type":"agent.message"}`), `events.1.type: accepted is "user.message", "user.interrupt", "user.tool_confirmation", "user.tool_result", "user.custom_tool_result" or "system.message"`},
		{"define_outcome", event(`{"type":"user.define_outcome","description":"x"}`), "events.0.type: user.define_outcome " + notServed},
		{"a member of an echo", event(`{"type":"user.interrupt","id":"sevt_1"}`), "events.0.id: is not known: Accepted are session_thread_id, type"},
		{"no content", event(`{"type":"user.message"}`), "events.0.content: is required: accepted is a list of 1 to 1000 elements"},
		{"content of text", event(`{"type":"user.message","content":"hi"}`), "events.0.content: accepted is a list of 1 to 1000 elements"},
		{"empty content", content(``), "events.0.content: accepted is a list of 1 to 1000 elements; this has 0"},
		{"a block that is text", content(`"hi"`), "events.0.content.0: accepted is an object"},
		{"a block without a type", content(`{"text":"hi"}`), `events.0.content.0.type: is required: accepted is "text", "image" or "document"`},
		{"a block of another type", content(`{"type":"video"}`), `events.0.content.0.type: accepted is "text", "image" or "document"`},
		{"redacted", content(`{"type":"redacted"}`), `events.0.content.0.type: redacted blocks appear only in what the platform emits: accepted is "text", "image" or "document"`},
		{"a search result in a message", content(`{"type":"search_result"}`), `events.0.content.0.type: accepted is "text", "image" or "document"`},
		{"no text", content(`{"type":"text"}`), "events.0.content.0.text: is required: accepted is text of at least 1 character"},
		{"text a number", content(`{"type":"text","text":5}`), "events.0.content.0.text: accepted is text of at least 1 character"},
		{"text empty", content(`{"type":"text","text":""}`), "events.0.content.0.text: accepted is text that is not empty"},
		{"text blank", content(`{"type":"text","text":" \n\u00a0"}`), "events.0.content.0.text: accepted is text that holds more than white space"},
		{"cache_control", content(`{"type":"text","text":"hi","cache_control":{}}`), "events.0.content.0.cache_control: is not known: Accepted are text, type"},
		{"no source", content(`{"type":"image"}`), "events.0.content.0.source: is required: accepted is an object"},
		{"a source without a type", image(`{"url":"https://x"}`), `events.0.content.0.source.type: is required: accepted is "base64" or "url"`},
		{"an image of a file", image(`{"type":"file","file_id":"file_1"}`), "events.0.content.0.source.type: file " + notServed},
		{"an image of text", image(`{"type":"text"}`), `events.0.content.0.source.type: accepted is "base64" or "url"`},
		{"a media type", image(`{"type":"base64","media_type":"image/tiff","data":"QUJD"}`), `events.0.content.0.source.media_type: accepted is "image/jpeg", "image/png", "image/gif" or "image/webp"`},
		{"no data", image(`{"type":"base64","media_type":"image/png"}`), "events.0.content.0.source.data: is required: accepted is text of at least 1 character"},
		{"empty data", image(`{"type":"base64","media_type":"image/png","data":""}`), "events.0.content.0.source.data: " + base64 + "this has 0 characters, which is not a multiple of four above none"},
		{"no padding", image(`{"type":"base64","media_type":"image/png","data":"QUI"}`), "events.0.content.0.source.data: " + base64 + "this has 3 characters, which is not a multiple of four above none"},
		{"padding in the middle", image(`{"type":"base64","media_type":"image/png","data":"QQ==QUJD"}`), "events.0.content.0.source.data: " + base64 + "character 2 is none of its letters"},
		{"base64url", image(`{"type":"base64","media_type":"image/png","data":"QU-_"}`), "events.0.content.0.source.data: " + base64 + "character 2 is none of its letters"},
		{"a line break", image(`{"type":"base64","media_type":"image/png","data":"QUJD\nQUJ"}`), "events.0.content.0.source.data: " + base64 + "character 4 is none of its letters"},
		{"an image too large", image(`{"type":"base64","media_type":"image/png","data":"` + strings.Repeat("QUJD", 10<<18+1) + `"}`), "events.0.content.0.source.data: accepted are at most 10485760 characters of base64 (10 MB); this has 10485764"},
		{"a URL without a scheme", image(`{"type":"url","url":"example.com/a.png"}`), "events.0.content.0.source.url: accepted is a whole URL that begins with https:// or http://"},
		{"a URL of a file", document(`{"type":"url","url":"file:///etc/passwd"}`), "events.0.content.0.source.url: accepted is a whole URL that begins with https:// or http://"},
		{"a document of a file", document(`{"type":"file","file_id":"file_1"}`), "events.0.content.0.source.type: file " + notServed},
		{"a document of another kind", document(`{"type":"base64","media_type":"text/html","data":"QUJD"}`), `events.0.content.0.source.media_type: accepted is "application/pdf"`},
		{"a text document of another kind", document(`{"type":"text","media_type":"text/html","data":"x"}`), `events.0.content.0.source.media_type: accepted is "text/plain"`},
		{"a text document without text", document(`{"type":"text","media_type":"text/plain","data":""}`), "events.0.content.0.source.data: accepted is text that is not empty"},
		{"a title too long", content(`{"type":"document","source":{"type":"url","url":"https://x/y"},"title":"` + strings.Repeat("x", 501) + `"}`), "events.0.content.0.title: accepted is text of 1 to 500 characters; this has 501"},
		{"a title that is a list", content(`{"type":"document","source":{"type":"url","url":"https://x/y"},"title":[]}`), "events.0.content.0.title: accepted is text of at most 500 characters"},
		{"no tool_use_id", event(`{"type":"user.tool_result"}`), "events.0.tool_use_id: is required: accepted is text of 1 to 256 characters"},
		{"the id of the other result", event(`{"type":"user.tool_result","custom_tool_use_id":"sevt_1"}`), "events.0.custom_tool_use_id: is not known; was tool_use_id meant? Accepted are content, is_error, tool_use_id, type"},
		{"the other way round", event(`{"type":"user.custom_tool_result","tool_use_id":"sevt_1"}`), "events.0.tool_use_id: is not known: Accepted are content, custom_tool_use_id, is_error, type"},
		{"an empty id", event(`{"type":"user.custom_tool_result","custom_tool_use_id":""}`), "events.0.custom_tool_use_id: accepted is text of 1 to 256 characters; this has 0"},
		{"is_error a string", result(`"is_error":"yes"`), "events.0.is_error: accepted is true or false"},
		{"a result of text", result(`"content":"done"`), "events.0.content: accepted is a list of at most 1000 elements"},
		{"a result's empty text", result(`"content":[{"type":"text","text":""}]`), "events.0.content.0.text: accepted is text that is not empty"},
		{"a tool reference", result(`"content":[{"type":"tool_reference"}]`), `events.0.content.0.type: accepted is "text", "image", "document" or "search_result"`},
		{"a search result without a source", result(`"content":[{"type":"search_result","title":"x","content":[]}]`), "events.0.content.0.source: is required: accepted is text of at least 1 character"},
		{"a search result with an image", result(`"content":[{"type":"search_result","title":"x","source":"y","content":[{"type":"image"}]}]`), `events.0.content.0.content.0.type: accepted is "text"`},
		{"a search result's citations", result(`"content":[{"type":"search_result","title":"x","source":"y","content":[],"citations":true}]`), "events.0.content.0.citations: accepted is an object"},
		{"no result", event(`{"type":"user.tool_confirmation","tool_use_id":"sevt_1"}`), `events.0.result: is required: accepted is "allow" or "deny"`},
		{"another result", event(`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"maybe"}`), `events.0.result: accepted is "allow" or "deny"`},
		{"a deny_message without a denial", event(`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"allow","deny_message":"no"}`), `events.0.deny_message: accepted is a deny_message where result is "deny"`},
		{"a thread that is a number", event(`{"type":"user.interrupt","session_thread_id":1}`), "events.0.session_thread_id: accepted is text of 1 to 256 characters"},
		{"an image in a system message", event(`{"type":"system.message","content":[{"type":"image"}]}`), `events.0.content.0.type: accepted is "text"`},
		{"a long system message", event(`{"type":"system.message","content":[` + strings.Repeat(`{"type":"text","text":"x"},`, 1000) + `{"type":"text","text":"x"}]}`), "events.0.content: accepted is a list of 1 to 1000 elements; this has 1001"},
		{"a system message that is not last", event(guide + "," + hello), "events.0: a system.message must be the last event of a request, and the only one of its kind"},
		{"two system messages", event(hello + "," + guide + "," + guide), "events.1: a system.message must be the last event of a request, and the only one of its kind"},
		{"a system message behind an interrupt", event(`{"type":"user.interrupt"},` + guide), "events.1: a system.message is accepted alone, or right behind the user.message, user.tool_result or user.custom_tool_result that it goes with"},
	})
}

func TestParseCreateRefuses(t *testing.T) {
	with := func(s string) string { return `{"agent":"agent_1","environment_id":"env_1",` + s + `}` }
	agent := func(s string) string { return `{"environment_id":"env_1","agent":` + s + `}` }
	over := func(s string) string { return agent(`{"type":"agent_with_overrides","id":"agent_1",` + s + `}`) }
	cents := `accepted is a whole number of cents from 1 to 1000000000, written as a string of digits without leading zeros ("2500" is $25.00)`
	hello := `{"type":"user.message","content":[{"type":"text","text":"hi"}]}`
	many := `"k0":""`
	for i := 1; i <= croft.MaxMetadata; i++ {
		many += fmt.Sprintf(`,"k%d":""`, i)
	}
	refuses(t, session.ParseCreate, []badInput{
		{"no agent", `{"environment_id":"env_1"}`, "agent: is required: accepted is an agent's id or an object with a type"},
		{"agent null", agent(`null`), "agent: accepted is an agent's id or an object with a type"},
		{"agent empty", agent(`""`), "agent: accepted is text of 1 to 256 characters; this has 0"},
		{"agent without a type", agent(`{"id":"agent_1"}`), `agent.type: is required: accepted is "agent" or "agent_with_overrides"`},
		{"agent without an id", agent(`{"type":"agent"}`), "agent.id: is required: accepted is text of 1 to 256 characters"},
		{"version 0", agent(`{"type":"agent","id":"a","version":0}`), "agent.version: accepted is a whole number from 1 to 9007199254740992"},
		{"an override without its type", agent(`{"type":"agent","id":"a","system":"x"}`), "agent.system: is not known: Accepted are id, type, version"},
		{"an override of the name", over(`"name":"x"`), "agent.name: is not known: Accepted are id, mcp_servers, model, skills, system, tools, type, version"},
		{"an override to no model", over(`"model":null`), "agent.model: agent_model_required: an agent needs a model; accepted is a model's id or an object with an id"},
		{"an override of tools", over(`"tools":[{"type":"agent_toolset_20260401","configs":[{"name":"bash"},{"name":"bsh"}]}]`), `agent.tools.0.configs.1.name: accepted is "bash", "edit", "read", "write", "glob", "grep", "web_fetch" or "web_search"`},
		{"an override of skills", over(`"skills":[{"type":"anthropic","skill_id":"xlsx"}]`), "agent.skills: " + notServed},
		{"an override of MCP servers", over(`"mcp_servers":[{"type":"url","name":"x","url":"https://x"}]`), "agent.mcp_servers: " + notServed},
		{"no environment", `{"agent":"a"}`, "environment_id: is required: accepted is text of 1 to 256 characters"},
		{"environment a number", `{"agent":"a","environment_id":1}`, "environment_id: accepted is text of 1 to 256 characters"},
		{"a long title", with(`"title":"` + strings.Repeat("é", 1001) + `"`), "title: accepted is text of at most 1000 characters; this has 1001"},
		{"a title with a NUL", with(`"title":"a\u0000"`), "title: accepted is text without the character U+0000"},
		{"a title twice", with(`"title":"a","title":"b"`), "title: is given twice"},
		{"metadata of a number", with(`"metadata":{"a":1}`), "metadata.a: accepted is text of at most 512 characters"},
		{"metadata of a list", with(`"metadata":[]`), "metadata: accepted is an object"},
		{"metadata with a long key", with(`"metadata":{"` + strings.Repeat("k", 65) + `":""}`), "metadata." + strings.Repeat("k", 64) + "…: accepted is a key of 1 to 64 characters; this has 65"},
		{"metadata with a long value", with(`"metadata":{"k":"` + strings.Repeat("v", 513) + `"}`), "metadata.k: accepted is text of at most 512 characters; this has 513"},
		{"too much metadata", with(`"metadata":{` + many + `}`), "metadata: accepted are at most 16 pairs; this has 17"},
		{"a budget of a number", with(`"budget":25`), "budget: accepted is an object"},
		{"a budget without a type", with(`"budget":{}`), `budget.type: is required: accepted is "limit"`},
		{"a budget without an amount", with(`"budget":{"type":"limit"}`), "budget.max_list_cost: is required: accepted is an object"},
		{"an amount that is a number", with(`"budget":{"type":"limit","max_list_cost":{"amount":25,"currency":"USD"}}`), "budget.max_list_cost.amount: accepted is text of at least 1 character"},
		{"an amount with a point", with(`"budget":{"type":"limit","max_list_cost":{"amount":"25.00","currency":"USD"}}`), "budget.max_list_cost.amount: " + cents},
		{"an amount of nothing", with(`"budget":{"type":"limit","max_list_cost":{"amount":"0","currency":"USD"}}`), "budget.max_list_cost.amount: " + cents},
		{"a negative amount", with(`"budget":{"type":"limit","max_list_cost":{"amount":"-5","currency":"USD"}}`), "budget.max_list_cost.amount: " + cents},
		{"an amount with a zero in front", with(`"budget":{"type":"limit","max_list_cost":{"amount":"05","currency":"USD"}}`), "budget.max_list_cost.amount: " + cents},
		{"a huge amount", with(`"budget":{"type":"limit","max_list_cost":{"amount":"1000000001","currency":"USD"}}`), "budget.max_list_cost.amount: " + cents},
		{"another currency", with(`"budget":{"type":"limit","max_list_cost":{"amount":"5","currency":"EUR"}}`), `budget.max_list_cost.currency: accepted is "USD"`},
		{"resources", with(`"resources":[{"type":"file","file_id":"file_1"}]`), "resources: " + notServed},
		{"vaults", with(`"vault_ids":["vlt_1"]`), "vault_ids: " + notServed},
		{"an addition", with(`"croft":{"image":"x"}`), "croft.image: is not known: accepted is an object without members"},
		{"too many initial events", with(`"initial_events":[` + strings.Repeat(hello+",", 50) + hello + `]`), "initial_events: accepted is a list of at most 50 elements; this has 51"},
		{"an initial interrupt", with(`"initial_events":[` + hello + `,{"type":"user.interrupt"}]`), `initial_events.1.type: accepted is "user.message"`},
		{"an initial system message", with(`"initial_events":[{"type":"system.message","content":[]}]`), `initial_events.0.type: accepted is "user.message"`},
		{"an initial outcome", with(`"initial_events":[{"type":"user.define_outcome"}]`), "initial_events.0.type: user.define_outcome " + notServed},
		{"an initial message without text", with(`"initial_events":[{"type":"user.message","content":[{"type":"text","text":""}]}]`), "initial_events.0.content.0.text: accepted is text that is not empty"},
	})
}

func TestParseUpdateRefuses(t *testing.T) {
	refuses(t, session.ParseUpdate, []badInput{
		{"vaults", `{"vault_ids":[]}`, "vault_ids: cannot be changed: accepted are vault_ids when a session is created"},
		{"another part of the agent", `{"agent":{"system":"x"}}`, "agent.system: is not known: Accepted are mcp_servers, tools"},
		{"the model", `{"agent":{"model":"x"}}`, "agent.model: is not known: Accepted are mcp_servers, tools"},
		{"an agent's id", `{"agent":"agent_1"}`, "agent: accepted is an object"},
		{"a tool", `{"agent":{"tools":[{"type":"custom","name":"a b","description":"x","input_schema":{"type":"object"}}]}}`, "agent.tools.0.name: accepted are letters of ASCII, digits, underscores and hyphens"},
		{"a title", `{"title":1}`, "title: accepted is text of at most 1000 characters"},
		{"the status", `{"status":"idle"}`, "status: is not known: Accepted are agent, budget, croft, metadata, title, vault_ids"},
		{"the environment", `{"environment_id":"env_2"}`, "environment_id: is not known: Accepted are agent, budget, croft, metadata, title, vault_ids"},
		{"metadata", `{"metadata":{"a":{}}}`, "metadata.a: accepted is text of at most 512 characters"},
	})
}

func ptr[T any](v T) *T { return &v }

func TestParseCreate(t *testing.T) {
	got, err := session.ParseCreate([]byte(`{"agent":{"type":"agent_with_overrides","id":"agent_1","version":3,"system":null,"tools":[],"model":{"id":"m","effort":"low"}},
		"environment_id":"env_1","title":"T","metadata":{"a":"b"},"budget":{"type":"limit","max_list_cost":{"amount":"2500","currency":"USD"}},
		"resources":[],"vault_ids":null,"croft":{},"initial_events":[{"type":"user.message","content":[{"type":"text","text":"hi"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &session.CreateInput{
		Agent: agents.Ref{ID: "agent_1", Version: 3, Overrides: &agents.Overrides{System: new(*string), Tools: &[]croft.Tool{},
			Model: &croft.ModelConfig{ID: "m", Effort: &croft.Typed{Type: "high"}, Speed: "standard"}}},
		EnvironmentID: "env_1", Title: ptr("T"), Metadata: map[string]string{"a": "b"},
		Budget: &croft.Budget{Type: "limit", MaxListCost: croft.Money{Amount: "2500", Currency: "USD"}},
		Events: []session.Input{message("hi")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	got, err = session.ParseCreate([]byte(`{"agent":"agent_1","environment_id":"env_1","title":null,"budget":null,"initial_events":[]}`))
	want = &session.CreateInput{Agent: agents.Ref{ID: "agent_1"}, EnvironmentID: "env_1", Metadata: map[string]string{}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestParseUpdate(t *testing.T) {
	for _, tt := range []struct {
		body string
		want *session.UpdateInput
	}{
		{`{}`, &session.UpdateInput{}},
		{`{"title":null,"budget":null}`, &session.UpdateInput{Title: new(*string), Budget: new(*croft.Budget)}},
		{`{"title":"x","metadata":{"a":null,"b":""},"vault_ids":null}`, &session.UpdateInput{Title: ptr(ptr("x")), Metadata: map[string]*string{"a": nil, "b": ptr("")}}},
		{`{"agent":{"tools":[],"mcp_servers":null}}`, &session.UpdateInput{Tools: &[]croft.Tool{}, MCPServers: &[]croft.MCPServer{}}},
	} {
		got, err := session.ParseUpdate([]byte(tt.body))
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", tt.body, err, diff)
		}
	}
}

// TestParseSend sends what the official SDK writes and reads the events back with its types.
func TestParseSend(t *testing.T) {
	text := anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{OfText: &anthropic.BetaManagedAgentsTextBlockParam{Text: "a\n\"é\"\u2028<b>", Type: "text"}}
	image := &anthropic.BetaManagedAgentsImageBlockParam{Type: "image", Source: anthropic.BetaManagedAgentsImageBlockSourceUnionParam{
		OfBase64: &anthropic.BetaManagedAgentsBase64ImageSourceParam{Type: "base64", MediaType: "image/png", Data: pixel}}}
	pdf := &anthropic.BetaManagedAgentsDocumentBlockParam{Type: "document", Title: anthropic.String("T"), Context: anthropic.String("C"),
		Source: anthropic.BetaManagedAgentsDocumentBlockSourceUnionParam{OfBase64: &anthropic.BetaManagedAgentsBase64DocumentSourceParam{Type: "base64", MediaType: "application/pdf", Data: "JVBERg=="}}}
	plain := &anthropic.BetaManagedAgentsDocumentBlockParam{Type: "document",
		Source: anthropic.BetaManagedAgentsDocumentBlockSourceUnionParam{OfText: &anthropic.BetaManagedAgentsPlainTextDocumentSourceParam{Type: "text", MediaType: "text/plain", Data: "x"}}}
	far := &anthropic.BetaManagedAgentsImageBlockParam{Type: "image", Source: anthropic.BetaManagedAgentsImageBlockSourceUnionParam{
		OfURL: &anthropic.BetaManagedAgentsURLImageSourceParam{Type: "url", URL: "https://example.com/a.png?x=1&y=2"}}}
	params := anthropic.BetaSessionEventSendParams{Events: []anthropic.BetaManagedAgentsEventParamsUnion{
		{OfUserMessage: &anthropic.BetaManagedAgentsUserMessageEventParams{Type: "user.message",
			Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{text, {OfImage: image}, {OfDocument: pdf}, {OfDocument: plain}, {OfImage: far}}}},
		{OfUserInterrupt: &anthropic.BetaManagedAgentsUserInterruptEventParams{Type: "user.interrupt"}},
		{OfUserInterrupt: &anthropic.BetaManagedAgentsUserInterruptEventParams{Type: "user.interrupt", SessionThreadID: anthropic.String("sthr_1")}},
		{OfUserToolConfirmation: &anthropic.BetaManagedAgentsUserToolConfirmationEventParams{Type: "user.tool_confirmation", ToolUseID: "sevt_1", Result: "allow"}},
		{OfUserToolConfirmation: &anthropic.BetaManagedAgentsUserToolConfirmationEventParams{Type: "user.tool_confirmation", ToolUseID: "sevt_1", Result: "deny", DenyMessage: anthropic.String("no")}},
		{OfUserToolResult: &anthropic.BetaManagedAgentsUserToolResultEventParams{Type: "user.tool_result", ToolUseID: "sevt_2", IsError: anthropic.Bool(true),
			Content: []anthropic.BetaManagedAgentsUserToolResultEventParamsContentUnion{{OfImage: image}, {OfSearchResult: &anthropic.BetaManagedAgentsSearchResultBlockParam{
				Type: "search_result", Source: "s", Title: "t", Content: []anthropic.BetaManagedAgentsSearchResultContentParam{{Type: "text", Text: "x"}}}}}}},
		{OfUserToolResult: &anthropic.BetaManagedAgentsUserToolResultEventParams{Type: "user.tool_result", ToolUseID: "sevt_3"}},
		{OfUserCustomToolResult: &anthropic.BetaManagedAgentsUserCustomToolResultEventParams{Type: "user.custom_tool_result", CustomToolUseID: "sevt_4",
			Content: []anthropic.BetaManagedAgentsUserCustomToolResultEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{Type: "text", Text: "\n"}}}}},
		{OfSystemMessage: &anthropic.BetaManagedAgentsSystemMessageEventParams{Type: "system.message",
			Content: []anthropic.BetaManagedAgentsSystemContentBlockParam{{Type: "text", Text: "be brief"}}}},
	}}
	body, err := json.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	inputs, err := session.ParseSend(body)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"type":"user.message","content":[{"type":"text","text":"a\n\"é\"` + "\u2028" + `<b>"},` +
			`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + pixel + `"}},` +
			`{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBERg=="},"title":"T","context":"C"},` +
			`{"type":"document","source":{"type":"text","media_type":"text/plain","data":"x"}},` +
			`{"type":"image","source":{"type":"url","url":"https://example.com/a.png?x=1&y=2"}}]}`,
		`{"type":"user.interrupt"}`,
		`{"type":"user.interrupt","session_thread_id":"sthr_1"}`,
		`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"allow"}`,
		`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"deny","deny_message":"no"}`,
		`{"type":"user.tool_result","tool_use_id":"sevt_2","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + pixel + `"}},` +
			`{"type":"search_result","source":"s","title":"t","content":[{"type":"text","text":"x"}],"citations":{"enabled":false}}],"is_error":true}`,
		`{"type":"user.tool_result","tool_use_id":"sevt_3","content":[],"is_error":false}`,
		`{"type":"user.custom_tool_result","custom_tool_use_id":"sevt_4","content":[{"type":"text","text":"\n"}],"is_error":false}`,
		`{"type":"system.message","content":[{"type":"text","text":"be brief"}]}`,
	}
	if len(inputs) != len(want) {
		t.Fatalf("%d inputs", len(inputs))
	}
	for i, in := range inputs {
		if string(in.Payload) != want[i] {
			t.Errorf("event %d:\ngot  %s\nwant %s", i, in.Payload, want[i])
		}
		var parts struct{ Content []json.RawMessage }
		if err := json.Unmarshal(in.Payload, &parts); err != nil {
			t.Fatal(err)
		}
		if len(parts.Content)+len(in.Content) > 0 && !reflect.DeepEqual(parts.Content, in.Content) {
			t.Errorf("event %d: content %s", i, in.Content)
		}
		echo := append([]byte(`{"id":"sevt_9","processed_at":null,`), in.Payload[1:]...)
		if e := wiretest.Decode[anthropic.BetaManagedAgentsSessionEventUnion](t, echo); e.Type != string(in.Type) {
			t.Errorf("event %d: %s", i, e.Type)
		}
	}
	got := []any{inputs[2].ThreadID, inputs[3].ToolUseID, inputs[3].Allow, inputs[4].Allow, inputs[4].DenyMessage, inputs[5].ToolUseID, inputs[5].IsError, inputs[7].ToolUseID}
	if diff := cmp.Diff([]any{"sthr_1", "sevt_1", true, false, "no", "sevt_2", true, "sevt_4"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestParseSendCanonical holds that what a model's server would refuse does not reach the log.
func TestParseSendCanonical(t *testing.T) {
	inputs, err := session.ParseSend([]byte(`{ "events": [ { "content": [ { "text": "half \ud83d, whole \ud83d\ude00, sla\/sh", "type": "text" },
		{"type":"image","source":{"data":"QU\/D","media_type":"image\/png","type":"base64"}} ], "type": "user.message" } ] }`))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type":"user.message","content":[{"type":"text","text":"half ` + "\ufffd" + `, whole 😀, sla/sh"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"QU/D"}}]}`
	if string(inputs[0].Payload) != want {
		t.Errorf("got  %s\nwant %s", inputs[0].Payload, want)
	}
}

// FuzzParseSend holds that what is accepted is accepted again in its canonical form, unchanged.
func FuzzParseSend(f *testing.F) {
	f.Add([]byte(`{"events":[{"type":"user.message","content":[{"type":"text","text":"hi\ud83d"}]}]}`))
	f.Add([]byte(`{"events":[{"type":"user.message","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"QUJD"}}]}]}`))
	f.Add([]byte(`{"events":[{"type":"user.message","content":[{"type":"document","title":"t","context":"","source":{"type":"url","url":"https://x/"}}]}]}`))
	f.Add([]byte(`{"events":[{"type":"user.tool_result","tool_use_id":"s","is_error":true,"content":[{"type":"search_result","source":"s","title":"t","content":[{"type":"text","text":"x"}]}]},{"type":"system.message","content":[{"type":"text","text":"x"}]}]}`))
	f.Add([]byte(`{"events":[{"type":"user.interrupt","session_thread_id":"s"},{"type":"user.tool_confirmation","tool_use_id":"s","result":"deny","deny_message":"x"},{"type":"user.custom_tool_result","custom_tool_use_id":"s"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		inputs, err := session.ParseSend(body)
		if err != nil {
			if !croft.IsType(err, croft.InvalidRequest) {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		var again []json.RawMessage
		for _, in := range inputs {
			if !json.Valid(in.Payload) {
				t.Fatalf("%q makes %q", body, in.Payload)
			}
			again = append(again, in.Payload)
		}
		canonical, err := json.Marshal(map[string]any{"events": again})
		if err != nil {
			t.Fatal(err)
		}
		second, err := session.ParseSend(canonical)
		if diff := cmp.Diff(inputs, second, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Fatalf("%q again: %v %s", canonical, err, diff)
		}
	})
}

// FuzzParseCreate holds that no body of a creation or a change does harm, and that what is
// accepted keeps the limits.
func FuzzParseCreate(f *testing.F) {
	f.Add([]byte(`{"agent":"a","environment_id":"e","title":"t","metadata":{"a":"b"},"initial_events":[{"type":"user.message","content":[{"type":"text","text":"x"}]}]}`))
	f.Add([]byte(`{"agent":{"type":"agent","id":"a","version":2},"environment_id":"e","budget":{"type":"limit","max_list_cost":{"amount":"25","currency":"USD"}}}`))
	f.Add([]byte(`{"agent":{"type":"agent_with_overrides","id":"a","model":"m","system":null,"tools":[{"type":"agent_toolset_20260401"}]},"environment_id":"e"}`))
	f.Add([]byte(`{"agent":{"tools":[{"type":"custom","name":"a","description":"b","input_schema":{"type":"object"}}]},"title":null,"budget":null,"metadata":{"a":null}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		in, err := session.ParseCreate(body)
		switch {
		case err != nil && !croft.IsType(err, croft.InvalidRequest):
			t.Fatalf("%q: %v", body, err)
		case err == nil && (in.Agent.ID == "" || in.EnvironmentID == "" || len(in.Metadata) > croft.MaxMetadata || len(in.Events) > 50):
			t.Fatalf("%q: %+v", body, in)
		}
		if _, err := session.ParseUpdate(body); err != nil && !croft.IsType(err, croft.InvalidRequest) {
			t.Fatalf("%q: %v", body, err)
		}
	})
}

func BenchmarkParseSend(b *testing.B) {
	body := []byte(`{"events":[{"type":"user.message","content":[{"type":"text","text":"Say hello, then list the files in the working directory."}]}]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := session.ParseSend(body); err != nil {
			b.Fatal(err)
		}
	}
}
