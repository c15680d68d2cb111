package store

import "sync"

// commitOrder puts what follows commits into the order of the commits, on a database whose
// commits run side by side. A commit takes its place before it is sent. A transaction that
// waited for the row locks of another gets them after the other's commit, and so takes a
// later place. What follows waits until all earlier places have been left.
type commitOrder struct {
	mu   sync.Mutex
	last chan struct{} // closed when the latest place has been left
}

// place is one commit's place in the order.
type place struct {
	before, left chan struct{}
}

func (o *commitOrder) enter() place {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := place{before: o.last, left: make(chan struct{})}
	o.last = p.left
	return p
}

// wait waits until all earlier places have been left.
func (p place) wait() {
	if p.before != nil {
		<-p.before
	}
}

// leave is called once, after wait.
func (p place) leave() { close(p.left) }
