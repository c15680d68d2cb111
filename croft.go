// Package croft is the language of the project: the resources, identifiers,
// events and errors that every other package speaks. It holds names and shapes,
// no behaviour that touches a disk or a network, and imports the standard
// library alone. See ARCHITECTURE.md for where a request goes.
package croft

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Prefixes of identifiers, as they stand on the wire.
const (
	PrefixAgent       = "agent"
	PrefixEnvironment = "env"
	PrefixSession     = "sesn"
	PrefixEvent       = "sevt"
	PrefixThread      = "sthr"
	PrefixWork        = "work"
	PrefixWorkspace   = "wrkspc"
	PrefixKey         = "key"
	PrefixRequest     = "req"
)

// idAlphabet is Crockford's base 32 in lower case: its order is the order of the values.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

var idState struct {
	sync.Mutex
	micros uint64
	low    uint64
}

// NewID returns prefix_ and 26 characters that carry 128 bits: 56 of time (microseconds
// since 1970), 8 of zero-based overflow and 64 of randomness. Ids made by one process sort
// in the order they were made; ids of different processes sort by their clocks.
func NewID(prefix string) string {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(fmt.Sprintf("croft: no randomness: %v", err)) // crypto/rand never fails on a supported system
	}
	low := binary.BigEndian.Uint64(b[:])
	idState.Lock()
	micros := uint64(time.Now().UnixMicro())
	if micros <= idState.micros {
		// Same microsecond, or a clock set back: stay in order by counting on.
		micros = idState.micros + 1
	}
	idState.micros = micros
	idState.Unlock()
	return prefix + "_" + encodeID(micros<<8, low)
}

// encodeID writes 128 bits, high half first, as 26 base-32 characters.
func encodeID(hi, lo uint64) string {
	var out [26]byte
	for i := 25; i >= 0; i-- {
		out[i] = idAlphabet[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return string(out[:])
}

// HasPrefix tells whether id is written as an identifier of the given kind.
func HasPrefix(id, prefix string) bool {
	rest, ok := strings.CutPrefix(id, prefix+"_")
	return ok && rest != ""
}

// Time is a moment: microseconds since 1970 in UTC. It is an integer in the store and
// RFC 3339 on the wire. Zero means "not set" and is written as null.
type Time int64

// Now returns the present moment.
func Now() Time { return Time(time.Now().UnixMicro()) }

// TimeOf converts from the standard library's time.
func TimeOf(t time.Time) Time { return Time(t.UnixMicro()) }

// Std converts to the standard library's time, in UTC.
func (t Time) Std() time.Time { return time.UnixMicro(int64(t)).UTC() }

// String writes t as RFC 3339 with microseconds.
func (t Time) String() string { return t.Std().Format("2006-01-02T15:04:05.000000Z") }

// Add returns t moved by d.
func (t Time) Add(d time.Duration) Time { return t + Time(d.Microseconds()) }

// MarshalJSON writes RFC 3339, or null for zero.
func (t Time) MarshalJSON() ([]byte, error) {
	if t == 0 {
		return []byte("null"), nil
	}
	return []byte(`"` + t.String() + `"`), nil
}

// UnmarshalJSON reads RFC 3339 or null.
func (t *Time) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		*t = 0
		return nil
	}
	var std time.Time
	if err := json.Unmarshal(b, &std); err != nil {
		return err
	}
	*t = TimeOf(std)
	return nil
}
