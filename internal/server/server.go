// Package server is the wiring: it starts the parts of Croft in their order and stops them
// in the reverse one. It is what the commands up, server, worker and run start, and what
// tests start in their own process; it owns the data folder's files server.json (where the
// running server is) and api-key (the first key), and nothing else. It may import every
// room but the command line.
//
// # What is started
//
//	folder ─► listener ─► store ─► access ─► models ─► queue ─► log ─► brain ─► API
//	                                                                            │
//	  server.json ◄─ worker (role Up; it calls the API in process) ◄─ HTTP ◄────┘
//
// A Passive server opens the database and the API over it, and runs nothing: commands that
// look at what is there use it where no server runs.
//
// # How it stops
//
// The listener closes, the worker lets its calls end, the streams are ended, and then what
// stands behind them goes, the database last. Each step has its share of the time that the
// caller gives; what is left then is cut off, which the next start gets over like a crash.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"croft/internal/access"
	"croft/internal/agents"
	"croft/internal/api"
	"croft/internal/brain"
	"croft/internal/config"
	"croft/internal/model/registry"
	"croft/internal/session"
	"croft/internal/store"
	"croft/internal/work"
)

// Role is what a server does.
type Role int

// The roles.
const (
	// Passive answers requests over the database and runs nothing.
	Passive Role = iota
	// Plane serves the API and runs the loop; workers come from elsewhere.
	Plane
	// Up is Plane with a worker in the same process.
	Up
)

// Options are what a server is started with.
type Options struct {
	Config *config.Config
	Role   Role
	// Listen is the address to serve on, host:port; empty: only Transport reaches it.
	Listen string
	// Record is the file into which every model's answers are recorded, or empty.
	Record  string
	Version string       // of the program, for server.json
	Log     *slog.Logger // nil: nothing is logged
}

// Server is a running server.
type Server struct {
	o   Options
	cfg *config.Config
	log *slog.Logger

	db       *store.DB
	access   *access.Store
	registry *registry.Registry
	queue    *work.Queue
	sessions *session.Log
	brain    *brain.Brain
	api      *api.API
	worker   *embedded

	listener net.Listener
	http     *http.Server
	serving  sync.WaitGroup
	url      string
	first    string // the API key, where this start made it
	local    string
	warnings []string

	steps []func(context.Context) error // to stop, in the order of starting
}

// Start starts a server. Its errors say what a person can do; of other packages it returns
// *store.LockedError, *store.FutureError and *store.FullError, wrapped. When it fails,
// nothing runs.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	s := &Server{o: o, cfg: o.Config, log: o.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo(context.WithoutCancel(ctx)))
		}
	}()
	if err := prepareFolder(s.cfg.Data); err != nil {
		return nil, err
	}
	if o.Role != Passive {
		st, err := FindRunning(ctx, s.cfg.Data)
		if err != nil {
			return nil, err
		}
		if st != nil {
			return nil, &RunningError{Data: s.cfg.Data, State: *st}
		}
	}
	if o.Listen != "" {
		if err := s.listen(ctx, o.Listen); err != nil {
			return nil, err
		}
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	if s.listener != nil {
		if err := s.serve(); err != nil {
			return nil, err
		}
	}
	if o.Role == Up {
		if err := s.startWorker(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// later adds a step to the stop.
func (s *Server) later(step func(context.Context) error) { s.steps = append(s.steps, step) }

// open opens the database and makes the parts; none of them runs yet.
func (s *Server) open(ctx context.Context) error {
	db, err := store.Open(ctx, store.Options{URL: s.cfg.DatabaseURL, Log: s.log})
	if err != nil {
		return err
	}
	s.db = db
	s.later(func(context.Context) error { return db.Close() })
	s.access = access.New(db, s.log)
	if err := s.ensureKey(ctx); err != nil {
		return err
	}
	if s.registry, err = registry.New(s.models()); err != nil {
		return fmt.Errorf("the configuration's models: %w", err)
	}
	s.later(func(context.Context) error { return s.registry.RecordErr() })
	nouns := agents.New(db, nil) // a model may be configured later than the agent that names it
	s.queue = work.New(db, s.log)
	s.sessions = session.New(session.Options{DB: db, Agents: nouns, Models: resolver{s.registry}, Queue: s.queue, Log: s.log, Retries: s.cfg.ModelRetries})
	s.brain = brain.New(s.sessions, resolver{s.registry}, s.log)
	s.api, err = api.New(api.Options{DB: db, Access: s.access, Agents: nouns, Environments: nouns, Sessions: s.sessions, Work: s.queue,
		Models: catalogue{s.registry}, Log: s.log})
	if err != nil {
		return fmt.Errorf("making the API: %w", err)
	}
	return nil
}

// start sets the parts in motion: from here on sessions that an earlier process left go on.
func (s *Server) start(ctx context.Context) error {
	if s.o.Role == Passive {
		s.later(func(ctx context.Context) error { return s.api.Shutdown(ctx) })
		return nil
	}
	s.access.Start(ctx)
	s.later(func(context.Context) error { s.access.Stop(); return nil })
	s.queue.Start(ctx)
	s.later(func(context.Context) error { s.queue.Close(); return nil })
	s.later(func(context.Context) error { s.sessions.Stop(); return nil })
	s.later(func(context.Context) error { s.brain.Stop(); return nil })
	if err := s.sessions.Start(ctx, s.brain); err != nil {
		return err
	}
	s.later(func(ctx context.Context) error { return s.api.Shutdown(ctx) })
	return nil
}

// Limits of the HTTP server. Answers and bodies have no time-out of the server's own: a
// stream lasts, and the API bounds every other request.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	headerBytes   = 64 << 10
)

// listen takes the address. Clients that come now wait until the server is ready.
func (s *Server) listen(ctx context.Context, address string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return listenError(ctx, address, err)
	}
	s.listener = l
	s.url = "http://" + l.Addr().String()
	s.later(func(context.Context) error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return nil
}

// serve begins to answer, and says where in server.json.
func (s *Server) serve() error {
	s.http = &http.Server{Handler: s.api, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytes,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	s.serving.Go(func() {
		if err := s.http.Serve(s.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("serving HTTP ended", "err", err)
		}
	})
	s.later(func(ctx context.Context) error {
		defer s.serving.Wait()
		// Streams that the HTTP server still holds would keep it from ending.
		ended := s.api.Shutdown(ctx)
		if err := s.http.Shutdown(ctx); err != nil {
			return errors.Join(fmt.Errorf("requests were cut off: %w", err), s.http.Close())
		}
		return ended
	})
	if err := writeState(s.cfg.Data, State{Address: s.url, PID: os.Getpid(), Version: s.o.Version}); err != nil {
		return err
	}
	s.later(func(context.Context) error { return removeState(s.cfg.Data) })
	return nil
}

// models is what the registry is made of.
func (s *Server) models() registry.Config {
	c := registry.Config{Entries: s.cfg.Models, BaseURL: s.cfg.ModelBaseURL, APIKey: os.Getenv("ANTHROPIC_API_KEY"), Record: s.o.Record}
	if strings.HasPrefix(c.APIKey, "croft_") {
		// A shell that is set up for clients of this server: no model takes such a key.
		c.APIKey = ""
		s.warnings = append(s.warnings, "ANTHROPIC_API_KEY holds a key of Croft's own; it is not sent to any model.")
	}
	// Whoever holds a key of a server that only this machine reaches may read its files.
	c.ReplayPaths = s.o.Listen == "" || isLoopbackAddress(s.o.Listen)
	return c
}

// Stop stops the server. What has not ended when ctx does is cut off.
func (s *Server) Stop(ctx context.Context) error { return s.undo(ctx) }

// undo runs the steps in reverse. It can be called again: then there is nothing to do.
func (s *Server) undo(ctx context.Context) error {
	var errs []error
	for len(s.steps) > 0 {
		last := len(s.steps) - 1
		step := s.steps[last]
		s.steps = s.steps[:last]
		if err := step(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// URL is the address that is served, as in http://127.0.0.1:8400; empty where none is.
func (s *Server) URL() string { return s.url }

// Transport reaches the API without a network; any host name will do.
func (s *Server) Transport() http.RoundTripper { return api.InProcess(s.api) }

// LocalKey is an API key of the default workspace that holds in this process alone.
func (s *Server) LocalKey() string { return s.local }

// FirstKey is the API key that this start has made and kept in the data folder; empty where
// there was one.
func (s *Server) FirstKey() string { return s.first }

// Lost is closed when the server may no longer act for its sessions and must be stopped.
func (s *Server) Lost() <-chan struct{} { return s.db.Lost() }

// CheckModel tells whether a model's id can be asked, as far as that is known without
// asking. The error says what to set.
func (s *Server) CheckModel(id string) error {
	_, err := s.registry.Resolve(id)
	return err
}

// Warnings are what a person who starts a server must be told.
func (s *Server) Warnings() []string {
	w := s.warnings
	if s.o.Listen != "" && !isLoopbackAddress(s.o.Listen) {
		w = append(w, "This address can be reached from other machines, and what is said there, keys included, is not encrypted: put a proxy with TLS in front.")
	}
	if s.o.Role == Up {
		if s.cfg.Driver == DriverNone {
			w = append(w, "--driver none: tools run on this machine WITHOUT ANY ISOLATION, as the user who started this. Use it for work you trust wholly, and never for anything else.")
		} else {
			w = append(w, "Networking rules of environments are stored and not yet enforced: a sandbox has no network but its own loopback, whatever they say.")
		}
	}
	return w
}
