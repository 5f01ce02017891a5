package ci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/licence"
	"github.com/orrery-dev/orrery/internal/sbom"
)

const (
	sbomSuffix = ".cdx.json"
	syftSuffix = ".syft.cdx.json"
)

// sboms writes a bill of materials of every binary, has syft write another, and compares.
func (l *release) sboms(ctx context.Context) error {
	licences, err := linkedLicences(ctx, l.Runner)
	if err != nil {
		return err
	}
	syft, noSyft := exec.LookPath("syft")
	if noSyft != nil {
		syft, noSyft = l.tool(ctx, "syft", false)
	}
	for _, t := range targets {
		file := filepath.Join(l.dir, t.file())
		sum, err := fileSum(file)
		if err != nil {
			return fmt.Errorf("orrery ci run release-binaries comes before: %w", err)
		}
		info, err := build.ReadProgram(file)
		if err != nil {
			return fmt.Errorf("read what %s consists of: %w", t.file(), err)
		}
		program := sbom.Program{Name: t.file(), Version: l.tag, Platform: t.os + "/" + t.arch, SHA256: sum, Info: info}
		doc, err := sbom.ProgramCycloneDX(program, licences)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file+sbomSuffix, doc, 0o644); err != nil {
			return err
		}
		if noSyft != nil {
			continue
		}
		cmd := l.command(ctx, syft, "scan", "--quiet", "--source-name", t.file(), "--source-version", l.tag,
			"-o", "cyclonedx-json="+file+syftSuffix, "file:"+file)
		cmd.Env = append(cmd.Env, "SYFT_CHECK_FOR_APP_UPDATE=false")
		cmd.Stdout, cmd.Stderr = l.Out, l.Out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("syft: %w", err)
		}
		theirs, err := os.ReadFile(file + syftSuffix)
		if err != nil {
			return err
		}
		if err := sameModules(doc, theirs); err != nil {
			return fmt.Errorf("bills of materials of %s differ:\n%w", t.file(), err)
		}
		l.say("%s: both bills list the same modules", t.file())
	}
	if noSyft != nil {
		return Skip{"our own bills are written; syft, to compare with, is neither on PATH nor compiled: tools/build syft"}
	}
	return nil
}

// modulesOf are the Go modules that a CycloneDX document lists, without the standard library
// and the program's own.
func modulesOf(doc []byte) ([]string, error) {
	var bill struct {
		BOMFormat  string `json:"bomFormat"`
		Components []struct {
			PURL string `json:"purl"`
		} `json:"components"`
	}
	if err := json.Unmarshal(doc, &bill); err != nil {
		return nil, err
	}
	if bill.BOMFormat != "CycloneDX" {
		return nil, fmt.Errorf("a document of the format %q and not CycloneDX", bill.BOMFormat)
	}
	var modules []string
	for _, c := range bill.Components {
		purl, _, _ := strings.Cut(c.PURL, "?")
		purl, _, _ = strings.Cut(purl, "#")
		module, ok := strings.CutPrefix(purl, "pkg:golang/")
		if !ok || strings.HasPrefix(module, "std@") || strings.HasPrefix(module, "stdlib@") || strings.HasPrefix(module, ownModule) {
			continue
		}
		// The standard wants an escaped plus sign, and not everybody writes one.
		modules = append(modules, strings.ToLower(strings.ReplaceAll(module, "%2B", "+")))
	}
	slices.Sort(modules)
	return slices.Compact(modules), nil
}

const ownModule = "github.com/orrery-dev/orrery"

// sameModules compares two bills of materials of one program.
func sameModules(ours, theirs []byte) error {
	a, err := modulesOf(ours)
	if err != nil {
		return fmt.Errorf("ours: %w", err)
	}
	b, err := modulesOf(theirs)
	if err != nil {
		return fmt.Errorf("the other: %w", err)
	}
	var bad []string
	for _, m := range a {
		if !slices.Contains(b, m) {
			bad = append(bad, m+" is in ours only")
		}
	}
	for _, m := range b {
		if !slices.Contains(a, m) {
			bad = append(bad, m+" is missing in ours")
		}
	}
	return refuse(bad)
}

// linkedLicences holds what is linked into the command line to the list of licences, and
// returns the licence of each module.
func linkedLicences(ctx context.Context, r *Runner) (map[string]string, error) {
	policy, err := licence.LoadPolicy(filepath.Join(r.Root, "infra", "licences.yaml"))
	if err != nil {
		return nil, err
	}
	if policy == nil {
		return nil, errors.New("infra/licences.yaml is not there: it says which licences may be linked")
	}
	cmd := r.command(ctx, "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Dir}}{{end}}{{end}}", "./cmd/orrery")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list what is linked: %w: %s", err, lastLine(stderr.String()))
	}
	found := map[string]string{"std": "BSD-3-Clause"}
	if found[ownModule], err = licence.Of(r.Root); err != nil {
		return nil, err
	}
	var bad []string
	for line := range strings.Lines(string(out)) {
		module, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if _, done := found[module]; module == "" || done {
			continue
		}
		detected, err := licence.Of(dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", module, err)
		}
		if found[module], err = policy.Decide(module, detected); err != nil {
			bad = append(bad, err.Error())
		}
	}
	if len(bad) > 0 {
		return nil, fmt.Errorf("%w\nwhen it is right, say so in infra/licences.yaml, with the reason", refuse(bad))
	}
	return found, nil
}

func licences(ctx context.Context, r *Runner) error {
	found, err := linkedLicences(ctx, r)
	if err == nil {
		fmt.Fprintln(r.Out, len(found)-2, "modules are linked, all under licences of infra/licences.yaml")
	}
	return err
}

// verifySBOMs holds the bills of materials that were published to the programs.
func (l *release) verifySBOMs(_ context.Context, dir string) error {
	for _, t := range targets {
		file := filepath.Join(dir, t.file())
		doc, err := os.ReadFile(file + sbomSuffix)
		if err != nil {
			return fmt.Errorf("%s has no bill of materials: orrery ci run release-sbom", t.file())
		}
		sum, err := fileSum(file)
		if err != nil {
			return err
		}
		var bill struct {
			Metadata struct {
				Component struct {
					Hashes []struct {
						Content string `json:"content"`
					} `json:"hashes"`
				} `json:"component"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(doc, &bill); err != nil {
			return fmt.Errorf("bill of materials of %s: %w", t.file(), err)
		}
		if h := bill.Metadata.Component.Hashes; len(h) != 1 || h[0].Content != sum {
			return fmt.Errorf("the bill of materials of %s is of another program: %v and not %s", t.file(), h, sum)
		}
	}
	return nil
}
