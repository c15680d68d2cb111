package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
)

// Journal is what is known of a session's open calls. Its methods are safe for concurrent
// use.
type Journal struct {
	path string
	boot string

	mu    sync.Mutex
	file  *os.File
	head  int64 // where the first line ends
	size  int64
	calls map[string][]byte // the open ones; nil: begun, else the kept result
	// suspect is set until Adopt when the file can't be believed; torn when its last line
	// was cut off.
	suspect, torn bool
	broken        error // nothing can be written any more
}

const (
	sessions = "journal" // the folder of the journals
	title    = "croft-journal 1 "
	// maxFile is the largest file that is read; a larger one is suspect.
	maxFile = 1 << 30
	// compactAt is the size from which a file is written anew when most of it is done.
	compactAt = 4 << 20
)

var (
	sessionID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	callID    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
)

// Session opens a session's journal, or begins it durably. A session has one open journal
// at a time; Close or Drop ends it. Before any call is started Adopt must be called.
func (f *Folder) Session(session string) (*Journal, error) {
	if !sessionID.MatchString(session) {
		return nil, fmt.Errorf("%q cannot be the name of a journal", session)
	}
	j := &Journal{path: filepath.Join(f.path, sessions, session), boot: f.boot, calls: map[string][]byte{}}
	data, err := read(j.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := j.begin(); err != nil {
			return nil, fmt.Errorf("beginning the journal of %s: %w", session, err)
		}
		return j, nil
	case err != nil:
		return nil, fmt.Errorf("reading the journal of %s: %w", session, err)
	}
	r := decode(data)
	j.calls, j.torn = r.calls, r.torn
	j.suspect = !r.whole || r.boot != f.boot
	j.head, j.size = int64(r.head), int64(len(data))
	if j.file, err = os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return nil, fmt.Errorf("opening the journal of %s: %w", session, err)
	}
	return j, nil
}

// Forget removes the journal of a session that is no more. It must not be open.
func (f *Folder) Forget(session string) error {
	if !sessionID.MatchString(session) {
		return fmt.Errorf("%q cannot be the name of a journal", session)
	}
	if err := os.Remove(filepath.Join(f.path, sessions, session)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the journal of %s: %w", session, err)
	}
	return nil
}

func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, nil // suspect, as an empty file is
	}
	return os.ReadFile(path)
}

// begin makes the file, and makes it durable.
func (j *Journal) begin() error {
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	line := title + j.boot + "\n"
	_, err = f.WriteString(line)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncFolder(filepath.Dir(j.path))
	}
	if err != nil {
		f.Close()
		os.Remove(j.path) // no call was begun
		return err
	}
	j.file, j.head, j.size = f, int64(len(line)), int64(len(line))
	return nil
}

// Adopt takes over the calls that the server lists as open for a lease that has just begun:
// others are forgotten, and if the journal is suspect they all count as begun from now on.
func (j *Journal) Adopt(open []string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	known := map[string][]byte{}
	for _, id := range open {
		if kept, ok := j.calls[id]; ok || j.suspect {
			known[id] = kept
		}
	}
	if !j.suspect && !j.torn && len(known) == len(j.calls) {
		return nil
	}
	j.calls = known
	if err := j.rewrite(true); err != nil {
		j.broken = err
		return err
	}
	j.suspect, j.torn = false, false
	return nil
}

// rewrite replaces the file by one that holds what is open.
func (j *Journal) rewrite(durable bool) error {
	head := title + j.boot + "\n"
	b := []byte(head)
	for id, kept := range j.calls {
		b = appendLine(b, "begun", id, nil)
		if kept != nil {
			b = appendLine(b, "kept", id, kept)
		}
	}
	write := writeFile
	if !durable {
		// A crash of the machine may leave it empty: then it is suspect, as it should be.
		write = func(path string, data []byte) error {
			if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
				return err
			}
			return os.Rename(path+".tmp", path)
		}
	}
	if err := write(j.path, b); err != nil {
		return fmt.Errorf("writing a journal anew: %w", err)
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("opening a journal: %w", err)
	}
	_ = j.file.Close()
	j.file, j.head, j.size = f, int64(len(head)), int64(len(b))
	return nil
}

func appendLine(b []byte, word, id string, rest []byte) []byte {
	b = append(append(append(b, word...), ' '), id...)
	if rest != nil {
		b = append(append(b, ' '), rest...)
	}
	return append(b, '\n')
}

// Lookup tells what is known of a call: whether it was begun, and its kept result.
func (j *Journal) Lookup(id string) (begun bool, kept []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	kept, begun = j.calls[id]
	return begun, kept
}

// note writes one line with one write. A line that could not be written whole is taken back.
func (j *Journal) note(line []byte) error {
	if j.broken != nil {
		return j.broken
	}
	n, err := j.file.Write(line)
	if err == nil {
		j.size += int64(n)
		return nil
	}
	err = fmt.Errorf("writing the journal: %w", err)
	if n > 0 {
		if cut := j.file.Truncate(j.size); cut != nil {
			j.broken = errors.Join(err, cut)
		}
	}
	return err
}

// Start notes that a call is about to be run. After an error it must not be.
func (j *Journal) Start(id string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.note(appendLine(nil, "begun", id, nil)); err != nil {
		return err
	}
	j.calls[id] = nil
	return nil
}

// Keep notes the result of a call that was begun. body is JSON on one line.
func (j *Journal) Keep(id string, body []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.note(appendLine(make([]byte, 0, len(body)+len(id)+8), "kept", id, body)); err != nil {
		return err
	}
	j.calls[id] = body
	return nil
}

// Done notes that a call is over. A failure only means that its result may be sent again.
func (j *Journal) Done(id string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.calls[id]; !ok {
		return nil
	}
	delete(j.calls, id)
	if len(j.calls) == 0 && j.broken == nil && j.file.Truncate(j.head) == nil {
		j.size = j.head
		return nil
	}
	if err := j.note(appendLine(nil, "done", id, nil)); err != nil {
		return err
	}
	live := int64(0)
	for _, kept := range j.calls {
		live += int64(len(kept))
	}
	if j.size < compactAt || j.size < 4*live {
		return nil
	}
	return j.rewrite(false)
}

// Close closes the file, and removes it when it has nothing left to tell.
func (j *Journal) Close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = j.file.Close()
	if len(j.calls) == 0 && !j.suspect {
		os.Remove(j.path)
	}
}

// Drop closes and removes the journal of a session that is no more.
func (j *Journal) Drop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = j.file.Close()
	os.Remove(j.path)
}

// record is what a journal's bytes say.
type record struct {
	boot  string
	head  int               // bytes of the first line
	calls map[string][]byte // open calls; nil: begun, else the kept result
	whole bool              // every line that has an end could be read
	torn  bool              // the last line has no end
}

// decode reads a journal. A last line without its end is as if it were not there:
// what it would have said did not happen yet.
func decode(data []byte) record {
	r := record{calls: map[string][]byte{}}
	first, rest, ok := bytes.Cut(data, []byte{'\n'})
	boot, titled := bytes.CutPrefix(first, []byte(title))
	if !ok || !titled || !workerID.Match(boot) {
		return r
	}
	r.boot, r.head, r.whole = string(boot), len(first)+1, true
	for len(rest) > 0 {
		var line []byte
		if line, rest, ok = bytes.Cut(rest, []byte{'\n'}); !ok {
			r.torn = true
			return r
		}
		word, line, _ := bytes.Cut(line, []byte{' '})
		id, body, more := bytes.Cut(line, []byte{' '})
		if !callID.Match(id) {
			r.whole = false
			continue
		}
		switch {
		case string(word) == "begun" && !more:
			if _, ok := r.calls[string(id)]; !ok {
				r.calls[string(id)] = nil
			}
		case string(word) == "kept" && json.Valid(body):
			r.calls[string(id)] = bytes.Clone(body)
		case string(word) == "done" && !more:
			delete(r.calls, string(id))
		default:
			r.whole = false
		}
	}
	return r
}
