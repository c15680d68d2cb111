package croft

import "encoding/json"

// EventType is the kind of an event of a session's log.
type EventType string

// Kinds that a client sends.
const (
	UserMessage          EventType = "user.message"
	UserInterrupt        EventType = "user.interrupt"
	UserToolConfirmation EventType = "user.tool_confirmation"
	UserToolResult       EventType = "user.tool_result"
	UserCustomToolResult EventType = "user.custom_tool_result"
	UserDefineOutcome    EventType = "user.define_outcome"
	SystemMessage        EventType = "system.message"
)

// Kinds that the agent emits.
const (
	AgentMessage       EventType = "agent.message"
	AgentThinking      EventType = "agent.thinking"
	AgentToolUse       EventType = "agent.tool_use"
	AgentToolResult    EventType = "agent.tool_result"
	AgentMCPToolUse    EventType = "agent.mcp_tool_use"
	AgentMCPToolResult EventType = "agent.mcp_tool_result"
	AgentCustomToolUse EventType = "agent.custom_tool_use"
)

// Kinds that tell a session's and its threads' state.
const (
	SessionRunning     EventType = "session.status_running"
	SessionIdle        EventType = "session.status_idle"
	SessionRescheduled EventType = "session.status_rescheduled"
	SessionTerminated  EventType = "session.status_terminated"
	SessionDeleted     EventType = "session.deleted"
	SessionUpdated     EventType = "session.updated"
	SessionError       EventType = "session.error"
	SessionUsage       EventType = "session.usage"
	ThreadRunning      EventType = "session.thread_status_running"
	ThreadIdle         EventType = "session.thread_status_idle"
	ThreadRescheduled  EventType = "session.thread_status_rescheduled"
	ThreadTerminated   EventType = "session.thread_status_terminated"
	ModelRequestStart  EventType = "span.model_request_start"
	ModelRequestEnd    EventType = "span.model_request_end"
)

// Kinds of previews: streamed, never stored.
const (
	EventStart EventType = "event_start"
	EventDelta EventType = "event_delta"
)

// Event is one entry of a session's log: an envelope and the payload as the wire carries it.
type Event struct {
	// Seq is the place in the session's log, from 1, without gaps; 0 while the event waits in the inbox.
	Seq         int64
	ID          string
	Type        EventType
	ThreadID    string // the thread whose history it belongs to
	ProcessedAt Time   // zero while it waits in the inbox
	// Payload is the whole JSON object of the wire, id, type and processed_at included.
	Payload json.RawMessage
	// Raw is what the next model request needs and the wire does not show: on a
	// span.model_request_end, the assistant's content blocks (see session.RawTurn). Nil otherwise.
	Raw json.RawMessage
}

// Reasons why a session stopped.
const (
	StopEndTurn          = "end_turn"
	StopRequiresAction   = "requires_action"
	StopRetriesExhausted = "retries_exhausted"
	StopBudgetReached    = "budget_reached"
	StopRefusal          = "refusal"
)
