// Package client is a small HTTP client of Croft's API, for the parts of Croft that are
// clients themselves: the command line and the worker. Programs of others use the official
// SDKs. It owns requests and their errors, streams, and the pace of repeated attempts; it
// imports the language and package sse, and knows no resource: who calls it names paths
// and shapes.
//
// Every request carries the beta header of managed agents and one credential. An answer
// other than 2xx becomes a *croft.Error, with the status and the request's id as its cause
// (Answer). A failure of the transport stays what it is. Transient tells which errors are
// worth another attempt, Backoff when to make it.
//
// The transport is any http.RoundTripper, so that a client may speak to a handler in its
// own process. Redirects are not followed: a credential goes to the server it is meant for.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"croft"
)

const (
	beta    = "managed-agents-2026-04-01"
	version = "2023-06-01"
	// maxAnswer bounds an answer's body in bytes: a page of events may hold several
	// bodies of the largest request.
	maxAnswer = 256 << 20
	// maxError bounds what is read of an answer that tells an error.
	maxError = 1 << 20
)

// Options are what a Client is made of.
type Options struct {
	// BaseURL is the server's address, as in "http://127.0.0.1:8400". It may have a path.
	BaseURL string
	// APIKey is sent as x-api-key, Token as Authorization: Bearer. At most one is given.
	APIKey, Token string
	// Transport carries the requests; nil: the network, with connections of its own.
	Transport http.RoundTripper
	// UserAgent names the program; empty: "croft".
	UserAgent string
}

// Client sends requests to one server under one credential. It is safe for concurrent use.
type Client struct {
	base   string
	agent  string
	apiKey string
	token  string
	http   *http.Client
}

// New makes a client. It sends nothing yet.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.BaseURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("server address %q: accepted is http://HOST:PORT or https://HOST:PORT", o.BaseURL)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server address of %s: user, query and fragment are not accepted", u.Host)
	}
	if o.APIKey != "" && o.Token != "" {
		return nil, errors.New("an API key and a token at once: one credential is accepted")
	}
	if o.Transport == nil {
		o.Transport = network()
	}
	if o.UserAgent == "" {
		o.UserAgent = "croft"
	}
	return &Client{base: strings.TrimRight(o.BaseURL, "/"), agent: o.UserAgent, apiKey: o.APIKey, token: o.Token,
		http: &http.Client{Transport: o.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// network is a transport for many requests at once to one server.
func network() *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          256,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
}

// WithToken returns a client of the same server and transport that speaks under another
// bearer token.
func (c *Client) WithToken(token string) *Client {
	other := *c
	other.apiKey, other.token = "", token
	return &other
}

// Do sends one request and reads its answer. path begins with a slash and may hold a query.
// in is nil for no body, a []byte or json.RawMessage that is sent as it is, or a value that
// is written as JSON; out is nil or what the answer is decoded into. It makes one attempt.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	answer, err := c.send(ctx, method, path, in, nil)
	if err != nil {
		return err
	}
	defer answer.Close()
	body, err := io.ReadAll(io.LimitReader(answer, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("reading the answer to %s %s: %w", method, bare(path), err)
	}
	if len(body) > maxAnswer {
		return fmt.Errorf("the answer to %s %s is larger than %d bytes", method, bare(path), maxAnswer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("the answer to %s %s is not what was expected: %w", method, bare(path), err)
	}
	return nil
}

// send makes one attempt and returns the body of an answer of 2xx, which the caller closes.
func (c *Client) send(ctx context.Context, method, path string, in any, header http.Header) (io.ReadCloser, error) {
	body, err := encode(in)
	if err != nil {
		return nil, fmt.Errorf("writing the body of %s %s: %w", method, bare(path), err)
	}
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, r)
	if err != nil {
		return nil, fmt.Errorf("making the request %s %s: %w", method, bare(path), err)
	}
	h := req.Header
	for k, v := range header {
		h[k] = v
	}
	h.Set("anthropic-beta", beta)
	h.Set("anthropic-version", version)
	h.Set("User-Agent", c.agent)
	switch {
	case c.apiKey != "":
		h.Set("x-api-key", c.apiKey)
	case c.token != "":
		h.Set("Authorization", "Bearer "+c.token)
	}
	if body != nil {
		h.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var wrapped *url.Error // repeats the method and the whole address
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("%s %s: %w", method, bare(path), err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err != nil {
		text = nil // the status says enough
	}
	return nil, decodeError(resp.StatusCode, resp.Header, text)
}

// bare is a path without its query, for messages.
func bare(path string) string {
	p, _, _ := strings.Cut(path, "?")
	return p
}

// encode writes a body without the escapes for HTML, which triple the size of code.
func encode(in any) ([]byte, error) {
	switch v := in.(type) {
	case nil:
		return nil, nil
	case []byte:
		return v, nil
	case json.RawMessage:
		return v, nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(in); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Answer is the cause of every *croft.Error that this package returns: what the server's
// answer said beside its error. A person needs the request's id to find it in a log.
type Answer struct {
	Status    int    // of HTTP; 0 for an error frame of a stream
	RequestID string // empty where the answer named none
}

// Error names the status and the request.
func (a *Answer) Error() string {
	s := "an error frame"
	if a.Status != 0 {
		s = "HTTP " + strconv.Itoa(a.Status)
	}
	if a.RequestID != "" {
		s += ", request " + a.RequestID
	}
	return s
}

// RequestID returns the id of the request that err is the answer to, or "".
func RequestID(err error) string {
	var a *Answer
	if errors.As(err, &a) {
		return a.RequestID
	}
	return ""
}

// decodeError makes the error of an answer. Bodies that are no envelope (a proxy's page)
// are quoted, shortened, and the status alone gives the type.
func decodeError(status int, h http.Header, body []byte) *croft.Error {
	a := &Answer{Status: status, RequestID: h.Get("request-id")}
	e := &croft.Error{Type: typeOf(status), Cause: a}
	var env struct {
		Error struct {
			Type    croft.ErrorType `json:"type"`
			Message string          `json:"message"`
		} `json:"error"`
		RequestID string `json:"request_id"`
	}
	if json.Unmarshal(body, &env) == nil && env.Error.Type != "" {
		e.Type, e.Message = env.Error.Type, env.Error.Message
		if status == http.StatusNotImplemented {
			e.Type = croft.NotServed
		}
		if a.RequestID == "" {
			a.RequestID = env.RequestID
		}
	}
	if e.Message == "" {
		e.Message = "the server ended the stream with an error"
		if status != 0 {
			e.Message = "the server answered HTTP " + strconv.Itoa(status)
		}
		if text := quoted(body); text != "" {
			e.Message += ": " + text
		}
	}
	if s, err := strconv.ParseInt(strings.TrimSpace(h.Get("retry-after")), 10, 32); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

// quoted is the begin of a body as one line of printable text.
func quoted(body []byte) string {
	const most = 200
	text := strings.Join(strings.Fields(strings.ToValidUTF8(string(body[:min(len(body), 4*most)]), "")), " ")
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, text)
}

// typeOf is the error type of a status that came without an envelope.
func typeOf(status int) croft.ErrorType {
	switch status {
	case http.StatusUnauthorized:
		return croft.Authentication
	case http.StatusPaymentRequired:
		return croft.Billing
	case http.StatusForbidden:
		return croft.Permission
	case http.StatusNotFound:
		return croft.NotFound
	case http.StatusConflict:
		return croft.Conflict
	case http.StatusPreconditionFailed:
		return croft.PreconditionFailed
	case http.StatusRequestEntityTooLarge:
		return croft.TooLarge
	case http.StatusTooManyRequests:
		return croft.RateLimited
	case http.StatusNotImplemented:
		return croft.NotServed
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return croft.Timeout
	case http.StatusBadGateway, http.StatusServiceUnavailable, 529:
		return croft.Overloaded
	}
	if status >= 300 && status < 500 {
		return croft.InvalidRequest
	}
	return croft.Internal
}

// Transient tells whether the same request may succeed later: the transport failed, or the
// server said that it is in trouble. A request that failed so may have taken effect. Whether
// the caller's own context has ended is the caller's to look at first.
func Transient(err error) bool {
	var e *croft.Error
	if !errors.As(err, &e) {
		return err != nil
	}
	switch e.Type {
	case croft.RateLimited, croft.Internal, croft.Timeout, croft.Overloaded:
		return true
	}
	return false
}
