package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/mirror"
)

// Documents are what is said of an image besides its signature. One that is nil is not
// attached.
type Documents struct {
	SBOM       []byte // CycloneDX JSON
	Provenance []byte // an in-toto statement with SLSA provenance v1
}

// Attach signs the image NAME@DIGEST in the mirror and attaches its documents, signed too,
// as OCI referrers that cosign finds. What is there already, says the same and is by the
// same key stays as it is. What the environment's former keys signed is taken away; what
// others signed is not touched.
func Attach(ctx context.Context, to mirror.Mirror, name, digest string, key *Key, docs Documents) error {
	return attach(ctx, to, name, digest, key, docs, false)
}

// Renew is Attach that signs what the same key signed before, too, and replaces it.
func Renew(ctx context.Context, to mirror.Mirror, name, digest string, key *Key, docs Documents) error {
	return attach(ctx, to, name, digest, key, docs, true)
}

func attach(ctx context.Context, to mirror.Mirror, name, digest string, key *Key, docs Documents, anew bool) error {
	if err := openRepository(to, name).attach(ctx, digest, key, docs, anew); err != nil {
		return fmt.Errorf("sign %s@%s in %s: %w", name, digest, to, err)
	}
	return nil
}

// emptyContent is what a configuration of the type [emptyConfig] consists of.
const emptyContent = "{}"

// wanted is a statement that is to be attached.
type wanted struct {
	predicateType string
	payload       []byte
	there         bool
}

func statements(digest string, docs Documents) ([]*wanted, error) {
	signature, err := makeStatement(digest, SignaturePredicate, []byte("{}"))
	if err != nil {
		return nil, err
	}
	all := []*wanted{{predicateType: SignaturePredicate, payload: signature}}
	if docs.SBOM != nil {
		sbom, err := makeStatement(digest, SBOMPredicate, docs.SBOM)
		if err != nil {
			return nil, err
		}
		all = append(all, &wanted{predicateType: SBOMPredicate, payload: sbom})
	}
	if docs.Provenance != nil {
		var s statement
		if err := json.Unmarshal(docs.Provenance, &s); err != nil {
			return nil, fmt.Errorf("the provenance: %w", err)
		}
		if s.Type != statementType || s.PredicateType != ProvenancePredicate || !s.about(digest) {
			return nil, fmt.Errorf("the provenance is not an in-toto statement with SLSA provenance v1 about %s", digest)
		}
		all = append(all, &wanted{predicateType: ProvenancePredicate, payload: docs.Provenance})
	}
	return all, nil
}

func (r repository) attach(ctx context.Context, digest string, key *Key, docs Documents, anew bool) error {
	want, err := statements(digest, docs)
	if err != nil {
		return err
	}
	raw, err := r.manifest(ctx, digest)
	if err != nil {
		return err
	}
	var image manifest
	if err := json.Unmarshal(raw, &image); err != nil {
		return fmt.Errorf("the image's manifest: %w", err)
	}
	list, byTag, err := r.referrers(ctx, digest)
	if err != nil {
		return err
	}
	ours := append([]string{key.public.hint()}, key.retired...)
	var keep, stale []descriptor
	for _, a := range r.attached(ctx, list) {
		switch w := a.answers(want, key.public); {
		case a.err != nil && ctx.Err() != nil:
			return ctx.Err()
		case w != nil && !w.there && !anew:
			w.there = true
			keep = append(keep, a.descriptor)
		case w != nil, a.damaged(), a.err == nil && slices.Contains(ours, a.bundle.Verification.PublicKey.Hint):
			stale = append(stale, a.descriptor)
		default:
			keep = append(keep, a.descriptor)
		}
	}
	subject := &descriptor{MediaType: image.MediaType, Digest: digest, Size: int64(len(raw))}
	made, err := r.putAll(ctx, key, want, subject)
	if err != nil {
		return err
	}
	if len(made)+len(stale) == 0 {
		return nil
	}
	if byTag {
		data, err := json.Marshal(index{SchemaVersion: 2, MediaType: ociIndex, Manifests: append(made, keep...)})
		if err != nil {
			return err
		}
		if err := r.putManifest(ctx, referrersTag(digest), ociIndex, data); err != nil {
			return fmt.Errorf("list the referrers: %w", err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range stale {
		g.Go(func() error {
			if err := r.deleteManifest(ctx, d.Digest); err != nil {
				return fmt.Errorf("remove what a former key signed: %w", err)
			}
			return nil
		})
	}
	return g.Wait()
}

// putAll signs and uploads what is not there yet, side by side.
func (r repository) putAll(ctx context.Context, key *Key, want []*wanted, subject *descriptor) ([]descriptor, error) {
	want = slices.DeleteFunc(want, func(w *wanted) bool { return w.there })
	made := make([]descriptor, len(want))
	if len(want) > 0 { // of all that are attached
		if _, err := r.putBlob(ctx, []byte(emptyContent)); err != nil {
			return nil, err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, w := range want {
		g.Go(func() error {
			var err error
			if made[i], err = r.put(ctx, key, w, subject); err != nil {
				return fmt.Errorf("attach %s: %w", w.predicateType, err)
			}
			return nil
		})
	}
	return made, g.Wait()
}

// put signs a statement and uploads it as a referrer of the image.
func (r repository) put(ctx context.Context, key *Key, w *wanted, subject *descriptor) (descriptor, error) {
	b, err := key.signStatement(w.payload)
	if err != nil {
		return descriptor{}, err
	}
	blob, err := r.putBlob(ctx, b)
	if err != nil {
		return descriptor{}, err
	}
	m := manifest{
		SchemaVersion: 2, MediaType: ociManifest, ArtifactType: bundleType,
		Config:  descriptor{MediaType: emptyConfig, Digest: digestOf([]byte(emptyContent)), Size: int64(len(emptyContent))},
		Layers:  []descriptor{{MediaType: bundleType, Digest: blob, Size: int64(len(b))}},
		Subject: subject,
		Annotations: map[string]string{
			"dev.sigstore.bundle.content":       "dsse-envelope",
			"dev.sigstore.bundle.predicateType": w.predicateType,
		},
	}
	data, err := json.Marshal(m)
	if err != nil {
		return descriptor{}, err
	}
	digest := digestOf(data)
	if err := r.putManifest(ctx, digest, ociManifest, data); err != nil {
		return descriptor{}, err
	}
	return descriptor{MediaType: ociManifest, ArtifactType: bundleType, Digest: digest, Size: int64(len(data)), Annotations: m.Annotations}, nil
}

// attachment is a referrer of an image, read and hashed but not believed.
type attachment struct {
	descriptor descriptor
	bundle     bundle
	foreign    bool // no sigstore bundle: somebody else's
	err        error
}

// damaged: it is not what its digest says, no bundle though it says so, or not there.
func (a attachment) damaged() bool {
	return absent(a.err) || errors.Is(a.err, ErrTampered) || errors.Is(a.err, ErrSwapped)
}

// answers returns the wanted statement that a is, signed by the key; nil when it is none.
func (a attachment) answers(want []*wanted, key PublicKey) *wanted {
	if a.err != nil || a.foreign {
		return nil
	}
	for _, w := range want {
		if string(a.bundle.Envelope.Payload) != string(w.payload) {
			continue
		}
		if _, _, err := a.bundle.verify([]PublicKey{key}); err == nil {
			return w
		}
	}
	return nil
}

// attached reads the bundles among the referrers. What says that it is something else is not
// read, and of a list that is too long only the beginning, where ours are: whatever others
// attach, however much, keeps nobody from finding what counts.
func (r repository) attached(ctx context.Context, list []descriptor) []attachment {
	all := make([]attachment, len(list))
	var g errgroup.Group
	g.SetLimit(4)
	bundles := 0
	for i, d := range list {
		all[i] = attachment{descriptor: d, foreign: !d.mayBeBundle()}
		if all[i].foreign {
			continue
		}
		if bundles++; bundles > maxBundles {
			all[i].err = fmt.Errorf("%s is not read: more than %d bundles are attached to the image", d.Digest, maxBundles)
			continue
		}
		g.Go(func() error {
			all[i] = r.attachment(ctx, d)
			return nil
		})
	}
	_ = g.Wait()
	return all
}

// mayBeBundle: registries differ in what they call an artifact's type, and may leave it out.
func (d descriptor) mayBeBundle() bool {
	return d.MediaType == ociManifest && (d.ArtifactType == "" || d.ArtifactType == emptyConfig || d.ArtifactType == bundleType)
}

func (r repository) attachment(ctx context.Context, d descriptor) attachment {
	a := attachment{descriptor: d}
	raw, err := r.manifest(ctx, d.Digest)
	if err != nil {
		a.err = err
		return a
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil || len(m.Layers) != 1 || m.Layers[0].MediaType != bundleType {
		a.foreign = true
		return a
	}
	data, err := r.blob(ctx, m.Layers[0].Digest)
	if err != nil {
		a.err = err
		return a
	}
	if a.bundle, err = parseBundle(data); err != nil {
		a.err = mistake(ErrTampered, "%s: %w", d.Digest, err)
	}
	return a
}
