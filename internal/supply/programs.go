package supply

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/licence"
	"github.com/orrery-dev/orrery/internal/sbom"
	"github.com/orrery-dev/orrery/internal/sign"
)

// program is all that is known of a program of the nodes, which is built if it is not.
func (s *Supply) program(ctx context.Context, bin catalog.Binary) (sbom.Program, error) {
	info, err := s.builder.Program(ctx, bin)
	if err != nil {
		return sbom.Program{}, err
	}
	entry, err := s.builder.Describe(ctx, bin)
	if err != nil {
		return sbom.Program{}, err
	}
	return sbom.Program{Name: bin.Name, Version: bin.Version, Platform: s.builder.Platform(), SHA256: entry.SHA256, Info: info, Entry: entry}, nil
}

// ProgramSBOM makes the bill of materials of a program or an archive of the nodes, and keeps
// it.
func (s *Supply) ProgramSBOM(ctx context.Context, bin catalog.Binary) ([]byte, error) {
	doc, sha256, err := s.makeProgramSBOM(ctx, bin)
	if err != nil {
		return nil, err
	}
	return doc, s.keepSBOM("sha256:"+sha256, doc)
}

func (s *Supply) makeProgramSBOM(ctx context.Context, bin catalog.Binary) (doc []byte, sha256 string, err error) {
	if bin.Archive() {
		a, err := s.archive(ctx, bin)
		if err != nil {
			return nil, "", err
		}
		licences, err := s.archiveLicences(a)
		if err != nil {
			return nil, "", err
		}
		doc, err = sbom.ArchiveCycloneDX(a, licences)
		return doc, a.SHA256, err
	}
	p, err := s.program(ctx, bin)
	if err != nil {
		return nil, "", err
	}
	linked, _ := sbom.Packages(p.Entry.CTools)
	var keys []string
	for _, p := range linked {
		keys = append(keys, p.LicenceKey())
	}
	licences, err := s.licences(ctx, "program "+bin.Name, []catalog.Binary{bin}, []build.ProgramInfo{p.Info}, keys)
	if err != nil {
		return nil, "", err
	}
	doc, err = sbom.ProgramCycloneDX(p, licences)
	return doc, p.SHA256, err
}

// ProgramProvenance makes the SLSA provenance of a program or an archive of the nodes.
func (s *Supply) ProgramProvenance(ctx context.Context, bin catalog.Binary) ([]byte, error) {
	if bin.Archive() {
		a, err := s.archive(ctx, bin)
		if err != nil {
			return nil, err
		}
		return sbom.ArchiveProvenance(a)
	}
	p, err := s.program(ctx, bin)
	if err != nil {
		return nil, err
	}
	tc, err := s.builder.Toolchain(ctx)
	if err != nil {
		return nil, err
	}
	p.ToolchainVersion, p.ToolchainSum = tc.Version, tc.Sum
	return sbom.ProgramProvenance(p)
}

// ProgramDocuments are those of a program that was built here, or that came in a bundle with
// it, and the SHA-256 that they are about. A program that came in a bundle of an older orrery
// has none.
func (s *Supply) ProgramDocuments(ctx context.Context, bin catalog.Binary) (docs sign.Documents, sha256 string, err error) {
	if store, ok := s.sources.bundles(); ok {
		if documents, ok, err := store.ProgramDocuments(bin.Name); ok || err != nil {
			return sign.Documents{SBOM: documents[SBOMType], Provenance: documents[ProvenanceType]}, s.Locked.Binaries[bin.Name].SHA256, err
		}
	}
	if s.builder == nil {
		return docs, "", fmt.Errorf("%s: the bundle does not have it", bin.Name)
	}
	entry, err := s.builder.Describe(ctx, bin)
	if err != nil {
		return docs, "", err
	}
	if s.Locked != nil && entry.SHA256 != "" {
		docs.SBOM, err = s.fetchedSBOM(ctx, "sha256:"+entry.SHA256, s.Locked.Binaries[bin.Name].SBOM)
	}
	if err != nil || docs.SBOM == nil {
		if docs.SBOM, err = s.ProgramSBOM(ctx, bin); err != nil {
			return docs, "", err
		}
		if entry, err = s.builder.Describe(ctx, bin); err != nil { // it may have been built just now
			return docs, "", err
		}
	}
	docs.Provenance, err = s.ProgramProvenance(ctx, bin)
	return docs, entry.SHA256, err
}

// ProgramDocument is one document about a program of the nodes, by its type; out of a bundle,
// the one that came in it.
func (s *Supply) ProgramDocument(ctx context.Context, bin catalog.Binary, kind string) ([]byte, error) {
	if s.store == nil {
		if kind == SBOMType {
			return s.ProgramSBOM(ctx, bin)
		}
		return s.ProgramProvenance(ctx, bin)
	}
	documents, _, err := s.store.ProgramDocuments(bin.Name)
	if err == nil && documents[kind] == nil {
		err = fmt.Errorf("the bundle has no %s of program %s: an older orrery made it", kind, bin.Name)
	}
	return documents[kind], err
}

// bundledProgramDocuments makes the documents of programs of the nodes, for a bundle.
func (s *Supply) bundledProgramDocuments(ctx context.Context, programs []catalog.Binary) ([]bundle.ProgramDocument, error) {
	made := make([][]bundle.ProgramDocument, len(programs))
	g, ctx := errgroup.WithContext(ctx)
	for i, bin := range programs {
		g.Go(func() error {
			docs, _, err := s.ProgramDocuments(ctx, bin)
			if err != nil {
				return err
			}
			for _, p := range []bundle.ProgramDocument{{Program: bin.Name, Type: SBOMType, Data: docs.SBOM}, {Program: bin.Name, Type: ProvenanceType, Data: docs.Provenance}} {
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
	slices.SortFunc(all, func(a, b bundle.ProgramDocument) int { return strings.Compare(a.Program+a.Type, b.Program+b.Type) })
	return all, nil
}

// archive is all that is known of an archive of the nodes, which is packed if it is not.
func (s *Supply) archive(ctx context.Context, bin catalog.Binary) (sbom.Archive, error) {
	files, err := s.builder.ArchiveFiles(ctx, bin)
	if err != nil {
		return sbom.Archive{}, err
	}
	entry, err := s.builder.Describe(ctx, bin)
	if err != nil {
		return sbom.Archive{}, err
	}
	return sbom.Archive{Name: bin.Name, Version: bin.Version, Platform: s.builder.Platform(), SHA256: entry.SHA256, Files: files, Entry: entry}, nil
}

// archiveLicences holds what an archive is made of to the licence policy, which has to know each
// of it: the licences are not looked for in texts.
func (s *Supply) archiveLicences(a sbom.Archive) (map[string]string, error) {
	policy, err := licence.LoadPolicy(filepath.Join(s.Catalog.Root, licencePolicy))
	if err != nil {
		return nil, failure.Usage{Err: err}
	}
	found := map[string]string{}
	var bad []error
	for _, key := range sbom.LicenceKeys(a.Entry) {
		if found[key], err = policy.Decide(key, licence.Unknown); err != nil {
			bad = append(bad, fmt.Errorf("archive %s: %w", a.Name, err))
		}
	}
	if len(bad) > 0 {
		return nil, failure.Refused{Err: fmt.Errorf("%s does not allow it:\n%w\n  add an exception with the"+
			" licence and the reason, or leave it out", licencePolicy, errors.Join(bad...))}
	}
	return found, nil
}
