package session

import (
	"bytes"
	"net/url"

	"croft/internal/wire"
)

// setting is where content blocks stand, which decides what is accepted of them.
type setting int

const (
	inMessage setting = iota
	inSystem
	inResult
	inSearchResult
)

// accepted are the types of blocks of a setting.
func (s setting) accepted() []string {
	switch s {
	case inMessage:
		return []string{"text", "image", "document"}
	case inResult:
		return []string{"text", "image", "document", "search_result"}
	default:
		return []string{"text"}
	}
}

const (
	// maxImage is the longest image, in base64, that model providers take.
	maxImage           = 10 << 20
	maxURL             = 8192
	maxTitleOfDocument = 500
)

// appendBlock reads a content block and appends it in canonical form. A block that is
// accepted here can be sent to a model: what would make every later request of the session
// fail is refused at once.
func appendBlock(dst []byte, v wire.Value, in setting) []byte {
	if !v.AnyObject() {
		return dst
	}
	t := v.Get("type")
	if t.Is("redacted") {
		t.Fail("redacted blocks appear only in what the platform emits: accepted is %s", wire.Choice(in.accepted()...))
	}
	switch t.OneOf(in.accepted()...) {
	case "text":
		text := v.Object("type", "text").Get("text")
		checkText(text, in)
		dst = append(dst, `{"type":"text","text":`...)
		dst = text.Append(dst)
	case "image":
		dst = append(dst, `{"type":"image","source":`...)
		dst = appendSource(dst, v.Object("type", "source").Get("source"), imageSources)
	case "document":
		o := v.Object("type", "source", "title", "context")
		dst = append(dst, `{"type":"document","source":`...)
		dst = appendSource(dst, o.Get("source"), documentSources)
		dst = appendOptional(dst, o.Get("title"), "title", maxTitleOfDocument)
		dst = appendOptional(dst, o.Get("context"), "context", -1)
	case "search_result":
		dst = appendSearchResult(dst, v)
	default:
		return dst
	}
	return append(dst, '}')
}

// checkText refuses text that a model's server would refuse. What a tool printed may be
// nothing but white space; what a person says may not.
func checkText(v wire.Value, in setting) {
	switch {
	case !v.IsText():
		v.Text(1, -1)
	case v.Empty():
		v.Fail("accepted is text that is not empty")
	case (in == inMessage || in == inSystem) && v.Blank():
		v.Fail("accepted is text that holds more than white space")
	}
}

// appendOptional appends a member of text where it is there and not empty.
func appendOptional(dst []byte, v wire.Value, name string, high int) []byte {
	if v.Empty() {
		if v.Given() {
			v.Text(0, high)
		}
		return dst
	}
	v.Text(1, high)
	dst = append(wire.AppendText(append(dst, ','), name), ':')
	return v.Append(dst)
}

func appendSearchResult(dst []byte, v wire.Value) []byte {
	o := v.Object("type", "source", "title", "content", "citations")
	source, title := o.Get("source"), o.Get("title")
	source.Text(1, -1)
	title.Text(1, -1)
	dst = append(dst, `{"type":"search_result","source":`...)
	dst = source.Append(dst)
	dst = append(dst, `,"title":`...)
	dst = title.Append(dst)
	dst = append(dst, `,"content":[`...)
	for i, e := range o.Get("content").List(0, maxContent) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendBlock(dst, e, inSearchResult)
	}
	enabled := false
	if c := o.Get("citations"); c.Given() {
		if e := c.Object("enabled").Get("enabled"); e.Given() {
			enabled = e.Bool()
		}
	}
	dst = append(dst, `],"citations":{"enabled":`...)
	if enabled {
		return append(dst, "true}"...)
	}
	return append(dst, "false}"...)
}

// sources say what is accepted as the source of a kind of block.
type sources struct {
	types []string
	media []string // of base64
	limit int      // of base64, in bytes; 0: the body's alone
}

var (
	imageSources    = &sources{[]string{"base64", "url"}, []string{"image/jpeg", "image/png", "image/gif", "image/webp"}, maxImage}
	documentSources = &sources{[]string{"base64", "text", "url"}, []string{"application/pdf"}, 0}
)

// appendSource reads the source of an image or a document and appends it.
func appendSource(dst []byte, v wire.Value, s *sources) []byte {
	if !v.AnyObject() {
		return dst
	}
	t := v.Get("type")
	if t.Is("file") {
		t.NotServed("file")
	}
	switch t.OneOf(s.types...) {
	case "base64":
		o := v.Object("type", "media_type", "data")
		media := o.Get("media_type").OneOf(s.media...)
		data := o.Get("data")
		checkBase64(data, s.limit)
		dst = append(dst, `{"type":"base64","media_type":`...)
		dst = append(wire.AppendText(dst, media), `,"data":`...)
		dst = data.Append(dst)
	case "text":
		o := v.Object("type", "media_type", "data")
		o.Get("media_type").OneOf("text/plain")
		data := o.Get("data")
		checkText(data, inMessage)
		dst = append(dst, `{"type":"text","media_type":"text/plain","data":`...)
		dst = data.Append(dst)
	case "url":
		u := v.Object("type", "url").Get("url")
		text := u.Text(1, maxURL)
		if p, err := url.Parse(text); err != nil || (p.Scheme != "https" && p.Scheme != "http") || p.Host == "" {
			u.Fail("accepted is a whole URL that begins with https:// or http://")
		}
		dst = append(dst, `{"type":"url","url":`...)
		dst = wire.AppendText(dst, text)
	default:
		return dst
	}
	return append(dst, '}')
}

var base64Letters = func() (t [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		t[c] = true
	}
	return t
}()

// checkBase64 checks the alphabet and the padding, without decoding.
func checkBase64(v wire.Value, limit int) {
	const accepted = "accepted is standard base64 with its padding and without line breaks"
	if !v.IsText() {
		v.Text(1, -1)
		return
	}
	b := v.Raw()
	if bytes.IndexByte(b, '\\') >= 0 {
		b = []byte(v.Text(0, -1)) // some writers of JSON escape the slash
	}
	if limit > 0 && len(b) > limit {
		v.Fail("accepted are at most %d characters of base64 (%d MB); this has %d", limit, limit>>20, len(b))
		return
	}
	n := len(b)
	for n > 0 && len(b)-n < 2 && b[n-1] == '=' {
		n--
	}
	if len(b) == 0 || len(b)%4 != 0 {
		v.Fail("%s; this has %d characters, which is not a multiple of four above none", accepted, len(b))
		return
	}
	for i, c := range b[:n] {
		if !base64Letters[c] {
			v.Fail("%s; character %d is none of its letters", accepted, i)
			return
		}
	}
}
