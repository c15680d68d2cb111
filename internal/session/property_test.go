package session_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/model"
	"croft/internal/session"
	"croft/internal/store"
	"croft/internal/work"
)

// entry is an event of the log with what the invariants look at.
type entry struct {
	event
	CustomToolUseID string `json:"custom_tool_use_id"`
	StartID         string `json:"model_request_start_id"`
}

// stored reads a session's whole log, past the API, with the row that holds its fold.
func (b *bench) stored(id string) (log []entry, status croft.SessionStatus, open []string) {
	b.t.Helper()
	err := b.db.Read(b.ctx, func(tx *store.Tx) error {
		log, open = nil, nil
		var last int64
		var text string
		if err := tx.QueryRow(`SELECT status, last_seq, state FROM sessions WHERE id = $1`, id).Scan(&status, &last, &text); err != nil {
			return err
		}
		var state struct {
			Threads []struct {
				Calls []struct{ ID string }
			}
			Queued int64
		}
		if err := json.Unmarshal([]byte(text), &state); err != nil {
			return err
		}
		for _, c := range state.Threads[0].Calls {
			open = append(open, c.ID)
		}
		var queued int64
		if err := tx.QueryRow(`SELECT COUNT(*) FROM inbox WHERE session_id = $1`, id).Scan(&queued); err != nil {
			return err
		}
		if queued != state.Queued {
			b.t.Errorf("the inbox holds %d, the fold says %d", queued, state.Queued)
		}
		rows, err := tx.Query(`SELECT seq, payload FROM events WHERE session_id = $1 ORDER BY seq`, id)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var seq int64
			var payload string
			if err := rows.Scan(&seq, &payload); err != nil {
				return err
			}
			var e entry
			if err := json.Unmarshal([]byte(payload), &e); err != nil {
				return fmt.Errorf("%w in %s", err, payload)
			}
			log = append(log, e)
			if seq != int64(len(log)) {
				return fmt.Errorf("event %d has seq %d", len(log), seq)
			}
		}
		if last != int64(len(log)) {
			b.t.Errorf("last_seq is %d after %d events", last, len(log))
		}
		return rows.Err()
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return log, status, open
}

// invariants holds a session's log and fold to what must be true of every one.
func (b *bench) invariants(id string) {
	b.t.Helper()
	log, status, folded := b.stored(id)
	now, reason, span := croft.StatusIdle, "", ""
	ids, uses := map[string]bool{}, map[string]bool{}
	var open []string
	bad := func(i int, format string, args ...any) {
		b.t.Helper()
		from := max(0, i-12)
		var near []croft.EventType
		for _, e := range log[from : i+1] {
			near = append(near, e.Type)
		}
		b.t.Fatalf("event %d: %s; behind %v", i+1, fmt.Sprintf(format, args...), near)
	}
	to := func(i int, next croft.SessionStatus, from ...croft.SessionStatus) {
		b.t.Helper()
		if !slices.Contains(from, now) {
			bad(i, "%s follows %s", next, now)
		}
		now = next
	}
	for i, e := range log {
		if ids[e.ID] {
			bad(i, "its id came before")
		}
		ids[e.ID] = true
		if e.ProcessedAt == 0 {
			bad(i, "it has no time")
		}
		switch e.Type {
		case croft.SessionRunning:
			to(i, croft.StatusRunning, croft.StatusIdle, croft.StatusRescheduling)
		case croft.SessionRescheduled:
			to(i, croft.StatusRescheduling, croft.StatusRunning)
		case croft.SessionTerminated:
			to(i, croft.StatusTerminated, croft.StatusIdle)
		case croft.SessionIdle:
			if now == croft.StatusIdle && reason != croft.StopRequiresAction && reason != croft.StopBudgetReached {
				bad(i, "idle (%s) follows idle (%s)", e.StopReason.Type, reason)
			}
			to(i, croft.StatusIdle, croft.StatusIdle, croft.StatusRunning, croft.StatusRescheduling)
			reason = e.StopReason.Type
			if log[i-1].Type != croft.SessionUsage || log[i-2].Type != croft.ThreadIdle {
				bad(i, "session.usage is not right before it")
			}
			if reason != croft.StopRequiresAction && len(open) > 0 {
				bad(i, "%s with open calls %v", reason, open)
			}
			if reason == croft.StopRequiresAction {
				for _, id := range e.StopReason.EventIDs {
					if !slices.Contains(open, id) {
						bad(i, "it waits for %s, which is not open", id)
					}
				}
				if len(e.StopReason.EventIDs) == 0 {
					bad(i, "it waits for nothing")
				}
			}
			if span != "" {
				bad(i, "idle with an open span")
			}
		case croft.ModelRequestStart:
			if span != "" || len(open) > 0 || now != croft.StatusRunning {
				bad(i, "a request begins in span %q, %s, with open calls %v", span, now, open)
			}
			span = e.ID
		case croft.ModelRequestEnd:
			if e.StartID != span || span == "" {
				bad(i, "it ends %s; open is %q", e.StartID, span)
			}
			span = ""
		case croft.AgentToolUse, croft.AgentCustomToolUse:
			open, uses[e.ID] = append(open, e.ID), true
		case croft.AgentToolResult, croft.UserToolResult, croft.UserCustomToolResult:
			id := e.ToolUseID + e.CustomToolUseID
			k := slices.Index(open, id)
			if k < 0 {
				bad(i, "it answers %s: a call %v, not open", id, uses[id])
			}
			open = slices.Delete(open, k, k+1)
		}
	}
	if now != status {
		b.t.Errorf("the log says %s, the row %s", now, status)
	}
	if diff := cmp.Diff(append([]string{}, open...), append([]string{}, folded...)); diff != "" {
		b.t.Errorf("open calls of the log and of the fold: %s", diff)
	}
}

// expected tells whether err is an answer that a client may get.
func expected(err error) bool {
	return err == nil || errors.Is(err, session.ErrFenced) || croft.IsType(err, croft.InvalidRequest) || croft.IsType(err, croft.Conflict) || croft.IsType(err, croft.Authentication)
}

// player makes random moves on one session.
type player struct {
	*bench
	id   string
	rnd  *rand.Rand
	runs []session.Run // every one that came, the latest last
	n    int
}

func (p *player) anyCall() string {
	log, _, open := p.stored(p.id)
	if len(open) > 0 && p.rnd.IntN(8) > 0 {
		return open[p.rnd.IntN(len(open))]
	}
	if len(log) > 0 {
		return log[p.rnd.IntN(len(log))].ID // mostly no call at all
	}
	return "sevt_none"
}

func (p *player) anyRun() (session.Run, bool) {
	for {
		select {
		case r := <-p.r.runs:
			p.runs = append(p.runs, r)
			continue
		default:
		}
		break
	}
	if len(p.runs) == 0 {
		return session.Run{}, false
	}
	if p.rnd.IntN(6) == 0 {
		return p.runs[p.rnd.IntN(len(p.runs))], true
	}
	return p.runs[len(p.runs)-1], true
}

// item is the session's work item that is not stopped.
func (p *player) item() (id, state string, claim int64) {
	err := p.db.Read(p.ctx, func(tx *store.Tx) error {
		err := tx.QueryRow(`SELECT id, state, claim FROM work WHERE session_id = $1 AND state <> 'stopped'`, p.id).Scan(&id, &state, &claim)
		if errors.Is(err, store.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return id, state, claim
}

func (p *player) randomReply() session.Reply {
	nanos := int64(p.rnd.IntN(3)) * 1e9
	r := session.Reply{StopReason: model.StopEndTurn, Usage: model.Usage{InputTokens: 1}, Nanos: &nanos}
	verdicts := []session.Verdict{session.VerdictAllow, session.VerdictAsk, session.VerdictClient, session.VerdictRefuse}
	for range p.rnd.IntN(4) {
		p.n++
		if p.rnd.IntN(3) == 0 {
			r.Parts = append(r.Parts, text("t"))
			r.Content = append(r.Content, json.RawMessage(`{"type":"text","text":"t"}`))
			continue
		}
		u := use("c"+strconv.Itoa(p.n), verdicts[p.rnd.IntN(len(verdicts))])
		if u.Verdict == session.VerdictRefuse {
			u.Reason = "no"
		}
		r.Parts = append(r.Parts, u)
		r.Content = append(r.Content, json.RawMessage(`{"type":"tool_use","id":"`+u.ToolUseID+`"}`))
		r.StopReason = model.StopToolUse
	}
	if r.StopReason == model.StopEndTurn {
		switch p.rnd.IntN(5) {
		case 0:
			r.StopReason = model.StopPauseTurn
		case 1:
			r.StopReason, r.Content = model.StopRefusal, nil
		}
	}
	return r
}

// step makes one move and returns its name and outcome.
func (p *player) step() (string, error) {
	by := func(name string, actor session.Actor, in ...session.Input) (string, error) {
		actor.Workspace = ws
		_, err := p.log.Send(p.ctx, actor, p.id, in)
		return name, err
	}
	result := func(typ croft.EventType, field string) session.Input {
		call := p.anyCall()
		in := input(typ, `,"`+field+`":"`+call+`","content":[],"is_error":false`)
		in.ToolUseID = call
		return in
	}
	switch p.rnd.IntN(20) {
	case 0, 1, 2:
		return by("message", session.Actor{}, message("m"))
	case 3:
		return by("messages", session.Actor{}, message("m"), message("n"))
	case 4:
		return by("interrupt", session.Actor{}, input(croft.UserInterrupt, ""))
	case 5:
		return by("redirect", session.Actor{}, input(croft.UserInterrupt, ""), message("r"))
	case 6:
		return by("guidance", session.Actor{}, input(croft.SystemMessage, `,"content":[]`))
	case 7, 8:
		return by("confirm", session.Actor{}, confirm(p.anyCall(), p.rnd.IntN(2) == 0))
	case 9, 10:
		return by("custom result", session.Actor{}, result(croft.UserCustomToolResult, "custom_tool_use_id"))
	case 11, 12:
		item, state, claim := p.item()
		if item == "" {
			return "no work", nil
		}
		if state == "queued" {
			_, err := p.q.Ack(p.ctx, ws, env, item, "w"+strconv.Itoa(p.rnd.IntN(2)), "i")
			return "ack", err
		}
		if p.rnd.IntN(5) == 0 {
			claim--
		}
		return by("tool result", session.Actor{WorkID: item, Claim: claim}, result(croft.UserToolResult, "tool_use_id"))
	case 13:
		item, _, _ := p.item()
		if item == "" {
			return "no work", nil
		}
		_, err := p.q.Stop(p.ctx, ws, env, item, p.rnd.IntN(2) == 0)
		return "stop", err
	case 14:
		r, ok := p.anyRun()
		if !ok {
			return "no run", nil
		}
		kind := session.Fault{Kind: model.Overloaded, Message: "x", Retry: p.rnd.IntN(4) > 0, Backoff: time.Microsecond}
		return "fault", p.log.Fault(p.ctx, p.id, r.Fence, kind)
	case 15:
		var budget *croft.Budget
		if p.rnd.IntN(3) > 0 {
			budget = &croft.Budget{Type: "limit", MaxListCost: croft.Money{Amount: strconv.Itoa(100 + p.rnd.IntN(5000)), Currency: "USD"}}
		}
		_, err := p.log.Update(p.ctx, ws, p.id, &session.UpdateInput{Budget: &budget})
		return "budget", err
	default:
		r, ok := p.anyRun()
		if !ok {
			return "no run", nil
		}
		return "reply", p.log.Reply(p.ctx, p.id, r.Fence, p.randomReply())
	}
}

// TestInvariants plays random moves. CROFT_TEST_SEED repeats a run.
func TestInvariants(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("CROFT_TEST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	each(t, func(b *bench) {
		games, moves := 25, 60
		if strings.Contains(b.t.Name(), "postgres") || testing.Short() {
			games = 6
		}
		for g := range games {
			p := &player{bench: b, rnd: rand.New(rand.NewPCG(seed, uint64(g)))}
			in := &session.CreateInput{}
			if g%3 == 0 {
				in.Budget = &croft.Budget{Type: "limit", MaxListCost: croft.Money{Amount: "1500", Currency: "USD"}}
			}
			p.id = b.create(in)
			var moved []string
			for range moves {
				name, err := p.step()
				moved = append(moved, name)
				if !expected(err) {
					b.t.Fatalf("seed %d, game %d: %v got %v", seed, g, moved, err)
				}
			}
			b.invariants(p.id)
			// Whatever happened, an interrupt ends it and a message is answered.
			b.mustSend(p.id, input(croft.UserInterrupt, ""))
			var none *croft.Budget
			if _, err := b.log.Update(b.ctx, ws, p.id, &session.UpdateInput{Budget: &none}); err != nil {
				b.t.Fatalf("seed %d, game %d: %v", seed, g, err)
			}
			for range 20 { // what had queued goes first, where the interrupt let it
				_, status, _ := b.stored(p.id)
				if status == croft.StatusIdle {
					break
				}
				if r, ok := p.anyRun(); ok {
					if err := b.log.Reply(b.ctx, p.id, r.Fence, session.Reply{StopReason: model.StopEndTurn}); !expected(err) {
						b.t.Fatal(err)
					}
				}
			}
			p.runs = nil
			b.mustSend(p.id, message("last"))
			r := b.run()
			for r.Session != p.id || b.log.Reply(b.ctx, p.id, r.Fence, session.Reply{Parts: []session.Part{text("end")}, StopReason: model.StopEndTurn}) != nil {
				r = b.run()
			}
			b.invariants(p.id)
			if _, err := b.log.Archive(b.ctx, ws, p.id); err != nil {
				b.t.Fatalf("seed %d, game %d: archiving: %v", seed, g, err)
			}
			b.invariants(p.id)
			if b.t.Failed() {
				b.t.Fatalf("seed %d, game %d: %v", seed, g, moved)
			}
			for len(b.r.runs) > 0 {
				<-b.r.runs
			}
		}
	})
}

// TestManyHands has twenty clients and a runner change one session at once.
func TestManyHands(t *testing.T) {
	each(t, func(b *bench) {
		id := b.create(nil)
		tails := make([]*session.Tail, 3)
		for i := range tails {
			var err error
			if tails[i], err = b.log.Tail(b.ctx, ws, id, session.TailQuery{}); err != nil {
				b.t.Fatal(err)
			}
			defer tails[i].Close()
		}
		stop := make(chan struct{})
		var runner, hands sync.WaitGroup
		runner.Add(1)
		go func() {
			defer runner.Done()
			p := &player{bench: b, id: id, rnd: rand.New(rand.NewPCG(1, 2))}
			for {
				select {
				case <-stop:
					return
				case r := <-b.r.runs:
					if err := b.log.Reply(b.ctx, id, r.Fence, p.randomReply()); !expected(err) {
						b.t.Error(err)
					}
				}
			}
		}()
		for h := range 20 {
			hands.Add(1)
			go func() {
				defer hands.Done()
				rnd := rand.New(rand.NewPCG(3, uint64(h)))
				for i := range 8 {
					var err error
					switch rnd.IntN(5) {
					case 0, 1:
						_, err = b.send(id, message("m"))
					case 2:
						_, err = b.send(id, input(croft.UserInterrupt, ""))
					case 3:
						title := new(string)
						*title = fmt.Sprint(h, "-", i)
						_, err = b.log.Update(b.ctx, ws, id, &session.UpdateInput{Title: &title})
					case 4:
						_, err = b.log.Events(b.ctx, ws, id, session.EventsQuery{Limit: 50})
						if _, gerr := b.log.Get(b.ctx, ws, id); gerr != nil {
							b.t.Error(gerr)
						}
					}
					if !expected(err) {
						b.t.Error(err)
					}
				}
			}()
		}
		hands.Wait()
		b.mustSend(id, input(croft.UserInterrupt, ""))
		close(stop)
		runner.Wait()
		b.mustSend(id, input(croft.UserInterrupt, ""))
		b.invariants(id)

		var want []string
		q := session.EventsQuery{Limit: 1000}
		page, err := b.log.Events(b.ctx, ws, id, q)
		for ; err == nil; page, err = b.log.Events(b.ctx, ws, id, q) {
			for _, d := range page.Data {
				want = append(want, string(d))
			}
			if page.NextPage == nil {
				break
			}
			q.Page = *page.NextPage
		}
		if err != nil {
			b.t.Fatal(err)
		}
		// An interrupt may have left something queued for a turn that began after it.
		want = slices.DeleteFunc(want, func(s string) bool { return strings.Contains(s, `"processed_at":null`) })
		for _, tail := range tails {
			var got []string
			for len(got) < len(want) {
				frames, err := tail.Next(b.ctx)
				if err != nil {
					b.t.Fatal(err)
				}
				for _, f := range frames {
					got = append(got, string(f.Data))
					if f.Seq != int64(len(got)) {
						b.t.Fatalf("frame %d has seq %d", len(got), f.Seq)
					}
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				b.t.Errorf("a tail and the list differ: %s", diff)
			}
		}
	})
}

var _ work.Sessions = (*session.Log)(nil)
