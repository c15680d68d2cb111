package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"croft"
	"croft/internal/client"
	"croft/internal/sandbox"
	"croft/internal/worker/journal"
)

// session is a session of the server's that this worker holds, from the offer until nothing
// is left of it here. Its lock comes after the worker's: no method of the worker is called
// under it.
type session struct {
	w             *Worker
	log           *slog.Logger
	work, env, id string
	ctx           context.Context // ends with the lease
	cancel        context.CancelFunc
	wg            sync.WaitGroup // claim, calls, heartbeats; grows under mu and not while closing
	done          chan struct{}  // closed when its remains are gone

	// These are set by claim before anybody else reads them.
	api       *client.Client // under the lease's token; nil: there is no lease
	journal   *journal.Journal
	noJournal error // why there is none that can be written
	spec      sandbox.Spec
	badSpec   error
	bound     time.Duration // of a call; 0: none
	patience  time.Duration // with a session at rest

	pace client.Backoff // of heartbeats
	date date           // in the worker's agenda

	mu        sync.Mutex
	prev      *session // the same session's earlier time here, whose remains may be in the way
	state     state
	leased    bool // api is set
	ready     bool // claim has ended, and calls are taken
	closing   bool // nothing more is taken
	severed   bool // the sandbox is given up; calls not yet begun are left to others
	waiting   []toolCall
	unwanted  map[string]bool // calls cancelled before ready
	calls     map[string]*call
	lastBash  <-chan struct{} // closed when the latest bash call has left the hand
	restSince time.Time
	again     *frame // an offer that came while the lease was thought to be held

	echo     string    // of the last heartbeat
	until    time.Time // when the lease runs out, for all that is known here
	nextBeat time.Time
	beating  bool

	box    *box
	making *making
}

// state is what is to become of a session; it only grows.
type state int

const (
	held    state = iota
	giving        // to be given back, once its calls are over
	lost          // the lease is over
	deleted       // so is the session
)

// maxCalls bounds the calls of a session that are open at one time.
const maxCalls = 4096

func newSession(w *Worker, f frame, prev *session) *session {
	s := &session{w: w, work: f.WorkID, env: f.EnvironmentID, id: f.SessionID, prev: prev, done: make(chan struct{}),
		log: w.log.With("session", f.SessionID, "work", f.WorkID), calls: map[string]*call{}, echo: noHeartbeat}
	s.date.s = s
	s.ctx, s.cancel = context.WithCancel(w.ctx)
	return s
}

// begin runs f in a goroutine of the session's, unless it is closing. mu is held.
func (s *session) begin(f func()) {
	if s.closing {
		return
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		f()
	}()
}

// claim makes the offer this worker's and learns what is to be done.
func (s *session) claim() {
	defer s.wg.Done()
	if !s.enter(s.w.claiming) {
		s.drop("the worker ends")
		return
	}
	defer func() { <-s.w.claiming }()
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		s.openJournal()
	}()
	defer func() { <-opened }()
	began := time.Now()
	token, err := s.w.ack(s.ctx, s.env, s.work)
	if err != nil {
		s.log.Debug("an offer was not won", "err", err)
		s.drop("the offer was lost")
		if client.Transient(err) {
			s.w.vacate(s)
			s.w.doubt(s)
		}
		return
	}
	s.api = s.w.o.Client.WithToken(token)
	s.mu.Lock()
	s.leased, s.until, s.nextBeat = true, began.Add(s.w.lease()), began
	s.mu.Unlock()
	for p := s.earlier(); p != nil; p = p.earlier() {
		p.drop("the session was given out anew")
	}
	s.w.agenda.sooner(&s.date, began)
	spec, ok := s.learn()
	if !ok {
		return
	}
	<-opened
	if s.journal != nil {
		open := make([]string, len(spec.Calls))
		for i := range spec.Calls {
			open[i] = spec.Calls[i].ID
		}
		if err := s.journal.Adopt(open); err != nil {
			s.noJournal = err
		}
	}
	s.spec, s.badSpec = s.w.sandboxSpec(s.id, &spec.Config)
	s.bound, s.patience = s.w.bounds(&spec.Config)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready, s.restSince, s.prev = true, time.Now(), nil
	if s.state == held {
		for _, c := range append(spec.Calls, s.waiting...) {
			s.startCall(c)
		}
	}
	s.waiting, s.unwanted = nil, nil
	if s.noJournal != nil {
		s.state = max(s.state, giving) // the next claim tries anew
	}
	s.rest()
}

// earlier is the same session's earlier time here, if its remains may not be gone.
func (s *session) earlier() *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.prev
}

// enter takes a place in a semaphore, unless the session ends first.
func (s *session) enter(places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// openJournal opens the journal once the session's earlier time here is over.
func (s *session) openJournal() {
	if prev := s.earlier(); prev != nil {
		select {
		case <-prev.done:
		case <-s.ctx.Done():
			s.noJournal = s.ctx.Err()
			return
		}
	}
	if s.journal, s.noJournal = s.w.folder.Session(s.id); s.noJournal != nil {
		s.journal = nil
		s.log.Error("the journal of calls can't be used: no call will be run", "err", s.noJournal)
	}
}

// learn fetches the specification; it does not give up while the lease lives.
func (s *session) learn() (*workSpec, bool) {
	var pace client.Backoff
	for {
		back := s.w.returned()
		spec, err := s.fetchSpec(s.ctx)
		if err == nil {
			return spec, true
		}
		if s.ctx.Err() == nil && !client.Transient(err) {
			s.log.Warn("the work's specification was refused", "err", err)
			s.drop("the lease was lost before it began")
		}
		if !client.Transient(err) || pace.Wait(s.ctx, err, back) != nil {
			return nil, false
		}
	}
}

// take is told of a call.
func (s *session) take(c toolCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
	case s.ready:
		s.startCall(c)
	case len(s.waiting) < maxCalls:
		s.waiting = append(s.waiting, c)
	}
}

// stopped is told by the server to end.
func (s *session) stopped(reason string) {
	switch reason {
	case "deleted":
		s.end(deleted, "the session was deleted")
	case "lost":
		s.drop("the server has ended the lease")
	default:
		s.retire("the server asks for the end: " + reason)
	}
}

// retire has the session given back once its calls are over.
func (s *session) retire(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == held {
		s.state = giving
		s.log.Debug("giving the session back", "reason", why)
	}
	s.mayClose()
}

// mayClose begins the end of a session that is to be given back and has no calls. mu is held.
func (s *session) mayClose() {
	if s.state == giving && s.ready && len(s.calls) == 0 {
		s.close()
	}
}

// drop ends the session at once: there is no lease any more, or nobody to use it.
func (s *session) drop(why string) { s.end(lost, why) }

func (s *session) end(to state, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state < to {
		s.state = to
		s.log.Debug("the lease is over", "reason", why)
	}
	s.cancel()
	s.close()
}

// sever gives the sandbox up for a drain that has no more time: the calls that run are
// answered as cut off, and the lease lives until that has been posted.
func (s *session) sever() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.severed = true
	if b := s.box; b != nil {
		s.begin(b.destroy)
	}
}

// close begins the end. mu is held.
func (s *session) close() {
	if s.closing {
		return
	}
	s.closing = true
	go s.bury()
}

// bury waits for what runs, gives the item back if there is a lease to give, and removes
// what the session has here. The worker waits for it.
func (s *session) bury() {
	defer s.w.wg.Done()
	s.wg.Wait()
	// The server may fill the place before its answer is here.
	s.w.vacate(s)
	if s.is(giving) {
		s.release()
	}
	s.cancel()
	s.mu.Lock()
	b := s.box
	s.mu.Unlock()
	if b != nil {
		b.destroy()
	}
	if prev := s.earlier(); prev != nil {
		<-prev.done // it ends by itself, or was dropped
	}
	switch {
	case s.is(deleted):
		if s.journal != nil {
			s.journal.Drop()
		}
		ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
		defer cancel()
		if err := s.w.o.Driver.Remove(ctx, s.id); err != nil {
			s.log.Error("the workspace of a deleted session could not be removed", "err", err)
		}
	case s.journal != nil:
		s.journal.Close()
	}
	s.w.buried(s)
	close(s.done)
	s.mu.Lock()
	again := s.again
	s.mu.Unlock()
	if again != nil && !s.is(deleted) {
		s.w.offer(*again)
	}
}

func (s *session) is(x state) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == x
}

// release gives the item back. What stands in the way for longer than the lease lives is
// settled by the lease's end.
func (s *session) release() {
	ctx, cancel := context.WithTimeout(s.ctx, s.w.lease())
	defer cancel()
	var pace client.Backoff
	for {
		back := s.w.returned()
		err := stopWork(ctx, s.api, s.env, s.work)
		if err == nil || !client.Transient(err) || pace.Wait(ctx, err, back) != nil {
			return // an error that is not transient says that it was not ours any more
		}
	}
}

// offeredAgain is told of an offer of the item that is held. The worker's lock is held.
func (s *session) offeredAgain(f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leased {
		return // the ack is on its way
	}
	s.again = &f
	s.begin(func() {
		if _, err := s.lastHeartbeat(s.ctx); err != nil && !client.Transient(err) {
			s.drop("the item is on offer again")
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.state == held {
			s.again = nil // the offer was old
		}
	})
}

// compare has the calls that run compared with those that the server has open, after a
// time without the server's frames. The worker's lock is held.
func (s *session) compare() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready || len(s.calls) == 0 {
		return
	}
	mine := make([]string, 0, len(s.calls))
	for id := range s.calls {
		mine = append(mine, id)
	}
	s.begin(func() {
		if !s.enter(s.w.claiming) {
			return
		}
		defer func() { <-s.w.claiming }()
		spec, err := s.fetchSpec(s.ctx)
		switch {
		case gone(err):
			s.drop("the lease was lost while the server was away")
			return
		case err != nil:
			return // heartbeats and results will tell
		}
		open := map[string]bool{}
		for _, c := range spec.Calls {
			open[c.ID] = true
			s.take(c)
		}
		for _, id := range mine {
			if !open[id] {
				s.cancelCall(id)
			}
		}
	})
}

// rest is called when calls have ended, and perhaps none is left. mu is held.
func (s *session) rest() {
	if len(s.calls) > 0 {
		return
	}
	s.restSince = time.Now()
	s.w.agenda.sooner(&s.date, s.restSince.Add(s.patience))
	s.mayClose()
}

// due is called by the agenda: a heartbeat is due, or the session may have rested for long
// enough.
func (s *session) due() {
	full := s.w.full()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	if s.ready && len(s.calls) == 0 {
		patience := s.patience
		if full {
			patience = min(patience, fullIdle)
		}
		if rested := now.Sub(s.restSince); rested >= patience {
			s.state = max(s.state, giving)
			s.log.Debug("giving the session back", "reason", "it has rested", "for", rested)
			s.mayClose()
			return
		}
		s.w.agenda.sooner(&s.date, s.restSince.Add(patience))
	}
	switch {
	case s.beating: // it will note the next date
	case now.Before(s.nextBeat):
		s.w.agenda.sooner(&s.date, s.nextBeat)
	default:
		s.beating = true
		s.begin(s.beat)
	}
}

// beat extends the lease, or finds that it is lost.
func (s *session) beat() {
	if !s.enter(s.w.beating) {
		return
	}
	defer func() { <-s.w.beating }()
	began, ttl := time.Now(), s.w.lease()
	h, err := s.sendHeartbeat(s.ctx, s.echo, ttl)
	if croft.IsType(err, croft.PreconditionFailed) {
		// An earlier heartbeat may have been taken though its answer was lost. Who can ask
		// under this lease's token still holds it.
		last, asked := s.lastHeartbeat(s.ctx)
		if asked == nil && last != s.echo {
			h, err = s.sendHeartbeat(s.ctx, last, ttl)
		}
	}
	s.mu.Lock()
	until := s.until
	s.mu.Unlock()
	next := began.Add(s.pace.Next(err))
	switch {
	case err == nil:
		s.pace.Reset()
		if given := time.Duration(h.TTLSeconds) * time.Second; given > 0 && given <= maxTTL {
			ttl = given
		}
		s.echo = h.LastHeartbeat
		until, next = began.Add(ttl), began.Add(ttl/3)
		if h.State == "stopping" {
			s.retire("the server asks for the end")
		}
	case s.ctx.Err() != nil:
		return
	case !client.Transient(err):
		s.drop("the lease was lost: " + err.Error())
		return
	case time.Now().After(until):
		// Another worker may have the session by now. Two must not work on it.
		s.log.Warn("the lease ran out before the server could be reached")
		s.drop("the lease ran out")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until, s.nextBeat, s.beating = until, next, false
	s.w.agenda.sooner(&s.date, next)
}
