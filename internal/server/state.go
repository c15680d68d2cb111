package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"croft/internal/access"
)

// Files of the data folder that this package owns.
const (
	stateFile = "server.json"
	keyFile   = "api-key"
)

// State says where the server of a data folder is. It is the file server.json.
type State struct {
	Address string `json:"address"` // as in http://127.0.0.1:8400
	PID     int    `json:"pid"`
	Version string `json:"version"`
}

// RunningError says that a server of the data folder runs already.
type RunningError struct {
	Data  string
	State State
}

// Error names the server and what to do.
func (e *RunningError) Error() string {
	return fmt.Sprintf("a croft server of the data folder %s runs already, at %s (process %d): use it, stop it, or choose another folder with --data", e.Data, e.State.Address, e.State.PID)
}

// PortError says that an address to listen on is taken.
type PortError struct {
	Address string
	Croft   bool // another Croft has it
	Cause   error
}

// Error names the address, who has it as far as that is known, and what to do.
func (e *PortError) Error() string {
	who := "another program"
	if e.Croft {
		who = "another croft server, of another data folder,"
	}
	host, port, err := net.SplitHostPort(e.Address)
	if err != nil {
		return fmt.Sprintf("%s listens on %s", who, e.Address)
	}
	return fmt.Sprintf("port %s is in use: %s listens on %s; choose another port with --listen %s, or a free one with --listen %s",
		port, who, e.Address, net.JoinHostPort(host, "PORT"), net.JoinHostPort(host, "0"))
}

// Unwrap returns the cause.
func (e *PortError) Unwrap() error { return e.Cause }

// listenError words the failure to listen.
func listenError(ctx context.Context, address string, err error) error {
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &PortError{Address: address, Croft: isCroft(ctx, "http://"+address), Cause: err}
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("this user may not listen on %s: choose a port above 1023 with --listen", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.As(err, &dns):
		return fmt.Errorf("%s is no address of this machine: choose one with --listen, as in %s", address, "127.0.0.1:8400")
	}
	return fmt.Errorf("listening on %s: %w", address, err)
}

// isCroft tells whether an address answers as a Croft does.
func isCroft(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", nil)
	if err != nil {
		return false
	}
	transport := &http.Transport{DisableKeepAlives: true} // no proxy: it is this machine
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK && strings.HasPrefix(resp.Header.Get("Request-Id"), "req_")
}

// ReadState reads server.json; nil where there is none. It does not tell whether the server
// still runs: FindRunning does.
func ReadState(data string) (*State, error) {
	path := filepath.Join(data, stateFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("finding the server of %s: %w", data, err)
	}
	var st State
	_ = json.Unmarshal(text, &st) // half a file is left by a power cut: then the server is gone, too
	if st.Address == "" {
		return nil, nil
	}
	return &st, nil
}

// FindRunning returns the server that serves the data folder, or nil.
func FindRunning(ctx context.Context, data string) (*State, error) {
	st, err := ReadState(data)
	if err != nil || st == nil {
		return nil, err
	}
	if !alive(st.PID) || !isCroft(ctx, st.Address) {
		return nil, nil
	}
	return st, nil
}

func writeState(data string, st State) error {
	text, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("writing %s: %w", stateFile, err)
	}
	return writeFile(filepath.Join(data, stateFile), append(text, '\n'))
}

// removeState takes server.json away, unless another process has written it since.
func removeState(data string) error {
	st, err := ReadState(data)
	if err != nil || st == nil || st.PID != os.Getpid() {
		return err
	}
	if err := os.Remove(filepath.Join(data, stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", stateFile, err)
	}
	return nil
}

// writeFile writes a small file whole or not at all, for this user's eyes.
func writeFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, folderError(filepath.Dir(path), err))
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("writing %s: %w", path, folderError(filepath.Dir(path), err))
	}
	return nil
}

// prepareFolder makes the data folder and sees whether it can be written.
func prepareFolder(data string) error {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return folderError(data, err)
	}
	f, err := os.CreateTemp(data, ".croft-")
	if err != nil {
		return folderError(data, err)
	}
	f.Close()
	os.Remove(f.Name())
	return nil
}

// folderError words a failure of the data folder.
func folderError(data string, err error) error {
	const choose = "choose another folder with --data or CROFT_DATA"
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("the disk of the data folder %s is full: make room, or %s (%w)", data, choose, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the data folder %s is on a read-only file system: %s", data, choose)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the data folder %s cannot be written by this user: %s", data, choose)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
		return fmt.Errorf("the data folder %s cannot be made, a file is in the way: %s", data, choose)
	}
	return fmt.Errorf("the data folder %s: %w", data, err)
}

// KeyPath is where the first API key of a data folder is kept.
func KeyPath(data string) string { return filepath.Join(data, keyFile) }

// ReadAPIKey reads the kept API key; empty where there is none.
func ReadAPIKey(data string) (string, error) {
	text, err := os.ReadFile(KeyPath(data))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the API key: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// ensureKey makes the default workspace and its first API key, and a key of this process.
// Where the file is missing though there was a key (another machine of the same database,
// or a crash between the two writes), a further key is made for it.
func (s *Server) ensureKey(ctx context.Context) error {
	created, key, err := s.access.EnsureDefault(ctx, s.cfg.APIKey)
	if err != nil {
		return fmt.Errorf("making the first API key: %w", err)
	}
	if s.cfg.APIKey == "" && s.o.Role != Passive {
		kept, err := ReadAPIKey(s.cfg.Data)
		if err != nil {
			return err
		}
		if !created && kept == "" {
			created = true
			if _, key, err = s.access.Create(ctx, access.DefaultWorkspace, access.API, "made for a data folder without one", ""); err != nil {
				return fmt.Errorf("making an API key: %w", err)
			}
		}
	}
	if created {
		s.first = key
		if err := writeFile(KeyPath(s.cfg.Data), []byte(key+"\n")); err != nil {
			return fmt.Errorf("keeping the API key: %w", err)
		}
	}
	if s.local, err = s.access.Local(access.DefaultWorkspace, access.API, ""); err != nil {
		return fmt.Errorf("making a key for this process: %w", err)
	}
	return nil
}

// IsLoopback tells whether a host name or address is this machine's own.
func IsLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func isLoopbackAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && IsLoopback(host)
}
