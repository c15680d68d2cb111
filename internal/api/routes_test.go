package api

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"croft/internal/store"
)

// sdkRoute is a request that the official Go SDK can make: "GET /v1/agents/%s".
type sdkRoute struct{ method, path string }

// sdkRoutes reads the SDK's sources: every function that sets path and makes a request.
func sdkRoutes(t *testing.T) []sdkRoute {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/anthropics/anthropic-sdk-go").Output()
	if err != nil {
		t.Fatalf("finding the SDK's sources: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the SDK's sources: %v, %v", files, err)
	}
	found := map[sdkRoute]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Body != nil {
				readRequests(fn.Body, found)
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b sdkRoute) int { return strings.Compare(a.path+a.method, b.path+b.method) })
}

// readRequests collects the requests of a function's body.
func readRequests(body *ast.BlockStmt, found map[sdkRoute]bool) {
	path := ""
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if name, ok := n.Lhs[0].(*ast.Ident); ok && name.Name == "path" {
				path = firstString(n.Rhs[0])
			}
		case *ast.CallExpr:
			fun, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || (fun.Sel.Name != "ExecuteNewRequest" && fun.Sel.Name != "NewRequestConfig") || len(n.Args) < 3 {
				return true
			}
			method, ok := n.Args[1].(*ast.SelectorExpr)
			to := path
			if lit, isLit := n.Args[2].(*ast.BasicLit); isLit {
				to = firstString(lit)
			}
			if ok && to != "" {
				to, _, _ = strings.Cut(to, "?")
				found[sdkRoute{strings.ToUpper(strings.TrimPrefix(method.Sel.Name, "Method")), "/" + to}] = true
			}
		}
		return true
	})
}

// firstString is the literal in an expression: of fmt.Sprintf, its format.
func firstString(e ast.Expr) string {
	text := ""
	ast.Inspect(e, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && text == "" {
			text, _ = strconv.Unquote(lit.Value)
		}
		return true
	})
	return text
}

// served are the SDK's routes that this version serves. A route leaves the 501s by
// entering this list.
const served = `
POST /v1/agents
GET /v1/agents
GET /v1/agents/%s
POST /v1/agents/%s
POST /v1/agents/%s/archive
GET /v1/agents/%s/versions
POST /v1/environments
GET /v1/environments
GET /v1/environments/%s
POST /v1/environments/%s
DELETE /v1/environments/%s
POST /v1/environments/%s/archive
GET /v1/environments/%s/work/%s
POST /v1/environments/%s/work/%s/ack
POST /v1/environments/%s/work/%s/heartbeat
POST /v1/environments/%s/work/%s/stop
POST /v1/sessions
GET /v1/sessions
GET /v1/sessions/%s
POST /v1/sessions/%s
DELETE /v1/sessions/%s
POST /v1/sessions/%s/archive
POST /v1/sessions/%s/events
GET /v1/sessions/%s/events
GET /v1/sessions/%s/events/stream
GET /v1/sessions/%s/threads
GET /v1/sessions/%s/threads/%s
GET /v1/sessions/%s/threads/%s/events
GET /v1/sessions/%s/threads/%s/stream
GET /v1/models
GET /v1/models/%s
`

// outside are nouns of the SDK that are none of this API's.
var outside = regexp.MustCompile(`^/v1/(organizations/|complete$)`)

// Each route of the SDK is served, or says that it is not; none answers as if it had
// worked, and none is unknown.
func TestEveryRouteOfTheSDK(t *testing.T) {
	s := serve(t, new(store.DB), nil)
	routes := sdkRoutes(t)
	if len(routes) < 100 {
		t.Fatalf("only %d routes were found in the SDK: it is written otherwise than this test reads it", len(routes))
	}
	want := map[string]bool{}
	for line := range strings.Lines(served) {
		if line = strings.TrimSpace(line); line != "" {
			want[line] = true
		}
	}
	lines := map[string]*route{}
	table := s.api.routes()
	for i := range table {
		method, pattern, _ := strings.Cut(table[i].path, " ")
		lines[method+" "+strings.ReplaceAll(shapeOf(pattern), "{}", "%s")] = &table[i]
	}
	all := strings.Join([]string{managed, memory, tunnels, dreaming, profiles}, ",")
	inSDK := map[string]bool{}
	for _, r := range routes {
		name := r.method + " " + r.path
		inSDK[name] = true
		line := lines[name]
		if outside.MatchString(r.path) {
			if line != nil {
				t.Errorf("%s is in the table, and none of this API's nouns", name)
			}
			if got := s.do(r.method, strings.ReplaceAll(r.path, "%s", "x"), "", "anthropic-beta", all); got.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %d", name, got.StatusCode)
			}
			continue
		}
		switch {
		case line == nil:
			t.Errorf("%s is missing in the table", name)
			continue
		case want[name] && line.serve == nil:
			t.Errorf("%s should be served", name)
		case !want[name] && line.serve != nil:
			t.Errorf("%s is served: enter it into the test's list", name)
		}
		if want[name] {
			continue
		}
		path := r.path
		for i := 1; strings.Contains(path, "%s"); i++ {
			path = strings.Replace(path, "%s", fmt.Sprintf("id_%d", i), 1)
		}
		got := s.do(r.method, path+"?beta=true", "", "anthropic-beta", all)
		typ, message := got.envelope()
		if got.StatusCode != http.StatusNotImplemented || typ != "api_error" || message != r.method+" "+path+" is not served by this version of Croft" {
			t.Errorf("%s: %d %s: %s", name, got.StatusCode, typ, message)
		}
		if got.Header.Get("x-should-retry") != "false" {
			t.Errorf("%s: the official clients would try it again", name)
		}
		if got := s.do(r.method, path, "", "x-api-key", ""); got.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s without a credential: %d", name, got.StatusCode)
		}
		if line.beta != none {
			if got := s.do(r.method, path, "", "anthropic-beta", ""); got.StatusCode != http.StatusNotFound {
				t.Errorf("%s without its beta: %d", name, got.StatusCode)
			}
		}
	}
	for name := range want {
		if !inSDK[name] {
			t.Errorf("%s is no route of the SDK", name)
		}
	}
}

// The SDK writes the beta that a route demands beside its path: the table says the same.
func TestBetasOfTheSDK(t *testing.T) {
	for _, r := range (&API{}).routes() {
		_, pattern, _ := strings.Cut(r.path, " ")
		want := none
		switch noun := strings.Split(pattern, "/"); {
		case len(noun) < 3 || strings.Contains(pattern, "/croft/") || strings.HasSuffix(pattern, "/fork") || strings.Contains(pattern, "/keys"):
		case slices.Contains([]string{"agents", "environments", "sessions", "vaults", "deployments", "deployment_runs"}, noun[2]):
			want = managed
		case noun[2] == "memory_stores":
			want = memory
		case noun[2] == "tunnels":
			want = tunnels
		case noun[2] == "dreams":
			want = dreaming
		case noun[2] == "user_profiles":
			want = profiles
		}
		if r.beta != want {
			t.Errorf("%s demands %q, want %q", r.path, r.beta, want)
		}
	}
}

// A credential that is not the workspace's own reaches nothing but what the contract names.
func TestScopes(t *testing.T) {
	got := map[string][]string{}
	for _, r := range (&API{}).routes() {
		for _, kind := range kinds {
			if r.who&kind.bit != 0 && kind.bit != byKey && r.serve != nil {
				got[kind.name] = append(got[kind.name], r.path)
			}
		}
		if r.who == anyone && r.path != "GET /healthz" && r.path != "GET /readyz" {
			t.Errorf("%s asks for no credential", r.path)
		}
	}
	events := []string{"GET /v1/sessions/{session_id}", "POST /v1/sessions/{session_id}/events", "GET /v1/sessions/{session_id}/events", "GET /v1/sessions/{session_id}/events/stream"}
	const item = "/v1/environments/{environment_id}/work/{work_id}"
	lease := []string{"GET " + item, "POST " + item + "/heartbeat", "POST " + item + "/stop"}
	claim := []string{"GET " + item, "POST " + item + "/ack", "POST " + item + "/heartbeat", "POST " + item + "/stop", "GET /v1/croft/offers"}
	for name, want := range map[string][]string{
		"a session token":    slices.Concat(events, lease, []string{"GET " + item + "/croft/spec"}),
		"an environment key": slices.Concat(events, claim),
		"a fleet key":        claim,
	} {
		slices.Sort(want)
		slices.Sort(got[name])
		if !slices.Equal(want, got[name]) {
			t.Errorf("%s reaches %v, want %v", name, got[name], want)
		}
	}
}
