// Command croft runs managed agents on your own ground: the API, the loop and the workers
// in one program. Each file holds one command; what they start is in internal/server, how a
// session looks on a terminal in internal/term. The stories in testdata are the commands'
// tests. Under the names croft-hand and croft-sandbox-init the same binary is a program
// inside a sandbox: see internal/entry.
package main

import (
	"context"
	"os"

	_ "croft/internal/entry"
)

func main() {
	os.Exit(run(context.Background(), &host{
		args:   os.Args[1:],
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		lookup: os.LookupEnv,
	}))
}
