// Package failure says whose an error is, for whoever has to act on it: a mistake of the
// person, or a machine or a policy that refuses. All other errors are failures of the work.
// The command line turns them into exit codes (docs/reference/cli.md).
//
// It imports nothing of this module.
package failure
