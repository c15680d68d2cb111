package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"io"

	"croft"
)

// A cursor is base64url of: the format's number, the order's first letter, four bytes that
// stand for the list, and the place as JSON. It is not signed: a forged one names another
// place in the same list, and the list's own conditions still hold.
const (
	cursorFormat = 1
	cursorHead   = 6
	maxCursor    = 1024
)

// WriteCursor makes the cursor of a place in a list. list names the list and whatever of
// the request must not change between its pages; order is asc or desc; place is a small
// struct.
func WriteCursor(list, order string, place any) string {
	b, err := json.Marshal(place)
	if err != nil {
		panic("wire: a cursor's place has no JSON form: " + err.Error()) // a struct of ours
	}
	return base64.RawURLEncoding.EncodeToString(append(cursorHeader(list, order), b...))
}

func cursorHeader(list, order string) []byte {
	h := fnv.New32a()
	_, _ = io.WriteString(h, list) // a hash takes everything
	letter := byte('-')
	if order != "" {
		letter = order[0]
	}
	return binary.BigEndian.AppendUint32([]byte{cursorFormat, letter}, h.Sum32())
}

// ReadCursor reads into place what WriteCursor made of a place in the same list and order.
// Anything else is a 400 for the parameter page.
func ReadCursor(text, list, order string, place any) error {
	bad := func(why string) error {
		return croft.Invalid("page", "%s: accepted is next_page or prev_page of an earlier answer of this list, unchanged", why)
	}
	if len(text) > maxCursor {
		return bad("is no cursor")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < cursorHead || b[0] != cursorFormat {
		return bad("is no cursor")
	}
	want := cursorHeader(list, order)
	switch {
	case !bytes.Equal(b[2:cursorHead], want[2:]):
		return bad("is the cursor of another list")
	case b[1] != want[1]:
		return croft.Invalid("page", "the cursor was made with another order: accepted is the order of the request that it came from")
	}
	dec := json.NewDecoder(bytes.NewReader(b[cursorHead:]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(place); err != nil || WriteCursor(list, order, place) != text {
		return bad("is no cursor")
	}
	return nil
}
