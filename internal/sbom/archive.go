package sbom

import (
	"fmt"
	"strings"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
)

// ArchiveBuildType is [ProgramBuildType] for an archive that nodes get unpacked: it was packed,
// and not compiled.
const ArchiveBuildType = "https://orrery.dev/build-type/archive/v1"

// Archive is an archive of the node distribution.
type Archive struct {
	Name, Version string
	Platform      string // "linux/amd64"
	SHA256        string // of the archive, in hexadecimal
	Files         []image.FileInfo
	// Entry says what it was packed from: a folder of a module, or packages of Debian.
	Entry lock.Binary
}

func (a Archive) check() error {
	if len(a.SHA256) != 64 {
		return fmt.Errorf("%q is no SHA-256 digest", a.SHA256)
	}
	if a.Entry.Kind != lock.KindFolder && a.Entry.Kind != lock.KindDebian {
		return fmt.Errorf("nothing is known of archives of the kind %q", a.Entry.Kind)
	}
	return nil
}

// module is the one that a folder is of.
func (a Archive) module() build.Module {
	path, version, _ := strings.Cut(a.Entry.Module, "@")
	return build.Module{Path: path, Version: version, Sum: a.Entry.Sum}
}

// packages are Debian's.
func (a Archive) packages() []Package { return ArchivePackages(a.Entry, a.Platform) }

// ArchivePackages are the packages of Debian that an archive was packed from, for a platform.
func ArchivePackages(entry lock.Binary, platform string) (all []Package) {
	_, arch, _ := strings.Cut(platform, "/")
	for _, p := range entry.Packages { // "NAME VERSION sha256:…"
		if f := strings.Fields(p); len(f) == 3 {
			all = append(all, Package{Name: f[0], Version: f[1], Arch: arch, SHA256: strings.TrimPrefix(f[2], "sha256:")})
		}
	}
	return all
}

// LicenceKeys is what the list of licences calls the sources of an archive.
func LicenceKeys(entry lock.Binary) (keys []string) {
	if entry.Kind == lock.KindFolder {
		return []string{entry.Package}
	}
	for _, p := range ArchivePackages(entry, "") {
		keys = append(keys, p.LicenceKey())
	}
	return keys
}

// ArchiveCycloneDX is [CycloneDX] for an archive: the module or the packages that it is from,
// and every file.
func ArchiveCycloneDX(a Archive, licences map[string]string) ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("bill of materials of %s: %w", a.Name, err)
	}
	root := component{
		Type: "file", Ref: "archive:" + a.Name, Name: a.Name, Version: a.Version,
		Hashes: []digest{{"SHA-256", a.SHA256}},
	}
	if a.Entry.Kind == lock.KindDebian { // a folder of source is the same for all platforms
		root.Properties = []property{{"orrery:platform", a.Platform}}
	}
	b := newBill(root.Ref, licences)
	b.archive(root.Ref, a)
	for _, f := range a.Files {
		c := component{Type: "file", Ref: "file:" + f.Path, Name: f.Path, Hashes: []digest{{"SHA-256", f.SHA256}}}
		b.components[c.Ref] = c
		b.need(root.Ref, c.Ref)
	}
	return b.document(root, "sha256:"+a.SHA256)
}

// archive adds the module or the packages that an archive is from, which root needs.
func (b *bill) archive(root string, a Archive) {
	add := func(c component) {
		b.components[c.Ref] = c
		b.need(root, c.Ref)
	}
	if a.Entry.Kind == lock.KindFolder {
		c := library(a.module(), nil)
		c.Licenses = expression(b.licences[a.Entry.Package])
		add(c)
	}
	for _, p := range a.packages() {
		add(component{
			Type: "library", Ref: p.URI(), Name: p.Name, Version: p.Version, PURL: p.URI(),
			Hashes: []digest{{"SHA-256", p.SHA256}}, Licenses: expression(b.licences[p.LicenceKey()]),
		})
	}
}

// ArchiveProvenance is [Provenance] for an archive.
func ArchiveProvenance(a Archive) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("provenance of %s: %w", a.Name, err) }
	if err := a.check(); err != nil {
		return fail(err)
	}
	d := dependencies{resolved: map[string]resource{}}
	parameter, err := d.archive(a)
	if err != nil {
		return fail(err)
	}
	return d.statement(
		resource{Name: a.Name, Digest: map[string]string{"sha256": a.SHA256}}, ArchiveBuildType,
		externalParameters{Program: a.Name, Version: a.Version, Platform: a.Platform, Binaries: []binaryParameter{parameter}})
}

// archive adds what an archive was packed from.
func (d dependencies) archive(a Archive) (binaryParameter, error) {
	var from build.ProgramInfo
	if a.Entry.Kind == lock.KindFolder {
		from.Main = a.module()
	}
	for _, p := range a.packages() {
		d.resolved[p.URI()] = resource{Name: p.Name, URI: p.URI(), Digest: map[string]string{"sha256": p.SHA256}}
	}
	return d.binary(a.Name, a.Entry, from)
}
