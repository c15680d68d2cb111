package wire

import (
	"bytes"
	"strconv"
	"unicode/utf8"

	"croft"
)

// Limits of a body beyond its size in bytes, which the reader of the request enforces.
const (
	// MaxDepth is how deep lists and objects may be nested.
	MaxDepth = 128
	// MaxValues is how many values one body may hold: it bounds the memory that a body of
	// croft.MaxBody bytes can claim.
	MaxValues = 250_000
)

type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindText
	kindList
	kindObject
)

// Flags of a node.
const (
	escaped    = 1 << iota // the text holds a backslash
	escapedU               // the text holds an escape by number
	keyEscaped             // the member's name holds a backslash
)

// node is one value of a body. The nodes stand in the order of the body, so that the
// children of a container follow it, and next leads from one sibling to the other.
type node struct {
	start, end       uint32 // the value's bytes; for text those between the quotes
	keyStart, keyEnd uint32 // the bytes of a member's name between its quotes
	parent           int32  // -1 for the root
	next             int32  // the node behind this value and all that it holds
	kind             kind
	flags            uint8
}

// Doc is a body that is being read. It remembers the first fault; every reader after that
// returns the zero value.
type Doc struct {
	body  []byte
	nodes []node
	err   *croft.Error
}

// Parse reads a whole JSON body. What is wrong with it, if anything, is told by Err. The
// Doc and what Raw returns alias body.
func Parse(body []byte) *Doc {
	d := &Doc{body: body}
	p := parser{doc: d, b: body}
	switch {
	case len(body) > croft.MaxBody:
		d.err = croft.Errorf(croft.TooLarge, "the body is larger than the %d bytes that are accepted", croft.MaxBody)
	case len(bytes.TrimLeft(body, " \t\r\n")) == 0:
		d.err = croft.Errorf(croft.InvalidRequest, "the body is empty: accepted is a JSON object")
	case !utf8.Valid(body):
		d.err = croft.Errorf(croft.InvalidRequest, "the body is not UTF-8")
	default:
		d.nodes = make([]node, 0, 24)
		p.value(-1, 0, 0, 0, 0)
		if p.space(); d.err == nil && p.i < len(p.b) {
			p.fault("there is more behind the JSON value")
		}
	}
	if d.err != nil {
		d.nodes = nil
	}
	return d
}

// Err is the first fault: of the body's form or of a value that was read; nil when there
// is none. It is a *croft.Error.
func (d *Doc) Err() error {
	if d.err == nil {
		return nil
	}
	return d.err
}

// Root is the whole body.
func (d *Doc) Root() Value {
	if len(d.nodes) == 0 {
		return Value{d: d, n: -1, up: -1}
	}
	return Value{d: d, n: 0, up: -1}
}

type parser struct {
	doc *Doc
	b   []byte
	i   int
}

func (p *parser) fault(what string) {
	if p.doc.err == nil {
		p.doc.err = croft.Errorf(croft.InvalidRequest, "the body is not JSON: byte %d: %s", p.i, what)
	}
	p.i = len(p.b)
}

func (p *parser) space() {
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case ' ', '\t', '\r', '\n':
			p.i++
		default:
			return
		}
	}
}

// value reads one value into a node.
func (p *parser) value(parent int32, keyStart, keyEnd uint32, flags uint8, depth int) {
	p.space()
	if p.i >= len(p.b) {
		p.fault("it ends where a value is expected")
		return
	}
	if len(p.doc.nodes) >= MaxValues {
		p.doc.err = croft.Errorf(croft.InvalidRequest, "the body holds more than the %d values that are accepted", MaxValues)
		p.i = len(p.b)
		return
	}
	n := int32(len(p.doc.nodes))
	k := kindOf(p.b[p.i])
	p.doc.nodes = append(p.doc.nodes, node{start: uint32(p.i), keyStart: keyStart, keyEnd: keyEnd, parent: parent, kind: k, flags: flags})
	switch k {
	case kindText:
		start, end, f := p.text()
		nd := &p.doc.nodes[n]
		nd.start, nd.end, nd.next = start, end, n+1
		nd.flags |= f
		return
	case kindObject:
		p.object(n, depth+1)
	case kindList:
		p.list(n, depth+1)
	case kindNumber:
		p.number()
	case kindBool:
		if p.b[p.i] == 't' {
			p.word("true")
		} else {
			p.word("false")
		}
	default:
		p.word("null")
	}
	nd := &p.doc.nodes[n]
	nd.end, nd.next = uint32(p.i), int32(len(p.doc.nodes))
}

// kindOf is the kind of the value that begins with c; what can begin none is left to word.
func kindOf(c byte) kind {
	switch c {
	case '"':
		return kindText
	case '{':
		return kindObject
	case '[':
		return kindList
	case 't', 'f':
		return kindBool
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return kindNumber
	}
	return kindNull
}

func (p *parser) word(w string) {
	if !bytes.HasPrefix(p.b[p.i:], []byte(w)) {
		p.fault("a value is expected")
		return
	}
	p.i += len(w)
}

func (p *parser) digits() bool {
	from := p.i
	for p.i < len(p.b) && '0' <= p.b[p.i] && p.b[p.i] <= '9' {
		p.i++
	}
	return p.i > from
}

func (p *parser) number() {
	if p.b[p.i] == '-' {
		p.i++
	}
	if p.i < len(p.b) && p.b[p.i] == '0' {
		p.i++
	} else if !p.digits() {
		p.fault("a digit is expected")
		return
	}
	if p.i < len(p.b) && p.b[p.i] == '.' {
		if p.i++; !p.digits() {
			p.fault("a digit is expected")
			return
		}
	}
	if p.i < len(p.b) && p.b[p.i]|0x20 == 'e' {
		if p.i++; p.i < len(p.b) && (p.b[p.i] == '+' || p.b[p.i] == '-') {
			p.i++
		}
		if !p.digits() {
			p.fault("a digit is expected")
		}
	}
}

// text reads a string and returns where it stands between its quotes.
func (p *parser) text() (start, end uint32, flags uint8) {
	p.i++
	start = uint32(p.i)
	for p.i < len(p.b) {
		c := p.b[p.i]
		switch {
		case c == '"':
			end = uint32(p.i)
			p.i++
			return start, end, flags
		case c == '\\':
			flags |= escaped
			if p.i+1 >= len(p.b) {
				p.fault("it ends within a string")
				return start, start, 0
			}
			switch p.b[p.i+1] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				p.i += 2
			case 'u':
				flags |= escapedU
				if p.i+6 > len(p.b) || hex4(p.b[p.i+2:]) < 0 {
					p.fault(`four hexadecimal digits are expected behind \u`)
					return start, start, 0
				}
				p.i += 6
			default:
				p.fault("this escape is not known")
				return start, start, 0
			}
		case c < 0x20:
			p.fault("a control character within a string must be escaped")
			return start, start, 0
		default:
			p.i++
		}
	}
	p.fault("it ends within a string")
	return start, start, 0
}

func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

func (p *parser) deep(depth int) bool {
	if depth > MaxDepth {
		p.doc.err = croft.Errorf(croft.InvalidRequest, "the body is nested deeper than the %d levels that are accepted", MaxDepth)
		p.i = len(p.b)
		return true
	}
	return false
}

func (p *parser) list(n int32, depth int) {
	if p.deep(depth) {
		return
	}
	p.i++
	if p.space(); p.i < len(p.b) && p.b[p.i] == ']' {
		p.i++
		return
	}
	for p.doc.err == nil {
		p.value(n, 0, 0, 0, depth)
		if !p.more(']') {
			return
		}
	}
}

// more reads the comma before the next element, or the end of the container.
func (p *parser) more(end byte) bool {
	if p.doc.err != nil {
		return false
	}
	p.space()
	switch {
	case p.i >= len(p.b):
		p.fault("it ends within a list or an object")
	case p.b[p.i] == ',':
		p.i++
		return true
	case p.b[p.i] == end:
		p.i++
	default:
		p.fault(`a comma or "` + string(end) + `" is expected`)
	}
	return false
}

func (p *parser) object(n int32, depth int) {
	if p.deep(depth) {
		return
	}
	p.i++
	if p.space(); p.i < len(p.b) && p.b[p.i] == '}' {
		p.i++
		return
	}
	members := 0
	for p.doc.err == nil {
		if p.space(); p.i >= len(p.b) || p.b[p.i] != '"' {
			p.fault("a member's name in double quotes is expected")
			return
		}
		start, end, f := p.text()
		if p.space(); p.doc.err == nil && (p.i >= len(p.b) || p.b[p.i] != ':') {
			p.fault("a colon is expected")
		}
		if p.doc.err != nil {
			return
		}
		p.i++
		if f != 0 {
			f = keyEscaped
		}
		p.value(n, start, end, f, depth)
		members++
		if !p.more('}') {
			break
		}
	}
	if p.doc.err == nil && members > 1 {
		p.unique(n, members)
	}
}

// unique refuses an object that gives a member twice: two readers of the same bytes would
// see different objects.
func (p *parser) unique(n int32, members int) {
	d := p.doc
	end := int32(len(d.nodes))
	twice := func(c int32) {
		d.err = croft.Invalid(d.path(c), "is given twice")
		p.i = len(p.b)
	}
	if members <= 16 {
		for a := n + 1; a < end; a = d.nodes[a].next {
			for b := n + 1; b < a; b = d.nodes[b].next {
				if d.sameKey(a, b) {
					twice(a)
					return
				}
			}
		}
		return
	}
	seen := make(map[string]struct{}, members)
	for a := n + 1; a < end; a = d.nodes[a].next {
		key := d.key(a)
		if _, ok := seen[key]; ok {
			twice(a)
			return
		}
		seen[key] = struct{}{}
	}
}

func (d *Doc) sameKey(a, b int32) bool {
	na, nb := &d.nodes[a], &d.nodes[b]
	if (na.flags|nb.flags)&keyEscaped != 0 {
		return d.key(a) == d.key(b)
	}
	return bytes.Equal(d.body[na.keyStart:na.keyEnd], d.body[nb.keyStart:nb.keyEnd])
}

// key is the name of the member n.
func (d *Doc) key(n int32) string {
	nd := &d.nodes[n]
	raw := d.body[nd.keyStart:nd.keyEnd]
	if nd.flags&keyEscaped == 0 {
		return string(raw)
	}
	return string(unescape(raw))
}

// isKey tells whether the member n is called name.
func (d *Doc) isKey(n int32, name string) bool {
	nd := &d.nodes[n]
	if nd.flags&keyEscaped != 0 {
		return d.key(n) == name
	}
	return string(d.body[nd.keyStart:nd.keyEnd]) == name
}

// path writes the way from the root to n.
func (d *Doc) path(n int32) string {
	if n < 0 || d.nodes[n].parent < 0 {
		return ""
	}
	parent := d.nodes[n].parent
	var name string
	if d.nodes[parent].kind == kindList {
		i := 0
		for c := parent + 1; c < n; c = d.nodes[c].next {
			i++
		}
		name = strconv.Itoa(i)
	} else {
		name = show(d.key(n))
	}
	return join(d.path(parent), name)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// show makes a member's name fit for a message: clients choose it.
func show(name string) string {
	const most = 64
	if len(name) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(name[cut]) {
			cut--
		}
		name = name[:cut] + "…"
	}
	for _, r := range name {
		if r <= ' ' || r == '"' || r == '\\' || r == 0x7f || !strconv.IsPrint(r) {
			return strconv.Quote(name)
		}
	}
	if name == "" {
		return `""`
	}
	return name
}
