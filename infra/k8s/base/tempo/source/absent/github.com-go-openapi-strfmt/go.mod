module github.com/go-openapi/strfmt

go 1.24.0
