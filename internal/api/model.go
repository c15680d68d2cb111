package api

import (
	"slices"
	"strings"

	"croft"
)

// Model is a model as GET /v1/models shows it.
type Model struct {
	ID, DisplayName string
	// CreatedAt is when the model came out; zero when unknown.
	CreatedAt croft.Time
	// MaxInputTokens is the context window, MaxTokens the longest answer; 0 when unknown.
	MaxInputTokens, MaxTokens int64
	// Supports names what the model is known to support, as the wire's capabilities do, an
	// inner one behind a dot: "image_input", "effort.high", "thinking.types.adaptive". All
	// else is shown as not supported.
	Supports []string
}

// Models is what the configuration makes of models.
type Models interface {
	// List returns the models in the order in which they are shown.
	List() []Model
	// Find returns the model that an id or alias names.
	Find(id string) (Model, bool)
}

// capabilities are the names that the wire always shows.
var capabilities = []string{
	"batch", "citations", "code_execution", "compaction.summarize",
	"context_management.clear_thinking_20251015", "context_management.clear_tool_uses_20250919", "context_management.compact_20260112",
	"effort.low", "effort.medium", "effort.high", "effort.xhigh", "effort.max",
	"image_input", "pdf_input", "server_tools.code_execution", "server_tools.web_search", "structured_outputs",
	"thinking.types.adaptive", "thinking.types.between_tools", "thinking.types.disabled", "thinking.types.enabled",
}

// capabilityTree shows each capability with its support; an outer one is supported when
// one inside it is.
func capabilityTree(supports []string) map[string]any {
	tree := map[string]any{}
	for _, name := range capabilities {
		yes := slices.Contains(supports, name)
		node := tree
		for part := range strings.SplitSeq(name, ".") {
			next, ok := node[part].(map[string]any)
			if !ok {
				next = map[string]any{"supported": false}
				if part == "types" {
					next = map[string]any{} // a level without support of its own
				}
				node[part] = next
			}
			if yes && part != "types" {
				next["supported"] = true
			}
			node = next
		}
	}
	return tree
}

// modelView is the wire form of a model.
type modelView struct {
	ID                    string         `json:"id"`
	Type                  string         `json:"type"`
	DisplayName           string         `json:"display_name"`
	CreatedAt             string         `json:"created_at"`
	Lifecycle             string         `json:"lifecycle"`
	DeprecatedAt          *string        `json:"deprecated_at"`
	RetiresAt             *string        `json:"retires_at"`
	Line                  *string        `json:"line"`
	MaxInputTokens        int64          `json:"max_input_tokens"`
	MaxTokens             int64          `json:"max_tokens"`
	AllowedFallbackModels []string       `json:"allowed_fallback_models"`
	Capabilities          map[string]any `json:"capabilities"`
}

func viewModel(m Model) modelView {
	name := m.DisplayName
	if name == "" {
		name = m.ID
	}
	return modelView{ID: m.ID, Type: "model", DisplayName: name, CreatedAt: m.CreatedAt.String(), // zero is the epoch, as the SDK has it for an unknown date
		Lifecycle: "active", MaxInputTokens: m.MaxInputTokens, MaxTokens: m.MaxTokens, AllowedFallbackModels: []string{}, Capabilities: capabilityTree(m.Supports)}
}

func (a *API) getModel(c *call) error {
	id := c.param("model_id")
	m, ok := a.models.Find(id)
	if !ok {
		return croft.Missing("model", id)
	}
	return c.reply(viewModel(m))
}

// listModels pages in the older style: by the ids of models, in both directions.
func (a *API) listModels(c *call) error {
	q := &c.query
	after, before := q.text("after_id"), q.text("before_id")
	stages := q.list("lifecycle", 3, "active", "deprecated", "retired")
	limit := q.limit(1000)
	if limit == 0 {
		limit = 20
	}
	all := a.models.List()
	if len(stages) > 0 && !slices.Contains(stages, "active") {
		all = nil // every model that is configured is active
	}
	place := func(param, id string) int {
		i := slices.IndexFunc(all, func(m Model) bool { return m.ID == id })
		if i < 0 {
			q.bad(param, "%q is no model of this list", id)
		}
		return i
	}
	from, to := 0, len(all)
	more := false
	switch {
	case after != "" && before != "":
		q.bad("before_id", "accepted is one of after_id and before_id")
	case before != "":
		to = max(place("before_id", before), 0)
		from = max(to-limit, 0)
		more = from > 0
	default:
		if after != "" {
			from = place("after_id", after) + 1
		}
		to = min(from+limit, len(all))
		more = to < len(all)
	}
	if err := q.err(); err != nil {
		return err
	}
	page := struct {
		Data    []modelView `json:"data"`
		HasMore bool        `json:"has_more"`
		FirstID *string     `json:"first_id"`
		LastID  *string     `json:"last_id"`
	}{Data: []modelView{}, HasMore: more}
	for _, m := range all[from:to] {
		page.Data = append(page.Data, viewModel(m))
	}
	if n := len(page.Data); n > 0 {
		page.FirstID, page.LastID = &page.Data[0].ID, &page.Data[n-1].ID
	}
	return c.reply(page)
}
