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
)

// Push uploads an image to a registry that speaks plain HTTP at HOST:PORT, layers in
// parallel, leaving out those that it has. When NAME:VERSION is that image already,
// nothing is sent.
func Push(ctx context.Context, registry string, built Built) error {
	fail := func(err error) error {
		return fmt.Errorf("push %s:%s to %s: %w", built.Name, built.Version, registry, err)
	}
	tag, err := name.NewTag(registry+"/"+built.Name+":"+built.Version, name.Insecure, name.StrictValidation)
	if err != nil {
		return fail(err)
	}
	digest, err := v1.NewHash(built.Digest)
	if err != nil {
		return fail(err)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithJobs(4)}
	there, err := remote.Head(tag, options...)
	if err == nil && there.Digest == digest {
		return nil
	}
	var answer *transport.Error
	if err != nil && !(errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound) {
		return fail(err)
	}
	store := layout{dir: built.Layout}
	unlock, err := store.lock(ctx, lockShared)
	if err != nil {
		return fail(err)
	}
	defer unlock()
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

// verify hashes every blob of an image. A damaged one is removed, so that the image is
// made again the next time somebody asks for it.
func (l layout) verify(digest v1.Hash, img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		os.Remove(l.blob(digest))
		return fmt.Errorf("%w: manifest %s; it was removed: build the image again: %w", errCorrupt, digest, err)
	}
	blobs := []v1.Hash{digest, m.Config.Digest}
	for _, layer := range m.Layers {
		blobs = append(blobs, layer.Digest)
	}
	for _, d := range blobs {
		sum, err := hashFile(l.blob(d))
		if err != nil {
			return err
		}
		if sum != d.Hex {
			os.Remove(l.blob(d))
			return fmt.Errorf("%w: blob %s; it was removed: build the image again", errCorrupt, d)
		}
	}
	return nil
}
