// Package spelling finds the word that was probably meant. It is pure and imports nothing
// of this module.
package spelling
