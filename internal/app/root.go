package app

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/ui"
)

type streams struct {
	in       io.Reader
	out, err io.Writer
}

// options are the flags that every verb has.
type options struct {
	*streams
	file    string
	env     string
	catalog string
	output  string
	plain   bool
	verbose bool
}

// request is what the flags ask for, for a verb that only looks.
func (o *options) request(sink ui.Sink) environment.Request {
	state, cache := folders()
	return environment.Request{
		StateRoot: envOr("ORRERY_STATE_DIR", state), CacheDir: envOr("ORRERY_CACHE_DIR", cache),
		File: o.file, Name: o.env, Catalog: o.catalog, Sink: sink, Log: o.logger(),
	}
}

// change is what the flags ask for, for a verb that changes the environment.
func (o *options) change(verb string, sink ui.Sink) environment.Request {
	r := o.request(sink)
	r.Verb = verb
	return r
}

// existing opens the environment for a verb that looks at it, and makes no sense without one.
func (o *options) existing() (*environment.Environment, error) {
	return environment.Existing(o.request(ui.Discard))
}

func newRoot(s *streams) *cobra.Command {
	o := &options{streams: s}
	root := &cobra.Command{
		Use:   "orrery",
		Short: "A working model of a production platform on one machine, from pinned source",
		Long: `Orrery stands up a highly available Kubernetes platform on this machine, compiled
from pinned Go modules, proves that it works, and removes every trace.

  orrery up        build, start, deploy and verify (a second run changes nothing)
  orrery status    what runs, and where
  orrery verify    write and read real data in every part
  orrery down      remove everything, and audit that nothing is left

It needs Linux and root for the native driver; no Docker, no VM, no registry. With driver:
existing it deploys to a cluster that somebody else made, without root and on macOS too.`,
		Example: `  orrery up                         # the default: 3 servers, 2 agents, all components
  orrery up --env demo -f demo.yaml # a second environment beside the first
  orrery kubectl get pods -A
  orrery node kill server1          # rehearse a power loss; it comes back by itself
  orrery down`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: o.checkOutput,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return failure.Usagef("%w\nsee '%s --help'", err, c.CommandPath())
	})
	f := root.PersistentFlags()
	f.StringVarP(&o.file, "file", "f", "", "environment file (default: orrery.yaml in this folder or the catalogue's, if there is one)")
	f.StringVar(&o.env, "env", "", `environment name (default: the file's name, or "local")`)
	f.StringVar(&o.catalog, "catalog", "", "folder that holds infra/ (default: the repository this folder is in)")
	f.StringVarP(&o.output, "output", "o", "text", "text, json, or what the verb offers besides")
	f.BoolVar(&o.plain, "plain", false, "one line per change, no colour, no live view (default when not a terminal)")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log what the libraries do to standard error")

	root.AddGroup(
		&cobra.Group{ID: "main", Title: "The main job:"},
		&cobra.Group{ID: "steps", Title: "Single steps:"},
		&cobra.Group{ID: "supply", Title: "Where it all comes from:"},
		&cobra.Group{ID: "look", Title: "Look around:"},
		&cobra.Group{ID: "dev", Title: "Change orrery itself:"})
	add := func(group string, cs ...*cobra.Command) {
		for _, c := range cs {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("main", newUp(o), newDown(o), newVerify(o), newStop(o), newStart(o))
	add("steps", newDoctor(o), newCluster(o), newBootstrap(o), newDeploy(o), newRender(o), newDiff(o), newGitOps(o))
	add("supply", newLock(o), newImages(o), newPrograms(o), newBundle(o), newCache(o), newSecrets(o))
	add("look", newStatus(o), newList(o), newAudit(o), newNode(o), newEtcd(o), newData(o),
		newLogs(o), newConsole(o), newFlows(o), newQuery(o), newTrace(o),
		newOpen(o), newKubeconfig(o), newEnv(o), newTrust(o), newKubectl(o), newSupport(o))
	add("dev", newCI(o), newDev(o))
	root.AddCommand(newVersion(o))
	finish(root)
	return root
}

// finish gives every command what they have in common: wrong arguments are the person's
// mistake, and a command that only groups others prints its help.
func finish(c *cobra.Command) {
	if !c.Runnable() {
		c.Args = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			err := fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())
			c.SuggestionsMinimumDistance = 2
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				err = fmt.Errorf("%w, did you mean %s?", err, strings.Join(near, " or "))
			}
			return fmt.Errorf("%w\nsee '%s --help'", err, c.CommandPath())
		}
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return failure.Usage{Err: err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		finish(sub)
	}
}

// outputs annotates a command with what -o can be besides text and json, by blanks.
const outputs = "outputs"

// checkOutput refuses an output format that the command does not have.
func (o *options) checkOutput(c *cobra.Command, _ []string) error {
	known := append([]string{"text", "json"}, strings.Fields(c.Annotations[outputs])...)
	if o.output != "" && !slices.Contains(known, o.output) {
		return failure.Usagef("unknown output format %q: want one of %v", o.output, known)
	}
	return nil
}

// json reports whether a machine reads the output.
func (o *options) json() bool { return o.output == "json" }

func (o *options) logger() *slog.Logger {
	level := slog.LevelError
	if o.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(o.err, &slog.HandlerOptions{Level: level}))
}

// renderer chooses how events are shown. JSON goes to standard output, because a
// machine reads it; what a person watches goes there too, so that it can be piped.
func (o *options) renderer() ui.Renderer {
	return ui.Choose(o.out, o.plain || o.verbose, o.json()) // a log would break into the live view
}

// folders for state and cache: the system's for root, else the person's own by the XDG base
// directory specification.
func folders() (state, cache string) {
	if os.Geteuid() == 0 {
		return "/var/lib/orrery", "/var/cache/orrery"
	}
	xdg := func(name, below string) string {
		if dir := os.Getenv(name); filepath.IsAbs(dir) { // others are to be ignored
			return filepath.Join(dir, "orrery")
		}
		return filepath.Join(os.Getenv("HOME"), below, "orrery")
	}
	return xdg("XDG_STATE_HOME", ".local/state"), xdg("XDG_CACHE_HOME", ".cache")
}

// envOr is a folder that can be moved, so that tests do not touch a real platform.
func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return filepath.Clean(v)
	}
	return fallback
}

// Set by the linker in a release; what Go knows of the clone otherwise.
var released, revision string

func newVersion(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of orrery and of the Go that built it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": "devel", "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			if bi, ok := debug.ReadBuildInfo(); ok {
				if bi.Main.Version != "" {
					v["version"] = bi.Main.Version
				}
				for _, s := range bi.Settings {
					if s.Key == "vcs.revision" {
						v["revision"] = s.Value
					}
				}
			}
			if released != "" {
				v["version"], v["revision"] = released, revision
			}
			if o.json() {
				return printJSON(o.out, v)
			}
			_, err := fmt.Fprintf(o.out, "orrery %s (%s, %s)\n", v["version"], v["go"], v["platform"])
			return err
		},
	}
}

// programVersion is what `orrery version` calls this program.
func programVersion() string {
	if released != "" {
		return released
	}
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" {
		return bi.Main.Version
	}
	return "devel"
}
