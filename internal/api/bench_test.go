package api

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"croft/internal/store"
)

// BenchmarkRequest measures what the surface itself adds to a request: the rooms answer at
// once.
func BenchmarkRequest(b *testing.B) {
	rooms := &fakeRooms{}
	a, err := New(Options{DB: new(store.DB), Access: principals(), Agents: fakeAgents{}, Environments: fakeEnvironments{}, Sessions: fakeSessions{fakeRooms: rooms},
		Work: fakeWork{}, Models: fakeModels{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Shutdown(b.Context())
	const body = `{"events":[{"type":"user.message","content":[{"type":"text","text":"hi"}]}]}`
	for name, path := range map[string]string{"get": "GET /v1/sessions/" + sessionID, "send": "POST /v1/sessions/" + sessionID + "/events?beta=true"} {
		method, path, _ := strings.Cut(path, " ")
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(method, path, strings.NewReader(body))
				r.Header = http.Header{"X-Api-Key": {apiKey}, "Anthropic-Beta": {managed}}
				w := httptest.NewRecorder()
				a.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
				_, _ = io.Copy(io.Discard, w.Body)
			}
		})
	}
}
