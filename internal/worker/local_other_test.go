//go:build unix && !(linux && (amd64 || arm64))

package worker

// becomeLocal has nothing to become: driver local is for Linux.
func becomeLocal() {}
