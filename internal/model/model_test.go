package model

import (
	"strings"
	"testing"
)

func TestSystemLast(t *testing.T) {
	for in, want := range map[string]string{
		"":                     "",
		"u1 a1 u2 s1":          "u1 a1 u2 s1",
		"s1 u1 a1":             "u1 s1 a1",
		"u1 s1 u2 s2 u3":       "u1 u2 u3 s1 s2",
		"u1 a1 s1 u2 a2 a3 u3": "u1 a1 u2 s1 a2 a3 u3",
		"a1 s1":                "a1 s1",
	} {
		roles := map[byte]string{'u': "user", 'a': "assistant", 's': "system"}
		names := map[string]string{}
		var messages []Message
		for _, name := range strings.Fields(in) {
			m := Message{Role: roles[name[0]]}
			m.Content = append(m.Content, []byte(`"`+name+`"`))
			names[string(m.Content[0])] = name
			messages = append(messages, m)
		}
		read := func(messages []Message) string {
			var out []string
			for _, m := range messages {
				out = append(out, names[string(m.Content[0])])
			}
			return strings.Join(out, " ")
		}
		if got := read(SystemLast(messages)); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
		if got := read(messages); got != in {
			t.Errorf("%s was changed to %s", in, got)
		}
	}
}

func TestNanos(t *testing.T) {
	k, ok := FindClaude("claude-opus-5")
	if !ok {
		t.Fatal("claude-opus-5 is not known")
	}
	million := Usage{InputTokens: 1e6, OutputTokens: 1e6, CacheReadInputTokens: 1e6, CacheCreation5m: 1e6, CacheCreate1h: 1e6}
	fast, us := million, million
	fast.Speed = "fast"
	us.Speed, us.InferenceGeo = "fast", "us"
	tests := []struct {
		usage Usage
		want  int64 // billionths of a dollar
	}{
		{Usage{}, 0},
		{Usage{InputTokens: 1}, 5_000},
		{Usage{CacheReadInputTokens: 1}, 500},
		{million, 46_750_000_000}, // 5 + 25 + 0.50 + 6.25 + 10
		{fast, 93_500_000_000},
		{us, 102_850_000_000},
	}
	for _, tt := range tests {
		if got := k.Price.Nanos(tt.usage); got != tt.want {
			t.Errorf("%+v costs %d, want %d", tt.usage, got, tt.want)
		}
	}
	if got := (Price{Input: 1}).Nanos(Usage{InputTokens: 1e6, Speed: "fast", InferenceGeo: "us"}); got != 1e9 {
		t.Errorf("a price without surcharges gives %d", got)
	}
}

func TestClaude(t *testing.T) {
	seen := map[string]bool{}
	midway := map[string]bool{"claude-opus-4-8": true, "claude-opus-5": true, "claude-fable-5": true, "claude-mythos-5": true}
	var last Known
	for i, k := range Claude() {
		for _, id := range append(k.Aliases, k.ID) {
			if seen[id] {
				t.Errorf("%s is there twice", id)
			}
			seen[id] = true
			if got, ok := FindClaude(id); !ok || got.ID != k.ID {
				t.Errorf("%s finds %q", id, got.ID)
			}
		}
		p := k.Price
		if p.Input <= 0 || p.Output != 5*p.Input || k.Context < 200_000 || k.MaxOutput < 64_000 || k.Display == "" {
			t.Errorf("%+v", k)
		}
		if k.SystemMidway != midway[k.ID] {
			t.Errorf("%s: system messages in mid-conversation: %v", k.ID, k.SystemMidway)
		}
		if i > 0 && k.Released > last.Released {
			t.Errorf("%s stands behind the older %s", k.ID, last.ID)
		}
		last = k
	}
	if _, ok := FindClaude("claude-9"); ok {
		t.Error("claude-9 is known")
	}
}
