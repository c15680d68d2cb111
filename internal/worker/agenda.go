package worker

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// agenda calls for sessions when their time has come: one timer and one goroutine for all,
// so that a session that rests costs neither. Its lock comes after the sessions'.
type agenda struct {
	mu    sync.Mutex
	queue dates
	kick  chan struct{} // the first date has become an earlier one
}

// date is a session's, of which it has one.
type date struct {
	s  *session
	at time.Time
	in int // place in the queue, from 1; 0: there is none
}

func newAgenda() *agenda { return &agenda{kick: make(chan struct{}, 1)} }

// sooner has d's session called at a time, or earlier where that is noted already.
func (a *agenda) sooner(d *date, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case d.in == 0:
		d.at = at
		heap.Push(&a.queue, d)
	case at.Before(d.at):
		d.at = at
		heap.Fix(&a.queue, d.in-1)
	default:
		return
	}
	if a.queue[0] == d {
		select {
		case a.kick <- struct{}{}:
		default:
		}
	}
}

// run calls due, in its own goroutine, until ctx ends. The session has no date any more
// when it is called. due must not block.
func (a *agenda) run(ctx context.Context, due func(*session)) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		wait := time.Hour
		var next *date
		a.mu.Lock()
		if len(a.queue) > 0 {
			if wait = time.Until(a.queue[0].at); wait <= 0 {
				next = heap.Pop(&a.queue).(*date)
			}
		}
		a.mu.Unlock()
		if next != nil {
			due(next.s)
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-a.kick:
		case <-ctx.Done():
		}
	}
}

// dates is a heap with the earliest first.
type dates []*date

func (d dates) Len() int           { return len(d) }
func (d dates) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d dates) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].in, d[j].in = i+1, j+1
}

// Push adds the last, for package heap.
func (d *dates) Push(x any) {
	*d = append(*d, x.(*date))
	x.(*date).in = len(*d)
}

// Pop removes the last, for package heap.
func (d *dates) Pop() any {
	old := *d
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	last.in = 0
	return last
}
