package initproc

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	sampleConfig = &Config{
		Hostname: "sandbox", MemoryFiles: 1 << 30, Processes: 512, OpenFiles: 1024, OOMScore: -5,
		Ops: []Op{
			{Do: MakeDir, Path: "/tmp", Mode: 0o1777},
			{Do: Bind, Path: "/workspace", FD: 2},
			{Do: Bind, Path: "/usr", Source: "/usr", ReadOnly: true},
			{Do: Bind, Path: "/dev/null", Source: "/dev/null", Devices: true},
		},
		Filter: []byte{1, 2, 3},
	}
	sampleStart = &Start{
		Path: "/bin/sh", Args: []string{"sh", "-c", "echo 'zażółć'"}, Env: []string{"A=b", "C="},
		Dir: "/workspace", Streams: [3]bool{true, false, true},
	}
)

func TestRoundTrips(t *testing.T) {
	c, err := DecodeConfig(sampleConfig.Encode())
	if diff := cmp.Diff(sampleConfig, c); diff != "" || err != nil {
		t.Errorf("config: %v\n%s", err, diff)
	}
	s, err := DecodeStart(sampleStart.Encode())
	if diff := cmp.Diff(sampleStart, s); diff != "" || err != nil {
		t.Errorf("start: %v\n%s", err, diff)
	}
	want := &Failure{Doing: "mount /proc", Errno: 1}
	f, err := DecodeFailure(want.Encode())
	if diff := cmp.Diff(want, f); diff != "" || err != nil {
		t.Errorf("failure: %v\n%s", err, diff)
	}
}

func TestMalformed(t *testing.T) {
	whole := sampleStart.Encode()
	for n := range whole {
		if _, err := DecodeStart(whole[:n]); !errors.Is(err, ErrFrame) {
			t.Fatalf("the first %d bytes of a start: error %v, want ErrFrame", n, err)
		}
	}
	if _, err := DecodeStart(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrFrame) {
		t.Errorf("a start and one byte: error %v, want ErrFrame", err)
	}
	if _, _, err := ReadReply(bytes.NewReader(Frame(FrameStart, 1, nil))); !errors.Is(err, ErrFrame) {
		t.Errorf("a request as reply: error %v, want ErrFrame", err)
	}
	if _, _, err := ReadReply(bytes.NewReader(Frame(FrameExited, 1, make([]byte, MaxReply+1)))); !errors.Is(err, ErrFrame) {
		t.Errorf("a reply that is too long: error %v, want ErrFrame", err)
	}
}

func FuzzReply(f *testing.F) {
	f.Add(Frame(FrameReady, 0, nil))
	f.Add(Frame(FrameExited, 7, []byte{0, 1, 0, 0}))
	f.Add(Frame(FrameRefused, 7, (&Failure{Doing: "look up x", Errno: 2}).Encode()))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, body, err := ReadReply(bytes.NewReader(b))
		if err != nil {
			return
		}
		if again := Frame(h.Kind, h.ID, body); !bytes.HasPrefix(b, again) {
			t.Errorf("%x was read and is written as %x", b, again)
		}
		if fail, err := DecodeFailure(body); err == nil && !bytes.Equal(fail.Encode(), body) {
			t.Errorf("failure %x is written as %x", body, fail.Encode())
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add(sampleConfig.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := DecodeConfig(b); err == nil && c.Ops != nil && c.Ops[0].Do < 200 {
			again, err := DecodeConfig(c.Encode())
			if diff := cmp.Diff(c, again); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		}
	})
}

func FuzzStart(f *testing.F) {
	f.Add(sampleStart.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := DecodeStart(b); err == nil && !bytes.Equal(s.Encode(), b) {
			t.Errorf("%x is written as %x", b, s.Encode())
		}
	})
}
