package api

import (
	"net/http"
)

// healthz says that the process answers.
func (a *API) healthz(c *call) error {
	c.answer = []byte(`{"status":"ok"}`)
	return nil
}

// readyz says that requests are served, or with a 503 why not.
func (a *API) readyz(c *call) error {
	if a.ready != nil {
		if err := a.ready(c.ctx); err != nil {
			answer, encErr := encode(map[string]string{"status": "not ready", "reason": err.Error()})
			if encErr != nil {
				return encErr
			}
			c.send(http.StatusServiceUnavailable, answer)
			return nil
		}
	}
	c.answer = []byte(`{"status":"ready"}`)
	return nil
}
