package brain

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"croft"
	"croft/internal/brain/prompt"
)

func sized(t *testing.T, n int) *mind {
	t.Helper()
	m := &mind{talk: prompt.New()}
	e := croft.Event{Seq: 1, Type: croft.UserMessage, Payload: json.RawMessage(`{"content":["` + strings.Repeat("x", n) + `"]}`)}
	if err := m.talk.Add(&e); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCacheBound(t *testing.T) {
	c := newCache(100_000)
	for i := range 50 {
		c.put(fmt.Sprint(i), sized(t, 10_000))
		c.take("0") // used once, it is the taker's
	}
	if c.size > c.limit || c.order.Len() != len(c.by) || c.order.Len() == 0 {
		t.Errorf("%d bytes in %d and %d minds, want at most %d", c.size, c.order.Len(), len(c.by), c.limit)
	}
	if c.take("1") != nil {
		t.Error("the mind that was unused for longest is still there")
	}
	if c.take("49") == nil || c.take("49") != nil {
		t.Error("the latest mind must be there, once")
	}
	c.put("48", sized(t, 1)) // in the place of a larger one
	c.put("48", sized(t, 2))
	for id := range c.by {
		c.take(id)
	}
	if c.size != 0 || c.order.Len() != 0 {
		t.Errorf("an empty cache holds %d bytes in %d minds", c.size, c.order.Len())
	}
}
