package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Environment is one environment. It has a driver and a journal from the beginning; whoever
// opened it for a verb that changes it has it for itself until Close.
type Environment struct {
	// Spec is what is wanted (Open), or what it was made with (Attach).
	Spec     spec.Environment
	StateDir string
	// Exists: a state is kept of it.
	Exists bool
	// Skipped are the components that the last `up` left out.
	Skipped map[string]plan.Cause
	// NetworkReason is why network.plugin auto is not what is preferred; empty when it is, or
	// was not asked for.
	NetworkReason string
	// Damage is why the kept state could not be read ([Salvage]); nil otherwise.
	Damage error

	driver.Kind
	Driver   driver.Driver
	Location *supply.Location
	Keys     supply.Keys

	request Request
	before  spec.Environment // that it was made with, if it exists
	created time.Time
	journal journal
	unlock  func()

	secrets *secretValues
}

// journal is what an environment needs of an engine.Journal.
type journal interface {
	driver.Journal
	Live() []driver.Effect
	Close() error
}

// Open reads orrery.yaml and what is kept of the environment that it names. What is wanted may
// differ from what exists only in what can be changed in place.
func Open(ctx context.Context, r Request) (*Environment, error) {
	want, err := r.Spec()
	if err != nil {
		return nil, err
	}
	e, err := begin(r, want)
	if err != nil {
		return nil, err
	}
	return e.finish(func() error {
		kept, err := engine.LoadState(e.StateDir)
		switch {
		case errors.Is(err, engine.ErrNoState):
			e.Location = r.location("")
			if err := e.decideNetwork(ctx); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			e.Location = r.location(kept.Bundle)
			e.remember(kept)
			if e.Spec.Network.Plugin == spec.PluginAuto {
				// Pods of an existing environment cannot be taken from one plugin to another.
				e.Spec.Network.Plugin = kept.Spec.Network.Plugin
			}
			if e.Spec.Profile == "" && len(e.Spec.Components) == 0 {
				e.Spec.Profile = kept.Spec.Profile
			}
			if err := changeable(kept.Spec, e.Spec); err != nil {
				return failure.Usage{Err: err}
			}
			e.Spec.Ports = kept.Ports
		}
		return e.choosePorts()
	})
}

// Attach reads what is kept of an environment, which may not exist.
func Attach(r Request) (*Environment, error) { return attach(r, false) }

// Salvage is Attach for verbs that must work when the kept state is damaged: Damage says so.
func Salvage(r Request) (*Environment, error) { return attach(r, true) }

// Existing is Attach for verbs that make no sense without an environment.
func Existing(r Request) (*Environment, error) {
	e, err := Attach(r)
	if err != nil {
		return nil, err
	}
	if !e.Exists {
		err := fmt.Errorf("there is no environment %q under %s: make it with 'orrery up%s'", e.Spec.Name, r.StateRoot, e.Flag())
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func attach(r Request, damaged bool) (*Environment, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	unknown := spec.Named(name)
	if want, err := r.Spec(); err == nil {
		unknown.Driver = want.Driver
	}
	unknown.Driver = keptDriver(filepath.Join(r.StateRoot, name), unknown.Driver)
	if unknown.Network.Plugin == spec.PluginAuto { // nothing is made with this
		unknown.Network.Plugin = spec.PluginPTP
	}
	e, err := begin(r, unknown)
	if err != nil {
		return nil, err
	}
	return e.finish(func() error {
		kept, err := engine.LoadState(e.StateDir)
		switch {
		case errors.Is(err, engine.ErrNoState):
			e.Location = r.location("")
		case err != nil && (!damaged || errors.Is(err, engine.ErrNewer)): // what a newer orrery made, only it knows how to remove
			return err
		case err != nil:
			e.Damage, e.Location = err, r.location("")
		default:
			e.Location = r.location(kept.Bundle)
			e.Spec = kept.Spec
			e.Spec.Ports = kept.Ports
			e.remember(kept)
		}
		return nil
	})
}

// keptDriver is what made the environment in dir, as far as what is kept says so: on it hangs who may change
// it, and who removes one of which the rest is damaged.
func keptDriver(dir, otherwise string) string {
	if kept, err := engine.LoadState(dir); err == nil {
		return kept.Spec.Driver
	}
	for _, name := range driver.Names() {
		k, err := driver.Lookup(name)
		if err != nil || k.Record == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, k.Record)); err == nil {
			return name
		}
	}
	return otherwise
}

func (e *Environment) remember(kept engine.State) {
	e.Exists, e.before, e.created, e.Skipped, e.NetworkReason = true, kept.Spec, kept.Created, kept.Skipped, kept.NetworkReason
}

// begin takes the environment, if the request changes it: what is kept is read after that.
func begin(r Request, named spec.Environment) (*Environment, error) {
	e := &Environment{
		Spec: named, StateDir: filepath.Join(r.StateRoot, named.Name), request: r,
		journal: readOnlyJournal{}, unlock: func() {}, secrets: &secretValues{},
	}
	if r.Verb == "" {
		return e, nil
	}
	if err := e.refuseUser(); err != nil {
		return nil, err
	}
	unlock, err := engine.Lock(r.StateRoot, named.Name, r.Verb)
	if err != nil {
		return nil, err
	}
	e.unlock = unlock
	return e, nil
}

// refuseUser refuses who may not make or change such an environment.
func (e *Environment) refuseUser() error {
	kind, err := driver.Lookup(e.Spec.Driver)
	if err != nil {
		return failure.Usage{Err: err}
	}
	if kind.Root && os.Geteuid() != 0 {
		return failure.Refusedf("the %s driver makes namespaces, mounts and cgroups: run 'orrery %s' as root", kind.Name, e.request.Verb)
	}
	return nil
}

// finish makes what hangs on what read found out; on failure nothing stays taken.
func (e *Environment) finish(read func() error) (*Environment, error) {
	err := read()
	if err == nil {
		err = e.openJournal()
	}
	if err == nil {
		err = e.makeDriver()
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Environment) openJournal() error {
	if e.request.Verb == "" {
		return nil
	}
	j, err := engine.OpenJournal(filepath.Join(e.StateDir, "journal.jsonl"))
	if j != nil {
		e.journal = j
	}
	if err != nil && j != nil && e.request.Verb == VerbDown {
		// A damaged journal must not keep anyone from removing the environment.
		e.warn("%v", err)
		return nil
	}
	return err
}

// VerbDown is the verb that removes an environment.
const VerbDown = "down"

func (e *Environment) makeDriver() error {
	kind, err := driver.Lookup(e.Spec.Driver)
	if err != nil {
		return failure.Usage{Err: err}
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the path of this program: %w", err)
	}
	e.Kind = kind
	e.Keys = supply.Keys{Dir: e.ownKeys(), Images: e.Spec.Images}
	if !kind.Mirror { // what it runs, this machine or another pushed and signed
		e.Keys.Dir = string(e.request.Machine())
	}
	e.Driver, err = kind.New(driver.Options{
		Spec: e.Spec, StateDir: e.StateDir, CacheDir: e.request.CacheDir, Executable: exe,
		Sandbox: e.lockedSandbox(), Journal: e.journal, Sink: e.request.Sink, Log: e.request.Log, Compiler: e.compiler(),
		Timeout: e.request.Timeout, Grace: e.request.Grace,
	})
	return err
}

// ownKeys is the folder of the environment's own key pair.
func (e *Environment) ownKeys() string { return filepath.Join(e.StateDir, "signing") }

// VerbUp is the verb that brings what the lock names into the mirror.
const VerbUp = "up"

// lockedSandbox is the sandbox image that the lock names, for whoever brings it into the
// mirror; else empty. What is wrong with a catalogue or a lock is for others to say.
func (e *Environment) lockedSandbox() string {
	if e.request.Verb != VerbUp {
		return ""
	}
	cat, err := e.Location.Catalog()
	if err != nil {
		return ""
	}
	name := cat.Distribution.Sandbox.Name
	locked, err := e.Location.Lock()
	if err != nil || locked == nil || locked.Images[name].Digest == "" {
		return ""
	}
	return mirror.Host + "/" + name + "@" + locked.Images[name].Digest
}

// compiler of BPF programs, as the catalogue has it.
func (e *Environment) compiler() driver.Compiler {
	open := sync.OnceValues(func() (*supply.Supply, error) {
		cat, err := e.Location.Catalog()
		if err != nil {
			return nil, err
		}
		locked, err := e.Location.Lock()
		if err != nil {
			return nil, err
		}
		return supply.Open(supply.Options{
			Location: e.Location, Catalog: cat, Lock: locked, CacheDir: e.request.CacheDir, Images: e.Spec.Images, Sink: ui.Discard, Log: e.request.Log,
		})
	})
	return func(ctx context.Context) (string, error) {
		s, err := open()
		if err != nil {
			return "", err
		}
		return s.Compiler(ctx)
	}
}

// Close lets the environment go. It may be called again.
func (e *Environment) Close() error {
	err := e.journal.Close()
	e.journal = readOnlyJournal{}
	e.unlock()
	e.unlock = func() {}
	return err
}

// Flag is what to add to a command that is shown to the person.
func (e *Environment) Flag() string {
	if e.Spec.Name == spec.DefaultName {
		return ""
	}
	return " --env " + e.Spec.Name
}

// Observe looks at what really exists.
func (e *Environment) Observe(ctx context.Context) (driver.Observation, error) {
	o, err := e.Driver.Observe(ctx)
	if err != nil {
		return o, fmt.Errorf("look at environment %q: %w", e.Spec.Name, err)
	}
	return o, nil
}

// Kubeconfig is the path of the admin kubeconfig.
func (e *Environment) Kubeconfig(ctx context.Context) (string, error) {
	obs, err := e.Observe(ctx)
	if err != nil {
		return "", err
	}
	if obs.Kubeconfig == "" {
		return "", fmt.Errorf("environment %q is %s and has no kubeconfig: 'orrery up%s' makes it", e.Spec.Name, obs.Phase, e.Flag())
	}
	return obs.Kubeconfig, nil
}

// Kube connects to the running cluster. The caller closes the client.
func (e *Environment) Kube(ctx context.Context) (*kube.Client, error) {
	path, err := e.Kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	return e.connect(path)
}

func (e *Environment) connect(kubeconfig string) (*kube.Client, error) {
	return kube.Connect(kubeconfig, kube.WithLog(e.request.Log), kube.WithOwnership(e.ownership()), kube.WithSecrets(e.secretValues))
}

// ownership is what may be touched: all of a cluster that the environment made.
func (e *Environment) ownership() kube.Ownership {
	if e.Kind.Nodes {
		return kube.Ownership{}
	}
	return kube.Ownership{Environment: e.Spec.Name, Adopt: e.request.Adopt, DeleteData: e.request.DeleteData}
}

// NodeNames of the topology, servers first.
func (e *Environment) NodeNames() []string {
	var names []string
	for _, n := range e.Spec.Topology() {
		names = append(names, n.Name)
	}
	return names
}

// KnownNode refuses the name of a node that there is none of.
func (e *Environment) KnownNode(name string) error {
	if names := e.NodeNames(); !slices.Contains(names, name) {
		return failure.Usagef("environment %q has no node %q: want one of %v", e.Spec.Name, name, names)
	}
	return nil
}

// readOnlyJournal is for verbs that make nothing.
type readOnlyJournal struct{}

var errReadOnly = errors.New("this verb changes nothing outside its process: effect refused")

func (readOnlyJournal) Begin(driver.Effect) error  { return errReadOnly }
func (readOnlyJournal) Undone(driver.Effect) error { return errReadOnly }
func (readOnlyJournal) Live() []driver.Effect      { return nil }
func (readOnlyJournal) Close() error               { return nil }

func (e *Environment) warn(format string, a ...any) {
	e.request.Sink.Emit(ui.Event{Type: ui.TypeWarning, Message: fmt.Sprintf(format, a...)})
}
