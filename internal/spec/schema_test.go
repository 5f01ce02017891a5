package spec

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/orrery-dev/orrery/internal/golden"
)

// schemaReference is where people and editors look for the schema.
const schemaReference = "../../docs/reference/orrery.schema.json"

// generate makes the schema from the types, with their comments as descriptions.
func generate(t *testing.T) []byte {
	t.Helper()
	r := &jsonschema.Reflector{Anonymous: true, ExpandedStruct: true}
	if err := r.AddGoComments("github.com/orrery-dev/orrery/internal/spec", "./", jsonschema.WithFullComment()); err != nil {
		t.Fatal(err)
	}
	for k, v := range r.CommentMap {
		r.CommentMap[k] = strings.Join(strings.Fields(v), " ")
	}
	s := r.Reflect(&Environment{})
	s.ID = "https://orrery.dev/schema/v1alpha1/environment.json"
	s.Title = "orrery.yaml"
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}

func TestSchemaIsCurrent(t *testing.T) {
	want := generate(t)
	for _, path := range []string{"orrery.schema.json", schemaReference} {
		golden.Equal(t, path, string(want))
	}
	if *golden.Update {
		return // the binary still holds the old one
	}
	got, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("Schema() is not what the types say")
	}
}

// The schema takes what the loader takes, and refuses the mistakes that a schema can see.
func TestSchemaAgreesWithTheLoader(t *testing.T) {
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := validator.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := validator.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := json.Marshal(Default())
	if err != nil {
		t.Fatal(err)
	}
	const head = `"apiVersion":"orrery.dev/v1alpha1","kind":"Environment"`
	for _, c := range []struct {
		doc string
		ok  bool
	}{
		{string(defaults), true},
		{`{` + head + `}`, true},
		{`{` + head + `,"agents":0,"durability":"fast","ports":{"api":0}}`, true},
		{`{` + head + `,"images":{"sources":["source"]},"components":["nats"]}`, true},
		{`{"kind":"Environment"}`, false},
		{`{"apiVersion":"orrery.dev/v2","kind":"Environment"}`, false},
		{`{` + head + `,"servers":2}`, false},
		{`{` + head + `,"servers":"3"}`, false},
		{`{` + head + `,"agents":-1}`, false},
		{`{` + head + `,"name":"Upper"}`, false},
		{`{` + head + `,"zones":[]}`, false},
		{`{` + head + `,"nodes":3}`, false},
		{`{` + head + `,"network":{"pod":"10.0.0.0/16"}}`, false},
		{`{` + head + `,"durability":"none"}`, false},
		{`{` + head + `,"images":{"sources":["registry","bundle"],"verify":"warn","password":{"sops":"a","key":"b"}}}`, true},
		{`{` + head + `,"images":{"sources":["docker"]}}`, false},
		{`{` + head + `,"images":{"sources":["source","source"]}}`, false},
		{`{` + head + `,"images":{"verify":"off"}}`, false},
		{`{` + head + `,"images":{"password":{"sops":"a"}}}`, false},
	} {
		v, err := validator.UnmarshalJSON(strings.NewReader(c.doc))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(v); (err == nil) != c.ok {
			t.Errorf("schema: %s: %v", c.doc, err)
		}
		if _, err := Parse([]byte(c.doc), "orrery.yaml"); (err == nil) != c.ok {
			t.Errorf("loader: %s: %v", c.doc, err)
		}
	}
}
