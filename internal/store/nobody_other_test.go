//go:build !linux

package store_test

import "testing"

func asNobody(t *testing.T, _ string, fn func(t *testing.T)) {
	t.Helper()
	fn(t)
}
