package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	maxNodes = 1_000_000 // values of a cassette, aliases counted as often as they are used
	maxDepth = 100
)

// walker reads YAML nodes, refuses unknown and repeated keys, and remembers where it is, so
// that every error names the file and the line. The library's own decoding into structs
// knows neither for types that decode themselves.
type walker struct {
	name  string
	nodes int
}

// lineError is an error at a line of the file.
type lineError struct {
	name string
	line int
	text string
}

func (e *lineError) Error() string { return fmt.Sprintf("%s:%d: %s", e.name, e.line, e.text) }

func (w *walker) errorf(n *yaml.Node, format string, args ...any) error {
	return &lineError{w.name, n.Line, fmt.Sprintf(format, args...)}
}

// resolve follows an alias and counts the value.
func (w *walker) resolve(n *yaml.Node) (*yaml.Node, error) {
	if w.nodes++; w.nodes > maxNodes {
		return nil, w.errorf(n, "the cassette holds more than %d values", maxNodes)
	}
	if n.Kind == yaml.AliasNode {
		if n.Alias == nil || n.Alias.Kind == yaml.AliasNode {
			return nil, w.errorf(n, "an alias of nothing")
		}
		return n.Alias, nil
	}
	return n, nil
}

// fields reads a mapping; each key must have a reader.
func (w *walker) fields(n *yaml.Node, what string, readers map[string]func(*yaml.Node) error) error {
	n, err := w.resolve(n)
	if err != nil {
		return err
	}
	if n.Kind != yaml.MappingNode {
		return w.errorf(n, "%s must be an object, not %s", what, kindOf(n))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, err := w.key(n.Content[i])
		if err != nil {
			return err
		}
		if seen[key] {
			return w.errorf(n.Content[i], "%s: the key %q comes twice", what, key)
		}
		seen[key] = true
		r := readers[key]
		if r == nil {
			return w.errorf(n.Content[i], "%s: unknown key %q; known are %s", what, key, known(readers))
		}
		if err := r(n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) key(n *yaml.Node) (string, error) {
	n, err := w.resolve(n)
	if err != nil {
		return "", err
	}
	if n.Kind != yaml.ScalarNode {
		return "", w.errorf(n, "a key must be a word")
	}
	return n.Value, nil
}

// items reads a sequence.
func (w *walker) items(n *yaml.Node, what string, read func(*yaml.Node) error) error {
	n, err := w.resolve(n)
	if err != nil {
		return err
	}
	if n.Kind != yaml.SequenceNode {
		return w.errorf(n, "%s must be a list, not %s", what, kindOf(n))
	}
	for _, item := range n.Content {
		if err := read(item); err != nil {
			return err
		}
	}
	return nil
}

// str reads a scalar as text, whatever it looks like.
func (w *walker) str(dst *string, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		n, err := w.resolve(n)
		if err != nil {
			return err
		}
		if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" || n.ShortTag() == "!!binary" {
			return w.errorf(n, "%s must be text, not %s", what, kindOf(n))
		}
		*dst = n.Value
		return nil
	}
}

func (w *walker) boolean(dst *bool, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		n, err := w.resolve(n)
		if err != nil {
			return err
		}
		switch {
		case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" && strings.EqualFold(n.Value, "true"):
			*dst = true
		case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" && strings.EqualFold(n.Value, "false"):
			*dst = false
		default:
			return w.errorf(n, "%s must be true or false", what)
		}
		return nil
	}
}

// integer reads a whole number between 0 and limit.
func (w *walker) integer(dst *int64, limit int64, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		n, err := w.resolve(n)
		if err != nil {
			return err
		}
		v, perr := strconv.ParseInt(n.Value, 10, 64)
		if n.Kind != yaml.ScalarNode || perr != nil || v < 0 || v > limit {
			return w.errorf(n, "%s must be a whole number between 0 and %d", what, limit)
		}
		*dst = v
		return nil
	}
}

// duration reads 250ms, 2s, or a number of seconds.
func (w *walker) duration(dst *time.Duration, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		n, err := w.resolve(n)
		if err != nil {
			return err
		}
		d, perr := time.ParseDuration(n.Value)
		if s, serr := strconv.ParseFloat(n.Value, 64); serr == nil && s >= 0 && s <= 1e6 {
			d, perr = time.Duration(s*float64(time.Second)), nil
		}
		if n.Kind != yaml.ScalarNode || perr != nil || d < 0 {
			return w.errorf(n, "%s must be a duration such as 250ms or 2s", what)
		}
		*dst = d
		return nil
	}
}

// json writes the node as JSON, with the order of its keys.
func (w *walker) json(n *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	if err := w.writeJSON(&b, n, 0); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (w *walker) writeJSON(b *bytes.Buffer, n *yaml.Node, depth int) error {
	n, err := w.resolve(n)
	if err != nil {
		return err
	}
	if depth > maxDepth {
		return w.errorf(n, "values nest deeper than %d", maxDepth)
	}
	switch n.Kind {
	case yaml.MappingNode:
		b.WriteByte('{')
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, err := w.key(n.Content[i])
			if err != nil {
				return err
			}
			if n.Content[i].ShortTag() == "!!merge" {
				return w.errorf(n.Content[i], "merge keys (<<) are not known here")
			}
			if seen[key] {
				return w.errorf(n.Content[i], "the key %q comes twice", key)
			}
			seen[key] = true
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeJSONString(b, key); err != nil {
				return w.errorf(n.Content[i], "%v", err)
			}
			b.WriteByte(':')
			if err := w.writeJSON(b, n.Content[i+1], depth+1); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := w.writeJSON(b, item, depth+1); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	}
	if err := writeJSONScalar(b, n); err != nil {
		return w.errorf(n, "%v", err)
	}
	return nil
}

func writeJSONScalar(b *bytes.Buffer, n *yaml.Node) error {
	switch n.ShortTag() {
	case "!!null":
		b.WriteString("null")
		return nil
	case "!!bool":
		b.WriteString(strings.ToLower(n.Value))
		return nil
	case "!!int", "!!float":
		if json.Valid([]byte(n.Value)) {
			b.WriteString(n.Value)
			return nil
		}
		if v, ok := new(big.Int).SetString(strings.ReplaceAll(n.Value, "_", ""), 0); ok {
			b.WriteString(v.String())
			return nil
		}
		var f float64
		if err := n.Decode(&f); err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return fmt.Errorf("%s is no number that JSON knows", n.Value)
		}
		b.WriteString(strconv.FormatFloat(f, 'g', -1, 64))
		return nil
	case "!!binary":
		return errors.New("binary values are not known here")
	default: // dates and the like are text
		return writeJSONString(b, n.Value)
	}
}

func writeJSONString(b *bytes.Buffer, s string) error {
	raw, err := marshal(s)
	if err != nil {
		return err
	}
	b.Write(raw)
	return nil
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!null":
			return "nothing"
		case "!!str":
			return "text"
		case "!!binary":
			return "binary data"
		}
		return n.Value
	}
	return "nothing"
}
