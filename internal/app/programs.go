package app

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/supply"
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
	s, err := o.request(ui.Discard).Supply()
	if err != nil {
		return nil, err
	}
	have, err := s.Describe(ctx, s.All())
	if err != nil {
		return nil, err
	}
	signed := o.signedPrograms(s)
	rows := []programRow{}
	for _, bin := range s.Catalog.Distribution.Everything().Files() {
		d := have.Binaries[bin.Name]
		row := programRow{Name: bin.Name, Version: bin.Version, Source: d.Module, SHA256: d.SHA256, Names: bin.Links, Signed: signed[bin.Name], Locked: "no"}
		if s.Locked != nil {
			l, in := s.Locked.Binaries[bin.Name]
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

// signedPrograms says of every program of the environment's nodes whether its signature
// counts; none without an environment.
func (o *options) signedPrograms(s *supply.Supply) map[string]string {
	signed := map[string]string{}
	e, err := o.existing()
	if err != nil {
		return signed
	}
	keys, err := e.Keys.Trusted()
	if err != nil {
		return signed
	}
	files, err := e.NodeFiles(s.Catalog)
	if err != nil {
		return signed
	}
	reports, _, _ := e.VerifyPrograms(s.Catalog, files, sign.Policy{Keys: keys, AnyBuilder: true})
	for _, r := range reports {
		signed[r.Image] = map[bool]string{true: "yes", false: "no"}[r.OK()]
	}
	return signed
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

func verifyPrograms(o *options, names []string) error {
	e, err := o.existing()
	if err != nil {
		return err
	}
	s, err := o.request(ui.Discard).Supply()
	if err != nil {
		return err
	}
	programs, err := e.NodeFiles(s.Catalog)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		programs = nil
	}
	for _, name := range names {
		bin, err := s.NodeProgram(name)
		if err != nil {
			return err
		}
		programs = append(programs, bin)
	}
	policy, err := e.Keys.Policy(s.Locked)
	if err != nil {
		return err
	}
	v := verification(e, policy)
	var errs []error
	if v.Programs, errs, err = e.VerifyPrograms(s.Catalog, programs, policy); err != nil {
		return err
	}
	v.OK = allOK(v.Programs)
	return o.tellVerification(v, "programs", v.Programs, slices.DeleteFunc(errs, func(err error) bool { return err == nil }))
}

func (o *options) completePrograms(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	cat, err := o.request(ui.Discard).Location().Catalog()
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
