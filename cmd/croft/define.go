package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"croft"
	"croft/internal/config"
	"croft/internal/sandbox"
	"croft/internal/term"
)

// What run makes for itself. The metadata holds a hash of the definition, so that a later
// run with the same definition finds it again.
const (
	ownName       = "croft-run"
	ownKey        = "croft-run"
	maxDefinition = 4 << 20
)

// ownSystem is the system prompt of run's own agent.
const ownSystem = `You work in a sandbox on the user's machine and run commands there with your tools. Your working folder is /workspace. ` +
	`There is no network but the sandbox's own. Do what the user asks, check what you have done, and say briefly what came of it.`

// mountList reads --workdir and --mount.
func (f *runFlags) mountList() ([]croft.Mount, error) {
	var list []croft.Mount
	if f.workdir != "" {
		host, err := filepath.Abs(f.workdir)
		if err != nil {
			return nil, usageError("--workdir: %v", err)
		}
		info, err := os.Stat(host)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil, usageError("--workdir: %s is not there: accepted is a folder of this machine", host)
		case err != nil:
			return nil, usageError("--workdir: %v", err)
		case !info.IsDir():
			return nil, usageError("--workdir: %s is no folder", host)
		}
		list = append(list, croft.Mount{Host: host, Path: sandbox.Workspace})
	}
	for _, text := range f.mounts {
		m, err := parseMount(text)
		if err != nil {
			return nil, err
		}
		if m.Path == sandbox.Workspace && f.workdir != "" {
			return nil, usageError("--mount: %s is --workdir's place", m.Path)
		}
		list = append(list, m)
	}
	return list, nil
}

// parseMount reads HOST:PATH[:ro].
func parseMount(text string) (croft.Mount, error) {
	var m croft.Mount
	rest := text
	if r, ok := strings.CutSuffix(rest, ":ro"); ok {
		rest, m.ReadOnly = r, true
	}
	i := strings.LastIndexByte(rest, ':')
	if i <= 0 || i == len(rest)-1 {
		return m, usageError("--mount: %q: accepted is HOST:PATH or HOST:PATH:ro", text)
	}
	host, err := filepath.Abs(rest[:i])
	if err != nil {
		return m, usageError("--mount: %v", err)
	}
	m.Host, m.Path = host, rest[i+1:]
	if !path.IsAbs(m.Path) || path.Clean(m.Path) != m.Path || m.Path == "/" {
		return m, usageError("--mount: %q: accepted is a whole path inside the sandbox, as in /data", m.Path)
	}
	if _, err := os.Stat(host); err != nil {
		return m, usageError("--mount: %s is not there", host)
	}
	return m, nil
}

// create makes the session, with the agent and the environment that it needs.
func (t *turn) create(ctx context.Context, cfg *config.Config, f *runFlags, mounts []croft.Mount) (string, error) {
	agent, err := t.agent(ctx, cfg, f)
	if err != nil {
		return "", err
	}
	environment := f.environment
	if environment == "" {
		if environment, err = t.environment(ctx, mounts); err != nil {
			return "", err
		}
	}
	title := f.title
	if title == "" {
		title = term.Short(f.task, 60)
	}
	body := map[string]any{"agent": agent, "environment_id": environment, "title": title}
	if f.budget > 0 {
		body["budget"] = budget(f.budget)
	}
	var s croft.Session
	if err := t.c.Do(ctx, http.MethodPost, "/v1/sessions", body, &s); err != nil {
		return "", err
	}
	return s.ID, nil
}

// agent returns what a session's field agent is to be.
func (t *turn) agent(ctx context.Context, cfg *config.Config, f *runFlags) (any, error) {
	switch {
	case f.agent == "":
		return t.ownAgent(ctx, cfg, f)
	case isAgentID(f.agent):
		if !f.modelSet && f.system == "" {
			return f.agent, nil
		}
		over := map[string]any{"type": "agent_with_overrides", "id": f.agent}
		if f.modelSet {
			over["model"] = map[string]string{"id": cfg.Model}
		}
		if f.system != "" {
			over["system"] = f.system
		}
		return over, nil
	}
	definition := f.definition
	if f.modelSet || definition["model"] == nil {
		model, ok := definition["model"].(map[string]any)
		if !ok {
			model = map[string]any{}
		}
		model["id"] = cfg.DefaultModelID()
		definition["model"] = model
	}
	if f.system != "" {
		definition["system"] = f.system
	}
	return t.reuse(ctx, "agents", definition)
}

// isAgentID tells an agent's id from the path of a file.
func isAgentID(text string) bool {
	return croft.HasPrefix(text, croft.PrefixAgent) && !strings.ContainsAny(text, `./\`)
}

// readDefinition reads an agent's definition, the body of POST /v1/agents, from YAML.
func readDefinition(file string) (map[string]any, error) {
	info, err := os.Stat(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, usageError("--agent: %s is not there: accepted is an agent's id (%s_…) or a YAML file", file, croft.PrefixAgent)
	}
	if err != nil {
		return nil, usageError("--agent: %v", err)
	}
	if info.Size() > maxDefinition {
		return nil, usageError("--agent: %s is larger than %d bytes", file, maxDefinition)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError("--agent: %v", err)
	}
	definition := map[string]any{}
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&definition); err != nil {
		return nil, usageError("--agent: %s: %v", file, err)
	}
	if definition["name"] == nil {
		definition["name"] = strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	}
	return definition, nil
}

// ownAgent is the agent that run makes where none is named.
func (t *turn) ownAgent(ctx context.Context, cfg *config.Config, f *runFlags) (string, error) {
	system, policy := ownSystem, croft.AlwaysAllow
	if f.system != "" {
		system = f.system
	}
	if f.ask {
		policy = croft.AlwaysAsk
	}
	return t.reuse(ctx, "agents", map[string]any{
		"name":        ownName,
		"description": "Made by croft run.",
		"model":       map[string]string{"id": cfg.DefaultModelID()},
		"system":      system,
		"tools": []any{map[string]any{"type": croft.ToolsetAgent,
			"default_config": map[string]any{"enabled": true, "permission_policy": croft.Typed{Type: policy}}}},
	})
}

// environment returns the id of an environment with these mounts.
func (t *turn) environment(ctx context.Context, mounts []croft.Mount) (string, error) {
	conf := map[string]any{"type": croft.EnvironmentCloud}
	if len(mounts) > 0 {
		conf["croft"] = map[string]any{"mounts": mounts}
	}
	return t.reuse(ctx, "environments", map[string]any{"name": ownName, "description": "Made by croft run.", "config": conf})
}

// reuse returns the id of a resource that an earlier run made by the same definition, or
// makes it. noun is the resource's part of the path.
func (t *turn) reuse(ctx context.Context, noun string, definition map[string]any) (string, error) {
	text, err := json.Marshal(definition)
	if err != nil {
		return "", usageError("the definition cannot be written as JSON: %v", err)
	}
	sum := sha256.Sum256(text)
	hash := hex.EncodeToString(sum[:16])
	type resource struct {
		ID         string            `json:"id"`
		Metadata   map[string]string `json:"metadata"`
		ArchivedAt croft.Time        `json:"archived_at"`
	}
	found, looked := "", 0
	err = pages(ctx, t.c, "/v1/"+noun+"?limit=100", func(r resource) error {
		looked++
		if r.ArchivedAt == 0 && r.Metadata[ownKey] == hash {
			found = r.ID
		}
		if found != "" || looked == 5000 {
			return io.EOF
		}
		return nil
	})
	if err != nil || found != "" {
		return found, err
	}
	metadata := map[string]any{}
	if given, ok := definition["metadata"].(map[string]any); ok {
		for k, v := range given {
			metadata[k] = v
		}
	}
	metadata[ownKey] = hash
	body := map[string]any{}
	for k, v := range definition {
		body[k] = v
	}
	body["metadata"] = metadata
	if noun == "environments" {
		// Several are told apart by people, too.
		body["name"] = fmt.Sprintf("%s-%s", ownName, hash[:8])
	}
	var made resource
	if err := t.c.Do(ctx, http.MethodPost, "/v1/"+noun, body, &made); err != nil {
		return "", err
	}
	return made.ID, nil
}
