package supply

import (
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// sharing has a registry with what one machine compiled and locked of the small catalogue.
type sharing struct {
	root, address string
	locked        lock.Platform
	trouble       atomic.Pointer[http.HandlerFunc] // answers for blobs, if it is set
}

func newSharing(t *testing.T) *sharing {
	t.Helper()
	s := &sharing{root: newSmall(t).Root}
	if err := os.Remove(filepath.Join(s.root, lock.FileName)); err != nil {
		t.Fatal(err)
	}
	real := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := s.trouble.Load(); h != nil && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			(*h)(w, r)
			return
		}
		real.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.address = strings.TrimPrefix(server.URL, "http://") + "/acme"
	maker := compiled(t, s.root, nil)
	var l lock.Lock
	var err error
	if _, s.locked, err = maker.LockInto(t.Context(), LockTarget{}, &l); err != nil {
		t.Fatal(err)
	}
	maker.Locked, maker.options.Images.Registry = &s.locked, s.address
	var told atomic.Int32
	if err := maker.PublishPrograms(t.Context(), func(p Published) {
		if !p.Sent || p.Error != nil {
			t.Errorf("published: %+v", p)
		}
		told.Add(1)
	}); err != nil {
		t.Fatal(err)
	}
	if want := int32(len(s.locked.Binaries)); told.Load() <= want {
		t.Errorf("%d files were published; there are %d programs, and bills of materials", told.Load(), want)
	}
	return s
}

// machine is another one, with an empty cache. Its Go compiles nothing, unless it may.
func (s *sharing) machine(t *testing.T, verify spec.Verification, compiles bool) (*Supply, *buildtest.Recorder) {
	t.Helper()
	cache := t.TempDir()
	if compiles {
		buildtest.Cache(t, cache)
	}
	at, events := Folder(s.root), &buildtest.Recorder{}
	cat, err := at.Catalog()
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(Options{
		Location: at, Catalog: cat, Lock: &s.locked, CacheDir: cache,
		Images: spec.Images{Sources: spec.Default().Images.Sources, Registry: s.address, Verify: verify},
		Sink:   events, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, events
}

// fetched reports whether a program came from elsewhere: what is compiled was measured.
func fetched(t *testing.T, m *Supply, name string) bool {
	t.Helper()
	took, ok := m.builder.Measured(t.Context(), m.All().Binaries[name])
	return ok && took.CPUSeconds == 0
}

func TestFetchPrograms(t *testing.T) {
	s := newSharing(t)
	t.Run("nothing is compiled", func(t *testing.T) {
		m, events := s.machine(t, spec.VerifyEnforce, false)
		for name, img := range m.All().Built() {
			built, err := m.Image(t.Context(), img)
			if err != nil || built.Digest != s.locked.Images[name].Digest {
				t.Fatalf("image %s: %s, %v; locked %s", name, built.Digest, err, s.locked.Images[name].Digest)
			}
			if doc, err := m.fetchedSBOM(t.Context(), built.Digest, s.locked.Images[name].SBOM); err != nil || len(doc) == 0 {
				t.Errorf("bill of materials of image %s: %v", name, err)
			}
		}
		for name, bin := range m.All().Binaries {
			if _, err := m.Binary(t.Context(), bin); err != nil || !fetched(t, m, name) {
				t.Errorf("program %s was compiled, or %v", name, err)
			}
		}
		if told := strings.Join(events.Messages(ui.TypeNotice), "\n"); !strings.Contains(told, "are fetched") {
			t.Errorf("told: %s", told)
		}
	})

	swapped := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "an attacker's") })
	shop := func(m *Supply) error {
		_, err := m.Binary(t.Context(), m.All().Binaries["shop"])
		return err
	}
	t.Run("swapped, enforce", func(t *testing.T) {
		s.trouble.Store(&swapped)
		defer s.trouble.Store(nil)
		m, _ := s.machine(t, spec.VerifyEnforce, true)
		if err := shop(m); !failure.IsRefused(err) || !strings.Contains(err.Error(), "wrong content") {
			t.Errorf("got %v", err)
		}
		if have := build.Programs(m.CacheDir()); len(have) > 0 {
			t.Errorf("kept: %v", have)
		}
	})
	t.Run("swapped, warn", func(t *testing.T) {
		s.trouble.Store(&swapped)
		defer s.trouble.Store(nil)
		m, events := s.machine(t, spec.VerifyWarn, true)
		if err := shop(m); err != nil || fetched(t, m, "shop") {
			t.Errorf("got %v; fetched %t", err, fetched(t, m, "shop"))
		}
		if told := strings.Join(events.Messages(ui.TypeWarning), "\n"); !strings.Contains(told, "program shop is made here") {
			t.Errorf("warned: %s", told)
		}
	})
	t.Run("nobody answers", func(t *testing.T) {
		m, events := s.machine(t, spec.VerifyEnforce, true)
		m.options.Images.Registry = "127.0.0.1:1/acme"
		if err := shop(m); err != nil || fetched(t, m, "shop") {
			t.Errorf("got %v; fetched %t", err, fetched(t, m, "shop"))
		}
		if told := strings.Join(events.Messages(ui.TypeNotice), "\n"); !strings.Contains(told, "0 are fetched") {
			t.Errorf("told: %s", told)
		}
	})
	// The lock speaks of what the source was: what is changed is compiled.
	t.Run("changed source", func(t *testing.T) {
		m, _ := s.machine(t, spec.VerifyEnforce, true)
		entry := m.Locked.Binaries["shop"]
		old := entry
		entry.Tree, entry.Flags = "sha256:"+strings.Repeat("0", 64), append([]string{"-other"}, entry.Flags...)
		m.Locked.Binaries["shop"] = entry
		defer func() { m.Locked.Binaries["shop"] = old }()
		if err := shop(m); err != nil || fetched(t, m, "shop") {
			t.Errorf("got %v; fetched %t", err, fetched(t, m, "shop"))
		}
	})
}
