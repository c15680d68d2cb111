//go:build !unix

package hand

import (
	"fmt"
	"io"
	"os"
)

// Main refuses: the hand needs Unix processes and terminals. The client works everywhere.
func Main(io.Reader, io.Writer) int {
	fmt.Fprintln(os.Stderr, Program+": runs on Unix alone")
	return 1
}
