package sse

import "time"

// join puts a stream into the wheel.
func (h *Hub) join(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.slot = h.next
	h.next = (h.next + 1) % wheelSlots
	s.pos = len(h.slots[s.slot])
	h.slots[s.slot] = append(h.slots[s.slot], s)
	h.open++
}

// leave takes it out.
func (h *Hub) leave(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	slot := h.slots[s.slot]
	last := len(slot) - 1
	slot[s.pos] = slot[last]
	slot[s.pos].pos = s.pos
	slot[last] = nil
	h.slots[s.slot] = slot[:last]
	h.open--
}

// turn visits one slot after the other. Each stream is visited twice in a heartbeat; one
// that wrote nothing since the last visit is asked for a ping, so that no silence is
// longer than a heartbeat.
func (h *Hub) turn() {
	defer h.wg.Done()
	tick := time.NewTicker(max(h.heartbeat/(2*wheelSlots), time.Millisecond))
	defer tick.Stop()
	for at := 0; ; at = (at + 1) % wheelSlots {
		select {
		case <-h.ctx.Done():
			return
		case <-tick.C:
		}
		h.mu.Lock()
		for _, s := range h.slots[at] {
			if s.wrote.Swap(false) {
				continue
			}
			select {
			case s.kick <- struct{}{}:
			default: // it is asked already, and stuck in a write
			}
		}
		h.mu.Unlock()
	}
}
