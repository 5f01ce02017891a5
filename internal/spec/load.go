package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds what is read: a real orrery.yaml has a few dozen lines.
const maxFile = 1 << 20

// Load reads path. An absent file is [Default]; anything else that is wrong with it is
// an error that joins one [FieldError] for each finding. Files that it names relative to
// itself come back as absolute paths.
func Load(path string) (Environment, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return Default(), nil
	}
	if err != nil {
		return Environment{}, fmt.Errorf("reading the environment: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Environment{}, fmt.Errorf("reading the environment: %w", err)
	}
	e, err := Parse(data, path)
	if err != nil {
		return e, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Environment{}, fmt.Errorf("reading the environment: %w", err)
	}
	e.resolve(dir)
	return e, nil
}

// resolve makes the names of files absolute; they are relative to dir.
func (e *Environment) resolve(dir string) {
	i := &e.Images
	abs := func(file string) string {
		if file == "" || filepath.IsAbs(file) {
			return file
		}
		return filepath.Join(dir, file)
	}
	if e.Existing != nil {
		e.Existing.Kubeconfig = abs(e.Existing.Kubeconfig)
	}
	i.CABundle = abs(i.CABundle)
	for n, file := range i.TrustedKeys {
		i.TrustedKeys[n] = abs(file)
	}
	if i.Password != nil {
		i.Password.SOPS = abs(i.Password.SOPS)
	}
}

// Parse reads one YAML document strictly: unknown and repeated fields, wrong types,
// aliases and further documents are errors. What it leaves out is taken from
// [Default]. file only heads the messages.
func Parse(data []byte, file string) (Environment, error) {
	d := &decoder{lines: map[string]int{}}
	e, ok := d.environment(data)
	if ok {
		d.validate(&e)
	}
	if len(d.errs) == 0 {
		return e, nil
	}
	for _, err := range d.errs {
		if f, ok := errors.AsType[*FieldError](err); ok {
			f.File = file
			if f.Line == 0 {
				f.Line = d.line(f.Path)
			}
		}
	}
	return Environment{}, errors.Join(d.errs...)
}

// decoder walks the YAML tree beside the Go types, so that every finding has a path
// and a line, and one mistake does not hide the next.
type decoder struct {
	collector
	lines map[string]int // path → line
	bad   map[string]bool
}

func (d *decoder) environment(data []byte) (Environment, bool) {
	if len(data) > maxFile {
		d.add("", "want an environment of a few lines, got more than %d bytes", maxFile)
		return Environment{}, false
	}
	documents := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	switch err := documents.Decode(&doc); {
	case errors.Is(err, io.EOF):
		d.add("", "the file is empty; remove it for the defaults, or begin with \"apiVersion: %s\" and \"kind: %s\"", APIVersion, Kind)
		return Environment{}, false
	case err != nil:
		d.syntax(err)
		return Environment{}, false
	}
	if err := documents.Decode(&next); err == nil {
		d.at(&next, "", "want one document, found a second; an environment has a file of its own")
		return Environment{}, false
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err)
		return Environment{}, false
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		d.at(&doc, "", "want a mapping that begins with \"apiVersion: %s\", got %s", APIVersion, kindOf(&doc))
		return Environment{}, false
	}
	root := doc.Content[0]
	// The version decides how to read the rest: a field that a newer orrery knows is not
	// a typing mistake.
	name := DefaultName
	for i := 0; i+1 < len(root.Content); i += 2 {
		k, v := root.Content[i], root.Content[i+1]
		if k.Value == "name" && v.Kind == yaml.ScalarNode {
			name = v.Value
		}
		if k.Value == "apiVersion" && v.Kind == yaml.ScalarNode && v.Value != APIVersion {
			d.lines["apiVersion"] = v.Line
			(&Environment{APIVersion: v.Value, Kind: Kind}).validateHeader(&d.collector)
			return Environment{}, false
		}
	}
	e := Named(name)
	e.APIVersion, e.Kind = "", ""
	d.decode(root, reflect.ValueOf(&e).Elem(), "")
	d.existing(&e)
	return e, true
}

// foreign are the fields about nodes and addresses, which a cluster that somebody else made
// has already.
var foreign = []string{"servers", "agents", "zones", "node", "network.nodes", "network.egress", "ports"}

// existing refuses fields beside driver: existing that would have no effect, and fills in what
// is the default there.
func (d *decoder) existing(e *Environment) {
	if e.Driver != DriverExisting {
		return
	}
	for _, path := range foreign {
		if line, set := d.lines[path]; set {
			d.errs = append(d.errs, &FieldError{Line: line, Path: path, Message: "with driver: existing the cluster has its own; leave it out"})
		}
	}
	if _, set := d.lines["overlay"]; !set {
		e.Overlay = "prod"
	}
	e.Ports = Ports{}
}

// validate adds what is wrong with the values, except where reading them already failed.
func (d *decoder) validate(e *Environment) {
	c := &collector{}
	e.validate(c)
	for _, err := range c.errs {
		if f, ok := errors.AsType[*FieldError](err); ok && d.bad[f.Path] {
			continue
		}
		d.errs = append(d.errs, err)
	}
}

// line is that of path, or of the nearest parent that is in the file.
func (d *decoder) line(path string) int {
	for {
		if l, ok := d.lines[path]; ok {
			return l
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return 0
		}
		path = path[:i]
	}
}

func (d *decoder) at(n *yaml.Node, path, format string, a ...any) {
	if d.bad == nil {
		d.bad = map[string]bool{}
	}
	d.bad[path] = true
	d.errs = append(d.errs, &FieldError{Line: n.Line, Path: path, Message: fmt.Sprintf(format, a...)})
}

// syntax turns "yaml: line 3: …" into a field error with that line.
func (d *decoder) syntax(err error) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	f := &FieldError{Message: "not YAML: " + msg}
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if number, rest, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				f.Line, f.Message = n, "not YAML: "+rest
				// The library counts from 0 in what its parser (not its scanner) reports.
				for _, expected := range []string{"'-' indicator", "key", "',' or", "node content", "<document start>"} {
					if strings.HasPrefix(rest, "did not find expected "+expected) {
						f.Line++
					}
				}
			}
		}
	}
	d.errs = append(d.errs, f)
}

func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string) {
	if path != "" {
		d.lines[path] = n.Line
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.at(n, path, "anchors and aliases are not read here; write the value out")
		return
	}
	if n.ShortTag() == "!!null" {
		d.at(n, path, "want %s, got nothing; leave the field out for the default", wanted(v.Type()))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.decode(n, p.Elem(), path)
		if !d.bad[path] {
			v.Set(p)
		}
	case reflect.Struct:
		d.mapping(n, v, path)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.at(n, path, "want %s, got %s", wanted(v.Type()), kindOf(n))
			return
		}
		s := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			d.decode(item, s.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
		v.Set(s)
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.at(n, path, "want %s, got %s", wanted(v.Type()), kindOf(n))
		return
	}
	fields := map[string]int{}
	var names []string
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = i
		names = append(names, name)
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, value := n.Content[i], n.Content[i+1]
		child := k.Value
		if path != "" {
			child = path + "." + k.Value
		}
		field, known := fields[k.Value]
		switch first, again := seen[k.Value]; {
		case k.Kind != yaml.ScalarNode:
			d.at(k, path, "want field names, got %s as a key", kindOf(k))
		case again:
			d.at(k, child, "already set on line %d; say it once", first)
		case !known:
			hint := near(k.Value, names)
			if hint == "" {
				hint = "; known here: " + strings.Join(names, ", ")
			}
			d.at(k, child, "no such field%s", hint)
		default:
			d.decode(value, v.Field(field), child)
		}
		if _, again := seen[k.Value]; !again {
			seen[k.Value] = k.Line
		}
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	wrong := func() { d.at(n, path, "want %s, got %s", wanted(v.Type()), kindOf(n)) }
	if n.Kind != yaml.ScalarNode {
		wrong()
		return
	}
	switch v.Kind() {
	case reflect.String:
		if n.ShortTag() != "!!str" {
			d.at(n, path, "want %s, got %s; put it in quotes if that is meant: %q", wanted(v.Type()), kindOf(n), n.Value)
			return
		}
		v.SetString(n.Value)
	case reflect.Int:
		i, err := strconv.Atoi(n.Value)
		if n.ShortTag() != "!!int" || err != nil {
			wrong()
			return
		}
		v.SetInt(int64(i))
	case reflect.Bool:
		var b bool
		if n.ShortTag() != "!!bool" || n.Decode(&b) != nil {
			wrong()
			return
		}
		v.SetBool(b)
	default:
		panic("spec: no decoder for " + v.Type().String())
	}
}

// wanted says in words what a field of type t takes.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.Struct:
		return "a mapping"
	case reflect.Slice:
		return "a list such as [a, b]"
	case reflect.Int:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	default:
		return "text"
	}
}

// kindOf says in words what n is.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.DocumentNode:
		if len(n.Content) == 1 {
			return kindOf(n.Content[0])
		}
		return "nothing"
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return n.Value
	default:
		return strconv.Quote(n.Value)
	}
}
