package hand

import (
	"fmt"
	"os"
	"unicode/utf8"
)

const (
	// headChars and tailChars are what the model sees of an output beyond MaxOutput.
	headChars = 20_000
	tailChars = 5_000
	// maxSpill bounds the file that holds an output, so that an endless one does not fill
	// the sandbox's disk.
	maxSpill = 64 << 20
)

// output collects a tool's text in bounded memory. Up to MaxOutput characters it keeps
// everything; beyond, the whole goes to a file, as far as maxSpill, and the head and the
// tail stay. It is not safe for concurrent use.
type output struct {
	create func() (*os.File, error)

	text  []byte // all, or the head once spilled
	chars int    // characters written so far
	total int64  // bytes written so far

	spilled bool
	file    *os.File
	saved   int64
	fault   error  // why the file is not whole, besides maxSpill
	tail    []byte // the end, at least tailChars characters of it, once spilled
}

// newOutput makes an output whose file, if it needs one, is made by create.
func newOutput(create func() (*os.File, error)) *output { return &output{create: create} }

// Write adds to the output. It never fails: what goes wrong is told in the text.
func (o *output) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	o.total += int64(len(p))
	o.chars += countChars(p)
	if !o.spilled {
		o.text = append(o.text, p...)
		if o.chars > MaxOutput || len(o.text) > MaxOutput*utf8.UTFMax { // the latter for bytes that are no text
			o.spill()
		}
		return len(p), nil
	}
	o.save(p)
	o.keepTail(p)
	return len(p), nil
}

func (o *output) spill() {
	o.spilled = true
	o.file, o.fault = o.create()
	o.save(o.text)
	o.keepTail(o.text)
	o.text = append([]byte(nil), o.text[:prefixLen(o.text, headChars)]...)
}

func (o *output) save(p []byte) {
	if o.file == nil {
		return
	}
	if room := maxSpill - o.saved; int64(len(p)) > room {
		p = p[:room]
	}
	if len(p) == 0 || o.fault != nil {
		return
	}
	n, err := o.file.Write(p)
	o.saved += int64(n)
	o.fault = err
}

// keepTail keeps the last bytes, enough for tailChars characters of any width.
func (o *output) keepTail(p []byte) {
	const most = tailChars * utf8.UTFMax
	if len(p) >= most {
		o.tail = append(o.tail[:0], p[len(p)-most:]...)
		return
	}
	o.tail = append(o.tail, p...)
	if len(o.tail) > 4*most { // shift seldom
		o.tail = append(o.tail[:0], o.tail[len(o.tail)-most:]...)
	}
}

// close ends the output and returns its text for the model.
func (o *output) close() string {
	if !o.spilled {
		return string(o.text)
	}
	where := "the whole could not be kept"
	if o.file != nil {
		if err := o.file.Close(); o.fault == nil {
			o.fault = err
		}
		switch {
		case o.fault != nil:
			where = fmt.Sprintf("only its first %d bytes could be kept, in %s", o.saved, o.file.Name())
		case o.saved < o.total:
			where = fmt.Sprintf("its first %d bytes are in %s", o.saved, o.file.Name())
		default:
			where = "all of it is in " + o.file.Name()
		}
	}
	if o.fault != nil {
		where += ": " + plainError(o.fault)
	}
	note := fmt.Sprintf("[%d characters of output; %s; here are the first %d and the last %d]", o.chars, where, headChars, tailChars)
	return fmt.Sprintf("%s\n[…]\n%s\n%s", o.text, suffix(o.tail, tailChars), note)
}

// countChars counts the characters that begin in p: every byte but those that continue a
// UTF-8 sequence, so that a character cut in two by the reader counts once.
func countChars(p []byte) int {
	n := 0
	for _, b := range p {
		if b&0xC0 != 0x80 {
			n++
		}
	}
	return n
}

// prefixLen is how many bytes the first n characters of p take.
func prefixLen(p []byte, n int) int {
	i := 0
	for ; n > 0 && i < len(p); n-- {
		_, size := utf8.DecodeRune(p[i:])
		i += size
	}
	return i
}

// suffix returns the last n characters of p.
func suffix(p []byte, n int) []byte {
	i := len(p)
	for ; n > 0 && i > 0; n-- {
		_, size := utf8.DecodeLastRune(p[:i])
		i -= size
	}
	return p[i:]
}
