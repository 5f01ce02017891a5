// Package gitrepo is a git repository that is read, committed to and pushed by the git of this machine, without what
// its user has configured. It knows nothing of what is in it, and must import nothing of ours.
// Start reading at Clone.
package gitrepo
