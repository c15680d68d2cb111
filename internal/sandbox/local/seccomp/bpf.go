//go:build linux && (amd64 || arm64)

package seccomp

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// assembler collects classic BPF with jumps to labels. A label may be used before it
// stands, never after: BPF jumps forward only. Conditional jumps reach 255 instructions, so
// each is written as a test over an unconditional jump, which reaches everywhere.
type assembler struct {
	code   []Instruction
	jumps  map[int]string // instruction → label
	labels map[string]int
}

func (a *assembler) emit(code uint16, k uint32) {
	a.code = append(a.code, Instruction{Code: code, K: k})
}

// load puts the 32-bit word at offset of the call's description into the accumulator.
func (a *assembler) load(offset uint32) { a.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset) }

// arg loads the low word of argument i. Both architectures are little-endian, and every
// argument checked here is at most 32 bits wide to the kernel.
func (a *assembler) arg(i int) { a.load(offArgs + 8*uint32(i)) }

func (a *assembler) and(mask uint32) { a.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask) }
func (a *assembler) ret(k uint32)    { a.emit(unix.BPF_RET|unix.BPF_K, k) }

func (a *assembler) jeq(k uint32, label string)  { a.branch(unix.BPF_JEQ, k, label) }
func (a *assembler) jge(k uint32, label string)  { a.branch(unix.BPF_JGE, k, label) }
func (a *assembler) jset(k uint32, label string) { a.branch(unix.BPF_JSET, k, label) }

// branch goes to label when the test holds and falls through otherwise.
func (a *assembler) branch(test uint16, k uint32, label string) {
	a.code = append(a.code, Instruction{Code: unix.BPF_JMP | test | unix.BPF_K, Jf: 1, K: k})
	a.ja(label)
}

func (a *assembler) ja(label string) {
	if a.jumps == nil {
		a.jumps = map[int]string{}
	}
	a.jumps[len(a.code)] = label
	a.emit(unix.BPF_JMP|unix.BPF_JA, 0)
}

func (a *assembler) label(name string) {
	if a.labels == nil {
		a.labels = map[string]int{}
	}
	if _, twice := a.labels[name]; twice {
		panic("seccomp: label " + name + " stands twice")
	}
	a.labels[name] = len(a.code)
}

// span is a run of call numbers, from first to the next span's, with one decision.
type span struct {
	first uint32
	label string
}

// dispatch jumps to the label of the call whose number is in the accumulator, by a binary
// search over runs of numbers; what the table lacks goes to "enosys".
func (a *assembler) dispatch(table map[uint32]string) {
	spans := []span{{0, "enosys"}}
	add := func(first uint32, label string) {
		last := &spans[len(spans)-1]
		switch {
		case last.label == label:
		case last.first == first:
			last.label = label
		default:
			spans = append(spans, span{first, label})
		}
	}
	next := uint32(0)
	for _, nr := range slices.Sorted(maps.Keys(table)) {
		if nr > next {
			add(next, "enosys")
		}
		add(nr, table[nr])
		next = nr + 1
	}
	add(next, "enosys")
	a.search(spans)
}

func (a *assembler) search(spans []span) {
	if len(spans) == 1 {
		a.ja(spans[0].label)
		return
	}
	mid := len(spans) / 2
	upper := fmt.Sprintf("from-%d", spans[mid].first)
	a.jge(spans[mid].first, upper)
	a.search(spans[:mid])
	a.label(upper)
	a.search(spans[mid:])
}

// assemble resolves the labels.
func (a *assembler) assemble() []Instruction {
	for at, label := range a.jumps {
		to, ok := a.labels[label]
		if !ok || to <= at {
			panic("seccomp: no label " + label + " ahead")
		}
		a.code[at].K = uint32(to - at - 1)
	}
	return a.code
}
