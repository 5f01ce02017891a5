package audit

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

//go:embed settings.yaml
var settingsYAML []byte

// setting is what a flag of a program, or a field of a file, has to be.
type setting struct {
	Check
	Of string `json:"of"`
	// Flag of a process, without dashes. Field of a kubelet's configuration, or, with Config, of
	// the file that the flag of that name leads to; parts are separated by dots.
	Flag, Field, Config string
	// One of these holds.
	Is       []string // one of these values
	Has, Not string   // among the values, separated by commas
	Set      *bool    // there, or not
	AtLeast  int      `json:"atLeast"`
	// Default is what holds where nothing is said.
	Default string
	// Or is another way to be right.
	Or *setting
}

func settings() []Check {
	var all []setting
	if err := yaml.UnmarshalStrict(settingsYAML, &all); err != nil {
		panic(err) // a test reads it
	}
	checks := make([]Check, len(all))
	for i, s := range all {
		c := s.Check
		c.Of = s.Of
		c.run = s.look
		checks[i] = c
	}
	return checks
}

func (s setting) look(e Evidence) []Finding {
	var all []Finding
	note := func(object, is string) {
		all = append(all, Finding{Object: object, Detail: fmt.Sprintf("%s is %s", s.what(), is)})
	}
	if s.Of == PartKubelet {
		for _, node := range slices.Sorted(maps.Keys(e.Kubelets)) {
			if value, ok := field(e.Kubelets[node], s.Field); !s.holds(value, ok) {
				note("kubelet/"+node, said(value, ok))
			}
		}
		return all
	}
	for _, p := range e.Processes {
		if p.Name != s.Of {
			continue
		}
		value, ok := s.of(p)
		if s.holds(value, ok) {
			continue
		}
		if s.Or != nil {
			if v, ok := s.Or.of(p); s.Or.holds(v, ok) {
				continue
			}
		}
		note("process/"+p.Node+"/"+p.Name, said(value, ok))
	}
	return all
}

func (s setting) what() string {
	if s.Flag != "" {
		return "--" + s.Flag
	}
	return s.Field
}

func said(value string, ok bool) string {
	if !ok {
		return "not set"
	}
	return strconv.Quote(value)
}

func (s setting) of(p Process) (string, bool) {
	if s.Config != "" {
		return field(p.Configs[s.Config], s.Field)
	}
	return flagOf(p.Args, s.Flag)
}

func (s setting) holds(value string, ok bool) bool {
	if s.Set != nil {
		return ok == *s.Set
	}
	if !ok {
		value = s.Default
	}
	values := strings.Split(value, ",")
	switch {
	case len(s.Is) > 0:
		return slices.Contains(s.Is, value)
	case s.Has != "":
		return slices.Contains(values, s.Has)
	case s.Not != "":
		return !slices.Contains(values, s.Not)
	}
	n, err := strconv.Atoi(value)
	return err == nil && n >= s.AtLeast
}

// flagOf is the last value of a flag: that is the one which programs take.
func flagOf(args []string, name string) (value string, ok bool) {
	for i, a := range args {
		rest, is := strings.CutPrefix(strings.TrimPrefix(a, "-"), "-"+name)
		if !is || !strings.HasPrefix(a, "-") {
			if rest, is = strings.CutPrefix(a, "-"+name); !is {
				continue
			}
		}
		switch {
		case strings.HasPrefix(rest, "="):
			value, ok = rest[1:], true
		case rest != "":
		case i+1 < len(args) && !strings.HasPrefix(args[i+1], "-"):
			value, ok = args[i+1], true
		default:
			value, ok = "true", true
		}
	}
	return value, ok
}

// field of a decoded file, as text; lists are joined by commas, and count by their length when
// the path ends with #.
func field(m map[string]any, path string) (string, bool) {
	path, count := strings.CutSuffix(path, "#")
	switch v := at(m, strings.Split(path, ".")...).(type) {
	case nil:
		return "", false
	case []any:
		if count {
			return strconv.Itoa(len(v)), true
		}
		return strings.Join(texts(v), ","), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	default:
		return fmt.Sprint(v), true
	}
}
