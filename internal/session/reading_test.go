package session_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/model"
	"croft/internal/session"
)

// list pages through a listing and returns the events' ids, '?' behind those that wait.
func (b *bench) list(id string, q session.EventsQuery) []string {
	b.t.Helper()
	var out []string
	for {
		page, err := b.log.Events(b.ctx, ws, id, q)
		if err != nil {
			b.t.Fatal(err)
		}
		if q.Limit > 0 && len(page.Data) > q.Limit {
			b.t.Fatalf("a page of %d, asked for %d", len(page.Data), q.Limit)
		}
		for _, d := range page.Data {
			var e event
			if err := json.Unmarshal(d, &e); err != nil {
				b.t.Fatal(err)
			}
			if e.ProcessedAt == 0 {
				e.ID += "?"
			}
			out = append(out, e.ID)
		}
		if page.NextPage == nil {
			return out
		}
		q.Page = *page.NextPage
	}
}

func TestEventsOrderTypesAndInbox(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		b.mustSend(id, message("one"))
		b.mustSend(id, message("two"), message("three"))
		b.mustSend(id, input(croft.SystemMessage, `,"content":[]`))
		whole := b.list(id, session.EventsQuery{Limit: 1000})
		if n := len(whole); n != 7 || !strings.HasSuffix(whole[n-3], "?") || strings.HasSuffix(whole[n-4], "?") {
			b.t.Fatalf("the list: %v", whole)
		}
		back := slices.Clone(whole)
		slices.Reverse(back)
		typed := []string{whole[0], whole[4], whole[5]}
		for limit := 1; limit <= 8; limit++ {
			for _, c := range []struct {
				q    session.EventsQuery
				want []string
			}{
				{session.EventsQuery{}, whole},
				{session.EventsQuery{Order: "desc"}, back},
				{session.EventsQuery{Types: []croft.EventType{croft.UserMessage}}, typed},
				{session.EventsQuery{Types: []croft.EventType{croft.UserMessage}, Order: "desc"}, []string{typed[2], typed[1], typed[0]}},
				{session.EventsQuery{Types: []croft.EventType{croft.SystemMessage, croft.SessionRunning}}, []string{whole[1], whole[6]}},
				{session.EventsQuery{CreatedGt: 1}, whole[:4]},
			} {
				c.q.Limit = limit
				if diff := cmp.Diff(c.want, b.list(id, c.q)); diff != "" {
					b.t.Errorf("limit %d of %+v: %s", limit, c.q, diff)
				}
			}
		}
		// A place among what waits stays one when the inbox was emptied and filled again.
		q := session.EventsQuery{Limit: 6}
		page, err := b.log.Events(b.ctx, ws, id, q)
		if err != nil || page.NextPage == nil {
			b.t.Fatalf("%+v, %v", page, err)
		}
		b.reply(b.run(), text("a"))
		b.mustSend(id, message("four"))
		q.Page = *page.NextPage
		if got := b.list(id, q); len(got) != 1 || !strings.HasSuffix(got[0], "?") {
			b.t.Errorf("behind the cursor: %v, want the new message", got)
		}
		b.reply(b.run(), text("b"))
		b.reply(b.run(), text("c"))
		b.invariants(id)
	})
}

// What queued behind a turn that failed for good begins the next one.
func TestQueuedBehindAFailedTurn(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		b.mustSend(id, message("one"))
		b.mustSend(id, message("two"))
		r := b.run()
		if err := b.log.Fault(b.ctx, id, r.Fence, session.Fault{Kind: model.RequestFailed, Message: "no"}); err != nil {
			b.t.Fatal(err)
		}
		b.reply(b.run(), text("ok"))
		b.want(id, "u:message running t:running span_start span_end! error t:idle(retries_exhausted) usage idle(retries_exhausted) "+turn)
	})
}

// A message to a session that waits for a person changes nothing but the inbox.
func TestQueuedAtRequiresAction(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		b.mustSend(id, message("go"))
		b.reply(b.run(), use("look", session.VerdictClient))
		const before = "u:message running t:running span_start custom_tool_use span_end t:idle(requires_action) usage idle(requires_action)"
		b.mustSend(id, message("more"))
		b.want(id, before+" u:message?")
		call := b.find(id, croft.AgentCustomToolUse)
		result := input(croft.UserCustomToolResult, `,"custom_tool_use_id":"`+call+`","content":[]`)
		result.ToolUseID = call
		b.mustSend(id, result)
		b.reply(b.run(), text("ok"))
		b.want(id, before+" u:custom_tool_result u:message running t:running span_start message span_end t:idle(end_turn) usage idle(end_turn)")
	})
}

func TestBacklogIsPaged(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		first := b.mustSend(id, input(croft.UserInterrupt, ""))
		var head event
		if err := json.Unmarshal(first[0], &head); err != nil {
			b.t.Fatal(err)
		}
		for range 5 {
			many := make([]session.Input, 100)
			for i := range many {
				many[i] = input(croft.UserInterrupt, "")
			}
			b.mustSend(id, many...)
		}
		tail, err := b.log.Tail(b.ctx, ws, id, session.TailQuery{After: head.ID})
		if err != nil {
			b.t.Fatal(err)
		}
		defer tail.Close()
		var got []string
		pages := 0
		for len(got) < 501 {
			if len(got) == 400 {
				b.mustSend(id, input(croft.UserInterrupt, "")) // while the reader is in the stored log
			}
			frames, err := tail.Next(b.ctx)
			if err != nil {
				b.t.Fatal(err)
			}
			if len(frames) > 200 {
				b.t.Errorf("a page of %d events", len(frames))
			}
			pages++
			for _, f := range frames {
				got = append(got, f.ID)
			}
		}
		if diff := cmp.Diff(b.list(id, session.EventsQuery{Limit: 1000})[1:], got); diff != "" || pages < 3 {
			b.t.Errorf("%d pages; stream and list differ: %s", pages, diff)
		}
	})
}

// Large events come through a tail, live and from the stored log, a few at a time.
func TestLargeEvents(t *testing.T) {
	b := open(t, "sqlite:"+t.TempDir()+"/croft.db")
	defer b.close()
	id := b.create(nil)
	tail, err := b.log.Tail(b.ctx, ws, id, session.TailQuery{})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	first := b.mustSend(id, input(croft.UserInterrupt, ""))
	var head event
	if err := json.Unmarshal(first[0], &head); err != nil {
		t.Fatal(err)
	}
	if _, err := tail.Next(b.ctx); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		b.mustSend(id, input(croft.UserInterrupt, `,"pad":"`+strings.Repeat("x", 9<<20)+`"`))
		frames, err := tail.Next(b.ctx)
		if err != nil || len(frames) != 1 {
			t.Fatalf("a large event came as %d frames, %v", len(frames), err)
		}
	}
	again, err := b.log.Tail(b.ctx, ws, id, session.TailQuery{After: head.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for range 4 {
		frames, err := again.Next(b.ctx)
		if err != nil || len(frames) != 1 {
			t.Fatalf("a page of the stored log holds %d large events, %v", len(frames), err)
		}
	}
}
