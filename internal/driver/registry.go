package driver

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/spelling"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Capabilities are what verbs have to know of a kind of environment before there is one.
type Capabilities struct {
	// Root: making and removing it takes root.
	Root bool
	// Distribution: its nodes run the programs of infra/native; the driver is a [Distributor].
	Distribution bool
	// Mirror: it has a registry of its own that images are pushed to. Without one they are in
	// images.registry already.
	Mirror bool
	// Nodes: it makes its nodes, in number and size as orrery.yaml says.
	Nodes bool
	// Addresses: its nodes have the addresses and the ranges of pods that orrery.yaml gives them.
	// Elsewhere they are asked for.
	Addresses bool
	// NodeFaults: single nodes can be stopped, started and killed; the driver is a
	// [NodeController].
	NodeFaults bool
}

// Kind is a way to make environments, as orrery.yaml names it.
type Kind struct {
	Name string
	Capabilities
	// NodeNetwork is the network whose programs its nodes have, whatever network.plugin is: agents of
	// another one are pods. Empty where nodes run those of network.plugin.
	NodeNetwork string
	// HostPrograms are what it runs of the host's own programs, and Debian's package for each.
	HostPrograms map[string]string
	// MirrorPrograms are what Prepare runs beside the mirror's own program, by their names in the
	// distribution.
	MirrorPrograms []string
	// Record is its file in the state folder, by which alone it can remove what it made. Empty where the
	// name of the environment is enough.
	Record string
	// New makes the driver of one environment. It looks at nothing and changes nothing.
	New func(Options) (Driver, error)
	// DecideNetwork turns network.plugin auto into what this machine can run; the reason is
	// empty when that is the preferred one. Nil: the network is whatever the cluster has.
	DecideNetwork func(ctx context.Context, compiler Compiler) (plugin, reason string)
}

// Compiler finds the clang that nodes compile BPF programs with, and says which it is. The
// error says what to do.
type Compiler func(ctx context.Context) (string, error)

// Options of a driver. All are set, but for those of which only some drivers make use.
type Options struct {
	// Spec is valid, and what it left open is decided.
	Spec spec.Environment
	// StateDir is the folder of the environment, absolute; it may not exist yet.
	StateDir string
	CacheDir string
	// Executable is this program, for drivers that run it again.
	Executable string
	// Journal is told of every effect first.
	Journal Journal
	Sink    ui.Sink
	Log     *slog.Logger
	// Sandbox is the image of every pod's sandbox, by digest: what the lock has. Empty: what
	// the environment was made with.
	Sandbox string
	// Compiler of BPF programs, for preflight.
	Compiler Compiler
	// Timeout is how long the API and the nodes are waited for while nothing comes nearer;
	// [check.DefaultTimeout] when 0. A slow machine may need more.
	Timeout time.Duration
	// Grace is how long pods have to end at Stop and StopNode, at most, whatever their own
	// termination grace period; 0 ends them at once. See [DefaultGrace].
	Grace time.Duration
}

// DefaultGrace is enough for pods that say nothing about theirs: the termination grace period
// that Kubernetes gives them.
const DefaultGrace = 30 * time.Second

var kinds = map[string]Kind{}

// Register makes a kind known by its name. It is called once for each, when the program
// starts; a second one of a name is a mistake of the programmer.
func Register(k Kind) {
	if _, twice := kinds[k.Name]; twice || k.Name == "" || k.New == nil {
		panic(fmt.Sprintf("driver %q cannot be registered: it is known already, or incomplete", k.Name))
	}
	kinds[k.Name] = k
}

// Names of all kinds, sorted.
func Names() []string { return slices.Sorted(maps.Keys(kinds)) }

// Lookup finds a kind by its name.
func Lookup(name string) (Kind, error) {
	k, ok := kinds[name]
	if ok {
		return k, nil
	}
	hint := ""
	if best := spelling.Nearest(name, Names()); best != "" {
		hint = fmt.Sprintf("; did you mean %q?", best)
	}
	return k, fmt.Errorf("driver: this orrery has no %q, but %s%s", name, strings.Join(Names(), ", "), hint)
}
