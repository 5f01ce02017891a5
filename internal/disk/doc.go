// Package disk is what several packages ask of the disk: the hash of a file, how much a folder
// takes, and that something is written for good. It imports nothing of this module.
package disk
