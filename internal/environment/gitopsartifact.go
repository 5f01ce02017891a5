package environment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/mirror"
)

// GitOpsDiff is what a push would change, by component.
func (p *Platform) GitOpsDiff(ctx context.Context) (map[string][]kube.Change, error) {
	client, err := p.kube(ctx)
	if err != nil {
		return nil, err
	}
	m, err := p.Mirror()
	if err != nil {
		return nil, err
	}
	inventories, err := client.Inventories(ctx)
	if err != nil {
		return nil, err
	}
	_, before, err := p.pushedBefore(ctx, m)
	if err != nil {
		return nil, err
	}
	parts, err := p.pushables(ctx, client, m, inventories)
	if err != nil {
		return nil, err
	}
	changes := map[string][]kube.Change{}
	compare := func(name, digest string, now []*unstructured.Unstructured) error {
		var was []*unstructured.Unstructured
		if digest != "" {
			text, err := read(ctx, m, gitops.Repository+"@"+digest)
			if err != nil {
				return fmt.Errorf("%s as it was pushed: %w; 'orrery gitops push%s' mends it", name, err, p.Flag())
			}
			if was, err = kube.Objects(text); err != nil {
				return err
			}
		}
		found, err := kube.Compare(was, now)
		if len(found) > 0 {
			changes[name] = found
		}
		return err
	}
	for _, c := range parts {
		if before[c.Name] != c.Digest {
			if err := compare(c.Name, before[c.Name], c.Objects); err != nil {
				return nil, err
			}
		}
		delete(before, c.Name)
	}
	for name, digest := range before {
		if err := compare(name, digest, nil); err != nil {
			return nil, err
		}
	}
	return changes, nil
}

// pushedBefore is what the tag points to, and the digests of the artifacts that this points to, by component.
// What somebody put in the place of that and cannot be read points to nothing: a push is what mends it.
func (p *Platform) pushedBefore(ctx context.Context, m mirror.Mirror) (tag string, digests map[string]string, err error) {
	digests = map[string]string{}
	tag, err = current(ctx, m, mirrorTime)
	if err != nil && !answered(err) || err == nil && tag == "" {
		return "", digests, err
	}
	var apps []*unstructured.Unstructured
	if err == nil {
		var text []byte
		if text, err = read(ctx, m, gitops.Repository+"@"+tag); err == nil {
			apps, err = kube.Objects(text)
		}
	}
	if err != nil {
		p.warn("what %s:%s of the mirror points to is nothing that was pushed: %v", gitops.Repository, gitops.Tag, err)
	}
	for _, a := range apps {
		digests[a.GetName()], _, _ = unstructured.NestedString(a.Object, "spec", "source", "targetRevision")
	}
	return tag, digests, nil
}

// mirrorTime is how long a mirror that takes connections and says nothing is waited for.
const mirrorTime = 10 * time.Second

// current is the digest of what Argo CD follows; empty when nothing was pushed.
func current(ctx context.Context, m mirror.Mirror, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	return image.Tagged(ctx, m, gitops.Repository, gitops.Tag)
}

func reference(m mirror.Mirror, ref string) (name.Reference, error) {
	return name.ParseReference(m.Address+"/"+ref, name.Insecure, name.StrictValidation)
}

func write(ctx context.Context, m mirror.Mirror, ref string, artifact v1.Image) error {
	to, err := reference(m, ref)
	if err == nil {
		err = remote.Write(to, artifact, remote.WithContext(ctx), remote.WithAuth(m), remote.WithJobs(2))
	}
	if err != nil {
		return fmt.Errorf("push %s to the mirror: %w", ref, err)
	}
	return nil
}

// put writes an artifact, and reads it back. A registry takes nothing that it has, so what was damaged on its disk
// has to be forgotten before it is written again.
func (p *Platform) put(ctx context.Context, d driver.Mirrored, ref string, artifact v1.Image) (mended bool, err error) {
	m := d.Mirror()
	digest, err := artifact.Digest()
	if err != nil {
		return false, err
	}
	try := func() error {
		err := write(ctx, m, ref, artifact)
		if err == nil {
			_, err = read(ctx, m, gitops.Repository+"@"+digest.String())
		}
		return err
	}
	damaged := try()
	if damaged == nil {
		return false, nil
	}
	manifest, err := artifact.Manifest()
	if err != nil {
		return false, err
	}
	parts := []string{digest.String(), manifest.Config.Digest.String()}
	for _, l := range manifest.Layers {
		parts = append(parts, l.Digest.String())
	}
	removed, err := d.MendMirror(ctx, parts)
	if err != nil || len(removed) == 0 {
		return false, errors.Join(damaged, err)
	}
	p.warn("%s was damaged in the mirror, and is written anew: %v", ref, damaged)
	if err := writeBlobs(ctx, m, ref, artifact); err != nil {
		return false, err
	}
	return true, try()
}

// writeBlobs writes what an artifact consists of. Of one whose manifest is there, [remote.Write] does not look for it.
func writeBlobs(ctx context.Context, m mirror.Mirror, ref string, artifact v1.Image) error {
	to, err := reference(m, ref)
	if err != nil {
		return err
	}
	blobs, err := artifact.Layers()
	if err != nil {
		return err
	}
	config, err := partial.ConfigLayer(artifact)
	if err != nil {
		return err
	}
	for _, b := range append(blobs, config) {
		if err := remote.WriteLayer(to.Context(), b, remote.WithContext(ctx), remote.WithAuth(m)); err != nil {
			return fmt.Errorf("push %s to the mirror: %w", ref, err)
		}
	}
	return nil
}

func read(ctx context.Context, m mirror.Mirror, ref string) ([]byte, error) {
	from, err := reference(m, ref)
	if err != nil {
		return nil, err
	}
	artifact, err := remote.Image(from, remote.WithContext(ctx), remote.WithAuth(m))
	if err != nil {
		return nil, fmt.Errorf("read %s of the mirror: %w", ref, err)
	}
	// There is nothing in it, but Argo CD fetches it too.
	if _, err := artifact.RawConfigFile(); err != nil {
		return nil, fmt.Errorf("read the configuration of %s of the mirror: %w", ref, err)
	}
	return gitops.Manifest(artifact)
}

// answered tells a registry that says no from one that says nothing.
func answered(err error) bool {
	var no *transport.Error
	return errors.As(err, &no)
}

// damaged says which of what Argo CD follows is not in the mirror as it was pushed, and why.
func damaged(ctx context.Context, m mirror.Mirror, g GitOps) (lines []string) {
	for _, a := range g.Applications {
		digest := a.Revision
		if a.Component == gitops.Root {
			digest = g.Revision
		}
		if digest == "" {
			continue
		}
		if _, err := read(ctx, m, gitops.Repository+"@"+digest); err != nil {
			lines = append(lines, fmt.Sprintf("%s: %v", a.Component, err))
		}
	}
	return lines
}
