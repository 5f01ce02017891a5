package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/native"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// session is one verb at work on one environment.
type session struct {
	*options
	spec    spec.Environment // as wanted (open) or as it was made (attach)
	exists  bool             // a state file is there
	created time.Time
	skipped map[string]string // components that the last up left out, with the reason
	// networkReason is why network.plugin auto is not cilium here; empty when it is, or was
	// not asked for.
	networkReason string
	stateDir      string
	log           *slog.Logger
	sink          ui.Sink
	journal       *engine.Journal
	driver        driver.Driver
	unlock        func()
	sandbox       string // image of pods' sandboxes by digest; empty: as the environment has it
}

// open reads orrery.yaml and what is kept of the environment that it names. What is
// wanted may differ from what exists only in what can be changed in place.
func (o *options) open(ctx context.Context, sink ui.Sink) (*session, error) {
	want, err := o.loadSpec()
	if err != nil {
		return nil, usageError{err}
	}
	s := &session{options: o, spec: want, stateDir: filepath.Join(stateRoot(), want.Name), log: o.logger(), sink: sink}
	kept, err := engine.LoadState(s.stateDir)
	switch {
	case errors.Is(err, engine.ErrNoState):
		s.decideNetwork(ctx, nil)
	case err != nil:
		return nil, err
	default:
		s.exists, s.created, s.skipped, s.networkReason = true, kept.Created, kept.Skipped, kept.NetworkReason
		o.remember(kept.Bundle)
		s.decideNetwork(ctx, &kept.Spec)
		if err := changeable(kept.Spec, s.spec); err != nil {
			return nil, usageError{err}
		}
		s.spec.Ports = kept.Ports
	}
	if err := s.choosePorts(); err != nil {
		return nil, err
	}
	return s, nil
}

// attach reads what is kept of an existing environment.
func (o *options) attach(sink ui.Sink) (*session, error) {
	name, err := o.envName()
	if err != nil {
		return nil, usageError{err}
	}
	s := &session{options: o, stateDir: filepath.Join(stateRoot(), name), log: o.logger(), sink: sink}
	kept, err := engine.LoadState(s.stateDir)
	if err != nil {
		s.spec = spec.Named(name)
		if s.spec.Network.Plugin == spec.PluginAuto { // nothing is made with this
			s.spec.Network.Plugin = spec.PluginPTP
		}
		if errors.Is(err, engine.ErrNoState) {
			return s, nil
		}
		return s, err
	}
	s.spec, s.exists, s.created, s.skipped = kept.Spec, true, kept.Created, kept.Skipped
	s.networkReason = kept.NetworkReason
	s.spec.Ports = kept.Ports
	o.remember(kept.Bundle)
	return s, nil
}

// attachExisting is attach for verbs that make no sense without an environment.
func (o *options) attachExisting() (*session, error) {
	s, err := o.attach(ui.Discard)
	if err != nil {
		return nil, err
	}
	if !s.exists {
		return nil, s.missing()
	}
	return s, s.connect()
}

// attachLocked is attachExisting for verbs that change the environment; the caller
// closes the session.
func (o *options) attachLocked(verb string, sink ui.Sink) (*session, error) {
	s, err := o.attach(sink)
	if err != nil {
		return nil, err
	}
	if !s.exists {
		return nil, s.missing()
	}
	return s, s.lock(verb)
}

func (s *session) missing() error {
	return fmt.Errorf("there is no environment %q under %s: make it with 'orrery up%s'", s.spec.Name, stateRoot(), s.envFlag())
}

// connect makes the driver. The journal is opened only by verbs that lock.
func (s *session) connect() error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the path of this program: %w", err)
	}
	var journal driver.Journal = readOnlyJournal{}
	if s.journal != nil {
		journal = s.journal
	}
	s.driver, err = native.New(native.Options{
		Spec: s.spec, StateDir: s.stateDir, CacheDir: cacheRoot(), Executable: exe, Sandbox: s.sandbox,
		Journal: journal, Sink: s.sink, Log: s.log, Compiler: s.compiler(),
	})
	return err
}

// lock takes the environment for this verb, opens its journal and makes the driver.
// unlocked by close.
func (s *session) lock(verb string) error {
	if os.Geteuid() != 0 {
		return refusedError{fmt.Errorf("the native driver makes namespaces, mounts and cgroups: run 'orrery %s' as root", verb)}
	}
	unlock, err := engine.Lock(stateRoot(), s.spec.Name, verb)
	if err != nil {
		return err
	}
	s.unlock = unlock
	if kept, err := engine.LoadState(s.stateDir); (err == nil) != s.exists || s.exists && !kept.Created.Equal(s.created) {
		return errors.Join(fmt.Errorf("environment %q was made or removed by another orrery at this moment: run 'orrery %s' again", s.spec.Name, verb), s.close())
	}
	s.journal, err = engine.OpenJournal(filepath.Join(s.stateDir, "journal.jsonl"))
	if err != nil {
		if s.journal == nil || verb != "down" {
			return errors.Join(err, s.close())
		}
		// A damaged journal must not keep anyone from removing the environment.
		s.sink.Emit(ui.Event{Type: ui.TypeWarning, Message: err.Error()})
	}
	if verb == "up" { // which brings what the lock names into the mirror
		s.sandbox = s.lockedSandbox()
	}
	return s.connect()
}

// lockedSandbox is the sandbox image that the lock names, or empty. What is wrong with a
// catalogue or a lock is for others to say.
func (s *session) lockedSandbox() string {
	cat, err := s.loadCatalog()
	if err != nil {
		return ""
	}
	name := cat.Distribution.Sandbox.Name
	locked, err := loadLocked(cat.Root)
	if err != nil || locked == nil || locked.Images[name].Digest == "" {
		return ""
	}
	return image.RegistryHost + "/" + name + "@" + locked.Images[name].Digest
}

func (s *session) close() error {
	var errs []error
	if s.journal != nil {
		errs = append(errs, s.journal.Close())
		s.journal = nil
	}
	if s.unlock != nil {
		s.unlock()
		s.unlock = nil
	}
	return errors.Join(errs...)
}

// envFlag is what to add to a command shown to the person.
func (s *session) envFlag() string {
	if s.spec.Name == spec.DefaultName {
		return ""
	}
	return " --env " + s.spec.Name
}

// kube connects to the running cluster.
func (s *session) kube() (*kube.Client, error) {
	return kube.Connect(filepath.Join(s.stateDir, "kubeconfig"), kube.WithLog(s.log))
}

func (o *options) envName() (string, error) {
	if o.env != "" {
		e := spec.Named(o.env)
		return o.env, e.Validate()
	}
	want, err := o.loadSpec()
	return want.Name, err
}

// specFile is the file to read, "" when there is none and defaults apply.
func (o *options) specFile() string {
	if o.file != "" {
		return o.file
	}
	candidates := []string{"orrery.yaml"}
	if root, err := o.root(); err == nil {
		candidates = append(candidates, filepath.Join(root, "orrery.yaml"))
	}
	for _, c := range candidates {
		if _, err := os.Stat(c); err == nil {
			return c
		}
	}
	return ""
}

func (o *options) loadSpec() (spec.Environment, error) {
	e := spec.Default()
	if file := o.specFile(); file != "" {
		// Only a file that nobody asked for may be absent.
		_, err := os.Stat(file)
		if err != nil {
			return e, fmt.Errorf("read the environment file: %w", err)
		}
		if e, err = spec.Load(file); err != nil {
			return e, err
		}
	}
	if o.env != "" {
		e.Rename(o.env)
	}
	return e, e.Validate()
}

// root is the folder that holds infra/.
func (o *options) root() (string, error) {
	if o.catalog != "" {
		return catalog.FindRoot(o.catalog)
	}
	if o.bundle != "" {
		b, err := o.imported()
		if err != nil {
			return "", err
		}
		return b.CatalogDir(), nil
	}
	return catalog.FindRoot(".")
}

func (o *options) loadCatalog() (*catalog.Catalog, error) {
	root, err := o.root()
	if err != nil {
		return nil, usageError{err}
	}
	c, err := catalog.Load(root)
	if err != nil {
		return nil, usageError{err}
	}
	// A bad dashboard is refused here, not met in a browser.
	if _, err := dashboard.LoadAll(root); err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// changeable refuses differences that an existing environment cannot take in place.
func changeable(have, want spec.Environment) error {
	refuse := func(field string, from, to any) error {
		return fmt.Errorf("%s of environment %q cannot change from %v to %v in place: 'orrery down --env %s' first, or choose another name", field, have.Name, from, to, have.Name)
	}
	var errs []error
	if have.Driver != want.Driver {
		errs = append(errs, refuse("driver", have.Driver, want.Driver))
	}
	if have.Servers != want.Servers {
		errs = append(errs, refuse("servers", have.Servers, want.Servers))
	}
	if have.AgentCount() != want.AgentCount() {
		errs = append(errs, refuse("agents", have.AgentCount(), want.AgentCount()))
	}
	if !slices.Equal(have.Zones, want.Zones) {
		errs = append(errs, refuse("zones", have.Zones, want.Zones))
	}
	if have.Network != want.Network {
		errs = append(errs, refuse("network", have.Network, want.Network))
	}
	if have.Durability != want.Durability {
		errs = append(errs, refuse("durability", have.Durability, want.Durability))
	}
	return errors.Join(errs...)
}

// choosePorts picks free ports for those that are left open; they then stay the
// environment's.
func (s *session) choosePorts() error {
	for _, port := range []*int{&s.spec.Ports.API, &s.spec.Ports.Registry} {
		if *port != 0 {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("find a free port on 127.0.0.1: %w", err)
		}
		*port = l.Addr().(*net.TCPAddr).Port
		defer l.Close() // both at once, so that they differ
	}
	return nil
}

// readOnlyJournal is for verbs that make nothing.
type readOnlyJournal struct{}

var errReadOnly = errors.New("this verb changes nothing outside its process: effect refused")

func (readOnlyJournal) Begin(driver.Effect) error  { return errReadOnly }
func (readOnlyJournal) Undone(driver.Effect) error { return errReadOnly }

// observe is Observe with a name for its failure.
func (s *session) observe(ctx context.Context) (driver.Observation, error) {
	o, err := s.driver.Observe(ctx)
	if err != nil {
		return o, fmt.Errorf("look at environment %q: %w", s.spec.Name, err)
	}
	return o, nil
}
