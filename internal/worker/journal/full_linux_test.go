package journal

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFullDisk holds a line that could not be written whole to be taken back, so that it
// does not garble the next.
func TestFullDisk(t *testing.T) {
	f := open(t, t.TempDir())
	j := session(t, f)
	must(t, j.Start("a"))
	file := j.file
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	j.file = full
	if err := j.Start("b"); err == nil {
		t.Error("a begin that was not written was accepted")
	}
	if err := j.Keep("a", []byte("{}")); err == nil {
		t.Error("a result that was not written counts as kept")
	}
	full.Close()
	j.file = file
	must(t, j.Start("c"))
	k := session(t, f, "a", "b", "c")
	got := map[string]string{}
	for _, id := range []string{"a", "b", "c"} {
		got[id] = verdict(k, id)
	}
	if diff := cmp.Diff(map[string]string{"a": "begun", "b": "unknown", "c": "begun"}, got); diff != "" {
		t.Errorf("after the disk had room again (-want +got):\n%s", diff)
	}
}
