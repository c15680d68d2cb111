//go:build unix && !linux

package hand

// Without /proc and subreapers the hand knows its own children and their process groups,
// and no more: what detaches itself from them outlives it.

const fionread = 0x4004667f

func becomeSubreaper() {}

type process struct{ pid, session int }

func descendants(int, func(process) bool) []int { return nil }

func killSession(int) bool { return false }
