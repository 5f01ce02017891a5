package native

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/proc"
)

// Where systemd manages control groups v2, an environment lives in a scope that is delegated to it,
// so that systemd takes no controllers away and counts it like a service. Elsewhere its group is at
// the root, where with systemd only an empty one marks that the environment is there.

const scopeSlice = "system.slice"

func scopeUnit(env string) string { return "orrery-" + env + ".scope" }

func scopeGroup(env string) string { return "/" + scopeSlice + "/" + scopeUnit(env) }

// cgroupRoots are the groups in which the environment may have processes: how it was started tells
// which of them is the one.
func cgroupRoots(env string) []string { return []string{scopeGroup(env), cgroupRoot(env)} }

// scopes asks systemd. Both run a program of systemd.
type scopes struct {
	here  func() bool // systemd is the init of this machine
	run   func(ctx context.Context, program string, args ...string) error
	group func() string // of this process in the unified hierarchy
}

func hostScopes() scopes {
	return scopes{
		here: func() bool { return exists("/run/systemd/system") }, // sd_booted(3)
		run: func(ctx context.Context, program string, args ...string) error {
			path, err := proc.Look(program)
			if err != nil {
				return err
			}
			return proc.Run(ctx, &proc.Cmd{Path: path, Args: args})
		},
		group: func() string {
			b, _ := os.ReadFile("/proc/self/cgroup")
			return unifiedGroup(string(b))
		},
	}
}

// unifiedGroup reads /proc/PID/cgroup, where the unified hierarchy is "0::PATH".
func unifiedGroup(content string) string {
	for line := range strings.Lines(content) {
		if g, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return g
		}
	}
	return ""
}

// scopePatience bounds what systemd does at once, unless it hangs.
const scopePatience = 10 * time.Second

// enter puts this process into a new scope of the environment and returns its group; "" where
// that cannot be, with a warning where it could be expected.
func (s scopes) enter(ctx context.Context, cg cgroups, env string, log *slog.Logger) string {
	if !cg.v2() || !s.here() {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, scopePatience)
	defer cancel()
	err := s.run(ctx, "busctl", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
		"org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", scopeUnit(env), "fail", "5",
		"Description", "s", "Orrery environment "+env,
		"Slice", "s", scopeSlice,
		"Delegate", "b", "true",
		"CollectMode", "s", "inactive-or-failed", // or a scope that failed would keep its name
		"PIDs", "au", "1", strconv.Itoa(os.Getpid()),
		"0")
	if err == nil {
		err = check.Until(ctx, check.Pause{First: 5 * time.Millisecond}, func() error {
			if g := s.group(); g != scopeGroup(env) {
				return fmt.Errorf("this process is in %s", g)
			}
			return nil
		})
	}
	if err != nil {
		log.Warn(
			"systemd gives the environment no scope, so its control groups are beside systemd's, which may take controllers away; it needs a D-Bus (apt-get install dbus)",
			"error",
			err,
		)
		return ""
	}
	return scopeGroup(env)
}

// leave has systemd forget the scope, whose processes have ended. There may be none.
func (s scopes) leave(ctx context.Context, cg cgroups, env string) {
	if cg.v2() && s.here() && len(cg.existing(scopeGroup(env))) > 0 {
		ctx, cancel := context.WithTimeout(ctx, scopePatience)
		defer cancel()
		// It fails when systemd was quicker to see that the scope is empty.
		_ = s.run(ctx, "systemctl", "--quiet", "stop", scopeUnit(env))
	}
}

// clear ends all processes of the environment but this one and removes its groups.
func (s scopes) clear(ctx context.Context, cg cgroups, env string) error {
	for _, g := range cgroupRoots(env) {
		if err := cg.kill(ctx, g); err != nil {
			return err
		}
	}
	s.leave(ctx, cg, env)
	for _, g := range cgroupRoots(env) {
		if err := cg.remove(ctx, g); err != nil {
			return err
		}
	}
	return nil
}
