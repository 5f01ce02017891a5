package environment

import (
	"context"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

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
	before, err := p.pushedBefore(ctx, m)
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
				return err
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

// pushedBefore are the digests of the artifacts that the last push pointed to, by component. What somebody put
// in the place of that and cannot be read points to nothing: a push is what mends it.
func (p *Platform) pushedBefore(ctx context.Context, m mirror.Mirror) (map[string]string, error) {
	digests := map[string]string{}
	digest, err := current(ctx, m, mirrorTime)
	if err != nil || digest == "" {
		return digests, err
	}
	var apps []*unstructured.Unstructured
	text, err := read(ctx, m, gitops.Repository+"@"+digest)
	if err == nil {
		apps, err = kube.Objects(text)
	}
	if err != nil {
		p.warn("what %s:%s of the mirror points to is nothing that was pushed: %v", gitops.Repository, gitops.Tag, err)
	}
	for _, a := range apps {
		digests[a.GetName()], _, _ = unstructured.NestedString(a.Object, "spec", "source", "targetRevision")
	}
	return digests, nil
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

func read(ctx context.Context, m mirror.Mirror, ref string) ([]byte, error) {
	from, err := reference(m, ref)
	if err != nil {
		return nil, err
	}
	artifact, err := remote.Image(from, remote.WithContext(ctx), remote.WithAuth(m))
	if err != nil {
		return nil, fmt.Errorf("read %s of the mirror: %w", ref, err)
	}
	return gitops.Manifest(artifact)
}
