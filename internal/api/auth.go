package api

import (
	"net/http"
	"strings"

	"croft"
	"croft/internal/access"
)

// credential finds the one credential of a request: x-api-key, or Authorization: Bearer.
// The same one in both is one. No message repeats what was sent.
func credential(h http.Header) (string, error) {
	found := ""
	take := func(v string) error {
		if v = strings.TrimSpace(v); v == "" || v == found {
			return nil
		}
		if found != "" {
			return croft.Errorf(croft.Authentication, "the request carries two different credentials: send x-api-key or Authorization: Bearer, not both")
		}
		found = v
		return nil
	}
	for _, v := range h.Values("X-Api-Key") {
		if err := take(v); err != nil {
			return "", err
		}
	}
	for _, v := range h.Values("Authorization") {
		if strings.TrimSpace(v) == "" {
			continue
		}
		scheme, token, _ := strings.Cut(strings.TrimSpace(v), " ")
		if !strings.EqualFold(scheme, "Bearer") || strings.TrimSpace(token) == "" {
			return "", croft.Errorf(croft.Authentication, "the Authorization header is not understood: accepted is Bearer and a key or token")
		}
		if err := take(token); err != nil {
			return "", err
		}
	}
	if found == "" {
		return "", croft.Errorf(croft.Authentication, "the request carries no credential: send the header x-api-key, or Authorization: Bearer")
	}
	return found, nil
}

// hasBeta tells whether anthropic-beta names beta, in whichever of its lines and lists.
func hasBeta(h http.Header, beta string) bool {
	for _, line := range h.Values("Anthropic-Beta") {
		for name := range strings.SplitSeq(line, ",") {
			if strings.TrimSpace(name) == beta {
				return true
			}
		}
	}
	return false
}

// sessionTokens begin so; the work queue makes them and knows them.
const sessionTokens = "croft_sess_"

// authenticate finds out who speaks.
func (c *call) authenticate() error {
	text, err := credential(c.r.Header)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(text, sessionTokens) {
		c.who, err = c.api.access.Authenticate(c.r.Context(), text)
		return err
	}
	g, err := c.api.work.Token(c.r.Context(), text)
	if err != nil {
		return err
	}
	c.who = &access.Principal{Kind: access.Session, Workspace: g.Workspace, EnvironmentID: g.EnvironmentID, WorkID: g.WorkID, SessionID: g.SessionID, Claim: g.Claim}
	return nil
}

// admit authenticates the request and checks it against its route's line.
func (c *call) admit() error {
	if err := c.authenticate(); err != nil {
		return err
	}
	for _, v := range c.r.Header.Values("Anthropic-Workspace-Id") {
		if v = strings.TrimSpace(v); v != "" && v != c.who.Workspace {
			return croft.Errorf(croft.Permission, "anthropic-workspace-id names a workspace that the credential does not belong to")
		}
	}
	if kind := kinds[c.who.Kind]; c.route.who&kind.bit == 0 {
		return croft.Errorf(croft.Permission, "%s may not call %s", kind.name, c.route.path)
	}
	if c.route.beta != none && !hasBeta(c.r.Header, c.route.beta) {
		return croft.Errorf(croft.NotFound, "%s is in beta: send the header anthropic-beta: %s", c.route.path, c.route.beta)
	}
	return c.within()
}

// within checks the ids of the path against what the credential was made for. What it was
// not made for is, to it, not there.
func (c *call) within() error {
	environment, work, session := c.param("environment_id"), c.param("work_id"), c.param("session_id")
	switch c.who.Kind {
	case access.Environment:
		if environment != "" && environment != c.who.EnvironmentID {
			return croft.Missing("environment", environment)
		}
		if session == "" {
			return nil
		}
		s, err := c.api.sessions.Get(c.r.Context(), c.who.Workspace, session)
		if err != nil {
			return err
		}
		if s.EnvironmentID != c.who.EnvironmentID {
			return croft.Missing("session", session)
		}
	case access.Session:
		switch {
		case environment != "" && environment != c.who.EnvironmentID:
			return croft.Missing("environment", environment)
		case work != "" && work != c.who.WorkID:
			return croft.Missing("work item", work)
		case session != "" && session != c.who.SessionID:
			return croft.Missing("session", session)
		}
	case access.Fleet:
		if environment == "" {
			return nil
		}
		e, err := c.api.environments.GetEnvironment(c.r.Context(), c.who.Workspace, environment)
		if err != nil {
			return err
		}
		if e.Config.Type != croft.EnvironmentCloud {
			return croft.Missing("environment", environment)
		}
	}
	return nil
}
