package model

import (
	"time"

	"croft"
)

// Known is what the public documentation says of one of Anthropic's models: the models
// overview, the pricing page, and the pages on thinking, effort and system messages in
// mid-conversation, as they stood on 2026-08-22.
type Known struct {
	ID      string
	Aliases []string
	Display string
	// Released is the day of the launch, in UTC.
	Released croft.Time
	// Context is the window and MaxOutput the longest response, in tokens.
	Context, MaxOutput int64
	Price              Price
	// Adaptive tells whether thinking is asked for as "adaptive". The others know only a
	// fixed thinking budget, and Croft leaves their thinking off.
	Adaptive bool
	// SystemMidway tells whether system messages may stand in mid-conversation.
	SystemMidway bool
}

const (
	million  = 1_000_000
	contextS = 200_000
	outputL  = 128_000
	outputS  = 64_000
)

// Claude returns the table of known models, the newest first. The caller owns the slice.
func Claude() []Known {
	return []Known{
		{ID: "claude-opus-5", Display: "Claude Opus 5", Released: day(2026, 7, 24),
			Context: million, MaxOutput: outputL, Price: list(5, 25, 2, 1.1), Adaptive: true, SystemMidway: true},
		{ID: "claude-sonnet-5", Display: "Claude Sonnet 5", Released: day(2026, 6, 30),
			Context: million, MaxOutput: outputL, Price: list(2, 10, 0, 1.1), Adaptive: true},
		{ID: "claude-fable-5", Display: "Claude Fable 5", Released: day(2026, 6, 9),
			Context: million, MaxOutput: outputL, Price: list(10, 50, 0, 1.1), Adaptive: true, SystemMidway: true},
		{ID: "claude-mythos-5", Display: "Claude Mythos 5", Released: day(2026, 6, 9),
			Context: million, MaxOutput: outputL, Price: list(10, 50, 0, 1.1), Adaptive: true, SystemMidway: true},
		{ID: "claude-opus-4-8", Display: "Claude Opus 4.8", Released: day(2026, 5, 28),
			Context: million, MaxOutput: outputL, Price: list(5, 25, 2, 1.1), Adaptive: true, SystemMidway: true},
		{ID: "claude-opus-4-7", Display: "Claude Opus 4.7", Released: day(2026, 4, 16),
			Context: million, MaxOutput: outputL, Price: list(5, 25, 0, 1.1), Adaptive: true},
		{ID: "claude-sonnet-4-6", Display: "Claude Sonnet 4.6", Released: day(2026, 2, 17),
			Context: million, MaxOutput: outputL, Price: list(3, 15, 0, 1.1), Adaptive: true},
		{ID: "claude-opus-4-6", Display: "Claude Opus 4.6", Released: day(2026, 2, 5),
			Context: million, MaxOutput: outputL, Price: list(5, 25, 0, 1.1), Adaptive: true},
		{ID: "claude-opus-4-5-20251101", Aliases: []string{"claude-opus-4-5"}, Display: "Claude Opus 4.5", Released: day(2025, 11, 24),
			Context: contextS, MaxOutput: outputS, Price: list(5, 25, 0, 0)},
		{ID: "claude-haiku-4-5-20251001", Aliases: []string{"claude-haiku-4-5"}, Display: "Claude Haiku 4.5", Released: day(2025, 10, 15),
			Context: contextS, MaxOutput: outputS, Price: list(1, 5, 0, 0)},
		{ID: "claude-sonnet-4-5-20250929", Aliases: []string{"claude-sonnet-4-5"}, Display: "Claude Sonnet 4.5", Released: day(2025, 9, 29),
			Context: contextS, MaxOutput: outputS, Price: list(3, 15, 0, 0)},
	}
}

// FindClaude returns the known model of that id or alias.
func FindClaude(id string) (Known, bool) {
	for _, k := range Claude() {
		if k.ID == id {
			return k, true
		}
		for _, a := range k.Aliases {
			if a == id {
				return k, true
			}
		}
	}
	return Known{}, false
}

// list is a list price: what a cache read and a write of five minutes cost follows from the
// input's price by the same factors for every model.
func list(input, output, fast, us float64) Price {
	return Price{Input: input, Output: output, CacheRead: input * 0.1, CacheWrite: input * 1.25, Fast: fast, US: us}
}

func day(year int, month time.Month, d int) croft.Time {
	return croft.TimeOf(time.Date(year, month, d, 0, 0, 0, 0, time.UTC))
}
