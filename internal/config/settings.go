package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// setting is one entry of the table: a name, what it means and how it is read.
type setting struct {
	name  string // as in the file
	value string // how a value looks, for help
	usage string // one line for help
	// list tells that it may be given more than once; clear empties it.
	list  bool
	clear func(*Config)
	// noFile, noFlag and noVariable take a source away.
	noFile, noFlag, noVariable bool
	// parse reads one value; dir is the folder of the file, or empty.
	parse func(c *Config, v, dir string) error
}

func (s *setting) flag() string     { return strings.ReplaceAll(s.name, "_", "-") }
func (s *setting) variable() string { return prefixVariable + strings.ToUpper(s.name) }

// settings is the table. Its order is the order of help and of docs/configuration.md.
var settings = []setting{
	{name: "listen", value: "HOST:PORT", usage: "address to serve the API on (default " + DefaultListen + "; port 0 chooses a free one)",
		parse: func(c *Config, v, _ string) error {
			host, port, err := net.SplitHostPort(v)
			if err != nil {
				return fmt.Errorf("%q is no address: accepted is HOST:PORT, as in %s", v, DefaultListen)
			}
			if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
				return fmt.Errorf("%q is no port: accepted is a number from 0 to 65535", port)
			}
			c.Listen = net.JoinHostPort(host, port)
			return nil
		}},
	{name: "data", value: "DIR", usage: "data folder (default $XDG_DATA_HOME/croft or ~/.local/share/croft)",
		parse: func(c *Config, v, dir string) (err error) {
			if v == "" {
				return errors.New("accepted is a folder")
			}
			c.Data, err = absolute(v, dir)
			return err
		}},
	{name: "database_url", value: "URL", usage: "database: sqlite:PATH or postgres://… (default croft.db in the data folder)",
		parse: func(c *Config, v, dir string) error {
			if path, ok := strings.CutPrefix(v, "sqlite:"); ok && path != "" {
				abs, err := absolute(path, dir)
				c.DatabaseURL = "sqlite:" + abs
				return err
			}
			if u, err := url.Parse(v); err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") && (u.Host != "" || u.RawQuery != "") {
				c.DatabaseURL = v
				return nil
			}
			// The value may hold a password: it is not repeated.
			return errors.New("accepted is sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE")
		}},
	{name: "base_url", value: "URL", usage: "address of a Croft server to use (default the one that holds the data folder)",
		parse: func(c *Config, v, _ string) error {
			u, err := httpURL(v)
			c.BaseURL = u
			return err
		}},
	{name: "api_key", noFile: true, noFlag: true,
		parse: func(c *Config, v, _ string) error { return secret(&c.APIKey, v) }},
	{name: "fleet_key", value: "KEY", noFile: true, usage: "fleet key of the workspace to serve (better given as CROFT_FLEET_KEY)",
		parse: func(c *Config, v, _ string) error { return secret(&c.FleetKey, v) }},
	{name: "model_base_url", value: "URL", usage: "address of an Anthropic Messages API for models that the configuration does not name",
		parse: func(c *Config, v, _ string) error {
			u, err := httpURL(v)
			c.ModelBaseURL = u
			return err
		}},
	{name: "model", value: "ID", usage: "default model: an id, or replay:PATH for a cassette (default the first of models, else " + DefaultModel + ")",
		parse: func(c *Config, v, dir string) error {
			if v == "" {
				return errors.New("accepted is a model's id or replay:PATH")
			}
			path, ok := strings.CutPrefix(v, "replay:")
			if !ok {
				c.Model = v
				return nil
			}
			if path == "" {
				return errors.New("replay: needs the path of a cassette behind it")
			}
			abs, err := absolute(path, dir)
			c.Model = "replay:" + abs
			return err
		}},
	{name: "model_retries", value: "N", usage: "how often a model request is tried before the session gives up (default 8)",
		parse: func(c *Config, v, _ string) error { return number(&c.ModelRetries, v, 1, 100) }},
	{name: "driver", value: "local|none", usage: "where tools run: local (a sandbox of namespaces), or none (no isolation at all: trusted tests only)",
		parse: func(c *Config, v, _ string) error { return oneOf(&c.Driver, v, "local", "none") }},
	{name: "capacity", value: "N", usage: "how many sessions this worker serves at once",
		parse: func(c *Config, v, _ string) error { return number(&c.Capacity, v, 1, 100_000) }},
	{name: "allow_mount", value: "DIR", list: true, usage: "folder of this host that environments may mount; may be given more than once",
		clear: func(c *Config) { c.AllowMount, c.AllowMountSet = nil, true },
		parse: func(c *Config, v, dir string) error {
			if v == "" {
				return errors.New("accepted is a folder")
			}
			abs, err := absolute(v, dir)
			c.AllowMount = append(c.AllowMount, abs)
			return err
		}},
	{name: "idle_timeout", value: "DURATION", usage: "how long an idle session keeps its sandbox, as in 90s or 5m",
		parse: func(c *Config, v, _ string) error { return duration(&c.IdleTimeout, v) }},
	{name: "call_timeout", value: "DURATION", usage: "how long one tool call may take, as in 10m",
		parse: func(c *Config, v, _ string) error { return duration(&c.CallTimeout, v) }},
	{name: "log_level", value: "LEVEL", usage: "least level of log lines: debug, info, warn or error (default info)",
		parse: func(c *Config, v, _ string) error {
			var s string
			if err := oneOf(&s, v, "debug", "info", "warn", "error"); err != nil {
				return err
			}
			return c.LogLevel.UnmarshalText([]byte(s))
		}},
	{name: "log_format", value: "text|json", usage: "form of log lines (default text)",
		parse: func(c *Config, v, _ string) error { return oneOf(&c.LogFormat, v, "text", "json") }},
	{name: "shutdown_timeout", value: "DURATION", usage: "how long a stop may take before what is left is cut off (default 10s)",
		parse: func(c *Config, v, _ string) error { return duration(&c.ShutdownTimeout, v) }},
}

// Setting is what documentation says of one setting.
type Setting struct {
	Name, Flag, Variable string // empty where there is none
	Value, Usage         string
}

// Settings lists the table for documentation and tests.
func Settings() []Setting {
	out := make([]Setting, 0, len(settings))
	for i := range settings {
		s := &settings[i]
		d := Setting{Value: s.value, Usage: s.usage}
		if !s.noFile {
			d.Name = s.name
		}
		if !s.noFlag {
			d.Flag = "--" + s.flag()
		}
		if !s.noVariable {
			d.Variable = s.variable()
		}
		out = append(out, d)
	}
	return out
}

// AddFlags adds --config and the flags of the named settings (as in the file) to fs.
func AddFlags(fs *pflag.FlagSet, names ...string) {
	if fs.Lookup("config") == nil {
		fs.String("config", "", "configuration `FILE`, YAML (CROFT_CONFIG)")
	}
	for _, name := range names {
		s := find(name)
		if s == nil || s.noFlag {
			panic("config: no flag for " + name)
		}
		usage := fmt.Sprintf("%s (%s)", s.usage, s.variable())
		if s.list {
			fs.Var(&listValue{typ: s.value}, s.flag(), usage)
		} else {
			fs.Var(&textValue{typ: s.value}, s.flag(), usage)
		}
	}
}

func find(name string) *setting {
	for i := range settings {
		if settings[i].name == name {
			return &settings[i]
		}
	}
	return nil
}

// textValue and listValue are flags that keep their text until Load reads it, so that every
// source is read by the same rule.
type textValue struct{ text, typ string }

func (t *textValue) String() string     { return t.text }
func (t *textValue) Set(v string) error { t.text = v; return nil }
func (t *textValue) Type() string       { return t.typ }

type listValue struct {
	values []string
	typ    string
}

func (l *listValue) String() string             { return strings.Join(l.values, ",") }
func (l *listValue) Set(v string) error         { l.values = append(l.values, v); return nil }
func (l *listValue) Type() string               { return l.typ }
func (l *listValue) Append(v string) error      { return l.Set(v) }
func (l *listValue) Replace(all []string) error { l.values = all; return nil }
func (l *listValue) GetSlice() []string         { return l.values }

func oneOf(to *string, v string, accepted ...string) error {
	for _, a := range accepted {
		if v == a {
			*to = v
			return nil
		}
	}
	return fmt.Errorf("%q is not accepted: accepted are %s", v, strings.Join(accepted, ", "))
}

func number(to *int, v string, least, most int) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		return fmt.Errorf("%q is not accepted: accepted is a whole number from %d to %d", v, least, most)
	}
	*to = n
	return nil
}

func duration(to *time.Duration, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is not accepted: accepted is a duration above zero, as in 30s, 5m or 1h", v)
	}
	*to = d
	return nil
}

// secret takes a key as it is; it is never repeated in an error.
func secret(to *string, v string) error {
	if strings.TrimSpace(v) != v || strings.ContainsAny(v, " \t\r\n") {
		return errors.New("a key holds no spaces or line ends")
	}
	*to = v
	return nil
}

// httpURL accepts an http or https address and takes the last slash off.
func httpURL(v string) (string, error) {
	u, err := url.Parse(v)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q is no address: accepted is http://HOST:PORT or https://HOST", v)
	}
	if u.User != nil {
		return "", errors.New("an address holds no user or password: keys are given by variables")
	}
	return strings.TrimRight(v, "/"), nil
}
