// Package filelock takes advisory locks on files, flock(2): they go away with the process
// that holds them, however it ends. It keeps two processes from making the same thing in a
// cache, and two verbs from changing the same environment.
package filelock
