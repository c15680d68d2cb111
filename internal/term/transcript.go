package term

import (
	"fmt"
	"strings"
	"time"

	"croft"
)

// outputLines is how many lines of a call's output are shown.
const outputLines = 5

// Transcript shows events as lines, in the order in which they come. It is not safe for
// concurrent use; its Screen is.
type Transcript struct {
	s     *Screen
	clean Cleaner
	// Others tells to show what clients sent, too: of a log that was read, or of a
	// session that others write to.
	others bool

	calls   []call // tool uses without their results, oldest first
	apart   bool   // several calls were open at once: their results must say whose they are
	message string // the id of the message whose preview is under way, or empty
	shown   strings.Builder
	block   int
	waiting string // what the status line says while no call is open
}

type call struct {
	id, name, text string
	since          croft.Time
	asked          bool // it waits for a person
}

// NewTranscript makes a Transcript. others tells to show what clients sent, too.
func NewTranscript(s *Screen, others bool) *Transcript {
	return &Transcript{s: s, others: others}
}

// Show shows one event or preview.
func (t *Transcript) Show(e *Event) {
	switch e.Type {
	case croft.EventStart:
		t.previewStart(e)
	case croft.EventDelta:
		t.previewText(e)
	case croft.AgentMessage:
		t.finalText(e)
	case croft.AgentThinking:
		if t.others && t.message == "" { // it comes while the message behind it is shown
			t.s.Line(Part{Dim, "(thinking)"})
		}
	case croft.AgentToolUse, croft.AgentMCPToolUse, croft.AgentCustomToolUse:
		t.use(e)
	case croft.AgentToolResult, croft.AgentMCPToolResult, croft.UserToolResult, croft.UserCustomToolResult:
		t.result(e)
	case croft.UserToolConfirmation:
		t.confirmed(e)
	case croft.ModelRequestStart:
		t.waiting = "waiting for the model"
	case croft.ModelRequestEnd:
		t.endMessage(e.IsError)
		t.waiting = ""
	case croft.UserMessage, croft.SystemMessage:
		t.said(e)
	case croft.UserInterrupt:
		t.s.Line(Part{Yellow, "interrupted"})
	case croft.SessionError:
		t.fault(e)
	case croft.SessionRescheduled:
		t.waiting = "waiting to try again"
	case croft.SessionIdle:
		t.idle(e)
	case croft.SessionTerminated:
		t.waiting = ""
		t.s.Line(Part{Red, "the session has ended for good"})
	case croft.SessionDeleted:
		t.waiting = ""
		t.s.Line(Part{Red, "the session was deleted"})
	case croft.SessionUpdated:
		if t.others {
			t.s.Line(Part{Dim, "(the session was changed)"})
		}
	}
	t.status()
}

// status tells on the status line what is under way.
func (t *Transcript) status() {
	var running []call
	for _, c := range t.calls {
		if !c.asked {
			running = append(running, c)
		}
	}
	switch {
	case t.message != "":
		t.s.Status("")
	case len(running) == 1:
		t.s.Status(running[0].name + "  " + Short(running[0].text, t.s.Width()))
	case len(running) > 1:
		t.s.Status(fmt.Sprintf("%d calls are running: %s …", len(running), running[0].name))
	default:
		t.s.Status(t.waiting)
	}
}

func (t *Transcript) previewStart(e *Event) {
	if e.Preview == nil {
		return
	}
	if e.Preview.Type == croft.AgentThinking {
		t.waiting = "thinking"
	}
}

func (t *Transcript) previewText(e *Event) {
	if e.Delta == nil || e.Delta.Content.Text == "" {
		return
	}
	if t.message != e.PreviewOf {
		t.beginMessage(e.PreviewOf)
	}
	t.text(e.Delta.Index, e.Delta.Content.Text)
}

func (t *Transcript) beginMessage(id string) {
	t.s.FreshLine()
	t.message, t.block, t.clean = id, 0, Cleaner{}
	t.shown.Reset()
}

// text shows a piece of a message; blocks are kept apart by a line's end.
func (t *Transcript) text(block int, text string) {
	if block != t.block {
		t.block = block
		if s := t.shown.String(); s != "" && !strings.HasSuffix(s, "\n") {
			text = "\n" + text
		}
	}
	t.shown.WriteString(text)
	t.s.Text(Plain, t.clean.Clean(text))
}

// finalText shows what the preview has not shown; the stored message is the last word.
func (t *Transcript) finalText(e *Event) {
	if t.message == e.ID {
		shown := t.shown.String()
		full := joined(e.Content)
		if rest, ok := strings.CutPrefix(full, shown); ok {
			t.s.Text(Plain, t.clean.Clean(rest))
			t.endMessage(false)
			return
		}
	}
	t.beginMessage(e.ID)
	t.s.Text(Plain, t.clean.Clean(joined(e.Content)))
	t.endMessage(false)
}

// joined is a message's text as text shows its blocks one after the other.
func joined(content []Block) string {
	var b strings.Builder
	for _, c := range content {
		if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") {
			b.WriteByte('\n')
		}
		b.WriteString(c.Text)
	}
	return b.String()
}

func (t *Transcript) endMessage(cut bool) {
	if t.message == "" {
		return
	}
	t.message = ""
	t.s.FreshLine()
	if cut {
		t.s.Line(Part{Dim, "(the answer was cut off here)"})
	}
}

func (t *Transcript) use(e *Event) {
	c := call{id: e.ID, name: Short(e.Name, 40), text: CallText(e.Name, e.Input), since: e.ProcessedAt, asked: e.Permission == "ask"}
	t.calls = append(t.calls, c)
	t.apart = t.apart || len(t.calls) > 1
	if !t.s.Live() {
		// Nothing can be taken back here: tell now what begins, and at its end how it went.
		t.head(c, "")
	}
}

// head writes the line of a call.
func (t *Transcript) head(c call, took string) {
	width := t.s.Width() - len(c.name) - len(took) - 6
	parts := []Part{{Green, "● "}, {Bold, c.name}, {Plain, "  " + Short(c.text, max(20, width))}}
	if took != "" {
		parts = append(parts, Part{Dim, "  " + took})
	}
	t.s.Line(parts...)
}

func (t *Transcript) result(e *Event) {
	id := e.Answers()
	c, found := call{id: id, name: "a call"}, false
	for i := range t.calls {
		if t.calls[i].id == id {
			c, found = t.calls[i], true
			t.calls = append(t.calls[:i:i], t.calls[i+1:]...)
			break
		}
	}
	took := ""
	if found && c.since != 0 && e.ProcessedAt >= c.since {
		took = Took(e.ProcessedAt.Std().Sub(c.since.Std()))
	}
	switch {
	case t.s.Live():
		t.head(c, took)
	case len(t.calls) > 0 || !found || t.apart:
		// Others are open: say which one this is.
		t.s.Line(Part{Dim, "↳ " + c.name + "  " + Short(c.text, max(20, t.s.Width()-len(c.name)-10))})
	}
	t.apart = t.apart && len(t.calls) > 0
	style := Dim
	if e.IsError {
		style = Red
	}
	t.output(style, e.Content)
	if !t.s.Live() {
		word := "done"
		if e.IsError {
			word = "failed"
		}
		if took != "" {
			word += " in " + took
		}
		t.s.Line(Part{style, "  " + word})
	}
}

// output shows the first lines of a result.
func (t *Transcript) output(style Style, content []Block) {
	var lines []string
	more := 0
	for _, b := range content {
		if b.Type != "text" {
			what := b.Type
			if b.Source != nil && b.Source.MediaType != "" {
				what += " " + b.Source.MediaType
			}
			lines = append(lines, "["+Short(what, 60)+"]")
			continue
		}
		text := strings.TrimRight(b.Text, "\r\n\t ")
		for n := 0; text != "" && n <= outputLines; n++ {
			var line string
			line, text, _ = strings.Cut(text, "\n")
			lines = append(lines, line)
		}
		more += strings.Count(text, "\n")
		if text != "" {
			more++
		}
	}
	if len(lines) > outputLines+1 || (len(lines) == outputLines+1 && more > 0) {
		more += len(lines) - outputLines
		lines = lines[:outputLines]
	}
	width := t.s.Width() - 3
	if !t.s.Live() {
		width = 1000 // nothing is wrapped in a file
	}
	for _, l := range lines {
		t.s.Line(Part{style, "  " + shortLine(l, width)})
	}
	if more > 0 {
		t.s.Line(Part{Dim, "  … " + count(int64(more), "more line")})
	}
}

// shortLine is Short for output, where the blanks that indent a line matter.
func shortLine(line string, width int) string {
	line = strings.ReplaceAll(strings.TrimRight(line, "\r"), "\t", "    ")
	body := strings.TrimLeft(line, " ")
	indent := min(len(line)-len(body), width/2)
	return strings.Repeat(" ", indent) + Short(body, width-indent)
}

func (t *Transcript) confirmed(e *Event) {
	for i := range t.calls {
		if t.calls[i].id == e.ToolUseID {
			t.calls[i].asked = false
			if e.ProcessedAt != 0 {
				t.calls[i].since = e.ProcessedAt
			}
		}
	}
	if !t.others {
		return
	}
	if e.Result == "allow" {
		t.s.Line(Part{Dim, "(allowed)"})
		return
	}
	t.s.Line(Part{Yellow, "denied"}, Part{Dim, "  " + Short(e.DenyMessage, t.s.Width()-10)})
}

func (t *Transcript) said(e *Event) {
	if !t.others {
		return
	}
	who := "> "
	if e.Type == croft.SystemMessage {
		who = "system> "
	}
	for _, b := range e.Content {
		if b.Type != "text" {
			t.s.Line(Part{Bold, who}, Part{Dim, "[" + Short(b.Type, 60) + "]"})
			continue
		}
		for line := range strings.SplitSeq(strings.TrimRight(Clean(b.Text), "\n"), "\n") {
			t.s.Line(Part{Bold, who}, Part{Plain, line})
		}
	}
}

func (t *Transcript) fault(e *Event) {
	if e.Error == nil {
		return
	}
	text := Clean(e.Error.Message)
	if text == "" {
		text = Clean(e.Error.Type)
	}
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", " ")
	switch e.Error.RetryStatus.Type {
	case "retrying":
		t.s.Line(Part{Yellow, "error: "}, Part{Plain, text}, Part{Dim, " (it is tried again)"})
	case "exhausted":
		t.s.Line(Part{Red, "error: "}, Part{Plain, text}, Part{Dim, " (it was tried as often as it may be)"})
	default:
		t.s.Line(Part{Red, "error: "}, Part{Plain, text})
	}
}

// idle ends a turn: what was open is closed, whatever the log says.
func (t *Transcript) idle(e *Event) {
	t.endMessage(false)
	t.waiting = ""
	if e.StopReason == nil {
		return
	}
	switch e.StopReason.Type {
	case croft.StopRequiresAction:
		for i := range t.calls {
			for _, id := range e.StopReason.EventIDs {
				t.calls[i].asked = t.calls[i].asked || t.calls[i].id == id
			}
		}
		if t.others {
			for _, c := range t.calls {
				t.s.Line(Part{Yellow, "waits for an answer: "}, Part{Bold, c.name}, Part{Plain, "  " + Short(c.text, max(20, t.s.Width()-len(c.name)-25))})
			}
		}
		return
	case croft.StopRefusal:
		t.s.Line(Part{Red, "the model refused to go on"})
	case croft.StopBudgetReached:
		t.s.Line(Part{Red, "the session's budget is used up"})
	case croft.StopRetriesExhausted:
		t.s.Line(Part{Red, "the model could not be reached; the turn was given up"})
	}
	t.calls = nil
}

// Call tells the name and the short form of an open tool use.
func (t *Transcript) Call(id string) (name, text string, ok bool) {
	for _, c := range t.calls {
		if c.id == id {
			return c.name, c.text, true
		}
	}
	return "", "", false
}

// Took writes how long something took: 12ms, 3.4s, 2m5s.
func Took(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Truncate(time.Second).String()
}

// Tokens writes what was used, for the end of a run: tokens, running time, cost.
func Tokens(u *croft.Usage) string {
	written := u.CacheCreation.Ephemeral5m + u.CacheCreation.Ephemeral1h
	s := Number(u.InputTokens+u.CacheReadInputTokens+written) + " tokens in"
	if u.CacheReadInputTokens > 0 {
		s += " (" + Number(u.CacheReadInputTokens) + " from the cache)"
	}
	s += ", " + Number(u.OutputTokens) + " out, " + Took(time.Duration(u.ActiveSeconds*float64(time.Second)))
	if c := Cost(u.ListCost); c != "" {
		s += ", " + c
	}
	return s
}

// Cost writes an amount of cents as dollars, or nothing where there is none.
func Cost(m *croft.Money) string {
	if m == nil {
		return ""
	}
	cents := m.Amount
	for len(cents) < 3 {
		cents = "0" + cents
	}
	return "$" + cents[:len(cents)-2] + "." + cents[len(cents)-2:]
}
