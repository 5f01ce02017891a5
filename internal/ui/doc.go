// Package ui carries what happens from the libraries to the person: one stream
// of [Event] and three renderers (a live terminal view, plain lines, JSON lines).
//
// Libraries emit to a [Sink]; only internal/app chooses a renderer.
// Start reading at event.go. This package imports no other package of ours.
package ui
