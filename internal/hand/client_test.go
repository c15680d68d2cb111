//go:build unix

package hand_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"croft/internal/hand"
)

// written is a frame as it goes over the wire.
func written(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestDialRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		bytes  string
		closed bool
		holds  string
	}{
		{"", true, "hello"},
		{"\x00\x00", true, "hello"},
		{string(written(`{"type":"hello"`)), false, "malformed"},
		{"sh: croft-hand: not found\n", false, "malformed"},
		{string(written(`{"type":"hello","version":99,"pid":1}`)), false, "version 99"},
		{string(written(`{"type":"result","version":1}`)), false, "opened with result"},
	} {
		_, err := hand.Dial(strings.NewReader(c.bytes), io.Discard)
		if err == nil || errors.Is(err, hand.ErrClosed) != c.closed || !strings.Contains(err.Error(), c.holds) {
			t.Errorf("%q: %v", c.bytes, err)
		}
	}
}

// dialed is a client whose other end is the test's.
func dialed(t *testing.T) (client *hand.Client, in io.Reader, out io.WriteCloser) {
	t.Helper()
	fromHand, out := io.Pipe()
	in, toHand := io.Pipe()
	go func() { _, _ = out.Write(written(`{"type":"hello","version":1,"pid":7}`)) }()
	client, err := hand.Dial(fromHand, toHand)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client, in, out
}

func TestCallOverAStandingStream(t *testing.T) {
	t.Parallel()
	// Nobody reads: a caller with a context gets away all the same, and so does Close.
	client, _, out := dialed(t)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := client.Call(ctx, hand.Call{ID: "x", Tool: "bash"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		cancel()
	}
	waiting := make(chan error)
	go func() {
		_, err := client.Call(t.Context(), hand.Call{ID: "y", Tool: "bash"})
		waiting <- err
	}()
	_ = client.Close()
	if err := <-waiting; !errors.Is(err, hand.ErrClosed) {
		t.Errorf("a call in flight: %v", err)
	}
	_ = out.Close()
}

func TestBadAnswers(t *testing.T) {
	t.Parallel()
	client, in, out := dialed(t)
	go func() { // answers nobody asked for, and frames of a later version, do no harm
		head := make([]byte, 4)
		_, _ = io.ReadFull(in, head)
		body := make([]byte, binary.BigEndian.Uint32(head))
		_, _ = io.ReadFull(in, body)
		var call struct{ Seq uint64 }
		_ = json.Unmarshal(body, &call)
		for _, body := range []string{
			`{"type":"result","seq":77,"id":"x"}`, `{"type":"news","seq":1}`, `{"type":"refused","id":"x","message":"m"}`,
			`{"type":"result","seq":1,"id":"x","content":[{"type":"text","text":"answer"}]}`, `{"type":"result","seq":1,"id":"x"}`,
		} {
			_, _ = out.Write(written(body))
		}
		_, _ = out.Write([]byte("no frame at all"))
	}()
	res, err := client.Call(t.Context(), hand.Call{ID: "x", Tool: "bash"})
	if err != nil || res.Text() != "answer" {
		t.Errorf("%q, %v", res.Text(), err)
	}
	<-client.Done()
	if _, err := client.Call(t.Context(), hand.Call{ID: "y", Tool: "bash"}); !errors.Is(err, hand.ErrClosed) || !strings.Contains(err.Error(), "malformed") {
		t.Errorf("after the stream broke: %v", err)
	}
}

// What is no frame ends the hand, with the exit code that says so.
func TestHandEndsOnGarbage(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for input, code := range map[string]int{
		"": 0, "\xff\xff\xff\xffgarbage": 1, "\x00\x00": 1, string(written(`{}`)): 1, string(written(`{"type":"close"}`)) + "rest": 0,
		string(written(`{"type":"tomorrow"}`)): 0, string(written(`{"type":"ack","id":"unknown"}`)): 0, string(written(`{"type":"drain"}`)): 0,
	} {
		cmd := &exec.Cmd{Path: self, Args: []string{hand.Program}, Dir: folder(t), Stdin: strings.NewReader(input), Stderr: os.Stderr}
		out, err := cmd.Output()
		if cmd.ProcessState.ExitCode() != code || !strings.Contains(string(out), "hello") {
			t.Errorf("%q: %v, %q", input, err, out)
		}
	}
}
