package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"croft"
	"croft/internal/client"
	"croft/internal/config"
	"croft/internal/server"
	"croft/internal/sse"
	"croft/internal/term"
)

func newLogs(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logs SESSION",
		Short: "Show what happened in a session",
		Example: `  croft logs sesn_…
  croft logs -f sesn_…
  croft logs --json sesn_… | jq .type`,
		Args: cobra.ExactArgs(1),
	}
	follow := cmd.Flags().BoolP("follow", "f", false, "go on showing what happens, until Ctrl-C")
	asJSON := cmd.Flags().Bool("json", false, "print the events as lines of JSON")
	clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := h.load(cmd.Flags())
		if err != nil {
			return err
		}
		return h.logs(cmd.Context(), cfg, args[0], *follow, *asJSON)
	}
	return cmd
}

func (h *host) logs(ctx context.Context, cfg *config.Config, session string, follow, asJSON bool) error {
	st, err := server.ReadState(cfg.Data)
	if err != nil {
		return err
	}
	if st == nil && nothingYet(cfg) {
		return &exit{exitFailure, fmt.Errorf("session %s was not found: there is no database at %s yet", term.Short(session, 60), cfg.Data)}
	}
	c, err := connect(ctx, cfg, server.Options{Role: server.Passive, Log: h.quietLogger(cfg)})
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // nothing was written
	if follow && c.local != nil {
		fmt.Fprintln(h.stderr, "No server runs on this data folder, so nothing will happen: this is the log so far.")
		follow = false
	}
	s, err := getSession(ctx, c, session)
	if err != nil {
		return err
	}
	ctx, release := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer release()
	show, finish := h.shower(asJSON)
	err = c.logs(ctx, s.ID, follow, asJSON, show)
	if ferr := finish(); err == nil {
		err = ferr
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return &exit{code: exitInterrupted}
	}
	return err
}

// shower returns what shows one event, and what ends the showing.
func (h *host) shower(asJSON bool) (show func(json.RawMessage) error, finish func() error) {
	if asJSON {
		return func(raw json.RawMessage) error {
			_, err := fmt.Fprintf(h.stdout, "%s\n", raw)
			return err
		}, func() error { return nil }
	}
	screen := term.NewScreen(h.stdout, term.Detect(h.stdout, h.lookup))
	lines := term.NewTranscript(screen, true)
	return func(raw json.RawMessage) error {
		e, err := term.ParseEvent(raw)
		if err == nil {
			lines.Show(e)
		}
		return err
	}, screen.Close
}

func (c *connection) logs(ctx context.Context, session string, follow, asJSON bool, show func(json.RawMessage) error) error {
	path := "/v1/sessions/" + url.PathEscape(session)
	last := ""
	err := pages(ctx, c, path+"/events?limit=1000", func(raw json.RawMessage) error {
		var head struct {
			ID          string     `json:"id"`
			ProcessedAt croft.Time `json:"processed_at"`
		}
		if err := json.Unmarshal(raw, &head); err != nil {
			return fmt.Errorf("reading an event: %w", err)
		}
		if head.ProcessedAt == 0 && follow {
			return nil // it waits in the inbox, and comes when it is taken up
		}
		if head.ProcessedAt != 0 {
			last = head.ID
		}
		return show(raw)
	})
	if err != nil || !follow {
		return err
	}
	stream := path + "/events/stream"
	if !asJSON {
		stream += "?event_deltas[]=agent.message&event_deltas[]=agent.thinking"
	}
	return c.Follow(ctx, client.Follow{Path: stream, LastID: last, Frame: func(f sse.Frame) error {
		if err := show(json.RawMessage(f.Data)); err != nil {
			return err
		}
		if t := croft.EventType(f.Event); t == croft.SessionDeleted || t == croft.SessionTerminated {
			return io.EOF
		}
		return nil
	}})
}

// printPages prints each item of a list as a line of JSON.
func printPages(ctx context.Context, h *host, c *connection, path string) error {
	return pages(ctx, c, path, func(raw json.RawMessage) error {
		_, err := fmt.Fprintf(h.stdout, "%s\n", raw)
		return err
	})
}
