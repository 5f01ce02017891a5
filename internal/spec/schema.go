package spec

import _ "embed"

//go:generate go test -run ^TestSchemaIsCurrent$ . -update

// schema is generated from the types and their comments, which are not there at run time.
//
//go:embed orrery.schema.json
var schema []byte

// Schema is the JSON schema (draft 2020-12) of orrery.yaml.
func Schema() ([]byte, error) { return schema, nil }
