package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"croft/internal/config"
	"croft/internal/term"
)

// Exit codes, as the help of run tells them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitAnswer      = 3 // an answer is needed and there is nobody to ask
	exitExhausted   = 4 // the budget or the retries are used up
	exitInterrupted = 130
)

// host is the process as the commands see it.
type host struct {
	args   []string
	stdin  *os.File
	stdout *os.File
	stderr io.Writer
	lookup func(string) (string, bool)
}

// exit is an error with the exit code that it stands for. Without an err nothing is printed.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// usageError is a mistake in how a command was called.
func usageError(format string, args ...any) error {
	return &exit{exitUsage, fmt.Errorf(format, args...)}
}

// run runs the command that the arguments name and returns the exit code.
func run(ctx context.Context, h *host) int {
	began := false // false: the arguments were not understood
	root := newRoot(h)
	root.PersistentPreRun = func(*cobra.Command, []string) { began = true }
	root.SetArgs(h.args)
	root.SetIn(h.stdin)
	root.SetOut(h.stdout)
	root.SetErr(h.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitFailure
	var e *exit
	var c *config.Error
	switch {
	case errors.As(err, &e):
		code = e.code
		if e.err == nil {
			return code
		}
	case errors.As(err, &c), !began:
		code = exitUsage
	}
	fmt.Fprintln(h.stderr, "croft: "+strings.TrimSpace(term.Clean(err.Error())))
	if code == exitUsage && !errors.As(err, &c) {
		fmt.Fprintf(h.stderr, "See %s --help.\n", cmd.CommandPath())
	}
	return code
}

func newRoot(h *host) *cobra.Command {
	root := &cobra.Command{
		Use:   "croft",
		Short: "Managed agents on your own ground",
		Long: `Croft runs agents on your own machine: it asks a language model, runs the tools
that the model calls in a sandbox, and keeps every step in a log. It speaks the
Claude Managed Agents API, so programs written for that work with it.

Try it, with nothing but this program (a recorded model, no key, no network):

  croft run --model replay:examples/hello.yaml "Write a program that greets me, and run it"

With a model of your own:

  export ANTHROPIC_API_KEY=…
  croft run "Find out what this machine is good for"

To serve the API to other programs:

  croft up

The data folder (--data, CROFT_DATA) holds everything: the database, the API key and
the folders of sandboxes. Every setting is a flag, a CROFT_… variable and a line of the
configuration file (--config, CROFT_CONFIG); the flag wins, then the variable.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(
		newUp(h), newRun(h), newServer(h), newWorker(h),
		newList(h), newLogs(h), newKeys(h), newDoctor(h), newBench(h), newVersion(h),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exit{exitUsage, err} })
	return root
}

// load reads the configuration with the flags of a command.
func (h *host) load(fs *pflag.FlagSet) (*config.Config, error) {
	return config.Load(fs, h.lookup)
}

// clientFlags adds the flags of commands that talk to a server.
func clientFlags(cmd *cobra.Command) {
	config.AddFlags(cmd.Flags(), "data", "database_url", "base_url")
}
