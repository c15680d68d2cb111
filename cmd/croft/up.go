package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"croft/internal/config"
	"croft/internal/server"
	"croft/internal/store"
	"croft/internal/term"
)

func newUp(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Serve the API and run agents on this machine",
		Long: `Serves the API, runs the agents' loop and their tools, all in one process, until it
is stopped with Ctrl-C. The first start makes an API key and prints it.`,
		Example: `  croft up
  croft up --listen 127.0.0.1:9000 --data ./state
  croft up --config croft.yaml`,
		Args: cobra.NoArgs,
	}
	config.AddFlags(cmd.Flags(), "listen", "data", "database_url", "model_base_url", "model", "model_retries", "driver", "capacity",
		"allow_mount", "idle_timeout", "call_timeout", "log_level", "log_format", "shutdown_timeout")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return h.serve(cmd, server.Up)
	}
	return cmd
}

func newServer(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Serve the API without running tools: croft worker does that",
		Long: `Serves the API and runs the agents' loop. Tools are run by workers, which are started
with croft worker and a fleet key (croft keys create --kind fleet). This version serves a
database by one server at a time.`,
		Example: `  croft server
  croft server --database-url postgres://croft@db/croft`,
		Args: cobra.NoArgs,
	}
	config.AddFlags(cmd.Flags(), "listen", "data", "database_url", "model_base_url", "model", "model_retries",
		"log_level", "log_format", "shutdown_timeout")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return h.serve(cmd, server.Plane)
	}
	return cmd
}

// serve runs a server until a signal, or the loss of its database, ends it.
func (h *host) serve(cmd *cobra.Command, role server.Role) error {
	cfg, err := h.load(cmd.Flags())
	if err != nil {
		return err
	}
	ctx, release := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer release()
	s, err := server.Start(ctx, server.Options{Config: cfg, Role: role, Listen: cfg.Listen, Version: version(), Log: h.logger(cfg)})
	if err != nil {
		return h.startError(cfg, err)
	}
	h.greet(ctx, cfg, role, s)
	var lost error
	select {
	case <-ctx.Done():
	case <-s.Lost():
		lost = errors.New("the connection to the database that says which sessions are this server's was lost; start it again")
	}
	release() // a second Ctrl-C ends the process at once
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.ShutdownTimeout)
	defer cancel()
	return errors.Join(lost, s.Stop(stopping))
}

// startError adds to an error of starting what to do, and who is in the way, where that can
// be found out.
func (h *host) startError(cfg *config.Config, err error) error {
	var full *store.FullError
	if errors.As(err, &full) {
		return fmt.Errorf("%w: make room, or choose another folder with --data", err)
	}
	var locked *store.LockedError
	if !errors.As(err, &locked) {
		return err
	}
	if st, serr := server.ReadState(cfg.Data); serr == nil && st != nil {
		return fmt.Errorf("%w (a croft server of this data folder is at %s)", err, st.Address)
	}
	return err
}

// greet tells a person what now runs and what to try.
func (h *host) greet(ctx context.Context, cfg *config.Config, role server.Role, s *server.Server) {
	look := term.Detect(h.stdout, h.lookup)
	look.Live = false
	out := term.NewScreen(h.stdout, look)
	defer out.Close() //nolint:errcheck // where nobody reads, nobody is to be told
	row := func(name, value string) {
		out.Line(term.Part{Style: term.Dim, Text: fmt.Sprintf("  %-10s", name)}, term.Part{Text: value})
	}
	out.Line(term.Part{Style: term.Bold, Text: "croft serves " + s.URL()})
	out.Line()
	row("data", cfg.Data)
	row("database", store.Redact(cfg.DatabaseURL))
	if err := s.CheckModel(cfg.DefaultModelID()); err != nil {
		row("model", term.Short(err.Error(), 200))
	} else {
		row("model", term.Short(cfg.DefaultModelID(), 200))
	}
	if role == server.Up {
		row("sandbox", s.Sandbox(ctx))
	}
	switch {
	case s.FirstKey() != "" && cfg.APIKey == "":
		row("API key", s.FirstKey())
		row("", "kept in "+server.KeyPath(cfg.Data)+"; it is not shown again")
	case cfg.APIKey != "":
		row("API key", "as CROFT_API_KEY says")
	default:
		row("API key", "in "+server.KeyPath(cfg.Data))
	}
	out.Line()
	for _, w := range s.Warnings() {
		out.Line(term.Part{Style: term.Yellow, Text: "! "}, term.Part{Text: w})
	}
	if len(s.Warnings()) > 0 {
		out.Line()
	}
	key := `"$(cat ` + server.KeyPath(cfg.Data) + `)"`
	if role == server.Up {
		flags := ""
		if cfg.IsSet("data") {
			flags = " --data " + cfg.Data
		}
		task := ` "What can you do here?"`
		if s.CheckModel(cfg.DefaultModelID()) != nil {
			task = ` --model replay:examples/hello.yaml "Say hello from a sandbox"`
		}
		out.Line(term.Part{Text: "Next, in another terminal:  croft run" + flags + task})
	} else {
		out.Line(term.Part{Text: "Next:  croft keys create --kind fleet, and with that key  croft worker --fleet --base-url " + s.URL()})
	}
	out.Line(term.Part{Text: "For programs:  export ANTHROPIC_BASE_URL=" + s.URL() + " ANTHROPIC_API_KEY=" + key})
}
