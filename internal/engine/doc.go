// Package engine runs a plan and keeps what a later process needs: the journal of
// effects, the lock, and the state file of an environment.
//
// It knows no driver and no component: actions are handed to it. Start reading at
// runner.go.
package engine
