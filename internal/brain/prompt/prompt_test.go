package prompt_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/brain/prompt"
	"croft/internal/model"
	"croft/internal/session"
)

// log makes events with sequence numbers from 1.
func log(events ...croft.Event) []croft.Event {
	for i := range events {
		events[i].Seq = int64(i + 1)
	}
	return events
}

func event(typ croft.EventType, payload string) croft.Event {
	return croft.Event{ID: "sevt", Type: typ, Payload: json.RawMessage(payload)}
}

func said(typ croft.EventType, blocks ...string) croft.Event {
	return event(typ, `{"content":[`+strings.Join(blocks, ",")+`]}`)
}

func user(texts ...string) croft.Event {
	for i := range texts {
		texts[i] = text(texts[i])
	}
	return said(croft.UserMessage, texts...)
}

func text(s string) string { return `{"type":"text","text":"` + s + `"}` }

// turn is the assistant's: a block "call X" is a tool use with the model's id X, which
// became the event "e-X".
func turn(blocks ...string) croft.Event {
	raw := session.RawTurn{Content: []json.RawMessage{}, Calls: map[string]string{}}
	for _, b := range blocks {
		if id, ok := strings.CutPrefix(b, "call "); ok {
			raw.Calls[id] = "e-" + id
			b = use(id)
		}
		raw.Content = append(raw.Content, json.RawMessage(b))
	}
	b, err := json.Marshal(raw)
	if err != nil {
		panic(err)
	}
	return croft.Event{ID: "sevt", Type: croft.ModelRequestEnd, Payload: json.RawMessage(`{}`), Raw: b}
}

func use(id string) string {
	return `{"type":"tool_use","id":"` + id + `","name":"bash","input":{}}`
}

func result(typ croft.EventType, id, content string) croft.Event {
	field := map[croft.EventType]string{croft.UserCustomToolResult: "custom_tool_use_id", croft.AgentMCPToolResult: "mcp_tool_use_id"}[typ]
	if field == "" {
		field = "tool_use_id"
	}
	return event(typ, `{"`+field+`":"e-`+id+`","content":[`+content+`],"is_error":false}`)
}

func failed(id, why string) croft.Event {
	return event(croft.AgentToolResult, `{"tool_use_id":"e-`+id+`","content":[`+text(why)+`],"is_error":true}`)
}

func answer(id, content string) string {
	return `{"type":"tool_result","tool_use_id":"` + id + `","content":[` + content + `]}`
}

func refused(id, why string) string {
	return `{"type":"tool_result","tool_use_id":"` + id + `","content":[` + text(why) + `],"is_error":true}`
}

func build(t testing.TB, events []croft.Event) *prompt.Conversation {
	t.Helper()
	c := prompt.New()
	for i := range events {
		if err := c.Add(&events[i]); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// show writes messages a line each.
func show(messages []model.Message) []string {
	out := []string{}
	for _, m := range messages {
		line := m.Role
		for _, b := range m.Content {
			line += " " + string(b)
		}
		out = append(out, line)
	}
	return out
}

const (
	never   = "This call was never answered."
	picture = `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}`
	paper   = `{"type":"document","source":{"type":"text","media_type":"text/plain","data":"x"},"title":"t"}`
	found   = `{"type":"search_result","source":"https://example.com","title":"t","content":[{"type":"text","text":"x"}]}`
	thought = `{"type":"thinking","thinking":"","signature":"c2ln+/="}`
	hidden  = `{"type":"redacted_thinking","data":"eA=="}`
)

func TestConversation(t *testing.T) {
	for name, c := range map[string]struct {
		log  []croft.Event
		want []string
	}{
		"nothing": {nil, []string{}},
		"one turn": {
			log(user("hi"), event(croft.SessionRunning, `{}`), event(croft.ModelRequestStart, `{}`), event(croft.AgentMessage, `{"content":[]}`), turn(text("hello"))),
			[]string{"user " + text("hi"), "assistant " + text("hello")},
		},
		"messages in a row are one turn": {
			log(user("a"), user("b", "c")),
			[]string{"user " + text("a") + " " + text("b") + " " + text("c")},
		},
		"parallel calls, results out of order": {
			log(user("go"), turn(text("so"), "call a", "call b", "call c"), result(croft.AgentToolResult, "c", text("3")), result(croft.AgentToolResult, "a", text("1")), result(croft.AgentToolResult, "b", text("2"))),
			[]string{"user " + text("go"), "assistant " + text("so") + " " + use("a") + " " + use("b") + " " + use("c"),
				"user " + answer("c", text("3")) + " " + answer("a", text("1")) + " " + answer("b", text("2"))},
		},
		"a queued message stands behind the results": {
			log(user("go"), turn("call a"), result(croft.AgentToolResult, "a", text("1")), user("and")),
			[]string{"user " + text("go"), "assistant " + use("a"), "user " + answer("a", text("1")) + " " + text("and")},
		},
		"results go in front of a message that came before them": {
			log(user("go"), turn("call a", "call b"), user("wait"), result(croft.AgentToolResult, "a", text("1")), result(croft.AgentToolResult, "b", text("2"))),
			[]string{"user " + text("go"), "assistant " + use("a") + " " + use("b"), "user " + answer("a", text("1")) + " " + answer("b", text("2")) + " " + text("wait")},
		},
		"interrupt in mid-response": {
			log(user("go"), event(croft.UserInterrupt, `{}`), event(croft.ModelRequestEnd, `{"is_error":true}`), user("no, this")),
			[]string{"user " + text("go") + " " + text("no, this")},
		},
		"interrupt in mid-tools": {
			log(user("go"), turn("call a", "call b"), result(croft.AgentToolResult, "a", text("1")), event(croft.UserInterrupt, `{}`), failed("b", "stopped"), user("no, this")),
			[]string{"user " + text("go"), "assistant " + use("a") + " " + use("b"), "user " + answer("a", text("1")) + " " + refused("b", "stopped") + " " + text("no, this")},
		},
		"custom and MCP tools, self-hosted results": {
			log(user("go"), turn("call a", "call b", "call c"), result(croft.UserCustomToolResult, "a", ""), result(croft.AgentMCPToolResult, "b", text("2")), result(croft.UserToolResult, "c", text("3"))),
			[]string{"user " + text("go"), "assistant " + use("a") + " " + use("b") + " " + use("c"),
				"user " + answer("a", "") + " " + answer("b", text("2")) + " " + answer("c", text("3"))},
		},
		"a denied ask": {
			log(user("go"), turn("call a"), event(croft.UserToolConfirmation, `{"tool_use_id":"e-a","result":"deny"}`), failed("a", "rejected")),
			[]string{"user " + text("go"), "assistant " + use("a"), "user " + refused("a", "rejected")},
		},
		"guidance": {
			log(user("go"), turn("call a"), result(croft.AgentToolResult, "a", text("1")), said(croft.SystemMessage, text("be brief")), turn(text("ok")), said(croft.SystemMessage, text("x")), user("more")),
			[]string{"user " + text("go"), "assistant " + use("a"), "user " + answer("a", text("1")), "system " + text("be brief"), "assistant " + text("ok"), "system " + text("x"), "user " + text("more")},
		},
		"guidance before an answer closes the calls": {
			log(user("go"), turn("call a"), said(croft.SystemMessage, text("x")), result(croft.AgentToolResult, "a", text("late"))),
			[]string{"user " + text("go"), "assistant " + use("a"), "user " + refused("a", never), "system " + text("x")},
		},
		"every kind of content": {
			log(said(croft.UserMessage, picture, paper, found), turn("call a"), result(croft.AgentToolResult, "a", picture+","+paper+","+found)),
			[]string{"user " + picture + " " + paper + " " + found, "assistant " + use("a"), "user " + answer("a", picture+","+paper+","+found)},
		},
		"thinking goes back byte for byte": {
			log(user("go"), turn(thought, hidden, "call a"), result(croft.AgentToolResult, "a", text("1"))),
			[]string{"user " + text("go"), "assistant " + thought + " " + hidden + " " + use("a"), "user " + answer("a", text("1"))},
		},
		"a turn cut in its thinking does not end with it": {
			log(user("go"), turn(text("so"), thought, text(" ")), user("again"), turn(thought, hidden), user("more")),
			[]string{"user " + text("go"), "assistant " + text("so"), "user " + text("again") + " " + text("more")},
		},
		"a refused turn and an empty one are not there": {
			log(user("go"), event(croft.ModelRequestEnd, `{}`), user("b"), turn(), user("c"), turn(text("ok"))),
			[]string{"user " + text("go") + " " + text("b") + " " + text("c"), "assistant " + text("ok")},
		},
		"a paused turn goes on": {
			log(user("go"), turn(text("a")), turn(text("b"))),
			[]string{"user " + text("go"), "assistant " + text("a"), "assistant " + text("b")},
		},
		"calls that nobody answered": {
			log(user("go"), turn("call a", "call b"), result(croft.AgentToolResult, "b", text("2")), turn("call c"), user("x")),
			[]string{"user " + text("go"), "assistant " + use("a") + " " + use("b"), "user " + answer("b", text("2")) + " " + refused("a", never),
				"assistant " + use("c"), "user " + refused("c", never) + " " + text("x")},
		},
		"a second result, and one of no call": {
			log(user("go"), turn("call a"), result(croft.AgentToolResult, "a", text("1")), result(croft.AgentToolResult, "a", text("2")), result(croft.AgentToolResult, "z", text("3"))),
			[]string{"user " + text("go"), "assistant " + use("a"), "user " + answer("a", text("1"))},
		},
		"a message without content": {
			log(event(croft.UserMessage, `{"content":null}`), event(croft.SystemMessage, `{}`), user("go")),
			[]string{"user " + text("go")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			conv := build(t, c.log)
			if diff := cmp.Diff(c.want, show(conv.Messages())); diff != "" {
				t.Error(diff)
			}
			check(t, conv.Messages())
			if want := int64(len(c.log)); conv.Seq() != want {
				t.Errorf("seq %d, want %d", conv.Seq(), want)
			}
		})
	}
}

// A model may name its calls alike in each turn: an old call's late result is not the new one's.
func TestIDsMayComeAgain(t *testing.T) {
	second := turn("call a")
	second.Raw = json.RawMessage(strings.ReplaceAll(string(second.Raw), "e-a", "e-a2"))
	events := log(user("go"), turn("call a"), failed("a", "stopped"), second, result(croft.AgentToolResult, "a", text("late")), result(croft.AgentToolResult, "a2", text("2")))
	want := []string{"user " + text("go"), "assistant " + use("a"), "user " + refused("a", "stopped"), "assistant " + use("a"), "user " + answer("a", text("2"))}
	if diff := cmp.Diff(want, show(build(t, events).Messages())); diff != "" {
		t.Error(diff)
	}
}

// What a request was given does not change when the conversation goes on.
func TestMessagesStay(t *testing.T) {
	c := prompt.New()
	events := log(user("go"), turn("call a", "call b"), user("x"), result(croft.AgentToolResult, "b", text("2")), result(croft.AgentToolResult, "a", text("1")), user("y"), turn(text("ok")))
	var given [][]model.Message
	var shown [][]string
	for i := range events {
		if err := c.Add(&events[i]); err != nil {
			t.Fatal(err)
		}
		given = append(given, c.Messages())
		shown = append(shown, show(c.Messages()))
	}
	for i := range given {
		if diff := cmp.Diff(shown[i], show(given[i])); diff != "" {
			t.Errorf("the request behind event %d changed: %s", i+1, diff)
		}
	}
}

func TestUnreadable(t *testing.T) {
	for name, e := range map[string]croft.Event{
		"message": event(croft.UserMessage, `{"content":"x"}`),
		"system":  event(croft.SystemMessage, `[]`),
		"result":  event(croft.AgentToolResult, `{"tool_use_id":1}`),
		"turn":    {Type: croft.ModelRequestEnd, Raw: json.RawMessage(`{"content":1}`)},
		"block":   {Type: croft.ModelRequestEnd, Raw: json.RawMessage(`{"content":[1]}`)},
	} {
		if err := prompt.New().Add(&e); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// check holds a conversation to what every model demands.
func check(t testing.TB, messages []model.Message) {
	t.Helper()
	type block struct {
		Type      string `json:"type"`
		ID        string `json:"id"`
		ToolUseID string `json:"tool_use_id"`
	}
	read := func(m model.Message) []block {
		out := make([]block, len(m.Content))
		for i, b := range m.Content {
			if err := json.Unmarshal(b, &out[i]); err != nil && m.Role != "user" && m.Role != "system" {
				t.Fatalf("%v in %s", err, b)
			}
		}
		return out
	}
	var open []string // the calls of the assistant's turn right before
	for i, m := range messages {
		if len(m.Content) == 0 {
			t.Fatalf("turn %d (%s) is empty", i, m.Role)
		}
		if i > 0 && m.Role == "user" && messages[i-1].Role == "user" {
			t.Fatalf("turns %d and %d are both the user's", i-1, i)
		}
		if len(open) > 0 && m.Role != "user" {
			t.Fatalf("turn %d (%s) stands where results of %v belong", i, m.Role, open)
		}
		blocks := read(m)
		front := true
		for j, b := range blocks {
			// A client's own content is checked where it is taken in, not here.
			if m.Role != "user" || b.Type != "tool_result" {
				front = false
				continue
			}
			k := slices.Index(open, b.ToolUseID)
			if k < 0 {
				continue
			}
			if !front {
				t.Fatalf("turn %d: result %d stands behind other content", i, j)
			}
			open = slices.Delete(open, k, k+1)
		}
		if len(open) > 0 {
			t.Fatalf("turn %d: no results of %v", i, open)
		}
		open = nil
		if m.Role == "assistant" {
			for _, b := range blocks {
				if b.Type == "tool_use" && !slices.Contains(open, b.ID) {
					open = append(open, b.ID)
				}
			}
		}
	}
	if len(open) > 0 {
		t.Fatalf("the last turn's calls %v have no results", open)
	}
}

// sequence makes a log of bytes: an event a byte, some that no log would hold.
func sequence(script []byte) []croft.Event {
	results := []croft.EventType{croft.AgentToolResult, croft.UserToolResult, croft.UserCustomToolResult, croft.AgentMCPToolResult}
	var events []croft.Event
	for i, b := range script {
		n := int(b >> 4) // which call, or how many blocks
		switch b & 15 {
		case 0:
			events = append(events, user(fmt.Sprint("u", i)))
		case 1:
			events = append(events, user())
		case 2:
			events = append(events, said(croft.SystemMessage, text(fmt.Sprint("s", i))))
		case 3:
			events = append(events, said(croft.SystemMessage))
		case 4, 5, 6: // calls whose ids come again and again
			blocks := []string{}
			for k := range n % 4 {
				blocks = append(blocks, fmt.Sprint("call ", (n+k)%5))
			}
			if b&1 == 0 {
				blocks = append(blocks, thought)
			}
			events = append(events, turn(blocks...))
		case 7:
			events = append(events, turn(text(fmt.Sprint("a", i))))
		case 8: // a call that became no event, and one id twice
			events = append(events, turn(thought, use("x"), use("x"), "call 1"))
		case 9:
			events = append(events, croft.Event{Type: croft.ModelRequestEnd})
		case 10:
			events = append(events, failed(fmt.Sprint(n%5), "no"))
		default:
			events = append(events, result(results[n%4], fmt.Sprint(n%5), text(fmt.Sprint("r", i))))
		}
	}
	return log(events...)
}

// FuzzConversation holds every sequence of events to what models demand, and folding in two
// goes to folding in one.
func FuzzConversation(f *testing.F) {
	f.Add([]byte{0x00, 0x24, 0x2b, 0x3b, 0x00, 0x07}, uint8(3))
	f.Add([]byte{0x00, 0x24, 0x00, 0x2b, 0x02, 0x3b, 0x34, 0x08, 0x1b, 0x09}, uint8(4))
	f.Add([]byte{0x08, 0x01, 0x03, 0x02, 0x02, 0x06, 0x00, 0x0b}, uint8(1))
	f.Fuzz(func(t *testing.T, script []byte, cut uint8) {
		events := sequence(script[:min(len(script), 200)])
		whole := build(t, events)
		check(t, whole.Messages())
		at := min(int(cut), len(events))
		parts := build(t, events[:at])
		early := parts.Messages()
		check(t, early)
		before := show(early)
		for i := range events[at:] {
			if err := parts.Add(&events[at+i]); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(show(whole.Messages()), show(parts.Messages())); diff != "" {
			t.Errorf("in two goes: %s", diff)
		}
		if diff := cmp.Diff(before, show(early)); diff != "" {
			t.Errorf("an earlier request's messages changed: %s", diff)
		}
		if whole.Size() != parts.Size() {
			t.Errorf("sizes %d and %d", whole.Size(), parts.Size())
		}
	})
}

// FuzzAdd gives the fold events with arbitrary bytes: an error, or a conversation that holds.
func FuzzAdd(f *testing.F) {
	f.Add(`{"content":[{"type":"text","text":"x"}]}`, `{"content":[{"type":"tool_use","id":"a"}],"calls":{"a":"e"}}`, `{"tool_use_id":"e","content":"x"}`)
	f.Add(`{"content":null}`, `{"content":[{}]}`, `{"custom_tool_use_id":"e","content":null,"is_error":true}`)
	f.Fuzz(func(t *testing.T, message, raw, result string) {
		c := prompt.New()
		for i, e := range []croft.Event{{Type: croft.UserMessage, Payload: json.RawMessage(message)}, {Type: croft.ModelRequestEnd, Raw: json.RawMessage(raw)}, {Type: croft.AgentToolResult, Payload: json.RawMessage(result)}} {
			e.Seq = int64(i + 1)
			if c.Add(&e) != nil {
				return
			}
		}
		check(t, c.Messages())
	})
}
