package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"croft/internal/store/storetest"
)

// TestDescriptorsAreClosed: Close leaves no file of the database open.
func TestDescriptorsAreClosed(t *testing.T) {
	url := storetest.SQLite(t)
	db := open(t, url)
	ids(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil && strings.HasPrefix(name, strings.TrimPrefix(url, "sqlite:")) {
			t.Errorf("%s is still open", name)
		}
	}
}
