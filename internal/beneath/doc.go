// Package beneath opens what others may have laid: files in folders that nodes and pods write
// to and the host reads. No link is followed, nothing outside the folder is reached, and what
// is no regular file is refused, so that root neither reads nor writes what it was not asked to.
package beneath
