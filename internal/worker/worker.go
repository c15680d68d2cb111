// Package worker is the execution plane: it takes sessions that have something to run from
// a server's queue, gives each a sandbox, and answers their tool calls. It knows the server
// by its API alone, so that it may run on somebody else's machine: it imports the language,
// the client, the hand's client, the seam to sandboxes, and package journal.
//
// # Who it is
//
// A worker has a folder (package journal) that holds its id for good; each process is an
// incarnation of it. The server remembers which worker a call was given to first, and
// nobody but that worker may run it: its journal tells whether the call was begun.
//
// # A session's way through
//
//	offer ──► ack ──► specification ──► serving ──► idle for long ──► given back
//	           │            │              │
//	          lost        journal     call ─► journal "begun" ─► hand ─► journal "kept" ─► posted ─► "done"
//
// One stream of offers brings everything that the server has to say: offers, calls,
// cancels, stops. Frames are only looked at in the stream's goroutine; what takes time has
// a goroutine of its own, which belongs to the session, which belongs to the worker. A
// session that rests has none.
//
// # What it promises
//
// A call is never run twice: not after a repeated frame (a call is known by its id), not
// after a crash (the journal), not after a lost lease (the journal again). One that was
// begun and has no result is answered as cut off. A result is kept until the server has it,
// and sent again under the next lease when this one is lost. The folder of a session's
// workspace is kept by the driver until the session is deleted.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"croft"
	"croft/internal/client"
	"croft/internal/sandbox"
	"croft/internal/worker/journal"
)

// Defaults and bounds of a worker.
const (
	defaultCapacity = 1024
	defaultIdle     = 10 * time.Minute
	defaultTTL      = 30 * time.Second
	// maxMaking is how many sandboxes are made at once, maxClaiming how many sessions are
	// claimed or looked over at once, maxBeating how many heartbeats are on their way.
	maxMaking   = 8
	maxClaiming = 32
	maxBeating  = 32
	// fullIdle is how long a session may rest while every place is taken.
	fullIdle = 10 * time.Second
	// drainGrace is what a drain takes beyond its context to answer what it cut off.
	drainGrace = 5 * time.Second
	// maxDoubts bounds the claims whose outcome is unknown.
	maxDoubts = 4096
)

// Options are what a Worker is made of.
type Options struct {
	// Client speaks to the server under a fleet key, or an environment's key.
	Client *client.Client
	Driver sandbox.Driver
	// Data is the folder of this worker alone; it is made where it is missing.
	Data string
	// Capacity is how many sessions are held at once; 0: 1024.
	Capacity int
	Ceiling  Ceiling
	// CallTimeout is the most that a call may take in environments that don't say; 0: no
	// bound but the tool's own.
	CallTimeout time.Duration
	// IdleTimeout is how long a session without calls keeps its sandbox in environments
	// that don't say; 0: 10 minutes. When every place is taken, 10 s are enough.
	IdleTimeout time.Duration
	Log         *slog.Logger // nil: nothing is logged
}

// Worker serves sessions. Run it once.
type Worker struct {
	o           Options
	log         *slog.Logger
	folder      *journal.Folder
	incarnation string
	agenda      *agenda
	hangGrace   time.Duration

	making, claiming, beating chan struct{} // semaphores

	ctx    context.Context // ends when Run does
	cancel context.CancelFunc
	wg     sync.WaitGroup // everything that runs for the worker

	mu       sync.Mutex
	ended    bool                  // nothing may be started any more
	all      map[*session]struct{} // whose remains are not gone yet
	works    map[string]*session   // those of them that take a place, by work id
	last     map[string]*session   // the latest of them, by session id
	doubts   map[string]string     // work ids, with their environment's, whose ack had no answer
	draining bool
	drained  chan struct{}      // closed when draining and nothing is left of any session
	back     chan struct{}      // closed, and replaced, when the server is there again
	cut      context.CancelFunc // ends the present connection; nil: there is none
	ttl      time.Duration

	settled recent // calls that are over
}

// New takes the worker's folder. It fails when another process holds it. Run gives it back,
// or Close, where Run is never called.
func New(o Options) (*Worker, error) {
	if o.Client == nil || o.Driver == nil {
		return nil, errors.New("a worker needs a client and a driver")
	}
	if o.Capacity <= 0 {
		o.Capacity = defaultCapacity
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = defaultIdle
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	incarnation := croft.NewID("inc")
	f, err := journal.Open(o.Data, incarnation)
	if err != nil {
		return nil, err
	}
	w := &Worker{o: o, log: o.Log.With("worker", f.ID()), folder: f, incarnation: incarnation, agenda: newAgenda(), hangGrace: hangGrace,
		making: make(chan struct{}, maxMaking), claiming: make(chan struct{}, maxClaiming), beating: make(chan struct{}, maxBeating),
		all: map[*session]struct{}{}, works: map[string]*session{}, last: map[string]*session{}, doubts: map[string]string{},
		drained: make(chan struct{}), back: make(chan struct{}), ttl: defaultTTL}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w, nil
}

// ID is the worker's id, which it keeps for good.
func (w *Worker) ID() string { return w.folder.ID() }

// Close gives the folder back. It is for a worker that is not run.
func (w *Worker) Close() {
	w.cancel()
	w.folder.Close()
}

// Run serves until ctx ends or Drain has finished, and returns when every sandbox is gone
// and everything it started has ended. When ctx ends without a drain, running calls are cut
// off, and the next process of this worker says so. The error is nil then; it is not when
// the server refuses the worker from the first (a wrong key, no such route).
func (w *Worker) Run(ctx context.Context) error {
	defer w.folder.Close()
	defer context.AfterFunc(ctx, w.cancel)()
	// What an earlier process left running must be dead before its calls are answered.
	if swept, err := w.o.Driver.Sweep(w.ctx); err != nil {
		w.log.Error("what an earlier worker left could not be removed", "err", err)
	} else if len(swept) > 0 {
		w.log.Info("removed the sandboxes of an earlier worker", "count", len(swept))
	}
	w.wg.Go(func() { w.agenda.run(w.ctx, (*session).due) })
	err := w.listen()
	w.mu.Lock()
	w.ended = true
	for s := range w.all {
		s.drop("the worker ends")
	}
	w.mu.Unlock()
	w.cancel()
	w.wg.Wait()
	return err
}

// Drain ends the worker in order: no new sessions are taken, running calls end, their
// results are posted, sessions are given back and their sandboxes destroyed; then Run
// returns. When ctx ends first, the calls that still run are cut off and answered so, which
// takes a few seconds more, and ctx's error is returned.
func (w *Worker) Drain(ctx context.Context) error {
	w.mu.Lock()
	first := !w.draining
	w.draining = true
	if first && len(w.all) == 0 {
		close(w.drained)
	}
	if w.cut != nil {
		w.cut() // attach anew, asking for no offers
	}
	for s := range w.all {
		s.retire("the worker drains")
	}
	w.mu.Unlock()
	defer w.cancel()
	select {
	case <-w.drained:
		return nil
	case <-w.ctx.Done():
		return nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	for s := range w.all {
		s.sever()
	}
	w.mu.Unlock()
	late := time.NewTimer(drainGrace)
	defer late.Stop()
	select {
	case <-w.drained:
	case <-w.ctx.Done():
	case <-late.C:
	}
	return ctx.Err()
}

// listen holds the stream of offers until the worker ends.
func (w *Worker) listen() error {
	var pace client.Backoff
	attached, said := false, ""
	for w.ctx.Err() == nil {
		began := time.Now()
		hello, err := w.attach(attached)
		attached = attached || hello
		if !attached && !client.Transient(err) && w.ctx.Err() == nil {
			return fmt.Errorf("the server refused this worker: %w", err)
		}
		if w.ctx.Err() != nil {
			continue
		}
		if hello {
			w.log.Info("the stream of offers ended; attaching again", "reason", err)
			said = ""
		} else if text := err.Error(); said != text {
			w.log.Warn("the server cannot be reached; trying again", "err", err)
			said = text
		}
		if hello && time.Since(began) > time.Second {
			pace.Reset() // it was a good connection: a fresh one is tried at once
			continue
		}
		_ = pace.Wait(w.ctx, err, nil) // its only error is the context's, which ends the loop
	}
	return nil
}

// attach opens the stream of offers and serves its frames until it ends. hello tells
// whether the server took the worker.
func (w *Worker) attach(again bool) (hello bool, err error) {
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	w.mu.Lock()
	capacity := w.o.Capacity
	if w.draining {
		capacity = 1 // the least; what is held takes it
	}
	w.cut = cancel
	w.mu.Unlock()
	q := url.Values{"worker": {w.folder.ID()}, "incarnation": {w.incarnation}, "capacity": {fmt.Sprint(capacity)}}
	stream, err := w.o.Client.Stream(ctx, "/v1/croft/offers?"+q.Encode(), "")
	if err != nil {
		return false, err
	}
	defer func() { _ = stream.Close() }()
	for {
		raw, err := stream.Next()
		if err != nil {
			return hello, err
		}
		f, err := decodeFrame(raw.Data)
		if err != nil {
			w.log.Error("a frame of the server's is not understood", "err", err)
			continue
		}
		if f.Type == "hello" {
			hello = true
			w.attached(f, again)
			continue
		}
		w.serve(f)
	}
}

// attached notes that the server is there.
func (w *Worker) attached(f frame, again bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ttl := time.Duration(f.HeartbeatS) * time.Second; ttl > 0 && ttl <= maxTTL {
		w.ttl = ttl
	}
	close(w.back)
	w.back = make(chan struct{})
	if !again {
		w.log.Info("attached to the server", "driver", w.o.Driver.Name(), "capacity", w.o.Capacity)
		return
	}
	// What was cancelled meanwhile was told to nobody.
	for _, s := range w.works {
		s.compare()
	}
}

// serve takes one frame to whom it concerns. It does not block.
func (w *Worker) serve(f frame) {
	if f.Type == "offer" {
		w.offer(f)
		return
	}
	w.mu.Lock()
	s := w.works[f.WorkID]
	environment, doubtful := w.doubts[f.WorkID]
	if s == nil && doubtful && f.Type == "call" && !w.ended {
		// The ack without an answer did count, and its token is lost: the item must go
		// back into the queue, or it would wait for its lease to run out.
		delete(w.doubts, f.WorkID)
		w.wg.Go(func() {
			if err := stopWork(w.ctx, w.o.Client, environment, f.WorkID); err != nil {
				w.log.Warn("a claim whose token was lost could not be given back", "work", f.WorkID, "err", err)
			}
		})
	}
	if s == nil && f.Type == "stop" && f.Reason == "deleted" {
		w.forget(f.SessionID)
	}
	w.mu.Unlock()
	if s == nil {
		return
	}
	switch f.Type {
	case "call":
		s.take(*f.Call)
	case "cancel":
		s.cancelCall(f.CallID)
	case "stop":
		s.stopped(f.Reason)
	}
}

// forget removes what is kept of a deleted session that is not held. w.mu is held.
func (w *Worker) forget(session string) {
	if s := w.last[session]; s != nil {
		s.end(deleted, "the session was deleted")
		return
	}
	if w.ended || !sessionID.MatchString(session) {
		return
	}
	w.wg.Go(func() {
		ctx, cancel := context.WithTimeout(w.ctx, destroyTimeout)
		defer cancel()
		if err := errors.Join(w.folder.Forget(session), w.o.Driver.Remove(ctx, session)); err != nil {
			w.log.Error("what was kept of a deleted session could not be removed", "session", session, "err", err)
		}
	})
}

// offer takes an offer, if there is room.
func (w *Worker) offer(f frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.draining {
		return
	}
	if held := w.works[f.WorkID]; held != nil {
		// Either the frame is old, or the lease was lost and nobody has said so yet.
		held.offeredAgain(f)
		return
	}
	if len(w.works) >= w.o.Capacity {
		w.log.Debug("an offer finds no room", "work", f.WorkID)
		return
	}
	delete(w.doubts, f.WorkID)
	s := newSession(w, f, w.last[f.SessionID])
	w.all[s], w.works[s.work], w.last[s.id] = struct{}{}, s, s
	w.wg.Add(1) // until the session is gone
	s.wg.Add(1)
	go s.claim()
}

// doubt notes a claim whose outcome is unknown, and attaches anew: if the item is held, its
// calls come; if not, it is offered again.
func (w *Worker) doubt(s *session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.doubts) >= maxDoubts {
		clear(w.doubts)
	}
	w.doubts[s.work] = s.env
	if w.cut != nil {
		w.cut()
	}
}

// full tells whether every place is taken.
func (w *Worker) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.works) >= w.o.Capacity
}

// vacate gives a session's place free: its lease is over, though its remains are not gone.
func (w *Worker) vacate(s *session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.works[s.work] == s {
		delete(w.works, s.work)
	}
}

// buried ends a session's time with the worker.
func (w *Worker) buried(s *session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, s)
	if w.last[s.id] == s {
		delete(w.last, s.id)
	}
	if w.draining && len(w.all) == 0 {
		select {
		case <-w.drained:
		default:
			close(w.drained)
		}
	}
}

// returned is closed when the server is there again after it was not.
func (w *Worker) returned() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.back
}

// lease is for how long a heartbeat extends a lease.
func (w *Worker) lease() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ttl
}

// gone tells whether err says that a lease is over, or what it was for: the session was
// deleted, the token expired, another worker has it.
func gone(err error) bool {
	var e *croft.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Status() {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusPreconditionFailed:
		return true
	}
	return false
}
