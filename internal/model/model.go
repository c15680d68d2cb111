// Package model asks language models. It owns the seam between Croft's loop and whoever
// generates text: a Request in the shape of the Messages API goes in, a stream of deltas
// and one Response come out. It also knows the public Claude models and what they cost. It
// may import the language (package croft) alone.
//
// Each provider lives in a folder of its own: anthropic and openai speak HTTP, over what
// transport holds for both; replay plays cassettes and records them. registry makes the
// providers from the configuration and resolves a model's id; modeltest holds what every
// provider must pass. The loop (internal/brain) is the caller: it resolves the agent's model
// with the registry and calls the provider, once per try, since retrying is the loop's.
package model

import (
	"context"
	"encoding/json"
	"math"
	"time"

	"croft"
)

// Provider generates one assistant turn. It is safe for concurrent use.
type Provider interface {
	// Generate sends req and returns the whole response. While the response comes in, it
	// calls sink, when not nil, from the calling goroutine, in order. It never retries by
	// itself: a fault is an *Error, which says whether trying again may help. When ctx
	// ends, it returns ctx.Err() promptly.
	Generate(ctx context.Context, req *Request, sink func(Delta)) (*Response, error)
}

// Request is one model request in the shape of the Messages API.
type Request struct {
	Model     string
	MaxTokens int64 // 0: the provider's default for the model
	// System is the system prompt's text blocks, in order.
	System   []string
	Messages []Message
	Tools    []Tool
	Effort   string // "", low, medium, high, xhigh, max
	Speed    string // "", standard, fast
	// InferenceGeo is "", us or global.
	InferenceGeo string
	// SessionID tells providers and cassettes whose request this is; it is not sent to a model.
	SessionID string
}

// Message is one turn of the conversation. Role is user, assistant or system (a system
// message in mid-conversation; providers without such a thing refuse it, see SystemMidway).
// Content is blocks of the Messages API: text, image, document, search_result,
// tool_result; and in assistant turns whatever the provider returned, untouched.
type Message struct {
	Role    string            `json:"role"`
	Content []json.RawMessage `json:"content"`
}

// Tool is a tool the model may call. Schema is a JSON Schema object.
type Tool struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Schema      json.RawMessage `json:"input_schema"`
}

// Delta is a piece of the response while it comes in. Index is the content block's place
// in Response.Content. Start opens the block of the given Kind (text, thinking, tool_use);
// Text continues a text block. Thinking and tool input are not previewed.
type Delta struct {
	Index int
	Kind  string
	Start bool
	Text  string
}

// Stop reasons of a response.
const (
	StopEndTurn   = "end_turn"
	StopToolUse   = "tool_use"
	StopMaxTokens = "max_tokens"
	StopSequence  = "stop_sequence"
	StopRefusal   = "refusal"
	StopPauseTurn = "pause_turn"
)

// Response is a whole assistant turn. Content holds the raw blocks (text, thinking with
// its signature, redacted_thinking, tool_use), to be sent back as they are. Every
// tool_use block has a non-empty id, name and an input that is a JSON object; a call that
// was cut in the middle (max_tokens) is left out. StopReason is tool_use exactly when the
// model waits for the results of the tool_use blocks; a response that stopped for
// max_tokens or pause_turn may hold whole ones too, and they need results all the same. A
// refusal holds none.
type Response struct {
	Content     []json.RawMessage
	StopReason  string
	StopDetails json.RawMessage // the refusal's details, or nil
	Usage       Usage
}

// Usage counts the tokens of one request. InputTokens are the uncached ones.
type Usage struct {
	InputTokens, OutputTokens      int64
	CacheReadInputTokens           int64
	CacheCreation5m, CacheCreate1h int64
	Speed                          string // "", standard or fast
	// InferenceGeo is where the model ran, as far as the provider says: "", us, global, …
	InferenceGeo string
}

// ErrorKind is the kind of a fault, named as session.error names it.
type ErrorKind string

// Kinds of faults.
const (
	Overloaded    ErrorKind = "model_overloaded_error"     // 529, 503
	RateLimited   ErrorKind = "model_rate_limited_error"   // 429
	RequestFailed ErrorKind = "model_request_failed_error" // everything else
	BillingError  ErrorKind = "billing_error"              // 402
)

// Error is a fault of a provider.
type Error struct {
	Kind ErrorKind
	// Retry tells whether the same request may succeed later.
	Retry bool
	// RetryAfter is what the provider asked for; 0 when it did not.
	RetryAfter time.Duration
	// Message is fit for the session's owner: no key, no header.
	Message string
	Cause   error
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Price is in USD for a million tokens. CacheWrite is for entries that live five minutes;
// an hour's cost 1.6 times as much.
type Price struct {
	Input      float64 `yaml:"input" json:"input"`
	Output     float64 `yaml:"output" json:"output"`
	CacheRead  float64 `yaml:"cache_read" json:"cache_read"`
	CacheWrite float64 `yaml:"cache_write" json:"cache_write"`
	// Fast multiplies the whole price of a request that ran at speed fast, US of one that
	// ran in the geography us; 0 means no surcharge. They stack.
	Fast float64 `yaml:"-" json:"-"`
	US   float64 `yaml:"-" json:"-"`
}

// Nanos is the cost of u in billionths of a US dollar, to the nearest one.
func (p Price) Nanos(u Usage) int64 {
	perMillion := float64(u.InputTokens)*p.Input + float64(u.OutputTokens)*p.Output +
		float64(u.CacheReadInputTokens)*p.CacheRead +
		float64(u.CacheCreation5m)*p.CacheWrite + float64(u.CacheCreate1h)*p.CacheWrite*1.6
	if u.Speed == "fast" && p.Fast > 0 {
		perMillion *= p.Fast
	}
	if u.InferenceGeo == "us" && p.US > 0 {
		perMillion *= p.US
	}
	return int64(math.Round(perMillion * 1000))
}

// Model is a model as the server's configuration names it.
type Model struct {
	ID       string
	Provider Provider
	// Context is the model's window in tokens; 0 when unknown.
	Context int64
	// Price is nil when none is known: such a session has no list cost.
	Price *Price
	// SystemMidway tells whether the model takes system messages in mid-conversation.
	SystemMidway bool
	// Display is the name for people; CreatedAt is when the model came out, or zero.
	Display   string
	CreatedAt croft.Time
}
