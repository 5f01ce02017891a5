// Package reference reads image references such as docker.io/grafana/grafana:12@sha256:….
// It is pure: text in, parts out. Start at Parse.
package reference
