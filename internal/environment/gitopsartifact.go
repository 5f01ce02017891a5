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
	inventories, err := client.Inventories(ctx)
	if err != nil {
		return nil, err
	}
	src, err := p.source(ctx, client, "", p.warn)
	if err != nil {
		return nil, err
	}
	defer src.close()
	_, before, err := p.pushedBefore(ctx, src)
	if err != nil {
		return nil, err
	}
	parts, err := p.pushables(ctx, client, src, inventories, before)
	if err != nil {
		return nil, err
	}
	changes := map[string][]kube.Change{}
	compare := func(name, revision string, now []*unstructured.Unstructured) error {
		var was []*unstructured.Unstructured
		if revision != "" {
			text, err := src.manifest(ctx, name, revision)
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
		if before[c.Name] != c.Revision {
			if err := compare(c.Name, before[c.Name], c.Objects); err != nil {
				return nil, err
			}
		}
		delete(before, c.Name)
	}
	for name, revision := range before {
		if err := compare(name, revision, nil); err != nil {
			return nil, err
		}
	}
	return changes, nil
}

// artifacts are in the mirror.
type artifacts struct {
	driver.Mirrored
	warn func(string, ...any)
}

func (a artifacts) where() gitops.Source { return gitops.OCI(a.MirrorInside()) }

func (a artifacts) name() string { return gitops.Repository + ":" + gitops.Tag + " of the mirror" }

func (a artifacts) close() {}

func (a artifacts) followed(ctx context.Context) (string, error) {
	digest, err := current(ctx, a.Mirror(), mirrorTime)
	if answered(err) {
		err = unreadable{err}
	}
	return digest, err
}

func (a artifacts) manifest(ctx context.Context, _, digest string) ([]byte, error) {
	return read(ctx, a.Mirror(), gitops.Repository+"@"+digest)
}

func (a artifacts) revise(_ context.Context, parts []pushable, _ map[string]string) error {
	for i, c := range parts {
		artifact, err := gitops.Artifact(c.manifest)
		if err != nil {
			return fmt.Errorf("component %s: %w", c.Name, err)
		}
		digest, err := artifact.Digest()
		if err != nil {
			return fmt.Errorf("component %s: %w", c.Name, err)
		}
		parts[i].artifact, parts[i].Revision = artifact, digest.String()
	}
	return nil
}

func (a artifacts) put(ctx context.Context, parts []pushable) (mended []string, err error) {
	for _, c := range parts {
		again, err := a.write(ctx, gitops.Repository+"@"+c.Revision, c.artifact)
		if err != nil {
			return nil, err
		}
		if again {
			mended = append(mended, c.Name)
		}
	}
	return mended, nil
}

func (a artifacts) follow(ctx context.Context, applications []byte) (string, error) {
	root, err := gitops.Artifact(applications)
	if err != nil {
		return "", err
	}
	digest, err := root.Digest()
	if err != nil {
		return "", err
	}
	_, err = a.write(ctx, gitops.Repository+":"+gitops.Tag, root)
	return digest.String(), err
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

// write writes an artifact, and reads it back. A registry takes nothing that it has, so what was damaged on its disk
// has to be forgotten before it is written again.
func (a artifacts) write(ctx context.Context, ref string, artifact v1.Image) (mended bool, err error) {
	m := a.Mirror()
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
	removed, err := a.MendMirror(ctx, parts)
	if err != nil || len(removed) == 0 {
		return false, errors.Join(damaged, err)
	}
	a.warn("%s was damaged in the mirror, and is written anew: %v", ref, damaged)
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
