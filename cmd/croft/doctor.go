package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"croft/internal/config"
	"croft/internal/model/registry"
	"croft/internal/server"
	"croft/internal/store"
	"croft/internal/term"
)

// finding is one thing that doctor has looked at.
type finding struct {
	Name   string `json:"name"`
	State  string `json:"state"` // ok, note, fail
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// States of a finding. A note is of something that is missing and need not be there.
const (
	found = "ok"
	noted = "note"
	fails = "fail"
)

func newDoctor(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what works on this machine, and what to do where it does not",
		Long: `Tries what Croft needs on this machine: the data folder, the database, the sandboxes and
the model's key. Of each it says that it works, or why not and what to do. A database is
opened as a start would open it. The exit code is 1 when something fails that Croft cannot do without.`,
		Args: cobra.NoArgs,
	}
	asJSON := cmd.Flags().Bool("json", false, "print each finding as a line of JSON")
	config.AddFlags(cmd.Flags(), "data", "database_url", "model", "model_base_url", "driver", "listen")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := h.load(cmd.Flags())
		if err != nil {
			return err
		}
		ctx, release := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer release()
		return h.doctor(ctx, cfg, *asJSON)
	}
	return cmd
}

func (h *host) doctor(ctx context.Context, cfg *config.Config, asJSON bool) error {
	look := term.Detect(h.stdout, h.lookup)
	look.Live = false
	screen := term.NewScreen(h.stdout, look)
	failed := 0
	tell := func(f finding) {
		if f.State == fails {
			failed++
		}
		if asJSON {
			if text, err := json.Marshal(f); err == nil {
				screen.Text(term.Plain, string(text)+"\n")
			}
			return
		}
		style := map[string]term.Style{found: term.Green, noted: term.Yellow, fails: term.Red}[f.State]
		screen.Line(term.Part{Style: style, Text: fmt.Sprintf("%-5s ", f.State)}, term.Part{Style: term.Bold, Text: fmt.Sprintf("%-37s ", term.Short(f.Name, 40))},
			term.Part{Text: oneLine(f.Detail)})
		if f.Fix != "" {
			screen.Line(term.Part{Text: strings.Repeat(" ", 6)}, term.Part{Style: term.Yellow, Text: "→ " + oneLine(f.Fix)})
		}
	}
	tell(finding{"program", found, fmt.Sprintf("croft %s, %s/%s", version(), runtime.GOOS, runtime.GOARCH), ""})
	if cfg.File != "" {
		tell(finding{"configuration", found, cfg.File, ""})
	}
	st, err := server.FindRunning(ctx, cfg.Data)
	switch {
	case err != nil:
		tell(finding{"server", fails, err.Error(), ""})
	case st != nil:
		tell(finding{"server", found, fmt.Sprintf("runs at %s, process %d, version %s", st.Address, st.PID, st.Version), ""})
	default:
		tell(finding{"server", noted, "none runs on this data folder; croft run serves by itself", ""})
	}
	tell(checkData(cfg))
	tell(checkDatabase(ctx, cfg, st))
	tell(checkModel(cfg))
	for _, f := range checkSandbox(ctx, cfg) {
		tell(f)
	}
	if err := screen.Close(); err != nil {
		return err
	}
	if failed > 0 {
		return &exit{code: exitFailure}
	}
	return nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(term.Clean(s)), " ") }

func checkData(cfg *config.Config) finding {
	f := finding{Name: "data folder", State: found, Detail: cfg.Data + " can be written"}
	info, err := os.Stat(cfg.Data)
	switch {
	case errors.Is(err, os.ErrNotExist):
		f.Detail = cfg.Data + " is not there yet; the first start makes it"
	case err != nil:
		f.State, f.Detail = fails, err.Error()
	case !info.IsDir():
		f.State, f.Detail = fails, cfg.Data+" is no folder"
	default:
		t, err := os.CreateTemp(cfg.Data, ".croft-")
		if err != nil {
			f.State, f.Detail = fails, fmt.Sprintf("%s cannot be written: %v", cfg.Data, err)
			break
		}
		t.Close()
		os.Remove(t.Name())
		if info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
			f.State, f.Detail, f.Fix = noted, cfg.Data+" can be read by other users of this machine", "chmod 700 "+cfg.Data
		}
	}
	if f.State == fails {
		f.Fix = "choose another folder with --data or CROFT_DATA, or give this user the right to write"
	}
	return f
}

// checkDatabase opens the database, unless a server has it open or it is not there yet.
func checkDatabase(ctx context.Context, cfg *config.Config, running *server.State) finding {
	where := store.Redact(cfg.DatabaseURL)
	f := finding{Name: "database", State: found, Detail: where}
	isFile := strings.HasPrefix(cfg.DatabaseURL, "sqlite:")
	if !isFile {
		f.Name = "database (PostgreSQL)"
	}
	switch {
	case isFile && running != nil:
		f.Detail += " is open in the server"
		return f
	case isFile && nothingYet(cfg):
		f.Detail += " is not there yet; the first start makes it"
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	db, err := store.Open(ctx, store.Options{URL: cfg.DatabaseURL})
	if err == nil {
		err = db.Close()
	}
	if err == nil {
		f.Detail += " can be opened"
		return f
	}
	f.State, f.Detail = fails, err.Error()
	var locked *store.LockedError
	var future *store.FutureError
	switch {
	case errors.As(err, &locked):
		f.State, f.Fix = noted, fmt.Sprintf("process %d uses it: nothing need be done if that is Croft", locked.PID)
	case errors.As(err, &future):
		f.Fix = "use the newer program, or another data folder"
	case !isFile:
		f.Fix = "see that PostgreSQL runs and that CROFT_DATABASE_URL names it: postgres://USER:PASSWORD@HOST:PORT/DATABASE"
	}
	return f
}

func checkModel(cfg *config.Config) finding {
	id := cfg.DefaultModelID()
	f := finding{Name: "model", State: found, Detail: term.Short(id, 200) + " can be asked (whether its key is right shows the first request)"}
	r, err := registry.New(registry.Config{Entries: cfg.Models, BaseURL: cfg.ModelBaseURL, APIKey: os.Getenv("ANTHROPIC_API_KEY"), ReplayPaths: true})
	if err != nil {
		f.State, f.Detail, f.Fix = fails, err.Error(), "mend the configuration file"
		return f
	}
	if _, err := r.Resolve(id); err != nil {
		f.State, f.Detail = noted, err.Error()
		f.Fix = `export ANTHROPIC_API_KEY=…, or name a model of your own under models: in the configuration; with neither: croft run --model replay:examples/hello.yaml "…"`
		return f
	}
	if strings.HasPrefix(id, registry.ReplayPrefix) {
		f.Detail = term.Short(id, 200) + " can be played"
	}
	return f
}

// checkSandbox lets the driver try what it needs, in the data folder where there is one.
func checkSandbox(ctx context.Context, cfg *config.Config) []finding {
	probing := *cfg
	if _, err := os.Stat(cfg.Data); err != nil {
		dir, err := os.MkdirTemp("", "croft-doctor-")
		if err != nil {
			return []finding{{"sandbox", fails, err.Error(), ""}}
		}
		defer os.RemoveAll(dir)
		probing.Data = dir
	}
	d, err := server.NewDriver(&probing, slog.New(slog.DiscardHandler))
	if err != nil {
		return []finding{{"sandbox", fails, err.Error(), ""}}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var list []finding
	for _, c := range d.Probe(ctx) {
		f := finding{Name: "sandbox: " + c.Name, State: found, Detail: c.Detail}
		if f.Detail == "" {
			f.Detail = "works"
		}
		if !c.OK {
			f.State, f.Fix = noted, c.Fix
			if c.Required {
				f.State = fails
			}
			if c.Detail == "" {
				f.Detail = "does not work"
			}
		}
		list = append(list, f)
	}
	return list
}
