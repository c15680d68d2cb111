package hand

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Types of frames.
const (
	frameHello   = "hello"
	frameResult  = "result"
	frameRefused = "refused"
	frameCall    = "call"
	frameCancel  = "cancel"
	frameAck     = "ack"
	frameDrain   = "drain"
	frameClose   = "close"
)

// frame is every frame of both directions; Type says which fields count.
type frame struct {
	Type string `json:"type"`
	Seq  uint64 `json:"seq,omitempty"`
	ID   string `json:"id,omitempty"`

	Version int `json:"version,omitempty"`
	PID     int `json:"pid,omitempty"`

	Tool      string          `json:"tool,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`
	TimeoutMS int64           `json:"timeout_ms,omitempty"`

	Content []json.RawMessage `json:"content,omitempty"`
	IsError bool              `json:"is_error,omitempty"`
	Message string            `json:"message,omitempty"`
}

// errFrame is the cause of every refusal to read or write a frame.
var errFrame = errors.New("malformed frame")

// encodeFrame returns f with its length before it. It fails when f is larger than MaxFrame
// or holds raw JSON that is none.
func encodeFrame(f *frame) ([]byte, error) {
	body, err := marshal(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %s %s: %w", errFrame, f.Type, f.ID, err)
	}
	if len(body) > MaxFrame {
		return nil, fmt.Errorf("%w: %s %s has %d bytes, at most %d are allowed", errFrame, f.Type, f.ID, len(body), MaxFrame)
	}
	out := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(out, uint32(len(body)))
	return append(out, body...), nil
}

// readFrame reads one frame. It returns io.EOF when the stream ends between two frames,
// io.ErrUnexpectedEOF when within one, and errFrame for bytes that are no frame. Memory is
// taken as the bytes arrive, not on the word of the length.
func readFrame(r io.Reader) (*frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 || size > MaxFrame {
		return nil, fmt.Errorf("%w: length %d, at most %d is allowed", errFrame, size, MaxFrame)
	}
	body, err := readBody(r, int(size))
	if err != nil {
		return nil, err
	}
	f := new(frame)
	if err := json.Unmarshal(body, f); err != nil {
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	if f.Type == "" {
		return nil, fmt.Errorf("%w: it has no type", errFrame)
	}
	return f, nil
}

func readBody(r io.Reader, size int) ([]byte, error) {
	const step = 256 << 10
	body := make([]byte, 0, min(size, step))
	for len(body) < size {
		n := min(size-len(body), step)
		start := len(body)
		body = append(body, make([]byte, n)...)
		if _, err := io.ReadFull(r, body[start:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return body, nil
}
