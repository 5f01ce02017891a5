package sign

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/oci"
	"github.com/orrery-dev/orrery/internal/sbom"
)

// Policy is what an image has to fulfil.
type Policy struct {
	// Keys are trusted: the environment's own and those of images.trustedKeys. One
	// signature by one of them is enough.
	Keys []PublicKey
	// Builders whose provenance counts. Default: this machine ([sbom.LocalBuilder]).
	Builders []string
	// AnyBuilder: whoever built it, when only the signature is asked about.
	AnyBuilder bool
	// Locked is what the lock has for the platform; nil compares with nothing.
	Locked *lock.Platform
	// Foreign is for an image that is not built here: it has neither our provenance nor a
	// place in the lock, and only its signature is asked for.
	Foreign bool
	// Thorough reads and hashes every layer too, and looks where the image's tag points.
	// Nodes hash layers when they pull, in any case.
	Thorough bool
}

func (p Policy) builders() []string {
	if len(p.Builders) > 0 {
		return p.Builders
	}
	return []string{sbom.LocalBuilder}
}

// State of one check.
type State string

// States of a check.
const (
	Passed  State = "passed"
	Failed  State = "failed"
	Skipped State = "skipped" // never counted as passed
)

// Result is what one check said.
type Result struct {
	Check  string `json:"check"`
	State  State  `json:"state"`
	Detail string `json:"detail"`
}

// Report is what all checks of an image said; its form is a contract.
type Report struct {
	Image   string `json:"image"`
	Digest  string `json:"digest"`
	Signer  string `json:"signer,omitempty"`  // fingerprint of the key whose signature counts
	Builder string `json:"builder,omitempty"` // of the provenance that counts
	// Checks in order: content, signature, provenance, sbom, lock.
	Checks []Result `json:"checks"`
}

// OK reports whether no check failed.
func (r Report) OK() bool {
	return !slices.ContainsFunc(r.Checks, func(c Result) bool { return c.State == Failed })
}

// Verify reads the image NAME@DIGEST and what is attached to it back from a registry, and
// holds it to the policy. All checks are made. The error joins a [*CheckError] for each
// that failed.
func Verify(ctx context.Context, from Registry, name, digest string, p Policy) (Report, error) {
	v := &verification{
		Policy: p, name: name, digest: digest,
		report: Report{Image: name, Digest: digest},
	}
	var err error
	if v.repository, err = openRepository(ctx, from, name, false); err != nil {
		v.say(CheckContent, err, "")
		return v.report, errors.Join(v.errs...)
	}
	var g errgroup.Group
	g.Go(func() error {
		v.read(ctx)
		return nil
	})
	v.content(ctx)
	_ = g.Wait()
	if err := ctx.Err(); err != nil {
		return v.report, err
	}
	v.signature()
	v.documents()
	v.lock(ctx)
	return v.report, errors.Join(v.errs...)
}

// verification is Verify at work.
type verification struct {
	repository
	Policy
	name, digest string
	report       Report
	errs         []error

	program  bool      // a program or an archive of the nodes, and no image
	archive  bool      // an archive
	cTools   []string  // that the provenance names
	listErr  error     // of the list of referrers
	trusted  []trusted // statements by a trusted key
	rejected []error   // why the others do not count
}

type trusted struct {
	statement
	key PublicKey
}

func (v *verification) what() string {
	switch {
	case v.archive:
		return "archive"
	case v.program:
		return "program"
	}
	return "image"
}

func (v *verification) say(check string, err error, format string, a ...any) {
	r := Result{Check: check, State: Passed, Detail: fmt.Sprintf(format, a...)}
	if err != nil {
		r.State, r.Detail = Failed, err.Error()
		v.errs = append(v.errs, &CheckError{What: v.what(), Image: v.name + "@" + v.digest, Check: check, Err: err, Advice: v.advice(err)})
	}
	v.report.Checks = append(v.report.Checks, r)
}

func (v *verification) skip(check, why string) {
	v.report.Checks = append(v.report.Checks, Result{Check: check, State: Skipped, Detail: why})
}

func (v *verification) advice(err error) string {
	switch {
	case errors.Is(err, ErrBuilder):
		return "if that builder is right, name it in images.builders of orrery.yaml; if not, do not run the " + v.what()
	case v.program && (errors.Is(err, ErrTampered) || errors.Is(err, ErrSwapped) || errors.Is(err, ErrUnsigned)):
		return "the nodes' programs or what was said of them changed since they were put there:" +
			" find out who did it. 'orrery down' and 'orrery up' make them anew"
	case !v.program && !v.mirror:
		return v.adviceElsewhere(err)
	case errors.Is(err, ErrTampered), errors.Is(err, ErrSwapped):
		return "somebody changed the mirror behind its back; find out who. 'orrery down' and 'orrery up' make it anew"
	case errors.Is(err, ErrWrongKey):
		return "if that signer is right, put its public key into images.trustedKeys of orrery.yaml; if not, do not run the image"
	case errors.Is(err, ErrUnsigned):
		return "'orrery up' signs what it builds; an image from elsewhere needs a signature by a key of images.trustedKeys"
	case errors.Is(err, ErrProvenance), errors.Is(err, ErrSBOM):
		return "'orrery up' attaches those of what it builds; 'orrery lock --check' says whether the lock or the image is behind"
	case errors.Is(err, ErrNotLocked):
		return "'orrery lock --check' says what differs; if the change is meant, 'orrery lock' and commit"
	}
	return "is the environment running? 'orrery status' says"
}

// adviceElsewhere is about an image in a registry that is not the environment's own.
func (v *verification) adviceElsewhere(err error) string {
	push := "'orrery images push " + v.name + "'"
	switch {
	case errors.Is(err, ErrTampered), errors.Is(err, ErrSwapped):
		return "somebody changed what " + v.where + " has: find out who; " + push + " puts it there again"
	case errors.Is(err, ErrWrongKey):
		return "if that signer is right, as another machine that pushed it, put its public key into images.trustedKeys" +
			" of orrery.yaml; if not, do not run the image"
	case errors.Is(err, ErrUnsigned), errors.Is(err, ErrProvenance), errors.Is(err, ErrSBOM), absent(err):
		return push + " pushes it from where it was built, and signs it"
	case errors.Is(err, ErrNotLocked):
		return "'orrery lock --check' says what differs; " + push + " pushes what is locked"
	}
	return "can the registry be reached, and may you read it? Credentials are those of docker login and podman login"
}

// content: what is under the digest has that digest.
func (v *verification) content(ctx context.Context) {
	raw, err := v.repository.manifest(ctx, v.digest)
	if absent(err) {
		v.say(CheckContent, fmt.Errorf("%s does not have it: %w", v.where, err), "")
		return
	}
	if err != nil || !v.Thorough {
		v.say(CheckContent, err, "the manifest has its digest; nodes hash the layers when they pull")
		return
	}
	m, err := v.platform(ctx, raw)
	if err != nil {
		v.say(CheckContent, err, "")
		return
	}
	blobs := m.Blobs()
	errs := make([]error, len(blobs))
	var size int64
	var g errgroup.Group
	g.SetLimit(4)
	for i, d := range blobs {
		size += d.Size
		g.Go(func() error {
			errs[i] = v.checkBlob(ctx, d)
			return nil
		})
	}
	_ = g.Wait()
	v.say(CheckContent, errors.Join(errs...), "manifest and %d blobs (%.1f MB) have their digests", len(blobs), float64(size)/1e6)
}

// platform is the manifest itself, or that one of an index of several platforms which the
// mirror has: it gets this machine's only.
func (v *verification) platform(ctx context.Context, raw []byte) (oci.Manifest, error) {
	m, err := oci.Parse(raw, oci.MaxLayers)
	if err != nil {
		return m, mistake(ErrTampered, "the manifest: %w", err)
	}
	if !m.IsIndex() {
		return m, nil
	}
	for _, d := range m.Manifests {
		raw, err := v.repository.manifest(ctx, d.Digest.String())
		if absent(err) {
			continue
		}
		if err != nil {
			return m, err
		}
		of, err := oci.Parse(raw, oci.MaxLayers)
		if err != nil {
			return m, mistake(ErrTampered, "manifest %s of the index: %w", d.Digest, err)
		}
		return of, nil
	}
	return m, fmt.Errorf("of an index of several platforms %s has no image", v.where)
}

// read gets everything that is attached, and sorts out what a trusted key signed.
func (v *verification) read(ctx context.Context) {
	list, _, err := v.referrers(ctx, v.digest)
	if err != nil {
		v.listErr = err
		return
	}
	for _, a := range v.repository.attached(ctx, list) {
		if a.foreign {
			continue
		}
		if a.err != nil {
			v.rejected = append(v.rejected, a.err)
			continue
		}
		s, key, err := a.bundle.verify(v.Keys)
		if err != nil {
			v.rejected = append(v.rejected, err)
			continue
		}
		v.trusted = append(v.trusted, trusted{s, key})
	}
}

func (v *verification) signature() {
	var other error
	for _, t := range v.trusted {
		if t.PredicateType != SignaturePredicate {
			continue
		}
		if t.about(v.digest) {
			v.report.Signer = t.key.Fingerprint()
			v.say(CheckSignature, nil, "by %s", v.report.Signer)
			return
		}
		other = mistake(ErrSwapped, "a signature of another image is attached to it")
	}
	v.say(CheckSignature, v.worst(other, ErrUnsigned, "no signature is attached"), "")
}

// worst is why nothing that counts was found: the list could not be read, something is
// about another image, was tampered with, is by another key, or is not there.
func (v *verification) worst(other, missing error, format string) error {
	for _, err := range []error{v.listErr, other} {
		if err != nil {
			return err
		}
	}
	for _, kind := range []error{ErrTampered, ErrSwapped, ErrWrongKey} {
		for _, err := range v.rejected {
			if errors.Is(err, kind) {
				return err
			}
		}
	}
	if len(v.rejected) > 0 {
		return errors.Join(v.rejected...)
	}
	return mistake(missing, "%s", format)
}

// documents checks provenance and bill of materials.
func (v *verification) documents() {
	if v.Foreign {
		v.skip(CheckProvenance, "it is not built here")
		v.skip(CheckSBOM, "it is not built here")
		return
	}
	v.document(CheckProvenance, ProvenancePredicate, ErrProvenance, func(s statement) (string, error) {
		builder, err := v.provenance(s.Predicate)
		v.report.Builder = builder
		return "by " + builder, err
	})
	v.document(CheckSBOM, SBOMPredicate, ErrSBOM, func(s statement) (string, error) {
		return "CycloneDX", v.sbom(s.Predicate)
	})
}

// document passes when one statement of the type counts.
func (v *verification) document(check, predicateType string, kind error, of func(statement) (string, error)) {
	var why error
	for _, t := range v.trusted {
		if t.PredicateType != predicateType {
			continue
		}
		if !t.about(v.digest) {
			why = mistake(kind, "it is about another digest: %s", subjects(t.statement))
			continue
		}
		detail, err := of(t.statement)
		if err == nil {
			v.say(check, nil, "%s", detail)
			return
		}
		why = err
	}
	if why == nil {
		why = v.worst(nil, kind, "none is attached")
		if !errors.Is(why, kind) {
			why = fmt.Errorf("%w: %w", kind, why)
		}
	}
	v.say(check, why, "")
}

func subjects(s statement) string {
	var all []string
	for _, sub := range s.Subject {
		all = append(all, "sha256:"+sub.Digest["sha256"])
	}
	return fmt.Sprint(all)
}

func (v *verification) lock(ctx context.Context) {
	switch {
	case v.Foreign:
		v.skip(CheckLock, "it is not built here")
		return
	case v.Locked == nil:
		v.skip(CheckLock, "there is no lock for this platform")
		return
	}
	if why := v.Locked.Omitted["image "+v.name]; why != "" {
		v.skip(CheckLock, "the lock leaves it out: "+why)
		return
	}
	entry, ok := v.Locked.Images[v.name]
	var err error
	switch {
	case !ok:
		err = mistake(ErrNotLocked, "the lock does not have it")
	case entry.Digest != v.digest:
		err = mistake(ErrNotLocked, "locked is %s", entry.Digest)
	case v.Thorough:
		var at string
		if at, err = v.tagged(ctx, entry.Version); err == nil && at != v.digest {
			err = mistake(ErrSwapped, "the tag %s is at %q", entry.Version, at)
		}
	}
	v.say(CheckLock, err, "the digest is the locked one")
}
