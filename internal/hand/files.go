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
	"strings"
	"syscall"
	"unicode/utf8"
)

// files runs the tools on files. The sandbox is the boundary: a path may lead anywhere
// inside it, and a relative one starts at workdir.
type files struct {
	workdir string
	scratch *scratch
}

const (
	// maxImage and maxDocument bound what is sent as a block, in bytes before base64.
	// Model APIs take images of 5 MB after it.
	maxImage    = 3_750_000
	maxDocument = 8 << 20
	// maxEdit bounds the file that edit holds in memory.
	maxEdit = 16 << 20
)

// resolve makes path absolute. ".." is taken by name, before any symbolic link.
func (t *files) resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(t.workdir, path)
}

// openRegular opens a regular file. Opening never waits, as it would for a pipe without a writer.
func openRegular(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = mustBeRegular(info)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func mustBeRegular(info fs.FileInfo) error {
	switch {
	case info.Mode().IsRegular():
		return nil
	case info.IsDir():
		return errors.New("it is a directory")
	}
	return errors.New("it is not a regular file")
}

type readInput struct {
	FilePath  string    `json:"file_path"`
	ViewRange []integer `json:"view_range"`
}

func (t *files) read(ctx context.Context, call Call) Result {
	var in readInput
	if err := decodeInput(call, &in); err != nil {
		return errorResult(call.Tool, err)
	}
	if in.FilePath == "" {
		return errorResult(call.Tool, errors.New("file_path is required"))
	}
	var lines lineRange
	switch len(in.ViewRange) {
	case 0:
		lines = lineRange{first: 1}
	case 2:
		lines = lineRange{first: max(1, int64(in.ViewRange[0])), last: max(0, int64(in.ViewRange[1])), given: true}
	default:
		return errorResult(call.Tool, fmt.Errorf("view_range must be [first line, last line], got %d numbers", len(in.ViewRange)))
	}
	f, info, err := openRegular(t.resolve(in.FilePath))
	if err != nil {
		return errorResult(call.Tool, fmt.Errorf("%s: %s", in.FilePath, plainError(err)))
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	start, err := r.Peek(16)
	if err != nil && !errors.Is(err, io.EOF) {
		return errorResult(call.Tool, fmt.Errorf("%s: %s", in.FilePath, plainError(err)))
	}
	if kind, media := sniff(start); kind != "" {
		return t.readMedia(call.Tool, in.FilePath, r, info.Size(), kind, media)
	}
	text, err := lines.read(ctx, r, info.Size())
	if err != nil {
		return errorResult(call.Tool, fmt.Errorf("%s: %s", in.FilePath, plainError(err)))
	}
	if text == "" {
		text = "(the file is empty)"
		if lines.given {
			text = "(no text in those lines)"
		}
	}
	return textResult(text, false)
}

// sniff tells images and PDF documents by their first bytes.
func sniff(start []byte) (kind, media string) {
	has := func(prefix string) bool { return bytes.HasPrefix(start, []byte(prefix)) }
	switch {
	case has("\x89PNG\r\n\x1a\n"):
		return "image", "image/png"
	case has("\xff\xd8\xff"):
		return "image", "image/jpeg"
	case has("GIF87a"), has("GIF89a"):
		return "image", "image/gif"
	case has("RIFF") && len(start) >= 12 && string(start[8:12]) == "WEBP":
		return "image", "image/webp"
	case has("%PDF-"):
		return "document", "application/pdf"
	}
	return "", ""
}

func (t *files) readMedia(tool, name string, r io.Reader, size int64, kind, media string) Result {
	limit := int64(maxImage)
	if kind == "document" {
		limit = maxDocument
	}
	tooLarge := fmt.Errorf("%s: it is %s of %d bytes, and at most %d can be sent to the model", name, media, size, limit)
	if size > limit {
		return errorResult(tool, tooLarge)
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return errorResult(tool, fmt.Errorf("%s: %s", name, plainError(err)))
	}
	if int64(len(data)) > limit { // it grew
		return errorResult(tool, tooLarge)
	}
	return mediaResult(kind, media, data)
}

// lineRange is the lines to read: first counts from 1, last 0 means all that follow.
type lineRange struct {
	first, last int64
	given       bool // by the caller
}

// noteChars is what a note below a cut text may take of MaxOutput.
const noteChars = 200

// read returns the lines of r, which has size bytes, without the last one's end where last
// is given, as far as MaxOutput characters reach. Memory is bounded by that, whatever the
// file and its lines.
func (l lineRange) read(ctx context.Context, r *bufio.Reader, size int64) (string, error) {
	if l.last > 0 && l.last < l.first {
		return "", nil
	}
	var text []byte
	chars, line := 0, int64(1)
	whole, next := 0, l.first // bytes of whole lines that leave room for a note, and the line behind them
	for {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		piece, err := r.ReadSlice('\n') // a line, or what of a long one fits the buffer
		if line >= l.first {
			text = append(text, piece...)
			chars += countChars(piece)
			if chars > MaxOutput || len(text) > MaxOutput*utf8.UTFMax {
				return l.cut(text, whole, next, size), nil
			}
			if err == nil && chars <= MaxOutput-noteChars {
				whole, next = len(text), line+1
			}
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return string(text), nil
		case err != nil:
			return "", err
		}
		if line == l.last {
			return string(bytes.TrimSuffix(text, []byte("\n"))), nil
		}
		line++
	}
}

// cut ends a text that grew too long: after its whole lines, up to next, or within the
// first where none is.
func (l lineRange) cut(text []byte, whole int, next, size int64) string {
	if whole > 0 {
		return fmt.Sprintf("%s[lines %d to %d of a file of %d bytes; view_range [%d, …] shows more]", text[:whole], l.first, next-1, size, next)
	}
	return fmt.Sprintf("%s\n[the first %d characters of line %d, in a file of %d bytes; for the rest of so long a line use bash]",
		text[:prefixLen(text, MaxOutput-noteChars)], MaxOutput-noteChars, l.first, size)
}

type writeInput struct {
	FilePath string `json:"file_path"`
	Content  string `json:"content"`
}

func (t *files) write(_ context.Context, call Call) Result {
	var in writeInput
	if err := decodeInput(call, &in); err != nil {
		return errorResult(call.Tool, err)
	}
	if in.FilePath == "" {
		return errorResult(call.Tool, errors.New("file_path is required"))
	}
	path, err := follow(t.resolve(in.FilePath))
	if err != nil {
		return errorResult(call.Tool, fmt.Errorf("%s: %s", in.FilePath, plainError(err)))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return errorResult(call.Tool, fmt.Errorf("%s: making its directory: %s", in.FilePath, plainError(err)))
	}
	if err := replace(path, []byte(in.Content)); err != nil {
		return errorResult(call.Tool, fmt.Errorf("%s: %s", in.FilePath, plainError(err)))
	}
	return textResult(fmt.Sprintf("Wrote %d bytes to %s.", len(in.Content), in.FilePath), false)
}

type editInput struct {
	FilePath   string `json:"file_path"`
	OldString  string `json:"old_string"`
	NewString  string `json:"new_string"`
	ReplaceAll bool   `json:"replace_all"`
}

func (t *files) edit(_ context.Context, call Call) Result {
	var in editInput
	if err := decodeInput(call, &in); err != nil {
		return errorResult(call.Tool, err)
	}
	fail := func(format string, args ...any) Result {
		return errorResult(call.Tool, fmt.Errorf(format, args...))
	}
	switch {
	case in.FilePath == "":
		return fail("file_path is required")
	case in.OldString == "":
		return fail("old_string is required; to write a whole file use the write tool")
	}
	path, err := follow(t.resolve(in.FilePath))
	if err != nil {
		return fail("%s: %s", in.FilePath, plainError(err))
	}
	f, info, err := openRegular(path)
	if err != nil {
		return fail("%s: %s", in.FilePath, plainError(err))
	}
	defer f.Close()
	if info.Size() > maxEdit {
		return fail("%s: it has %d bytes, and edit takes at most %d; use bash", in.FilePath, info.Size(), maxEdit)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxEdit+1))
	if err != nil {
		return fail("%s: %s", in.FilePath, plainError(err))
	}
	content := string(data)
	count := strings.Count(content, in.OldString)
	switch {
	case count == 0:
		return fail("old_string does not occur in %s; it must match exactly, whitespace and line ends included", in.FilePath)
	case count > 1 && !in.ReplaceAll:
		return fail("old_string occurs %d times in %s; add surrounding text to make it unique, or set replace_all", count, in.FilePath)
	}
	if grown := int64(len(content)) + int64(count)*int64(len(in.NewString)-len(in.OldString)); grown > 4*maxEdit {
		return fail("%s would grow to %d bytes; use bash", in.FilePath, grown)
	}
	if err := replace(path, []byte(strings.ReplaceAll(content, in.OldString, in.NewString))); err != nil {
		return fail("%s: %s", in.FilePath, plainError(err))
	}
	times := "1 occurrence"
	if count > 1 {
		times = fmt.Sprintf("%d occurrences", count)
	}
	return textResult(fmt.Sprintf("Replaced %s in %s.", times, in.FilePath), false)
}

// replace gives the file at path, which is no symbolic link, new content: by a new file
// beside it that takes its name, so that nobody reads a half and a failure leaves the old
// one; or in place, where the directory takes no new file or the name is a mount point. An
// existing file keeps its permissions and, where we may give it away, its owner.
func replace(path string, data []byte) error {
	old, err := os.Lstat(path)
	switch {
	case err == nil:
		if err := mustBeRegular(old); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	err = replaceByRename(path, data, old)
	for _, inPlace := range []error{fs.ErrPermission, syscall.EBUSY, syscall.EROFS, syscall.EXDEV} {
		if errors.Is(err, inPlace) {
			return os.WriteFile(path, data, 0o644)
		}
	}
	return err
}

// replaceByRename does so by a new file; old is nil where there was none.
func replaceByRename(path string, data []byte, old fs.FileInfo) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+Program+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(data)
	mode := fs.FileMode(0o644)
	if old != nil {
		mode = old.Mode().Perm()
		if st, ok := old.Sys().(*syscall.Stat_t); ok {
			_ = f.Chown(int(st.Uid), int(st.Gid)) // only root may, and only root needs to
		}
	}
	if err == nil {
		err = f.Chmod(mode)
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

// follow returns the path that path's symbolic links lead to; what it names need not exist.
func follow(path string) (string, error) {
	const maxLinks = 40
	for range maxLinks {
		target, err := os.Readlink(path)
		switch {
		case errors.Is(err, syscall.EINVAL), errors.Is(err, fs.ErrNotExist):
			return path, nil // no link
		case err != nil:
			return "", err
		case filepath.IsAbs(target):
			path = filepath.Clean(target)
		default:
			dir, err := filepath.EvalSymlinks(filepath.Dir(path))
			if err != nil {
				return "", err
			}
			path = filepath.Join(dir, target)
		}
	}
	return "", syscall.ELOOP
}
