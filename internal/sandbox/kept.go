package sandbox

import (
	"errors"
	"io/fs"
	"os"
)

// RemoveKept deletes a folder that an agent could write, also where the agent made folders
// in it unreadable to their owner. Links are never followed. It is for drivers that keep
// workspaces on this host.
func RemoveKept(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	// WalkDir calls back for a folder before it reads it, which is when it must be opened up.
	err = fs.WalkDir(root.FS(), ".", func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = root.Chmod(p, 0o700)
		}
		return err
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
