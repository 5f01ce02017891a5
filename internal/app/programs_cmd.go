package app

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newPrograms(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "programs",
		Short: "What the nodes run outside of images: list, documents, verify, build again and compare",
	}
	c.AddCommand(newProgramsList(o), newProgramsSBOM(o), newProgramsProvenance(o), newProgramsVerify(o), newProgramsReproduce(o))
	return c
}

// programRow is one entry of `programs list -o json`; its form is a contract.
type programRow struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Source  string `json:"source"` // MODULE@VERSION, or a module of the repository
	SHA256  string `json:"sha256"` // empty when it is not here
	// Locked is yes, no (not in the lock), differs or unknown (not here).
	Locked string `json:"locked"`
	SBOM   string `json:"sbom,omitempty"` // digest, from the lock
	// Signed is yes, no, or empty when there is no environment.
	Signed string `json:"signed,omitempty"`
	// Names are further names of a program that is several.
	Names []string `json:"names,omitempty"`
}

func newProgramsList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Every program of the nodes: version, source, digest, whether it is as locked and signed",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			rows, err := listPrograms(c.Context(), o)
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, rows)
			}
			table := [][]string{}
			for _, r := range rows {
				digest := "not built"
				if r.SHA256 != "" {
					digest = r.SHA256[:12]
				}
				sbom := "-"
				if r.SBOM != "" {
					sbom = "yes"
				}
				table = append(table, []string{r.Name, r.Version, r.Source, digest, r.Locked, sbom, cmp.Or(r.Signed, "-"), strings.Join(r.Names, " ")})
			}
			return ui.Table(o.out, []string{"NAME", "VERSION", "SOURCE", "SHA-256", "LOCKED", "SBOM", "SIGNED", "FURTHER NAMES"}, table)
		},
	}
}

func listPrograms(ctx context.Context, o *options) ([]programRow, error) {
	w, err := o.workshop(ui.Discard)
	if err != nil {
		return nil, err
	}
	if w.lockErr != nil {
		return nil, w.lockErr
	}
	have, err := w.describe(ctx)
	if err != nil {
		return nil, err
	}
	signed := map[string]string{}
	if s, err := o.attach(ui.Discard); err == nil && s.exists {
		if keys, err := s.trusted(); err == nil {
			for _, r := range s.verifyPrograms(w, s.nodeFiles(w.catalog), sign.Policy{Keys: keys, AnyBuilder: true}).reports {
				signed[r.Image] = map[bool]string{true: "yes", false: "no"}[r.OK()]
			}
		}
	}
	rows := []programRow{}
	for _, bin := range w.catalog.Distribution.Everything().Files() {
		d := have.Binaries[bin.Name]
		row := programRow{Name: bin.Name, Version: bin.Version, Source: d.Module, SHA256: d.SHA256, Names: bin.Links, Signed: signed[bin.Name], Locked: "no"}
		if w.locked != nil {
			l, in := w.locked.Binaries[bin.Name]
			row.SBOM = l.SBOM
			switch {
			case !in:
			case d.SHA256 == "":
				row.Locked = "unknown"
			case d.SHA256 == l.SHA256:
				row.Locked = "yes"
			default:
				row.Locked = "differs"
			}
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b programRow) int { return cmp.Compare(a.Name, b.Name) })
	return rows, nil
}

func newProgramsSBOM(o *options) *cobra.Command {
	return o.programDocument(&cobra.Command{
		Use:   "sbom PROGRAM",
		Short: "Print the bill of materials of a program of the nodes: CycloneDX 1.6 JSON",
		Long: `Print what a program of the nodes consists of, as CycloneDX 1.6 JSON: its Go modules with
hash and licence, and the C libraries that are linked into it. A licence that is not
recognised, or that infra/licences.yaml does not allow, is an error.`,
	}, sbomType, (*workshop).programSBOM)
}

func newProgramsProvenance(o *options) *cobra.Command {
	return o.programDocument(&cobra.Command{
		Use:   "provenance PROGRAM",
		Short: "Print how a program of the nodes was made: SLSA provenance v1 in an in-toto statement",
		Long: `Print how a program of the nodes was made: an in-toto statement with SLSA provenance v1
about the file, at SLSA build level 1. An environment signs it before its nodes start; see
'orrery programs verify'.`,
	}, provenanceType, (*workshop).programProvenance)
}

// programDocument completes a command that prints one document about one program.
func (o *options) programDocument(c *cobra.Command, kind string, of func(*workshop, context.Context, catalog.Binary) ([]byte, error)) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	c.ValidArgsFunction = o.completePrograms
	c.RunE = func(c *cobra.Command, args []string) error {
		w, err := o.workshop(ui.Discard)
		if err != nil {
			return err
		}
		if w.store == nil {
			w, bin, err := o.builtProgram(c.Context(), args[0])
			if err != nil {
				return err
			}
			doc, err := of(w, c.Context(), bin)
			if err == nil {
				_, err = o.out.Write(doc)
			}
			return err
		}
		bin, err := w.nodeProgram(args[0])
		if err != nil {
			return err
		}
		papers, _, err := w.store.Papers(bin.Name)
		if err == nil && papers[kind] == nil {
			err = fmt.Errorf("the bundle has no %s of program %s: an older orrery made it", kind, bin.Name)
		}
		if err == nil {
			_, err = o.out.Write(papers[kind])
		}
		return err
	}
	return c
}

// builtProgram is builtImage for a program of the nodes.
func (o *options) builtProgram(ctx context.Context, name string) (*workshop, catalog.Binary, error) {
	sink := ui.Choose(o.err, true, false)
	defer sink.Close()
	w, err := o.workshop(sink)
	if err != nil {
		return nil, catalog.Binary{}, err
	}
	bin, err := w.nodeProgram(name)
	if err != nil {
		return nil, bin, err
	}
	if err := w.needsSource("programs"); err != nil {
		return nil, bin, err
	}
	_, err = w.builder.Binary(ctx, bin)
	return w, bin, err
}

func newProgramsVerify(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "verify [PROGRAM...]",
		Short: "Check bytes, signature, provenance and bill of materials of the programs that the nodes run",
		Long: `Hash every program that the environment's nodes run, or those named, and check: what was
signed of it by the trusted keys, the provenance (builder, source, modules), the bill of
materials, and the digest against the lock. Exit status 1 when a check failed.`,
		ValidArgsFunction: o.completePrograms,
		RunE:              func(_ *cobra.Command, args []string) error { return verifyPrograms(o, args) },
	}
}

// programVerification is what verifyPrograms found.
type programVerification struct {
	reports []sign.Report
	errs    []error
}

// verifyPrograms holds programs of the environment to a policy.
func (s *session) verifyPrograms(w *workshop, programs []catalog.Binary, policy sign.Policy) programVerification {
	v := programVerification{make([]sign.Report, len(programs)), make([]error, len(programs))}
	var g errgroup.Group
	g.SetLimit(4)
	for i, bin := range programs {
		g.Go(func() error {
			v.reports[i], v.errs[i] = s.verifyProgram(w.catalog, bin, policy)
			if v.errs[i] == nil && bin.Archive() {
				v.errs[i] = s.verifyUnpacked(w.catalog, bin, &v.reports[i])
			}
			return nil
		})
	}
	_ = g.Wait()
	return v
}

// verifyUnpacked compares what nodes have of an archive, which passed, with the archive.
func (s *session) verifyUnpacked(cat *catalog.Catalog, bin catalog.Binary, report *sign.Report) error {
	err := build.CompareUnpacked(s.programFile(cat, bin), filepath.Join(s.stateDir, "dist", bin.Name))
	if err == nil {
		return nil
	}
	for i, c := range report.Checks {
		if c.Check == sign.CheckContent {
			report.Checks[i] = sign.Result{Check: c.Check, State: sign.Failed, Detail: err.Error()}
		}
	}
	return fmt.Errorf("what nodes have of archive %s is not what is in it: %w\n  find out who changed it; 'orrery down' and 'orrery up' unpack it again", bin.Name, err)
}

func verifyPrograms(o *options, names []string) error {
	s, err := o.attachExisting()
	if err != nil {
		return err
	}
	w, err := o.workshop(ui.Discard)
	if err == nil {
		err = w.lockErr
	}
	if err != nil {
		return err
	}
	programs := s.nodeFiles(w.catalog)
	if len(names) > 0 {
		programs = nil
	}
	for _, name := range names {
		bin, err := w.nodeProgram(name)
		if err != nil {
			return err
		}
		programs = append(programs, bin)
	}
	policy, err := (&platform{session: s, locked: w.locked}).imagePolicy()
	if err != nil {
		return err
	}
	found := s.verifyPrograms(w, programs, policy)
	v := s.verification(policy)
	v.Programs = found.reports
	for _, r := range v.Programs {
		v.OK = v.OK && r.OK()
	}
	return o.tellVerification(v, "programs", v.Programs, slices.DeleteFunc(found.errs, func(err error) bool { return err == nil }))
}

func (o *options) completePrograms(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	cat, err := o.loadCatalog()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, bin := range cat.Distribution.Everything().Files() {
		names = append(names, bin.Name)
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveNoFileComp
}
