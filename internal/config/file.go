package config

import (
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"croft/internal/model/registry"
)

// parse reads a configuration file's text. Errors are *Error whose Where is ":LINE" or "".
func (c *Config) parse(text []byte, dir string) error {
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil // an empty file
	}
	if err != nil {
		return syntax(err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		if err != nil {
			return syntax(err)
		}
		return at(&more, "", "a second document begins here: one is accepted")
	}
	if len(doc.Content) != 1 {
		return nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil // comments alone
	}
	accepted := []string{"models"}
	for i := range settings {
		if !settings[i].noFile {
			accepted = append(accepted, settings[i].name)
		}
	}
	return fields(root, "", accepted, func(key string, path string, n *yaml.Node) error {
		if key == "models" {
			return c.parseModels(n)
		}
		s := find(key)
		var values []string
		if s.list && n.Kind == yaml.SequenceNode {
			for i, item := range n.Content {
				v, err := scalar(item, fmt.Sprintf("%s.%d", path, i))
				if err != nil {
					return err
				}
				values = append(values, v)
			}
		} else {
			v, err := scalar(n, path)
			if err != nil {
				return err
			}
			values = []string{v}
		}
		if err := c.assign(s, values, dir); err != nil {
			return at(n, path, err.Error())
		}
		return nil
	}, func() error {
		for i := range c.Models {
			m := &c.Models[i]
			if m.Path == "" {
				continue
			}
			abs, err := absolute(m.Path, dir)
			if err != nil {
				return &Error{Field: fmt.Sprintf("models.%d.path", i), Message: err.Error(), Cause: err}
			}
			m.Path = abs
		}
		return nil
	})
}

// providers are the kinds of models that this version serves.
var providers = []string{registry.Anthropic, registry.OpenAI, registry.Replay}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (c *Config) parseModels(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return at(n, "models", "accepted is a list of models, each with an id")
	}
	for i, item := range n.Content {
		m, err := parseModel(resolve(item), fmt.Sprintf("models.%d", i))
		if err != nil {
			return err
		}
		for j := range c.Models {
			if c.Models[j].ID == m.ID {
				return at(item, fmt.Sprintf("models.%d.id", i), fmt.Sprintf("%q is the id of models.%d already", m.ID, j))
			}
		}
		c.Models = append(c.Models, *m)
	}
	return nil
}

// modelKeys are the keys of an entry of models.
var modelKeys = []string{"id", "provider", "base_url", "api_key_env", "context", "price", "path", "max_tokens", "file_parts", "idle_timeout_s"}

func parseModel(item *yaml.Node, path string) (*registry.Entry, error) {
	m := &registry.Entry{Provider: registry.Anthropic}
	err := fields(item, path, modelKeys, func(key, path string, n *yaml.Node) error {
		if key == "price" {
			return parsePrice(m, n, path)
		}
		v, err := scalar(n, path)
		if err != nil {
			return err
		}
		if v == "" {
			return at(n, path, "may not be empty: leave the key out instead")
		}
		switch key {
		case "id":
			m.ID = v
			if len(v) > 256 || strings.TrimSpace(v) != v {
				err = errors.New("accepted are 1 to 256 characters without spaces around them")
			}
			if strings.HasPrefix(v, registry.ReplayPrefix) {
				err = errors.New("an id may not begin with " + registry.ReplayPrefix + ", which names a cassette by its path")
			}
		case "provider":
			if v == registry.Bedrock || v == registry.Vertex {
				err = fmt.Errorf("%s is not served by this version of Croft: accepted are %s", v, strings.Join(providers, ", "))
			} else {
				err = oneOf(&m.Provider, v, providers...)
			}
		case "base_url":
			m.BaseURL, err = httpURL(v)
		case "api_key_env":
			if m.APIKeyEnv = v; !variableName.MatchString(v) {
				// Somebody who wrote the key itself here must not find it in a log.
				err = errors.New("accepted is the name of a variable that holds the key, not the key itself")
			}
		case "context":
			err = count(&m.Context, v)
		case "max_tokens":
			err = count(&m.MaxTokens, v)
		case "idle_timeout_s":
			err = count(&m.IdleTimeoutS, v)
		case "file_parts":
			var word string
			err = oneOf(&word, v, "true", "false")
			m.FileParts = word == "true"
		case "path":
			m.Path = v
		}
		if err != nil {
			return at(n, path, err.Error())
		}
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	switch {
	case m.ID == "":
		return nil, at(item, path+".id", "is missing: the name that agents use")
	case m.Provider == registry.OpenAI && m.BaseURL == "":
		return nil, at(item, path+".base_url", "is missing: the address of the server, as in http://127.0.0.1:11434/v1")
	case m.Provider == registry.Replay && m.Path == "":
		return nil, at(item, path+".path", "is missing: the path of the cassette")
	case m.Provider != registry.Replay && m.Path != "":
		return nil, at(item, path+".path", "is for provider replay alone")
	case m.Provider == registry.Replay && (m.BaseURL != "" || m.APIKeyEnv != ""):
		return nil, at(item, path, "base_url and api_key_env are not for provider replay, which asks nobody")
	case m.Provider != registry.OpenAI && m.FileParts:
		return nil, at(item, path+".file_parts", "is for provider openai alone")
	}
	return m, nil
}

// count reads a whole number above zero.
func count(to *int64, v string) error {
	var n int
	err := number(&n, v, 1, math.MaxInt32)
	*to = int64(n)
	return err
}

func parsePrice(m *registry.Entry, n *yaml.Node, path string) error {
	p := &registry.Price{}
	seen := map[string]bool{}
	err := fields(n, path, []string{"input", "output", "cache_read", "cache_write"}, func(key, path string, n *yaml.Node) error {
		v, err := scalar(n, path)
		if err != nil {
			return err
		}
		f, err := strconv.ParseFloat(v, 64)
		if err != nil || f < 0 || f > 1e6 || math.IsNaN(f) {
			return at(n, path, fmt.Sprintf("%q is not accepted: accepted is a number of USD for a million tokens, from 0 to 1000000", v))
		}
		seen[key] = true
		switch key {
		case "input":
			p.Input = f
		case "output":
			p.Output = f
		case "cache_read":
			p.CacheRead = &f
		case "cache_write":
			p.CacheWrite = &f
		}
		return nil
	}, nil)
	if err != nil {
		return err
	}
	for _, k := range []string{"input", "output"} {
		if !seen[k] {
			return at(n, path+"."+k, "is missing: USD for a million tokens")
		}
	}
	m.Price = p
	return nil
}

// fields calls fn with each key of a mapping; a key that is not accepted, or comes twice,
// is refused. done, when not nil, is called at the end.
func fields(n *yaml.Node, path string, accepted []string, fn func(key, path string, n *yaml.Node) error, done func() error) error {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		return at(n, path, "accepted is a mapping with the keys "+strings.Join(accepted, ", "))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], resolve(n.Content[i+1])
		key := k.Value
		sub := key
		if path != "" {
			sub = path + "." + key
		}
		switch {
		case k.Kind != yaml.ScalarNode || !slices.Contains(accepted, key):
			return at(k, "", fmt.Sprintf("unknown key %q%s: accepted are %s", sub, meant(key, accepted), strings.Join(accepted, ", ")))
		case seen[key]:
			return at(k, "", fmt.Sprintf("key %q stands here for the second time", sub))
		}
		seen[key] = true
		if err := fn(key, sub, v); err != nil {
			return err
		}
	}
	if done != nil {
		return done()
	}
	return nil
}

// meant guesses which key a wrong one was meant to be.
func meant(key string, accepted []string) string {
	best, least := "", 3
	for _, a := range accepted {
		if d := distance(strings.ReplaceAll(key, "-", "_"), a); d < least {
			best, least = a, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (is %q meant?)", best)
}

// distance counts the letters to change, add or take away between two short words.
func distance(a, b string) int {
	if len(a) > 40 {
		return 40
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		last := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := last
			if a[i-1] != b[j-1] {
				cost++
			}
			last = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

// scalar reads a plain value as text.
func scalar(n *yaml.Node, path string) (string, error) {
	n = resolve(n)
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return "", at(n, path, "accepted is one plain value")
	}
	return n.Value, nil
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

func at(n *yaml.Node, path, message string) *Error {
	return &Error{Where: ":" + strconv.Itoa(n.Line), Field: path, Message: message}
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntax words the decoder's error.
func syntax(err error) *Error {
	e := &Error{Message: "is no YAML: " + err.Error(), Cause: err}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		e.Message = "is no YAML: " + m[2]
		if m[1] != "" {
			e.Where = ":" + m[1]
		}
	}
	return e
}
