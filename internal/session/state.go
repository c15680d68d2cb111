package session

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"croft"
	"croft/internal/model"
)

// Phase is what a thread waits for.
type Phase string

// The phases; see the package's comment.
const (
	phaseIdle   Phase = "idle"   // for a message
	phaseModel  Phase = "model"  // for a model's reply
	phaseTools  Phase = "tools"  // for calls; while only people or clients can answer them the session is idle
	phaseRetry  Phase = "retry"  // for wake_at
	phasePaused Phase = "paused" // for a larger budget: a request is due
	phaseEnded  Phase = "ended"  // for nothing
)

// callStatus is how far a tool call has come.
type callStatus string

const (
	callAsking   callStatus = "asking"   // a person must allow it
	callApproved callStatus = "approved" // allowed, and held back while others still ask
	callClient   callStatus = "client"   // the client runs it: a custom tool, or a self-hosted worker
	callFleet    callStatus = "fleet"    // Croft's worker runs it
)

// call is an open tool call: one that the log has no result of.
type call struct {
	ID     string          `json:"id"` // of the tool use event
	Type   croft.EventType `json:"t"`
	Name   string          `json:"n"`
	Status callStatus      `json:"s"`
	// Worker is the first worker that the call was given to. Another one must not run it.
	Worker string `json:"w,omitempty"`
}

// blocking tells whether the call waits for a person or a client.
func (c *call) blocking() bool { return c.Status == callAsking || c.Status == callClient }

// thread is the fold of one thread.
type thread struct {
	ID      string `json:"id"`
	Agent   string `json:"agent"` // its name
	Phase   Phase  `json:"phase"`
	Span    string `json:"span,omitempty"`    // the open span.model_request_start
	Attempt int    `json:"attempt,omitempty"` // faults in a row
	Calls   []call `json:"calls,omitempty"`
}

// lease is the session's place in the work queue.
type lease struct {
	ID     string `json:"id"`
	Worker string `json:"worker,omitempty"` // "" while the item is on offer
	Claim  int64  `json:"claim,omitempty"`
	// Lost tells that an earlier claim ended without a result.
	Lost bool `json:"lost,omitempty"`
}

// tokens is the fold of usage.
type tokens struct {
	Input     int64 `json:"in,omitempty"`
	Output    int64 `json:"out,omitempty"`
	CacheRead int64 `json:"cr,omitempty"`
	Cache5m   int64 `json:"c5,omitempty"`
	Cache1h   int64 `json:"c1,omitempty"`
	Nanos     int64 `json:"nanos,omitempty"`    // list cost of model requests, billionths of a dollar
	Unpriced  bool  `json:"unpriced,omitempty"` // some request had no known price
}

// state is the part of the fold that is kept as JSON beside the row's columns.
type state struct {
	Threads   []thread   `json:"threads"` // the primary one first
	Work      *lease     `json:"work,omitempty"`
	Usage     tokens     `json:"usage"`
	ActiveUS  int64      `json:"active_us,omitempty"` // of the running stretches that have ended
	Since     croft.Time `json:"since,omitempty"`     // when the present running stretch began
	Budget    int64      `json:"budget,omitempty"`    // cents; 0: none
	HadBudget bool       `json:"had_budget,omitempty"`
	Queued    int64      `json:"queued,omitempty"`   // inputs in the inbox
	NextPos   int64      `json:"next_pos,omitempty"` // in the inbox
	Config    int64      `json:"config,omitempty"`   // changes of the agent
	CallS     int        `json:"call_s,omitempty"`   // limit of one tool call, seconds
}

// openCall finds an open call by its event's id.
func (s *state) openCall(id string) (*thread, int) {
	for i := range s.Threads {
		for j := range s.Threads[i].Calls {
			if s.Threads[i].Calls[j].ID == id {
				return &s.Threads[i], j
			}
		}
	}
	return nil, -1
}

// hourNanos is the list price of an hour of running time, in billionths of a dollar.
const hourNanos = 80_000_000

// activeUS is the running time up to now, in microseconds.
func (s *state) activeUS(now croft.Time) int64 {
	if s.Since == 0 {
		return s.ActiveUS
	}
	return s.ActiveUS + max(0, int64(now-s.Since))
}

// costNanos is the unrounded list cost up to now.
func (s *state) costNanos(now croft.Time) int64 {
	return s.Usage.Nanos + int64(float64(s.activeUS(now))/3.6e9*hourNanos)
}

const centNanos = 10_000_000

// atCap tells whether the budget is used up.
func (s *state) atCap(now croft.Time) bool {
	return s.Budget > 0 && s.costNanos(now) >= s.Budget*centNanos
}

// add counts one model request.
func (u *tokens) add(m model.Usage, nanos *int64) {
	u.Input += m.InputTokens
	u.Output += m.OutputTokens
	u.CacheRead += m.CacheReadInputTokens
	u.Cache5m += m.CacheCreation5m
	u.Cache1h += m.CacheCreate1h
	if nanos != nil {
		u.Nanos += *nanos
	} else if m.InputTokens+m.OutputTokens > 0 {
		u.Unpriced = true
	}
}

// usage is the wire's view of what was used up to now.
func (s *state) usage(now croft.Time) croft.Usage {
	u := croft.Usage{
		InputTokens: s.Usage.Input, OutputTokens: s.Usage.Output, CacheReadInputTokens: s.Usage.CacheRead,
		CacheCreation: croft.CacheCreation{Ephemeral5m: s.Usage.Cache5m, Ephemeral1h: s.Usage.Cache1h},
		ActiveSeconds: math.Round(float64(s.activeUS(now))/1e3) / 1e3,
	}
	if !s.Usage.Unpriced {
		cents := (s.costNanos(now) + centNanos/2) / centNanos
		u.ListCost = &croft.Money{Amount: strconv.FormatInt(cents, 10), Currency: "USD"}
	}
	return u
}

// budget is the wire's view of the budget, nil when there is none.
func (s *state) budget() *croft.Budget {
	if s.Budget == 0 {
		return nil
	}
	return &croft.Budget{Type: "limit", MaxListCost: croft.Money{Amount: strconv.FormatInt(s.Budget, 10), Currency: "USD"}}
}

func (s *state) encode() (string, error) {
	b, err := json.Marshal(s)
	return string(b), err
}

func decodeState(text string) (*state, error) {
	s := new(state)
	if err := json.Unmarshal([]byte(text), s); err != nil {
		return nil, fmt.Errorf("reading a session's state: %w", err)
	}
	if len(s.Threads) == 0 {
		return nil, fmt.Errorf("reading a session's state: it has no thread")
	}
	return s, nil
}
