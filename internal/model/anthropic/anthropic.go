// Package anthropic is the provider for the Anthropic Messages API, and for servers that
// speak it. It owns the translation between a model.Request and that API's wire: the
// request's body (request.go) and the assembling of the streamed response (stream.go). The
// official SDK sends the request and reads the stream; its retries, its reading of the
// environment and its own traces are off. It may import package model, the transport and
// the SDK; the registry makes it and the loop calls it.
//
// What it decides:
//
//   - Cache breakpoints stand at the end of the tools, at the end of the system prompt, at
//     the end of the messages, and where the previous request's messages ended. The last is
//     what keeps a long session in the cache: the API finds an earlier entry only within 20
//     blocks of a breakpoint, and one turn of parallel calls can be longer than that.
//   - Thinking is asked for as "adaptive" of the models that know it, without the text
//     (display "omitted"): sessions never show it, and the answer begins sooner. The blocks
//     with their signatures are kept and sent back as they came. A thinking block without a
//     signature comes from another provider and is left out, because the API refuses it.
//   - Blocks that the API refuses though an agent may well produce them, empty texts, are
//     left out.
//   - An unset MaxTokens is 64,000, or the model's longest response where that is shorter or
//     where the effort is xhigh or max; 32,000 for ids that begin with "claude-" but are not
//     in the table; 8,192 for all others.
//   - Speed fast sends the beta header it needs. Speed, effort and geography go out as they
//     are: a model that lacks them is refused by the API with its own words.
//   - A system message in mid-conversation is passed on, behind the user messages that it
//     stands among, and refused for a known model that does not take it.
package anthropic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	sdk "github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/anthropics/anthropic-sdk-go/packages/ssestream"

	"croft/internal/model"
	"croft/internal/model/transport"
)

// DefaultBaseURL is where the API is when Options do not say.
const DefaultBaseURL = "https://api.anthropic.com"

// Options configure a provider. Nothing is read from the environment.
type Options struct {
	// BaseURL is the server's address, with or without /v1 at its end; "" is DefaultBaseURL.
	BaseURL string
	// APIKey goes out as x-api-key; "" sends none, for gateways that need none.
	APIKey string
	// Betas are values of anthropic-beta sent with every request.
	Betas []string
	// MaxTokens replaces the default of a request that has none; 0 leaves it.
	MaxTokens int64
	// Idle is how long a stream may be silent; 0 is transport.DefaultIdle.
	Idle time.Duration
	// HTTPClient is used without following redirects; nil makes one.
	HTTPClient *http.Client
}

// Provider asks one server. It implements model.Provider.
type Provider struct {
	client sdk.Client
	side   transport.Side
	host   string
	opts   Options
}

// New returns a provider, or an error when the base URL cannot be used.
func New(o Options) (*Provider, error) {
	if o.BaseURL == "" {
		o.BaseURL = DefaultBaseURL
	}
	base, err := transport.BaseURL(o.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("anthropic: %w", err)
	}
	base.Path = strings.TrimSuffix(base.Path, "/v1")
	opts := []option.RequestOption{
		option.WithoutEnvironmentDefaults(),
		option.WithoutOpenTelemetry(),
		option.WithMaxRetries(0),
		option.WithBaseURL(base.String()),
		option.WithHTTPClient(transport.Client(o.HTTPClient)),
	}
	if o.APIKey != "" {
		opts = append(opts, option.WithAPIKey(o.APIKey))
	}
	return &Provider{
		client: sdk.NewClient(opts...),
		side:   transport.Side{Name: "anthropic", Key: o.APIKey},
		host:   base.Host,
		opts:   o,
	}, nil
}

// Generate implements model.Provider.
func (p *Provider) Generate(ctx context.Context, req *model.Request, sink func(model.Delta)) (*model.Response, error) {
	body, err := p.body(req)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	wctx, watch := transport.NewWatch(ctx, p.opts.Idle)
	defer watch.Stop()

	opts := []option.RequestOption{option.WithHeader("Accept", "text/event-stream")}
	if betas := p.betas(req); betas != "" {
		opts = append(opts, option.WithHeader("anthropic-beta", betas))
	}
	var raw *http.Response
	if err := p.client.Post(wctx, "v1/messages", body, &raw, opts...); err != nil {
		var api *sdk.Error
		if raw != nil && raw.StatusCode >= 400 && !errors.As(err, &api) && ctx.Err() == nil {
			// The body of the error could not be read; its status says enough.
			return nil, p.side.Fault(transport.Reply{Status: raw.StatusCode, Header: raw.Header})
		}
		return nil, p.fault(ctx, wctx, err)
	}
	defer func() { _ = raw.Body.Close() }()
	if raw.StatusCode != http.StatusOK {
		return nil, p.side.Fault(transport.Reply{Status: raw.StatusCode, Header: raw.Header})
	}
	if kind, _, _ := mime.ParseMediaType(raw.Header.Get("Content-Type")); kind != "" && kind != "text/event-stream" {
		return nil, p.side.Refuse("%s answered with %s, not with an event stream: does the base URL speak the Messages API?", p.host, kind)
	}
	raw.Body = watch.Body(raw.Body)
	// The decoder is taken without the SDK's typed events: those copy and index every
	// field of every delta, and the blocks must be kept as they came anyway.
	resp, err := p.read(ssestream.NewDecoder(raw), raw.Header.Get("request-id"), sink)
	if err != nil {
		return nil, p.fault(ctx, wctx, err)
	}
	return resp, nil
}

// fault turns what went wrong into the seam's error, or into ctx's own end.
func (p *Provider) fault(ctx, wctx context.Context, err error) error {
	var e *model.Error
	if errors.As(err, &e) {
		return e
	}
	var api *sdk.Error
	if errors.As(err, &api) {
		return p.side.Fault(reply(api))
	}
	err = transport.Ended(ctx, wctx, err)
	if ctx.Err() != nil {
		return err
	}
	return p.side.Broken(p.host, err)
}

// apiError is the body of an error answer, and the data of an error event.
type apiError struct {
	Error struct {
		Type    string `json:"type"`
		Message string `json:"message"`
		Details struct {
			Code string `json:"error_code"`
		} `json:"details"`
	} `json:"error"`
	RequestID string `json:"request_id"`
}

// reply takes from the SDK's error what may be shown. The error itself holds the request
// with the key in its header, so it is not kept as a cause.
func reply(err *sdk.Error) transport.Reply {
	r := transport.Reply{Status: err.StatusCode, ID: err.RequestID}
	if err.Response != nil {
		r.Header = err.Response.Header
	}
	var body apiError
	raw := err.RawJSON()
	if json.Unmarshal([]byte(raw), &body) == nil && (body.Error.Type != "" || body.Error.Message != "") {
		r.Type, r.Code, r.Message = body.Error.Type, body.Error.Details.Code, body.Error.Message
		if r.ID == "" {
			r.ID = body.RequestID
		}
		return r
	}
	// A proxy's page, say: its words are better than none.
	r.Message = strings.Join(strings.Fields(raw), " ")
	return r
}
