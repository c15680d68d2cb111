package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"croft"
	"croft/internal/client"
	"croft/internal/config"
	"croft/internal/server"
	"croft/internal/store"
	"croft/internal/term"
)

// connection is the server that a command is a client of: one that another process runs,
// or one in this process, which ends with the command.
type connection struct {
	*client.Client
	local *server.Server // nil when another process serves
	stop  time.Duration  // how long the local one may take to stop
}

// connect finds the server: the one that --base-url names, else the one that holds the data
// folder, else it starts one in this process as o says.
func connect(ctx context.Context, cfg *config.Config, o server.Options) (*connection, error) {
	if cfg.BaseURL != "" {
		key := cfg.APIKey
		if key == "" && isLocal(cfg.BaseURL) {
			k, err := server.ReadAPIKey(cfg.Data)
			if err != nil {
				return nil, err
			}
			key = k
		}
		if key == "" {
			return nil, usageError("there is no API key for %s: set CROFT_API_KEY", cfg.BaseURL)
		}
		return dial(cfg.BaseURL, key, nil)
	}
	for wait := (&client.Backoff{}); ; {
		st, err := server.FindRunning(ctx, cfg.Data)
		if err != nil {
			return nil, err
		}
		if st != nil {
			key := cfg.APIKey
			if key == "" {
				if key, err = server.ReadAPIKey(cfg.Data); err != nil {
					return nil, err
				}
			}
			if key == "" {
				return nil, fmt.Errorf("the server at %s runs, and its API key is not in %s: set CROFT_API_KEY", st.Address, cfg.Data)
			}
			return dial(st.Address, key, nil)
		}
		o.Config, o.Version = cfg, version()
		s, err := server.Start(ctx, o)
		if err == nil {
			c, err := dial("http://croft.local", s.LocalKey(), s.Transport())
			if err != nil {
				return nil, errors.Join(err, s.Stop(ctx))
			}
			c.local, c.stop = s, cfg.ShutdownTimeout
			return c, nil
		}
		// Another process may be starting or stopping at this moment: look again.
		var locked *store.LockedError
		if !errors.As(err, &locked) || wait.Next(err) > 250*time.Millisecond {
			return nil, err
		}
		if err := wait.Wait(ctx, err, nil); err != nil {
			return nil, err
		}
	}
}

func dial(address, key string, transport http.RoundTripper) (*connection, error) {
	c, err := client.New(client.Options{BaseURL: address, APIKey: key, Transport: transport, UserAgent: "croft-cli/" + strings.ReplaceAll(version(), " ", "")})
	if err != nil {
		return nil, usageError("%v", err)
	}
	return &connection{Client: c}, nil
}

// Close stops the server of this process, if there is one. It waits no longer than the
// configured time.
func (c *connection) Close() error {
	if c.local == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.stop)
	defer cancel()
	return c.local.Stop(ctx)
}

func isLocal(address string) bool {
	u, err := url.Parse(address)
	return err == nil && server.IsLoopback(u.Hostname())
}

// logger is the log of a process that serves; it goes to standard error.
func (h *host) logger(cfg *config.Config) *slog.Logger {
	return slog.New(logHandler(h.stderr, cfg.LogFormat, cfg.LogLevel))
}

func logHandler(w io.Writer, format string, level slog.Level) slog.Handler {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

// quietLogger is the log of a command that serves only for itself: warnings, unless the
// configuration asks for another level.
func (h *host) quietLogger(cfg *config.Config) *slog.Logger {
	level := slog.LevelError
	if cfg.IsSet("log_level") {
		level = cfg.LogLevel
	}
	return slog.New(logHandler(h.stderr, cfg.LogFormat, level))
}

// pages reads a list of the API from its beginning and calls fn with each item, until fn
// returns io.EOF or the list ends. path may hold a query.
func pages[T any](ctx context.Context, c *connection, path string, fn func(T) error) error {
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	next := ""
	for {
		var page struct {
			Data     []T     `json:"data"`
			NextPage *string `json:"next_page"`
		}
		at := path
		if next != "" {
			at += sep + "page=" + url.QueryEscape(next)
		}
		if err := c.Do(ctx, http.MethodGet, at, nil, &page); err != nil {
			return err
		}
		for _, item := range page.Data {
			if err := fn(item); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
		if page.NextPage == nil || *page.NextPage == "" {
			return nil
		}
		next = *page.NextPage
	}
}

// getSession reads a session by its id.
func getSession(ctx context.Context, c *connection, id string) (*croft.Session, error) {
	if !croft.HasPrefix(id, croft.PrefixSession) {
		return nil, usageError("%q is no session: accepted is an id as croft ls shows it (%s_…)", term.Short(id, 60), croft.PrefixSession)
	}
	s := new(croft.Session)
	if err := c.Do(ctx, http.MethodGet, "/v1/sessions/"+url.PathEscape(id), nil, s); err != nil {
		return nil, err
	}
	return s, nil
}

// nothingYet tells whether the data folder holds no database that a command could read.
func nothingYet(cfg *config.Config) bool {
	path, ok := strings.CutPrefix(cfg.DatabaseURL, "sqlite:")
	if !ok || cfg.BaseURL != "" {
		return false
	}
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}
