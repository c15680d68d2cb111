package agents

import (
	"encoding/json"

	"croft"
	"croft/internal/wire"
)

// Limits of an agent's texts, in characters.
const (
	maxName        = 256
	maxDescription = 10_000
	maxSystem      = 100_000
)

// defaultEffort is what models do that are not told otherwise.
const defaultEffort = "high"

var serviceAccount = json.RawMessage(`{"type":"service_account"}`)

// modelInput is a model as a request names it. Its effort is nil where the
// request leaves it out.
type modelInput struct {
	croft.ModelConfig
	at wire.Value // where the id stands
}

// parseModel reads a model: an id, or an object.
func parseModel(v wire.Value) modelInput {
	const maxID = 256
	if v.IsText() {
		return modelInput{croft.ModelConfig{ID: v.Text(1, maxID), Speed: "standard"}, v}
	}
	if !v.Given() {
		switch {
		case v.Present():
			v.Fail("agent_model_required: an agent needs a model; accepted is a model's id or an object with an id")
		default:
			v.Fail("is required: accepted is a model's id or an object with an id")
		}
		return modelInput{at: v}
	}
	if !v.IsObject() {
		v.Fail("accepted is a model's id or an object with an id")
		return modelInput{at: v}
	}
	o := v.Object("id", "effort", "speed", "inference_geo")
	id := o.Get("id")
	m := modelInput{croft.ModelConfig{ID: id.Text(1, maxID), Speed: "standard"}, id}
	if e := o.Get("effort"); e.Given() {
		if e.IsObject() {
			e = e.Object("type").Get("type")
		}
		m.Effort = &croft.Typed{Type: e.OneOf("low", "medium", "high", "xhigh", "max")}
	}
	if s := o.Get("speed"); s.Given() {
		m.Speed = s.OneOf("standard", "fast")
	}
	if g := o.Get("inference_geo"); g.Given() {
		geo := g.OneOf("us", "global")
		m.InferenceGeo = &geo
	}
	return m
}

// parseName reads the name of an agent or an environment.
func parseName(v wire.Value) string {
	name := v.Text(1, maxName)
	if v.Blank() {
		v.Fail("accepted is a name that holds more than white space")
	}
	return name
}

// orNull is text, where "" stands for none.
func orNull(s *string) *string {
	if s == nil || *s == "" {
		return nil
	}
	return s
}

// agentFields are the members of an agent's body; an update may also hold version.
var agentFields = []string{"name", "model", "description", "system", "tools", "mcp_servers", "skills",
	"metadata", "multiagent", "execution_identity", "croft"}

// parseAgent reads the body of a new agent.
func (s *Store) parseAgent(body []byte) (*croft.Agent, error) {
	d := wire.Parse(body)
	o := d.Root().Object(agentFields...)
	a := &croft.Agent{Type: "agent"}
	a.Name = parseName(o.Get("name"))
	m := parseModel(o.Get("model"))
	a.Model = m.ModelConfig
	if a.Model.Effort == nil {
		a.Model.Effort = &croft.Typed{Type: defaultEffort}
	}
	a.Metadata = wire.Metadata(o.Get("metadata"))
	readOptional(o, a, true)
	s.checkModel(m)
	return a, d.Err()
}

// readOptional reads what an agent may have, into a. Absent members are set to their
// defaults when the agent is new, and left alone otherwise.
func readOptional(o wire.Value, a *croft.Agent, fresh bool) {
	if v := o.Get("description"); fresh || v.Present() {
		a.Description = orNull(v.TextOrNull(maxDescription))
	}
	if v := o.Get("system"); fresh || v.Present() {
		a.System = orNull(v.TextOrNull(maxSystem))
	}
	if v := o.Get("tools"); fresh || v.Present() {
		a.Tools = ParseTools(v)
	}
	if v := o.Get("mcp_servers"); fresh || v.Present() {
		a.MCPServers = ParseMCPServers(v)
	}
	if v := o.Get("skills"); fresh || v.Present() {
		a.Skills = parseSkills(v)
	}
	if v := o.Get("multiagent"); fresh || v.Present() {
		if v.Given() {
			v.NotServed("")
		}
		a.Multiagent = json.RawMessage("null")
	}
	if v := o.Get("execution_identity"); fresh || v.Present() {
		if v.Given() {
			if v.Get("type").Is("aws_role") {
				v.NotServed("aws_role")
			}
			v.Object("type").Get("type").OneOf("service_account")
		}
		a.ExecutionIdentity = serviceAccount
	}
	wire.Additions(o.Get("croft"))
}

// checkModel asks whether the model is known.
func (s *Store) checkModel(m modelInput) {
	if s.models == nil || m.at.Err() != nil {
		return
	}
	if err := s.models.Check(m.ID); err != nil {
		m.at.FailWith(err)
	}
}

// update is a change of an agent, read from the body of a request.
type update struct {
	d       *wire.Doc
	version int64 // the one that the client has seen; 0: whichever
	o       wire.Value
}

// parseUpdate reads a change, as far as it can be read without the agent.
func (s *Store) parseUpdate(body []byte) (*update, error) {
	d := wire.Parse(body)
	u := &update{d: d, o: d.Root().Object(append([]string{"version"}, agentFields...)...)}
	if v := u.o.Get("version"); v.Given() {
		u.version = v.Int(1, 1<<53)
	}
	if err := d.Err(); err != nil {
		return nil, err
	}
	if v := u.o.Get("model"); v.Present() {
		s.checkModel(parseModel(v))
	}
	// Applied to an empty agent, the body tells its faults before the database is asked.
	_, err := u.apply(&croft.Agent{})
	return u, err
}

// apply returns the agent as it is after the change.
func (u *update) apply(old *croft.Agent) (*croft.Agent, error) {
	a := *old
	if v := u.o.Get("name"); v.Present() {
		a.Name = parseName(v)
	}
	if v := u.o.Get("model"); v.Present() {
		a.Model = parseModel(v).ModelConfig
		switch {
		case a.Model.Effort != nil:
		case a.Model.ID == old.Model.ID && old.Model.Effort != nil:
			a.Model.Effort = old.Model.Effort
		default:
			a.Model.Effort = &croft.Typed{Type: defaultEffort}
		}
	}
	readOptional(u.o, &a, false)
	patch := wire.MetadataPatch(u.o.Get("metadata"))
	if err := u.d.Err(); err != nil {
		return nil, err
	}
	var err error
	a.Metadata, err = merge(old.Metadata, patch, false)
	return &a, err
}

// merge returns metadata with a patch applied: nil deletes a key, and so does "" where
// blankDeletes says so.
func merge(old map[string]string, patch map[string]*string, blankDeletes bool) (map[string]string, error) {
	out := make(map[string]string, len(old)+len(patch))
	for k, s := range old {
		out[k] = s
	}
	for k, s := range patch {
		if s == nil || (blankDeletes && *s == "") {
			delete(out, k)
		} else {
			out[k] = *s
		}
	}
	if len(out) > croft.MaxMetadata {
		return nil, croft.Invalid("metadata", "accepted are at most %d pairs; there would be %d", croft.MaxMetadata, len(out))
	}
	return out, nil
}
