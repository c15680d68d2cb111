package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"croft/internal/bench"
)

func newBench(h *host) *cobra.Command {
	var o bench.Options
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a whole server on this machine",
		Long: `Starts a server, a worker and a scripted model in a folder of its own, measures them beside
the machine's own limits, and leaves nothing behind. See docs/benchmarks.md for what the
letters mean.`,
		Example: `  croft bench
  croft bench --only ac --turns 1000
  croft bench --database-url postgres://croft@localhost/scratch`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&o.Only, "only", "", "the `letters` of what to measure: a turn, b sessions, c tool call, d appends, e first delta")
	cmd.Flags().IntVar(&o.Turns, "turns", 300, "turns and calls timed one after the other")
	cmd.Flags().IntSliceVar(&o.Clients, "clients", []int{16, 64}, "numbers of clients at once")
	cmd.Flags().IntVar(&o.Seconds, "seconds", 5, "how long each rate is measured")
	cmd.Flags().StringVar(&o.DatabaseURL, "database-url", "", "an empty database to use instead of SQLite in a fresh folder")
	cmd.Flags().StringVar(&o.Driver, "driver", "local", "sandbox driver: `local|none`")
	asJSON := cmd.Flags().Bool("json", false, "print the report as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !*asJSON {
			o.Out = h.stdout
		}
		report, err := bench.Run(cmd.Context(), o)
		if err != nil || !*asJSON {
			return err
		}
		b, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(h.stdout, string(b))
		return err
	}
	return cmd
}
