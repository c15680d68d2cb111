// Package session is the log: the one way to change a session. It owns the append, the
// fold, the ownership of running sessions, the wake of whoever must act next, and the
// live tail.
//
// A session is an append-only log of events and a row that holds the log's fold (State).
// Every change is one transaction: it reads the row, decides by the fold, inserts events
// with the next sequence numbers, and writes the row back; what must follow (a model
// request, a work item, a cancelled call) is set off after the commit. The phases of a
// thread:
//
//	        user.message                       reply with tool calls
//	idle ───────────────► model ──────────────────────────────► tools
//	  ▲                   │ ▲ │ fault that may pass              │ │
//	  │   reply without   │ │ └──────► retry ──┐ wake_at         │ │ only asks and custom
//	  │   tool calls      │ └──────────────────┘                 │ │ tools are open
//	  ├───────────────────┘ ▲                                    │ ▼
//	  │                     └──── every call is settled ─────────┤ blocked (idle, requires_action)
//	  │                                                          │ │ a person or client answers
//	  │                     paused (idle, budget_reached) ◄──────┴─┘
//	  └── user.interrupt, from any phase: calls are settled with errors
//
// Only in phase model does a replica own the session: the row holds its incarnation and
// an epoch that grows at each change of hands. A model's reply must carry the epoch and
// the id of the span it answers (Fence); a stale one cannot append. In every other phase
// a session is a row and nothing else.
//
// Session imports store, the agents room, the work queue and the language. The API calls
// Create, Send, Tail and the rest; the brain is called through Runner and answers with
// Reply or Fault; the work queue calls back through work.Sessions.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"croft"
	"croft/internal/agents"
	"croft/internal/model"
	"croft/internal/store"
	"croft/internal/work"
)

// Run is a model request that is due: committed, and owned by this process.
type Run struct {
	Session string
	Fence   Fence
	// Seq is the last event that the request may see.
	Seq int64
	// Attempt counts from 1 the tries of this request since the last one that succeeded.
	Attempt int
	// Config changes whenever the session's agent does.
	Config int64
}

// Fence says which model request an append answers. An append whose fence is stale fails
// with ErrFenced and changes nothing.
type Fence struct {
	Epoch  int64
	Thread string
	Span   string
}

// ErrFenced tells the loop that its work was overtaken: by an interrupt, another owner or
// the session's end. What it holds must be thrown away.
var ErrFenced = errors.New("session: the model request was overtaken")

// Runner makes model requests; the brain. Its methods return at once.
type Runner interface {
	// Run starts the model request.
	Run(Run)
	// Cancel stops the request of that span, if it is under way here.
	Cancel(session, span string)
	// Admit tells whether one more turn may start in this process.
	Admit() bool
}

// Models tells what the log must know of a model.
type Models interface {
	Model(id string) (*model.Model, error)
}

// Agents resolves what a session is created from.
type Agents interface {
	Resolve(tx *store.Tx, workspace string, ref agents.Ref) (*croft.SessionAgent, error)
	Environment(tx *store.Tx, workspace, id string) (*croft.Environment, error)
}

// Options are what a Log is made of.
type Options struct {
	DB     *store.DB
	Agents Agents
	Models Models
	Queue  *work.Queue
	Log    *slog.Logger
	// Retries is how often a model request is tried before the session gives up; 0: 8.
	Retries int
}

// Log is the log of every session of one database. It is safe for concurrent use.
type Log struct {
	db      *store.DB
	agents  Agents
	models  Models
	queue   *work.Queue
	log     *slog.Logger
	retries int
	hub     hub
	runner  Runner

	stop   context.CancelFunc
	done   sync.WaitGroup
	rescan chan struct{} // a wake_at earlier than the timer's may have been written
}

// New makes a Log; it acts on nothing before Start.
func New(o Options) *Log {
	l := &Log{db: o.DB, agents: o.Agents, models: o.Models, queue: o.Queue, log: o.Log, retries: o.Retries,
		rescan: make(chan struct{}, 1)}
	if l.retries == 0 {
		l.retries = 8
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.hub.init(l)
	if l.queue != nil {
		l.queue.Bind(l)
	}
	return l
}

// Start takes up what earlier processes left, and begins to wake sessions whose retry is
// due. The Runner is called from now on, until Stop.
func (l *Log) Start(ctx context.Context, r Runner) error {
	l.runner = r
	ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := l.recover(ctx); err != nil {
		l.stop()
		return fmt.Errorf("taking up sessions: %w", err)
	}
	l.done.Add(1)
	go func() {
		defer l.done.Done()
		l.wakeDue(ctx)
	}()
	return nil
}

// Stop ends the wakes and closes every tail. Sessions stay as they are in the database.
func (l *Log) Stop() {
	if l.stop != nil {
		l.stop()
	}
	l.done.Wait()
	l.hub.close()
}
