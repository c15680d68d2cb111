package hand

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// pattern is a glob pattern: its segments, in each of the forms that its braces expand to.
type pattern [][]string

// Limits of a pattern, against ones that cost without end.
const (
	maxPattern  = 4 << 10 // bytes
	maxBraces   = 1 << 10 // forms
	maxSegments = 256
)

// parsePattern reads a slash-separated pattern: "**" for any number of segments, and in a
// segment *, ?, [a-z] and \x as path.Match has them; {a,b} stands for either, anywhere.
func parsePattern(text string) (pattern, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("the pattern has %d bytes, at most %d are allowed", len(text), maxPattern)
	}
	forms, err := expand(text, maxBraces)
	if err != nil {
		return nil, err
	}
	var p pattern
	for _, form := range forms {
		segments := strings.Split(form, "/")
		if len(segments) > maxSegments {
			return nil, fmt.Errorf("the pattern has %d segments, at most %d are allowed", len(segments), maxSegments)
		}
		for _, seg := range segments {
			if seg == ".." {
				return nil, errors.New(`".." may only stand at the beginning of the pattern`)
			}
			if _, err := path.Match(seg, ""); err != nil {
				return nil, fmt.Errorf("the pattern is malformed in %q", seg)
			}
		}
		p = append(p, segments)
	}
	return p, nil
}

// match tells whether the slash-separated name matches in any form.
func (p pattern) match(name string) bool {
	parts := strings.Split(name, "/")
	for _, segments := range p {
		if matchSegments(segments, parts) {
			return true
		}
	}
	return false
}

// matchRoot tells whether the folder that the search begins in matches by itself.
func (p pattern) matchRoot() bool {
	return slices.ContainsFunc(p, func(segments []string) bool { return matchSegments(segments, nil) })
}

// matchSegments matches segment by segment. On a mismatch it goes back to the last "**"
// and lets that take one part more: an earlier one could not do better, because whatever it
// left to the later one, the later one may take as well.
func matchSegments(segments, parts []string) bool {
	s, n := 0, 0
	star, starAt := -1, 0 // the last "**", and the first part that it does not take
	for {
		switch {
		case s < len(segments) && segments[s] == "**":
			star, starAt = s, n
			s++
			continue
		case s == len(segments) && n == len(parts):
			return true
		case s < len(segments) && n < len(parts):
			if ok, _ := path.Match(segments[s], parts[n]); ok {
				s++
				n++
				continue
			}
		}
		if star < 0 || starAt >= len(parts) {
			return false
		}
		starAt++
		s, n = star+1, starAt
	}
}

// expand writes out the braces of text, at most limit forms. Braces without a comma, or
// without an end, stand for themselves, as does whatever follows a backslash or stands in
// brackets.
func expand(text string, limit int) ([]string, error) {
	open, end, commas := findBraces(text)
	if open < 0 {
		return []string{text}, nil
	}
	rest, err := expand(text[end+1:], limit)
	if err != nil {
		return nil, err
	}
	var out []string
	from := open + 1
	for _, to := range append(commas, end) {
		inner, err := expand(text[from:to], limit)
		if err != nil {
			return nil, err
		}
		if len(out)+len(inner)*len(rest) > limit {
			return nil, fmt.Errorf("the pattern's braces stand for more than %d patterns", limit)
		}
		for _, a := range inner {
			for _, b := range rest {
				out = append(out, text[:open]+a+b)
			}
		}
		from = to + 1
	}
	return out, nil
}

// findBraces finds the first pair of braces that holds a comma of its own, and its commas.
func findBraces(text string) (open, end int, commas []int) {
	type level struct {
		at     int
		commas []int
	}
	var stack []level
	best, bestEnd := -1, -1
	var bestCommas []int
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '[':
			if n := classLen(text[i:]); n > 0 {
				i += n - 1
			}
		case '{':
			stack = append(stack, level{at: i})
		case ',':
			if len(stack) > 0 {
				top := &stack[len(stack)-1]
				top.commas = append(top.commas, i)
			}
		case '}':
			if len(stack) == 0 {
				continue
			}
			top := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if len(top.commas) > 0 && (best < 0 || top.at < best) {
				best, bestEnd, bestCommas = top.at, i, top.commas
			}
		}
	}
	return best, bestEnd, bestCommas
}

// classLen is the length of the [class] that text begins with, 0 if it has no end.
func classLen(text string) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case ']':
			return i + 1
		}
	}
	return 0
}

// splitRoot takes the segments off the front of a pattern that hold nothing to match, "."
// and ".." among them, so that the walk begins as deep as it can. The last segment stays.
func splitRoot(text string) (root, rest string) {
	for {
		seg, after, ok := strings.Cut(text, "/")
		if !ok || seg != "" && strings.ContainsAny(seg, `*?[\{`) {
			return root, text
		}
		root += seg + "/"
		text = after
	}
}
