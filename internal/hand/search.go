//go:build unix

package hand

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	// maxMatches is how many paths glob returns.
	maxMatches = 200
	// maxVisited bounds a walk, in directory entries.
	maxVisited = 2_000_000
	// binarySniff is how far into a file grep looks for the NUL of a binary one.
	binarySniff = 512
	// maxLine is how much of a line grep matches, in bytes; maxShown how much of a matching
	// line it shows, in bytes, of which shownBefore may stand before the match.
	maxLine     = 1 << 20
	maxShown    = 2000
	shownBefore = 500
	// maxGrep ends a search that has found this many bytes.
	maxGrep = 16 << 20
)

// errEnough ends a walk early.
var errEnough = errors.New("enough")

// searchRoot resolves the directory or file of a search, symbolic links included, so that
// what is returned are real paths.
func (t *files) searchRoot(path string) (string, error) {
	return filepath.EvalSymlinks(t.resolve(path))
}

type searchInput struct {
	Pattern string `json:"pattern"`
	Path    string `json:"path"`
}

// found is a path and its time of change.
type found struct {
	path  string
	mtime int64
}

// newer orders the most recent first, and equals by path.
func newer(a, b found) int {
	switch {
	case a.mtime > b.mtime:
		return -1
	case a.mtime < b.mtime:
		return 1
	}
	return strings.Compare(a.path, b.path)
}

func (t *files) glob(ctx context.Context, call Call) Result {
	var in searchInput
	if err := decodeInput(call, &in); err != nil {
		return errorResult(call.Tool, err)
	}
	if in.Pattern == "" {
		return errorResult(call.Tool, errors.New("pattern is required"))
	}
	base, rest := splitRoot(in.Pattern)
	pat, err := parsePattern(rest)
	if err != nil {
		return errorResult(call.Tool, err)
	}
	start := in.Path
	switch {
	case filepath.IsAbs(base):
		start = base
	case start == "" && base == "":
		start = "."
	default:
		start = filepath.Join(start, base)
	}
	root, err := t.searchRoot(start)
	if errors.Is(err, fs.ErrNotExist) && base != "" {
		return textResult("No matches.", false) // a part of the pattern that names nothing
	}
	if err != nil {
		return errorResult(call.Tool, fmt.Errorf("%s: %s", start, plainError(err)))
	}
	var newest []found // in order, at most maxMatches
	matches, visited := 0, 0
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root && (base == "" || !pat.matchRoot()) {
			return nil //nolint:nilerr // what cannot be read is passed over
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if visited++; visited > maxVisited {
			return errEnough
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		if path != root && !pat.match(rel) {
			return nil
		}
		matches++
		f := found{path: path}
		if info, err := d.Info(); err == nil {
			f.mtime = info.ModTime().UnixNano()
		}
		at, _ := slices.BinarySearchFunc(newest, f, newer)
		if at < maxMatches {
			newest = slices.Insert(newest, at, f)
			newest = newest[:min(len(newest), maxMatches)]
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return errorResult(call.Tool, err)
	}
	if matches == 0 {
		return textResult(join("No matches.", visitedNote(err)), false)
	}
	out := newOutput(func() (*os.File, error) { return t.scratch.create(call.ID) })
	for i, f := range newest {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprint(out, f.path)
	}
	text := out.close()
	if matches > len(newest) {
		text = join(text, fmt.Sprintf("[the newest %d of %d matches]", len(newest), matches))
	}
	return textResult(join(text, visitedNote(err)), false)
}

// visitedNote says that a walk ended early, where it did.
func visitedNote(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf("[the search ended after %d entries; give a path to search less]", maxVisited)
}

func (t *files) grep(ctx context.Context, call Call) Result {
	var in searchInput
	if err := decodeInput(call, &in); err != nil {
		return errorResult(call.Tool, err)
	}
	if in.Pattern == "" {
		return errorResult(call.Tool, errors.New("pattern is required"))
	}
	re, err := regexp.Compile(in.Pattern)
	if err != nil {
		return errorResult(call.Tool, err)
	}
	start := in.Path
	if start == "" {
		start = "."
	}
	root, err := t.searchRoot(start)
	if err != nil {
		return errorResult(call.Tool, fmt.Errorf("%s: %s", start, plainError(err)))
	}
	prefix, _ := re.LiteralPrefix()
	s := &search{
		ctx:     ctx,
		re:      re,
		literal: []byte(prefix),
		out:     newOutput(func() (*os.File, error) { return t.scratch.create(call.ID) }),
		lines:   bufio.NewReaderSize(nil, 64<<10),
	}
	visited := 0
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return nil //nolint:nilerr // what cannot be read is passed over
		case d.IsDir() && path != root && (d.Name() == ".git" || d.Name() == "node_modules"):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		if visited++; visited > maxVisited {
			return errEnough
		}
		return s.file(path)
	})
	if err != nil && !errors.Is(err, errEnough) {
		return textResult(join(s.out.close(), "["+err.Error()+"]"), true)
	}
	if s.out.total == 0 {
		return textResult("No matches.", false)
	}
	text := strings.TrimSuffix(s.out.close(), "\n")
	if err != nil {
		text = join(text, "[the search ended early, there may be more; narrow the pattern or the path]")
	}
	return textResult(text, false)
}

// search is one grep.
type search struct {
	ctx     context.Context
	re      *regexp.Regexp
	literal []byte // what every match begins with; may be empty
	out     *output
	lines   *bufio.Reader
	line    []byte // of the current line, what did not fit the reader's buffer
}

// file searches one file. Its errors end the search; a file that cannot be read does not.
func (s *search) file(path string) error {
	f, _, err := openRegular(path)
	if err != nil {
		return nil //nolint:nilerr // passed over
	}
	defer f.Close()
	s.lines.Reset(f)
	if start, _ := s.lines.Peek(binarySniff); bytes.IndexByte(start, 0) >= 0 {
		return nil
	}
	for number := 1; ; number++ {
		line, err := s.next()
		if err != nil {
			return nil //nolint:nilerr // the end, or as far as it can be read
		}
		if number&1023 == 0 && s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if len(s.literal) > 0 && !bytes.Contains(line, s.literal) {
			continue
		}
		at := s.re.FindIndex(line)
		if at == nil {
			continue
		}
		fmt.Fprintf(s.out, "%s:%d:%s\n", path, number, shown(line, at[0]))
		if s.out.total > maxGrep {
			return errEnough
		}
	}
}

// next returns the next line without its end, as far as maxLine reaches; io.EOF after the last.
func (s *search) next() ([]byte, error) {
	piece, err := s.lines.ReadSlice('\n')
	if err == nil {
		return piece[:len(piece)-1], nil
	}
	s.line = append(s.line[:0], piece...)
	for errors.Is(err, bufio.ErrBufferFull) {
		if s.ctx.Err() != nil {
			return nil, context.Cause(s.ctx)
		}
		piece, err = s.lines.ReadSlice('\n')
		if room := maxLine - len(s.line); room > 0 {
			s.line = append(s.line, piece[:min(len(piece), room)]...)
		}
	}
	if err != nil && (!errors.Is(err, io.EOF) || len(s.line) == 0) {
		return nil, err
	}
	return bytes.TrimSuffix(s.line, []byte("\n")), nil
}

// shown is the part of a long line around its match, the whole of another.
func shown(line []byte, match int) []byte {
	if len(line) <= maxShown {
		return line
	}
	from := 0
	if match > maxShown-shownBefore {
		from = match - shownBefore
	}
	to := min(from+maxShown, len(line))
	var b bytes.Buffer
	if from > 0 {
		fmt.Fprintf(&b, "[%d bytes left out]…", from)
	}
	b.WriteString(strings.ToValidUTF8(string(line[from:to]), ""))
	if to < len(line) {
		fmt.Fprintf(&b, "…[%d bytes left out]", len(line)-to)
	}
	return b.Bytes()
}
