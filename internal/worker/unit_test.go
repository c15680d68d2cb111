//go:build unix

package worker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/sandbox"
)

func TestSandboxSpec(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	allowed, secret := filepath.Join(root, "allowed"), filepath.Join(root, "secret")
	for _, dir := range []string{filepath.Join(allowed, "project"), secret} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(allowed, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(allowed, "project"), filepath.Join(root, "way")); err != nil {
		t.Fatal(err)
	}
	ceiling := Ceiling{Mounts: []string{allowed, filepath.Join(root, "missing")}, CPUs: 4, MemoryMB: 1024}
	limited := &croft.Networking{Type: "limited"}
	for name, tc := range map[string]struct {
		ceiling Ceiling
		network *croft.Networking
		croft   *croft.EnvironmentCroft
		want    sandbox.Spec
		refused string // the field
	}{
		"nothing asked":            {want: sandbox.Spec{}},
		"nothing asked, a ceiling": {ceiling: ceiling, network: limited, want: sandbox.Spec{CPUs: 4, MemoryMB: 1024, Network: limited}},
		"all in bounds": {ceiling: ceiling,
			croft: &croft.EnvironmentCroft{Driver: "fake", CPUs: 0.5, MemoryMB: 1024, Pids: 9, Env: map[string]string{"A": "b"},
				Mounts: []croft.Mount{{Host: filepath.Join(allowed, "project"), Path: "/workspace/"}, {Host: allowed, Path: "/a//b", ReadOnly: true}}},
			want: sandbox.Spec{CPUs: 0.5, MemoryMB: 1024, Pids: 9, Env: map[string]string{"A": "b"}, Workspace: filepath.Join(allowed, "project"),
				Mounts: []croft.Mount{{Host: allowed, Path: "/a/b", ReadOnly: true}}}},
		"a link that leads inside":    {ceiling: ceiling, croft: mount(filepath.Join(root, "way"), "/w"), want: sandbox.Spec{CPUs: 4, MemoryMB: 1024, Mounts: []croft.Mount{{Host: filepath.Join(allowed, "project"), Path: "/w"}}}},
		"a link that leads outside":   {ceiling: ceiling, croft: mount(filepath.Join(allowed, "link"), "/w"), refused: "mounts.0.host"},
		"a path that leads outside":   {ceiling: ceiling, croft: mount(allowed+"/../secret", "/w"), refused: "mounts.0.host"},
		"a name that begins the same": {ceiling: Ceiling{Mounts: []string{filepath.Join(root, "sec")}}, croft: mount(secret, "/w"), refused: "mounts.0.host"},
		"a folder that isn't there":   {ceiling: ceiling, croft: mount(filepath.Join(allowed, "nothing"), "/w"), refused: "mounts.0.host"},
		"a relative path":             {ceiling: ceiling, croft: mount("project", "/w"), refused: "mounts.0.host"},
		"a relative path inside":      {ceiling: ceiling, croft: mount(allowed, "w"), refused: "mounts.0.path"},
		"no mounts allowed":           {croft: mount(allowed, "/w"), refused: "mounts.0.host"},
		"everything allowed":          {ceiling: Ceiling{Mounts: []string{"/"}}, croft: mount(secret, "/w"), want: sandbox.Spec{Mounts: []croft.Mount{{Host: secret, Path: "/w"}}}},
		"a read-only workspace":       {ceiling: ceiling, croft: &croft.EnvironmentCroft{Mounts: []croft.Mount{{Host: allowed, Path: "/workspace", ReadOnly: true}}}, refused: "mounts.0.read_only"},
		"two workspaces":              {ceiling: ceiling, croft: &croft.EnvironmentCroft{Mounts: []croft.Mount{{Host: allowed, Path: "/workspace"}, {Host: allowed, Path: "/workspace"}}}, refused: "mounts.1.path"},
		"too many processors":         {ceiling: ceiling, croft: &croft.EnvironmentCroft{CPUs: 4.5}, refused: "cpus"},
		"too much memory":             {ceiling: ceiling, croft: &croft.EnvironmentCroft{MemoryMB: 1025}, refused: "memory_mb"},
		"too many processes":          {ceiling: Ceiling{Pids: 10}, croft: &croft.EnvironmentCroft{Pids: 11}, refused: "pids"},
		"another driver":              {croft: &croft.EnvironmentCroft{Driver: "docker"}, refused: "driver"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &Worker{o: Options{Driver: &fakeDriver{}, Ceiling: tc.ceiling}}
			got, err := w.sandboxSpec("sesn_1", &croft.EnvironmentConfig{Networking: tc.network, Croft: tc.croft})
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), "config.croft."+tc.refused+": ") {
					t.Errorf("the refusal is %v, want one of %s", err, tc.refused)
				}
				return
			}
			tc.want.ID = "sesn_1"
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func mount(host, path string) *croft.EnvironmentCroft {
	return &croft.EnvironmentCroft{Mounts: []croft.Mount{{Host: host, Path: path}}}
}

func TestBounds(t *testing.T) {
	w := &Worker{o: Options{CallTimeout: time.Minute, IdleTimeout: time.Hour}}
	if call, idle := w.bounds(&croft.EnvironmentConfig{}); call != time.Minute || idle != time.Hour {
		t.Errorf("the worker's own are %v and %v", call, idle)
	}
	if call, idle := w.bounds(&croft.EnvironmentConfig{Croft: &croft.EnvironmentCroft{TimeoutS: 5, IdleTimeoutS: 7}}); call != 5*time.Second || idle != 7*time.Second {
		t.Errorf("the environment's are %v and %v", call, idle)
	}
}

func TestRecentForgetsTheOldest(t *testing.T) {
	var r recent
	for i := range maxRecent + 10 {
		r.add(fmt.Sprint(i))
		r.add(fmt.Sprint(i))
	}
	for i, want := range map[int]bool{0: false, 9: false, 10: true, maxRecent + 9: true} {
		if r.has(fmt.Sprint(i)) != want {
			t.Errorf("%d is remembered: %v", i, !want)
		}
	}
	if len(r.ids) != maxRecent || len(r.ring) != maxRecent {
		t.Errorf("it holds %d", len(r.ids))
	}
}

func TestAgendaCallsInOrder(t *testing.T) {
	a := newAgenda()
	ctx, cancel := context.WithCancel(t.Context())
	called := make(chan string)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.run(ctx, func(s *session) { called <- s.id })
	}()
	now := time.Now()
	sessions := map[string]*session{}
	for id, after := range map[string]int{"a": 60, "b": 20, "c": 40, "d": 90, "e": 3600_000} {
		s := &session{id: id}
		s.date.s = s
		sessions[id] = s
		a.sooner(&s.date, now.Add(time.Duration(after)*time.Millisecond))
	}
	a.sooner(&sessions["d"].date, now.Add(30*time.Millisecond))  // earlier
	a.sooner(&sessions["b"].date, now.Add(500*time.Millisecond)) // later: it stays
	var got []string
	for range 4 {
		got = append(got, <-called)
	}
	if diff := cmp.Diff([]string{"b", "d", "c", "a"}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	a.sooner(&sessions["a"].date, now) // it may be noted again once it was called
	if id := <-called; id != "a" {
		t.Errorf("then %s was called", id)
	}
	cancel()
	<-ended
}

func TestResultIsOneLine(t *testing.T) {
	body, err := resultBody("sevt_1", []json.RawMessage{json.RawMessage("{\n  \"type\": \"text\",\n  \"text\": \"<a>\\n\"\n}")}, false)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"events":[{"type":"user.tool_result","tool_use_id":"sevt_1","content":[{"type":"text","text":"<a>\n"}],"is_error":false}]}`
	if string(body) != want {
		t.Errorf("body:\n%s\nwant:\n%s", body, want)
	}
	if _, err := resultBody("sevt_1", []json.RawMessage{json.RawMessage("{")}, false); err == nil {
		t.Error("what is no JSON was accepted from a hand")
	}
	if body, err := resultBody("sevt_1", nil, true); err != nil || !strings.Contains(string(body), `"content":[]`) {
		t.Errorf("a result without content: %s %v", body, err)
	}
}

func FuzzDecodeFrame(f *testing.F) {
	for _, s := range []string{
		`{"type":"hello","heartbeat_s":30}`,
		`{"type":"offer","work_id":"work_1","environment_id":"env_1","session_id":"sesn_1"}`,
		`{"type":"call","work_id":"work_1","session_id":"sesn_1","call":{"id":"sevt_1","name":"bash","input":{"command":"ls"}}}`,
		`{"type":"call","call":{"id":"a b"}}`, `{"type":"offer","session_id":"../x"}`, `{"type":`, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := decodeFrame(data)
		if err != nil {
			return
		}
		if frame.Type == "call" && strings.ContainsAny(frame.Call.ID, " \n/") {
			t.Errorf("a call was accepted whose id would garble a journal: %q", frame.Call.ID)
		}
		if frame.Type == "offer" && strings.ContainsAny(frame.SessionID, "/.\x00") {
			t.Errorf("an offer was accepted whose session is no file's name: %q", frame.SessionID)
		}
		again, err := json.Marshal(frame)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := decodeFrame(again); err != nil || cmp.Diff(normal(frame), normal(second)) != "" {
			t.Errorf("written anew it is another frame: %v\n%s", err, cmp.Diff(normal(frame), normal(second)))
		}
	})
}

// normal is a frame with its input's JSON compacted.
func normal(f frame) string {
	b, _ := json.Marshal(f)
	return string(b)
}

func FuzzDecodeSecret(f *testing.F) {
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"sessions_token":"croft_sess_x"}`)))
	f.Add(base64.URLEncoding.EncodeToString([]byte(`{"sessions_token":"x", "more": 1}`)))
	f.Add("e30")
	f.Add("!")
	f.Fuzz(func(t *testing.T, secret string) {
		if token, err := decodeSecret(secret); (err == nil) != (token != "") {
			t.Errorf("token %q with error %v", token, err)
		}
	})
}
