package session

import (
	"encoding/json"

	"croft"
	"croft/internal/agents"
	"croft/internal/wire"
)

// Limits of what one request may hold.
const (
	maxSend          = 1000 // events of one send
	maxInitialEvents = 50
	maxTitle         = 1000 // characters
	maxCents         = 1_000_000_000
)

// Input is one event that a client sends, validated.
type Input struct {
	Type croft.EventType
	// Payload is the object of the accepted fields in canonical form, type first, without
	// id and processed_at.
	Payload json.RawMessage
	// ToolUseID is the tool_use_id, or custom_tool_use_id, of a result or a confirmation.
	ToolUseID   string
	Allow       bool   // of a confirmation
	DenyMessage string // of a denial
	IsError     bool   // of a result
	// Content is the content blocks of a message or a result, as they stand in Payload.
	Content []json.RawMessage
	// ThreadID is the session_thread_id of an interrupt; empty for all threads.
	ThreadID string
}

// CreateInput is the body of a session's creation.
type CreateInput struct {
	Agent         agents.Ref
	EnvironmentID string
	Title         *string
	Metadata      map[string]string
	Budget        *croft.Budget
	Events        []Input // user messages alone
}

// UpdateInput is the body of a session's change. What is nil is not changed.
type UpdateInput struct {
	Title      **string           // to nil: none
	Metadata   map[string]*string // nil deletes a key
	Budget     **croft.Budget     // to nil: none
	Tools      *[]croft.Tool
	MCPServers *[]croft.MCPServer
}

// ParseCreate reads the body of a session's creation. Its errors are 400s with the path of
// what is wrong.
func ParseCreate(body []byte) (*CreateInput, error) {
	d := wire.Parse(body)
	o := d.Root().Object("agent", "environment_id", "title", "metadata", "budget", "initial_events", "resources", "vault_ids", "croft")
	in := &CreateInput{
		Agent:         agents.ParseRef(o.Get("agent")),
		EnvironmentID: o.Get("environment_id").Text(1, maxID),
		Title:         o.Get("title").TextOrNull(maxTitle),
		Metadata:      wire.Metadata(o.Get("metadata")),
		Budget:        readBudget(o.Get("budget")),
	}
	for _, later := range []string{"resources", "vault_ids"} {
		if v := o.Get(later); v.Given() && v.Len(0, 1000) > 0 {
			v.NotServed("")
		}
	}
	wire.Additions(o.Get("croft"))
	if v := o.Get("initial_events"); v.Given() {
		in.Events = readInitial(v)
	}
	if err := d.Err(); err != nil {
		return nil, err
	}
	return in, nil
}

// readInitial reads the events that a session is created with.
func readInitial(v wire.Value) []Input {
	var events []Input
	for _, e := range v.List(0, maxInitialEvents) {
		if !e.AnyObject() {
			return nil
		}
		events = append(events, readEvent(e, readType(e.Get("type"), croft.UserMessage)))
	}
	return events
}

// ParseUpdate reads the body of a session's change. Its errors are 400s with the path of
// what is wrong.
func ParseUpdate(body []byte) (*UpdateInput, error) {
	d := wire.Parse(body)
	o := d.Root().Object("title", "metadata", "budget", "agent", "vault_ids", "croft")
	in := &UpdateInput{Metadata: wire.MetadataPatch(o.Get("metadata"))}
	if v := o.Get("title"); v.Present() {
		title := v.TextOrNull(maxTitle)
		in.Title = &title
	}
	if v := o.Get("budget"); v.Present() {
		budget := readBudget(v)
		in.Budget = &budget
	}
	if v := o.Get("vault_ids"); v.Given() {
		v.Fail("cannot be changed: accepted are vault_ids when a session is created")
	}
	if v := o.Get("agent"); v.Given() {
		a := v.Object("tools", "mcp_servers")
		if t := a.Get("tools"); t.Present() {
			tools := agents.ParseTools(t)
			in.Tools = &tools
		}
		if m := a.Get("mcp_servers"); m.Present() {
			servers := agents.ParseMCPServers(m)
			in.MCPServers = &servers
		}
	}
	wire.Additions(o.Get("croft"))
	if err := d.Err(); err != nil {
		return nil, err
	}
	return in, nil
}

// readBudget reads a budget; nil for null and where there is none.
func readBudget(v wire.Value) *croft.Budget {
	if !v.Given() {
		return nil
	}
	o := v.Object("type", "max_list_cost")
	b := &croft.Budget{Type: o.Get("type").OneOf("limit")}
	m := o.Get("max_list_cost").Object("amount", "currency")
	amount := m.Get("amount")
	b.MaxListCost.Amount = amount.Text(1, -1)
	if !wholeCents(b.MaxListCost.Amount) {
		amount.Fail(`accepted is a whole number of cents from 1 to %d, written as a string of digits without leading zeros ("2500" is $25.00)`, maxCents)
	}
	b.MaxListCost.Currency = m.Get("currency").OneOf("USD")
	return b
}

func wholeCents(s string) bool {
	if s == "" || s[0] == '0' || len(s) > len("1000000000") {
		return false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= maxCents
}
