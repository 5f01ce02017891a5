package ui

import "time"

// Type tells what an [Event] reports.
type Type string

const (
	TypeStep     Type = "step"     // a step changed state
	TypeProgress Type = "progress" // done/total of a running step moved
	// TypeMilestone: what a person waits for is expected (running, ETA) or was reached (done,
	// Seconds since the start), with Done of Total builds. Step is its name.
	TypeMilestone Type = "milestone"
	TypeNotice    Type = "notice"  // something a person should know; not an error
	TypeWarning   Type = "warning" // something that works but should be looked at
	TypeSummary   Type = "summary" // the last event of a verb; Data carries its result
)

// State is where a step stands.
type State string

const (
	StateRunning State = "running"
	StateDone    State = "done"
	StateCached  State = "cached" // nothing had to be done
	StateSkipped State = "skipped"
	StateFailed  State = "failed"
	// StateCancelled: never started, or ended early, because the run was cancelled.
	StateCancelled State = "cancelled"
)

// Event is one line of what `-o json` prints and the only thing renderers see.
// Zero fields are left out.
type Event struct {
	Time    time.Time `json:"time"`
	Type    Type      `json:"type"`
	Step    string    `json:"step,omitempty"`  // plan step ID, such as "build/kubernetes"
	Phase   string    `json:"phase,omitempty"` // build | cluster | deploy | verify | teardown
	State   State     `json:"state,omitempty"`
	Message string    `json:"message,omitempty"` // one line for a person
	Done    float64   `json:"done,omitempty"`
	Total   float64   `json:"total,omitempty"`
	Unit    string    `json:"unit,omitempty"`    // of Done and Total: "packages", "bytes", "pods"
	Seconds float64   `json:"seconds,omitempty"` // wall time of the finished step
	ETA     float64   `json:"eta,omitempty"`     // seconds left, 0 when unknown
	Error   string    `json:"error,omitempty"`
	// Data is the result of a summary. In JSON the fields of an object stand beside type,
	// not below data; time, type and error cannot be overwritten.
	Data any `json:"data,omitempty"`
}

// Sink receives events. Implementations are safe for concurrent use and never block for long.
type Sink interface{ Emit(Event) }

// SinkFunc adapts a function to [Sink].
type SinkFunc func(Event)

// Emit calls f.
func (f SinkFunc) Emit(e Event) { f(e) }

// Discard drops every event.
var Discard Sink = SinkFunc(func(Event) {})
