//go:build unix

package worker

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"croft/internal/client"
	"croft/internal/sandbox"
	"croft/internal/sandbox/none"
)

// What a child process finds in its environment.
const (
	childServer = "CROFT_TEST_WORKER_SERVER"
	childData   = "CROFT_TEST_WORKER_DATA"
	childDelay  = "CROFT_TEST_WORKER_DELAY" // of making a sandbox, in milliseconds
)

// slowDriver takes its time to make a sandbox.
type slowDriver struct {
	sandbox.Driver
	delay time.Duration
}

func (d slowDriver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	time.Sleep(d.delay)
	return d.Driver.Create(ctx, spec)
}

// child is a worker in a process of its own, to be killed.
func child() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, err := client.New(client.Options{BaseURL: os.Getenv(childServer), Token: "fleet"})
	if err != nil {
		return fail(err)
	}
	d, err := none.New(none.Options{Data: os.Getenv(childData)})
	if err != nil {
		return fail(err)
	}
	delay, _ := strconv.Atoi(os.Getenv(childDelay))
	w, err := New(Options{Client: c, Data: os.Getenv(childData), Driver: slowDriver{d, time.Duration(delay) * time.Millisecond}})
	if err != nil {
		return fail(err)
	}
	fmt.Println(w.ID())
	if err := w.Run(context.Background()); err != nil {
		return fail(err)
	}
	return 0
}

// spawn starts a worker process over a folder and returns how to kill it.
func spawn(t *testing.T, srv *server, data string, delay int) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childServer+"=http://"+srv.addr, childData+"="+data, childDelay+"="+strconv.Itoa(delay))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "worker_") {
		t.Fatalf("the worker process said %q: %v", line, err)
	}
	dead := false
	kill = func() {
		if !dead {
			dead = true
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	t.Cleanup(kill)
	return kill
}

// TestWorkerIsKilled kills a worker at each point of a call's life and starts it again.
func TestWorkerIsKilled(t *testing.T) {
	for name, tc := range map[string]struct {
		delay int // of making a sandbox
		route string
		hold  bool // the request is held up until the worker is dead, and has no effect
		began bool // wait until the command has begun
		want  string
		error bool
		ran   int
	}{
		"before its sandbox is there": {delay: 2000, route: "spec", want: "done", ran: 1},
		"while it runs":               {began: true, want: "cut off", error: true, ran: 1},
		"with a result at hand":       {route: "events", hold: true, want: "done", ran: 1},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t)
			data, m := t.TempDir(), newMarks(t)
			x := srv.add("sesn_1", plain)
			command := m.command("echo done")
			if tc.began {
				command = m.command("sleep 1000; echo done")
			}
			id := srv.bash(x, command)
			seen, dead := make(chan struct{}), make(chan struct{})
			if tc.route != "" {
				first := true
				srv.setFault(func(route string) (string, <-chan struct{}) {
					if route != tc.route || !first {
						return "", nil
					}
					first = false
					close(seen)
					if tc.hold {
						return "before", dead
					}
					return "", nil
				})
			} else {
				close(seen)
			}
			kill := spawn(t, srv, data, tc.delay)
			<-seen
			if tc.began {
				m.await(t, 1)
			}
			if tc.delay > 0 {
				time.Sleep(100 * time.Millisecond) // it is making its sandbox
			}
			kill()
			close(dead)
			kill = spawn(t, srv, data, 0)
			srv.want(x, id, tc.want, tc.error)
			srv.want(x, srv.bash(x, "echo next"), "next", false)
			if n := m.count(); n != tc.ran {
				t.Errorf("the command ran %d times, want %d", n, tc.ran)
			}
			kill()
		})
	}
}

// TestKilledAgainAndAgain kills the worker and the server at times that nobody chose while
// sessions go from call to call.
func TestKilledAgainAndAgain(t *testing.T) {
	srv := newServer(t)
	data := t.TempDir()
	const sessions, calls = 4, 30
	marks := make([]marks, sessions)
	finished := make(chan [2]int, sessions) // calls that ran to their end; cut off
	for i := range sessions {
		x := srv.add(fmt.Sprintf("sesn_%d", i), plain)
		marks[i] = newMarks(t)
		go func() {
			whole, cut := 0, 0
			defer func() { finished <- [2]int{whole, cut} }()
			for n := range calls {
				id := srv.bash(x, fmt.Sprintf("echo %d:x >> %s; sleep 0.03; echo whole", n, marks[i].path))
				r := srv.result(x, id)
				switch {
				case strings.Contains(r.Text, "whole") && !r.IsError:
					whole++
				case strings.Contains(r.Text, "cut off") && r.IsError:
					cut++
				default:
					t.Errorf("call %d of session %d: %+v", n, i, r)
				}
			}
		}()
	}
	done := make(chan struct{})
	kills := 0
	var killing sync.WaitGroup
	killing.Go(func() {
		for {
			kill := spawn(t, srv, data, 0)
			for range 3 {
				select {
				case <-time.After(time.Duration(50+rand.IntN(100)) * time.Millisecond):
				case <-done:
					kill()
					return
				}
				srv.stop()
				time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
				srv.start()
			}
			kill()
			kills++
		}
	})
	cuts := 0
	for range sessions {
		got := <-finished
		cuts += got[1]
		if got[0]+got[1] != calls {
			t.Errorf("%d whole and %d cut off of %d", got[0], got[1], calls)
		}
	}
	close(done)
	killing.Wait()
	for i, m := range marks {
		b, err := os.ReadFile(m.path)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, line := range strings.Fields(string(b)) {
			if seen[line] {
				t.Errorf("session %d ran command %s twice", i, line)
			}
			seen[line] = true
		}
	}
	t.Logf("%d of %d calls were cut off by %d kills of the worker, with 3 of the server each", cuts, sessions*calls, kills)
}
