package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"croft/internal/model"
	"croft/internal/model/modeltest"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func cassette(t *testing.T, reply string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("turns: [reply: "+reply+"]"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// said asks a model and returns its text, or the error.
func said(r *Registry, id string) string {
	m, err := r.Resolve(id)
	if err == nil {
		req := modeltest.Request(modeltest.User("hi"))
		req.Model = id
		var resp *model.Response
		if resp, err = m.Provider.Generate(context.Background(), req, nil); err == nil {
			var b struct{ Text string }
			if err := json.Unmarshal(resp.Content[0], &b); err != nil {
				return err.Error()
			}
			return b.Text
		}
	}
	var e *model.Error
	if !errors.As(err, &e) || e.Retry || e.Kind != model.RequestFailed {
		return fmt.Sprintf("a %T: %v", err, err)
	}
	return "error: " + e.Message
}

func TestResolve(t *testing.T) {
	own := modeltest.Anthropic(t, modeltest.Text("own"))
	local := modeltest.OpenAI(t, modeltest.Text("local"))
	one := modeltest.Anthropic(t, modeltest.Text("one"), modeltest.Text("two"))
	config := `
- {id: fast, provider: openai, base_url: ` + local.URL + `/v1, api_key_env: LOCAL_KEY, context: 32768, price: {input: 0.5, output: 1}}
- {id: claude-opus-5, base_url: ` + own.URL + `, api_key_env: OWN_KEY, max_tokens: 77}
- {id: scripted, provider: replay, path: ` + cassette(t, "played") + `}
- {id: unset, provider: openai, base_url: http://127.0.0.1:1, api_key_env: NOT_SET}
`
	var entries []Entry
	if err := yaml.Unmarshal([]byte(config), &entries); err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{
		Entries: entries, BaseURL: one.URL, APIKey: modeltest.Key,
		Getenv: env("LOCAL_KEY", modeltest.Key, "OWN_KEY", modeltest.Key),
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Default() != "fast" {
		t.Errorf("the default is %s", r.Default())
	}
	for _, tt := range [][2]string{
		{"fast", "local"},
		{"claude-opus-5", "own"},
		{"scripted", "played"},
		{"claude-sonnet-5", "one"},
		{"some-other", "two"},
		{"unset", `error: model "unset" needs an API key: the environment variable NOT_SET is not set`},
		{"", "error: no model is named"},
		{"replay:/etc/passwd", `error: model "replay:/etc/passwd": this server takes no cassettes by path; name the cassette in the section models: of its configuration`},
	} {
		if got := said(r, tt[0]); got != tt[1] {
			t.Errorf("%s: %s, want %s", tt[0], got, tt[1])
		}
	}
	if body := own.Bodies()[0]; !strings.Contains(body, `"max_tokens":77`) || !strings.Contains(body, `"model":"claude-opus-5"`) {
		t.Errorf("the entry's server was asked %s", body)
	}
	if body := one.Bodies()[1]; !strings.Contains(body, `"model":"some-other"`) {
		t.Errorf("the id was changed: %s", body)
	}

	opus, _ := model.FindClaude("claude-opus-5")
	haiku, _ := model.FindClaude("claude-haiku-4-5")
	type shown struct {
		Context int64
		Price   *model.Price
		Midway  bool
		Display string
		Dated   bool
	}
	for id, want := range map[string]shown{
		"fast":             {32768, &model.Price{Input: 0.5, Output: 1, CacheRead: 0.5, CacheWrite: 0.5}, true, "fast", false},
		"claude-opus-5":    {1_000_000, &opus.Price, true, "Claude Opus 5", true},
		"scripted":         {0, nil, true, "scripted", false},
		"claude-haiku-4-5": {200_000, &haiku.Price, false, "Claude Haiku 4.5", true},
		"some-other":       {0, nil, true, "some-other", false},
	} {
		m, err := r.Resolve(id)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, shown{m.Context, m.Price, m.SystemMidway, m.Display, m.CreatedAt != 0}); diff != "" || m.ID != id {
			t.Errorf("%s is %s (-want +got):\n%s", id, m.ID, diff)
		}
	}

	var ids []string
	for _, m := range r.List() {
		ids = append(ids, m.ID)
	}
	want := []string{"fast", "claude-opus-5", "scripted", "unset", "claude-sonnet-5", "claude-fable-5", "claude-mythos-5", "claude-opus-4-8", "claude-opus-4-7",
		"claude-sonnet-4-6", "claude-opus-4-6", "claude-opus-4-5-20251101", "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929"}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

func TestNoKey(t *testing.T) {
	r, err := New(Config{Getenv: env()})
	if err != nil {
		t.Fatal(err)
	}
	want := `error: model "claude-opus-5" cannot be asked: set ANTHROPIC_API_KEY, or name the model in the section models: of the configuration`
	if got := said(r, "claude-opus-5"); got != want {
		t.Errorf("%s", got)
	}
	if r.Default() != "" || len(r.List()) != 0 {
		t.Errorf("default %q, %d models", r.Default(), len(r.List()))
	}
	r, err = New(Config{Getenv: env(), Entries: []Entry{{ID: "claude-opus-5"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := said(r, "claude-opus-5"); got != `error: model "claude-opus-5" needs an API key: the environment variable ANTHROPIC_API_KEY is not set` {
		t.Errorf("%s", got)
	}
	if got := said(r, "x"); !strings.HasSuffix(got, "of the configuration, where there are claude-opus-5") {
		t.Errorf("%s", got)
	}
}

// TestKeyStaysHome: the one-provider key goes to no entry's own server.
func TestKeyStaysHome(t *testing.T) {
	srv := modeltest.Anthropic(t, modeltest.Text("a"))
	r, err := New(Config{Entries: []Entry{{ID: "m", BaseURL: srv.URL}}, APIKey: modeltest.Key, Getenv: env()})
	if err != nil {
		t.Fatal(err)
	}
	if got := said(r, "m"); !strings.Contains(got, "x-api-key: missing") {
		t.Errorf("%s", got)
	}
	if h := srv.Headers()[0]; h.Get("x-api-key") != "" || h.Get("Authorization") != "" {
		t.Errorf("a key went along: %v", h)
	}
}

func TestBadEntries(t *testing.T) {
	minus := -1.0
	tests := []struct {
		entry Entry
		want  string
	}{
		{Entry{}, "models.1.id: an id is needed"},
		{Entry{ID: "first"}, `models.1.id: "first" is there twice`},
		{Entry{ID: "replay:x"}, `models.1.id: ids that begin with "replay:" name cassettes; choose another and set path`},
		{Entry{ID: "m", Provider: "bedrock"}, "models.1.provider: bedrock is not served by this version of Croft; anthropic, openai and replay are"},
		{Entry{ID: "m", Provider: "vertex"}, "models.1.provider: vertex is not served by this version of Croft; anthropic, openai and replay are"},
		{Entry{ID: "m", Provider: "gemini"}, `models.1.provider: "gemini" is not known; anthropic, openai and replay are`},
		{Entry{ID: "m", Provider: "openai"}, "models.1.base_url: provider openai needs the address of its server, as in http://127.0.0.1:8000/v1"},
		{Entry{ID: "m", Provider: "openai", BaseURL: "localhost:8000"}, "models.1.base_url: openai: the base URL must begin with http:// or https:// and name a host"},
		{Entry{ID: "m", Provider: "replay"}, "models.1.path: provider replay needs the path of its cassette"},
		{Entry{ID: "m", Provider: "replay", Path: "/nowhere/c.yaml"}, "models.1.path: reading the cassette: stat /nowhere/c.yaml: no such file or directory"},
		{Entry{ID: "m", Path: "x"}, "models.1.path: only provider replay has a path"},
		{Entry{ID: "m", FileParts: true}, "models.1.file_parts: only provider openai has it"},
		{Entry{ID: "m", Context: -1}, "models.1.context: must not be negative"},
		{Entry{ID: "m", Price: &Price{Input: 1, CacheRead: &minus}}, "models.1.price: prices are in USD for a million tokens, between 0 and 1,000,000"},
	}
	for _, tt := range tests {
		_, err := New(Config{Entries: []Entry{{ID: "first"}, tt.entry}, Getenv: env()})
		if err == nil || err.Error() != tt.want {
			t.Errorf("%+v:\n got %v\nwant %s", tt.entry, err, tt.want)
		}
	}
	if _, err := New(Config{BaseURL: "nonsense", Getenv: env()}); err == nil || !strings.HasPrefix(err.Error(), "model_base_url: ") {
		t.Errorf("%v", err)
	}
}

func TestPriceFollows(t *testing.T) {
	zero := 0.0
	r, err := New(Config{Getenv: env(), APIKey: "sk-x", Entries: []Entry{
		{ID: "claude-opus-5", Price: &Price{Input: 4, Output: 20}},
		{ID: "m", Price: &Price{Input: 4, Output: 20, CacheRead: &zero, CacheWrite: &zero}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]model.Price{
		"claude-opus-5": {Input: 4, Output: 20, CacheRead: 0.4, CacheWrite: 5, Fast: 2, US: 1.1},
		"m":             {Input: 4, Output: 20},
	} {
		m, err := r.Resolve(id)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, m.Price); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
	}
}

func TestReplayPaths(t *testing.T) {
	path := cassette(t, "first")
	r, err := New(Config{ReplayPaths: true, Getenv: env()})
	if err != nil {
		t.Fatal(err)
	}
	if got := said(r, "replay:"+path); got != "first" {
		t.Errorf("%s", got)
	}
	a, err := r.Resolve("replay:" + path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Resolve("replay:" + path)
	if err != nil || a != b {
		t.Errorf("the cassette was read again (%v)", err)
	}
	if err := os.WriteFile(path, []byte("turns: [reply: changed]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := said(r, "replay:"+path); got != "changed" {
		t.Errorf("%s", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := said(r, "replay:"+path); !strings.HasPrefix(got, "error: model") || !strings.Contains(got, "no such file") {
		t.Errorf("%s", got)
	}
	if got := said(r, "claude-opus-5"); !strings.Contains(got, "ANTHROPIC_API_KEY") {
		t.Errorf("%s", got)
	}
}

func TestCassettesAreBounded(t *testing.T) {
	r, err := New(Config{ReplayPaths: true, Getenv: env()})
	if err != nil {
		t.Fatal(err)
	}
	for range maxCassettes + 5 {
		if _, err := r.Resolve("replay:" + cassette(t, "x")); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.cassettes) != maxCassettes {
		t.Errorf("%d cassettes are open", len(r.cassettes))
	}
}

func TestRecord(t *testing.T) {
	srv := modeltest.Anthropic(t, modeltest.Text("recorded ", "answer"))
	path := filepath.Join(t.TempDir(), "rec.yaml")
	r, err := New(Config{BaseURL: srv.URL, APIKey: modeltest.Key, Record: path, ReplayPaths: true, Getenv: env()})
	if err != nil {
		t.Fatal(err)
	}
	first := said(r, "claude-opus-5")
	if err := r.RecordErr(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(data), modeltest.Key) {
		t.Fatalf("%v; the key is in the recording: %v", err, strings.Contains(string(data), modeltest.Key))
	}
	player, err := New(Config{ReplayPaths: true, Getenv: env()})
	if err != nil {
		t.Fatal(err)
	}
	if again := said(player, "replay:"+path); again != first || first != "recorded answer" {
		t.Errorf("recorded %s, played %s", first, again)
	}
}
