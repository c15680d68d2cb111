package wire

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"

	"croft"
)

// Value is one value of a body, or the place where one could stand and does not. The zero
// Value is absent.
type Value struct {
	d    *Doc
	n    int32  // its node; -1 where there is none
	up   int32  // the object that holds it
	name string // its name there
}

// Err is the Doc's first fault.
func (v Value) Err() error { return v.d.Err() }

// Path is the way from the body's root to the value, as in agent.tools.0.name.
func (v Value) Path() string {
	if v.n >= 0 {
		return v.d.path(v.n)
	}
	return join(v.d.path(v.up), v.name)
}

// Fail notes a fault of the value, unless one was noted before.
func (v Value) Fail(format string, args ...any) {
	if v.d.err == nil {
		v.d.err = croft.Invalid(v.Path(), format, args...)
	}
}

// FailWith notes err as the value's fault, unless one was noted before: a *croft.Error as
// it is, with the value's path where it has none, anything else by its text.
func (v Value) FailWith(err error) {
	if v.d.err != nil {
		return
	}
	if e, ok := err.(*croft.Error); ok { //nolint:errorlint // a wrapped one would lose its wrapping
		c := *e
		if c.Path == "" {
			c.Path = v.Path()
		}
		v.d.err = &c
		return
	}
	v.Fail("%v", err)
}

// NotServed notes that the part of Croft which reads this value is not built yet. what
// names the value; empty for the field as a whole.
func (v Value) NotServed(what string) {
	v.Fail("%s", strings.TrimPrefix(what+" is not served by this version of Croft", " "))
}

func (v Value) node() *node { return &v.d.nodes[v.n] }

// is tells whether a value of that kind stands here and no fault was noted.
func (v Value) is(k kind) bool { return v.n >= 0 && v.d.err == nil && v.node().kind == k }

// expect notes what is accepted here.
func (v Value) expect(accepted string) {
	if v.n < 0 {
		v.Fail("is required: accepted is %s", accepted)
		return
	}
	v.Fail("accepted is %s", accepted)
}

// Present tells whether there is a value, be it null.
func (v Value) Present() bool { return v.d != nil && v.n >= 0 && v.d.err == nil }

// Given tells whether there is a value other than null.
func (v Value) Given() bool { return v.Present() && v.node().kind != kindNull }

// IsText tells whether the value is a string.
func (v Value) IsText() bool { return v.is(kindText) }

// Is tells whether the value is the string s.
func (v Value) Is(s string) bool {
	if !v.is(kindText) {
		return false
	}
	nd := v.node()
	raw := v.d.body[nd.start:nd.end]
	if nd.flags&escaped != 0 {
		raw = unescape(raw)
	}
	return string(raw) == s
}

// IsObject tells whether the value is an object.
func (v Value) IsObject() bool { return v.is(kindObject) }

// AnyObject tells whether the value is an object, and notes the fault where it is not.
func (v Value) AnyObject() bool {
	if v.is(kindObject) {
		return true
	}
	v.expect("an object")
	return false
}

// Empty tells whether the value holds nothing: it is absent, null, "", [] or {}.
func (v Value) Empty() bool {
	if !v.Given() {
		return true
	}
	switch n := v.node(); n.kind {
	case kindText:
		return n.start == n.end
	case kindList, kindObject:
		return n.next == v.n+1
	}
	return false
}

// Object reads an object that may hold the named members and no other. Members are taken
// from it with Get.
func (v Value) Object(fields ...string) Value {
	if !v.AnyObject() {
		return Value{d: v.d, n: -1, up: -1}
	}
	for c := v.n + 1; c < v.node().next; c = v.d.nodes[c].next {
		known := false
		for _, f := range fields {
			if v.d.isKey(c, f) {
				known = true
				break
			}
		}
		if !known {
			v.d.err = croft.Invalid(v.d.path(c), "%s", unknown(v.d.key(c), fields))
			return Value{d: v.d, n: -1, up: -1}
		}
	}
	return v
}

// Get is the member of an object.
func (v Value) Get(name string) Value {
	if v.is(kindObject) {
		for c := v.n + 1; c < v.node().next; c = v.d.nodes[c].next {
			if v.d.isKey(c, name) {
				return Value{d: v.d, n: c, up: v.n, name: name}
			}
		}
	}
	return Value{d: v.d, n: -1, up: v.n, name: name}
}

// Members reads an object whose members the client names, of at most high members.
func (v Value) Members(high int) iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if !v.AnyObject() {
			return
		}
		if n := v.count(); n > high {
			v.Fail("accepted are at most %d pairs; this has %d", high, n)
			return
		}
		for c := v.n + 1; c < v.node().next; c = v.d.nodes[c].next {
			key := v.d.key(c)
			if !yield(key, Value{d: v.d, n: c, up: v.n, name: key}) || v.d.err != nil {
				return
			}
		}
	}
}

// List reads a list of low to high elements and yields them with their places.
func (v Value) List(low, high int) iter.Seq2[int, Value] {
	return func(yield func(int, Value) bool) {
		n := v.Len(low, high)
		if n == 0 {
			return
		}
		i := 0
		for c := v.n + 1; c < v.node().next; c = v.d.nodes[c].next {
			if !yield(i, Value{d: v.d, n: c, up: v.n}) || v.d.err != nil {
				return
			}
			i++
		}
	}
}

// Len checks a list of low to high elements and counts them; 0 after a fault.
func (v Value) Len(low, high int) int {
	if !v.is(kindList) {
		v.expect("a list" + span(low, high, "element"))
		return 0
	}
	n := v.count()
	if n < low || n > high {
		v.Fail("accepted is a list%s; this has %d", span(low, high, "element"), n)
		return 0
	}
	return n
}

func (v Value) count() int {
	n := 0
	for c := v.n + 1; c < v.node().next; c = v.d.nodes[c].next {
		n++
	}
	return n
}

// span says how many of something are accepted.
func span(low, high int, what string) string {
	switch {
	case high < 0 && low <= 0:
		return ""
	case high < 0:
		return " of at least " + count(low, what)
	case low <= 0:
		return " of at most " + count(high, what)
	case low == high:
		return " of " + count(low, what)
	}
	return " of " + strconv.Itoa(low) + " to " + count(high, what)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// Text reads a string of low to high characters; high < 0 is without limit. The character
// U+0000 is refused, because a database's text cannot hold it.
func (v Value) Text(low, high int) string {
	if !v.is(kindText) {
		v.expect("text" + span(low, high, "character"))
		return ""
	}
	nd := v.node()
	raw := v.d.body[nd.start:nd.end]
	var s string
	if nd.flags&escaped == 0 {
		s = string(raw)
	} else {
		s = string(unescape(raw))
	}
	if len(s) < low || (high >= 0 && len(s) > high) { // characters are no more than bytes
		if n := utf8.RuneCountInString(s); n < low || n > high {
			v.Fail("accepted is text%s; this has %d", span(low, high, "character"), n)
			return ""
		}
	}
	if nd.flags&escapedU != 0 && strings.IndexByte(s, 0) >= 0 {
		v.Fail("accepted is text without the character U+0000")
		return ""
	}
	return s
}

// TextOrNull reads a string as Text does; nil where there is none, or null.
func (v Value) TextOrNull(high int) *string {
	if !v.Given() {
		return nil
	}
	s := v.Text(0, high)
	return &s
}

// OneOf reads a string that is one of the accepted ones; empty after a fault.
func (v Value) OneOf(accepted ...string) string { return OneOf(v, accepted...) }

// OneOf is Value.OneOf for types of text.
func OneOf[T ~string](v Value, accepted ...T) T {
	for _, a := range accepted {
		if v.Is(string(a)) {
			return a
		}
	}
	v.expect(Choice(accepted...))
	return ""
}

// Choice lists, for a message, what may be chosen.
func Choice[T ~string](names ...T) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(string(n))
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}

// Bool reads true or false.
func (v Value) Bool() bool {
	if !v.is(kindBool) {
		v.expect("true or false")
		return false
	}
	return v.d.body[v.node().start] == 't'
}

// Int reads a whole number from low to high; 0 after a fault.
func (v Value) Int(low, high int64) int64 {
	if v.is(kindNumber) {
		n, err := strconv.ParseInt(string(v.Raw()), 10, 64)
		if err == nil && n >= low && n <= high {
			return n
		}
	}
	v.expect(fmt.Sprintf("a whole number from %d to %d", low, high))
	return 0
}

// Float reads a number from low to high; 0 after a fault.
func (v Value) Float(low, high float64) float64 {
	if v.is(kindNumber) {
		f, err := strconv.ParseFloat(string(v.Raw()), 64)
		if err == nil && f >= low && f <= high {
			return f
		}
	}
	v.expect(fmt.Sprintf("a number from %g to %g", low, high))
	return 0
}

// Raw is the value as it stands in the body, a string without its quotes; nil where there
// is none. It aliases the body.
func (v Value) Raw() []byte {
	if !v.Present() {
		return nil
	}
	nd := v.node()
	return v.d.body[nd.start:nd.end:nd.end]
}
