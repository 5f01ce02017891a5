package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/oci"
)

// Documents are what is said of an image besides its signature. One that is nil is not
// attached.
type Documents struct {
	SBOM       []byte // CycloneDX JSON
	Provenance []byte // an in-toto statement with SLSA provenance v1
}

// Attach signs the image NAME@DIGEST in a registry and attaches its documents, signed too,
// as OCI referrers that cosign finds. What is there already, says the same and is by the
// same key stays as it is. What the environment's former keys signed is taken away; what
// others signed is not touched.
func Attach(ctx context.Context, to Registry, name, digest string, key *Key, docs Documents) error {
	return attach(ctx, to, name, digest, key, docs, false)
}

// Renew is Attach that signs what the same key signed before, too, and replaces it.
func Renew(ctx context.Context, to Registry, name, digest string, key *Key, docs Documents) error {
	return attach(ctx, to, name, digest, key, docs, true)
}

func attach(ctx context.Context, to Registry, name, digest string, key *Key, docs Documents, anew bool) error {
	r, err := openRepository(ctx, to, name, true)
	if err == nil {
		err = r.attach(ctx, digest, key, docs, anew)
	}
	if err != nil {
		return fmt.Errorf("sign %s@%s in %s: %w", name, digest, to, err)
	}
	return nil
}

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
	image, err := oci.Parse(raw, oci.MaxLayers)
	if err != nil {
		return fmt.Errorf("the image's manifest: %w", err)
	}
	list, byTag, err := r.referrers(ctx, digest)
	if err != nil {
		return err
	}
	ours := append([]string{key.public.hint()}, key.retired...)
	var keep, stale []v1.Descriptor
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
	subject := oci.Describe(image.Type(), raw) // which has the digest: it was read by that
	made, err := r.putAll(ctx, key, want, &subject)
	if err != nil {
		return err
	}
	if len(made)+len(stale) == 0 {
		return nil
	}
	if byTag {
		data, err := json.Marshal(oci.Index{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: append(made, keep...)})
		if err != nil {
			return err
		}
		if err := r.putManifest(ctx, oci.ReferrersTag(digest), types.OCIImageIndex, data); err != nil {
			return fmt.Errorf("list the referrers: %w", err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range stale {
		g.Go(func() error {
			if err := r.deleteManifest(ctx, d.Digest.String()); err != nil {
				return fmt.Errorf("remove what a former key signed: %w", err)
			}
			return nil
		})
	}
	return g.Wait()
}

// putAll signs and uploads what is not there yet, side by side.
func (r repository) putAll(ctx context.Context, key *Key, want []*wanted, subject *v1.Descriptor) ([]v1.Descriptor, error) {
	want = slices.DeleteFunc(want, func(w *wanted) bool { return w.there })
	made := make([]v1.Descriptor, len(want))
	if len(want) > 0 { // of all that are attached
		if _, err := r.putBlob(ctx, []byte(oci.EmptyContent)); err != nil {
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
func (r repository) put(ctx context.Context, key *Key, w *wanted, subject *v1.Descriptor) (v1.Descriptor, error) {
	b, err := key.signStatement(w.payload)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if _, err := r.putBlob(ctx, b); err != nil {
		return v1.Descriptor{}, err
	}
	m := oci.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: bundleType,
		Config: oci.Empty(), Layers: []v1.Descriptor{oci.Describe(bundleType, b)}, Subject: subject,
		Annotations: map[string]string{
			"dev.sigstore.bundle.content":       "dsse-envelope",
			"dev.sigstore.bundle.predicateType": w.predicateType,
		},
	}
	data, err := json.Marshal(m)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := oci.Describe(types.OCIManifestSchema1, data)
	d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
	return d, r.putManifest(ctx, d.Digest.String(), d.MediaType, data)
}

// attachment is a referrer of an image, read and hashed but not believed.
type attachment struct {
	descriptor v1.Descriptor
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
func (r repository) attached(ctx context.Context, list []v1.Descriptor) []attachment {
	all := make([]attachment, len(list))
	var g errgroup.Group
	g.SetLimit(4)
	bundles := 0
	for i, d := range list {
		all[i] = attachment{descriptor: d, foreign: !mayBeBundle(d)}
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
func mayBeBundle(d v1.Descriptor) bool {
	return d.MediaType == types.OCIManifestSchema1 && (d.ArtifactType == "" || d.ArtifactType == emptyConfig || d.ArtifactType == bundleType)
}

// emptyConfig is what some registries say of an artifact whose configuration is empty.
const emptyConfig = "application/vnd.oci.empty.v1+json"

func (r repository) attachment(ctx context.Context, d v1.Descriptor) attachment {
	a := attachment{descriptor: d}
	raw, err := r.manifest(ctx, d.Digest.String())
	if err != nil {
		a.err = err
		return a
	}
	m, err := oci.Parse(raw, oci.MaxLayers)
	if err != nil || len(m.Layers) != 1 || m.Layers[0].MediaType != bundleType {
		a.foreign = true
		return a
	}
	data, err := r.blob(ctx, m.Layers[0].Digest.String())
	if err != nil {
		a.err = err
		return a
	}
	if a.bundle, err = parseBundle(data); err != nil {
		a.err = mistake(ErrTampered, "%s: %w", d.Digest, err)
	}
	return a
}
