// Package sse is the wire form of live streams: server-sent events, written to thousands
// of clients at once and read by Croft's own. It imports the standard library alone; the
// API opens a Source and gives it to a Hub, the worker and the command line read with a
// Reader.
//
// A frame on the wire:
//
//	event: agent.message
//	id: sevt_01…            (absent where a client cannot resume behind the frame)
//	data: {"type":"agent.message",…}
//
// and an empty line. Data is JSON and takes one line. Where nothing else was sent for a
// while, the stream carries "event: ping". A stream that the server ends with a reason
// carries "event: error" with the API's error envelope as its last frame.
//
// # How a stream lives
//
// An ordinary handler authenticates, opens the Source and calls Hub.Serve. From there:
//
//	            ┌─ HTTP/1.1 over plain TCP: the connection is taken over; the handler
//	            │  returns and with it go its stack, its buffers and its request
//	Hub.Serve ──┤
//	            └─ anything else (HTTP/2, TLS, a call in process): the handler stays
//	               and writes
//
// A stream that was taken over holds one goroutine and its socket, nothing more: the
// goroutine waits for the Source, for the wheel and for the hub's end, and borrows a
// buffer while it writes. It reads nothing from the client, so a client that left is
// noticed at the second write after that: by the next event, or by the wheel within two
// heartbeats. One wheel serves the heartbeats of all streams.
//
// A client that reads slowly holds up nobody else. While its write is stuck the Source
// queues for it, up to the Source's own bound; a piece that could not be written within
// the write time-out ends the stream, with the reason as the last frame if the client
// takes it. The client comes back with Last-Event-ID.
package sse

import (
	"bytes"
	"context"
)

// ContentType is the media type of a stream.
const ContentType = "text/event-stream; charset=utf-8"

// Frame is one event of a stream.
type Frame struct {
	ID    string // what Last-Event-ID may name; empty where a client cannot resume
	Event string // the kind; empty means "message" to a client
	Data  []byte
}

// Source is what a stream delivers. One goroutine at a time reads it.
type Source interface {
	// Ready is signalled when Poll may have something. Signals may be merged.
	Ready() <-chan struct{}
	// Poll returns what there is without waiting for more; nothing is no error. Frames
	// and their data are not changed afterwards by anyone. io.EOF ends the stream
	// cleanly, any other error ends it with an error frame.
	Poll(ctx context.Context) ([]Frame, error)
	// Close releases the source.
	Close()
}

// AppendFrame writes a frame behind dst. Line ends in the id and the event's kind are
// dropped, for they would begin a field of their own; in the data they become spaces,
// which changes nothing in JSON, where a line end inside a string is written as an escape.
func AppendFrame(dst []byte, f Frame) []byte {
	dst = appendHead(dst, f)
	at := len(dst)
	dst = append(dst, f.Data...)
	flatten(dst[at:])
	return append(dst, "\n\n"...)
}

// appendHead writes all that stands before the data.
func appendHead(dst []byte, f Frame) []byte {
	if f.Event != "" {
		dst = append(dst, "event: "...)
		dst = appendLine(dst, f.Event)
	}
	if f.ID != "" {
		dst = append(dst, "id: "...)
		dst = appendLine(dst, f.ID)
	}
	return append(dst, "data: "...)
}

func appendLine(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c != '\n' && c != '\r' && c != 0 {
			dst = append(dst, c)
		}
	}
	return append(dst, '\n')
}

// flatten turns line ends into spaces, in place.
func flatten(b []byte) {
	for {
		i := bytes.IndexAny(b, "\r\n")
		if i < 0 {
			return
		}
		b[i] = ' '
		b = b[i+1:]
	}
}

// Ping is the heartbeat.
var ping = AppendFrame(nil, Frame{Event: "ping", Data: []byte(`{"type":"ping"}`)})
