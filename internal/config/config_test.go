package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"croft/internal/model/registry"
)

// load reads a file's text, variables and arguments, with a home folder of the test's own.
func load(t *testing.T, file string, env map[string]string, args ...string) (*Config, string, error) {
	t.Helper()
	dir := t.TempDir()
	vars := map[string]string{"HOME": filepath.Join(dir, "home")}
	for k, v := range env {
		vars[k] = v
	}
	if file != "" {
		path := filepath.Join(dir, "croft.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		vars["CROFT_CONFIG"] = path
	}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	var names []string
	for i := range settings {
		if !settings[i].noFlag {
			names = append(names, settings[i].name)
		}
	}
	AddFlags(fs, names...)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	c, err := Load(fs, func(k string) (string, bool) { v, ok := vars[k]; return v, ok })
	return c, dir, err
}

func TestDefaults(t *testing.T) {
	c, dir, err := load(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "home", ".local", "share", "croft")
	want := &Config{Listen: "127.0.0.1:8400", Data: data, DatabaseURL: "sqlite:" + filepath.Join(data, "croft.db"),
		ModelRetries: 8, Driver: "local", LogFormat: "text", ShutdownTimeout: 10 * time.Second, set: map[string]bool{}}
	if d := cmp.Diff(want, c, cmp.AllowUnexported(Config{})); d != "" {
		t.Error(d)
	}
	if got := c.DefaultModelID(); got != DefaultModel {
		t.Errorf("default model %q", got)
	}
}

func TestPrecedence(t *testing.T) {
	const file = "listen: 127.0.0.1:1\nlog_level: debug\nallow_mount: [a, /b]\n"
	env := map[string]string{"CROFT_LISTEN": "127.0.0.1:2", "XDG_DATA_HOME": "/xdg"}
	c, dir, err := load(t, file, env, "--listen", "127.0.0.1:3")
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:3" || c.Data != "/xdg/croft" || c.LogLevel != -4 {
		t.Errorf("flag: %+v", c)
	}
	if d := cmp.Diff([]string{filepath.Join(dir, "a"), "/b"}, c.AllowMount); d != "" {
		t.Errorf("paths of the file are relative to its folder: %s", d)
	}
	if c, _, err = load(t, file, env); err != nil || c.Listen != "127.0.0.1:2" {
		t.Errorf("variable: %v, %v", c, err)
	}
	if c, _, err = load(t, file, nil); err != nil || c.Listen != "127.0.0.1:1" {
		t.Errorf("file: %v, %v", c, err)
	}
	c, _, err = load(t, file, nil, "--allow-mount", "/c", "--allow-mount", "/d,e")
	if err != nil || !reflect.DeepEqual(c.AllowMount, []string{"/c", "/d,e"}) || !c.AllowMountSet {
		t.Errorf("a list given by a flag replaces the file's: %v, %v", c, err)
	}
	if !c.IsSet("listen") || c.IsSet("capacity") {
		t.Errorf("IsSet: %v", c.set)
	}
}

func TestFile(t *testing.T) {
	c, dir, err := load(t, `
# a comment
data: state
database_url: sqlite:state/my.db
capacity: 7
idle_timeout: 90s
models:
  - id: claude-opus-5
    api_key_env: MY_KEY
    context: 1000000
    price: {input: 5, output: 25, cache_read: 0.5}
  - id: local
    provider: openai
    base_url: http://127.0.0.1:11434/v1/
    max_tokens: 4096
    file_parts: true
    idle_timeout_s: 60
  - {id: demo, provider: replay, path: demo.yaml}
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Data != filepath.Join(dir, "state") || c.DatabaseURL != "sqlite:"+filepath.Join(dir, "state", "my.db") || c.Capacity != 7 || c.IdleTimeout != 90*time.Second {
		t.Errorf("scalars: %+v", c)
	}
	read := 0.5
	want := []registry.Entry{
		{ID: "claude-opus-5", Provider: "anthropic", APIKeyEnv: "MY_KEY", Context: 1_000_000, Price: &registry.Price{Input: 5, Output: 25, CacheRead: &read}},
		{ID: "local", Provider: "openai", BaseURL: "http://127.0.0.1:11434/v1", MaxTokens: 4096, FileParts: true, IdleTimeoutS: 60},
		{ID: "demo", Provider: "replay", Path: filepath.Join(dir, "demo.yaml")},
	}
	if d := cmp.Diff(want, c.Models); d != "" {
		t.Error(d)
	}
	if got := c.DefaultModelID(); got != "claude-opus-5" {
		t.Errorf("default model %q: the first of models is it", got)
	}
	for _, empty := range []string{"\n", "# nothing\n", "---\n", "{}"} {
		if _, _, err := load(t, empty, nil); err != nil {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

func TestMistakes(t *testing.T) {
	const secret = "sk-very-secret"
	for name, tt := range map[string]struct {
		file string
		env  map[string]string
		args []string
		want []string // all of them stand in the error
	}{
		"unknown key":        {file: "listen: 127.0.0.1:1\nlisten_addr: x\n", want: []string{"croft.yaml:2: ", `unknown key "listen_addr"`, "accepted are models, listen, data"}},
		"guess":              {file: "database-url: x\n", want: []string{`(is "database_url" meant?)`}},
		"key of a variable":  {file: "api_key: x\n", want: []string{`unknown key "api_key"`}},
		"twice":              {file: "data: a\ndata: b\n", want: []string{"croft.yaml:2: ", "second time"}},
		"wrong kind":         {file: "data: [a]\n", want: []string{"croft.yaml:1: data: accepted is one plain value"}},
		"no mapping":         {file: "- a\n", want: []string{"croft.yaml:1: accepted is a mapping"}},
		"no YAML":            {file: "a: [\nb", want: []string{"croft.yaml", "is no YAML"}},
		"tab":                {file: "models:\n\t- id: x\n", want: []string{"croft.yaml:", "is no YAML"}},
		"two documents":      {file: "data: a\n---\ndata: b\n", want: []string{"second document"}},
		"port":               {file: "listen: 127.0.0.1:99999\n", want: []string{"croft.yaml:1: listen: ", "from 0 to 65535"}},
		"listen":             {args: []string{"--listen", "8400"}, want: []string{"--listen: ", "accepted is HOST:PORT"}},
		"driver":             {env: map[string]string{"CROFT_DRIVER": "docker"}, want: []string{`CROFT_DRIVER: "docker" is not accepted: accepted are local, none`}},
		"duration":           {args: []string{"--idle-timeout", "5"}, want: []string{"--idle-timeout: ", "as in 30s"}},
		"capacity":           {args: []string{"--capacity", "0"}, want: []string{"from 1 to"}},
		"level":              {env: map[string]string{"CROFT_LOG_LEVEL": "loud"}, want: []string{"debug, info, warn, error"}},
		"database":           {args: []string{"--database-url", "mysql://u:" + secret + "@h/d"}, want: []string{"sqlite:PATH or postgres://"}},
		"base url":           {args: []string{"--base-url", "localhost:8400"}, want: []string{"--base-url", "http://HOST:PORT"}},
		"password in url":    {args: []string{"--model-base-url", "http://u:" + secret + "@h"}, want: []string{"keys are given by variables"}},
		"replay":             {args: []string{"--model", "replay:"}, want: []string{"path of a cassette"}},
		"file not there":     {args: []string{"--config", "/nowhere/croft.yaml"}, want: []string{"--config: ", "/nowhere/croft.yaml is not there"}},
		"file is a folder":   {args: []string{"--config", os.TempDir()}, want: []string{"is a folder"}},
		"models no list":     {file: "models: x\n", want: []string{"croft.yaml:1: models: accepted is a list"}},
		"model without id":   {file: "models:\n- provider: openai\n", want: []string{"croft.yaml:2: models.0.id: is missing"}},
		"provider":           {file: "models:\n- id: a\n  provider: aws\n", want: []string{"croft.yaml:3: models.0.provider: ", "anthropic, openai, replay"}},
		"later provider":     {file: "models:\n- id: a\n  provider: bedrock\n", want: []string{"not served by this version"}},
		"model key":          {file: "models:\n- id: a\n  provider: openai\n  base_url: http://h/v1\n  key: x\n", want: []string{`croft.yaml:5: unknown key "models.0.key"`}},
		"key itself":         {file: "models:\n- id: a\n  provider: anthropic\n  api_key_env: " + secret + "\n", want: []string{"the name of a variable"}},
		"openai without url": {file: "models:\n- {id: a, provider: openai}\n", want: []string{"models.0.base_url: is missing"}},
		"replay with url":    {file: "models:\n- {id: a, provider: replay, path: x, base_url: http://h}\n", want: []string{"provider replay, which asks nobody"}},
		"file parts":         {file: "models:\n- {id: a, file_parts: true}\n", want: []string{"models.0.file_parts", "openai alone"}},
		"tokens":             {file: "models:\n- {id: a, max_tokens: many}\n", want: []string{"models.0.max_tokens", "whole number"}},
		"same id":            {file: "models:\n- {id: a, provider: anthropic}\n- {id: a, provider: anthropic}\n", want: []string{"croft.yaml:3: models.1.id"}},
		"price":              {file: "models:\n- {id: a, provider: anthropic, price: {input: -1, output: 2}}\n", want: []string{"models.0.price.input: ", "USD"}},
		"half a price":       {file: "models:\n- {id: a, provider: anthropic, price: {input: 1}}\n", want: []string{"models.0.price.output: is missing"}},
		"loop of aliases":    {file: "models: &m [*m]\n", want: []string{"models.0"}},
		"secret with spaces": {env: map[string]string{"CROFT_API_KEY": secret + " x"}, want: []string{"CROFT_API_KEY", "no spaces"}},
		"no home":            {env: map[string]string{"HOME": ""}, want: []string{"set CROFT_DATA"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := load(t, tt.file, tt.env, tt.args...)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want an *Error", err)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in: %v", w, err)
				}
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error repeats a secret: %v", err)
			}
		})
	}
}

func TestUnreadableFile(t *testing.T) {
	if os.Getuid() == 0 {
		t.Log("root reads every file: the refusal by permission is not tried")
		return
	}
	path := filepath.Join(t.TempDir(), "croft.yaml")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := load(t, "", nil, "--config", path); err == nil || !strings.Contains(err.Error(), "may not be read") {
		t.Errorf("got %v", err)
	}
}

// TestEveryFieldHasAName holds the promise that a scalar of the file is a flag or a
// variable of the same name.
func TestEveryFieldHasAName(t *testing.T) {
	for _, s := range Settings() {
		if s.Name == "" {
			continue
		}
		if s.Flag != "--"+strings.ReplaceAll(s.Name, "_", "-") || s.Variable != "CROFT_"+strings.ToUpper(s.Name) {
			t.Errorf("%+v: names differ", s)
		}
		if s.Usage == "" || s.Value == "" {
			t.Errorf("%+v: no words for help", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "data: x", "models: &m [*m]", "models:\n- {id: a, provider: replay, path: b}", "a: &a [*a, *a]", "? [x]\n: y", "allow_mount: [a, [b]]", "listen: !!int 3", "models: [{id: a, price: {input: .nan}}]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c := &Config{set: map[string]bool{}}
		err := c.parse(text, "/dir")
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%T is no *Error: %v", err, err)
		}
		if err == nil {
			for _, m := range c.Models {
				if m.ID == "" || m.Provider == "" {
					t.Errorf("accepted a model without id or provider: %+v", m)
				}
			}
		}
	})
}
