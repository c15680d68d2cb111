//go:build unix

package worker

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"croft/internal/hand"
	"croft/internal/sandbox"
)

// fakeDriver makes sandboxes without a process: their hand is a goroutine that answers each
// call with what answer says of its command; an empty answer never comes.
type fakeDriver struct {
	answer func(command string) string
	delay  time.Duration // of Create

	mu      sync.Mutex
	ran     map[string]int
	making  int
	most    int // that were made at one time
	created int
	live    map[string]bool
}

func (d *fakeDriver) Name() string                               { return "fake" }
func (d *fakeDriver) Probe(context.Context) []sandbox.Capability { return nil }
func (d *fakeDriver) Sweep(context.Context) ([]string, error)    { return nil, nil }
func (d *fakeDriver) Remove(_ context.Context, _ string) error   { return nil }

func (d *fakeDriver) Create(_ context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	d.mu.Lock()
	d.making++
	d.most = max(d.most, d.making)
	d.mu.Unlock()
	time.Sleep(d.delay)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.making--
	d.created++
	if d.live == nil {
		d.live = map[string]bool{}
	}
	if d.live[spec.ID] {
		return nil, fmt.Errorf("sandbox %s is live", spec.ID)
	}
	d.live[spec.ID] = true
	return &fakeBox{d: d, id: spec.ID, gone: make(chan struct{})}, nil
}

type fakeBox struct {
	d    *fakeDriver
	id   string
	once sync.Once
	gone chan struct{}
}

func (b *fakeBox) ID() string { return b.id }

func (b *fakeBox) Destroy(context.Context) error {
	b.once.Do(func() {
		b.d.mu.Lock()
		delete(b.d.live, b.id)
		b.d.mu.Unlock()
		close(b.gone)
	})
	return nil
}

// Start begins the hand. It speaks the protocol as package hand describes it.
func (b *fakeBox) Start(_ context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	var writing sync.Mutex
	write := func(v any) {
		body, _ := json.Marshal(v)
		writing.Lock()
		defer writing.Unlock()
		cmd.Stdout.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	}
	p := &fakeProcess{done: make(chan struct{})}
	go func() {
		<-b.gone
		p.once.Do(func() { close(p.done) })
	}()
	go func() {
		write(map[string]any{"type": "hello", "version": hand.Version, "pid": 2})
		in := bufio.NewReader(cmd.Stdin)
		for {
			var size [4]byte
			if _, err := io.ReadFull(in, size[:]); err != nil {
				break
			}
			body := make([]byte, binary.BigEndian.Uint32(size[:]))
			if _, err := io.ReadFull(in, body); err != nil {
				break
			}
			var f struct {
				Type, ID string
				Seq      uint64
				Input    struct{ Command string }
			}
			if json.Unmarshal(body, &f) != nil || f.Type == "close" {
				break
			}
			if f.Type != "call" {
				continue
			}
			b.d.mu.Lock()
			if b.d.ran == nil {
				b.d.ran = map[string]int{}
			}
			b.d.ran[f.Input.Command]++
			b.d.mu.Unlock()
			if text := b.d.answer(f.Input.Command); text != "" {
				write(map[string]any{"type": "result", "seq": f.Seq, "id": f.ID, "content": []any{map[string]string{"type": "text", "text": text}}})
			}
		}
		p.once.Do(func() { close(p.done) })
	}()
	return p, nil
}

type fakeProcess struct {
	once sync.Once
	done chan struct{}
}

func (p *fakeProcess) Wait() (int, error) { <-p.done; return 0, nil }
func (p *fakeProcess) Kill() error        { p.once.Do(func() { close(p.done) }); return nil }

func TestHungHandIsEnded(t *testing.T) {
	srv := newServer(t)
	d := &fakeDriver{answer: func(command string) string {
		if command == "hang" {
			return ""
		}
		return "ok"
	}}
	beginWith(t, srv, Options{Driver: d, CallTimeout: 50 * time.Millisecond}, func(w *Worker) { w.hangGrace = 50 * time.Millisecond })
	x := srv.add("sesn_1", plain)
	srv.want(x, srv.bash(x, "hang"), "did not end within its time", true)
	srv.want(x, srv.bash(x, "quick"), "ok", false)
}

// TestManySessions serves a thousand sessions at once, with two calls each.
func TestManySessions(t *testing.T) {
	srv := newServer(t)
	d := &fakeDriver{answer: func(command string) string { return "did " + command }, delay: time.Millisecond}
	w := begin(t, srv, Options{Driver: d})
	const n = 1000
	sessions, ids := make([]*remote, n), make([]string, n)
	for i := range n {
		sessions[i] = srv.add(fmt.Sprintf("sesn_%d", i), plain)
		ids[i] = srv.bash(sessions[i], fmt.Sprint("a", i))
	}
	for i, x := range sessions {
		srv.want(x, ids[i], fmt.Sprint("did a", i), false)
		ids[i] = srv.bash(x, fmt.Sprint("b", i))
	}
	for i, x := range sessions {
		srv.want(x, ids[i], fmt.Sprint("did b", i), false)
	}
	d.mu.Lock()
	most, created := d.most, d.created
	for command, times := range d.ran {
		if times != 1 {
			t.Errorf("%s ran %d times", command, times)
		}
	}
	d.mu.Unlock()
	if most > maxMaking || created != n {
		t.Errorf("%d sandboxes were made, %d at one time", created, most)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.Drain(ctx); err != nil {
		t.Errorf("Drain: %v", err)
	}
	w.wait(t)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.live) != 0 {
		t.Errorf("%d sandboxes are left", len(d.live))
	}
}
