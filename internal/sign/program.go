package sign

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// Seal signs the documents of a program, the file with this SHA-256 (hexadecimal): each
// becomes an in-toto statement in a sigstore bundle, which `cosign
// verify-blob-attestation --bundle` accepts beside the file.
func Seal(sha256 string, key *Key, docs Documents) (Documents, error) {
	want, err := statements("sha256:"+sha256, docs)
	if err != nil {
		return Documents{}, err
	}
	var sealed Documents
	for _, w := range want {
		data, err := key.signStatement(w.payload)
		if err != nil {
			return Documents{}, err
		}
		switch w.predicateType {
		case SBOMPredicate:
			sealed.SBOM = data
		case ProvenancePredicate:
			sealed.Provenance = data
		}
	}
	return sealed, nil
}

// SealedWith reports whether sealed is what [Seal] makes with that key of the documents, so
// that it need not be made again.
func SealedWith(sha256 string, key PublicKey, sealed, docs Documents) bool {
	want, err := statements("sha256:"+sha256, docs)
	if err != nil {
		return false
	}
	for _, w := range want {
		data := sealed.SBOM
		switch w.predicateType {
		case SignaturePredicate:
			continue
		case ProvenancePredicate:
			data = sealed.Provenance
		}
		b, err := parseBundle(data)
		if err != nil || !bytes.Equal(b.Envelope.Payload, w.payload) {
			return false
		}
		if _, _, err := b.verify([]PublicKey{key}); err != nil {
			return false
		}
	}
	return true
}

// VerifyProgram holds the program called name, in file, and what was sealed about it to the
// policy. The file is hashed. All checks are made; the error joins a [*CheckError] for each
// that failed.
func VerifyProgram(name, file string, sealed Documents, p Policy) (Report, error) {
	return verifyFile(&verification{Policy: p, name: name, program: true}, file, sealed)
}

// VerifyArchive is [VerifyProgram] for an archive.
func VerifyArchive(name, file string, sealed Documents, p Policy) (Report, error) {
	return verifyFile(&verification{Policy: p, name: name, program: true, archive: true}, file, sealed)
}

func verifyFile(v *verification, file string, sealed Documents) (Report, error) {
	v.report = Report{Image: v.name}
	size, err := v.hash(file)
	v.report.Digest = v.digest
	v.say(CheckContent, err, "%.1f MB, hashed", float64(size)/1e6)
	if err != nil {
		return v.report, errors.Join(v.errs...)
	}
	for _, data := range [][]byte{sealed.Provenance, sealed.SBOM} {
		if data == nil {
			continue
		}
		b, err := parseBundle(data)
		if err != nil {
			v.rejected = append(v.rejected, mistake(ErrTampered, "what is said of it: %w", err))
			continue
		}
		s, key, err := b.verify(v.Keys)
		if err != nil {
			v.rejected = append(v.rejected, err)
			continue
		}
		v.trusted = append(v.trusted, trusted{s, key})
	}
	v.programSignature()
	v.documents()
	v.programLock()
	return v.report, errors.Join(v.errs...)
}

// hash sets the digest.
func (v *verification) hash(file string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, fmt.Errorf("it is not there: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	v.digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	return n, err
}

// programSignature passes when a trusted key signed a statement about these bytes.
func (v *verification) programSignature() {
	var other error
	for _, t := range v.trusted {
		if t.about(v.digest) {
			v.report.Signer = t.key.Fingerprint()
			v.say(CheckSignature, nil, "by %s", v.report.Signer)
			return
		}
		other = mistake(ErrTampered, "the file is not the one that was signed, %s", subjects(t.statement))
	}
	v.say(CheckSignature, v.worst(other, ErrUnsigned, "nothing is said of it that anybody signed"), "")
}

func (v *verification) programLock() {
	if v.Locked == nil {
		v.skip(CheckLock, "there is no lock for this platform")
		return
	}
	if why := v.Locked.Omitted["binary "+v.name]; why != "" {
		v.skip(CheckLock, "the lock leaves it out: "+why)
		return
	}
	entry, ok := v.Locked.Binaries[v.name]
	switch {
	case !ok:
		v.say(CheckLock, mistake(ErrNotLocked, "the lock does not have it"), "")
	case "sha256:"+entry.SHA256 == v.digest:
		v.say(CheckLock, nil, "the digest is the locked one")
	case len(v.cTools) > 0 && !slices.Equal(v.cTools, entry.CTools):
		v.skip(CheckLock, "it was made with other C tools than the locked one")
	default:
		v.say(CheckLock, mistake(ErrNotLocked, "locked is sha256:%s", entry.SHA256), "")
	}
}
