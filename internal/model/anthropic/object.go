package anthropic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

var errNoType = errors.New("no type")

// object is a JSON object that keeps the order and the bytes of its fields, so that a block
// changes only where a delta changed it.
type object []field

type field struct {
	key string
	raw json.RawMessage
}

// parseObject reads one JSON object.
func parseObject(raw json.RawMessage) (object, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil {
		return nil, err
	} else if tok != json.Delim('{') {
		return nil, fmt.Errorf("%v is no object", tok)
	}
	var o object
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, ok := tok.(string)
		if !ok {
			return nil, fmt.Errorf("%v is no key", tok)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, err
		}
		o.set(key, v)
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	return o, nil
}

// set replaces the field of that key, or adds one at the end.
func (o *object) set(key string, raw json.RawMessage) {
	for i := range *o {
		if (*o)[i].key == key {
			(*o)[i].raw = raw
			return
		}
	}
	*o = append(*o, field{key, raw})
}

// setString sets a string.
func (o *object) setString(key, value string) {
	raw, _ := json.Marshal(value) // a string always marshals
	o.set(key, raw)
}

// bytes writes the object without spaces between the fields.
func (o object) bytes() json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		writeString(&b, f.key)
		b.WriteByte(':')
		b.Write(f.raw)
	}
	b.WriteByte('}')
	return b.Bytes()
}
