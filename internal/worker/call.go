package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"croft/internal/client"
	"croft/internal/hand"
	"croft/internal/sandbox"
)

// What the agent is told of calls that have no result of their own.
const (
	cutOffSandbox = "The sandbox was lost while this call was running; it was cut off and not run again. It may have had effects."
	cutOffWorker  = "The worker was lost while this call was running; it was cut off and not run again. It may have had effects."
	cutOffOther   = "The worker that was given this call was lost; the call was cut off and not run again. It may have had effects."
	cutOffHung    = "This call did not end within its time and did not react to being stopped; its sandbox was ended. It may have had effects."
)

const (
	// hangGrace is what the hand is given beyond a call's bound to end it.
	hangGrace = 30 * time.Second
	// cancelAgain is when a cancel is repeated: the first may have come before the call.
	cancelAgain = 250 * time.Millisecond
)

// call is an open call of a session.
type call struct {
	toolCall
	after    <-chan struct{} // the bash call before this one; nil: there is none
	left     chan struct{}   // closed when it has left the hand, or will not get there
	unwanted chan struct{}   // closed when the server wants no result any more
	box      *box            // where it was begun; nil: nowhere. Under the session's lock.
}

// startCall begins to serve a call that is not known yet. mu is held. A call that is over
// is noted in settled before it leaves calls, so that it is found in one of them.
func (s *session) startCall(c toolCall) {
	if s.closing || s.calls[c.ID] != nil || s.unwanted[c.ID] || s.w.settled.has(c.ID) {
		return
	}
	if len(s.calls) >= maxCalls {
		s.log.Error("too many open calls: one is left", "call", c.ID)
		return
	}
	k := &call{toolCall: c, left: make(chan struct{}), unwanted: make(chan struct{})}
	if c.Name == bashTool {
		// The hand runs these one after another in the order in which they reach it, and
		// only here is it known which came first.
		k.after, s.lastBash = s.lastBash, k.left
	}
	s.calls[c.ID] = k
	s.begin(func() { s.serveCall(k) })
}

// bashTool is the tool whose calls share a shell.
const bashTool = "bash"

// cancelCall is told that a call's result is no longer wanted.
func (s *session) cancelCall(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.calls[id]
	if k == nil {
		if !s.ready && len(s.unwanted) < maxCalls {
			if s.unwanted == nil {
				s.unwanted = map[string]bool{}
			}
			s.unwanted[id] = true
		}
		return
	}
	if k.isUnwanted() {
		return
	}
	close(k.unwanted)
	if b := k.box; b != nil {
		s.begin(func() {
			t := time.NewTicker(cancelAgain)
			defer t.Stop()
			for {
				b.hand.Cancel(id)
				select {
				case <-k.left:
					return
				case <-s.ctx.Done():
					return
				case <-t.C:
				}
			}
		})
	}
}

func (k *call) isUnwanted() bool {
	select {
	case <-k.unwanted:
		return true
	default:
		return false
	}
}

// serveCall brings a call to its end: settled, or left to the next lease.
func (s *session) serveCall(k *call) {
	body, over := s.outcome(k)
	if body != nil {
		over = s.post(k, body)
	}
	if over {
		if s.journal != nil {
			if err := s.journal.Done(k.ID); err != nil {
				s.log.Warn("the end of a call could not be noted", "call", k.ID, "err", err)
			}
		}
		s.w.settled.add(k.ID)
		s.mu.Lock()
		b := k.box
		s.mu.Unlock()
		if b != nil {
			b.hand.Ack(k.ID)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, k.ID)
	s.rest()
}

// outcome finds what a call is to be answered with: the journal's word, the tool's, or why
// it was not run. Without a body, over tells whether there is nothing more to do; if not,
// the call stays open for the next lease.
func (s *session) outcome(k *call) (body []byte, over bool) {
	defer close(k.left)
	if k.FirstWorker != "" && k.FirstWorker != s.w.folder.ID() {
		return errorBody(k.ID, cutOffOther), false
	}
	if s.noJournal != nil {
		return errorBody(k.ID, "The worker cannot use its journal of calls, so this call was not run now; if it was begun before, it was cut off. "+s.noJournal.Error()), false
	}
	begun, kept := s.journal.Lookup(k.ID)
	switch {
	case kept != nil:
		return kept, false
	case begun:
		return errorBody(k.ID, cutOffWorker), false
	}
	return s.run(k)
}

// run gives a call to the hand and waits for its result.
func (s *session) run(k *call) (body []byte, over bool) {
	if k.after != nil {
		select {
		case <-k.after:
		case <-k.unwanted:
			return nil, true
		case <-s.ctx.Done():
			return nil, false
		}
	}
	b, err := s.liveBox()
	switch {
	case err == nil:
	case s.ctx.Err() != nil || errors.Is(err, errSevered):
		return nil, false
	default:
		return errorBody(k.ID, "This call was not run, because its sandbox could not be made. "+err.Error()), false
	}
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-k.unwanted:
		return nil, true
	case <-s.ctx.Done():
		return nil, false
	}
	s.mu.Lock()
	switch {
	case k.isUnwanted():
		s.mu.Unlock()
		return nil, true
	case s.severed || s.ctx.Err() != nil:
		s.mu.Unlock()
		return nil, false
	}
	k.box = b
	s.mu.Unlock()
	if err := s.journal.Start(k.ID); err != nil {
		return errorBody(k.ID, "This call was not run, because the worker could not note its beginning. "+err.Error()), false
	}
	return s.runBegun(k, b)
}

func (s *session) runBegun(k *call, b *box) (body []byte, over bool) {
	ctx := s.ctx
	if s.bound > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.bound+s.w.hangGrace)
		defer cancel()
	}
	result, err := b.hand.Call(ctx, hand.Call{ID: k.ID, Tool: k.Name, Input: k.Input, Timeout: s.bound})
	switch {
	case err == nil:
		// A result counts even if the lease was lost meanwhile: it is kept for the next.
		if body, err = resultBody(k.ID, result.Content, result.IsError); err != nil {
			body = errorBody(k.ID, "The tool ran, but its result could not be read. "+err.Error())
		}
	case s.ctx.Err() != nil:
		return nil, false
	case errors.Is(err, hand.ErrClosed):
		s.log.Warn("a sandbox was lost with a call in it", "call", k.ID, "err", err)
		body = errorBody(k.ID, cutOffSandbox)
	case errors.Is(err, context.DeadlineExceeded):
		s.log.Error("a call hangs; its sandbox is ended", "call", k.ID)
		b.destroy()
		body = errorBody(k.ID, cutOffHung)
	default:
		body = errorBody(k.ID, "This call was not run. "+err.Error())
	}
	if k.isUnwanted() {
		return nil, true
	}
	if err := s.journal.Keep(k.ID, body); err != nil {
		s.log.Warn("a result could not be kept; it is posted all the same", "call", k.ID, "err", err)
	}
	return body, false
}

// post sends a result until the server has it. It tells whether the call is over; if not,
// the lease is.
func (s *session) post(k *call, body []byte) bool {
	var pace client.Backoff
	for refusals := 0; ; {
		if k.isUnwanted() {
			return true
		}
		back := s.w.returned()
		err := s.postResult(s.ctx, body)
		switch {
		case err == nil:
			return true
		case s.ctx.Err() != nil:
			return false
		case client.Transient(err):
			s.log.Debug("a result could not be posted; trying again", "call", k.ID, "err", err)
			if pace.Wait(s.ctx, err, back) != nil {
				return false
			}
		case gone(err):
			s.log.Warn("the lease was lost with a result at hand, which is kept for the next", "call", k.ID, "err", err)
			s.drop("a result was refused: " + err.Error())
			return false
		case refusals == 0 && s.stillOpen(k.ID):
			// It is the result itself that the server won't have. The agent must get one.
			refusals++
			s.log.Error("the server refused a result", "call", k.ID, "err", err)
			body = errorBody(k.ID, "The tool ran, but the server refused its result. "+err.Error())
		case refusals == 0:
			s.log.Info("a result is not needed: its call was settled without it", "call", k.ID, "err", err)
			return true
		default:
			s.log.Error("the server refused every result of a call", "call", k.ID, "err", err)
			return false
		}
	}
}

// stillOpen asks the server whether a call waits for its result.
func (s *session) stillOpen(id string) bool {
	spec, err := s.fetchSpec(s.ctx)
	if err != nil {
		return true // the next attempt will tell
	}
	for i := range spec.Calls {
		if spec.Calls[i].ID == id {
			return true
		}
	}
	return false
}

// making is a sandbox on its way. box and err are set before done is closed.
type making struct {
	done chan struct{}
	box  *box
	err  error
}

// errSevered says that the session gets no sandbox any more.
var errSevered = errors.New("the worker ends")

// liveBox returns the session's sandbox, and makes one if there is none that lives. Those
// who wait for one sandbox share its failure; the next call tries anew.
func (s *session) liveBox() (*box, error) {
	s.mu.Lock()
	if s.severed {
		s.mu.Unlock()
		return nil, errSevered
	}
	if s.box != nil && s.box.alive() {
		defer s.mu.Unlock()
		return s.box, nil
	}
	m := s.making
	if m == nil {
		m = &making{done: make(chan struct{}), err: errSevered}
		old := s.box
		s.box, s.making = nil, m
		s.begin(func() { s.makeBox(m, old) })
		if s.closing {
			close(m.done) // begin did nothing
		}
	}
	s.mu.Unlock()
	select {
	case <-m.done:
		return m.box, m.err
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// makeBox makes a sandbox over the workspace that the old one, if any, has left.
func (s *session) makeBox(m *making, old *box) {
	if old != nil {
		old.destroy()
	}
	var b *box
	err := s.badSpec
	if err == nil {
		b, err = s.w.makeBox(s.ctx, s.spec, s.log)
	}
	s.mu.Lock()
	if err == nil && s.severed {
		err = errSevered
	}
	if err == nil {
		s.box = b
		m.box = b
	}
	m.err, s.making = err, nil
	close(m.done)
	s.mu.Unlock()
	if err == nil {
		return
	}
	if b != nil {
		b.destroy()
	}
	var unsupported *sandbox.Unsupported
	var refusal *refused
	switch {
	case s.ctx.Err() != nil:
	case errors.As(err, &unsupported), errors.As(err, &refusal):
		s.log.Warn("an environment asks for what this worker does not give", "err", err)
	default:
		s.log.Error("a sandbox could not be made", "err", fmt.Errorf("making the sandbox of %s: %w", s.id, err))
	}
}
