// Package entry turns the process into the hand when that is what it was started as. A
// program that imports it, for its effect alone, can be executed as hand.Program: then the
// hand runs, and ends the process, before the rest of the program is initialised, because
// Go initialises packages that are ready in the order of their import paths, and all of
// ours come before those of others. It imports nothing but the hand.
package entry

import (
	"os"

	"croft/internal/hand"
)

// The one init with an effect in the project: what it saves is the start of everything
// else, at every start of a sandbox.
func init() {
	if hand.Invoked(os.Args) {
		os.Exit(hand.Main(os.Stdin, os.Stdout))
	}
}
