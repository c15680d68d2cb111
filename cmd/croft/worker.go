package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"croft/internal/config"
	"croft/internal/server"
)

func newWorker(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "worker --fleet",
		Short: "Run the tools of a server's agents on this machine",
		Long: `Serves every cloud environment of a workspace: it waits for sessions that have tools to
run, and runs each in a sandbox of its own on this machine. It dials out to the server
and listens to nobody. On SIGTERM and Ctrl-C it lets the calls under way come to their
end, and gives the rest back.

Environments may mount folders of this machine only below those named by --allow-mount.`,
		Example: `  export CROFT_FLEET_KEY=$(croft keys create --kind fleet)
  croft worker --fleet --base-url http://127.0.0.1:8400`,
		Args: cobra.NoArgs,
	}
	fleet := cmd.Flags().Bool("fleet", false, "serve every cloud environment of the key's workspace")
	config.AddFlags(cmd.Flags(), "base_url", "fleet_key", "data", "driver", "capacity", "allow_mount", "idle_timeout", "call_timeout",
		"log_level", "log_format", "shutdown_timeout")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := h.load(cmd.Flags())
		if err != nil {
			return err
		}
		if !*fleet {
			return usageError("say what to serve: --fleet (this version serves nothing else)")
		}
		if cfg.FleetKey == "" {
			return usageError("there is no fleet key: set CROFT_FLEET_KEY to one that croft keys create --kind fleet has made")
		}
		if cfg.BaseURL == "" {
			st, err := server.ReadState(cfg.Data)
			if err != nil {
				return err
			}
			if st == nil {
				return usageError("there is no server: name its address with --base-url")
			}
			cfg.BaseURL = st.Address
		}
		ctx, release := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer release()
		return server.RunWorker(ctx, cfg, release, h.logger(cfg))
	}
	return cmd
}
