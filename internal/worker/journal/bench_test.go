package journal

import (
	"fmt"
	"testing"
)

// BenchmarkSession is what a claim pays: a journal begun durably, and removed.
func BenchmarkSession(b *testing.B) {
	f, err := Open(b.TempDir(), "process")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	n := 0
	for b.Loop() {
		n++
		j, err := f.Session(fmt.Sprint("sesn_", n))
		if err != nil {
			b.Fatal(err)
		}
		j.Close()
	}
}

// BenchmarkCall is what a call pays: begun, kept, done.
func BenchmarkCall(b *testing.B) {
	f, err := Open(b.TempDir(), "process")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	j, err := f.Session("sesn_1")
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(`{"events":[{"type":"user.tool_result","tool_use_id":"sevt_1","content":[{"type":"text","text":"ok"}],"is_error":false}]}`)
	for b.Loop() {
		if err := j.Start("sevt_1"); err != nil {
			b.Fatal(err)
		}
		if err := j.Keep("sevt_1", body); err != nil {
			b.Fatal(err)
		}
		if err := j.Done("sevt_1"); err != nil {
			b.Fatal(err)
		}
	}
}
