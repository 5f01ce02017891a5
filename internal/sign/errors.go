package sign

import (
	"errors"
	"fmt"
)

// Kinds of what is wrong with an image. Errors of [Verify] wrap one of them.
var (
	// ErrUnsigned: nobody stands for the image.
	ErrUnsigned = errors.New("unsigned")
	// ErrWrongKey: who stands for the image is not trusted.
	ErrWrongKey = errors.New("wrong key")
	// ErrTampered: bytes are not those that their digest or signature is about.
	ErrTampered = errors.New("tampered with")
	// ErrSwapped: under the name or digest stands another image.
	ErrSwapped = errors.New("swapped")
	// ErrProvenance: the provenance is missing, or is not of this image, builder or source.
	ErrProvenance = errors.New("provenance")
	// ErrBuilder: the provenance is by a builder that does not count.
	ErrBuilder = fmt.Errorf("%w by another builder", ErrProvenance)
	// ErrSBOM: the bill of materials is missing, or is not of this image.
	ErrSBOM = errors.New("bill of materials")
	// ErrNotLocked: the lock has another digest, or none.
	ErrNotLocked = errors.New("not as locked")
)

// Kinds of what is wrong with a key. Errors of [EnsureKey] and [LoadPublicKey] wrap one.
var (
	// ErrKeyMissing: one half of the pair is not there.
	ErrKeyMissing = errors.New("key missing")
	// ErrKeyCorrupt: the file is not a key.
	ErrKeyCorrupt = errors.New("key corrupt")
	// ErrKeyExposed: others may read the private key.
	ErrKeyExposed = errors.New("key exposed")
	// ErrPassword: the password cannot be had, or does not open the key.
	ErrPassword = errors.New("password")
)

// Names of the checks that [Verify] makes, in this order.
const (
	CheckContent    = "content"
	CheckSignature  = "signature"
	CheckProvenance = "provenance"
	CheckSBOM       = "sbom"
	CheckLock       = "lock"
)

// CheckError is one check of one image, or of one program of the nodes, that failed.
type CheckError struct {
	What   string // "image" or "program"
	Image  string // NAME@DIGEST
	Check  string // one of the Check constants
	Err    error  // wraps one of the kinds
	Advice string // what to do next
}

func (e *CheckError) Error() string {
	return fmt.Sprintf("%s %s: check %q failed: %v\n  %s", e.What, e.Image, e.Check, e.Err, e.Advice)
}

func (e *CheckError) Unwrap() error { return e.Err }

// mistake is a kind of error with what was found.
func mistake(kind error, format string, a ...any) error {
	return fmt.Errorf("%w: %w", kind, fmt.Errorf(format, a...))
}
