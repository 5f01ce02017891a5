package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/orrery-dev/orrery/internal/spelling"
)

// Decode reads one YAML document strictly into the struct that v points to, for files that
// stand in the catalogue's folders and belong to other packages. Fields are named by json
// tags; unknown and repeated ones, wrong types, aliases and further documents are errors,
// one for each mistake, "LINE: field.path: what is wrong".
func Decode(data []byte, v any) []error { return decode(data, v) }

// decode reads one YAML document into the struct that v points to. Unlike a plain
// unmarshal it knows only the fields of v, tells text from numbers, goes on after a
// mistake, and says for each one the line, the field's path and what would be right.
// Every error begins with the line.
func decode(data []byte, v any) []error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return []error{errors.New("1: the file is empty")}
	} else if err != nil {
		return []error{syntax(err)}
	}
	if err := dec.Decode(&more); err == nil {
		return []error{fmt.Errorf("%d: a second document begins; write one per file", more.Line)}
	} else if !errors.Is(err, io.EOF) {
		return []error{syntax(err)}
	}
	var d decoder
	d.value(doc.Content[0], "", reflect.ValueOf(v).Elem())
	return d.errs
}

// syntax turns "yaml: line N: text" into "N: text".
func syntax(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		return errors.New(rest)
	}
	return fmt.Errorf("1: %s", text)
}

type decoder struct{ errs []error }

func (d *decoder) fail(n *yaml.Node, path, format string, a ...any) {
	if path == "" {
		path = "the document"
	}
	d.errs = append(d.errs, fmt.Errorf("%d: %s: %s", n.Line, path, fmt.Sprintf(format, a...)))
}

func (d *decoder) value(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.fail(n, path, "anchors and aliases are not used in the catalogue; write the value out")
		return
	}
	if n.ShortTag() == "!!null" {
		if path == "" {
			d.fail(n, path, "is empty; must be a mapping with the fields %s", fields(v.Type()))
		}
		return // a field without a value is an absent one
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, path, v)
	case reflect.Map:
		d.mapping(n, path, v)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.fail(n, path, "is %s; must be a list: begin each entry with \"- \"", what(n))
			return
		}
		s := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, e := range n.Content {
			d.value(e, fmt.Sprintf("%s[%d]", path, i), s.Index(i))
		}
		v.Set(s)
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(n, path, p.Elem())
		v.Set(p)
	default:
		d.scalar(n, path, v)
	}
}

// entries calls f for each key of a mapping, and refuses keys that are no text or come twice.
func (d *decoder) entries(n *yaml.Node, path string, f func(key string, k, val *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str" {
			d.fail(k, join(path, k.Value), "a key is %s; must be text: put it in quotes", what(k))
			continue
		}
		if line, twice := seen[k.Value]; twice {
			d.fail(k, join(path, k.Value), "is given twice (line %d too); remove one", line)
			continue
		}
		seen[k.Value] = k.Line
		f(k.Value, k, val)
	}
}

func (d *decoder) structure(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "is %s; must be a mapping with the fields %s", what(n), fields(v.Type()))
		return
	}
	known := map[string]int{}
	for i := range v.NumField() {
		if name := fieldName(v.Type().Field(i)); name != "" {
			known[name] = i
		}
	}
	d.entries(n, path, func(key string, k, val *yaml.Node) {
		i, ok := known[key]
		if !ok {
			d.fail(k, join(path, key), "unknown field%s; known: %s", suggestion(key, sortedKeys(known)), fields(v.Type()))
			return
		}
		d.value(val, join(path, key), v.Field(i))
	})
}

func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "is %s; must be a mapping of names to values", what(n))
		return
	}
	m := reflect.MakeMap(v.Type())
	d.entries(n, path, func(key string, _, val *yaml.Node) {
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(val, join(path, key), e)
		m.SetMapIndex(reflect.ValueOf(key), e)
	})
	v.Set(m)
}

func (d *decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	tag := n.ShortTag()
	switch v.Kind() {
	case reflect.String:
		if n.Kind != yaml.ScalarNode {
			d.fail(n, path, "is %s; must be text", what(n))
		} else if tag != "!!str" {
			d.fail(n, path, "is %s; must be text: write %q", what(n), n.Value)
		} else {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		if b, err := strconv.ParseBool(n.Value); n.Kind == yaml.ScalarNode && tag == "!!bool" && err == nil {
			v.SetBool(b)
		} else {
			d.fail(n, path, "is %s; must be true or false", what(n))
		}
	case reflect.Int, reflect.Int64:
		if i, err := strconv.ParseInt(n.Value, 10, 64); n.Kind == yaml.ScalarNode && tag == "!!int" && err == nil {
			v.SetInt(i)
		} else {
			d.fail(n, path, "is %s; must be a whole number, without quotes", what(n))
		}
	case reflect.Float64:
		if f, err := strconv.ParseFloat(n.Value, 64); n.Kind == yaml.ScalarNode && (tag == "!!int" || tag == "!!float") && err == nil {
			v.SetFloat(f)
		} else {
			d.fail(n, path, "is %s; must be a number, without quotes", what(n))
		}
	default:
		d.fail(n, path, "has the unsupported type %s", v.Type())
	}
}

// what describes a node for a person.
func what(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!str":
		return fmt.Sprintf("text (%q)", n.Value)
	case "!!int", "!!float":
		return fmt.Sprintf("a number (%s)", n.Value)
	case "!!bool":
		return fmt.Sprintf("a truth value (%s)", n.Value)
	case "!!null":
		return "nothing"
	case "!!timestamp":
		return fmt.Sprintf("a date (%s)", n.Value)
	}
	return fmt.Sprintf("%s (%s)", n.ShortTag(), n.Value)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func fieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return ""
	}
	return name
}

// fields lists the fields of a struct in the order of its declaration.
func fields(t reflect.Type) string {
	var names []string
	for i := range t.NumField() {
		if name := fieldName(t.Field(i)); name != "" {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// suggestion names the known field that was probably meant, if there is one.
func suggestion(key string, known []string) string {
	if best := spelling.Nearest(key, known); best != "" {
		return fmt.Sprintf(", did you mean %q?", best)
	}
	return ""
}
