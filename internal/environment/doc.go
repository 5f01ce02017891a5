// Package environment is one environment and what it can do: open, observe, plan, apply,
// tell its status, verify, and be removed. It brings together a driver (a cluster), a supply
// (what runs on it) and the engine (the order of things), and knows no verb: the command line
// parses, calls and prints.
//
// Start reading at request.go, what a person asked for; environment.go opens what it names;
// platform.go is an environment together with its catalogue, what the steps of a plan act on.
package environment
