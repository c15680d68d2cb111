package hand

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
)

// results keeps what the calls came to, by their ids, until it is acknowledged: in memory
// up to maxStored bytes, beyond that in files, the oldest first.
type results struct {
	scratch *scratch

	mu     sync.Mutex
	byID   map[string]*entry
	stored []*entry // ended and in memory, oldest first
	bytes  int      // of those
	files  int      // written so far, for their names
	// spent are the ids acknowledged last: a late repetition of one is refused. It is a
	// ring; next is the place to write.
	spent     map[string]bool
	spentRing [maxSpent]string
	next      int
}

const (
	maxStored = 8 << 20
	maxSpent  = 4096
)

// entry is a call: running until done is closed, then ended.
type entry struct {
	id     string
	done   chan struct{}
	cancel func() // interrupts it
	acked  bool   // while it was running: drop it at its end

	result *Result // nil once it is in file
	size   int
	file   string
}

var (
	errSpent = errors.New("its result was acknowledged; it is not run again")
	errFull  = fmt.Errorf("%d results wait for an acknowledgement", MaxUnacked)
)

func newResults(s *scratch) *results {
	return &results{scratch: s, byID: make(map[string]*entry), spent: make(map[string]bool)}
}

// begin returns the entry of id, and whether it is new, in which case the caller must run
// the call and finish the entry.
func (r *results) begin(id string, cancel func()) (e *entry, fresh bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.byID[id]; e != nil {
		return e, false, nil
	}
	if r.spent[id] {
		return nil, false, errSpent
	}
	if len(r.byID) >= MaxUnacked {
		return nil, false, errFull
	}
	e = &entry{id: id, done: make(chan struct{}), cancel: cancel}
	r.byID[id] = e
	return e, true, nil
}

// finish stores the result of a call and lets those who wait for it go on.
func (r *results) finish(e *entry, res Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer close(e.done)
	e.result = &res
	for _, block := range res.Content {
		e.size += len(block)
	}
	if e.acked {
		return
	}
	r.stored = append(r.stored, e)
	r.bytes += e.size
	for r.bytes > maxStored && len(r.stored) > 0 {
		r.spill(r.stored[0])
	}
}

// spill moves an entry's result from memory to a file. Where that fails, what is kept is
// an error that says so: the result itself has been sent once already, or is on its way.
func (r *results) spill(e *entry) {
	r.stored = r.stored[1:]
	r.bytes -= e.size
	path, err := r.scratch.path(fmt.Sprintf("result-%d", r.files))
	r.files++
	if err == nil {
		err = os.WriteFile(path, encode(e.result), 0o600)
	}
	if err != nil {
		lost := textResult("the result was not kept: "+plainError(err), true)
		e.result = &lost
		return
	}
	e.file, e.result = path, nil
}

// result returns the result of an entry that is done.
func (r *results) result(e *entry) Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.result != nil {
		return *e.result
	}
	var res Result
	data, err := os.ReadFile(e.file)
	if err == nil {
		err = json.Unmarshal(data, &res)
	}
	if err != nil {
		return textResult("the result was not kept: "+plainError(err), true)
	}
	return res
}

// interrupt cancels the call with that id, if it runs.
func (r *results) interrupt(id string) {
	r.mu.Lock()
	e := r.byID[id]
	r.mu.Unlock()
	if e != nil {
		e.cancel()
	}
}

// ack forgets the result of id and spends the id.
func (r *results) ack(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.byID[id]
	if e == nil {
		return
	}
	delete(r.byID, id)
	delete(r.spent, r.spentRing[r.next])
	r.spentRing[r.next] = id
	r.spent[id] = true
	r.next = (r.next + 1) % maxSpent
	e.acked = true
	if e.file != "" {
		os.Remove(e.file)
	}
	for i, s := range r.stored {
		if s == e {
			r.stored = append(r.stored[:i], r.stored[i+1:]...)
			r.bytes -= e.size
			break
		}
	}
}
