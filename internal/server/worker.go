package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"croft/internal/access"
	"croft/internal/api"
	"croft/internal/client"
	"croft/internal/config"
	"croft/internal/sandbox"
	"croft/internal/sandbox/local"
	"croft/internal/sandbox/none"
	"croft/internal/worker"
)

// The drivers of this version.
const (
	DriverLocal = "local"
	DriverNone  = "none"
)

// NewDriver makes the driver that the configuration names.
func NewDriver(cfg *config.Config, log *slog.Logger) (sandbox.Driver, error) {
	if cfg.Driver == DriverNone {
		return none.New(none.Options{Data: cfg.Data})
	}
	// A database URL may hold a password, and a configuration file a database URL.
	var hide []string
	if cfg.File != "" {
		hide = append(hide, cfg.File)
	}
	if path, ok := strings.CutPrefix(cfg.DatabaseURL, "sqlite:"); ok {
		hide = append(hide, path, path+"-wal", path+"-shm", path+".lock")
	}
	return local.New(local.Options{Data: cfg.Data, Hide: hide, Log: log})
}

// newWorker makes a worker that speaks to a server through c. mounts are the folders that
// environments may mount where the configuration names none.
func newWorker(cfg *config.Config, c *client.Client, mounts []string, log *slog.Logger) (*worker.Worker, error) {
	driver, err := NewDriver(cfg, log)
	if err != nil {
		return nil, err
	}
	if cfg.AllowMountSet {
		mounts = cfg.AllowMount
	}
	return worker.New(worker.Options{Client: c, Driver: driver, Data: filepath.Join(cfg.Data, "worker"), Capacity: cfg.Capacity,
		Ceiling: worker.Ceiling{Mounts: mounts}, CallTimeout: cfg.CallTimeout, IdleTimeout: cfg.IdleTimeout, Log: log})
}

// embedded is the worker of a server with role Up.
type embedded struct {
	*worker.Worker
	run sync.WaitGroup
}

// startWorker starts the embedded worker. It reaches the API without a network, under a key
// of this process.
func (s *Server) startWorker() error {
	key, err := s.access.Local(access.DefaultWorkspace, access.Fleet, "")
	if err != nil {
		return fmt.Errorf("making the worker's key: %w", err)
	}
	c, err := client.New(client.Options{BaseURL: "http://croft.local", Token: key, Transport: api.InProcess(s.api), UserAgent: "croft-worker"})
	if err != nil {
		return fmt.Errorf("making the worker's client: %w", err)
	}
	// Whoever may use a server that only this machine reaches is its owner, who may see
	// every folder already.
	var mounts []string
	if s.o.Listen == "" || isLoopbackAddress(s.o.Listen) {
		mounts = []string{"/"}
	}
	w, err := newWorker(s.cfg, c, mounts, s.log)
	if err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	s.worker = &embedded{Worker: w}
	run, cut := context.WithCancel(context.Background())
	s.worker.run.Go(func() {
		if err := w.Run(run); err != nil {
			s.log.Error("the worker ended", "err", err)
		}
	})
	s.later(func(ctx context.Context) error {
		defer cut()
		defer s.worker.run.Wait()
		select {
		case <-s.db.Lost():
			// Nothing can be written any more, so nothing can be handed over.
			cut()
			return nil
		default:
		}
		ctx, cancel := half(ctx)
		defer cancel()
		if err := w.Drain(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("draining the worker: %w", err)
		}
		return nil
	})
	return nil
}

// half is a context with half of the time that ctx has left.
func half(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(end)/2)
}

// Sandbox tells, in a line for people, where tools run and whether they can. It tries.
func (s *Server) Sandbox(ctx context.Context) string {
	d, err := NewDriver(s.cfg, s.log)
	if err != nil {
		return err.Error()
	}
	for _, c := range d.Probe(ctx) {
		if c.Required && !c.OK && ctx.Err() == nil {
			return fmt.Sprintf("%s CANNOT RUN HERE: %s: %s (see croft doctor)", d.Name(), c.Name, c.Detail)
		}
	}
	return d.Name()
}

// RunWorker serves the fleet of the server at cfg.BaseURL until ctx ends; then it drains,
// for as long as the configuration lets it. draining is called when that begins.
func RunWorker(ctx context.Context, cfg *config.Config, draining func(), log *slog.Logger) error {
	if err := prepareFolder(cfg.Data); err != nil {
		return err
	}
	c, err := client.New(client.Options{BaseURL: cfg.BaseURL, Token: cfg.FleetKey, UserAgent: "croft-worker"})
	if err != nil {
		return err
	}
	w, err := newWorker(cfg, c, nil, log)
	if err != nil {
		return err
	}
	if cfg.Driver == DriverNone {
		log.Warn("driver none: tools run on this machine WITHOUT ANY ISOLATION")
	}
	ended := make(chan error, 1)
	go func() { ended <- w.Run(context.WithoutCancel(ctx)) }() // read below, on both ways
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	draining()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.ShutdownTimeout)
	defer cancel()
	if err := w.Drain(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(err, <-ended)
	}
	return <-ended
}
