package bundletest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/sbom"
)

// Types of documents, as in-toto and CycloneDX name them.
const (
	sbomType       = "application/vnd.cyclonedx+json"
	provenanceType = "application/vnd.in-toto+json"
)

// maker makes programs and images that look as if they had been built here: what is said of
// them is true but for one thing, that they were compiled.
type maker struct {
	ctx              context.Context
	dir              string
	builder          *image.Builder // describes, and builds nothing
	locked           lock.Platform
	programs         []bundle.Program
	programDocuments []bundle.ProgramDocument
	images           []image.Built
	attached         []bundle.Attached
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// content of a program: a script that a person who meets it understands.
func content(name string) []byte { return []byte("#!/bin/sh\necho " + name + " of a test\n") }

// toolchain is the hash of one that does not exist.
var toolchain = "h1:" + base64.StdEncoding.EncodeToString(make([]byte, sha256.Size))

// describe puts a program into the lock, and says what Go would have written into it.
func (m *maker) describe(bin catalog.Binary) (build.ProgramInfo, error) {
	entry, err := m.builder.Describe(m.ctx, bin)
	if err != nil {
		return build.ProgramInfo{}, err
	}
	entry.SHA256 = sum(content(bin.Name))
	m.locked.Binaries[bin.Name] = entry
	return build.ProgramInfo{Path: "/" + bin.Name, Package: "example.org/small/" + bin.Package, Go: entry.Go,
		Main: build.Module{Path: "example.org/small"}}, nil
}

// program makes one of the nodes'.
func (m *maker) program(bin catalog.Binary) error {
	info, err := m.describe(bin)
	if err != nil {
		return err
	}
	entry := m.locked.Binaries[bin.Name]
	path := filepath.Join(m.dir, "programs", bin.Name)
	if err := write(path, content(bin.Name), 0o755); err != nil {
		return err
	}
	m.programs = append(m.programs, bundle.Program{Name: bin.Name, SHA256: entry.SHA256, Path: path})
	about := sbom.Program{Name: bin.Name, Version: bin.Version, Platform: build.Platform(), SHA256: entry.SHA256, Info: info, Entry: entry,
		ToolchainVersion: entry.Go, ToolchainSum: toolchain}
	bill, err := sbom.ProgramCycloneDX(about, nil)
	if err != nil {
		return err
	}
	provenance, err := sbom.ProgramProvenance(about)
	if err != nil {
		return err
	}
	entry.SBOM = "sha256:" + sum(bill)
	m.locked.Binaries[bin.Name] = entry
	m.programDocuments = append(m.programDocuments, bundle.ProgramDocument{Program: bin.Name, Type: sbomType, Data: bill}, bundle.ProgramDocument{Program: bin.Name,
		Type: provenanceType, Data: provenance})
	return nil
}

// image makes one of one layer for all its programs.
func (m *maker) image(img catalog.Image) error {
	var infos []build.ProgramInfo
	var names []string
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, bin := range img.Binaries {
		info, err := m.describe(bin)
		if err != nil {
			return err
		}
		infos, names = append(infos, info), append(names, bin.Name)
		data := content(bin.Name)
		if err := w.WriteHeader(&tar.Header{Name: bin.Name, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	built, manifest, err := m.layout(img, layer.Bytes())
	if err != nil {
		return err
	}
	m.images = append(m.images, built)
	entry := lock.Image{
		Version: img.Version, Binaries: names, Digest: built.Digest,
		User: img.User, Entrypoint: img.Entrypoint, Directories: img.Directories,
	}
	in := image.Inspection{Built: built, Platform: build.Platform(), Programs: infos}
	bill, err := sbom.CycloneDX(in, nil)
	if err != nil {
		return err
	}
	provenance, err := sbom.Provenance(sbom.Source{Image: in, Entry: entry, Binaries: m.locked.Binaries, ToolchainVersion: infos[0].Go,
		ToolchainSum: toolchain})
	if err != nil {
		return err
	}
	entry.SBOM = "sha256:" + sum(bill)
	m.locked.Images[img.Name] = entry
	for kind, data := range map[string][]byte{sbomType: bill, provenanceType: provenance} {
		doc, err := bundle.Document(manifest, kind, data)
		if err != nil {
			return err
		}
		m.attached = append(m.attached, doc)
	}
	return nil
}

// layout writes an image of one layer into the layout of all images.
func (m *maker) layout(img catalog.Image, layer []byte) (image.Built, v1.Descriptor, error) {
	dir := filepath.Join(m.dir, "images")
	built := image.Built{Name: img.Name, Version: img.Version, Layout: dir}
	blob := func(mediaType types.MediaType, data []byte) (v1.Descriptor, error) {
		d := v1.Descriptor{MediaType: mediaType, Size: int64(len(data)), Digest: v1.Hash{Algorithm: "sha256", Hex: sum(data)}}
		return d, write(filepath.Join(dir, "blobs", "sha256", d.Digest.Hex), data, 0o644)
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return built, v1.Descriptor{}, err
	}
	packed, err := blob(types.OCILayerZStd, z.EncodeAll(layer, nil))
	if err != nil {
		return built, packed, err
	}
	text, err := json.Marshal(v1.ConfigFile{
		OS: "linux", Architecture: build.Platform()[len("linux/"):],
		Config: v1.Config{User: cmp.Or(img.User, "65532:65532"), Entrypoint: []string{"/" + img.Binaries[0].Name}},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{{Algorithm: "sha256", Hex: sum(layer)}}},
	})
	if err != nil {
		return built, packed, err
	}
	config, err := blob(types.OCIConfigJSON, text)
	if err != nil {
		return built, config, err
	}
	if text, err = json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config,
		Layers: []v1.Descriptor{packed}}); err != nil {
		return built, config, err
	}
	manifest, err := blob(types.OCIManifestSchema1, text)
	built.Digest = manifest.Digest.String()
	return built, manifest, err
}
