package hand

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// scratch is the hand's private folder in the sandbox: the text of the running command,
// outputs too long for the model, results too many for memory. It lies in the temporary
// folder or, where that takes nothing, in workdir. It is made when first needed, and again
// should somebody inside remove it.
type scratch struct {
	workdir string

	mu      sync.Mutex
	dir     string
	outputs []string // paths of outputs, oldest first
}

// keptOutputs is how many files of long output stay; each is at most maxSpill.
const keptOutputs = 16

// path returns the path of a file in the folder, which exists at that moment.
func (s *scratch) path(name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir != "" {
		if _, err := os.Lstat(s.dir); err == nil {
			return filepath.Join(s.dir, name), nil
		}
	}
	dir, err := os.MkdirTemp("", Program+"-*")
	if err != nil {
		var err2 error
		if dir, err2 = os.MkdirTemp(s.workdir, "."+Program+"-*"); err2 != nil {
			return "", fmt.Errorf("making a folder for the hand: %w; %w", err, err2)
		}
	}
	s.dir = dir
	return filepath.Join(dir, name), nil
}

// write gives the file of that name new content and returns its path. The file is not cut
// to nothing first, which would have some file systems write it to disk each time.
func (s *scratch) write(name, content string) (string, error) {
	path, err := s.path(name)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Truncate(int64(len(content)))
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	return path, err
}

// create makes a file for the output of the call id, and removes the oldest beyond keptOutputs.
func (s *scratch) create(id string) (*os.File, error) {
	path, err := s.path("output-" + fileName(id) + ".txt")
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outputs = append(s.outputs, path)
	if len(s.outputs) > keptOutputs {
		os.Remove(s.outputs[0])
		s.outputs = s.outputs[1:]
	}
	return f, nil
}

// remove deletes the folder and what is in it.
func (s *scratch) remove() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

// fileName turns an id into one that is safe as part of a file's name.
func fileName(id string) string {
	safe := func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-':
			return r
		}
		return '-'
	}
	id = strings.Map(safe, id)
	return id[:min(len(id), 64)]
}
