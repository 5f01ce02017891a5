package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/driver/native"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/sbom"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// nodeProgram finds a program or an archive of the node distribution by name.
func (w *workshop) nodeProgram(name string) (catalog.Binary, error) {
	var names []string
	for _, bin := range w.catalog.Distribution.Everything().Files() {
		if bin.Name == name || slices.Contains(bin.Links, name) {
			return bin, nil
		}
		names = append(names, bin.Name)
	}
	slices.Sort(names)
	return catalog.Binary{}, usagef("there is no program %q in the node distribution; there are: %v", name, names)
}

// program is all that is known of a program of the nodes, which is built if it is not.
func (w *workshop) program(ctx context.Context, bin catalog.Binary) (sbom.Program, error) {
	info, err := w.builder.Program(ctx, bin)
	if err != nil {
		return sbom.Program{}, err
	}
	entry, err := w.builder.Describe(ctx, bin)
	if err != nil {
		return sbom.Program{}, err
	}
	return sbom.Program{Name: bin.Name, Version: bin.Version, Platform: w.builder.Platform(), SHA256: entry.SHA256, Info: info, Entry: entry}, nil
}

// programSBOM makes the bill of materials of a program or an archive of the nodes, and keeps it.
func (w *workshop) programSBOM(ctx context.Context, bin catalog.Binary) ([]byte, error) {
	doc, sha256, err := w.makeProgramSBOM(ctx, bin)
	if err != nil {
		return nil, err
	}
	return doc, w.keepSBOM("sha256:"+sha256, doc)
}

func (w *workshop) makeProgramSBOM(ctx context.Context, bin catalog.Binary) (doc []byte, sha256 string, err error) {
	if bin.Archive() {
		a, err := w.archive(ctx, bin)
		if err != nil {
			return nil, "", err
		}
		licences, err := w.archiveLicences(a)
		if err != nil {
			return nil, "", err
		}
		doc, err = sbom.ArchiveCycloneDX(a, licences)
		return doc, a.SHA256, err
	}
	p, err := w.program(ctx, bin)
	if err != nil {
		return nil, "", err
	}
	linked, _ := sbom.Packages(p.Entry.CTools)
	licences, err := w.licences(ctx, "program "+bin.Name, []catalog.Binary{bin}, []image.ProgramInfo{p.Info}, linked)
	if err != nil {
		return nil, "", err
	}
	doc, err = sbom.ProgramCycloneDX(p, licences)
	return doc, p.SHA256, err
}

func (w *workshop) programProvenance(ctx context.Context, bin catalog.Binary) ([]byte, error) {
	if bin.Archive() {
		a, err := w.archive(ctx, bin)
		if err != nil {
			return nil, err
		}
		return sbom.ArchiveProvenance(a)
	}
	p, err := w.program(ctx, bin)
	if err != nil {
		return nil, err
	}
	tc, err := w.builder.Toolchain(ctx)
	if err != nil {
		return nil, err
	}
	p.ToolchainVersion, p.ToolchainSum = tc.Version, tc.Sum
	return sbom.ProgramProvenance(p)
}

// programDocuments are those of a program that was built here, or that came in a bundle with
// it, and the SHA-256 that they are about. A program that came in a bundle of an older orrery
// has none.
func (w *workshop) programDocuments(ctx context.Context, bin catalog.Binary) (docs sign.Documents, sha256 string, err error) {
	if papers, ok, err := carriedPapers(w.supply, bin.Name); ok || err != nil {
		return sign.Documents{SBOM: papers[sbomType], Provenance: papers[provenanceType]}, w.locked.Binaries[bin.Name].SHA256, err
	}
	if w.builder == nil {
		return docs, "", fmt.Errorf("%s: the bundle does not have it", bin.Name)
	}
	entry, err := w.builder.Describe(ctx, bin)
	if err != nil {
		return docs, "", err
	}
	if w.locked != nil && entry.SHA256 != "" {
		docs.SBOM, err = w.keptSBOM("sha256:"+entry.SHA256, w.locked.Binaries[bin.Name].SBOM)
	}
	if err != nil || docs.SBOM == nil {
		if docs.SBOM, err = w.programSBOM(ctx, bin); err != nil {
			return docs, "", err
		}
		if entry, err = w.builder.Describe(ctx, bin); err != nil { // it may have been built just now
			return docs, "", err
		}
	}
	docs.Provenance, err = w.programProvenance(ctx, bin)
	return docs, entry.SHA256, err
}

// carriedPapers are the documents that came with a program in a bundle. ok: the program is
// taken from there.
func carriedPapers(from supplier, program string) (papers map[string][]byte, ok bool, err error) {
	store, ok := from.(*bundle.Store)
	if all, several := from.(sources); several {
		store, ok = all[0].(*bundle.Store)
	}
	if !ok {
		return nil, false, nil
	}
	return store.Papers(program)
}

// papers makes the documents of programs of the nodes, for a bundle.
func (w *workshop) papers(ctx context.Context, programs []catalog.Binary) ([]bundle.Paper, error) {
	made := make([][]bundle.Paper, len(programs))
	g, ctx := errgroup.WithContext(ctx)
	for i, bin := range programs {
		g.Go(func() error {
			docs, _, err := w.programDocuments(ctx, bin)
			if err != nil {
				return err
			}
			for _, p := range []bundle.Paper{{Program: bin.Name, Type: sbomType, Data: docs.SBOM}, {Program: bin.Name, Type: provenanceType, Data: docs.Provenance}} {
				if p.Data != nil {
					made[i] = append(made[i], p)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := slices.Concat(made...)
	slices.SortFunc(all, func(a, b bundle.Paper) int { return strings.Compare(a.Program+a.Type, b.Program+b.Type) })
	return all, nil
}

// Endings of the files with what was signed about a program.
const (
	sealedSBOM       = ".cdx.sigstore.json"
	sealedProvenance = ".provenance.sigstore.json"
)

// attestations is the folder with what the environment signed about its nodes' programs.
func (s *session) attestations() string { return filepath.Join(s.stateDir, "dist", "attestations") }

func (s *session) sealed(program string) (d sign.Documents) {
	// What cannot be read is not there, and the check says so.
	d.SBOM, _ = os.ReadFile(filepath.Join(s.attestations(), program+sealedSBOM))
	d.Provenance, _ = os.ReadFile(filepath.Join(s.attestations(), program+sealedProvenance))
	return d
}

// programFile is where the environment has a program of its nodes, or an archive.
func (s *session) programFile(cat *catalog.Catalog, bin catalog.Binary) string {
	switch {
	case bin.Archive():
		return filepath.Join(s.stateDir, "dist", ".archives", bin.Name)
	case slices.ContainsFunc(cat.Distribution.Everything().CNI, func(b catalog.Binary) bool { return b.Name == bin.Name }):
		return filepath.Join(s.dist(), "cni", bin.Name)
	}
	return filepath.Join(s.dist(), bin.Name)
}

func (s *session) dist() string { return filepath.Join(s.stateDir, "dist", "bin") }

// verifyProgram holds a program or an archive of the environment's nodes to the policy.
func (s *session) verifyProgram(cat *catalog.Catalog, bin catalog.Binary, policy sign.Policy) (sign.Report, error) {
	file, verify := s.programFile(cat, bin), sign.VerifyProgram
	if bin.Archive() {
		verify = sign.VerifyArchive
	}
	return verify(bin.Name, file, s.sealed(bin.Name), policy)
}

// place links a program, or an archive, into the environment, signs what is said of it, and holds both to
// the policy: no node runs what does not get past here.
func (p *platform) place(ctx context.Context, bin catalog.Binary) (digest string, err error) {
	if err := p.supply.Link(ctx, filepath.Dir(p.programFile(p.catalog, bin)), bin); err != nil {
		return "", err
	}
	sealErr := p.seal(ctx, bin) // which makes the key that the policy trusts
	policy, err := p.imagePolicy()
	if err != nil {
		return "", err
	}
	report, err := p.verifyProgram(p.catalog, bin, policy)
	if sealErr != nil {
		err = sealErr // which is why the rest failed
	}
	if err == nil && ctx.Err() == nil {
		return report.Digest, p.placed(bin)
	}
	if ctx.Err() != nil || report.Digest == "" {
		return report.Digest, err
	}
	if p.spec.Images.Verify == spec.VerifyWarn {
		p.sink.Emit(ui.Event{Type: ui.TypeWarning, Step: "cluster", Phase: "cluster", Message: "images.verify is warn, so it is used nevertheless: " + err.Error()})
		return report.Digest, p.placed(bin)
	}
	return report.Digest, err
}

// placed has the driver start nothing else in a program's place.
func (p *platform) placed(bin catalog.Binary) error {
	file, err := filepath.Rel(filepath.Join(p.stateDir, "dist"), p.programFile(p.catalog, bin))
	if err != nil {
		return err
	}
	names := []string{file}
	for _, link := range bin.Links {
		names = append(names, filepath.Join(filepath.Dir(file), link))
	}
	return native.Placed(p.stateDir, names...)
}

// nodeFiles are the programs and archives that the environment's nodes have.
func (s *session) nodeFiles(cat *catalog.Catalog) []catalog.Binary {
	return slices.DeleteFunc(cat.Distribution.For(s.spec.Network.Plugin).Files(), s.usesHostCompiler)
}

// seal signs the documents of a program, unless they are signed by the environment's key.
func (p *platform) seal(ctx context.Context, bin catalog.Binary) error {
	w := &workshop{catalog: p.catalog, supply: p.sources.supplier, builder: p.builder, locked: p.locked}
	docs, sha256, err := w.programDocuments(ctx, bin)
	if err != nil {
		return err
	}
	key, err := p.signingKey(ctx)
	if err != nil {
		return err
	}
	if sign.SealedWith(sha256, key.Public(), p.sealed(bin.Name), docs) {
		return nil
	}
	sealed, err := sign.Seal(sha256, key, docs)
	if err != nil {
		return fmt.Errorf("sign what is said of program %s: %w", bin.Name, err)
	}
	if err := os.MkdirAll(p.attestations(), 0o755); err != nil {
		return err
	}
	for ending, data := range map[string][]byte{sealedSBOM: sealed.SBOM, sealedProvenance: sealed.Provenance} {
		file := filepath.Join(p.attestations(), bin.Name+ending)
		if data == nil {
			err = errors.Join(err, os.RemoveAll(file))
			continue
		}
		err = errors.Join(err, atomicfile.Write(file, data, 0o644))
	}
	return err
}
