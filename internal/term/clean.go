package term

import (
	"strings"
	"unicode/utf8"
)

// Cleaner takes out of text what could move the cursor, change colours or the title, or
// hide the order of letters: escape sequences, control characters and the marks that turn
// the direction of writing. Line ends of every kind become \n; tabs stay. It keeps its
// place between calls, so that a sequence cut in two is still one. The zero value is ready.
type Cleaner struct {
	state cleanState
	cr    bool // the last character was a carriage return, written as a line end
	run   int  // length of the string sequence under way
}

type cleanState int

const (
	ground   cleanState = iota
	escape              // behind ESC
	csi                 // behind ESC [
	sequence            // inside a string sequence (OSC, DCS, …), up to BEL or ESC \
)

// maxSequence is how long a string sequence may be before what follows is text again: an
// unfinished one must not swallow the rest.
const maxSequence = 4096

// Clean cleans a whole text.
func Clean(s string) string {
	var c Cleaner
	return c.Clean(s)
}

// Clean cleans the next piece of a text.
func (c *Cleaner) Clean(s string) string {
	if c.state == ground && !c.cr && plain(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range s {
		if r == '\n' && c.cr {
			c.cr = false
			continue // of \r\n, which was written already
		}
		c.cr = r == '\r'
		switch r {
		case '\n', '\r', '\u2028', '\u2029', '\u0085':
			c.state = ground // a line's end ends whatever was unfinished
			b.WriteByte('\n')
			continue
		case 0x1b:
			c.state, c.run = escape, 0
			continue
		case 0x18, 0x1a: // CAN and SUB abort a sequence
			c.state = ground
			continue
		}
		c.step(&b, r)
	}
	return b.String()
}

// step takes one character that is neither a line end nor ESC.
func (c *Cleaner) step(b *strings.Builder, r rune) {
	switch c.state {
	case escape:
		switch {
		case r == '[':
			c.state = csi
		case strings.ContainsRune("]PX^_", r):
			c.state = sequence
		case r >= 0x20 && r <= 0x2f: // an intermediate: the final one follows
		default:
			c.state = ground
		}
	case csi:
		if r >= 0x40 && r <= 0x7e {
			c.state = ground
		} else if r > 0x7e {
			c.state = ground // no sequence has such a character
			c.step(b, r)
		}
	case sequence:
		c.run++
		if r == 0x07 || r == 0x9c || c.run > maxSequence {
			c.state = ground
		}
	default:
		switch {
		case r == 0x9b:
			c.state = csi
		case r == 0x9d || r == 0x90 || r == 0x98 || r == 0x9e || r == 0x9f:
			c.state, c.run = sequence, 0
		case !hidden(r):
			b.WriteRune(r)
		}
	}
}

// hidden tells whether a character is left out of what is shown.
func hidden(r rune) bool {
	switch {
	case r == '\t':
		return false
	case r < 0x20, r >= 0x7f && r < 0xa0:
		return true
	case r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f, r == 0x061c:
		return true // they turn the direction of writing
	case r == 0xfeff, r >= 0xe0000 && r <= 0xe007f:
		return true
	}
	return false
}

// plain tells whether s is printable ASCII, line ends and tabs.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if b := s[i]; (b < 0x20 && b != '\n' && b != '\t') || b >= 0x7f {
			return false
		}
	}
	return true
}

// cells is how many columns a cleaned character takes, about: wide for most of what lies
// beyond the alphabets.
func cells(r rune) int {
	if r >= 0x1100 && (r < 0x2010 || r > 0x2fff) {
		return 2
	}
	return 1
}

// Short makes one line of s that takes at most width columns: cleaned, white space
// squeezed, cut with an ellipsis.
func Short(s string, width int) string {
	// What cannot be seen need not be cleaned: the input may be megabytes long.
	if limit := 16 * max(width, 1); len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit] + "…"
	}
	s = strings.Join(strings.Fields(Clean(s)), " ")
	used := 0
	cut := -1 // where to cut so that the ellipsis fits
	for i, r := range s {
		if used += cells(r); used > width-1 && cut < 0 {
			cut = i
		}
		if used > width {
			return s[:cut] + "…"
		}
	}
	return s
}
