// Package mirror is the door of an environment's registry: who may write to it, and how those
// who may are known. [Gate] stands before the registry, in the supervisor; [Mirror] is what a
// client needs to get past it.
//
// It knows no environment and no image; it must not import either. Start reading at gate.go.
package mirror
