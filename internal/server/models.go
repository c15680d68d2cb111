package server

import (
	"croft/internal/api"
	"croft/internal/model"
	"croft/internal/model/registry"
)

// resolver is the registry as the log and the brain ask it.
type resolver struct{ *registry.Registry }

// Model resolves a model's id.
func (r resolver) Model(id string) (*model.Model, error) { return r.Resolve(id) }

// catalogue is the registry as the API lists it.
type catalogue struct{ r *registry.Registry }

// List returns the models that can be named, in the registry's order.
func (c catalogue) List() []api.Model {
	all := c.r.List()
	out := make([]api.Model, 0, len(all))
	for _, m := range all {
		out = append(out, view(m))
	}
	return out
}

// Find returns a listed model by its id, or by an alias of it that the provider knows.
func (c catalogue) Find(id string) (api.Model, bool) {
	known, ok := model.FindClaude(id)
	for _, m := range c.r.List() {
		if m.ID == id || (ok && m.ID == known.ID) {
			return view(m), true
		}
	}
	return api.Model{}, false
}

func view(m *model.Model) api.Model {
	v := api.Model{ID: m.ID, DisplayName: m.Display, CreatedAt: m.CreatedAt, MaxInputTokens: m.Context}
	if k, ok := model.FindClaude(m.ID); ok {
		v.MaxTokens = k.MaxOutput
		v.Supports = []string{"image_input", "pdf_input"}
		if k.Adaptive {
			v.Supports = append(v.Supports, "thinking.types.adaptive", "effort.low", "effort.medium", "effort.high", "effort.xhigh", "effort.max")
		}
	}
	return v
}
