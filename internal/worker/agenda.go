package worker

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// agenda calls for sessions when their time has come: one timer and one goroutine for all,
// so that a session that rests costs neither.
type agenda struct {
	mu    sync.Mutex
	queue dates
	kick  chan struct{} // an earlier date than the first was added
}

type date struct {
	at time.Time
	s  *session
}

func newAgenda() *agenda { return &agenda{kick: make(chan struct{}, 1)} }

// add has s called at a time. Each session has one date at most; the session's own code
// sees to that by adding the next when it was called.
func (a *agenda) add(s *session, at time.Time) {
	a.mu.Lock()
	heap.Push(&a.queue, date{at, s})
	first := a.queue[0].s == s
	a.mu.Unlock()
	if first {
		select {
		case a.kick <- struct{}{}:
		default:
		}
	}
}

// run calls due, in its own goroutine, until ctx ends. due must not block.
func (a *agenda) run(ctx context.Context, due func(*session)) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		a.mu.Lock()
		var now []*session
		for len(a.queue) > 0 && !a.queue[0].at.After(time.Now()) {
			now = append(now, heap.Pop(&a.queue).(date).s)
		}
		wait := time.Hour
		if len(a.queue) > 0 {
			wait = time.Until(a.queue[0].at)
		}
		a.mu.Unlock()
		for _, s := range now {
			due(s)
		}
		if len(now) > 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-a.kick:
		case <-ctx.Done():
			return
		}
	}
}

// dates is a heap with the earliest first.
type dates []date

func (d dates) Len() int           { return len(d) }
func (d dates) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d dates) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }

// Push and Pop are for package heap.
func (d *dates) Push(x any) { *d = append(*d, x.(date)) }

// Pop removes the last.
func (d *dates) Pop() any {
	old := *d
	last := old[len(old)-1]
	old[len(old)-1] = date{}
	*d = old[:len(old)-1]
	return last
}
