package brain

import (
	"container/list"
	"sync"

	"croft"
	"croft/internal/model"
	"croft/internal/session"
)

// view shows a response to whoever looks on while it comes in, and remembers the ids that
// it announced, so that the events carry them.
type view struct {
	log     *session.Log
	run     session.Run
	watched bool
	ids     map[int]string // by the first block of an event
	first   int            // the block that began the message under way, or -1
	last    int            // the last text block of it
	started bool
}

func newView(log *session.Log, r session.Run) *view {
	return &view{log: log, run: r, ids: map[int]string{}, first: -1, watched: log.Watched(r.Session)}
}

// delta takes one piece of the response.
func (v *view) delta(d model.Delta) {
	switch d.Kind {
	case "text":
		if v.first < 0 || d.Index > v.last+1 {
			v.first, v.started = d.Index, false
			v.ids[d.Index] = croft.NewID(croft.PrefixEvent)
		}
		v.last = d.Index
		if d.Text == "" || !v.watched {
			return
		}
		id := v.ids[v.first]
		if !v.started {
			v.started = true
			v.log.PreviewStart(v.run.Session, v.run.Fence.Thread, id, croft.AgentMessage)
		}
		v.log.PreviewText(v.run.Session, v.run.Fence.Thread, id, d.Index-v.first, d.Text)
	case "thinking":
		v.first = -1
		if !d.Start {
			return
		}
		id := croft.NewID(croft.PrefixEvent)
		v.ids[d.Index] = id
		if v.watched {
			v.log.PreviewStart(v.run.Session, v.run.Fence.Thread, id, croft.AgentThinking)
		}
	default:
		v.first = -1
	}
}

// id is the id announced for the event that begins at block i, or "".
func (v *view) id(i int) string { return v.ids[i] }

// cache keeps the minds of sessions between their requests, the latest used ones, up to a
// number of bytes. A mind that was taken belongs to the taker until it is put back.
type cache struct {
	mu    sync.Mutex
	limit int
	size  int
	order *list.List // of *cached, latest first
	by    map[string]*list.Element
}

type cached struct {
	session string
	mind    *mind
	size    int
}

func newCache(limit int) cache {
	return cache{limit: limit, order: list.New(), by: map[string]*list.Element{}}
}

// take removes and returns a session's mind, or nil.
func (c *cache) take(session string) *mind {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.by[session]
	if e == nil {
		return nil
	}
	k := c.order.Remove(e).(*cached)
	delete(c.by, session)
	c.size -= k.size
	return k.mind
}

// put keeps a session's mind.
func (c *cache) put(session string, m *mind) {
	k := &cached{session: session, mind: m, size: m.talk.Size() + 4096}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.by[session]; old != nil {
		c.size -= old.Value.(*cached).size
		c.order.Remove(old)
	}
	c.by[session] = c.order.PushFront(k)
	c.size += k.size
	for c.size > c.limit && c.order.Len() > 1 {
		e := c.order.Back()
		k := c.order.Remove(e).(*cached)
		delete(c.by, k.session)
		c.size -= k.size
	}
}
