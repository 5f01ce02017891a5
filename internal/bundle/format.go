package bundle

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/orrery-dev/orrery/internal/oci"
)

// Format is the version of the file that this package writes. It reads this one and older
// ones, and refuses newer ones. Since 2 there are documents of programs.
const Format = 2

// Extension is how names of bundles end.
const Extension = ".orrery"

// The file is a tar: index.json and oci-layout of an OCI layout, then the signature, then
// blobs. It is not compressed as a whole: its blobs are, each for itself, so that any of them
// is read, or found damaged, without the others.
const (
	signatureName = "orrery-signature.json"
	blobPrefix    = oci.BlobFolder + "/"
)

// Media types of what is no image.
const (
	typeBundle  = "application/vnd.orrery.bundle.v1"
	typeNodes   = "application/vnd.orrery.distribution.v1"
	typeCatalog = "application/vnd.orrery.catalog.v1"
	typePapers  = "application/vnd.orrery.distribution.documents.v1"
	typeSums    = "application/vnd.orrery.checksums.v1"
	typeProgram = "application/vnd.orrery.program.v1+zstd"
)

// Annotations.
const (
	noteFormat   = "orrery.dev/bundle-format"
	notePlatform = "orrery.dev/platform"
	noteOverlay  = "orrery.dev/overlay"
	noteParts    = "orrery.dev/components"
	noteLock     = "orrery.dev/lock-sha256"
	noteDocument = "orrery.dev/document"
	noteSHA256   = "orrery.dev/sha256" // of what a blob holds, unpacked
	noteSize     = "orrery.dev/size"   // bytes, unpacked
)

// Limits on what a file may make us hold in memory or write. A real bundle stays far below.
const (
	maxIndex     = 8 << 20
	maxBlobs     = 50_000
	maxBlob      = 8<<30 - 1 // what a plain tar header can say
	maxProgram   = 4 << 30
	maxCatalog   = 256 << 20
	maxFiles     = 50_000
	maxSums      = 64 << 20
	maxWindow    = 32 << 20 // of a zstd frame
	maxSignature = signatureSize
)

// signatureSize is kept free for the signature, which is made last and stands first.
const signatureSize = 4096

// signature is the content of [signatureName].
type signature struct {
	// PublicKey in PEM. It says who claims to have signed, not that anybody believes it.
	PublicKey string `json:"publicKey"`
	// Signature of the bytes of index.json, in base64, as cosign sign-blob makes it.
	Signature string `json:"signature"`
}

// Errors that callers tell apart.
var (
	// ErrNotBundle: the file is something else.
	ErrNotBundle = errors.New("not an Orrery bundle")
	// ErrNewer: a newer orrery wrote the file.
	ErrNewer = errors.New("written by a newer orrery")
	// ErrPlatform: the file is for another kind of machine.
	ErrPlatform = errors.New("for another platform")
	// ErrTruncated: the file ends too early.
	ErrTruncated = errors.New("cut off")
	// ErrSignature: the index is not what was signed.
	ErrSignature = errors.New("the signature does not belong to the index")
	// ErrDamaged: bytes are not those that the index names. It is wrapped by *[DamageError].
	ErrDamaged = errors.New("damaged")
	// ErrNotImported: the machine does not have the bundle, or not all of it.
	ErrNotImported = errors.New("not imported here")
)

// DamageError names bytes that are not what they should be.
type DamageError struct {
	File  string // the bundle
	Blob  string // "sha256:…", or the name of an entry
	Owner string // "image nats-server:v2.15.2", "program kubelet", …
	// Offset in File where the first damaged page begins, or the blob when that cannot be
	// told; Length bytes from there hold the damage.
	Offset, Length int64
	Inside         string // the file of an image's layer that is hit; empty when unknown
	Reason         string
}

// Error says where the damage is.
func (e *DamageError) Error() string {
	what := e.Blob
	if e.Owner != "" {
		what += " of " + e.Owner
	}
	if e.Inside != "" {
		what += " (" + e.Inside + ")"
	}
	return fmt.Sprintf("%s is damaged between offset %d and %d: %s: %s; copy the file again", e.File, e.Offset, e.Offset+e.Length, what, e.Reason)
}

// Unwrap returns [ErrDamaged].
func (e *DamageError) Unwrap() error { return ErrDamaged }

var (
	hexForm    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
)

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }
