// Package registry knows which models a server may ask: the entries of its configuration,
// and the one-provider case. It owns the resolving of a model's id to a model.Model, and
// makes the providers. It may import package model and the providers' folders; the server's
// wiring builds a Registry, the loop resolves with it, and the API lists from it.
//
// An id is resolved in this order:
//
//  1. the entry of that id, exactly;
//  2. "replay:PATH", a cassette, where Config allows it;
//  3. the one provider that an API key or a base URL stands for, which speaks the Anthropic
//     Messages API and gets the id unchanged. Its price is the list price when the id is one
//     of the known Claude models, and else unknown.
//
// A key is sent to the server it was given for, and to no other: an entry with a base URL of
// its own gets the key that its api_key_env names, never the one-provider key.
package registry

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"croft/internal/model"
	"croft/internal/model/anthropic"
	"croft/internal/model/openai"
	"croft/internal/model/replay"
)

// ReplayPrefix begins a model id that names a cassette by its path.
const ReplayPrefix = "replay:"

// maxCassettes bounds the cassettes that are kept open by path.
const maxCassettes = 64

// Names of providers.
const (
	Anthropic = "anthropic"
	OpenAI    = "openai"
	Replay    = "replay"
	Bedrock   = "bedrock"
	Vertex    = "vertex"
)

// Entry is one model of the configuration's section "models".
type Entry struct {
	// ID is how agents name the model, and what is sent to its server.
	ID string `yaml:"id" json:"id"`
	// Provider is anthropic (the default), openai or replay.
	Provider string `yaml:"provider" json:"provider"`
	// BaseURL is the server's address; anthropic has a default, openai needs one.
	BaseURL string `yaml:"base_url" json:"base_url"`
	// APIKeyEnv names the environment variable that holds the key. Without it no key is sent,
	// save that an anthropic entry without a base URL uses the one-provider key.
	APIKeyEnv string `yaml:"api_key_env" json:"api_key_env"`
	// Context is the window in tokens; 0 is what is known of a Claude model, or unknown.
	Context int64 `yaml:"context" json:"context"`
	// Price is in USD for a million tokens; nil is a known Claude model's list price, or none.
	Price *Price `yaml:"price" json:"price"`
	// Path is the cassette of a replay entry.
	Path string `yaml:"path" json:"path"`
	// MaxTokens limits a response, in tokens; 0 leaves it to the provider.
	MaxTokens int64 `yaml:"max_tokens" json:"max_tokens"`
	// FileParts tells that an openai server takes PDFs as "file" parts.
	FileParts bool `yaml:"file_parts" json:"file_parts"`
	// IdleTimeoutS is how many seconds a stream may be silent; 0 is 300.
	IdleTimeoutS int64 `yaml:"idle_timeout_s" json:"idle_timeout_s"`
}

// Price is an entry's price. A cache price that is left out follows from the input's: for
// anthropic a tenth for reading and 1.25 times for writing, for others the same.
type Price struct {
	Input      float64  `yaml:"input" json:"input"`
	Output     float64  `yaml:"output" json:"output"`
	CacheRead  *float64 `yaml:"cache_read" json:"cache_read"`
	CacheWrite *float64 `yaml:"cache_write" json:"cache_write"`
}

// Config is what a Registry is built from.
type Config struct {
	Entries []Entry
	// BaseURL and APIKey are the one-provider case: --model-base-url and ANTHROPIC_API_KEY.
	// Either may be empty; with both empty there is no such provider.
	BaseURL string
	APIKey  string
	// ReplayPaths allows replay:PATH as a model's id. It lets whoever may name a model read
	// the structure of any file of this host as a cassette, so it is for a server whose
	// clients own the host.
	ReplayPaths bool
	// Getenv reads the variables that entries name; nil is os.Getenv. Space around a key, as
	// the newline that a file brings along, is left out.
	Getenv func(string) string
	// HTTPClient is used by all providers; nil lets each make its own.
	HTTPClient *http.Client
	// Record, when set, is the file that all answers are recorded into, as a cassette.
	Record string
}

// Registry resolves model ids. It is safe for concurrent use.
type Registry struct {
	entries  []*model.Model
	byID     map[string]*model.Model
	missing  map[string]string // by id: the variable that an entry names and nobody set
	fallback model.Provider    // nil: none
	replay   bool
	tape     *replay.Tape // nil: nothing is recorded

	mu        sync.Mutex
	cassettes map[string]*opened
}

// opened is a cassette that was named by its path.
type opened struct {
	model *model.Model
	mtime time.Time
	size  int64
}

// New checks the configuration and makes the providers. Errors name the field, as in
// models.2.base_url. A variable that an entry names and that is not set is no error yet:
// resolving that entry is.
func New(c Config) (*Registry, error) {
	if c.Getenv == nil {
		c.Getenv = os.Getenv
	}
	c.APIKey = strings.TrimSpace(c.APIKey)
	r := &Registry{
		byID: map[string]*model.Model{}, missing: map[string]string{}, replay: c.ReplayPaths,
		cassettes: map[string]*opened{},
	}
	if c.Record != "" {
		tape, err := replay.NewTape(c.Record)
		if err != nil {
			return nil, err
		}
		r.tape = tape
	}
	for i, e := range c.Entries {
		at := func(field, format string, args ...any) error {
			return fmt.Errorf("models.%d.%s: %s", i, field, fmt.Sprintf(format, args...))
		}
		if e.ID == "" {
			return nil, at("id", "an id is needed")
		}
		if r.byID[e.ID] != nil {
			return nil, at("id", "%q is there twice", e.ID)
		}
		if strings.HasPrefix(e.ID, ReplayPrefix) {
			return nil, at("id", "ids that begin with %q name cassettes; choose another and set path", ReplayPrefix)
		}
		m, err := r.entry(e, c, at)
		if err != nil {
			return nil, err
		}
		m.Provider = r.recorded(m.Provider)
		r.entries = append(r.entries, m)
		r.byID[e.ID] = m
	}
	if c.APIKey != "" || c.BaseURL != "" {
		p, err := anthropic.New(anthropic.Options{BaseURL: c.BaseURL, APIKey: c.APIKey, HTTPClient: c.HTTPClient})
		if err != nil {
			return nil, fmt.Errorf("model_base_url: %w", err)
		}
		r.fallback = r.recorded(p)
	}
	return r, nil
}

// recorded wraps p where answers are to be recorded.
func (r *Registry) recorded(p model.Provider) model.Provider {
	if r.tape == nil {
		return p
	}
	return r.tape.Wrap(p)
}

// RecordErr returns the first failure to write the recording, or nil.
func (r *Registry) RecordErr() error {
	if r.tape == nil {
		return nil
	}
	return r.tape.Err()
}

// entry makes one entry's model.
func (r *Registry) entry(e Entry, c Config, at func(field, format string, args ...any) error) (*model.Model, error) {
	m := &model.Model{ID: e.ID, Context: e.Context, Display: e.ID}
	key := ""
	if e.APIKeyEnv != "" {
		if key = strings.TrimSpace(c.Getenv(e.APIKeyEnv)); key == "" {
			r.missing[e.ID] = e.APIKeyEnv
		}
	}
	idle := time.Duration(e.IdleTimeoutS) * time.Second
	for _, f := range []struct {
		name string
		n    int64
	}{{"context", e.Context}, {"max_tokens", e.MaxTokens}, {"idle_timeout_s", e.IdleTimeoutS}} {
		if f.n < 0 {
			return nil, at(f.name, "must not be negative")
		}
	}
	if e.Path != "" && e.Provider != Replay {
		return nil, at("path", "only provider replay has a path")
	}
	if e.FileParts && e.Provider != OpenAI {
		return nil, at("file_parts", "only provider openai has it")
	}
	var err error
	switch e.Provider {
	case Anthropic, "":
		describe(m, e.ID)
		if e.APIKeyEnv == "" && e.BaseURL == "" {
			if key = c.APIKey; key == "" {
				r.missing[e.ID] = "ANTHROPIC_API_KEY"
			}
		}
		m.Provider, err = anthropic.New(anthropic.Options{
			BaseURL: e.BaseURL, APIKey: key, MaxTokens: e.MaxTokens, Idle: idle, HTTPClient: c.HTTPClient,
		})
	case OpenAI:
		if e.BaseURL == "" {
			return nil, at("base_url", "provider openai needs the address of its server, as in http://127.0.0.1:8000/v1")
		}
		m.SystemMidway = true
		m.Provider, err = openai.New(openai.Options{
			BaseURL: e.BaseURL, APIKey: key, MaxTokens: e.MaxTokens, FileParts: e.FileParts, Idle: idle, HTTPClient: c.HTTPClient,
		})
	case Replay:
		if e.Path == "" {
			return nil, at("path", "provider replay needs the path of its cassette")
		}
		m.SystemMidway = true
		if m.Provider, err = replay.Load(e.Path); err != nil {
			return nil, at("path", "%v", err)
		}
	case Bedrock, Vertex:
		return nil, at("provider", "%s is not served by this version of Croft; anthropic, openai and replay are", e.Provider)
	default:
		return nil, at("provider", "%q is not known; anthropic, openai and replay are", e.Provider)
	}
	if err != nil {
		return nil, at("base_url", "%v", err)
	}
	if e.Context > 0 {
		m.Context = e.Context
	}
	if e.Price != nil {
		if m.Price, err = e.Price.price(e.Provider, m.Price); err != nil {
			return nil, at("price", "%v", err)
		}
	}
	return m, nil
}

// price fills in what the entry leaves out. known is the model's list price, or nil: its
// surcharges hold for the entry's price too.
func (p *Price) price(provider string, known *model.Price) (*model.Price, error) {
	out := &model.Price{Input: p.Input, Output: p.Output, CacheRead: p.Input, CacheWrite: p.Input}
	if provider == Anthropic || provider == "" {
		out.CacheRead, out.CacheWrite = p.Input*0.1, p.Input*1.25
	}
	if known != nil {
		out.Fast, out.US = known.Fast, known.US
	}
	if p.CacheRead != nil {
		out.CacheRead = *p.CacheRead
	}
	if p.CacheWrite != nil {
		out.CacheWrite = *p.CacheWrite
	}
	for _, v := range []float64{out.Input, out.Output, out.CacheRead, out.CacheWrite} {
		if !(v >= 0 && v <= 1e6) { // NaN fails too
			return nil, fmt.Errorf("prices are in USD for a million tokens, between 0 and 1,000,000")
		}
	}
	return out, nil
}

// describe adds what is known of a Claude model.
func describe(m *model.Model, id string) {
	k, ok := model.FindClaude(id)
	if !ok {
		return
	}
	price := k.Price
	m.Context, m.Price, m.SystemMidway, m.Display, m.CreatedAt = k.Context, &price, k.SystemMidway, k.Display, k.Released
}

// Default returns the id of the first entry, or "" when there are no entries.
func (r *Registry) Default() string {
	if len(r.entries) == 0 {
		return ""
	}
	return r.entries[0].ID
}

// Resolve returns the model of that id. Its errors are *model.Error, not worth trying again,
// and say what to set.
func (r *Registry) Resolve(id string) (*model.Model, error) {
	if m := r.byID[id]; m != nil {
		if name := r.missing[id]; name != "" {
			return nil, refuse("model %q needs an API key: the environment variable %s is not set", id, name)
		}
		return m, nil
	}
	if path, ok := strings.CutPrefix(id, ReplayPrefix); ok {
		return r.cassette(id, path)
	}
	if id == "" {
		return nil, refuse("no model is named")
	}
	if r.fallback == nil {
		msg := fmt.Sprintf("model %q cannot be asked: set ANTHROPIC_API_KEY, or name the model in the section models: of the configuration", id)
		if len(r.entries) > 0 {
			msg += ", where there are " + strings.Join(r.ids(), ", ")
		}
		return nil, &model.Error{Kind: model.RequestFailed, Message: msg}
	}
	m := &model.Model{ID: id, Provider: r.fallback, Display: id}
	describe(m, id)
	if _, known := model.FindClaude(id); !known {
		m.SystemMidway = true // unknown: the server has the last word
	}
	return m, nil
}

// ids lists the entries for a message, the first ten.
func (r *Registry) ids() []string {
	var ids []string
	for _, m := range r.entries {
		if len(ids) == 10 {
			return append(ids, "…")
		}
		ids = append(ids, m.ID)
	}
	return ids
}

// cassette opens the cassette at path, or again when the file has changed, which also makes
// it forget which faults have struck.
func (r *Registry) cassette(id, path string) (*model.Model, error) {
	if !r.replay {
		return nil, refuse("model %q: this server takes no cassettes by path; name the cassette in the section models: of its configuration", id)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, refuse("model %q: %v", id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.cassettes[path]; o != nil && o.mtime.Equal(info.ModTime()) && o.size == info.Size() {
		return o.model, nil
	}
	p, err := replay.Load(path)
	if err != nil {
		return nil, refuse("model %q: %v", id, err)
	}
	if len(r.cassettes) >= maxCassettes {
		for old := range r.cassettes {
			delete(r.cassettes, old)
			break
		}
	}
	m := &model.Model{ID: id, Provider: r.recorded(p), Display: id, SystemMidway: true}
	r.cassettes[path] = &opened{m, info.ModTime(), info.Size()}
	return m, nil
}

// List returns the models that can be named: the entries in their order, and behind them,
// where there is the one provider, the known Claude models, the newest first. Models are
// shared and must not be changed.
func (r *Registry) List() []*model.Model {
	out := slices.Clone(r.entries)
	if r.fallback == nil {
		return out
	}
	for _, k := range model.Claude() {
		if r.byID[k.ID] == nil {
			m := &model.Model{ID: k.ID, Provider: r.fallback}
			describe(m, k.ID)
			out = append(out, m)
		}
	}
	return out
}

func refuse(format string, args ...any) *model.Error {
	return &model.Error{Kind: model.RequestFailed, Message: fmt.Sprintf(format, args...)}
}
