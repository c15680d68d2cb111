// Package initproc is the first process of a local sandbox, from the inside. It owns the
// building of the sandbox's root, the dropping of every privilege, the starting, reaping
// and killing of programs, and the frames in which package local asks for these. It imports
// the standard library's smallest packages and golang.org/x/sys/unix, so that a process
// entered here from an early initialiser starts in a millisecond or two.
//
// The driver starts its own binary as Name in new namespaces with one end of a stream
// socket as descriptor 3, and sends a Config. This process, the first of its PID namespace,
// carries the Config out (setup_linux.go), gives up its capabilities, installs the seccomp
// filter and executes itself again. Capabilities belong to threads in Linux and Go starts
// threads before any of its code runs: only an exec leaves one thread, and so no thread
// that kept a capability. The second life (serve_linux.go) answers Ready and then serves
// requests until the socket ends. It ends when the worker does, however that happens, and
// the kernel then kills every process of the namespace.
package initproc

import (
	"encoding/binary"
	"errors"
	"io"
)

// Name is the base name of argv[0] by which the croft binary knows that it is to be Main.
const Name = "croft-sandbox-init"

// Program is where the sandbox shows the croft binary, for this process's second life and
// for the hand.
const Program = "/.croft/croft"

// Environ is the environment of the process in both its lives. One processor for each of
// the two threads that wait for the kernel keeps either from waiting for the other.
var Environ = []string{"GOMAXPROCS=2"}

// socketFD is the descriptor of the socket to the worker.
const socketFD = 3

// Kind is the kind of a frame.
type Kind uint8

// Frames from the worker, then those to it. ID is the program's number except where noted.
const (
	FrameConfig Kind = iota + 1 // body: Config, with its descriptors; ID 0
	FrameStart                  // body: Start, with its descriptors
	FrameKill                   // no body

	FrameReady   // the sandbox serves; ID 0
	FrameFailed  // body: Failure, the sandbox could not be built and ends; ID 0
	FrameStarted // the program runs
	FrameRefused // body: Failure, the program was not started
	FrameExited  // body: the wait status, 4 bytes
	FrameKilled  // the program and all it started are dead
)

// Limits of a frame.
const (
	HeaderSize = 12
	MaxBody    = 16 << 20 // bytes; arguments and environment together stay under the kernel's limit
	MaxReply   = 64 << 10 // bytes of a body on the way to the worker
	MaxFDs     = 250      // descriptors with one frame; the kernel takes 253
)

// ErrFrame is the refusal of bytes that are no frame or no body of one.
var ErrFrame = errors.New("malformed frame")

// Header precedes every body.
type Header struct {
	Kind Kind
	ID   uint32
	Size uint32 // of the body, in bytes
}

// Frame encodes a header and its body.
func Frame(kind Kind, id uint32, body []byte) []byte {
	b := make([]byte, HeaderSize, HeaderSize+len(body))
	b[0] = byte(kind)
	binary.LittleEndian.PutUint32(b[4:], id)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(body)))
	return append(b, body...)
}

// ParseHeader decodes the first HeaderSize bytes of b.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize || b[1]|b[2]|b[3] != 0 {
		return Header{}, ErrFrame
	}
	h := Header{Kind(b[0]), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])}
	if h.Kind < FrameConfig || h.Kind > FrameKilled || h.Size > MaxBody {
		return Header{}, ErrFrame
	}
	return h, nil
}

// ReadReply reads one frame on its way to the worker. What it says is not to be trusted:
// the process that wrote it lives inside the sandbox.
func ReadReply(r io.Reader) (Header, []byte, error) {
	var head [HeaderSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Header{}, nil, err
	}
	h, err := ParseHeader(head[:])
	if err != nil || h.Kind < FrameReady || h.Size > MaxReply {
		return Header{}, nil, ErrFrame
	}
	body := make([]byte, h.Size)
	_, err = io.ReadFull(r, body)
	return h, body, err
}

// Do says what an Op does.
type Do uint8

// The steps of building a root. Paths inside are absolute; symbolic links in them are
// followed within the new root alone.
const (
	// MakeDir makes the folder Path, and its parents, with Mode.
	MakeDir Do = iota + 1
	// MakeFile makes the file Path with the content Source and Mode.
	MakeFile
	// CopyFile makes the file Path with Mode and what descriptor FD reads.
	CopyFile
	// MakeLink makes the symbolic link Path that points to Source.
	MakeLink
	// Bind shows the host's Source, or the mount that descriptor FD holds, at Path with all
	// that is mounted below it. The mount point is made where it is missing.
	Bind
	// Inner shows Source, a path inside, at Path; it is skipped where Path is missing.
	Inner
	// Hide covers Path with an empty folder or an unreadable file; it is skipped where Path
	// is missing.
	Hide
	// MountProc and MountPts mount these file systems at Path.
	MountProc
	MountPts
)

// Op is one step of building a root.
type Op struct {
	Do           Do
	Path, Source string
	FD           int // of a Bind or CopyFile: 1 + index among the Config's descriptors; 0: none
	Mode         uint32
	ReadOnly     bool
	Devices      bool // of a Bind: device files work
}

// Config is what the first process is told to become.
type Config struct {
	Hostname string
	// MemoryFiles bounds the bytes of all files that are kept in memory: /tmp, the home
	// folder and their like.
	MemoryFiles uint64
	// Processes bounds the tasks of the sandbox, by RLIMIT_NPROC; 0: something else does.
	Processes uint64
	OpenFiles uint64 // of one process
	OOMScore  int    // added to every process's badness, -1000 to 1000
	Ops       []Op
	Filter    []byte // the seccomp program, in the kernel's layout
}

// Start asks for a program.
type Start struct {
	// Path is the file to execute; empty: Args[0] is looked up on Env's PATH.
	Path string
	Args []string
	Env  []string
	Dir  string
	// Streams says for descriptors 0, 1 and 2 whether one comes with the frame, in this
	// order; the others are /dev/null.
	Streams [3]bool
}

// Failure is an error on its way to the worker: what was being done, and the system's
// number for why, 0 when it has none.
type Failure struct {
	Doing string
	Errno uint32
}

// Encode returns the body of a FrameConfig.
func (c *Config) Encode() []byte {
	var e encoder
	e.string(c.Hostname)
	e.uint64(c.MemoryFiles)
	e.uint64(c.Processes)
	e.uint64(c.OpenFiles)
	e.uint64(uint64(int64(c.OOMScore)))
	e.uint32(uint32(len(c.Ops)))
	for i := range c.Ops {
		op := &c.Ops[i]
		e.uint32(uint32(op.Do))
		e.string(op.Path)
		e.string(op.Source)
		e.uint32(uint32(op.FD))
		e.uint32(op.Mode)
		e.bool(op.ReadOnly)
		e.bool(op.Devices)
	}
	e.string(string(c.Filter))
	return e.b
}

// DecodeConfig is the inverse of Encode.
func DecodeConfig(b []byte) (*Config, error) {
	d := decoder{b: b}
	c := &Config{
		Hostname:    d.string(),
		MemoryFiles: d.uint64(),
		Processes:   d.uint64(),
		OpenFiles:   d.uint64(),
		OOMScore:    int(int64(d.uint64())),
	}
	for range d.count(22) {
		c.Ops = append(c.Ops, Op{
			Do: Do(d.uint32()), Path: d.string(), Source: d.string(), FD: int(d.uint32()), Mode: d.uint32(),
			ReadOnly: d.bool(), Devices: d.bool(),
		})
	}
	if filter := d.string(); filter != "" {
		c.Filter = []byte(filter)
	}
	return c, d.end()
}

// Encode returns the body of a FrameStart.
func (s *Start) Encode() []byte {
	var e encoder
	e.string(s.Path)
	e.strings(s.Args)
	e.strings(s.Env)
	e.string(s.Dir)
	for _, given := range s.Streams {
		e.bool(given)
	}
	return e.b
}

// DecodeStart is the inverse of Encode.
func DecodeStart(b []byte) (*Start, error) {
	d := decoder{b: b}
	s := &Start{Path: d.string(), Args: d.strings(), Env: d.strings(), Dir: d.string()}
	for i := range s.Streams {
		s.Streams[i] = d.bool()
	}
	return s, d.end()
}

// Encode returns the body of a FrameFailed or FrameRefused.
func (f *Failure) Encode() []byte {
	var e encoder
	e.string(f.Doing)
	e.uint32(f.Errno)
	return e.b
}

// DecodeFailure is the inverse of Encode.
func DecodeFailure(b []byte) (*Failure, error) {
	d := decoder{b: b}
	f := &Failure{Doing: d.string(), Errno: d.uint32()}
	return f, d.end()
}

// DecodeStatus reads the body of a FrameExited.
func DecodeStatus(b []byte) (uint32, error) {
	d := decoder{b: b}
	status := d.uint32()
	return status, d.end()
}

// encoder writes little-endian numbers and strings preceded by their length.
type encoder struct{ b []byte }

func (e *encoder) uint32(v uint32) { e.b = binary.LittleEndian.AppendUint32(e.b, v) }
func (e *encoder) uint64(v uint64) { e.b = binary.LittleEndian.AppendUint64(e.b, v) }

func (e *encoder) string(s string) {
	e.uint32(uint32(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) strings(list []string) {
	e.uint32(uint32(len(list)))
	for _, s := range list {
		e.string(s)
	}
}

func (e *encoder) bool(v bool) {
	if v {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}

// decoder reads what encoder writes. After bytes that do not fit it yields zero values, and
// end tells.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n uint32) []byte {
	if d.bad || uint64(n) > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) string() string { return string(d.take(d.uint32())) }

func (d *decoder) bool() bool {
	b := d.take(1)
	if b == nil {
		return false
	}
	d.bad = d.bad || b[0] > 1
	return b[0] == 1
}

// count reads the length of a list whose entries take at least size bytes each.
func (d *decoder) count(size int) uint32 {
	n := d.uint32()
	if uint64(n)*uint64(size) > uint64(len(d.b)) {
		d.bad = true
		return 0
	}
	return n
}

func (d *decoder) strings() []string {
	var list []string
	for range d.count(4) {
		list = append(list, d.string())
	}
	return list
}

func (d *decoder) end() error {
	if d.bad || len(d.b) != 0 {
		return ErrFrame
	}
	return nil
}
