package api

import (
	"log/slog"
	"net/http"
	"time"
)

// HTTPServer returns a server for the API with the time-outs that fit it: headers come
// within 10 s, a body within the request's time, an answer is taken within two minutes more.
// Streams set deadlines of their own. Stopping is Shutdown of the API first, which ends the
// streams, and then of the server.
func (a *API) HTTPServer() *http.Server {
	return &http.Server{
		Handler:           a,
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      a.timeout + 2*time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
}
