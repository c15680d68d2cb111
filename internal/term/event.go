package term

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"croft"
)

// Event is an event of a session's log, or a preview of one, as far as a person is shown
// it. Texts are as they came: not cleaned.
type Event struct {
	ID          string          `json:"id"`
	Type        croft.EventType `json:"type"`
	ProcessedAt croft.Time      `json:"processed_at"`
	Content     []Block         `json:"content"`

	// Of tool uses.
	Name       string          `json:"name"`
	Input      json.RawMessage `json:"input"`
	Permission string          `json:"evaluated_permission"`

	// Of what answers them.
	ToolUseID       string `json:"tool_use_id"`
	CustomToolUseID string `json:"custom_tool_use_id"`
	MCPToolUseID    string `json:"mcp_tool_use_id"`
	IsError         bool   `json:"is_error"`
	Result          string `json:"result"` // of a confirmation: allow or deny
	DenyMessage     string `json:"deny_message"`

	StopReason *struct {
		Type     string   `json:"type"`
		EventIDs []string `json:"event_ids"`
	} `json:"stop_reason"`
	Error *struct {
		Type        string      `json:"type"`
		Message     string      `json:"message"`
		RetryStatus croft.Typed `json:"retry_status"`
	} `json:"error"`
	Usage *croft.Usage `json:"usage"`

	// Of previews.
	Preview *struct {
		ID   string          `json:"id"`
		Type croft.EventType `json:"type"`
	} `json:"event"`
	PreviewOf string `json:"event_id"`
	Delta     *struct {
		Index   int   `json:"index"`
		Content Block `json:"content"`
	} `json:"delta"`
}

// Block is a content block of an event.
type Block struct {
	Type   string `json:"type"`
	Text   string `json:"text"`
	Title  string `json:"title"`
	Source *struct {
		MediaType string `json:"media_type"`
	} `json:"source"`
}

// ParseEvent reads an event as the wire carries it. A field of another shape than Event's
// is left out: a newer server may know more kinds.
func ParseEvent(raw json.RawMessage) (*Event, error) {
	e := new(Event)
	var shape *json.UnmarshalTypeError // the rest was read all the same
	if err := json.Unmarshal(raw, e); err != nil && !errors.As(err, &shape) {
		return nil, fmt.Errorf("reading an event: %w", err)
	}
	if e.Type == "" {
		return nil, fmt.Errorf("reading an event: it has no type")
	}
	return e, nil
}

// Answers is the id of the tool use that the event answers, or empty.
func (e *Event) Answers() string {
	switch {
	case e.ToolUseID != "":
		return e.ToolUseID
	case e.CustomToolUseID != "":
		return e.CustomToolUseID
	}
	return e.MCPToolUseID
}

// CallText is the short form of a tool call's input: the command, the path or the pattern,
// else the input itself. It is not cleaned and may be long.
func CallText(name string, input json.RawMessage) string {
	var in struct {
		Command    string `json:"command"`
		Restart    bool   `json:"restart"`
		FilePath   string `json:"file_path"`
		Pattern    string `json:"pattern"`
		Path       string `json:"path"`
		Content    string `json:"content"`
		ViewRange  []int  `json:"view_range"`
		ReplaceAll bool   `json:"replace_all"`
	}
	if err := json.Unmarshal(input, &in); err == nil {
		switch name {
		case "bash":
			if in.Command != "" {
				return in.Command
			}
			if in.Restart {
				return "(restart)"
			}
		case "read":
			if len(in.ViewRange) == 2 {
				return fmt.Sprintf("%s:%d-%d", in.FilePath, in.ViewRange[0], in.ViewRange[1])
			}
			return in.FilePath
		case "write":
			n := strings.Count(strings.TrimSuffix(in.Content, "\n"), "\n") + 1
			if in.Content == "" {
				n = 0
			}
			return fmt.Sprintf("%s (%s)", in.FilePath, count(int64(n), "line"))
		case "edit":
			return in.FilePath
		case "glob", "grep":
			if in.Path != "" {
				return in.Pattern + " in " + in.Path
			}
			return in.Pattern
		}
	}
	text := string(input)
	if text == "{}" || text == "null" {
		return ""
	}
	return text
}

// count writes a number with a noun, in the plural where it must be.
func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Number(n) + " " + noun + "s"
}

// Number writes a count with commas between thousands.
func Number(n int64) string {
	s := fmt.Sprint(n)
	if n < 0 {
		return s
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
