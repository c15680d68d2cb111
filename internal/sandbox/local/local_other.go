//go:build !linux || !(amd64 || arm64)

package local

import (
	"errors"

	"croft/internal/sandbox"
)

// Driver is of no use on this system: New never returns one.
type Driver struct{ sandbox.Driver }

// New refuses: the driver is made of Linux's namespaces.
func New(Options) (*Driver, error) {
	return nil, errors.New(`driver ` + name + ` needs Linux on amd64 or arm64: run the worker there, or use driver "none", which isolates nothing`)
}
