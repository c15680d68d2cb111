//go:build !linux

package initproc

import "os"

// Main is the first process of a local sandbox, which only Linux has: here it ends with
// status 1.
func Main() { os.Exit(1) }
