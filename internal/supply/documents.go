package supply

import (
	"bytes"
	"cmp"

	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/licence"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/sbom"
	"github.com/orrery-dev/orrery/internal/sign"
)

// Types of the documents that are said of programs and images.
const (
	SBOMType       = "application/vnd.cyclonedx+json"
	ProvenanceType = "application/vnd.in-toto+json"
)

// licencePolicy is the one list of licences, below the catalogue's root.
const licencePolicy = "infra/licences.yaml"

// SBOM makes the bill of materials of an image, and keeps it, so that comparing it with the
// lock later takes no time.
func (s *Supply) SBOM(ctx context.Context, img catalog.Image) ([]byte, error) {
	in, err := s.builder.Contents(ctx, img)
	if err != nil {
		return nil, err
	}
	archives, from, err := s.archivesOf(ctx, img)
	if err != nil {
		return nil, err
	}
	licences, err := s.licences(ctx, "image "+img.Name, img.Programs(), in.Programs, from)
	if err != nil {
		return nil, err
	}
	doc, err := sbom.CycloneDX(in, licences, archives...)
	if err != nil {
		return nil, err
	}
	return doc, s.keepSBOM(in.Digest, doc)
}

// archivesOf are the archives of an image, and what they were packed from.
func (s *Supply) archivesOf(ctx context.Context, img catalog.Image) (archives []sbom.Archive, from []string, err error) {
	for _, bin := range img.Binaries {
		if !bin.Archive() {
			continue
		}
		a, err := s.archive(ctx, bin)
		if err != nil {
			return nil, nil, err
		}
		archives, from = append(archives, a), append(from, sbom.LicenceKeys(a.Entry)...)
	}
	return archives, from, nil
}

// keepSBOM keeps the bill of materials of what has this digest.
func (s *Supply) keepSBOM(of string, doc []byte) error {
	file := s.sbomFile(of)
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, doc) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(file, doc, 0o644)
}

func (s *Supply) sbomFile(digest string) string {
	return filepath.Join(s.options.CacheDir, "sbom", strings.TrimPrefix(digest, "sha256:")+"-"+sbom.Format+".json")
}

// keptSBOM is the bill of materials that was made here before, if it is the wanted one.
func (s *Supply) keptSBOM(image, want string) ([]byte, error) {
	doc, err := os.ReadFile(s.sbomFile(image))
	if err != nil {
		return nil, err
	}
	if digestOf(doc) != want {
		return nil, fmt.Errorf("%s is not %s", s.sbomFile(image), want)
	}
	return doc, nil
}

func digestOf(doc []byte) string {
	sum := sha256.Sum256(doc)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// noteSBOMs fills in the digests of the bills of materials that were made here.
func (s *Supply) noteSBOMs(have lock.Platform) {
	digest := func(of string) string {
		doc, err := os.ReadFile(s.sbomFile(of))
		if err != nil {
			return ""
		}
		return digestOf(doc)
	}
	for name, i := range have.Images {
		if i.Digest != "" {
			i.SBOM = digest(i.Digest)
			have.Images[name] = i
		}
	}
	for _, bin := range s.Catalog.Distribution.Everything().Files() {
		if b := have.Binaries[bin.Name]; b.SHA256 != "" {
			b.SBOM = digest("sha256:" + b.SHA256)
			have.Binaries[bin.Name] = b
		}
	}
}

// licences finds the licence of every module of some programs, and of what others there is in
// them, as the policy calls it, and holds it to the policy. All that is not allowed is named at once.
func (s *Supply) licences(
	ctx context.Context, of string, binaries []catalog.Binary, programs []build.ProgramInfo, others []string,
) (map[string]string, error) {
	policy, err := licence.LoadPolicy(filepath.Join(s.Catalog.Root, licencePolicy))
	if err != nil {
		return nil, failure.Usage{Err: err}
	}
	known := licence.OpenCache(filepath.Join(s.options.CacheDir, "licences.json"))
	defer func() { _ = known.Save() }() // it only saves time
	text, _ := os.ReadFile(filepath.Join(s.Catalog.Root, "LICENSE"))
	ours, err := known.Of(fmt.Sprintf("%x", sha256.Sum256(text)), s.Catalog.Root)
	if err != nil {
		return nil, err
	}
	found := map[string]string{"std": "BSD-3-Clause"}
	var bad []error
	for i, p := range programs {
		modules := append([]build.Module{p.Main}, p.Modules...)
		dirs, err := s.builder.ModuleDirs(ctx, binaries[i], modules)
		if err != nil {
			return nil, err
		}
		for _, m := range modules {
			if _, done := found[m.Path]; done {
				continue
			}
			detected := ours // a module or folder of this repository
			if dir, foreign := dirs[m.Path]; foreign && !policy.Excepts(m.Path) {
				if detected, err = known.Of(m.Path+"@"+m.Version+" "+m.Sum, dir); err != nil {
					return nil, err
				}
			}
			decided, err := policy.Decide(m.Path, detected)
			if err != nil {
				bad = append(bad, err)
			}
			found[m.Path] = decided
		}
	}
	for _, key := range others { // whose texts are not in a module: the policy has to know them
		decided, err := policy.Decide(key, licence.Unknown)
		if err != nil {
			bad = append(bad, err)
		}
		found[key] = decided
	}
	if len(bad) > 0 {
		slices.SortFunc(bad, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, fmt.Errorf("licences of %s:\n%w\nwhen it is right, say so in %s, with the reason", of, errors.Join(bad...), licencePolicy)
	}
	return found, nil
}

// Provenance makes the SLSA provenance of an image.
func (s *Supply) Provenance(ctx context.Context, img catalog.Image) ([]byte, error) {
	built, err := s.builder.Image(ctx, img)
	if err != nil {
		return nil, err
	}
	// What Inspect says besides, the layers, is not in it and takes time to read.
	in := image.Inspection{Built: built, Platform: build.Platform()}
	for _, bin := range img.Programs() {
		program, err := s.builder.Program(ctx, bin)
		if err != nil {
			return nil, err
		}
		program.Path = "/" + bin.Name
		in.Programs = append(in.Programs, program)
	}
	binaries := map[string]catalog.Binary{}
	for _, bin := range img.Binaries {
		binaries[bin.Name] = bin
	}
	have, err := describe(ctx, s.builder, binaries, map[string]catalog.Image{img.Name: img})
	if err != nil {
		return nil, err
	}
	tc, err := s.builder.Toolchain(ctx)
	if err != nil {
		return nil, err
	}
	return sbom.Provenance(sbom.Source{
		Image: in, Entry: have.Images[img.Name], Binaries: have.Binaries,
		ToolchainVersion: tc.Version, ToolchainSum: tc.Sum,
	})
}

// Documents are those of an image that was built here, or that came in a bundle with it. A
// bill of materials that is kept and is the locked one is not made again.
func (s *Supply) Documents(ctx context.Context, img catalog.Image, built image.Built) (sign.Documents, error) {
	if docs, err := s.carriedDocuments(built); err != nil || docs.Provenance != nil || s.builder == nil {
		return docs, err
	}
	locked := lock.Image{}
	if s.Locked != nil {
		locked = s.Locked.Images[img.Name]
	}
	bill, err := s.fetchedSBOM(ctx, built.Digest, locked.SBOM)
	if err != nil {
		return s.MakeDocuments(ctx, img)
	}
	provenance, err := s.Provenance(ctx, img)
	return sign.Documents{SBOM: bill, Provenance: provenance}, err
}

// MakeDocuments makes those of an image, whatever was made before.
func (s *Supply) MakeDocuments(ctx context.Context, img catalog.Image) (docs sign.Documents, err error) {
	if docs.SBOM, err = s.SBOM(ctx, img); err == nil {
		docs.Provenance, err = s.Provenance(ctx, img)
	}
	return docs, err
}

// carriedDocuments are those that came with an image in a bundle. The bundle's signature was
// checked when it was imported, or the lock names the image's digest.
func (s *Supply) carriedDocuments(built image.Built) (docs sign.Documents, err error) {
	store, ok := s.sources.bundles()
	if !ok {
		return docs, nil
	}
	attached, err := store.Attached(built.Digest)
	if err != nil {
		return docs, err
	}
	for _, a := range attached {
		switch data := a.Document(); a.Type() {
		case SBOMType:
			docs.SBOM = data
		case ProvenanceType:
			docs.Provenance = data
		}
	}
	return docs, nil
}

// Document is one document about an image that is built here, by its type; out of a bundle,
// the one that came in it.
func (s *Supply) Document(ctx context.Context, img catalog.Image, kind string) ([]byte, error) {
	if s.store == nil {
		if kind == SBOMType {
			return s.SBOM(ctx, img)
		}
		return s.Provenance(ctx, img)
	}
	attached, err := s.store.Attached(s.Locked.Images[img.Name].Digest)
	if err != nil {
		return nil, err
	}
	for _, a := range attached {
		if data := a.Document(); a.Type() == kind && data != nil {
			return data, nil
		}
	}
	return nil, fmt.Errorf("the bundle has no %s of image %s", kind, img.Name)
}

// Inspect reads an image: one that is built here, else as it came in a bundle or from a
// registry.
func (s *Supply) Inspect(ctx context.Context, img catalog.Image) (image.Inspection, error) {
	if s.builder != nil && img.Registry == "" {
		return s.builder.Inspect(ctx, img)
	}
	built, ok, err := s.CachedImage(ctx, img)
	if err != nil {
		return image.Inspection{}, err
	}
	if !ok {
		return image.Inspection{}, fmt.Errorf("image %s is not on this machine:"+
			" 'orrery up' has it pulled where %s can be reached,"+
			" and 'orrery bundle import' brings one that a bundle has", img.Name, cmp.Or(img.Registry, "a registry"))
	}
	return image.ReadImage(ctx, built)
}
