package wire

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"

	"croft"
)

// Limits of metadata, in characters.
const (
	maxMetaKey   = 64
	maxMetaValue = 512
)

// Metadata reads the metadata of a resource that is being made; empty, not nil, where there
// is none.
func Metadata(v Value) map[string]string {
	m := map[string]string{}
	if !v.Given() {
		return m
	}
	for key, e := range v.Members(croft.MaxMetadata) {
		metaKey(key, e)
		m[key] = e.Text(0, maxMetaValue)
	}
	return m
}

// MetadataPatch reads a change of metadata: nil deletes a key. It is nil where there is no
// change.
func MetadataPatch(v Value) map[string]*string {
	if !v.Given() {
		return nil
	}
	const most = 2 * croft.MaxMetadata // every key replaced by another
	m := map[string]*string{}
	for key, e := range v.Members(most) {
		metaKey(key, e)
		m[key] = e.TextOrNull(maxMetaValue)
	}
	return m
}

func metaKey(key string, e Value) {
	if n := utf8.RuneCountInString(key); n < 1 || n > maxMetaKey {
		e.Fail("accepted is a key of 1 to %d characters; this has %d", maxMetaKey, n)
	}
	if strings.IndexByte(key, 0) >= 0 {
		e.Fail("accepted is a key without the character U+0000")
	}
}

// Additions checks the member croft of a body that takes no additions yet: it may be there
// and must hold nothing, since a wish that is ignored would be taken for granted.
func Additions(v Value) {
	if v.Given() {
		v.Object()
	}
}

func blank(b []byte) bool { return len(bytes.TrimSpace(b)) == 0 }

// unknown says that a member is not known, what may have been meant, and what is.
func unknown(name string, fields []string) string {
	if len(fields) == 0 {
		return "is not known: accepted is an object without members"
	}
	best, distance := "", len(name)/3+2
	for _, f := range fields {
		d := edits(name, f)
		if len(f) > 3 && (strings.HasPrefix(name, f) || strings.HasPrefix(f, name) && len(name) > 2) {
			d = min(d, 1)
		}
		if d < distance {
			best, distance = f, d
		}
	}
	sorted := slices.Clone(fields)
	slices.Sort(sorted)
	text := "is not known"
	if best != "" {
		text += "; was " + best + " meant?"
	} else {
		text += ":"
	}
	return text + " Accepted are " + strings.Join(sorted, ", ")
}

// edits is the number of letters to insert, delete or replace between a and b, counted no
// further than the longest name that could be meant.
func edits(a, b string) int {
	const most = 64
	if len(a) > most || len(b) > most {
		return most
	}
	var rows [2][most + 1]int
	prev, cur := &rows[0], &rows[1]
	for j := 0; j <= len(b); j++ {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
		}
		prev, cur = cur, prev
	}
	return prev[len(b)]
}
