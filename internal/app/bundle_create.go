package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

type bundleCreate struct {
	*options
	components []string
	key        string
}

func newBundleCreate(o *options) *cobra.Command {
	b := &bundleCreate{options: o}
	file := fmt.Sprintf("orrery-linux-%s%s", runtime.GOARCH, bundle.Extension)
	c := &cobra.Command{
		Use:   "create [FILE]",
		Short: "Write a bundle: images, programs of the nodes, catalogue and lock in one signed file",
		Long: `Build what is not built yet, hold it to the lock, and write one file (default:
orrery-linux-ARCH.orrery) with all that 'orrery up --bundle' needs on a machine of the same
platform. FILE.pub beside it is the key that the other side has to trust; its fingerprint
is printed. The same platform gives the same file, apart from the signature.

Without --key, this machine's own key signs, which is made at first use.`,
		Example: `  orrery bundle create                              # all components of the overlay
  orrery bundle create small.orrery --components nats
  orrery bundle create -o release.orrery --key cosign.key`,
		Args: cobra.MaximumNArgs(1),
		PersistentPreRunE: func(c *cobra.Command, args []string) error {
			if strings.HasSuffix(o.output, bundle.Extension) && len(args) == 0 { // the habit of other programs
				file, o.output = o.output, "text"
			}
			return o.checkOutput(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				file = args[0]
			}
			return b.run(c.Context(), file)
		},
	}
	c.Flags().StringSliceVar(&b.components, "components", nil, "components to take, with what they need (default:"+
		" those of orrery.yaml or of its profile, or all of the overlay)")
	c.Flags().StringVar(&b.key, "key", "", "private key (cosign.key) to sign with; its password is in ORRERY_KEY_PASSWORD")
	return c
}

// tellKey tells what became of a key when it was opened.
func tellKey(sink ui.Sink, key *sign.Key) {
	for typ, text := range map[ui.Type]string{ui.TypeNotice: key.Notice, ui.TypeWarning: key.Warning} {
		if text != "" {
			sink.Emit(ui.Event{Type: typ, Phase: "build", Message: text})
		}
	}
}

// createReport is what `bundle create -o json` prints; its form is a contract.
type createReport struct {
	bundleReport
	PublicKey string  `json:"publicKey"` // file
	Seconds   float64 `json:"seconds"`   // of writing it, without what had to be built
}

func (b *bundleCreate) run(ctx context.Context, file string) error {
	sink := b.renderer()
	defer sink.Close()
	if info, err := os.Stat(filepath.Dir(file)); err != nil || !info.IsDir() {
		return failure.Usagef("%s: there is no folder %s", file, filepath.Dir(file))
	}
	request := b.request(sink)
	want, err := request.Spec()
	if err != nil {
		return err
	}
	contents, err := b.contents(ctx, request, want)
	if err != nil {
		return err
	}
	machine := request.Machine()
	key, err := machine.Key(ctx, b.key, want.Images)
	if err != nil {
		return err
	}
	tellKey(sink, key)
	start := time.Now()
	if err := stepOf(sink, "bundle/create", func() error {
		return bundle.Create(ctx, file, contents, bundle.CreateOptions{Sign: key.SignBlob, PublicKey: key.Public().PEM(), Sink: sink})
	}); err != nil {
		return err
	}
	took := environment.Seconds(time.Since(start))
	if err := atomicfile.Write(file+".pub", key.Public().PEM(), 0o644); err != nil {
		return err
	}
	sink.Close()
	made, err := supply.OpenBundle(file)
	if err != nil {
		return err
	}
	defer made.Close()
	if err := machine.Trust(ctx, made.Digest()); err != nil { // it is ours, whatever becomes of the key
		return err
	}
	r := createReport{bundleReport{file, made.Describe(), key.Public().Fingerprint(), true}, file + ".pub", took}
	if b.output == "json" {
		return printJSON(b.out, r)
	}
	_, err = fmt.Fprintf(b.out, `%s: %d images, %d programs, %s, unpacked %s (%.1f s, %s/s)
  digest     %s
  signed by  %s (%s.pub)
On the other machine, when it trusts that key:
  orrery up --bundle %[1]s --key %[1]s.pub
`, file, len(r.Images), len(r.Programs), megabytes(r.Size), megabytes(r.Unpacked), took, megabytes(int64(float64(r.Unpacked)/max(took, 0.001))), r.Digest, r.Key, file)
	return err
}

// contents builds what is missing, holds it to the lock, and lists what goes in.
func (b *bundleCreate) contents(ctx context.Context, r environment.Request, want spec.Environment) (bundle.Contents, error) {
	at := r.Location()
	cat, err := at.Catalog()
	if err != nil {
		return bundle.Contents{}, err
	}
	names := b.components
	if len(names) == 0 {
		names = want.Components
	}
	if len(names) == 0 { // one bundle out of another
		overlay, made, err := at.Components()
		if err != nil {
			return bundle.Contents{}, err
		}
		if overlay == want.Overlay {
			names = made
		}
	}
	of := cat
	if want.Profile != "" {
		of = cat.Within(want.Profile)
	}
	components, err := of.Select(want.Overlay, names)
	if err != nil {
		return bundle.Contents{}, failure.Usage{Err: err}
	}
	s, err := r.Supply()
	if err != nil {
		return bundle.Contents{}, err
	}
	nodes := *s.Catalog
	nodes.Distribution = nodes.Distribution.For(bundledNetwork(want.Network.Plugin))
	return s.With(&nodes).Contents(ctx, want.Overlay, components)
}

// bundledNetwork is the plugin that a bundle has the parts of: the other machine decides what
// auto means there, and can only choose what it is given.
func bundledNetwork(plugin string) string {
	if plugin == spec.PluginAuto {
		return spec.PluginCilium
	}
	return plugin
}
