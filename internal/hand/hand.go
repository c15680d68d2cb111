// Package hand is the tool executor inside a sandbox, and the protocol to it. It owns the
// six tools of the agent toolset (bash, read, write, edit, glob, grep), and the results
// that the other side has not yet acknowledged; the persistent shell behind bash is package
// shell's. It may import the standard library and its own two sub-packages alone: the hand is
// the same binary as everything else in Croft, entered from the init of
// croft/internal/entry, so every import here is paid at the start of each sandbox.
//
// A driver starts the hand as argv[0] = Program with the sandbox's working folder as its
// directory and the sandbox's environment as its own. The worker holds the other ends of
// its standard input and output and speaks through a Client:
//
//	worker ── Client ── frames ── Main ─┬─ shell (bash calls, one after another)
//	                                    └─ read, write, edit, glob, grep (side by side)
//
// # Protocol
//
// Both directions carry frames: four bytes of length, high byte first, then one JSON
// object of at most MaxFrame bytes, told apart by "type". The hand opens:
//
//	hello   {version, pid}                      once, before anything else
//	result  {seq, id, content, is_error}        the answer to a call that was taken
//	refused {seq, id, message}                  the answer to one that was not: nothing ran
//
// and the client asks:
//
//	call    {seq, id, tool, input, timeout_ms}  id is the event id, the idempotency key;
//	                                            seq tells the answers to one id apart
//	cancel  {id}                                interrupt it; its result still comes
//	ack     {id}                                the result is safe elsewhere: forget it
//	drain   {}                                  take no more calls, finish, end
//	close   {}                                  end now; so does the end of the stream
//
// A call whose id is known attaches to the running command, or is answered from the stored
// result: a command never runs twice. After its ack an id is spent and refused.
//
// # Processes
//
// Main owns every child of its process: it reaps them all in one place, so it must be the
// whole program, and it may be PID 1 of a sandbox or the child of another init, with no
// switch for either. On Linux it is also the subreaper of what it starts, so that at its
// end it finds and kills what detached itself. It needs no privilege and takes none away.
package hand

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// Program is the base name of argv[0] by which the binary knows that it is to be the hand.
const Program = "croft-hand"

// Invoked tells whether a process started with these arguments is to be the hand.
func Invoked(args []string) bool {
	return len(args) > 0 && filepath.Base(args[0]) == Program
}

// Version is the protocol's version. Both sides must have the same.
const Version = 1

// Limits of the hand.
const (
	// MaxFrame bounds one frame of the protocol, in bytes.
	MaxFrame = 16 << 20
	// MaxOutput is how many characters of a tool's text the model gets. Of more, the whole
	// goes to a file in the sandbox, and the model gets the head, the tail and the path.
	MaxOutput = 100_000
	// MaxCalls bounds the calls that run or wait at one time; the next is refused.
	MaxCalls = 64
	// MaxUnacked bounds the results kept for want of an ack; with more, calls are refused.
	MaxUnacked = 1024
	// DefaultTimeout ends a call that names no time-out of its own.
	DefaultTimeout = 120 * time.Second
)

// ErrClosed says that the stream to the hand has ended: the hand died, or the client was
// closed. Calls in flight may or may not have run.
var ErrClosed = errors.New("the hand is gone")

// Call is one use of a tool.
type Call struct {
	// ID is the event id of the tool use. It is the idempotency key.
	ID string
	// Tool is one of the names in package tools.
	Tool string
	// Input is the JSON object that the model wrote.
	Input json.RawMessage
	// Timeout is the most that the call may take, whatever the input asks for; 0 sets no
	// such bound. An input that asks for nothing gets DefaultTimeout.
	Timeout time.Duration
}

// Result is what a tool returned: at least one content block of the wire (text, image or
// document), none of them an empty text.
type Result struct {
	Content []json.RawMessage `json:"content"`
	IsError bool              `json:"is_error"`
}

// Text joins the result's text blocks.
func (r Result) Text() string {
	var b strings.Builder
	for _, raw := range r.Content {
		var block textBlock
		if json.Unmarshal(raw, &block) == nil && block.Type == "text" {
			b.WriteString(block.Text)
		}
	}
	return b.String()
}

type textBlock struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type sourceBlock struct {
	Type   string `json:"type"`
	Source source `json:"source"`
}

type source struct {
	Type      string `json:"type"`
	MediaType string `json:"media_type"`
	Data      []byte `json:"data"`
}

// noText stands where a tool had nothing to say, because the Messages API refuses an
// empty text block.
const noText = "(no output)"

// textResult makes a result of one text block, which is valid UTF-8 without NUL.
func textResult(text string, isError bool) Result {
	if text == "" {
		text = noText
	}
	return Result{Content: []json.RawMessage{encode(textBlock{"text", presentable(text)})}, IsError: isError}
}

// mediaResult makes a result of one base64 block of the given type, image or document.
func mediaResult(kind, mediaType string, data []byte) Result {
	return Result{Content: []json.RawMessage{encode(sourceBlock{kind, source{"base64", mediaType, data}})}}
}

// presentable replaces what JSON, databases and model APIs refuse: bytes that are no
// UTF-8, each of them, and NUL.
func presentable(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 64)
	for _, r := range s {
		if r == 0 {
			r = utf8.RuneError
		}
		b.WriteRune(r) // an invalid byte is read as RuneError, width 1
	}
	return b.String()
}

// encode writes a value of this package's own making as JSON.
func encode(v any) json.RawMessage {
	data, err := marshal(v)
	if err != nil {
		panic("hand: " + err.Error())
	}
	return data
}

// marshal writes v as JSON without the escapes for HTML, which triple the size of code.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
