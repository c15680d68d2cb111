// Package journal is a worker's memory: who the worker is, and what became of the calls
// that it was given. It owns the worker's folder, and imports the language alone; package
// worker is its caller.
//
//	worker-id      the worker's id, made once
//	worker.lock    locked while a process uses the folder; names the process
//	journal/ID     a journal a session
//
// # Journals
//
// A journal is the one witness when the worker's process dies. It is a file of lines:
//
//	croft-journal 1 BOOT    the first; under which boot of the machine the file was begun
//	begun ID                the call is about to be given to a sandbox
//	kept ID JSON            its result, as it will be posted
//	done ID                 the server has the result, or wants it no more
//
// Each line is one write, and none but the first is synced: the page cache outlives the
// process, and a call must not wait for a disk. The cache does not outlive the machine. So
// the first line is made durable before any call is begun, and a file of another boot, or
// one that is damaged in any way but a torn last line, is suspect: when the session comes
// back, every call that the server then lists as open counts as begun.
//
// When no call is open any more the file is cut back to its first line; it is removed when
// the session is given back. A journal whose session went to another worker with a call
// open stays, for if the session ever comes back, that call must not be run.
package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"croft"
)

// Folder is a worker's own folder, held by this process alone. Its methods are safe for
// concurrent use.
type Folder struct {
	path string
	boot string
	lock *os.File
	id   string
}

var workerID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)

// Open takes the folder at path, which it makes where it is missing. process names the
// present process, where the system does not tell one boot from another. It fails when
// another process holds the folder.
func Open(path, process string) (*Folder, error) {
	if path == "" {
		return nil, errors.New("no folder for the worker was given")
	}
	f, err := take(path)
	if err != nil {
		return nil, err
	}
	f.boot = bootID(process)
	if f.id, err = identity(filepath.Join(path, "worker-id")); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lockWait is how long a new process waits for the lock of one that is just dying.
const lockWait = 2 * time.Second

// take makes and locks the folder.
func take(path string) (*Folder, error) {
	if err := os.MkdirAll(filepath.Join(path, sessions), 0o700); err != nil {
		return nil, fmt.Errorf("making the worker's folder: %w", err)
	}
	name := filepath.Join(path, "worker.lock")
	lock, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the worker's folder: %w", err)
	}
	err = tryLock(lock)
	// A worker that was killed holds its lock until its last child has let go of it.
	for until := time.Now().Add(lockWait); errors.Is(err, errLocked) && time.Now().Before(until); err = tryLock(lock) {
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		defer lock.Close()
		if !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("locking the worker's folder %s: %w", path, err)
		}
		holder := "another process"
		if b, err := os.ReadFile(name); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				holder = "process " + strconv.Itoa(pid)
			}
		}
		return nil, fmt.Errorf("the worker's folder %s is in use by %s: stop that one, or give this worker a folder of its own", path, holder)
	}
	// The number is for the message above alone; the lock is what counts.
	if err := lock.Truncate(0); err == nil {
		_, _ = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &Folder{path: path, lock: lock}, nil
}

// ID is the worker's id, made once and kept for good. The server gives a call to one worker
// alone, known by it.
func (f *Folder) ID() string { return f.id }

// Close gives the folder back. The journals that are open must be closed before.
func (f *Folder) Close() { _ = f.lock.Close() }

// identity reads the worker's id, or makes it.
func identity(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		id := croft.NewID("worker")
		if err := writeFile(path, []byte(id+"\n")); err != nil {
			return "", fmt.Errorf("keeping the worker's id: %w", err)
		}
		return id, nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the worker's id: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if !workerID.MatchString(id) {
		return "", fmt.Errorf("%s holds no worker's id: if it was damaged, remove it, and the calls that this worker had begun will be reported as cut off", path)
	}
	return id, nil
}

// writeFile puts data at path so that after any end of the process or of the machine the
// file is there whole, or is as it was before.
func writeFile(path string, data []byte) error {
	tmp, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		os.Remove(path + ".tmp")
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// bootID tells one running of the kernel from another: what a process wrote without
// syncing outlives it, but not the machine. Where the system doesn't tell, each process
// counts as a boot of its own, which is the safe side.
func bootID(process string) string {
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		if id := strings.TrimSpace(string(b)); workerID.MatchString(id) {
			return id
		}
	}
	return process
}
