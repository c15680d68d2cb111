package main

import (
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"croft/internal/access"
	"croft/internal/server"
	"croft/internal/term"
)

func newKeys(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make, list and revoke keys",
		Long: `Keys open a workspace. A key of kind api is for clients of the API, one of kind fleet
for croft worker. A key is shown once, when it is made.`,
		Example: `  croft keys create --kind api --name laptop
  export CROFT_FLEET_KEY=$(croft keys create --kind fleet)
  croft keys ls
  croft keys revoke key_…`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeyCreate(h), newKeyList(h), newKeyRevoke(h))
	return cmd
}

// withServer gives a command the server that holds its keys.
func (h *host) withServer(cmd *cobra.Command, fn func(c *connection) error) error {
	cfg, err := h.load(cmd.Flags())
	if err != nil {
		return err
	}
	c, err := connect(cmd.Context(), cfg, server.Options{Role: server.Passive, Log: h.quietLogger(cfg)})
	if err != nil {
		return err
	}
	if err := fn(c); err != nil {
		c.Close() //nolint:errcheck // the first error says more
		return err
	}
	return c.Close()
}

func newKeyCreate(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a key and print it, this once",
		Args:  cobra.NoArgs,
	}
	kind := cmd.Flags().String("kind", "api", "what the key opens: `api|fleet`")
	name := cmd.Flags().String("name", "", "a name for people")
	clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *kind != string(access.API) && *kind != string(access.Fleet) {
			return usageError("--kind: %q is not accepted: accepted are api, fleet", term.Short(*kind, 40))
		}
		return h.withServer(cmd, func(c *connection) error {
			var k struct {
				access.Key
				Secret string `json:"key"`
			}
			if err := c.Do(cmd.Context(), http.MethodPost, "/v1/croft/keys", map[string]string{"kind": *kind, "name": *name}, &k); err != nil {
				return err
			}
			fmt.Fprintf(h.stderr, "Made %s key %s. It is not shown again.\n", k.Kind, k.ID)
			_, err := fmt.Fprintln(h.stdout, k.Secret)
			return err
		})
	}
	return cmd
}

func newKeyList(h *host) *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "List the keys of the workspace", Args: cobra.NoArgs}
	kind := cmd.Flags().String("kind", "", "list those of one kind alone: `api|fleet`")
	asJSON := cmd.Flags().Bool("json", false, "print each key as a line of JSON")
	clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *kind != "" && *kind != string(access.API) && *kind != string(access.Fleet) {
			return usageError("--kind: %q is not accepted: accepted are api, fleet", term.Short(*kind, 40))
		}
		return h.withServer(cmd, func(c *connection) error {
			path := "/v1/croft/keys"
			if *kind != "" {
				path += "?kind=" + url.QueryEscape(*kind)
			}
			if *asJSON {
				return printPages(cmd.Context(), h, c, path)
			}
			t := tabwriter.NewWriter(h.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "KEY\tKIND\tENDS WITH\tMADE\tLAST USED\tSTATE\tNAME")
			err := pages(cmd.Context(), c, path, func(k access.Key) error {
				used, state := "never", "in force"
				if k.LastUsedAt != 0 {
					used = k.LastUsedAt.Std().Format("2006-01-02 15:04")
				}
				if k.RevokedAt != 0 {
					state = "revoked"
				}
				fmt.Fprintf(t, "%s\t%s\t…%s\t%s\t%s\t%s\t%s\n", k.ID, k.Kind, term.Short(k.Hint, 8), k.CreatedAt.Std().Format("2006-01-02 15:04"), used, state, term.Short(k.Name, 50))
				return nil
			})
			if err != nil {
				return err
			}
			return t.Flush()
		})
	}
	return cmd
}

func newKeyRevoke(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke KEY_ID",
		Short: "Revoke a key: the next request with it fails",
		Args:  cobra.ExactArgs(1),
	}
	clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return h.withServer(cmd, func(c *connection) error {
			if err := c.Do(cmd.Context(), http.MethodDelete, "/v1/croft/keys/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(h.stderr, "Revoked %s.\n", args[0])
			return nil
		})
	}
	return cmd
}
