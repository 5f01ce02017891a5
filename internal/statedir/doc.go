// Package statedir takes an environment's folder away, and finds what is left of it. What a
// person laid under it stays: a link in its place, a mount on it or in it.
//
// Who removes an environment's folder uses it, and so does the audit that follows. Start
// reading at statedir.go.
package statedir
