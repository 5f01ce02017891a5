// Package dashboard describes what is worth looking at, once, in a small YAML form of our
// own, so that Grafana and `orrery console` show the same: a component keeps its dashboards
// in infra/k8s/base/COMPONENT/dashboards/NAME.yaml. Grafana's JSON is generated beside each
// file and committed; a test compares.
//
// The package is pure: it reads files and computes, and must never import a client. What
// evaluates the queries is in observe, what draws them in console. Start reading at
// types.go; docs/reference/dashboard.md is the form for people.
package dashboard
