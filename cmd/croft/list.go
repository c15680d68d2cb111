package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"croft"
	"croft/internal/server"
	"croft/internal/term"
)

func newList(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List sessions, the newest first",
		Example: `  croft ls
  croft ls -n 100 --json`,
		Args: cobra.NoArgs,
	}
	limit := cmd.Flags().IntP("limit", "n", 20, "how many to list; 0 lists all")
	archived := cmd.Flags().Bool("archived", false, "list archived sessions, too")
	asJSON := cmd.Flags().Bool("json", false, "print each session as a line of JSON")
	clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := h.load(cmd.Flags())
		if err != nil {
			return err
		}
		if *limit < 0 {
			return usageError("--limit: accepted is a whole number, 0 for all")
		}
		var found []json.RawMessage
		st, err := server.ReadState(cfg.Data)
		if err != nil {
			return err
		}
		if st != nil || !nothingYet(cfg) {
			c, err := connect(cmd.Context(), cfg, server.Options{Role: server.Passive, Log: h.quietLogger(cfg)})
			if err != nil {
				return err
			}
			defer c.Close() //nolint:errcheck // nothing was written
			size := 100
			if *limit > 0 {
				size = min(size, *limit)
			}
			path := "/v1/sessions?limit=" + strconv.Itoa(size)
			if *archived {
				path += "&include_archived=true"
			}
			err = pages(cmd.Context(), c, path, func(s json.RawMessage) error {
				found = append(found, s)
				if len(found) == *limit {
					return io.EOF
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		if *asJSON {
			for _, s := range found {
				if _, err := fmt.Fprintf(h.stdout, "%s\n", s); err != nil {
					return err
				}
			}
			return nil
		}
		if len(found) == 0 {
			fmt.Fprintln(h.stderr, `There are no sessions yet. Begin one with: croft run "…"`)
			return nil
		}
		return table(h.stdout, found, croft.Now())
	}
	return cmd
}

// table writes sessions in columns.
func table(w io.Writer, found []json.RawMessage, now croft.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SESSION\tSTATE\tAGE\tTOKENS\tCOST\tMODEL\tTITLE")
	for _, raw := range found {
		var s croft.Session
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf("reading a session: %w", err)
		}
		title := ""
		if s.Title != nil {
			title = *s.Title
		}
		state := string(s.Status)
		if s.ArchivedAt != 0 {
			state = "archived"
		}
		u := s.Usage
		tokens := u.InputTokens + u.OutputTokens + u.CacheReadInputTokens + u.CacheCreation.Ephemeral5m + u.CacheCreation.Ephemeral1h
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.ID, state, age(now.Std().Sub(s.CreatedAt.Std())), term.Number(tokens),
			orDash(term.Cost(u.ListCost)), term.Short(lastPart(s.Agent.Model.ID), 30), term.Short(title, 50))
	}
	return t.Flush()
}

// lastPart leaves the folders of a cassette's path out.
func lastPart(model string) string {
	if rest, ok := strings.CutPrefix(model, "replay:"); ok {
		if i := strings.LastIndexAny(rest, `/\`); i >= 0 {
			return "replay:" + rest[i+1:]
		}
	}
	return model
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// age writes a duration by its largest unit.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
