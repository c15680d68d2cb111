package sse

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// readAll returns every event, and the error that ended the reading.
func readAll(r *Reader) ([]Frame, error) {
	var all []Frame
	for {
		f, err := r.Next()
		if err != nil {
			return all, err
		}
		all = append(all, f)
	}
}

func TestReader(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     []Frame
		lastID   string
	}{
		{"one", "event: a\nid: 1\ndata: {}\n\n", []Frame{{ID: "1", Event: "a", Data: []byte("{}")}}, "1"},
		{"no space behind the colon", "event:a\ndata:x\n\n", []Frame{{Event: "a", Data: []byte("x")}}, ""},
		{"one space is taken, not two", "data:  x\n\n", []Frame{{Data: []byte(" x")}}, ""},
		{"several lines of data", "data: a\ndata\ndata: b\n\n", []Frame{{Data: []byte("a\n\nb")}}, ""},
		{"comments and unknown fields", ": hello\nretry: 5\nfoo: bar\ndata: x\n\n", []Frame{{Data: []byte("x")}}, ""},
		{"no data is no event, but its id counts", "event: a\nid: 7\n\ndata: x\n\n", []Frame{{Data: []byte("x")}}, "7"},
		{"the id lasts", "id: 1\ndata: a\n\ndata: b\n\n", []Frame{{ID: "1", Data: []byte("a")}, {Data: []byte("b")}}, "1"},
		{"an empty id resets it", "id: 1\ndata: a\n\nid\ndata: b\n\n", []Frame{{ID: "1", Data: []byte("a")}, {Data: []byte("b")}}, ""},
		{"an id with NUL is ignored", "id: a\x00b\ndata: x\n\n", []Frame{{Data: []byte("x")}}, ""},
		{"CR", "event: a\rdata: x\r\rdata: y\r\r", []Frame{{Event: "a", Data: []byte("x")}, {Data: []byte("y")}}, ""},
		{"CRLF", "event: a\r\ndata: x\r\n\r\n", []Frame{{Event: "a", Data: []byte("x")}}, ""},
		{"a byte order mark", "\xef\xbb\xbfdata: x\n\n", []Frame{{Data: []byte("x")}}, ""},
		{"cut in the middle", "data: x\n\ndata: y\n", []Frame{{Data: []byte("x")}}, ""},
		{"empty data", "data\n\n", []Frame{{}}, ""},
		{"nothing", "", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, in := range map[string]io.Reader{
				"whole":        strings.NewReader(tt.in),
				"byte by byte": iotest.OneByteReader(strings.NewReader(tt.in)),
			} {
				r := NewReader(in, 0)
				got, err := readAll(r)
				if !errors.Is(err, io.EOF) {
					t.Errorf("%s: ended with %v", name, err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("%s: (-want +got)\n%s", name, diff)
				}
				if r.LastID() != tt.lastID {
					t.Errorf("%s: last id %q, want %q", name, r.LastID(), tt.lastID)
				}
			}
		})
	}
}

func TestReaderBounds(t *testing.T) {
	for name, in := range map[string]string{
		"a line":                  "data: " + strings.Repeat("x", 100),
		"an event of short lines": strings.Repeat("data: 123456789\n", 20),
	} {
		r := NewReader(strings.NewReader(in), 64)
		for range 2 { // the error stays
			if _, err := r.Next(); !errors.Is(err, ErrTooLong) {
				t.Errorf("%s: %v, want ErrTooLong", name, err)
			}
		}
	}
	// What the bound counts is one event, not the stream.
	r := NewReader(strings.NewReader(strings.Repeat("data: 123456789\n\n", 50)), 64)
	if got, err := readAll(r); len(got) != 50 || !errors.Is(err, io.EOF) {
		t.Errorf("%d events, %v", len(got), err)
	}
}

func TestReaderKeepsTheError(t *testing.T) {
	broken := errors.New("broken")
	r := NewReader(io.MultiReader(strings.NewReader("data: x\n\ndata: y"), iotest.ErrReader(broken)), 0)
	if f, err := r.Next(); err != nil || string(f.Data) != "x" {
		t.Fatalf("%q, %v", f.Data, err)
	}
	if _, err := r.Next(); !errors.Is(err, broken) {
		t.Errorf("%v, want the reader's own error", err)
	}
}

func TestAppendFrame(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    Frame
		want string
	}{
		{"whole", Frame{"sevt_1", "agent.message", []byte(`{"a":1}`)}, "event: agent.message\nid: sevt_1\ndata: {\"a\":1}\n\n"},
		{"a preview has no id", Frame{"", "event_delta", []byte(`{}`)}, "event: event_delta\ndata: {}\n\n"},
		{"lines in the data", Frame{"", "", []byte("{\r\n\"a\":1\n}")}, "data: {  \"a\":1 }\n\n"},
		{"lines in the rest", Frame{"1\nevent: x", "a\r\ndata: y", []byte("z")}, "event: adata: y\nid: 1event: x\ndata: z\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := bytes.Clone(tt.f.Data)
			if got := string(AppendFrame(nil, tt.f)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if !bytes.Equal(before, tt.f.Data) {
				t.Error("the frame's data was changed")
			}
		})
	}
}

// FuzzReader reads anything: what is read can be written and read again to the same.
func FuzzReader(f *testing.F) {
	f.Add([]byte("event: a\nid: 1\ndata: {}\n\n"))
	f.Add([]byte("data: a\r\ndata: b\r\n\r\n: c\n\n"))
	f.Add([]byte("\xef\xbb\xbfid\ndata\n\nevent: x\n\n"))
	f.Add([]byte("\r\r\n\n:\nretry: 1\ndata: \x00\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		const bound = 256
		got, err := readAll(NewReader(bytes.NewReader(in), bound))
		if err == nil {
			t.Fatal("a reading without an end")
		}
		slow, _ := readAll(NewReader(iotest.OneByteReader(bytes.NewReader(in)), bound))
		if diff := cmp.Diff(got, slow); diff != "" {
			t.Fatalf("read byte by byte it differs:\n%s", diff)
		}
		var out []byte
		for i := range got {
			if len(got[i].Data) > bound {
				t.Fatalf("%d bytes passed the bound", len(got[i].Data))
			}
			flatten(got[i].Data)
			got[i].Event = strings.ReplaceAll(got[i].Event, "\x00", "")
			out = AppendFrame(out, got[i])
		}
		again, _ := readAll(NewReader(bytes.NewReader(out), 0))
		if diff := cmp.Diff(got, again); diff != "" {
			t.Fatalf("written and read again it differs:\n%s", diff)
		}
	})
}
