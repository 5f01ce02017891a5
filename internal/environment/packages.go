package environment

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/ui"
)

// MissingPackages lists the Debian packages that the host lacks: of the programs that the
// driver runs, and what the cgo binaries among toBuild need to compile.
func MissingPackages(ctx context.Context, programs map[string]string, toBuild []catalog.Binary) []string {
	var missing []string
	for program, pkg := range programs {
		if _, err := proc.Look(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	for _, b := range toBuild {
		if !b.CGO {
			continue
		}
		for _, pkg := range append([]string{"gcc", "libc6-dev"}, b.CHeaders...) {
			if !packageInstalled(ctx, pkg) {
				missing = append(missing, pkg)
			}
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

func packageInstalled(ctx context.Context, pkg string) bool {
	out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${db:Status-Status}", pkg).Output()
	return err == nil && strings.TrimSpace(string(out)) == "installed"
}

// installPackages installs with apt-get after naming them, or refuses with the
// command to run.
func installPackages(ctx context.Context, pkgs []string, allowed bool, sink ui.Sink) error {
	if len(pkgs) == 0 {
		return nil
	}
	by := "apt-get install -y " + strings.Join(pkgs, " ")
	if !allowed {
		return failure.Refused{Err: fmt.Errorf("this machine lacks %s; install with: %s", strings.Join(pkgs, ", "), by)}
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return failure.Refusedf("this machine lacks the Debian packages %s and has no apt-get: install their equivalents",
			strings.Join(pkgs, ", "))
	}
	sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: plan.PhaseBuild, Message: "installing operating system packages: " + strings.Join(pkgs, ", ")})
	env := append(proc.Environment("APT_CONFIG"), "DEBIAN_FRONTEND=noninteractive")
	install := func() error {
		return proc.Run(ctx, &proc.Cmd{Path: "apt-get", Args: append([]string{"install", "-y", "--no-install-recommends", "-q"}, pkgs...), Env: env})
	}
	// The package lists of a fresh machine are empty or old: refresh them only then.
	if install() == nil {
		return nil
	}
	if err := proc.Run(ctx, &proc.Cmd{Path: "apt-get", Args: []string{"update", "-q"}, Env: env}); err != nil {
		return failure.Refused{Err: fmt.Errorf("refresh the package lists before '%s': %w", by, err)}
	}
	if err := install(); err != nil {
		return failure.Refused{Err: fmt.Errorf("%s: %w", by, err)}
	}
	return nil
}
