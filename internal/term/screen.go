// Package term shows a session's work to a person. It owns the screen (one line of
// status that comes and goes below lines that stay), the cleaning of text that others
// wrote, and the transcript: events of a session's log, as they come or from the past,
// as lines. It imports the standard library, the terminal's size, and the language; the
// command line is the caller.
//
// Everything that comes from a model, a tool or another client goes through a Cleaner:
// no byte of it can move the cursor or change the terminal.
package term

import (
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	xterm "golang.org/x/term"
)

// Options say what the place that is written to can do.
type Options struct {
	// Live tells that lines can be taken back: there is a status line. Where there is none,
	// what happens is told by lines that stay.
	Live bool
	// Color tells that styles are shown.
	Color bool
	// Width is the number of columns, asked at each use; nil means 200, for a file or a pipe.
	Width func() int
}

// Detect looks at f, usually standard output, and at the variables TERM and NO_COLOR.
func Detect(f *os.File, lookup func(string) (string, bool)) Options {
	fd := int(f.Fd())
	if !xterm.IsTerminal(fd) {
		return Options{}
	}
	name, _ := lookup("TERM")
	if name == "dumb" || (name == "" && runtime.GOOS != "windows") {
		return Options{}
	}
	if _, modern := lookup("WT_SESSION"); runtime.GOOS == "windows" && name == "" && !modern {
		return Options{} // the old console shows escape sequences as they are
	}
	noColor, _ := lookup("NO_COLOR")
	return Options{Live: true, Color: noColor == "", Width: func() int {
		if w, _, err := xterm.GetSize(fd); err == nil && w > 0 {
			return w
		}
		return 80
	}}
}

// Style is how a piece of text looks.
type Style int

// The styles. Without colour they all look alike.
const (
	Plain Style = iota
	Dim
	Bold
	Red
	Yellow
	Green
)

var styles = map[Style]string{Dim: "\x1b[2m", Bold: "\x1b[1m", Red: "\x1b[31m", Yellow: "\x1b[33m", Green: "\x1b[32m"}

// Screen writes lines and, where it is live, a status line below them. It is safe for
// concurrent use. Write errors are kept for Close; nothing can be done about them sooner.
type Screen struct {
	o   Options
	mu  sync.Mutex
	w   io.Writer
	err error
	bol bool // at the beginning of a line

	status string
	since  time.Time
	drawn  bool
	frame  int

	kick chan struct{}
	stop chan struct{}
	done sync.WaitGroup
}

// NewScreen makes a Screen. It must be closed.
func NewScreen(w io.Writer, o Options) *Screen {
	if o.Width == nil {
		o.Width = func() int { return 200 }
	}
	s := &Screen{o: o, w: w, bol: true, kick: make(chan struct{}, 1), stop: make(chan struct{})}
	if o.Live {
		s.done.Add(1)
		go func() {
			defer s.done.Done()
			s.spin()
		}()
	}
	return s
}

// Close takes the status line away and returns the first error of writing.
func (s *Screen) Close() error {
	s.mu.Lock()
	s.status = ""
	s.erase()
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.mu.Unlock()
	s.done.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Live tells whether there is a status line.
func (s *Screen) Live() bool { return s.o.Live }

// Width is the number of columns.
func (s *Screen) Width() int { return max(20, s.o.Width()) }

// Text goes on where the last text ended. The caller has cleaned it.
func (s *Screen) Text(style Style, text string) {
	if text == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	s.write(s.styled(style, text))
	s.bol = strings.HasSuffix(text, "\n")
}

// Line writes a line of its own. Parts are cleaned by the caller and hold no line end.
func (s *Screen) Line(parts ...Part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	var b strings.Builder
	if !s.bol {
		b.WriteByte('\n')
	}
	for _, p := range parts {
		b.WriteString(s.styled(p.Style, p.Text))
	}
	b.WriteByte('\n')
	s.write(b.String())
	s.bol = true
	s.wake()
}

// Part is a piece of a line.
type Part struct {
	Style Style
	Text  string
}

// FreshLine ends the line under way, if one is.
func (s *Screen) FreshLine() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.bol {
		s.write("\n")
		s.bol = true
		s.wake()
	}
}

// Typed notes that the person at the terminal has ended the line under way.
func (s *Screen) Typed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bol = true
}

// Status sets the text of the status line, with the time that it has stood; empty takes it
// away. While a line is under way it is not shown, and on a screen that is not live never.
func (s *Screen) Status(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == s.status {
		return
	}
	s.status, s.since = text, time.Now()
	if text == "" {
		s.erase()
		return
	}
	s.wake()
}

func (s *Screen) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *Screen) styled(style Style, text string) string {
	code := styles[style]
	if !s.o.Color || code == "" || text == "" {
		return text
	}
	return code + text + "\x1b[0m"
}

func (s *Screen) write(text string) {
	if _, err := io.WriteString(s.w, text); err != nil && s.err == nil {
		s.err = err
	}
}

// erase takes the drawn status line away.
func (s *Screen) erase() {
	if s.drawn {
		s.write("\r\x1b[K")
		s.drawn = false
	}
}

const frames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

// spin redraws the status line while there is one; without one it sleeps.
func (s *Screen) spin() {
	glyphs := []rune(frames)
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.kick:
		case <-tick.C:
		}
		s.mu.Lock()
		if s.status != "" && s.bol {
			s.frame = (s.frame + 1) % len(glyphs)
			line := string(glyphs[s.frame]) + " " + s.status
			if d := time.Since(s.since); d >= time.Second {
				line += " " + d.Truncate(time.Second).String()
			}
			s.write("\r\x1b[K" + s.styled(Dim, Short(line, s.Width()-1)))
			s.drawn = true
			tick.Reset(100 * time.Millisecond)
		}
		s.mu.Unlock()
	}
}
