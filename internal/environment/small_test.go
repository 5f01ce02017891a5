package environment

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/orrery-dev/orrery/internal/bundle/bundletest"
	"github.com/orrery-dev/orrery/internal/check/smoke/smoketest"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/existing"
	"github.com/orrery-dev/orrery/internal/driver/fake"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

func TestMain(m *testing.M) {
	driver.Register(fake.Kind())
	driver.Register(existing.Kind())
	unknown := fake.Kind() // that of an environment of which nothing is known
	unknown.Name = spec.Named("x").Driver
	driver.Register(unknown)
	recorded := fake.Kind()
	recorded.Name, recorded.Record = "recorded", "recorded.json"
	driver.Register(recorded)
	os.Exit(m.Run())
}

// small is the platform for tests, in the cache as an imported bundle and as a repository, and
// a host that environments are on.
type small struct {
	t        *testing.T
	platform bundletest.Platform
	digest   string // of the bundle
	cluster  *fake.Cluster
	file     string // orrery.yaml
	request  Request
	// repository is the folder of this one.
	repository string

	mu     sync.Mutex
	events []ui.Event
}

func newSmall(t *testing.T) *small {
	t.Helper()
	dir, host := t.TempDir(), fake.NewHost(t)
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &small{
		t: t, platform: bundletest.New(t), cluster: host.Cluster("small"), file: filepath.Join(dir, "orrery.yaml"), repository: repository,
	}
	smoketest.Install(s.cluster.API)
	t.Setenv(fake.HostVariable, host.URL())
	t.Setenv("ORRERY_KEY_PASSWORD", "x")
	t.Setenv("HOME", dir)
	t.Chdir(dir)
	s.configure("")
	s.request = Request{
		StateRoot: filepath.Join(dir, "state"), CacheDir: filepath.Join(dir, "cache"), File: s.file, Catalog: s.platform.Root, Verb: "up",
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Sink: ui.SinkFunc(func(e ui.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e)
		}),
	}
	if s.digest, err = s.platform.Import(t.Context(), s.request.CacheDir); err != nil {
		t.Fatal(err)
	}
	return s
}

// configure writes orrery.yaml, with more of it.
func (s *small) configure(more string, replace ...string) {
	s.t.Helper()
	text := strings.NewReplacer(replace...).Replace(string(bundletest.Environment("small", "fake"))) + more
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// write replaces a file of the repository.
func (s *small) write(name, text string) {
	s.t.Helper()
	file := filepath.Join(s.platform.Root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// edit changes a file of the repository.
func (s *small) edit(name string, replace ...string) {
	s.t.Helper()
	old, err := os.ReadFile(filepath.Join(s.platform.Root, name))
	if err != nil {
		s.t.Fatal(err)
	}
	text := strings.NewReplacer(replace...).Replace(string(old))
	if text == string(old) {
		s.t.Fatalf("%s has nothing of %q", name, replace)
	}
	s.write(name, text)
}

// open has the environment and its catalogue, until the test lets it go.
func (s *small) open(want Selection) *Platform {
	s.t.Helper()
	e, err := Open(s.t.Context(), s.request)
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := e.Platform(want)
	if err != nil {
		s.t.Fatal(err, e.Close())
	}
	return p
}

// plan is what there is to do.
func (s *small) plan(want Selection) Planned {
	s.t.Helper()
	p := s.open(want)
	defer p.Close()
	planned, err := p.Plan(s.t.Context(), true)
	if err != nil {
		s.t.Fatal(err)
	}
	return planned
}

// up is what the verb does, but for what it prints.
func (s *small) up(want Selection) error {
	s.t.Helper()
	p := s.open(want)
	defer p.Close()
	planned, err := p.Plan(s.t.Context(), false)
	if err != nil {
		return err
	}
	if err := p.Refuse(planned.Plan); err != nil {
		return err
	}
	_, err = p.Apply(s.t.Context(), planned, false)
	return err
}

func (s *small) mustUp(want Selection) {
	s.t.Helper()
	if err := s.up(want); err != nil {
		s.t.Fatal(err)
	}
}

// changes are the steps that a plan has to do.
func changes(p Planned) string {
	var ids []string
	for _, s := range p.Changes() {
		ids = append(ids, s.ID)
	}
	return strings.Join(ids, " ")
}

// told reports whether an event said that.
func (s *small) told(kind ui.Type, part string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Type == kind && strings.Contains(e.Message, part) {
			return true
		}
	}
	return false
}

// all that was said, for a test that fails.
func (s *small) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, e := range s.events {
		fmt.Fprintf(&b, "%s %s %s %s\n", e.Type, e.Step, e.State, e.Message)
	}
	return b.String()
}
