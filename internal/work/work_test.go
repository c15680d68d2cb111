package work

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/store"
	"croft/internal/store/storetest"
)

const ws, env = "wrkspc_a", "env_a"

// sessions is a log that knows which sessions have open calls.
type sessions struct {
	mu     sync.Mutex
	open   map[string][]Call
	gaveUp map[string]string
}

func (s *sessions) Claimed(*store.Tx, string, string, string, int64) error { return nil }

func (s *sessions) Released(_ *store.Tx, session, _, giveUp string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open[session]) == 0 {
		return false, nil
	}
	if giveUp != "" {
		s.gaveUp[session] = giveUp
		delete(s.open, session)
		return false, nil
	}
	return true, nil
}

func (s *sessions) Calls(_ context.Context, session, _ string) ([]Call, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[session], nil
}

type bench struct {
	t   *testing.T
	db  *store.DB
	q   *Queue
	s   *sessions
	ctx context.Context
}

func each(t *testing.T, fn func(*bench)) {
	storetest.Each(t, func(t *testing.T, url string) {
		db, err := store.Open(t.Context(), store.Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		b := &bench{t: t, db: db, q: New(db, nil), s: &sessions{open: map[string][]Call{}, gaveUp: map[string]string{}}, ctx: t.Context()}
		b.q.Bind(b.s)
		for _, w := range []string{ws, "wrkspc_b"} {
			b.exec(`INSERT INTO workspaces (id, name, created_at) VALUES ($1, 'test', 1)`, w)
		}
		for _, e := range []string{env, "env_b"} {
			b.exec(`INSERT INTO environments (id, workspace_id, kind, body, created_at, updated_at) VALUES ($1, $2, 'cloud', '{"config":{"type":"cloud"}}', 1, 1)`, e, ws)
		}
		b.q.Start(b.ctx)
		defer b.q.Close()
		fn(b)
	})
}

func (b *bench) exec(text string, args ...any) {
	b.t.Helper()
	err := b.db.Write(b.ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(text, args...)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// add makes a session with an open call, and offers its item.
func (b *bench) add(session string, in ...string) *Item {
	b.t.Helper()
	workspace, environment := ws, env
	if len(in) == 2 {
		workspace, environment = in[0], in[1]
	}
	b.s.mu.Lock()
	b.s.open[session] = []Call{{ID: "call_" + session, Name: "bash", Input: json.RawMessage(`{}`)}}
	b.s.mu.Unlock()
	var item *Item
	err := b.db.Write(b.ctx, func(tx *store.Tx) (err error) {
		if _, err := tx.Exec(`INSERT INTO sessions (id, workspace_id, environment_id, environment_kind, agent_id, agent_version, agent, metadata, status, thread_id, last_seq, epoch, state, created_at, updated_at)
			VALUES ($1, $2, $3, 'cloud', 'a', 1, '{}', '{}', 'running', 't', 0, 0, '{}', 1, 1)`, session, workspace, environment); err != nil {
			return err
		}
		item, err = Insert(tx, workspace, environment, session)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.q.Offer(item)
	return item
}

// settle leaves a session without open calls.
func (b *bench) settle(session string) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	delete(b.s.open, session)
}

func (b *bench) attach(worker, incarnation string, capacity int) *Attachment {
	b.t.Helper()
	return b.attachTo(Attach{Workspace: ws, Worker: worker, Incarnation: incarnation, Capacity: capacity})
}

func (b *bench) attachTo(in Attach) *Attachment {
	b.t.Helper()
	a, err := b.q.Attach(b.ctx, in)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(a.Close)
	frames, err := a.Next(b.ctx)
	if err != nil || frames[0].Type != "hello" || frames[0].HeartbeatS != 30 {
		b.t.Fatalf("an attachment begins with %+v, %v", frames, err)
	}
	a.mu.Lock()
	a.frames = append(frames[1:], a.frames...)
	a.mu.Unlock()
	return a
}

// next waits for the next frame that comes to a.
func (b *bench) next(a *Attachment) Frame {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	frames, err := a.Next(ctx)
	if err != nil {
		b.t.Fatalf("waiting for a frame: %v", err)
	}
	a.mu.Lock()
	a.frames = append(frames[1:], a.frames...)
	a.mu.Unlock()
	return frames[0]
}

func (b *bench) wantFrame(a *Attachment, typ string, i *Item) Frame {
	b.t.Helper()
	f := b.next(a)
	if f.Type != typ || f.WorkID != i.ID || f.SessionID != i.Data.ID {
		b.t.Fatalf("frame %+v, want %s of %s", f, typ, i.Data.ID)
	}
	return f
}

// quiet says that nothing waits for a. Offers are pushed before what makes them returns,
// save those of the expiry, which tick waits for.
func (b *bench) quiet(a *Attachment) {
	b.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.frames) > 0 {
		b.t.Fatalf("frames %+v, want none", a.frames)
	}
}

// tick does at once what the expiry would do in its own time.
func (b *bench) tick() {
	b.t.Helper()
	if _, err := b.q.expireOnce(b.ctx); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) ack(i *Item, worker, incarnation string) *Item {
	b.t.Helper()
	got, err := b.q.Ack(b.ctx, i.workspace, i.EnvironmentID, i.ID, worker, incarnation)
	if err != nil {
		b.t.Fatal(err)
	}
	return got
}

func (b *bench) state(i *Item) string {
	b.t.Helper()
	got, err := b.q.Get(b.ctx, i.workspace, i.EnvironmentID, i.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	return got.State
}

func (b *bench) beat(i *Item, expected string, ttl int) (*Heartbeat, error) {
	return b.q.Heartbeat(b.ctx, ws, env, i.ID, expected, ttl)
}

func (b *bench) wantType(err error, typ croft.ErrorType, what string) {
	b.t.Helper()
	if !croft.IsType(err, typ) {
		b.t.Errorf("%s got %v, want %s", what, err, typ)
	}
}

func secret(t *testing.T, i *Item) string {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(*i.Secret)
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Token string `json:"sessions_token"`
	}
	if err := json.Unmarshal(text, &s); err != nil || !strings.HasPrefix(s.Token, "croft_sess_") {
		t.Fatalf("secret %s, %v", text, err)
	}
	return s.Token
}

func TestHeartbeat(t *testing.T) {
	each(t, func(b *bench) {
		a := b.attach("w", "i", 1)
		i := b.add("sesn_1")
		b.wantFrame(a, "offer", i)
		_, err := b.beat(i, NoHeartbeat, 0)
		b.wantType(err, croft.PreconditionFailed, "a heartbeat of a queued item")
		if got := b.ack(i, "w", "i"); got.State != starting || got.AcknowledgedAt == 0 {
			b.t.Errorf("claimed %+v", got)
		}
		_, err = b.beat(i, "2020-01-01T00:00:00Z", 0)
		b.wantType(err, croft.PreconditionFailed, "a first heartbeat with an echo")
		h, err := b.beat(i, NoHeartbeat, 0)
		if err != nil || h.State != active || h.TTLSeconds != 30 || !h.LeaseExtended || h.LastHeartbeat == "" {
			b.t.Fatalf("heartbeat %+v, %v", h, err)
		}
		_, err = b.beat(i, NoHeartbeat, 0)
		b.wantType(err, croft.PreconditionFailed, "a second first heartbeat")
		for asked, given := range map[int]int{1: 5, 5: 5, 60: 60, 1 << 20: 600} {
			if h, err = b.beat(i, h.LastHeartbeat, asked); err != nil || h.TTLSeconds != given {
				b.t.Fatalf("asked for %d: %+v, %v", asked, h, err)
			}
		}
		for name, try := range map[string][3]string{"workspace": {"wrkspc_b", env, i.ID}, "environment": {ws, "env_b", i.ID}, "item": {ws, env, "work_none"}} {
			_, err := b.q.Heartbeat(b.ctx, try[0], try[1], try[2], h.LastHeartbeat, 0)
			b.wantType(err, croft.NotFound, "a foreign "+name)
			_, err = b.q.Stop(b.ctx, try[0], try[1], try[2], true)
			b.wantType(err, croft.NotFound, "stopping a foreign "+name)
			_, err = b.q.Ack(b.ctx, try[0], try[1], try[2], "w", "i")
			b.wantType(err, croft.NotFound, "claiming a foreign "+name)
		}
		b.exec(`UPDATE work SET lease_until = 1 WHERE id = $1`, i.ID)
		_, err = b.beat(i, h.LastHeartbeat, 0)
		b.wantType(err, croft.PreconditionFailed, "a heartbeat behind the lease's end")
	})
}

func TestAck(t *testing.T) {
	each(t, func(b *bench) {
		i := b.add("sesn_1")
		_, err := b.q.Ack(b.ctx, ws, env, i.ID, "", "i")
		b.wantType(err, croft.InvalidRequest, "a claim of nobody")
		first := secret(b.t, b.ack(i, "w", "i"))
		g, err := b.q.Token(b.ctx, first)
		if err != nil || g.SessionID != "sesn_1" || g.WorkID != i.ID || g.Claim != 1 || g.Workspace != ws || g.EnvironmentID != env {
			b.t.Fatalf("grant %+v, %v", g, err)
		}
		// The answer was lost: the same process asks again, for the same claim.
		second := secret(b.t, b.ack(i, "w", "i"))
		if g, err := b.q.Token(b.ctx, second); err != nil || g.Claim != 1 {
			b.t.Errorf("grant %+v, %v", g, err)
		}
		_, err = b.q.Token(b.ctx, first)
		b.wantType(err, croft.Authentication, "the replaced token")
		for _, who := range [][2]string{{"w", "i2"}, {"v", "i"}} {
			_, err = b.q.Ack(b.ctx, ws, env, i.ID, who[0], who[1])
			b.wantType(err, croft.Conflict, "somebody else's claim")
		}
		if _, err := b.beat(i, NoHeartbeat, 0); err != nil {
			b.t.Fatal(err)
		}
		_, err = b.q.Ack(b.ctx, ws, env, i.ID, "w", "i")
		b.wantType(err, croft.Conflict, "a claim behind the first heartbeat")
		if _, err := b.q.Token(b.ctx, second); err != nil {
			b.t.Errorf("the token behind a heartbeat: %v", err)
		}
		// The token ends with the lease, also where it was read before.
		b.exec(`UPDATE work SET lease_until = 1 WHERE id = $1`, i.ID)
		b.tick()
		_, err = b.q.Token(b.ctx, second)
		b.wantType(err, croft.Authentication, "a token of a lost lease")
		_, err = b.q.Token(b.ctx, "croft_sess_none")
		b.wantType(err, croft.Authentication, "a token that never was")
	})
}

func TestOneClaimWins(t *testing.T) {
	each(t, func(b *bench) {
		i := b.add("sesn_1")
		var done sync.WaitGroup
		won := make(chan string, 8)
		for n := range 8 {
			done.Add(1)
			go func() {
				defer done.Done()
				name := fmt.Sprint("w", n)
				_, err := b.q.Ack(b.ctx, ws, env, i.ID, name, "i")
				if err == nil {
					won <- name
				} else if !croft.IsType(err, croft.Conflict) {
					b.t.Error(err)
				}
			}()
		}
		done.Wait()
		if len(won) != 1 {
			b.t.Errorf("%d claims won", len(won))
		}
	})
}

func TestExpiry(t *testing.T) {
	each(t, func(b *bench) {
		a := b.attach("w", "i", 1)
		i := b.add("sesn_1")
		for n := 1; ; n++ {
			b.wantFrame(a, "offer", i)
			b.ack(i, "w", "i")
			before := croft.Now()
			b.exec(`UPDATE work SET lease_until = 1 WHERE id = $1`, i.ID)
			b.tick()
			if n == maxAttempts {
				break
			}
			got, err := b.q.Get(b.ctx, ws, env, i.ID)
			if err != nil || got.State != queued {
				b.t.Fatalf("behind its lease: %+v, %v", got, err)
			}
			want := min(time.Second<<n, 30*time.Second)
			if got.availableAt < before.Add(want) || got.availableAt > croft.Now().Add(want) {
				b.t.Errorf("loss %d: offered again %v later, want %v", n, got.availableAt.Std().Sub(before.Std()), want)
			}
			b.exec(`UPDATE work SET available_at = $1 WHERE id = $2`, croft.Now().Add(time.Hour), i.ID)
			b.tick()
			b.quiet(a)
			b.exec(`UPDATE work SET available_at = 1 WHERE id = $1`, i.ID)
			b.q.wake() // by its own goroutine this time
		}
		if got := b.state(i); got != stopped || b.s.gaveUp["sesn_1"] == "" {
			b.t.Errorf("behind %d claims without a result: %s, %q", maxAttempts, got, b.s.gaveUp["sesn_1"])
		}
		// A result in between makes the earlier losses count no more.
		i = b.add("sesn_2")
		b.wantFrame(a, "offer", i)
		b.exec(`UPDATE work SET attempts = $1 WHERE id = $2`, maxAttempts-1, i.ID)
		b.ack(i, "w", "i")
		if err := b.db.Write(b.ctx, func(tx *store.Tx) error { return Progress(tx, i.ID) }); err != nil {
			b.t.Fatal(err)
		}
		b.exec(`UPDATE work SET lease_until = 1 WHERE id = $1`, i.ID)
		b.tick()
		if got := b.state(i); got != queued {
			b.t.Errorf("behind a result and a loss: %s", got)
		}
	})
}

func TestUnacknowledgedOffer(t *testing.T) {
	each(t, func(b *bench) {
		a := b.attach("w", "i", 1)
		i := b.add("sesn_1")
		b.wantFrame(a, "offer", i)
		age := func(d time.Duration) {
			b.q.mu.Lock()
			defer b.q.mu.Unlock()
			o := b.q.offered[i.ID]
			o.at = time.Now().Add(-d)
			b.q.offered[i.ID] = o
		}
		age(-time.Hour)
		b.q.Offer(i)
		b.tick()
		b.quiet(a)
		age(reclaimAfter)
		b.tick()
		b.wantFrame(a, "offer", i)
		// A worker that leaves gives its offer back at once.
		other := b.attach("v", "i", 1)
		b.quiet(other)
		a.Close()
		b.wantFrame(other, "offer", i)
		b.ack(i, "v", "i")
		b.tick()
		b.quiet(other)
	})
}

func TestStop(t *testing.T) {
	each(t, func(b *bench) {
		a := b.attach("w", "i", 1)
		i := b.add("sesn_1")
		b.wantFrame(a, "offer", i)
		b.ack(i, "w", "i")
		for range 2 { // asking twice is asking, not taking
			got, err := b.q.Stop(b.ctx, ws, env, i.ID, false)
			if err != nil || got.State != stopping || got.StopRequestedAt == 0 {
				b.t.Fatalf("asked to stop: %+v, %v", got, err)
			}
			if f := b.wantFrame(a, "stop", i); f.Reason != "requested" {
				b.t.Errorf("frame %+v", f)
			}
		}
		if h, err := b.beat(i, NoHeartbeat, 0); err != nil || h.State != stopping {
			b.t.Errorf("heartbeat %+v, %v", h, err)
		}
		// With open calls it goes back to the queue, and to whoever has room.
		got, err := b.q.Stop(b.ctx, ws, env, i.ID, true)
		if err != nil || got.State != queued {
			b.t.Fatalf("given back: %+v, %v", got, err)
		}
		b.wantFrame(a, "offer", i)
		b.ack(i, "w", "i")
		b.settle("sesn_1")
		if got, err = b.q.Stop(b.ctx, ws, env, i.ID, true); err != nil || got.State != stopped || got.StoppedAt == 0 {
			b.t.Fatalf("stopped: %+v, %v", got, err)
		}
		for _, force := range []bool{false, true} {
			_, err = b.q.Stop(b.ctx, ws, env, i.ID, force)
			b.wantType(err, croft.Conflict, "stopping twice")
		}
		b.quiet(a)
		// Nobody holds it: there is nobody to ask.
		b.exec(`UPDATE work SET state = 'stopped'`)
		a.Close()
		j := b.add("sesn_2")
		b.settle("sesn_2")
		if got, err = b.q.Stop(b.ctx, ws, env, j.ID, false); err != nil || got.State != stopped {
			b.t.Errorf("stopping a queued item: %+v, %v", got, err)
		}
	})
}

func TestCapacity(t *testing.T) {
	each(t, func(b *bench) {
		a := b.attach("w", "i", 2)
		var items []*Item
		for n := range 5 {
			items = append(items, b.add(fmt.Sprint("sesn_", n)))
		}
		b.wantFrame(a, "offer", items[0])
		b.wantFrame(a, "offer", items[1])
		b.ack(items[0], "w", "i")
		b.ack(items[0], "w", "i") // once more, for want of an answer
		b.ack(items[1], "w", "i")
		b.tick()
		b.quiet(a)
		// Room comes from a stop, a deleted session, and a lost lease.
		b.settle("sesn_0")
		if _, err := b.q.Stop(b.ctx, ws, env, items[0].ID, true); err != nil {
			b.t.Fatal(err)
		}
		b.wantFrame(a, "offer", items[2])
		b.ack(items[2], "w", "i")
		b.exec(`DELETE FROM work WHERE id = $1`, items[1].ID)
		b.q.Gone(ws, items[1].ID, "sesn_1")
		if f := b.wantFrame(a, "stop", items[1]); f.Reason != "deleted" {
			b.t.Errorf("frame %+v", f)
		}
		b.wantFrame(a, "offer", items[3])
		b.ack(items[3], "w", "i")
		b.tick()
		b.quiet(a)
		b.exec(`UPDATE work SET lease_until = 1 WHERE id = $1`, items[2].ID)
		b.q.wake()
		b.wantFrame(a, "offer", items[4])
		// The worker with the most room is asked first.
		c := b.attach("v", "i", 5)
		b.wantFrame(c, "offer", b.add("sesn_9"))
	})
}

func TestAttachments(t *testing.T) {
	each(t, func(b *bench) {
		for _, id := range []string{"", strings.Repeat("x", 101)} {
			_, err := b.q.Attach(b.ctx, Attach{Workspace: ws, Worker: id})
			b.wantType(err, croft.InvalidRequest, "a worker named "+id)
		}
		old := b.attach("w", "i", 3)
		foreign := b.attachTo(Attach{Workspace: "wrkspc_b", Worker: "w", Incarnation: "i", Capacity: 3})
		i, j := b.add("sesn_1"), b.add("sesn_2")
		b.wantFrame(old, "offer", i)
		b.wantFrame(old, "offer", j)
		b.ack(i, "w", "i")
		b.quiet(foreign)
		b.q.Offer(i) // read before the claim, shown after it
		b.quiet(old)
		// The same process comes back: it is told its open calls, and what waits.
		now := b.attach("w", "i", 3)
		if f := b.wantFrame(now, "call", i); f.Call == nil || f.Call.ID != "call_sesn_1" {
			b.t.Errorf("frame %+v", f)
		}
		b.wantFrame(now, "offer", j)
		if _, err := old.Next(b.ctx); !errors.Is(err, io.EOF) {
			b.t.Errorf("the earlier stream got %v, want its end", err)
		}
		old.Close()
		b.q.Push(i.ID, "sesn_1", Call{ID: "call_2"})
		b.q.Cancel(i.ID, "sesn_1", "call_2")
		b.q.End(i.ID, "sesn_1", "archived")
		if f := b.wantFrame(now, "call", i); f.Call.ID != "call_2" {
			b.t.Errorf("frame %+v", f)
		}
		if f := b.wantFrame(now, "cancel", i); f.CallID != "call_2" {
			b.t.Errorf("frame %+v", f)
		}
		if f := b.wantFrame(now, "stop", i); f.Reason != "archived" {
			b.t.Errorf("frame %+v", f)
		}
		b.quiet(foreign)
		// Another process of the worker ends its leases; the item is on offer again.
		token := secret(b.t, b.ack(j, "w", "i"))
		next := b.attach("w", "i2", 3)
		b.wantFrame(next, "offer", i)
		b.wantFrame(next, "offer", j)
		_, err := b.q.Token(b.ctx, token)
		b.wantType(err, croft.Authentication, "the earlier process's token")
		b.quiet(foreign)
	})
}

func TestEnvironments(t *testing.T) {
	each(t, func(b *bench) {
		one := b.attachTo(Attach{Workspace: ws, EnvironmentID: "env_b", Worker: "w", Incarnation: "i", Capacity: 9})
		foreign := b.attachTo(Attach{Workspace: "wrkspc_b", Worker: "v", Incarnation: "i", Capacity: 9})
		b.add("sesn_1")
		i := b.add("sesn_2", ws, "env_b")
		b.wantFrame(one, "offer", i)
		b.tick()
		b.quiet(one)
		b.quiet(foreign)
		b.q.Gone(ws, "", "sesn_3") // a session without an item: everybody here may have its folder
		if f := b.next(one); f.Type != "stop" || f.SessionID != "sesn_3" || f.Reason != "deleted" {
			b.t.Errorf("frame %+v", f)
		}
		b.quiet(foreign)
	})
}

func TestOverflow(t *testing.T) {
	each(t, func(b *bench) {
		slow := b.attach("slow", "i", 100)
		i := b.add("sesn_1")
		b.ack(i, "slow", "i")
		for range attachFrames {
			b.q.Push(i.ID, "sesn_1", Call{ID: "c"})
		}
		// It is cut off: no offer goes to it any more, for all the room it has.
		other := b.attach("other", "i", 1)
		b.wantFrame(other, "offer", b.add("sesn_2"))
		_, err := slow.Next(b.ctx)
		b.wantType(err, croft.Overloaded, "a reader that was cut off")
		again := b.attach("slow", "i", 100)
		b.wantFrame(again, "call", i)
	})
}

func TestSpec(t *testing.T) {
	each(t, func(b *bench) {
		i := b.add("sesn_1")
		s, err := b.q.Spec(b.ctx, ws, i.ID)
		want := &Spec{Type: "work_spec", WorkID: i.ID, SessionID: "sesn_1", EnvironmentID: env, Config: croft.EnvironmentConfig{Type: "cloud"}, LeaseTTL: 30,
			Calls: []Call{{ID: "call_sesn_1", Name: "bash", Input: json.RawMessage(`{}`)}}}
		if diff := cmp.Diff(want, s); diff != "" || err != nil {
			b.t.Errorf("%v %s", err, diff)
		}
		b.settle("sesn_1")
		if s, err = b.q.Spec(b.ctx, ws, i.ID); err != nil || s.Calls == nil || len(s.Calls) != 0 {
			b.t.Errorf("without calls: %+v, %v", s, err)
		}
		_, err = b.q.Spec(b.ctx, "wrkspc_b", i.ID)
		b.wantType(err, croft.NotFound, "a foreign spec")
	})
}

func TestClose(t *testing.T) {
	each(t, func(b *bench) {
		a := b.attach("w", "i", 1)
		b.q.Close()
		if _, err := a.Next(b.ctx); !errors.Is(err, io.EOF) {
			b.t.Errorf("a stream of a closed queue got %v, want its end", err)
		}
		_, err := b.q.Attach(b.ctx, Attach{Workspace: ws, Worker: "w"})
		b.wantType(err, croft.Overloaded, "attaching to a closed queue")
	})
}
