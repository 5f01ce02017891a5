// Package atomicfile replaces files in one step: who reads one sees the old content or the
// new, whole, also after a crash. It imports nothing of this module.
package atomicfile
