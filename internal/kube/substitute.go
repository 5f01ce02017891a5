package kube

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/orrery-dev/orrery/internal/mirror"
)

var (
	// A tag or digest that stands behind the name is part of the placeholder, so that a
	// manifest cannot pin something other than what was built. Objects of operators name an image
	// in two fields: #repository is what stands before the tag, #tag the rest.
	imagePlaceholder = regexp.MustCompile(regexp.QuoteMeta(mirror.Host) + `/([a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?(#(?:repository|tag)\b)?`)
	// $${name} is the way to write a literal ${name}.
	factPlaceholder = regexp.MustCompile(`\$?\$\{[A-Za-z][A-Za-z0-9]*\}`)
)

// substitution puts facts and image references into the text of an object. The text is
// replaced after parsing, so that no value can change the structure of a manifest.
type substitution struct {
	facts  map[string]string // nil: leave ${…} alone
	images map[string]string // name → reference; "" when it was declared but not built
	errs   []error
}

func (s *substitution) value(v any) any {
	switch v := v.(type) {
	case string:
		return s.text(v)
	case []any:
		for i := range v {
			v[i] = s.value(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = s.value(v[k])
		}
	}
	return v
}

func (s *substitution) text(in string) string {
	if strings.Contains(in, mirror.Host+"/") {
		in = imagePlaceholder.ReplaceAllStringFunc(in, s.image)
	}
	// Facts last: what they hold, such as the references of other components, is no placeholder.
	if s.facts != nil && strings.Contains(in, "${") {
		in = factPlaceholder.ReplaceAllStringFunc(in, s.fact)
	}
	return in
}

func (s *substitution) fact(placeholder string) string {
	if literal, escaped := strings.CutPrefix(placeholder, "$$"); escaped {
		return "$" + literal
	}
	name := placeholder[2 : len(placeholder)-1]
	value, ok := s.facts[name]
	if !ok {
		s.errs = append(s.errs, fmt.Errorf("unknown fact %s; known: %s; write $%s for the text itself, or annotate the object %s: \"false\"",
			placeholder, sortedNames(s.facts), placeholder, AnnotationSubstitute))
	}
	return value
}

func (s *substitution) image(placeholder string) string {
	groups := imagePlaceholder.FindStringSubmatch(placeholder)
	name, part := groups[1], groups[4]
	ref, declared := s.images[name]
	switch {
	case !declared:
		s.errs = append(s.errs, fmt.Errorf("image %s is not one of this component:"+
			" declare it under images in component.yaml; declared: %s", name, sortedNames(s.images)))
	case ref == "":
		s.errs = append(s.errs, fmt.Errorf("image %s is declared but was not built", name))
	}
	repository, tag, _ := strings.Cut(ref, ":")
	switch part {
	case "#repository":
		return repository
	case "#tag":
		return tag
	}
	return ref
}
