package supply

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/secrets"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Contents builds what is missing of an overlay's components, holds it to the lock, and lists
// what goes into a bundle. The catalogue that s was opened with decides about the network.
func (s *Supply) Contents(ctx context.Context, overlay string, components []catalog.Component) (bundle.Contents, error) {
	c := bundle.Contents{Platform: build.Platform(), Overlay: overlay, Root: s.Catalog.Root}
	nodes := s.Catalog.Distribution.Files()
	parts := Of(s.Catalog.Distribution, components)
	for _, comp := range components {
		c.Components = append(c.Components, comp.Name)
	}
	slices.Sort(c.Components)
	var err error
	if c.Files, err = catalogFiles(s.Catalog); err != nil {
		return c, err
	}
	if err := s.supplyAll(ctx, nodes, parts.Built()); err != nil {
		return c, err
	}
	locked, err := s.bundledLock(ctx, parts)
	if err != nil {
		return c, err
	}
	l := lock.Lock{APIVersion: lock.APIVersion, Kind: lock.Kind, Platforms: map[string]lock.Platform{c.Platform: locked}}
	if err := s.bundledContent(ctx, components, &l, &c); err != nil {
		return c, err
	}
	if c.Lock, err = l.Format(); err != nil {
		return c, err
	}
	for _, bin := range nodes {
		path, err := s.Binary(ctx, bin)
		if err != nil {
			return c, err
		}
		c.Programs = append(c.Programs, bundle.Program{Name: bin.Name, SHA256: locked.Binaries[bin.Name].SHA256, Path: path})
	}
	slices.SortFunc(c.Programs, func(x, y bundle.Program) int { return strings.Compare(x.Name, y.Name) })
	if c.ProgramDocuments, err = s.bundledProgramDocuments(ctx, nodes); err != nil {
		return c, err
	}
	for _, name := range slices.Sorted(maps.Keys(parts.Built())) {
		built, err := s.Image(ctx, parts.Images[name])
		if err != nil {
			return c, err
		}
		c.Images = append(c.Images, built)
	}
	if c.Attached, err = s.bundledDocuments(ctx, parts, c.Images); err != nil {
		return c, err
	}
	return c, s.addPulled(ctx, parts, &c)
}

// addPulled adds the images that only a registry has, as far as they are on this machine.
func (s *Supply) addPulled(ctx context.Context, parts Parts, c *bundle.Contents) error {
	pulled := parts.Pulled()
	for _, name := range slices.Sorted(maps.Keys(pulled)) {
		built, ok, err := s.CachedImage(ctx, pulled[name])
		if err != nil {
			return err
		}
		if !ok {
			s.warn(ui.Event{}, "the bundle goes without image %s, which is not on this machine:"+
				" 'orrery up' pulls it where %s can be reached", name, pulled[name].Registry)
			continue
		}
		c.Images = append(c.Images, built)
		attached, err := bundle.AttachedTo(built)
		if err != nil {
			return err
		}
		c.Attached = append(c.Attached, attached...)
	}
	return nil
}

// supplyAll has all that is not here built. The programs of images that are here already are
// not asked for.
func (s *Supply) supplyAll(ctx context.Context, nodes []catalog.Binary, images map[string]catalog.Image) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, bin := range nodes {
		g.Go(func() error {
			_, err := s.Binary(ctx, bin)
			return err
		})
	}
	for _, img := range images {
		g.Go(func() error {
			_, err := s.Image(ctx, img)
			return err
		})
	}
	return g.Wait()
}

// bundledLock is the part of the lock that the bundle is about. What is not as locked is
// refused, except for binaries with C in them: they get the digest that they have here.
func (s *Supply) bundledLock(ctx context.Context, parts Parts) (lock.Platform, error) {
	parts.Images = parts.Built()
	have, err := s.Describe(ctx, parts)
	if err != nil {
		return have, err
	}
	if s.Locked == nil {
		return have, failure.Refusedf("%s has nothing for %s: a bundle is made of what is locked;"+
			" 'orrery lock' writes it", s.LockFile(), build.Platform())
	}
	drift, notes := lock.Check(*s.Locked, have, false)
	for _, n := range notes {
		s.warn(ui.Event{Phase: plan.PhaseBuild}, "%s", n)
	}
	if len(drift) > 0 {
		return have, failure.Refusedf("%s does not allow it:\n%s", s.LockFile(), lock.Explain(drift))
	}
	own := lock.Platform{Binaries: map[string]lock.Binary{}, Images: map[string]lock.Image{}}
	for name, h := range have.Binaries {
		l := s.Locked.Binaries[name]
		if h.SHA256 != "" && h.SHA256 != l.SHA256 {
			l.SHA256, l.CTools, l.SBOM = h.SHA256, h.CTools, h.SBOM
		}
		own.Binaries[name] = l
	}
	for name, h := range have.Images {
		l := s.Locked.Images[name]
		if h.Digest != "" && h.Digest != l.Digest {
			l.Digest, l.SBOM = h.Digest, h.SBOM
		}
		own.Images[name] = l
	}
	return own, nil
}

// bundledDocuments makes the documents of all images. Out of a bundle, they are those that
// came in it.
func (s *Supply) bundledDocuments(ctx context.Context, parts Parts, images []image.Built) ([]bundle.Attached, error) {
	var out []bundle.Attached
	if s.store != nil {
		for _, built := range images {
			a, err := s.store.Attached(built.Digest)
			if err != nil {
				return nil, err
			}
			out = append(out, a...)
		}
		return out, nil
	}
	made := make([][]bundle.Attached, len(images))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, built := range images {
		g.Go(func() error {
			docs, err := s.Documents(ctx, parts.Images[built.Name], built)
			if err != nil {
				return err
			}
			subject, err := subjectOf(built)
			if err != nil {
				return err
			}
			for _, doc := range []struct {
				kind string
				data []byte
			}{{SBOMType, docs.SBOM}, {ProvenanceType, docs.Provenance}} {
				if doc.data == nil {
					continue
				}
				a, err := bundle.Document(subject, doc.kind, doc.data)
				if err != nil {
					return err
				}
				made[i] = append(made[i], a)
			}
			return nil
		})
	}
	err := g.Wait()
	return slices.Concat(made...), err
}

// subjectOf describes the manifest of an image, as what is attached to it names it.
func subjectOf(built image.Built) (v1.Descriptor, error) {
	digest, err := v1.NewHash(built.Digest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	info, err := os.Stat(filepath.Join(built.Layout, "blobs", digest.Algorithm, digest.Hex))
	if err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digest, Size: info.Size()}, nil
}

// catalogFiles are what a bundle takes of a repository: all of infra/, and of every module
// that the catalogue names what the catalogue's loader asks for.
func catalogFiles(cat *catalog.Catalog) ([]string, error) {
	var files []string
	add := func(path string) error {
		rel, err := filepath.Rel(cat.Root, path)
		if err == nil && !slices.Contains(files, filepath.ToSlash(rel)) {
			files = append(files, filepath.ToSlash(rel))
		}
		return err
	}
	err := filepath.WalkDir(filepath.Join(cat.Root, "infra"), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() || strings.HasPrefix(d.Name(), "."), path == filepath.Join(cat.Root, filepath.FromSlash(secrets.KeyFile)):
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is no regular file: a bundle does not take it", path)
		}
		return add(path)
	})
	if err != nil {
		return nil, err
	}
	wanted := []string{filepath.Join(cat.Root, "go.mod"), filepath.Join(cat.Root, "go.sum"), filepath.Join(cat.Root, "LICENSE")}
	for _, bin := range allBinaries(cat) {
		if bin.Dir == "" { // a program of Debian's is of no module
			continue
		}
		wanted = append(wanted, filepath.Join(bin.Dir, "go.mod"), filepath.Join(bin.Dir, "go.sum"))
		if bin.Absent != "" {
			wanted = append(wanted, filepath.Join(bin.Dir, bin.Absent))
		}
	}
	for _, path := range wanted {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := add(path); err != nil {
			return nil, err
		}
	}
	slices.Sort(files)
	return files, nil
}

// allBinaries are those of the node distribution and of all images.
func allBinaries(cat *catalog.Catalog) []catalog.Binary {
	all := slices.Concat(cat.Distribution.Everything().Files(), cat.Distribution.Sandbox.Binaries)
	for _, c := range cat.Components {
		for _, img := range c.Images {
			all = append(all, img.Binaries...)
		}
	}
	return all
}
