//go:build unix

package worker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"croft"
	"croft/internal/hand"
	"croft/internal/sandbox"
	"croft/internal/sandbox/none"
)

func TestMain(m *testing.M) {
	becomeLocal()
	if hand.Invoked(os.Args) {
		os.Exit(hand.Main(os.Stdin, os.Stdout))
	}
	if os.Getenv(childServer) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

func testLog() *slog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func noneDriver(t *testing.T, data string) sandbox.Driver {
	t.Helper()
	d, err := none.New(none.Options{Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// begin starts a worker against srv; o may leave out what has a default here: driver none
// and a fresh folder.
func begin(t *testing.T, srv *server, o Options) *running {
	t.Helper()
	return beginWith(t, srv, o, func(*Worker) {})
}

func beginWith(t *testing.T, srv *server, o Options, tune func(*Worker)) *running {
	t.Helper()
	if o.Client == nil {
		o.Client = srv.client("fleet")
	}
	if o.Data == "" {
		o.Data = t.TempDir()
	}
	if o.Driver == nil {
		o.Driver = noneDriver(t, o.Data)
	}
	o.Log = testLog()
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	tune(w)
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Worker: w, stop: cancel, err: make(chan error, 1)}
	go func() { r.err <- w.Run(ctx) }()
	t.Cleanup(func() { r.end(t) })
	return r
}

var plain = croft.EnvironmentConfig{Type: croft.EnvironmentCloud}

// marks counts how often a command ran: each run adds a line to a file.
type marks struct{ path string }

func newMarks(t *testing.T) marks { return marks{filepath.Join(t.TempDir(), "marks")} }

func (m marks) command(rest string) string { return "echo x >> " + m.path + "; " + rest }

func (m marks) count() int {
	b, err := os.ReadFile(m.path)
	if err != nil {
		return 0
	}
	return strings.Count(string(b), "x")
}

func (m marks) await(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("a command to have begun %d times", n), func() bool { return m.count() >= n })
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestServesCalls(t *testing.T) {
	srv := newServer(t)
	w := begin(t, srv, Options{})
	x := srv.add("sesn_1", plain)
	a := srv.bash(x, "cd /; A=1; echo one > $OLDPWD/f")
	srv.want(x, a, "(no output)", false)
	// The shell and the folder are the session's; parallel bash calls run in their order.
	ids := []string{}
	for i := range 10 {
		ids = append(ids, srv.bash(x, fmt.Sprintf("A=${A}%d; echo $A; cat $OLDPWD/f", i)))
	}
	for i, id := range ids {
		srv.want(x, id, "1"+"0123456789"[:i+1]+"\none", false)
	}
	b := srv.bash(x, "exit 3")
	if r := srv.result(x, b); !r.IsError && !strings.Contains(r.Text, "3") {
		t.Errorf("a failed command gave %+v", r)
	}
	srv.want(x, srv.call(x, "no_such_tool", map[string]string{}), "no_such_tool", true)
	srv.until("a heartbeat", func() bool { return x.beats > 0 })
	if x.claims != 1 {
		t.Errorf("the session was claimed %d times", x.claims)
	}
	if w.ID() == "" {
		t.Error("the worker has no id")
	}
}

func TestRepeatedFramesRunOnce(t *testing.T) {
	srv := newServer(t)
	begin(t, srv, Options{})
	x, m := srv.add("sesn_1", plain), newMarks(t)
	id := srv.bash(x, m.command("sleep 0.3"))
	m.await(t, 1)
	calls := srv.openCalls(x)
	for range 5 {
		srv.repeat(x, calls)
	}
	srv.result(x, id)
	for range 5 {
		srv.repeat(x, calls) // as frames that were long on their way
	}
	srv.want(x, srv.bash(x, "echo after"), "after", false)
	if n := m.count(); n != 1 {
		t.Errorf("the command ran %d times", n)
	}
	srv.result(x, id)
}

func TestConnectionIsCut(t *testing.T) {
	srv := newServer(t)
	begin(t, srv, Options{})
	x, m := srv.add("sesn_1", plain), newMarks(t)
	id := srv.bash(x, m.command("sleep 0.3; echo done"))
	m.await(t, 1)
	srv.disconnect()
	missed := srv.bash(x, m.command("echo missed")) // told to nobody
	srv.want(x, id, "done", false)
	srv.want(x, missed, "missed", false)
	if n := m.count(); n != 2 || x.claims != 1 {
		t.Errorf("two commands ran %d times under %d claims", n, x.claims)
	}
}

func TestServerIsAway(t *testing.T) {
	srv := newServer(t)
	begin(t, srv, Options{})
	x, m := srv.add("sesn_1", plain), newMarks(t)
	id := srv.bash(x, m.command("sleep 0.2; echo done"))
	m.await(t, 1)
	srv.stop()
	time.Sleep(500 * time.Millisecond) // the call ends meanwhile
	srv.start()
	srv.want(x, id, "done", false)
	srv.want(x, srv.bash(x, "echo next"), "next", false)
	if n := m.count(); n != 1 || x.claims != 1 {
		t.Errorf("the command ran %d times under %d claims", n, x.claims)
	}
}

// TestAnswersAreLost cuts the connection behind a request that took effect, or before it
// did, route by route.
func TestAnswersAreLost(t *testing.T) {
	for _, route := range []string{"ack", "spec", "heartbeat", "events", "stop"} {
		for _, cut := range []string{"before", "after"} {
			t.Run(route+" "+cut, func(t *testing.T) {
				t.Parallel()
				srv := newServer(t)
				srv.ttl = 1
				srv.setFault(once(route, cut))
				begin(t, srv, Options{IdleTimeout: 100 * time.Millisecond})
				x, m := srv.add("sesn_1", plain), newMarks(t)
				sleep := "0.05"
				if route == "heartbeat" {
					sleep = "0.8" // long enough for the third
				}
				id := srv.bash(x, m.command("sleep "+sleep+"; echo done"))
				if route == "ack" {
					// A claim whose answer was lost must not wait for the lease to end,
					// which this server never does; nor for another offer.
					srv.until("the worker to come back", func() bool { return x.claims > 0 && x.beats > 0 })
				}
				srv.want(x, id, "done", false)
				srv.waitState(x, "stopped")
				srv.want(x, srv.bash(x, m.command("echo again")), "again", false)
				claims := 2
				if route == "ack" && cut == "after" {
					claims = 3
				}
				if n := m.count(); n != 2 || x.claims != claims {
					t.Errorf("two commands ran %d times under %d claims, want %d", n, x.claims, claims)
				}
			})
		}
	}
}

func TestLostLease(t *testing.T) {
	srv := newServer(t)
	srv.ttl = 1
	begin(t, srv, Options{})
	x, m := srv.add("sesn_1", plain), newMarks(t)
	srv.want(x, srv.bash(x, "echo kept > f; A=lost; echo ok"), "ok", false)
	id := srv.bash(x, m.command("sleep 1000"))
	m.await(t, 1)
	srv.lose(x) // offered again at once
	srv.want(x, id, "cut off", true)
	srv.want(x, srv.bash(x, `echo "$A:$(cat f)"`), ":kept", false)
	if n := m.count(); n != 1 || x.claims != 2 {
		t.Errorf("the command ran %d times under %d claims", n, x.claims)
	}
}

// TestLeaseIsLostWithAResult loses the lease when a result is on its way: the next lease
// gets the same result.
func TestLeaseIsLostWithAResult(t *testing.T) {
	srv := newServer(t)
	begin(t, srv, Options{})
	x, m := srv.add("sesn_1", plain), newMarks(t)
	lost := make(chan struct{})
	first := true
	srv.setFault(func(route string) (string, <-chan struct{}) {
		if route == "events" && first {
			first = false
			go func() {
				srv.lose(x)
				close(lost)
			}()
			return "", lost
		}
		return "", nil
	})
	srv.want(x, srv.bash(x, m.command("echo result")), "result", false)
	if n := m.count(); n != 1 || x.claims != 2 {
		t.Errorf("the command ran %d times under %d claims", n, x.claims)
	}
}

func TestOtherWorkersCallsAreCutOff(t *testing.T) {
	srv := newServer(t)
	x, m := srv.add("sesn_1", plain), newMarks(t)
	id := srv.bash(x, m.command(""))
	x.open[0].FirstWorker = "somebody"
	begin(t, srv, Options{})
	srv.want(x, id, "cut off", true)
	srv.want(x, srv.bash(x, "echo mine"), "mine", false)
	if m.count() != 0 {
		t.Error("another worker's call was run")
	}
}

func TestSandboxDies(t *testing.T) {
	srv := newServer(t)
	begin(t, srv, Options{})
	x, m := srv.add("sesn_1", plain), newMarks(t)
	srv.want(x, srv.bash(x, "echo kept > f; A=lost; echo ok"), "ok", false)
	id := srv.bash(x, m.command("kill -9 $PPID; sleep 1000"))
	srv.want(x, id, "cut off", true)
	srv.want(x, srv.bash(x, `echo "$A:$(cat f)"`), ":kept", false)
	// It may also die between two calls.
	srv.want(x, srv.bash(x, "(sleep 0.1; kill -9 $PPID) > /dev/null 2>&1 & echo soon"), "soon", false)
	time.Sleep(400 * time.Millisecond)
	srv.want(x, srv.bash(x, "echo back"), "back", false)
	if n := m.count(); n != 1 {
		t.Errorf("the command ran %d times", n)
	}
}

func TestEnvironmentsThatCannotBeServed(t *testing.T) {
	srv := newServer(t)
	begin(t, srv, Options{})
	for name, tc := range map[string]struct {
		config croft.EnvironmentCroft
		want   string
	}{
		"another driver":         {croft.EnvironmentCroft{Driver: "docker"}, `config.croft.driver: "docker"`},
		"a mount":                {croft.EnvironmentCroft{Mounts: []croft.Mount{{Host: "/etc", Path: "/x"}}}, "config.croft.mounts.0.host: /etc"},
		"what the driver cannot": {croft.EnvironmentCroft{MemoryMB: 64}, "memory_mb"},
	} {
		config := plain
		config.Croft = &tc.config
		x := srv.add("sesn_"+strings.ReplaceAll(name, " ", "_"), config)
		for range 2 { // each call is told, and the session goes on
			id := srv.bash(x, "true")
			srv.want(x, id, tc.want, true)
			srv.want(x, id, "was not run", true)
		}
	}
}

func TestRefusedResult(t *testing.T) {
	srv := newServer(t)
	begin(t, srv, Options{})
	x := srv.add("sesn_1", plain)
	srv.want(x, srv.bash(x, "echo refuse this result"), "the server refused its result", true)
}

func TestCancel(t *testing.T) {
	srv := newServer(t)
	begin(t, srv, Options{})
	x, m := srv.add("sesn_1", plain), newMarks(t)
	srv.want(x, srv.bash(x, "A=kept; echo ok"), "ok", false)
	id := srv.bash(x, m.command("sleep 1000"))
	queued := srv.bash(x, m.command("echo queued"))
	m.await(t, 1)
	srv.interrupt(x, queued)
	srv.interrupt(x, id)
	srv.want(x, srv.bash(x, "echo $A"), "kept", false)
	// What is cancelled while nobody listens is found when the stream is back.
	id = srv.bash(x, m.command("sleep 1000"))
	m.await(t, 2)
	srv.stop()
	srv.interrupt(x, id)
	srv.start()
	srv.want(x, srv.bash(x, "echo $A"), "kept", false)
	if n := m.count(); n != 2 {
		t.Errorf("two commands began %d times", n)
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if len(x.results[id]) != 0 || len(x.results[queued]) != 0 {
		t.Error("a cancelled call has a result")
	}
}

func TestIdleSessionIsGivenBack(t *testing.T) {
	srv := newServer(t)
	w := begin(t, srv, Options{IdleTimeout: 50 * time.Millisecond})
	x := srv.add("sesn_1", plain)
	srv.want(x, srv.bash(x, "echo kept > f; A=lost; echo ok"), "ok", false)
	srv.waitState(x, "stopped")
	eventually(t, "nothing to be left of the session", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.all)+len(w.works)+len(w.last) == 0
	})
	if left, _ := filepath.Glob(filepath.Join(w.o.Data, "journal", "*")); len(left) != 0 {
		t.Errorf("journals are left: %v", left)
	}
	srv.want(x, srv.bash(x, `echo "$A:$(cat f)"`), ":kept", false)
}

func TestDeletedSession(t *testing.T) {
	srv := newServer(t)
	w := begin(t, srv, Options{})
	x := srv.add("sesn_1", plain)
	srv.want(x, srv.bash(x, "echo kept > f; pwd"), "/", false)
	folder := filepath.Join(w.o.Data, "sandboxes", "sesn_1")
	if _, err := os.Stat(folder); err != nil {
		t.Fatal(err)
	}
	srv.bash(x, "sleep 1000")
	srv.mu.Lock()
	srv.tell(x, frame{Type: "stop", Reason: "deleted"})
	x.state, x.open, x.token = "deleted", nil, ""
	srv.mu.Unlock()
	eventually(t, "the workspace to be gone", func() bool {
		_, err := os.Stat(folder)
		left, _ := filepath.Glob(filepath.Join(w.o.Data, "journal", "*"))
		return os.IsNotExist(err) && len(left) == 0
	})
}

// TestSessionIsDeletedElsewhere deletes a session that the worker has given back.
func TestSessionIsDeletedElsewhere(t *testing.T) {
	srv := newServer(t)
	w := begin(t, srv, Options{IdleTimeout: 20 * time.Millisecond})
	x := srv.add("sesn_1", plain)
	srv.result(x, srv.bash(x, "echo kept > f"))
	srv.waitState(x, "stopped")
	folder := filepath.Join(w.o.Data, "sandboxes", "sesn_1")
	if _, err := os.Stat(folder); err != nil {
		t.Fatal(err)
	}
	srv.mu.Lock()
	x.worker, x.of = w.ID(), w.incarnation
	srv.tell(x, frame{Type: "stop", Reason: "deleted"})
	srv.mu.Unlock()
	eventually(t, "the workspace to be gone", func() bool {
		_, err := os.Stat(folder)
		return os.IsNotExist(err)
	})
}

// TestJournalCannotBeUsed runs nothing that could not be noted, and goes on when it can.
func TestJournalCannotBeUsed(t *testing.T) {
	srv := newServer(t)
	w := begin(t, srv, Options{})
	x, m := srv.add("sesn_1", plain), newMarks(t)
	inTheWay := filepath.Join(w.o.Data, "journal", "sesn_1")
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	srv.want(x, srv.bash(x, m.command("echo ran")), "not run", true)
	srv.waitState(x, "stopped")
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	srv.want(x, srv.bash(x, m.command("echo ran")), "ran", false)
	if n := m.count(); n != 1 {
		t.Errorf("the commands ran %d times", n)
	}
}

func TestCapacity(t *testing.T) {
	srv := newServer(t)
	begin(t, srv, Options{Capacity: 2, IdleTimeout: 50 * time.Millisecond})
	var all []*remote
	var ids []string
	for i := range 7 {
		x := srv.add(fmt.Sprintf("sesn_%d", i), plain)
		all, ids = append(all, x), append(ids, srv.bash(x, fmt.Sprintf("echo %d", i)))
	}
	most := 0
	srv.until("all to be answered", func() bool {
		held, answered := 0, 0
		for i, x := range all {
			if x.state == "active" {
				held++
			}
			answered += len(x.results[ids[i]])
		}
		most = max(most, held)
		return answered == len(all)
	})
	if most > 2 {
		t.Errorf("%d sessions were held at once", most)
	}
}

func TestDrain(t *testing.T) {
	srv := newServer(t)
	w := begin(t, srv, Options{})
	m := newMarks(t)
	busy, idle := srv.add("sesn_busy", plain), srv.add("sesn_idle", plain)
	srv.want(idle, srv.bash(idle, "echo ok"), "ok", false)
	id := srv.bash(busy, m.command("sleep 0.4; echo done"))
	m.await(t, 1)
	drained := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		drained <- w.Drain(ctx)
	}()
	srv.waitState(idle, "stopped")
	late := srv.add("sesn_late", plain)
	srv.bash(late, "echo late")
	srv.want(busy, id, "done", false)
	if err := <-drained; err != nil {
		t.Errorf("Drain: %v", err)
	}
	w.wait(t)
	if busy.state != "stopped" || late.state != "queued" {
		t.Errorf("after the drain the busy session is %s, the late one %s", busy.state, late.state)
	}
}

func TestDrainWithoutTime(t *testing.T) {
	srv := newServer(t)
	w := begin(t, srv, Options{})
	x, m := srv.add("sesn_1", plain), newMarks(t)
	id := srv.bash(x, m.command("sleep 1000"))
	m.await(t, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := w.Drain(ctx); err == nil {
		t.Error("a drain that ran out of time says nothing")
	}
	w.wait(t)
	srv.want(x, id, "cut off", true)
	srv.waitState(x, "stopped")
}

func TestRefusedWorker(t *testing.T) {
	srv := newServer(t)
	w, err := New(Options{Client: srv.client("wrong"), Driver: noneDriver(t, t.TempDir()), Data: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context()); !croft.IsType(err, croft.Authentication) {
		t.Errorf("with a wrong key Run returns %v", err)
	}
}

func TestFolderInUse(t *testing.T) {
	srv := newServer(t)
	w := begin(t, srv, Options{})
	if _, err := New(w.o); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second worker over the same folder: %v", err)
	}
}

// TestSessionComesBackInAnotherItem gives a session out anew while this worker still holds
// it by an older item.
func TestSessionComesBackInAnotherItem(t *testing.T) {
	srv := newServer(t)
	begin(t, srv, Options{})
	x, m := srv.add("sesn_1", plain), newMarks(t)
	first := srv.bash(x, m.command("sleep 1000"))
	m.await(t, 1)
	srv.mu.Lock()
	x.work, x.state, x.token = "work_other", "queued", ""
	srv.offer(x)
	srv.mu.Unlock()
	srv.want(x, first, "cut off", true)
	srv.want(x, srv.bash(x, "echo ok"), "ok", false)
	if n := m.count(); n != 1 {
		t.Errorf("the command ran %d times", n)
	}
}
