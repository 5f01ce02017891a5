package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"

	"github.com/orrery-dev/orrery/internal/catalog"
)

// notes is notes.yaml: what people found out about cases.
type notes struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Never are cases that are not run, since what they need is not here.
	Never []note `json:"never"`
	// Failures explain cases that fail.
	Failures []note `json:"failures"`
}

type note struct {
	Match  string `json:"match"`            // regular expression for the name
	Plugin string `json:"plugin,omitempty"` // only with this network
	Whose  string `json:"whose,omitempty"`  // of a failure: orrery, environment, suite or upstream
	Why    string `json:"why"`
}

func loadNotes(file string) (notes, error) {
	var n notes
	data, err := os.ReadFile(file)
	if err != nil {
		return n, err
	}
	errs := catalog.Decode(data, &n)
	for _, list := range [][]note{n.Never, n.Failures} {
		for _, one := range list {
			if _, err := regexp.Compile(one.Match); err != nil {
				errs = append(errs, fmt.Errorf("note %q: %w", one.Match, err))
			} else if one.Match == "" || one.Why == "" {
				errs = append(errs, fmt.Errorf("note %q: want a regular expression that matches names, and why", one.Match))
			}
		}
	}
	for _, one := range n.Failures {
		if !slices.Contains([]string{"orrery", "environment", "suite", "upstream"}, one.Whose) {
			errs = append(errs, fmt.Errorf("note %q: whose is %q, want orrery, environment, suite or upstream", one.Match, one.Whose))
		}
	}
	if len(errs) > 0 {
		return n, fmt.Errorf("%s: %w", file, errors.Join(errs...))
	}
	return n, nil
}

// neverRun are patterns for ginkgo.
func (n notes) neverRun(plugin string) (patterns []string) {
	for _, one := range n.Never {
		if one.Plugin == "" || one.Plugin == plugin {
			patterns = append(patterns, one.Match)
		}
	}
	return patterns
}

func (n notes) find(list []note, plugin, name string) (note, bool) {
	for _, one := range list {
		if (one.Plugin == "" || one.Plugin == plugin) && regexp.MustCompile(one.Match).MatchString(name) {
			return one, true
		}
	}
	return note{}, false
}
