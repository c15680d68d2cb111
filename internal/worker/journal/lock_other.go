//go:build !unix

package journal

import (
	"errors"
	"os"
)

// errLocked says that another process holds the lock.
var errLocked = errors.New("the file is locked")

// tryLock refuses: without a lock two workers could run one call twice.
func tryLock(*os.File) error {
	return errors.New("workers are not supported on this system: it has no file locks that end with their process")
}
