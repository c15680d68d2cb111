package agents

import (
	"encoding/json"
	"testing"

	"croft"
)

// FuzzAgent holds that an accepted agent, written as the API answers it and sent back as an
// update, changes nothing.
func FuzzAgent(f *testing.F) {
	f.Add([]byte(`{"name":"x","model":"m","system":"s\ud83d","metadata":{"a":"b"}}`))
	f.Add([]byte(`{"name":"x","model":{"id":"m","effort":{"type":"max"},"speed":"fast","inference_geo":"global"},"tools":[{"type":"agent_toolset_20260401","default_config":{"enabled":false},"configs":[{"name":"bash","enabled":true,"permission_policy":{"type":"always_ask"}}]}]}`))
	f.Add([]byte(`{"name":"x","model":"m","tools":[{"type":"agent_toolset_20260401","configs":[{"name":"web_fetch","blocked_domains":["a.com"],"max_content_tokens":5,"url_sources":{"user_input":"none","server_tool_results":{"type":"only","tools":[{"type":"tool_reference","name":"web_search"}]}}}]}]}`))
	f.Add([]byte(`{"name":"x","model":"m","tools":[{"type":"agent_toolset_20260401","configs":[{"name":"web_search","allowed_domains":["a.com/b"],"user_location":{"type":"approximate","country":"DE","timezone":"Europe/Berlin","city":null}}]},{"type":"custom","name":"c","description":"d","input_schema":{"type":"object","x":[1e400,"\u0000"]}}]}`))
	s := New(nil, nil)
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := s.parseAgent(body)
		if err != nil {
			if !croft.IsType(err, croft.InvalidRequest) {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		stored, err := decodeAgent(string(text), 0)
		if err != nil {
			t.Fatal(err)
		}
		parts := map[string]json.RawMessage{}
		if err := json.Unmarshal(text, &parts); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"id", "type", "version", "created_at", "updated_at", "archived_at"} {
			delete(parts, name)
		}
		again, err := json.Marshal(parts)
		if err != nil {
			t.Fatal(err)
		}
		u, err := s.parseUpdate(again)
		if err != nil {
			t.Fatalf("%q, sent back as %q: %v", body, again, err)
		}
		got, err := u.apply(stored)
		if err != nil {
			t.Fatalf("%q, sent back as %q: %v", body, again, err)
		}
		if same, err := sameAgent(stored, got); err != nil || !same {
			t.Fatalf("%q, sent back as %q, is %+v (%v)", body, again, got, err)
		}
	})
}

// FuzzEnvironment holds the same for environments.
func FuzzEnvironment(f *testing.F) {
	f.Add([]byte(`{"name":"x"}`))
	f.Add([]byte(`{"name":"x","description":"d","scope":"organization","metadata":{"a":"b"},"config":{"type":"cloud","networking":{"type":"limited","allowed_hosts":["*.a.com"]},"packages":{"pip":[]}}}`))
	f.Add([]byte(`{"name":"x","config":{"type":"self_hosted","croft":{"driver":"local","cpus":2,"pids":99,"mounts":[{"host":"/a","path":"/b"}],"env":{"A":"b"},"unenforced":["networking"]}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := parseEnvironment(body)
		if err != nil {
			if !croft.IsType(err, croft.InvalidRequest) {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		stored, err := decodeEnvironment(string(text), 0)
		if err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(map[string]any{"name": e.Name, "description": e.Description, "scope": e.Scope, "config": e.Config})
		if err != nil {
			t.Fatal(err)
		}
		u, err := parseEnvironmentUpdate(again)
		if err != nil {
			t.Fatalf("%q, sent back as %q: %v", body, again, err)
		}
		got, err := u.apply(stored)
		if err != nil {
			t.Fatalf("%q, sent back as %q: %v", body, again, err)
		}
		if changed, err := json.Marshal(got); err != nil || string(changed) != string(text) {
			t.Fatalf("%q, sent back as %q, is %s (%v)", body, again, changed, err)
		}
	})
}
