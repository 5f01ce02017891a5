// Package bpf looks at the programs, maps and links that the kernel holds: which there are,
// which an environment's processes pinned, and which are left once those are gone. It makes
// and changes none, and must not import anything of this module.
//
// Start reading at [Pinned].
package bpf
