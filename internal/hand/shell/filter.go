package shell

import (
	"bytes"
	"strconv"
)

// filter reads what comes out of the shell's terminal: it takes out the marks by which the
// shell says that a command has ended, and what is meant for a screen (escape sequences,
// carriage returns), and passes on the rest. It works on a stream, in pieces of any size,
// and keeps at most maxHeld bytes back. It is not safe for concurrent use.
//
// A mark is markOpen, the terminal's secret, a dot, the command's number, a colon, its
// exit code, and markEnd.
type filter struct {
	secret string
	held   []byte // a mark or an escape sequence that has not ended yet
}

// mark is the shell's word that a command has ended.
type mark struct {
	seq  uint64
	code int
}

const (
	markOpen = 0x1e // ASCII's record separator
	markEnd  = 0x1f // and its unit separator
	escape   = 0x1b
	bell     = 0x07
	special  = "\x1b\x1e\r"
	// Bounds of a mark and of an escape sequence; what is longer is neither.
	maxMark = 128
	maxHeld = 4 << 10
)

// feed takes the next bytes and calls text and ended for what they complete, in order. A
// slice given to text is good for that call only.
func (f *filter) feed(p []byte, text func([]byte), ended func(mark)) {
	for len(p) > 0 {
		if len(f.held) == 0 {
			i := bytes.IndexAny(p, special)
			if i < 0 {
				text(p)
				return
			}
			text(p[:i])
			if p[i] != '\r' {
				f.held = append(f.held, p[i])
			}
			p = p[i+1:]
			continue
		}
		b := p[0]
		p = p[1:]
		f.held = append(f.held, b)
		if f.held[0] == markOpen {
			m, ok := f.parse(f.held)
			switch {
			case ok:
				f.held = f.held[:0]
				ended(m)
			case b == markOpen, b == markEnd, len(f.held) >= maxMark:
				f.replay(text, ended)
			}
			continue
		}
		switch f.escapeState() {
		case seqDone:
			f.held = f.held[:0]
		case seqNone:
			f.replay(text, ended)
		}
	}
}

// flush passes on what was held back, at the end of the stream.
func (f *filter) flush(text func([]byte)) {
	for len(f.held) > 0 {
		f.replay(text, func(mark) {})
	}
}

// replay is for held bytes that turned out to be no mark and no sequence: the first is
// passed on, or dropped if it is an escape, and those after it are read anew. An escape
// sequence holds no second beginning but at its end, so no byte is read more than a few times.
func (f *filter) replay(text func([]byte), ended func(mark)) {
	rest := append([]byte(nil), f.held[1:]...)
	if f.held[0] == markOpen {
		text(f.held[:1])
	}
	f.held = f.held[:0]
	f.feed(rest, text, ended)
}

// parse reads a whole mark, from markOpen to markEnd.
func (f *filter) parse(b []byte) (mark, bool) {
	if b[len(b)-1] != markEnd {
		return mark{}, false
	}
	body, ok := bytes.CutPrefix(b[1:len(b)-1], []byte(f.secret+"."))
	if !ok {
		return mark{}, false
	}
	seq, code, ok := bytes.Cut(body, []byte(":"))
	if !ok {
		return mark{}, false
	}
	n, err := strconv.ParseUint(string(seq), 10, 64)
	if err != nil {
		return mark{}, false
	}
	c, err := strconv.Atoi(string(code))
	if err != nil {
		return mark{}, false
	}
	return mark{n, c}, true
}

// States of a held escape sequence.
const (
	seqOpen = iota
	seqDone
	seqNone // it is none
)

// escapeState judges the held bytes, which begin with escape and have just grown by one:
// control sequences (ESC [ … final), strings (ESC ] P X ^ _ … BEL or ESC \) and the short
// ones (ESC, intermediates, final).
func (f *filter) escapeState() int {
	last := f.held[len(f.held)-1]
	if len(f.held) >= maxHeld {
		return seqNone
	}
	switch f.held[1] {
	case '[':
		switch {
		case len(f.held) == 2, last >= 0x20 && last <= 0x3f:
			return seqOpen
		case last >= 0x40 && last <= 0x7e:
			return seqDone
		}
		return seqNone
	case ']', 'P', 'X', '^', '_':
		switch {
		case last == bell, last == '\\' && len(f.held) > 2 && f.held[len(f.held)-2] == escape:
			return seqDone
		case last == markOpen, last == '\n', len(f.held) > 3 && f.held[len(f.held)-2] == escape:
			return seqNone // a cut-off string must not swallow what follows
		}
		return seqOpen
	}
	switch {
	case last >= 0x20 && last <= 0x2f:
		return seqOpen
	case last >= 0x30 && last <= 0x7e:
		return seqDone
	}
	return seqNone
}
