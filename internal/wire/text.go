package wire

import (
	"unicode/utf16"
	"unicode/utf8"
)

// unescape returns the characters of a JSON string, without its quotes, that the parser has
// passed. Half a surrogate pair becomes U+FFFD: some readers of JSON refuse a body that
// holds one, and a session's history is sent to a model again and again.
func unescape(raw []byte) []byte {
	dst := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			dst = append(dst, raw[i])
			i++
			continue
		}
		switch c := raw[i+1]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := hex4(raw[i+2:])
			i += 6
			if utf16.IsSurrogate(r) {
				low := rune(-1)
				if i+6 <= len(raw) && raw[i] == '\\' && raw[i+1] == 'u' {
					low = hex4(raw[i+2:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r)
			continue
		default:
			dst = append(dst, c)
		}
		i += 2
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// AppendText appends s as a JSON string in its quotes. Nothing is escaped that need not be.
func AppendText[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// Append appends the value in canonical form: no space between its parts, strings escaped
// where they must be and nowhere else, members and numbers as the client wrote them. Where
// there is no value it appends null.
func (v Value) Append(dst []byte) []byte {
	if !v.Present() {
		return append(dst, "null"...)
	}
	return v.d.append(dst, v.n)
}

func (d *Doc) append(dst []byte, n int32) []byte {
	nd := &d.nodes[n]
	switch nd.kind {
	case kindText:
		return d.appendText(dst, d.body[nd.start:nd.end], nd.flags&escaped != 0)
	case kindList:
		dst = append(dst, '[')
		for c := n + 1; c < nd.next; c = d.nodes[c].next {
			if c > n+1 {
				dst = append(dst, ',')
			}
			dst = d.append(dst, c)
		}
		return append(dst, ']')
	case kindObject:
		dst = append(dst, '{')
		for c := n + 1; c < nd.next; c = d.nodes[c].next {
			if c > n+1 {
				dst = append(dst, ',')
			}
			m := &d.nodes[c]
			dst = d.appendText(dst, d.body[m.keyStart:m.keyEnd], m.flags&keyEscaped != 0)
			dst = d.append(append(dst, ':'), c)
		}
		return append(dst, '}')
	default:
		return append(dst, d.body[nd.start:nd.end]...)
	}
}

func (d *Doc) appendText(dst, raw []byte, escaped bool) []byte {
	if escaped {
		return AppendText(dst, unescape(raw))
	}
	dst = append(dst, '"')
	dst = append(dst, raw...)
	return append(dst, '"')
}

// Blank tells whether a string holds nothing but white space, or nothing.
func (v Value) Blank() bool {
	if !v.is(kindText) {
		return false
	}
	nd := v.node()
	raw := v.d.body[nd.start:nd.end]
	if len(raw) > 0 && raw[0] > ' ' && raw[0] < utf8.RuneSelf && raw[0] != '\\' {
		return false
	}
	if nd.flags&escaped != 0 {
		raw = unescape(raw)
	}
	return blank(raw)
}
