// Package openai is the provider for servers that speak the OpenAI chat-completions API:
// vLLM, Ollama, llama.cpp's server, and gateways. It owns the translation both ways: the
// conversation of a model.Request into chat messages (request.go), and the streamed chunks
// into Messages content blocks (stream.go, sse.go). It uses net/http and may import package
// model and the transport; the registry makes it and the loop calls it.
//
// The two APIs differ, and servers differ from the specification. What it decides:
//
//   - The system prompt is one system message at the front. A system message in
//     mid-conversation keeps its role and its place between the assistant's turns; servers
//     whose chat template has no place for it answer with an error of their own.
//   - Documents of text, and search results, are written into the text. A PDF goes as a
//     "file" part where Options.FileParts says the server takes those. Otherwise one sent by
//     a user is refused, which is not worth trying again, and one in a tool's result is
//     replaced by a note to the model, because a refusal there would end the session.
//   - A tool message holds text alone, so the images of a tool's result follow in a user
//     message that says which call they belong to. A failed result begins with "Error: ".
//   - Reasoning (the deltas reasoning_content or reasoning) becomes a thinking block without
//     a signature. It remembers the field's name, and goes back under it with every turn
//     that called tools, because some servers require that; other turns' reasoning stays out.
//   - Tool calls: an id that is missing, or used before in the conversation, is replaced by
//     a new one. Fragments without an index, or that reuse one with another id, are told
//     apart by their ids. Arguments that are empty are {}; arguments that are no JSON object
//     become {"_raw": "…"}, so that the tool refuses them and the model can correct itself.
//     The last call of a response cut by its length is left out when it is incomplete.
//   - Effort goes out as reasoning_effort, xhigh and max as high. Speed fast and the geography
//     us are refused: no server of this kind has them.
//   - Usage is what the server reports. Croft asks for it in the stream; from a server that
//     sends none all counts are 0, for an estimate would look like a measurement.
//   - Texts that are blank are left out of the response.
package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"croft/internal/model"
	"croft/internal/model/transport"
)

// maxErrorBody bounds what is read of an error answer, in bytes.
const maxErrorBody = 64 << 10

// Options configure a provider. Nothing is read from the environment.
type Options struct {
	// BaseURL is the address below which chat/completions lies, as in
	// http://127.0.0.1:8000/v1. An address without a path gets /v1.
	BaseURL string
	// APIKey goes out as a bearer token; "" sends none.
	APIKey string
	// MaxTokens limits a response that the request does not limit; 0 leaves it to the server.
	MaxTokens int64
	// FileParts tells that the server takes PDFs as "file" parts.
	FileParts bool
	// Idle is how long a stream may be silent; 0 is transport.DefaultIdle.
	Idle time.Duration
	// HTTPClient is used without following redirects; nil makes one.
	HTTPClient *http.Client
}

// Provider asks one server. It implements model.Provider.
type Provider struct {
	client *http.Client
	side   transport.Side
	host   string
	url    string
	opts   Options
}

// New returns a provider, or an error when the base URL cannot be used.
func New(o Options) (*Provider, error) {
	base, err := transport.BaseURL(o.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("openai: %w", err)
	}
	base.Path = strings.TrimSuffix(base.Path, "/chat/completions")
	if base.Path == "" {
		base.Path = "/v1"
	}
	return &Provider{
		client: transport.Client(o.HTTPClient),
		side:   transport.Side{Name: "openai", Key: o.APIKey},
		host:   base.Host,
		url:    base.String() + "/chat/completions",
		opts:   o,
	}, nil
}

// Generate implements model.Provider.
func (p *Provider) Generate(ctx context.Context, req *model.Request, sink func(model.Delta)) (*model.Response, error) {
	chat, used, err := p.translate(req)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(chat)
	if err != nil {
		return nil, p.side.Refuse("the request cannot be written: %v", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	wctx, watch := transport.NewWatch(ctx, p.opts.Idle)
	defer watch.Stop()

	hreq, err := http.NewRequestWithContext(wctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return nil, p.side.Refuse("the request cannot be made: %v", err)
	}
	hreq.Header.Set("Content-Type", "application/json")
	hreq.Header.Set("Accept", "text/event-stream")
	if p.opts.APIKey != "" {
		hreq.Header.Set("Authorization", "Bearer "+p.opts.APIKey)
	}
	hresp, err := p.client.Do(hreq)
	if err != nil {
		return nil, p.fault(ctx, wctx, err)
	}
	defer func() { _ = hresp.Body.Close() }()
	hresp.Body = watch.Body(hresp.Body)
	if hresp.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(io.LimitReader(hresp.Body, maxErrorBody)) // the status says enough
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r := parseError(raw)
		r.Status, r.Header, r.ID = hresp.StatusCode, hresp.Header, hresp.Header.Get("x-request-id")
		return nil, p.side.Fault(r)
	}
	r := newReader(p.side, used, sink)
	switch kind, _, _ := mime.ParseMediaType(hresp.Header.Get("Content-Type")); kind {
	case "application/json":
		err = r.whole(hresp.Body) // a server that does not stream
	case "text/html":
		return nil, p.side.Refuse("%s answered with a web page: does the base URL speak the chat-completions API, with its /v1?", p.host)
	default:
		err = r.stream(hresp.Body)
	}
	if err != nil {
		return nil, p.fault(ctx, wctx, err)
	}
	return r.finish()
}

// fault turns what went wrong into the seam's error, or into ctx's own end.
func (p *Provider) fault(ctx, wctx context.Context, err error) error {
	var e *model.Error
	if errors.As(err, &e) {
		return e
	}
	err = transport.Ended(ctx, wctx, err)
	if ctx.Err() != nil {
		return err
	}
	return p.side.Broken(p.host, err)
}

// parseError reads the shapes in which servers describe an error: an object or a string
// under "error", or the fields at the top, with a code that is a number or a word.
func parseError(raw []byte) transport.Reply {
	type fields struct {
		Type    string `json:"type"`
		Message string `json:"message"`
		Code    any    `json:"code"`
	}
	var top struct {
		Error json.RawMessage `json:"error"`
		fields
		Detail json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(raw, &top) != nil {
		return transport.Reply{Message: strings.Join(strings.Fields(string(raw)), " ")}
	}
	f := top.fields
	if len(top.Error) > 0 {
		var text string
		if json.Unmarshal(top.Error, &text) == nil {
			f.Message = text
		} else {
			_ = json.Unmarshal(top.Error, &f) // what cannot be read stays as it was
		}
	}
	if f.Message == "" && len(top.Detail) > 0 {
		f.Message = string(top.Detail)
	}
	r := transport.Reply{Type: f.Type, Message: f.Message}
	switch c := f.Code.(type) {
	case string:
		r.Code = c
	case float64:
		r.Code = fmt.Sprintf("%.0f", c)
	}
	return r
}
