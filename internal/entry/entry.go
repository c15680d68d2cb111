// Package entry turns the process into one of the small programs inside a sandbox when it
// was started under its name: the hand (croft-hand) or a sandbox's first process
// (croft-sandbox-init). A program that imports it, for its effect alone, can be executed
// under either name; the small program then ends the process before the rest of the
// binary is initialised, because Go initialises packages that are ready in the order of
// their import paths, and all of ours come before those of others. That is 2 ms in place
// of 11 at every start of a sandbox, and a third of the memory.
//
// It may import those two packages alone, and they next to nothing: a test over
// GODEBUG=inittrace=1 holds what is initialised before them.
package entry

import (
	"os"
	"path/filepath"

	"croft/internal/hand"
	"croft/internal/sandbox/local/initproc"
)

// The one init with an effect in the project.
func init() {
	switch {
	case hand.Invoked(os.Args):
		os.Exit(hand.Main(os.Stdin, os.Stdout))
	case len(os.Args) > 0 && filepath.Base(os.Args[0]) == initproc.Name:
		initproc.Main()
	}
}
