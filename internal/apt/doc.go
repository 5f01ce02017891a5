// Package apt fetches packages of Debian without installing them. The host's own apt does it,
// so that signatures are checked by who knows how, but with lists, cache and settings of its
// own: neither what is installed nor what apt knows of it changes, and it works where nobody
// ever ran 'apt-get update'.
package apt
