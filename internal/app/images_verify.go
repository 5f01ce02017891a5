package app

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
)

func newImagesVerify(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "verify [IMAGE...]",
		Short: "Check signature, provenance, bill of materials and bytes of every image where nodes pull it",
		Long: `Read every image of the running environment, or those named, back from where its nodes pull
it, the environment's mirror or (driver: existing) images.registry, and check: every byte
against its digest, the signature against the trusted keys, the provenance (builder, source,
modules) and the bill of materials against the image and the lock, and the digest against the
lock. Exit status 1 when a check failed.

Trusted are the environment's own key, or (driver: existing) the one that 'orrery images push'
signs with on this machine, and those of images.trustedKeys.`,
		Example: `  orrery images verify
  orrery images verify nats-server -o json`,
		ValidArgsFunction: o.completeImages,
		RunE:              func(c *cobra.Command, args []string) error { return verifyImages(c.Context(), o, args) },
	}
}

// imageVerification is what `images verify -o json` prints; its form is a contract.
type imageVerification struct {
	Environment string            `json:"environment"`
	Policy      spec.Verification `json:"policy"` // enforce | warn: what up does about it
	// TrustedKeys are fingerprints, the environment's own (driver: existing: this machine's) first.
	TrustedKeys []string `json:"trustedKeys"`
	// Note says that that key is lost, when it is.
	Note     string        `json:"note,omitempty"`
	OK       bool          `json:"ok"`
	Images   []sign.Report `json:"images,omitempty"`
	Programs []sign.Report `json:"programs,omitempty"` // of `programs verify`
}

// verification says what is checked against.
func verification(e *environment.Environment, policy sign.Policy) imageVerification {
	v := imageVerification{Environment: e.Spec.Name, Policy: e.Spec.Images.Verify, TrustedKeys: []string{}, OK: true}
	if e.Keys.Lost() {
		whose, verb := "the environment's own", "up"
		if !e.Kind.Mirror {
			whose, verb = "this machine's", "images push"
		}
		v.Note = whose + " key cannot be opened any more, as after a restart of the machine, and is not trusted: 'orrery " +
			verb + e.Flag() + "' makes another and signs everything again"
	}
	for _, k := range policy.Keys {
		v.TrustedKeys = append(v.TrustedKeys, k.Fingerprint())
	}
	return v
}

func verifyImages(ctx context.Context, o *options, names []string) error {
	e, err := o.existing()
	if err != nil {
		return err
	}
	p, err := e.Platform(environment.Selection{})
	if err != nil {
		return err
	}
	if len(names) == 0 {
		names = slices.DeleteFunc(slices.Sorted(maps.Keys(p.Parts.Images)), p.Lacking)
	}
	for _, name := range names {
		if _, ok := p.Parts.Images[name]; !ok {
			return failure.Usagef("there is no image %q in environment %q; there are: %v", name, e.Spec.Name, slices.Sorted(maps.Keys(p.Parts.Images)))
		}
	}
	policy, err := e.Keys.Policy(p.Supply.Locked)
	if err != nil {
		return err
	}
	policy.Thorough = true
	v := verification(e, policy)
	var failures []error
	if v.Images, failures, err = p.VerifyImages(ctx, names, policy); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	v.OK = allOK(v.Images)
	return o.tellVerification(v, "images", v.Images, failures)
}

func allOK(reports []sign.Report) bool {
	return !slices.ContainsFunc(reports, func(r sign.Report) bool { return !r.OK() })
}

// tellVerification prints what was found; a check that failed is an error.
func (o *options) tellVerification(v imageVerification, what string, reports []sign.Report, errs []error) (err error) {
	if o.json() {
		err = printJSON(o.out, v)
	} else {
		err = printVerification(o.out, v, what, reports, errs)
	}
	if err == nil && !v.OK {
		return exitError(exitFailed)
	}
	return err
}

func printVerification(out io.Writer, v imageVerification, what string, reports []sign.Report, errs []error) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tDIGEST\tCONTENT\tSIGNATURE\tPROVENANCE\tSBOM\tLOCK")
	for _, r := range reports {
		digest := "unknown"
		if r.Digest != "" {
			digest = strings.TrimPrefix(r.Digest, "sha256:")[:12]
		}
		fmt.Fprintf(w, "%s\t%s", r.Image, digest)
		said := map[string]sign.State{}
		for _, c := range r.Checks {
			said[c.Check] = c.State
		}
		for _, check := range []string{sign.CheckContent, sign.CheckSignature, sign.CheckProvenance, sign.CheckSBOM, sign.CheckLock} {
			if said[check] == "" {
				said[check] = "-"
			}
			fmt.Fprintf(w, "\t%s", said[check])
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	failed := 0
	for _, r := range reports {
		if !r.OK() {
			failed++
		}
	}
	for _, err := range errs {
		fmt.Fprintf(out, "\n%v\n", err)
	}
	if v.Note != "" {
		fmt.Fprintf(out, "\nnote: %s\n", v.Note)
	}
	_, err := fmt.Fprintf(out, "\n%d %s: %d as they should be, %d not. Trusted: %s\n",
		len(reports), what, len(reports)-failed, failed, cmp.Or(strings.Join(v.TrustedKeys, " "), "nobody"))
	return err
}

// signedTime is how long a list of images waits for a registry that is not the environment's own.
const signedTime = 3 * time.Second

// signedImages says of every image of the running environment whether its signature
// counts; nil when none answers.
func (o *options) signedImages(ctx context.Context) map[string]string {
	e, err := o.existing()
	if err != nil {
		return nil
	}
	p, err := e.Platform(environment.Selection{})
	if err != nil {
		return nil
	}
	keys, err := e.Keys.Trusted()
	if err != nil {
		return nil
	}
	if !e.Kind.Mirror { // it may be far away
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, signedTime)
		defer cancel()
	}
	reports, _, err := p.VerifyImages(ctx, slices.Sorted(maps.Keys(p.Parts.Images)), sign.Policy{Keys: keys, Foreign: true})
	if err != nil {
		return nil
	}
	signed := map[string]string{}
	for _, r := range reports {
		if len(r.Checks) < 2 || r.Checks[0].State == sign.Failed { // the registry does not have it
			continue
		}
		signed[r.Image] = "no"
		if r.OK() {
			signed[r.Image] = "yes"
		}
	}
	return signed
}
