package worker

import "sync"

// recent remembers the last ids that were put into it. The worker keeps the calls that are
// over in one, because a frame that was on its way for long may name such a call again.
// It is safe for concurrent use, and its lock is the last that anybody takes.
type recent struct {
	mu   sync.Mutex
	ids  map[string]struct{}
	ring []string
	next int
}

// maxRecent is many more calls than can be settled while a frame is on its way.
const maxRecent = 1 << 16

func (r *recent) add(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids == nil {
		r.ids = map[string]struct{}{}
	}
	if _, ok := r.ids[id]; ok {
		return
	}
	r.ids[id] = struct{}{}
	if len(r.ring) < maxRecent {
		r.ring = append(r.ring, id)
		return
	}
	delete(r.ids, r.ring[r.next])
	r.ring[r.next] = id
	r.next = (r.next + 1) % maxRecent
}

func (r *recent) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.ids[id]
	return ok
}
