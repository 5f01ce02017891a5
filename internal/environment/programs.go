package environment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/supply"
)

// Endings of the files with what was signed about a program.
const (
	signedSBOM       = ".cdx.sigstore.json"
	signedProvenance = ".provenance.sigstore.json"
)

// sharedObjects is the folder of the cache with what nodes of all environments compiled; see
// internal/clangcache.
const sharedObjects = "objects"

// Dist is where the programs of the environment's nodes are. Drivers that make no nodes have
// none.
func (e *Environment) Dist() (driver.Dist, error) {
	d, ok := e.Driver.(driver.Distributor)
	if !ok {
		return "", fmt.Errorf("nodes of the %s driver do not run programs of ours", e.Kind.Name)
	}
	return d.Dist(), nil
}

// Kubectl is the path of kubectl: the cluster's own where nodes run programs of ours, else the
// one on PATH.
func (e *Environment) Kubectl() (string, error) {
	if dist, err := e.Dist(); err == nil {
		return dist.Program("kubectl"), nil
	}
	path, err := exec.LookPath("kubectl")
	if err != nil {
		return "", fmt.Errorf("a %s environment has no kubectl of its own: install one, and have it on PATH: %w", e.Kind.Name, err)
	}
	return path, nil
}

// signedDocuments are what was signed about a program.
func signedDocuments(dist driver.Dist, program string) (d sign.Documents) {
	// What cannot be read is not there, and the check says so.
	d.SBOM, _ = os.ReadFile(filepath.Join(dist.Attestations(), program+signedSBOM))
	d.Provenance, _ = os.ReadFile(filepath.Join(dist.Attestations(), program+signedProvenance))
	return d
}

// programFile is where the environment has a program of its nodes, or an archive.
func programFile(dist driver.Dist, all catalog.Distribution, bin catalog.Binary) string {
	switch {
	case bin.Archive():
		return dist.Archive(bin.Name)
	case slices.ContainsFunc(all.CNI, func(b catalog.Binary) bool { return b.Name == bin.Name }):
		return dist.CNI(bin.Name)
	}
	return dist.Program(bin.Name)
}

// NodeFiles are the programs and archives that the environment's nodes have.
func (e *Environment) NodeFiles(cat *catalog.Catalog) ([]catalog.Binary, error) {
	dist, err := e.Dist()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(cat.Distribution.For(e.Spec.Network.Plugin).Files(), func(b catalog.Binary) bool { return usesHostCompiler(dist, b) }), nil
}

// usesHostCompiler: the nodes run the host's compiler in place of bin.
func usesHostCompiler(dist driver.Dist, bin catalog.Binary) bool {
	info, err := os.Lstat(filepath.Join(dist.Unpacked(bin.Name), "bin", "clang"))
	return bin.Debian != nil && err == nil && info.Mode().Type() == fs.ModeSymlink
}

// VerifyPrograms holds programs and archives of the environment's nodes to a policy, and what
// nodes have of an archive to the archive. errs has an entry for each, nil where all is well.
func (e *Environment) VerifyPrograms(cat *catalog.Catalog, programs []catalog.Binary, policy sign.Policy) (
	reports []sign.Report, errs []error, err error,
) {
	dist, err := e.Dist()
	if err != nil {
		return nil, nil, err
	}
	reports, errs = make([]sign.Report, len(programs)), make([]error, len(programs))
	var g errgroup.Group
	g.SetLimit(4)
	for i, bin := range programs {
		g.Go(func() error {
			file := programFile(dist, cat.Distribution.Everything(), bin)
			reports[i], errs[i] = verifyProgram(dist, file, bin, policy)
			if errs[i] == nil && bin.Archive() {
				errs[i] = verifyUnpacked(dist, file, bin, &reports[i])
			}
			return nil
		})
	}
	return reports, errs, g.Wait()
}

func verifyProgram(dist driver.Dist, file string, bin catalog.Binary, policy sign.Policy) (sign.Report, error) {
	verify := sign.VerifyProgram
	if bin.Archive() {
		verify = sign.VerifyArchive
	}
	return verify(bin.Name, file, signedDocuments(dist, bin.Name), policy)
}

// verifyUnpacked compares what nodes have of an archive, which passed, with the archive.
func verifyUnpacked(dist driver.Dist, file string, bin catalog.Binary, report *sign.Report) error {
	err := build.CompareUnpacked(file, dist.Unpacked(bin.Name))
	if err == nil {
		return nil
	}
	for i, c := range report.Checks {
		if c.Check == sign.CheckContent {
			report.Checks[i] = sign.Result{Check: c.Check, State: sign.Failed, Detail: err.Error()}
		}
	}
	return fmt.Errorf("what nodes have of archive %s is not what is in it: %w\n"+
		"  find out who changed it; 'orrery down' and 'orrery up' unpack it again", bin.Name, err)
}

// install links a program, or an archive, into the environment, signs what is said of it, and
// holds both to the policy: no node runs what does not get past here.
func (p *Platform) install(ctx context.Context, dist driver.Dist, bin catalog.Binary) (digest string, err error) {
	file := programFile(dist, p.Catalog.Distribution.Everything(), bin)
	if err := p.Supply.Link(ctx, filepath.Dir(file), bin); err != nil {
		return "", err
	}
	signErr := p.signProgram(ctx, dist, bin) // which makes the key that the policy trusts
	policy, err := p.Keys.Policy(p.Supply.Locked)
	if err != nil {
		return "", err
	}
	report, err := verifyProgram(dist, file, bin, policy)
	if signErr != nil {
		err = signErr // which is why the rest failed
	}
	if err != nil && ctx.Err() == nil && report.Digest != "" && p.Spec.Images.Verify == spec.VerifyWarn {
		p.warnStep(string(plan.KindCluster), plan.PhaseCluster, usedNevertheless, err)
		err = nil
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return report.Digest, err
	}
	return report.Digest, p.noteInstalled(dist, file, bin)
}

// noteInstalled has the driver start nothing else in a program's place.
func (p *Platform) noteInstalled(dist driver.Dist, file string, bin catalog.Binary) error {
	d, ok := p.Driver.(driver.Distributor)
	if !ok {
		return nil
	}
	name, err := filepath.Rel(string(dist), file)
	if err != nil {
		return err
	}
	names := []string{name}
	for _, link := range bin.Links {
		names = append(names, filepath.Join(filepath.Dir(name), link))
	}
	return d.Installed(names...)
}

// signProgram signs the documents of a program, unless they are signed by the environment's key.
func (p *Platform) signProgram(ctx context.Context, dist driver.Dist, bin catalog.Binary) error {
	docs, sha256, err := p.Supply.ProgramDocuments(ctx, bin)
	if err != nil {
		return err
	}
	key, err := p.SigningKey(ctx)
	if err != nil {
		return err
	}
	if sign.SealedWith(sha256, key.Public(), signedDocuments(dist, bin.Name), docs) {
		return nil
	}
	signed, err := sign.Seal(sha256, key, docs)
	if err != nil {
		return fmt.Errorf("sign what is said of program %s: %w", bin.Name, err)
	}
	if err := os.MkdirAll(dist.Attestations(), 0o755); err != nil {
		return err
	}
	for ending, data := range map[string][]byte{signedSBOM: signed.SBOM, signedProvenance: signed.Provenance} {
		file := filepath.Join(dist.Attestations(), bin.Name+ending)
		if data == nil {
			err = errors.Join(err, os.RemoveAll(file))
			continue
		}
		err = errors.Join(err, atomicfile.Write(file, data, 0o644))
	}
	return err
}

// installArchives lays out the archives of the node distribution, each as a folder of its name
// beside the programs'; and, where there is a compiler among them, the folder that nodes share
// what they compile in.
func (p *Platform) installArchives(ctx context.Context, dist driver.Dist) error {
	var g errgroup.Group
	for _, bin := range p.Catalog.Distribution.Archives {
		g.Go(func() error { return p.unpack(ctx, dist, bin) })
		if bin.Debian != nil {
			g.Go(func() error { return shareObjects(dist, filepath.Join(p.Supply.CacheDir(), sharedObjects)) })
		}
	}
	return g.Wait()
}

// unpack installs an archive, and lays out its files for the nodes.
func (p *Platform) unpack(ctx context.Context, dist driver.Dist, bin catalog.Binary) error {
	dir := dist.Unpacked(bin.Name)
	if cached, err := p.Supply.Cached(ctx, bin); err == nil && !cached {
		if clang := supply.HostCompiler(ctx, bin); clang != "" {
			return errors.Join(linkCompiler(dir, clang), p.noteUnpacked(bin))
		}
	}
	digest, err := p.install(ctx, dist, bin)
	if err != nil {
		return err
	}
	damaged, err := build.Unpack(ctx, p.Supply.CacheDir(), strings.TrimPrefix(digest, "sha256:"), dir, dist.Archive(bin.Name))
	if damaged != nil && err == nil {
		p.warnStep(string(plan.KindCluster), plan.PhaseCluster,
			"what archive %s was unpacked to had changed, and was unpacked again: %v", bin.Name, damaged)
	}
	if err != nil {
		return err
	}
	return p.noteUnpacked(bin)
}

// noteUnpacked is noteInstalled for what nodes have of an archive.
func (p *Platform) noteUnpacked(bin catalog.Binary) error {
	if d, ok := p.Driver.(driver.Distributor); ok {
		return d.Installed(bin.Name)
	}
	return nil
}

// linkCompiler has nodes run the host's own clang, which they see where the host does.
func linkCompiler(dir, clang string) error {
	at := filepath.Join(dir, "bin", "clang")
	if to, err := os.Readlink(at); err == nil && to == clang {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return os.Symlink(clang, at)
}

func shareObjects(dist driver.Dist, shared string) error {
	at := dist.Objects()
	if err := os.MkdirAll(shared, 0o700); err != nil {
		return err
	}
	if to, err := os.Readlink(at); err == nil && to == shared {
		return nil
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return os.Symlink(shared, at)
}
