// Package api is the HTTP surface: the public Managed Agents API and Croft's additions to
// it. It owns the table of routes (routes.go), the reading of requests, and the writing of
// answers, streams and errors; it holds no rules of its own. A handler reads what the
// request names, asks one room (agents, session, work) and gives its answer back.
//
// It imports those rooms, access, sse, the store (for idempotency keys) and the language;
// nothing of the brain, with which it shares the log alone.
//
// A request passes, in this order:
//
//	the route            unknown: 404; known with another method: 405
//	the credential       unknown, or two of them: 401 (auth.go)
//	its scope            a route that is not for this kind of credential: 403
//	anthropic-beta       without what the noun demands: 404
//	the path's ids       what the credential was not made for: 404
//	the handler          of a route that is not served yet: 501
//	the query            what the route does not know: 400 (query.go)
//	the body             more than croft.MaxBody: 413
//	Idempotency-Key      seen before: the first answer (idempotency.go)
//
// Every response carries the header request-id. A handler returns an error, and API.fail is
// the one place that turns errors into responses; a *croft.Error is for the client to see,
// anything else is logged and answered as an opaque 500.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"croft"
	"croft/internal/access"
	"croft/internal/sse"
	"croft/internal/store"
)

// Options are what an API is made of. All but the last four are needed.
type Options struct {
	DB           *store.DB
	Access       Access
	Agents       Agents
	Environments Environments
	Sessions     Sessions
	Work         Work
	Models       Models

	// Ready tells whether requests can be served, for /readyz; nil: always.
	Ready func(context.Context) error
	// Timeout bounds a request that is no stream; 60 s when 0.
	Timeout time.Duration
	// Heartbeat is the longest silence of a stream; 9 s when 0.
	Heartbeat time.Duration
	Log       *slog.Logger
}

// API serves the routes. It is an http.Handler; Shutdown ends its streams.
type API struct {
	db           *store.DB
	access       Access
	agents       Agents
	environments Environments
	sessions     Sessions
	work         Work
	models       Models
	ready        func(context.Context) error
	timeout      time.Duration
	log          *slog.Logger

	mux     *http.ServeMux
	streams *sse.Hub
	keys    inFlight
}

// New makes an API. It fails when a part is missing.
func New(o Options) (*API, error) {
	if o.DB == nil || o.Access == nil || o.Agents == nil || o.Environments == nil || o.Sessions == nil || o.Work == nil || o.Models == nil {
		return nil, errors.New("api: a part is missing")
	}
	a := &API{db: o.DB, access: o.Access, agents: o.Agents, environments: o.Environments, sessions: o.Sessions, work: o.Work, models: o.Models,
		ready: o.Ready, timeout: o.Timeout, log: o.Log}
	if a.timeout <= 0 {
		a.timeout = time.Minute
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.mux = http.NewServeMux()
	for path, methods := range byPath(a.routes()) {
		a.mux.Handle(path, &endpoint{a, methods})
	}
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c := w.(*call)
		a.fail(c, croft.Errorf(croft.NotFound, "%s %s is no route of this API", r.Method, r.URL.Path))
	})
	a.streams = sse.NewHub(sse.Options{Heartbeat: o.Heartbeat, LastWords: a.lastWords, Log: a.log})
	return a, nil
}

// Shutdown ends every stream cleanly and waits for their ends; no new one is opened.
// Requests in flight are the HTTP server's to wait for.
func (a *API) Shutdown(ctx context.Context) error { return a.streams.Shutdown(ctx) }

// ServeHTTP serves one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{ResponseWriter: w, r: r, api: a, id: croft.NewID(croft.PrefixRequest), started: time.Now()}
	w.Header().Set("request-id", c.id)
	defer c.finish()
	if odd(r.URL.Path) {
		a.fail(c, croft.Errorf(croft.NotFound, "the path holds bytes that are no text"))
		return
	}
	if q, err := url.QueryUnescape(r.URL.RawQuery); err != nil || odd(q) {
		a.fail(c, croft.Errorf(croft.InvalidRequest, "the query holds bytes that are no text: accepted is UTF-8, percent-encoded, without NUL"))
		return
	}
	if r.URL.Path != path.Clean(r.URL.Path) {
		// The mux would redirect; a client of this API is told instead.
		a.fail(c, croft.Errorf(croft.NotFound, "%s %s is no route of this API", r.Method, r.URL.Path))
		return
	}
	a.mux.ServeHTTP(c, r)
}

// odd tells text that no database takes: not UTF-8, or with a NUL.
func odd(s string) bool { return !utf8.ValidString(s) || strings.ContainsRune(s, 0) }

// finish ends a call: a panic becomes a 500, and the log gets its line.
func (c *call) finish() {
	if p := recover(); p != nil {
		if p == http.ErrAbortHandler { //nolint:errorlint // the server compares it so, too
			panic(p)
		}
		c.api.log.Error("a handler panicked", "request_id", c.id, "panic", p, "stack", string(debug.Stack()))
		c.api.fail(c, errPanic)
	}
	level := slog.LevelDebug
	if c.status >= http.StatusInternalServerError && c.status != http.StatusNotImplemented {
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{slog.String("request_id", c.id), slog.String("method", c.r.Method), slog.String("path", c.r.URL.Path),
		slog.Int("status", c.status), slog.Duration("took", time.Since(c.started))}
	if c.who != nil {
		attrs = append(attrs, slog.String("workspace", c.who.Workspace), slog.String("key", c.who.KeyID))
	}
	c.api.log.LogAttrs(c.r.Context(), level, "request", attrs...)
}

var errPanic = errors.New("a handler panicked")

// call is one request on its way, and its response.
type call struct {
	http.ResponseWriter
	r       *http.Request
	api     *API
	id      string
	started time.Time
	route   *route
	who     *access.Principal
	ctx     context.Context // the request's, with its time-out
	query   query
	body    []byte
	answer  []byte // JSON of a success that is not sent yet
	status  int    // what was sent; 0 so far
	// late is set when the body did not come in time. The HTTP server then ends the
	// request's context, as if the client had left.
	late bool
}

// WriteHeader notes that the response has begun.
func (c *call) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write notes the same.
func (c *call) Write(b []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	return c.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// workspace is whose resources the request may see.
func (c *call) workspace() string { return c.who.Workspace }

// param is a part of the path.
func (c *call) param(name string) string { return c.r.PathValue(name) }
