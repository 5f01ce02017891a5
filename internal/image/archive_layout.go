package image

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/oci"
)

// openLayoutArchive opens the images for this machine in a layout: one for each entry of its index.
func openLayoutArchive(dir string, limit int64) (*Archive, error) {
	l := layout{dir: dir}
	index, err := oci.Layout(dir).Index()
	switch {
	case errors.Is(err, oci.ErrInvalid):
		return nil, err
	case err != nil:
		return nil, errNotAnImage
	}
	top, err := ggcrlayout.Path(dir).ImageIndex()
	if err != nil {
		return nil, err
	}
	fitting, offered, err := fitting(top, index.Manifests)
	if err != nil {
		return nil, err
	}
	if len(fitting) == 0 {
		return nil, noImage(offered)
	}
	a := &Archive{clean: func() {}}
	for _, d := range fitting {
		digest, img, named, err := l.resolve(top, d, 0)
		if err != nil {
			return nil, err
		}
		if err := checkSize(img, limit); err != nil {
			return nil, err
		}
		if err := checkDigests(l, digest, img); err != nil {
			return nil, err
		}
		if err := checkPlatform(img); err != nil { // whatever the index says
			return nil, err
		}
		one := Archived{img: img}
		one.Name, one.Tag = splitName(named)
		a.Images = append(a.Images, one)
	}
	return a, nil
}

// attests marks what Docker's builder puts beside an image: it says something about it, and is none.
// Source: https://docs.docker.com/build/metadata/attestations/attestation-storage/
const attests = "vnd.docker.reference.type"

// fitting are the entries of an index that are images for this machine, or indexes that may have
// one; offered are the platforms of the others. Who does not say what it is for is asked.
func fitting(index v1.ImageIndex, entries []v1.Descriptor) (fitting []v1.Descriptor, offered []string, err error) {
	for _, d := range entries {
		platform := d.Platform
		switch {
		case d.Annotations[attests] != "" || !d.MediaType.IsIndex() && !d.MediaType.IsImage():
			continue
		case platform == nil && d.MediaType.IsIndex():
			fitting = append(fitting, d)
			continue
		case platform == nil:
			img, err := index.Image(d.Digest)
			if err != nil {
				return nil, nil, unreadable(d, err)
			}
			c, err := img.ConfigFile()
			if err != nil {
				return nil, nil, unreadable(d, err)
			}
			if platform = c.Platform(); c.OS == "" { // a signature, a chart
				continue
			}
		}
		if platform.OS+"/"+platform.Architecture == build.Platform() {
			fitting = append(fitting, d)
		} else {
			offered = append(offered, platform.OS+"/"+platform.Architecture)
		}
	}
	return fitting, offered, nil
}

func unreadable(d v1.Descriptor, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("its index names %s, of which not all is in the archive", d.Digest)
	}
	return fmt.Errorf("%s: %w", d.Digest, err)
}

func noImage(offered []string) error {
	if len(offered) > 0 {
		return fmt.Errorf("it has no image for %s, only for %s", build.Platform(), strings.Join(offered, ", "))
	}
	return errors.New("it holds no image that says what platform it is for (os and architecture of its configuration)")
}

// resolve is the image of an entry of an index, also below nested ones, and what it is called there.
func (l layout) resolve(in v1.ImageIndex, d v1.Descriptor, depth int) (digest v1.Hash, img v1.Image, named string, err error) {
	fail := func(err error) (v1.Hash, v1.Image, string, error) { return v1.Hash{}, nil, "", err }
	named = cmp.Or(d.Annotations["io.containerd.image.name"], d.Annotations[oci.RefName])
	if !d.MediaType.IsIndex() {
		if img, err = in.Image(d.Digest); err == nil {
			_, err = img.Manifest()
		}
		if err != nil {
			return fail(unreadable(d, err))
		}
		return d.Digest, img, named, nil
	}
	if depth >= oci.MaxDepth {
		return fail(errors.New("indexes are nested too deeply"))
	}
	// Read with our limits; then once more by the library, which knows images only in their index.
	nested, _, err := oci.Layout(l.dir).Manifest(d.Digest, oci.MaxLayers)
	if err != nil {
		return fail(unreadable(d, err))
	}
	below, err := in.ImageIndex(d.Digest)
	if err != nil {
		return fail(unreadable(d, err))
	}
	fitting, offered, err := fitting(below, nested.Manifests)
	switch {
	case err != nil:
		return fail(err)
	case len(fitting) == 0:
		return fail(noImage(offered))
	case len(fitting) > 1:
		return fail(fmt.Errorf("its index %s has %d images for %s: which one is meant cannot be told", d.Digest, len(fitting), build.Platform()))
	}
	digest, img, inner, err := l.resolve(below, fitting[0], depth+1)
	return digest, img, cmp.Or(inner, named), err
}

// checkSize adds up what the manifest says, before anything is hashed.
func checkSize(img v1.Image, limit int64) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	size := m.Config.Size
	for _, layer := range m.Layers {
		size += layer.Size
	}
	if limit > 0 && size > limit {
		return &TooLargeError{Size: size, Limit: limit}
	}
	return nil
}

// checkDigests hashes every blob: the archive is foreign.
func checkDigests(l layout, digest v1.Hash, img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	blobs := []v1.Hash{digest, m.Config.Digest}
	for _, layer := range m.Layers {
		blobs = append(blobs, layer.Digest)
	}
	for _, d := range blobs {
		if d.Algorithm != "sha256" || len(d.Hex) != 64 || strings.Trim(d.Hex, "0123456789abcdef") != "" {
			return fmt.Errorf("%q is no SHA-256 digest", d)
		}
		sum, err := disk.SHA256(l.blob(d))
		if err != nil {
			return fmt.Errorf("blob %s is not in the archive", d)
		}
		if sum != d.Hex {
			return fmt.Errorf("blob %s is damaged: its content has the digest sha256:%s", d, sum)
		}
	}
	return nil
}
