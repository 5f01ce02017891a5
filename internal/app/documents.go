package app

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/licence"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/sbom"
	"github.com/orrery-dev/orrery/internal/ui"
)

// policyFile is the one list of licences, below the catalogue's root.
const policyFile = "infra/licences.yaml"

func newImagesSBOM(o *options) *cobra.Command {
	return o.document(&cobra.Command{
		Use:   "sbom IMAGE",
		Short: "Print the bill of materials of an image: CycloneDX 1.6 JSON",
		Long: `Print what an image consists of, as CycloneDX 1.6 JSON: its programs, their Go modules
with hash and licence, and every other file. It comes from what the programs say of
themselves, and is the same whenever the image is. A licence that is not recognised, or
that infra/licences.yaml does not allow, is an error.`,
	}, sbomType, (*workshop).sbom)
}

// document completes a command that prints one document about one image.
// Out of a bundle it is the one of that type that came in it.
func (o *options) document(c *cobra.Command, kind string, of func(*workshop, context.Context, catalog.Image) ([]byte, error)) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	c.ValidArgsFunction = o.completeImages
	c.RunE = func(c *cobra.Command, args []string) error {
		if w, err := o.workshop(ui.Discard); err == nil && w.store != nil {
			return w.printCarried(o.out, args[0], kind)
		}
		w, img, err := o.builtImage(c.Context(), args[0])
		if err != nil {
			return err
		}
		doc, err := of(w, c.Context(), img)
		if err != nil {
			return err
		}
		_, err = o.out.Write(doc)
		return err
	}
	return c
}

// sbom makes the bill of materials of an image, and keeps it, so that comparing it with
// the lock later takes no time.
func (w *workshop) sbom(ctx context.Context, img catalog.Image) ([]byte, error) {
	in, err := w.builder.Contents(ctx, img)
	if err != nil {
		return nil, err
	}
	licences, err := w.licences(ctx, "image "+img.Name, img.Binaries, in.Programs, nil)
	if err != nil {
		return nil, err
	}
	doc, err := sbom.CycloneDX(in, licences)
	if err != nil {
		return nil, err
	}
	return doc, w.keepSBOM(in.Digest, doc)
}

// keepSBOM keeps the bill of materials of what has this digest.
func (w *workshop) keepSBOM(of string, doc []byte) error {
	file := w.sbomFile(of)
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, doc) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(file, doc, 0o644)
}

func (w *workshop) sbomFile(digest string) string {
	return filepath.Join(cacheRoot(), "sbom", strings.TrimPrefix(digest, "sha256:")+"-"+sbom.Format+".json")
}

// keptSBOM is the bill of materials that was made here before, if it is the wanted one.
func (w *workshop) keptSBOM(image, want string) ([]byte, error) {
	doc, err := os.ReadFile(w.sbomFile(image))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(doc); "sha256:"+hex.EncodeToString(sum[:]) != want {
		return nil, fmt.Errorf("%s is not %s", w.sbomFile(image), want)
	}
	return doc, nil
}

// noteSBOMs fills in the digests of the bills of materials that were made here.
func (w *workshop) noteSBOMs(have lock.Platform) {
	digest := func(of string) string {
		doc, err := os.ReadFile(w.sbomFile(of))
		if err != nil {
			return ""
		}
		sum := sha256.Sum256(doc)
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	for name, i := range have.Images {
		if i.Digest != "" {
			i.SBOM = digest(i.Digest)
			have.Images[name] = i
		}
	}
	for _, bin := range w.catalog.Distribution.Everything().Files() {
		if b := have.Binaries[bin.Name]; b.SHA256 != "" {
			b.SBOM = digest("sha256:" + b.SHA256)
			have.Binaries[bin.Name] = b
		}
	}
}

// licences finds the licence of every module of some programs, and of the C libraries that
// are linked into them, and holds it to the policy. All that is not allowed is named at once.
func (w *workshop) licences(ctx context.Context, of string, binaries []catalog.Binary, programs []build.ProgramInfo, libraries []sbom.Package) (map[string]string, error) {
	policy, err := licence.LoadPolicy(filepath.Join(w.catalog.Root, policyFile))
	if err != nil {
		return nil, usageError{err}
	}
	known := licence.OpenCache(filepath.Join(cacheRoot(), "licences.json"))
	defer func() { _ = known.Save() }() // it only saves time
	text, _ := os.ReadFile(filepath.Join(w.catalog.Root, "LICENSE"))
	ours, err := known.Of(fmt.Sprintf("%x", sha256.Sum256(text)), w.catalog.Root)
	if err != nil {
		return nil, err
	}
	found := map[string]string{"std": "BSD-3-Clause"}
	var bad []error
	for i, p := range programs {
		modules := append([]build.Module{p.Main}, p.Modules...)
		dirs, err := w.builder.ModuleDirs(ctx, binaries[i], modules)
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
	for _, lib := range libraries { // whose texts are not in a module: the policy has to know them
		decided, err := policy.Decide(lib.LicenceKey(), licence.Unknown)
		if err != nil {
			bad = append(bad, err)
		}
		found[lib.LicenceKey()] = decided
	}
	if len(bad) > 0 {
		slices.SortFunc(bad, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, fmt.Errorf("licences of %s:\n%w\nwhen it is right, say so in %s, with the reason", of, errors.Join(bad...), policyFile)
	}
	return found, nil
}
