//go:build unix

package hand

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"croft/internal/hand/shell"
)

// bash runs the bash calls, one after another in the order of their arrival, in a shell
// that lives on between them. Its loop is the one goroutine that touches the shell.
type bash struct {
	kids    *shell.Children
	scratch *scratch
	workdir string
	queue   chan bashJob

	shell *shell.Shell // nil until one is needed, and after one has ended
	// notice tells the next command what became of the shell since the last one.
	notice string
}

// bashJob is a call on its way to the shell; result takes exactly one.
type bashJob struct {
	ctx    context.Context
	call   Call
	result chan<- Result
}

type bashInput struct {
	Command   string  `json:"command"`
	Restart   bool    `json:"restart"`
	TimeoutMS integer `json:"timeout_ms"`
}

// stateLost is said wherever a shell ended.
const stateLost = "the next command starts in a new shell, in %s, without the old one's directory, variables, functions and background jobs"

// loop starts the first shell ahead of need and serves the queue until ctx ends.
func (b *bash) loop(ctx context.Context) {
	defer b.drop()
	// A failure is told to the first call, which tries again.
	_ = b.ensure(ctx)
	for {
		var ended <-chan struct{}
		if b.shell != nil {
			ended = b.shell.Done()
		}
		select {
		case <-ctx.Done():
			return
		case <-ended:
			code := b.shell.End()
			b.shell = nil
			b.notice = fmt.Sprintf("[the shell ended between two calls, with exit code %d: this is a new one, in %s, without the old one's directory, variables, functions and background jobs]", code, b.workdir)
			_ = b.ensure(ctx)
		case job := <-b.queue:
			job.result <- b.serve(job)
			if b.shell == nil {
				_ = b.ensure(ctx) // while the caller reads the result
			}
		}
	}
}

// serve runs one call.
func (b *bash) serve(job bashJob) Result {
	var in bashInput
	if err := decodeInput(job.call, &in); err != nil {
		return errorResult(job.call.Tool, err)
	}
	if in.Restart {
		b.drop()
		b.notice = ""
		if in.Command == "" {
			if err := b.ensure(job.ctx); err != nil {
				return textResult("bash: "+err.Error(), true)
			}
			return textResult("The shell was restarted.", false)
		}
	}
	switch {
	case in.Command == "":
		return textResult("bash: command is required, unless restart is true", true)
	case strings.IndexByte(in.Command, 0) >= 0:
		return textResult("bash: the command holds a NUL character, which no shell can take", true)
	case job.ctx.Err() != nil:
		return textResult("[interrupted before it started: the command was not run]", true)
	}
	if err := b.ensure(job.ctx); err != nil {
		return textResult("bash: "+err.Error(), true)
	}
	file, err := b.scratch.write("command", in.Command)
	if err != nil {
		return textResult("bash: the command was not run: "+err.Error(), true)
	}
	out := newOutput(func() (*os.File, error) { return b.scratch.create(job.call.ID) })
	limit := timeLimit(job.call.Timeout, int64(in.TimeoutMS))
	end := b.shell.Run(job.ctx, file, out, limit)
	if end.ShellEnded {
		b.shell = nil
	}
	text := join(b.notice, out.close())
	b.notice = ""
	return textResult(join(text, b.verdict(end, limit)), end.Interrupted || end.Code != 0)
}

// verdict puts the command's ending in words; nothing for a plain success.
func (b *bash) verdict(end shell.Ending, limit time.Duration) string {
	what := fmt.Sprintf("exit code %d", end.Code)
	switch {
	case end.TimedOut:
		what = fmt.Sprintf("timed out after %s", limit)
	case end.Interrupted:
		what = "interrupted"
	case end.ShellEnded:
		what = fmt.Sprintf("the shell ended with exit code %d", end.Code)
	case end.Code == 0:
		return ""
	}
	switch {
	case end.Killed:
		what += "; the command did not heed the interrupt and was killed with the shell: " + fmt.Sprintf(stateLost, b.workdir)
	case end.ShellEnded:
		what += ": " + fmt.Sprintf(stateLost, b.workdir)
	case end.Interrupted:
		what += "; the shell goes on with its state"
	}
	return "[" + what + "]"
}

// ensure starts a shell if there is none.
func (b *bash) ensure(ctx context.Context) error {
	if b.shell != nil || ctx.Err() != nil {
		return ctx.Err()
	}
	var err error
	b.shell, err = shell.Start(ctx, b.kids, b.workdir)
	return err
}

// drop ends the shell, if there is one.
func (b *bash) drop() {
	if b.shell != nil {
		b.shell.End()
		b.shell = nil
	}
}

// submit queues a call. There is room: the queue is as long as the calls are many.
func (b *bash) submit(job bashJob) { b.queue <- job }
