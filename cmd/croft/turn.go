package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"croft"
	"croft/internal/client"
	"croft/internal/term"
)

// turn is one run's look at a session, up to the end of its turn.
type turn struct {
	h      *host
	c      *connection
	id     string
	json   bool
	mayAsk bool // there is a person at a terminal
	screen *term.Screen
	lines  *term.Transcript

	seen    map[string]bool // events shown, by id
	pending map[string]*term.Event
	mine    string // a message of ours that waits in the session's inbox, or empty
	usage   *croft.Usage
	fault   string // the retry status of the last session.error of this turn
	gone    bool   // the session cannot go on

	interrupted bool
	input       chan string // lines of standard input; nil before the first question
	asked       string      // the tool use that is asked about, or empty
	question    bool        // the last thing on the screen is the question
	blocked     *term.Event // an idle of the past whose answer is still wanted
}

// giveUpAfter is how long a run tries to reach a server that has gone away.
const giveUpAfter = 15 * time.Second

// leaveWithin is how long the server of this process may take to stop when somebody leaves
// in the middle of a turn: long enough to tell the session which calls were cut off.
const leaveWithin = time.Second

// follower reads a session's stream, over interruptions, into a channel.
type follower struct {
	items  chan json.RawMessage
	cut    chan error // an interruption that is being got over
	open   chan struct{}
	failed error // why it ended; read after items is closed
	cancel context.CancelFunc
}

// follow begins to read the session's stream behind the event after, or from now on.
func (t *turn) follow(ctx context.Context, after string) *follower {
	ctx, cancel := context.WithCancel(ctx)
	f := &follower{items: make(chan json.RawMessage), cut: make(chan error, 1), open: make(chan struct{}), cancel: cancel}
	go func() { // stop waits for it
		defer close(f.items)
		f.failed = t.readStream(ctx, f, after)
	}()
	return f
}

// stop ends the reading and waits for its end.
func (f *follower) stop() {
	f.cancel()
	for range f.items { //nolint:revive // what is left is not wanted
	}
}

// opened waits until the stream is open, so that nothing of what follows is missed.
func (f *follower) opened(ctx context.Context) error {
	select {
	case <-f.open:
		return nil
	case _, ok := <-f.items:
		if !ok {
			return f.failed
		}
		return errors.New("the stream brought an event before it was open")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *turn) readStream(ctx context.Context, f *follower, last string) error {
	path := t.path("/events/stream")
	if !t.json {
		path += "?event_deltas[]=agent.message&event_deltas[]=agent.thinking"
	}
	var pace client.Backoff
	var since time.Time // of the first failure
	first := true
	for {
		s, err := t.c.Stream(ctx, path, last)
		if err == nil {
			since = time.Time{}
			pace.Reset()
			if first {
				first = false
				close(f.open)
			} else if last == "" {
				// Nothing with an id was seen before the cut: what is in the log by now
				// may have been missed.
				err = t.catchUp(ctx, f, &last)
			}
			for err == nil {
				frame, ferr := s.Next()
				if ferr == nil {
					ferr = f.give(ctx, json.RawMessage(frame.Data))
				}
				last, err = s.LastID(), ferr
			}
			s.Close() //nolint:errcheck // it was read alone
			if errors.Is(err, io.EOF) && t.isOver(ctx) {
				return nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, io.EOF) && !client.Transient(err):
			return err
		case first:
			return err
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) > giveUpAfter {
			return fmt.Errorf("the server has gone away: %w", err)
		}
		select {
		case f.cut <- err:
		default:
		}
		if err := pace.Wait(ctx, err, nil); err != nil {
			return err
		}
	}
}

// isOver tells, of a stream that the server has ended, whether the session is no more.
func (t *turn) isOver(ctx context.Context) bool {
	_, err := getSession(ctx, t.c, t.id)
	return croft.IsType(err, croft.NotFound)
}

func (f *follower) give(ctx context.Context, raw json.RawMessage) error {
	select {
	case f.items <- raw:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *turn) catchUp(ctx context.Context, f *follower, last *string) error {
	return pages(ctx, t.c, t.path("/events?limit=1000"), func(raw json.RawMessage) error {
		e, err := term.ParseEvent(raw)
		if err != nil || e.ProcessedAt == 0 {
			return err
		}
		*last = e.ID
		return f.give(ctx, raw)
	})
}

// show shows events of the past; none of them ends the turn.
func (t *turn) show(past []json.RawMessage) {
	var idle *term.Event
	for _, raw := range past {
		e, err := t.take(raw)
		if err != nil || e == nil {
			continue
		}
		switch e.Type {
		case croft.SessionIdle:
			idle = e
		case croft.SessionRunning:
			idle = nil
		}
	}
	if idle != nil && idle.StopReason != nil && idle.StopReason.Type == croft.StopRequiresAction {
		t.blocked = idle // watch asks
	}
}

// watch shows what comes until the turn ends, and returns how it ended.
func (t *turn) watch(ctx context.Context, f *follower, signals <-chan os.Signal) error {
	if t.blocked != nil {
		e := t.blocked
		t.blocked = nil
		if over, err := t.ended(e); over {
			return err
		}
	}
	for {
		select {
		case raw, ok := <-f.items:
			if !ok {
				if f.failed == nil {
					t.gone = true
					return errors.New("the session is gone")
				}
				return f.failed
			}
			e, err := t.take(raw)
			if err != nil {
				return err
			}
			if e == nil {
				continue
			}
			if over, err := t.ended(e); over {
				return err
			}
		case err := <-f.cut:
			t.note("The connection was cut, trying again: " + term.Short(err.Error(), 200))
		case line, ok := <-t.input:
			if !ok {
				return t.unanswered()
			}
			if err := t.answer(ctx, line); err != nil {
				return err
			}
		case s := <-signals:
			if s == syscall.SIGTERM || t.interrupted {
				t.c.stop = leaveWithin
				return &exit{code: exitInterrupted}
			}
			t.interrupted = true
			t.endQuestion()
			t.note("Interrupting the turn; Ctrl-C again leaves at once.")
			if err := t.send(ctx, map[string]any{"type": croft.UserInterrupt}); err != nil {
				return &exit{exitInterrupted, fmt.Errorf("the turn could not be interrupted: %w", err)}
			}
		}
	}
}

// take shows one event. It returns nil for one that was shown before.
func (t *turn) take(raw json.RawMessage) (*term.Event, error) {
	e, err := term.ParseEvent(raw)
	if err != nil {
		return nil, err
	}
	if e.ID != "" {
		if t.seen[e.ID] {
			return nil, nil
		}
		t.seen[e.ID] = true
	}
	if t.json {
		if e.ID != "" {
			if _, err := fmt.Fprintf(t.h.stdout, "%s\n", raw); err != nil {
				return nil, fmt.Errorf("writing an event: %w", err)
			}
		}
	} else {
		t.lines.Show(e)
	}
	switch e.Type {
	case croft.AgentToolUse, croft.AgentCustomToolUse, croft.AgentMCPToolUse:
		t.pending[e.ID] = e
	case croft.SessionUsage:
		t.usage = e.Usage
	case croft.SessionError:
		if e.Error != nil {
			t.fault = e.Error.RetryStatus.Type
		}
	case croft.UserMessage:
		if e.ID == t.mine {
			t.mine = ""
		}
	}
	if id := e.Answers(); id != "" {
		if e.Type != croft.UserToolConfirmation {
			delete(t.pending, id)
		}
		if id == t.asked {
			t.asked = "" // somebody answered, perhaps elsewhere
			t.endQuestion()
		}
	}
	return e, nil
}

// ended tells whether an event ends the run, and with what.
func (t *turn) ended(e *term.Event) (over bool, err error) {
	switch e.Type {
	case croft.SessionDeleted:
		t.gone = true
		return true, errors.New("the session was deleted")
	case croft.SessionTerminated:
		t.gone = true
		return true, errors.New("the session has ended for good")
	case croft.SessionIdle:
	default:
		return false, nil
	}
	reason := ""
	if e.StopReason != nil {
		reason = e.StopReason.Type
	}
	switch reason {
	case croft.StopRequiresAction:
		return t.ask(e.StopReason.EventIDs)
	case croft.StopBudgetReached:
		return true, &exit{exitExhausted, errors.New("the session's budget is used up; --session with a larger --budget goes on")}
	case croft.StopRetriesExhausted:
		if t.fault == "terminal" {
			return true, &exit{exitFailure, errors.New("the model request failed; the error is above")}
		}
		return true, &exit{exitExhausted, errors.New("the model could not be reached; the turn was given up")}
	case croft.StopRefusal:
		return true, &exit{exitFailure, errors.New("the model refused to go on")}
	}
	if t.interrupted {
		return true, &exit{code: exitInterrupted}
	}
	return t.mine == "", nil
}

// ask asks about the first of the tool uses that wait. When it is answered, the session
// says again what is left.
func (t *turn) ask(ids []string) (over bool, err error) {
	if len(ids) == 0 || t.asked == ids[0] {
		return false, nil
	}
	id := ids[0]
	use := t.pending[id]
	if use == nil {
		return true, &exit{exitAnswer, fmt.Errorf("session %s waits for the answer to %s, which this run has not seen", t.id, id)}
	}
	name := term.Short(use.Name, 60)
	if use.Type == croft.AgentCustomToolUse || use.Permission != "ask" {
		return true, &exit{exitAnswer, fmt.Errorf("the agent waits for the result of the tool %s (%s), which a client of the API must give: croft run cannot", name, id)}
	}
	if !t.mayAsk {
		return true, &exit{exitAnswer, fmt.Errorf("the agent asks to run %s  %s (%s), and there is no terminal to ask at: answer with croft run --session %s at one",
			name, term.Short(term.CallText(use.Name, use.Input), 200), id, t.id)}
	}
	t.asked = id
	t.put(use)
	return false, nil
}

// put puts the question about a tool use: the whole of it, for who allows it must have
// seen it.
func (t *turn) put(use *term.Event) {
	if t.input == nil {
		t.input = make(chan string)
		go t.readLines() // ends with the process: nothing can wake a blocked read of a terminal
	}
	t.screen.Status("")
	if !t.question {
		t.screen.Line(term.Part{Style: term.Yellow, Text: "? "}, term.Part{Style: term.Bold, Text: term.Short(use.Name, 60)}, term.Part{Text: " is to run:"})
		text := term.CallText(use.Name, use.Input)
		if use.Name != "bash" {
			text = string(use.Input)
		}
		for line := range strings.SplitSeq(strings.TrimRight(term.Clean(text), "\n"), "\n") {
			t.screen.Line(term.Part{Text: "    " + line})
		}
	}
	t.question = true
	t.screen.Text(term.Bold, "Allow it? [y]es, [n]o, or say why not: ")
}

func (t *turn) endQuestion() {
	if t.question {
		t.question = false
		t.screen.FreshLine()
	}
}

// readLines reads standard input line by line, for as long as the process lives.
func (t *turn) readLines() {
	defer close(t.input)
	in := bufio.NewScanner(t.h.stdin)
	in.Buffer(nil, 64<<10)
	for in.Scan() {
		t.input <- in.Text()
	}
}

// answer takes a line that was typed.
func (t *turn) answer(ctx context.Context, line string) error {
	if t.asked == "" {
		return nil // nothing was asked
	}
	t.screen.Typed()
	event := map[string]any{"type": croft.UserToolConfirmation, "tool_use_id": t.asked}
	text := strings.TrimSpace(strings.ToValidUTF8(line, ""))
	switch strings.ToLower(text) {
	case "y", "yes":
		event["result"] = "allow"
	case "n", "no":
		event["result"] = "deny"
	case "":
		t.screen.Text(term.Bold, "Allow it? [y]es, [n]o, or say why not: ")
		return nil
	default:
		event["result"], event["deny_message"] = "deny", text
	}
	t.question, t.asked = false, ""
	err := t.send(ctx, event)
	if croft.IsType(err, croft.InvalidRequest) {
		t.note("It was answered elsewhere meanwhile.")
		return nil
	}
	return err
}

// unanswered ends a run whose standard input has ended while it was asked something.
func (t *turn) unanswered() error {
	t.input = nil
	if t.asked == "" {
		t.mayAsk = false
		return nil
	}
	t.endQuestion()
	return &exit{exitAnswer, fmt.Errorf("no answer was given: the session waits for it")}
}
