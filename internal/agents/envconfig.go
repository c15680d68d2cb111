package agents

import (
	"path"
	"reflect"
	"strings"

	"croft"
	"croft/internal/wire"
)

// Limits of an environment's configuration.
const (
	maxHosts    = 1000
	maxHostName = 255
	maxMounts   = 64
	maxPath     = 4096
	maxEnv      = 256
	maxEnvName  = 256
	maxEnvValue = 32_768
)

const scopeOrganization = "organization"

var environmentFields = []string{"name", "description", "config", "metadata", "scope", "croft"}

// parseEnvironment reads the body of a new environment.
func parseEnvironment(body []byte) (*croft.Environment, error) {
	d := wire.Parse(body)
	o := d.Root().Object(environmentFields...)
	e := &croft.Environment{Type: "environment", Scope: scopeOrganization}
	e.Name = parseName(o.Get("name"))
	e.Description = o.Get("description").TextOrNull(maxDescription)
	e.Config = readConfig(o.Get("config"), croft.EnvironmentConfig{})
	e.Metadata = wire.Metadata(o.Get("metadata"))
	readScope(o.Get("scope"))
	wire.Additions(o.Get("croft"))
	return e, d.Err()
}

func readScope(v wire.Value) {
	if !v.Given() {
		return
	}
	if v.Is("account") {
		v.Fail(`every credential of a workspace sees all its environments: accepted is "organization"`)
	}
	v.OneOf(scopeOrganization)
}

// environmentUpdate is a change of an environment, read from the body of a request.
type environmentUpdate struct {
	d *wire.Doc
	o wire.Value
}

func parseEnvironmentUpdate(body []byte) (*environmentUpdate, error) {
	d := wire.Parse(body)
	u := &environmentUpdate{d: d, o: d.Root().Object(environmentFields...)}
	readScope(u.o.Get("scope"))
	wire.Additions(u.o.Get("croft"))
	// Applied to an empty environment, the body tells its faults before the database is asked.
	_, err := u.apply(&croft.Environment{})
	return u, err
}

// apply returns the environment as it is after the change: what the body leaves out stays.
func (u *environmentUpdate) apply(old *croft.Environment) (*croft.Environment, error) {
	e := *old
	if v := u.o.Get("name"); v.Given() {
		e.Name = parseName(v)
	}
	if v := u.o.Get("description"); v.Present() {
		e.Description = v.TextOrNull(maxDescription)
	}
	if v := u.o.Get("config"); v.Given() {
		e.Config = readConfig(v, old.Config)
	}
	patch := wire.MetadataPatch(u.o.Get("metadata"))
	if err := u.d.Err(); err != nil {
		return nil, err
	}
	var err error
	e.Metadata, err = merge(old.Metadata, patch, true)
	return &e, err
}

// readConfig reads an environment's configuration over the one that it changes; old is the
// zero value for a new environment, or for one that is not known yet.
func readConfig(v wire.Value, old croft.EnvironmentConfig) croft.EnvironmentConfig {
	c := old
	if !v.Given() {
		c.Type = croft.EnvironmentCloud
		c.Networking, c.Packages = &croft.Networking{Type: "unrestricted"}, noPackages()
		return c
	}
	if !v.AnyObject() {
		return c
	}
	c.Type = v.Get("type").OneOf(croft.EnvironmentCloud, croft.EnvironmentSelfHosted)
	if old.Type != "" && c.Type != old.Type {
		v.Get("type").Fail("an environment keeps its type: accepted is %q", old.Type)
	}
	fields := append(make([]string, 0, 4), "type", "croft")
	if c.Type == croft.EnvironmentCloud {
		fields = append(fields, "networking", "packages")
	}
	o := v.Object(fields...)
	if c.Type == croft.EnvironmentCloud {
		c.Networking = readNetworking(o.Get("networking"), old.Networking)
		readPackages(o.Get("packages"))
		c.Packages = noPackages()
	}
	if x := o.Get("croft"); x.Present() {
		c.Croft = readCroft(x, old.Croft)
		if c.Type == croft.EnvironmentCloud && c.Croft != nil && reflect.ValueOf(*c.Croft).IsZero() {
			c.Croft = nil // for self_hosted its presence alone says something
		}
	}
	return c
}

func noPackages() *croft.Packages {
	none := []string{}
	return &croft.Packages{Type: "packages", Apt: none, Cargo: none, Gem: none, Go: none, Npm: none, Pip: none}
}

// readPackages checks packages, which must be empty: nothing installs them yet.
func readPackages(v wire.Value) {
	if !v.Given() {
		return
	}
	managers := []string{"apt", "cargo", "gem", "go", "npm", "pip"}
	o := v.Object(append([]string{"type"}, managers...)...)
	if t := o.Get("type"); t.Given() {
		t.OneOf("packages")
	}
	for _, m := range managers {
		if list := o.Get(m); list.Given() && list.Len(0, 1000) > 0 {
			list.NotServed("")
		}
	}
}

// readNetworking reads the outbound policy. Members that limited leaves out stay as they
// are where the policy was limited before.
func readNetworking(v wire.Value, old *croft.Networking) *croft.Networking {
	const unrestricted, limited = "unrestricted", "limited"
	if !v.Given() {
		if old != nil {
			return old
		}
		return &croft.Networking{Type: unrestricted}
	}
	if !v.AnyObject() {
		return nil
	}
	if v.Get("type").OneOf(unrestricted, limited) != limited {
		v.Object("type")
		return &croft.Networking{Type: unrestricted}
	}
	hosts, mcp, managers := []string{}, false, false
	if old != nil && old.Type == limited {
		hosts, mcp, managers = *old.AllowedHosts, *old.AllowMCPServers, *old.AllowPackageManagers
	}
	o := v.Object("type", "allowed_hosts", "allow_mcp_servers", "allow_package_managers")
	if b := o.Get("allow_mcp_servers"); b.Given() {
		mcp = b.Bool()
	}
	if b := o.Get("allow_package_managers"); b.Given() {
		managers = b.Bool()
	}
	if list := o.Get("allowed_hosts"); list.Given() {
		hosts = []string{}
		for _, h := range list.List(0, maxHosts) {
			name := h.Text(1, maxHostName)
			if !hostPattern(name) {
				h.Fail(`accepted is a hostname like "api.example.com", or "*." and one, without scheme, port or path`)
			}
			hosts = append(hosts, name)
		}
	}
	return &croft.Networking{Type: limited, AllowedHosts: &hosts, AllowMCPServers: &mcp, AllowPackageManagers: &managers}
}

// hostPattern tells whether name is a hostname or a wildcard for all below one.
func hostPattern(name string) bool {
	for _, label := range strings.Split(strings.TrimPrefix(name, "*."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
				return false
			}
		}
	}
	return true
}

// readCroft reads Croft's own part of the configuration over the one that it changes: what
// is left out stays, null goes back to the worker's default. nil for none.
func readCroft(v wire.Value, old *croft.EnvironmentCroft) *croft.EnvironmentCroft {
	if !v.Given() {
		return nil
	}
	var c croft.EnvironmentCroft
	if old != nil {
		c = *old
	}
	later := []string{"image", "disk_mb", "user", "workdir", "setup", "networking", "packages"}
	o := v.Object(append([]string{"driver", "cpus", "memory_mb", "pids", "timeout_s", "idle_timeout_s", "mounts", "env", "unenforced"}, later...)...)
	for _, name := range later {
		if f := o.Get(name); !f.Empty() {
			f.NotServed("")
		}
	}
	if f := o.Get("driver"); f.Present() {
		c.Driver = ""
		if f.Given() {
			c.Driver = f.OneOf("local", "none")
		}
	}
	if f := o.Get("cpus"); f.Present() {
		c.CPUs = 0
		if f.Given() {
			c.CPUs = f.Float(0.01, 1024)
		}
	}
	for _, n := range []struct {
		name string
		to   *int
		low  int64
		high int64
	}{
		{"memory_mb", &c.MemoryMB, 16, 1 << 24},
		{"pids", &c.Pids, 16, 1 << 22},
		{"timeout_s", &c.TimeoutS, 1, 86_400},
		{"idle_timeout_s", &c.IdleTimeoutS, 1, 30 * 86_400},
	} {
		if f := o.Get(n.name); f.Present() {
			*n.to = 0
			if f.Given() {
				*n.to = int(f.Int(n.low, n.high))
			}
		}
	}
	if f := o.Get("mounts"); f.Present() {
		c.Mounts = readMounts(f)
	}
	if f := o.Get("env"); f.Present() {
		c.Env = readEnv(f)
	}
	if f := o.Get("unenforced"); f.Given() {
		f.Len(0, 100) // of an answer that is sent back: it is told, not asked for
	}
	c.Unenforced = nil
	return &c
}

func readMounts(v wire.Value) []croft.Mount {
	if !v.Given() {
		return nil
	}
	var mounts []croft.Mount
	for _, e := range v.List(0, maxMounts) {
		o := e.Object("host", "path", "read_only")
		m := croft.Mount{Host: absolute(o.Get("host")), Path: absolute(o.Get("path"))}
		if r := o.Get("read_only"); r.Given() {
			m.ReadOnly = r.Bool()
		}
		if m.Path == "/" {
			o.Get("path").Fail("the sandbox's root cannot be mounted over: accepted is a path below it")
		}
		for _, other := range mounts {
			if other.Path == m.Path {
				o.Get("path").Fail("another mount has this path: accepted is a path that is used once")
			}
		}
		mounts = append(mounts, m)
	}
	return mounts
}

func absolute(v wire.Value) string {
	p := v.Text(1, maxPath)
	if !path.IsAbs(p) || path.Clean(p) != p {
		v.Fail("accepted is an absolute path without . or .. and without a slash at its end")
	}
	return p
}

func readEnv(v wire.Value) map[string]string {
	if !v.Given() {
		return nil
	}
	var env map[string]string
	for name, e := range v.Members(maxEnv) {
		if !variable(name) {
			e.Fail("accepted is a name of at most %d letters of ASCII, digits and underscores that does not begin with a digit", maxEnvName)
		}
		if env == nil {
			env = map[string]string{}
		}
		env[name] = e.Text(0, maxEnvValue)
	}
	return env
}

func variable(name string) bool {
	for i, r := range name {
		if r != '_' && (r < '0' || r > '9' || i == 0) && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return false
		}
	}
	return name != "" && len(name) <= maxEnvName
}

// tellUnenforced notes what this version accepts and does not enforce: no sandbox has a
// network, so that a policy which would let anything through is not what the agent gets.
func tellUnenforced(e *croft.Environment) {
	n := e.Config.Networking
	if n == nil || (n.Type == "limited" && len(*n.AllowedHosts) == 0 && !*n.AllowMCPServers && !*n.AllowPackageManagers) {
		return
	}
	c := croft.EnvironmentCroft{}
	if e.Config.Croft != nil {
		c = *e.Config.Croft
	}
	c.Unenforced = []string{"networking"}
	e.Config.Croft = &c
}
