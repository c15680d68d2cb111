//go:build unix && !linux

package shell

// Without /proc and subreapers the hand knows its own children and their process groups,
// and no more: what detaches itself from them outlives it.

const fionread = 0x4004667f

func becomeSubreaper() {}

func keepDescriptors() {}

type process struct {
	pid, parent, group, session int
	started                     int64
	zombie                      bool
}

func ticks() int64 { return 0 }

func descendants(int, func(process) bool) []process { return nil }

func killSession(int) bool { return false }
