// Package config reads what a person tells Croft: a YAML file, CROFT_… variables and
// flags. It owns the names, the defaults and the words of refusal; it opens nothing but
// the file. A value is taken from the first of these that has it:
//
//	flag --database-url  >  variable CROFT_DATABASE_URL  >  file database_url  >  default
//
// Every name in the table of settings (settings.go) is all three at once, save the few
// whose entry says otherwise: secrets are no flags of the server's and are in no file,
// and the list models is in the file alone. Relative paths in the file are relative to the
// file's folder, those of flags and variables to the working folder.
//
// A mistake is an *Error. It names the place (croft.yaml:7, CROFT_LISTEN or --listen), what
// is wrong, and what is accepted. Config imports the seam to models, for prices; the
// command line calls AddFlags and Load.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"croft/internal/model/registry"
)

// Defaults that other packages name in their help.
const (
	DefaultListen  = "127.0.0.1:8400"
	DefaultModel   = "claude-opus-5"
	maxFile        = 1 << 20
	prefixVariable = "CROFT_"
)

// Config is everything that can be set. Paths are absolute.
type Config struct {
	// File is the configuration file that was read, or empty.
	File string

	Listen      string // host:port
	Data        string // the data folder
	DatabaseURL string // sqlite:PATH or postgres://…
	// BaseURL is the address of a server to be a client of; empty: the one that holds Data.
	BaseURL  string
	APIKey   string
	FleetKey string

	ModelBaseURL string
	// Model is the default model's id, or replay:PATH; empty: the first of Models, or
	// DefaultModel where there is none.
	Model  string
	Models []registry.Entry
	// ModelRetries is how often a model request is tried before the session gives up.
	ModelRetries int

	Driver   string // local or none
	Capacity int    // sandboxes at once; 0: the worker's default
	// AllowMount lists the host's folders under which environments may mount; AllowMountSet
	// tells whether any source named one.
	AllowMount    []string
	AllowMountSet bool
	IdleTimeout   time.Duration // 0: the worker's default
	CallTimeout   time.Duration // 0: the worker's default

	LogLevel        slog.Level
	LogFormat       string // text or json
	ShutdownTimeout time.Duration

	set map[string]bool
}

// IsSet tells whether a flag, a variable or the file gave the setting of that name (as in
// the file: database_url).
func (c *Config) IsSet(name string) bool { return c.set[name] }

// DefaultModelID is the model of agents that name none: Model, else the first of Models,
// else DefaultModel.
func (c *Config) DefaultModelID() string {
	switch {
	case c.Model != "":
		return c.Model
	case len(c.Models) > 0:
		return c.Models[0].ID
	}
	return DefaultModel
}

// Error is a mistake in what was configured.
type Error struct {
	Where   string // --listen, CROFT_LISTEN, croft.yaml:7 or croft.yaml
	Field   string // the field's path in the file, or empty
	Message string
	Cause   error
}

// Error names the place, the field and what is wrong.
func (e *Error) Error() string {
	s := e.Where + ": "
	if e.Field != "" {
		s += e.Field + ": "
	}
	return s + e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Load reads the file that --config or CROFT_CONFIG names, the variables and the flags of
// fs that AddFlags added. lookup is os.LookupEnv, or a test's own.
func Load(fs *pflag.FlagSet, lookup func(string) (string, bool)) (*Config, error) {
	c := &Config{Listen: DefaultListen, Driver: "local", LogFormat: "text", ShutdownTimeout: 10 * time.Second, ModelRetries: 8, set: map[string]bool{}}
	file, where := "", ""
	if v, ok := lookup(prefixVariable + "CONFIG"); ok && v != "" {
		file, where = v, prefixVariable+"CONFIG"
	}
	if f := fs.Lookup("config"); f != nil && f.Changed {
		file, where = f.Value.String(), "--config"
	}
	if file != "" {
		if err := c.readFile(file, where); err != nil {
			return nil, err
		}
	}
	for i := range settings {
		s := &settings[i]
		if v, ok := lookup(s.variable()); ok && v != "" && !s.noVariable {
			values := []string{v}
			if s.list {
				values = filepath.SplitList(v)
			}
			if err := c.assign(s, values, ""); err != nil {
				return nil, &Error{Where: s.variable(), Message: err.Error(), Cause: err}
			}
		}
		if f := fs.Lookup(s.flag()); f != nil && f.Changed && !s.noFlag {
			var values []string
			if list, ok := f.Value.(pflag.SliceValue); ok {
				values = list.GetSlice()
			} else {
				values = []string{f.Value.String()}
			}
			if err := c.assign(s, values, ""); err != nil {
				return nil, &Error{Where: "--" + s.flag(), Message: err.Error(), Cause: err}
			}
		}
	}
	return c, c.finish(lookup)
}

// assign gives a setting its values; dir is the folder that relative paths are relative to.
func (c *Config) assign(s *setting, values []string, dir string) error {
	if s.list {
		s.clear(c)
	}
	for _, v := range values {
		if err := s.parse(c, v, dir); err != nil {
			return err
		}
	}
	c.set[s.name] = true
	return nil
}

// finish fills in what depends on other settings.
func (c *Config) finish(lookup func(string) (string, bool)) error {
	if c.Data == "" {
		dir, err := defaultData(lookup)
		if err != nil {
			return err
		}
		c.Data = dir
	}
	if c.DatabaseURL == "" {
		c.DatabaseURL = "sqlite:" + filepath.Join(c.Data, "croft.db")
	}
	return nil
}

// defaultData is $XDG_DATA_HOME/croft, else ~/.local/share/croft; on Windows
// %LocalAppData%\croft.
func defaultData(lookup func(string) (string, bool)) (string, error) {
	if dir, ok := lookup("XDG_DATA_HOME"); ok && filepath.IsAbs(dir) {
		return filepath.Join(dir, "croft"), nil
	}
	if runtime.GOOS == "windows" {
		if dir, ok := lookup("LocalAppData"); ok && dir != "" {
			return filepath.Join(dir, "croft"), nil
		}
	}
	if home, ok := lookup("HOME"); ok && filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", "croft"), nil
	}
	return "", &Error{Where: prefixVariable + "DATA", Message: "there is no home folder to keep data in: set CROFT_DATA or --data to a folder"}
}

// readFile reads the configuration file; named is what named it, for errors.
func (c *Config) readFile(path, named string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return &Error{Where: named, Message: err.Error(), Cause: err}
	}
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return &Error{Where: named, Message: fmt.Sprintf("%s is a folder: accepted is a YAML file", path)}
	}
	if err == nil && info.Size() > maxFile {
		return &Error{Where: named, Message: fmt.Sprintf("%s has %d bytes: accepted are at most %d", path, info.Size(), maxFile)}
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return &Error{Where: named, Message: "the configuration cannot be read: " + reason(path, err), Cause: err}
	}
	if err := c.parse(text, filepath.Dir(path)); err != nil {
		var e *Error
		if errors.As(err, &e) {
			e.Where = path + e.Where
		}
		return err
	}
	c.File = path
	return nil
}

// reason words a file error for people.
func reason(path string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path + " is not there"
	case errors.Is(err, fs.ErrPermission):
		return path + " may not be read by this user"
	}
	return err.Error()
}

// absolute makes a path absolute: ~/ is the home folder, dir what relative ones are
// relative to; empty is the working folder.
func absolute(path, dir string) (string, error) {
	if rest, ok := strings.CutPrefix(path, "~/"); ok || path == "~" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("%q names the home folder, and there is none: give the whole path", path)
		}
		if path == "~" {
			rest = ""
		}
		return filepath.Join(home, rest), nil
	}
	if dir != "" && !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return filepath.Abs(path)
}
