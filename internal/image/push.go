package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/mirror"
)

// Push uploads an image to a mirror, layers in
// parallel, leaving out those that it has. When NAME:VERSION is that image already,
// nothing is sent. Of an index that was pulled, it gets the index and this platform's image.
func Push(ctx context.Context, to mirror.Mirror, built Built) error {
	return push(ctx, to.Address, built, []name.Option{name.Insecure, name.StrictValidation}, remote.WithContext(ctx), remote.WithAuth(to), remote.WithJobs(4))
}

// Published is a registry of the person's that images are pushed to and read back from.
type Published struct {
	*Registries
	// Address is HOST[:PORT][/PATH]. Over TLS unless it is on this machine, with the credentials
	// that pulls have.
	Address string
}

func (p Published) String() string { return p.Address }

// Push is [Push] to it.
func (p Published) Push(ctx context.Context, built Built) error {
	return push(ctx, p.Address, built, []name.Option{name.StrictValidation}, remote.WithContext(ctx), remote.WithJobs(4),
		remote.WithAuthFromKeychain(p.opts.Keychain), remote.WithTransport(tlsOnly{p.transport}))
}

// Repository is the URL of what it has under an image's name, and a client that may read that
// and, with write, push to it. An error wraps [ErrNotReachable], also where there is no such right.
func (p Published) Repository(ctx context.Context, image string, write bool) (url string, client *http.Client, err error) {
	repo, err := name.NewRepository(p.Address+"/"+image, name.StrictValidation)
	if err != nil {
		return "", nil, err
	}
	scope := transport.PullScope
	if write {
		scope = transport.PushScope
	}
	if client, err = p.client(ctx, repo, scope); err != nil {
		return "", nil, notReachable(repo.Name(), err)
	}
	return urlOf(repo), client, nil
}

func push(ctx context.Context, registry string, built Built, names []name.Option, options ...remote.Option) error {
	fail := func(err error) error {
		return fmt.Errorf("push %s:%s to %s: %w", built.Name, built.Version, registry, err)
	}
	tag, err := tagOf(registry, built, names...)
	if err != nil {
		return fail(err)
	}
	digest, err := v1.NewHash(built.Digest)
	if err != nil {
		return fail(err)
	}
	there, err := held(tag, options...)
	if err != nil {
		return fail(err)
	}
	if there == digest {
		return nil
	}
	store := layout{dir: built.Layout}
	unlock, err := store.lock(ctx, filelock.Shared)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	r, ok := store.pulled(built)
	if !ok {
		r, ok = store.sparse(built)
	}
	if ok {
		if err := store.pushPulled(tag, r, options); err != nil {
			return fail(err)
		}
		return nil
	}
	img, err := ggcrlayout.Path(built.Layout).Image(digest)
	if err != nil {
		return fail(err)
	}
	if err := store.verify(digest, img); err != nil {
		return fail(err)
	}
	if err := remote.Write(tag, img, options...); err != nil {
		return fail(err)
	}
	return nil
}

// Pushed says whether the mirror holds just this image under NAME:VERSION. A
// registry that does not answer holds nothing.
func Pushed(ctx context.Context, to mirror.Mirror, built Built) bool {
	tag, err := tagOf(to.Address, built, name.Insecure, name.StrictValidation)
	if err != nil {
		return false
	}
	there, err := held(tag, remote.WithContext(ctx), remote.WithAuth(to))
	return err == nil && there.String() == built.Digest
}

// Tagged is the digest that a tag of the mirror names; empty when there is no such tag.
func Tagged(ctx context.Context, in mirror.Mirror, repository, tag string) (digest string, err error) {
	ref, err := name.NewTag(in.Address+"/"+repository+":"+tag, name.Insecure, name.StrictValidation)
	if err != nil {
		return "", fmt.Errorf("image %s:%s: %w", repository, tag, err)
	}
	there, err := remote.Get(ref, remote.WithContext(ctx), remote.WithAuth(in)) // a HEAD would be part of a push
	if absent(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("ask the mirror for %s:%s: %w", repository, tag, err)
	}
	return there.Digest.String(), nil
}

func tagOf(registry string, built Built, options ...name.Option) (name.Tag, error) {
	return name.NewTag(registry+"/"+built.Name+":"+built.Version, options...)
}

// held is the digest that a registry has under tag; empty when it has none.
func held(tag name.Tag, options ...remote.Option) (v1.Hash, error) {
	there, err := remote.Head(tag, options...)
	if err == nil {
		return there.Digest, nil
	}
	if absent(err) {
		return v1.Hash{}, nil
	}
	return v1.Hash{}, err
}

// absent: a registry says that it has no such thing.
func absent(err error) bool {
	answer, ok := errors.AsType[*transport.Error](err)
	return ok && answer.StatusCode == http.StatusNotFound
}

// verify hashes every blob of an image. A damaged one is removed, so that the image is
// made again the next time somebody asks for it.
func (l layout) verify(digest v1.Hash, img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		os.Remove(l.blob(digest))
		return fmt.Errorf("%w: manifest %s; it was removed: build or import the image again: %w", errCorrupt, digest, err)
	}
	blobs := []v1.Hash{digest, m.Config.Digest}
	for _, layer := range m.Layers {
		blobs = append(blobs, layer.Digest)
	}
	for _, d := range blobs {
		sum, err := disk.SHA256(l.blob(d))
		if err != nil {
			return err
		}
		if sum != d.Hex {
			os.Remove(l.blob(d))
			return fmt.Errorf("%w: blob %s; it was removed: build or import the image again", errCorrupt, d)
		}
	}
	return nil
}
