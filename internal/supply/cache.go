package supply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// programsRepository is where images.registry keeps programs and archives, beside its images.
const programsRepository = "/programs"

// shared is what images.registry was found to have of the programs that are not on this machine.
type shared struct {
	once sync.Once
	has  map[image.Artifact]bool
}

// artifact is how images.registry knows what has this SHA-256 (hexadecimal, with or without
// "sha256:"). False where there is no registry, or nothing is known of the digest.
func (s *Supply) artifact(sha256 string) (image.Artifact, bool) {
	registry, sha256 := s.options.Images.Registry, strings.TrimPrefix(sha256, "sha256:")
	return image.Artifact{Repository: registry + programsRepository, SHA256: sha256}, registry != "" && sha256 != ""
}

// fetchable is artifact where orrery.yaml has registries asked before anything is made.
func (s *Supply) fetchable(sha256 string) (image.Artifact, bool) {
	a, ok := s.artifact(sha256)
	return a, ok && s.registries != nil && s.registryFirst()
}

// locked is what the lock says of a program; nothing without a lock.
func (s *Supply) locked(bin catalog.Binary) lock.Binary {
	if s.Locked == nil {
		return lock.Binary{}
	}
	return s.Locked.Binaries[bin.Name]
}

// fetch has a program, or an archive, from images.registry instead of making it: who made it does
// not matter, since the lock says what it is. False where it is to be made here: no registry has
// it, or what is to be made is no longer what the lock speaks of.
func (s *Supply) fetch(ctx context.Context, bin catalog.Binary, path string) (bool, error) {
	locked := s.locked(bin)
	a, ok := s.fetchable(locked.SHA256)
	if !ok {
		return false, nil
	}
	switch entry, err := s.builder.Describe(ctx, bin); {
	case err != nil:
		return false, err
	case !entry.SameInputs(locked):
		return false, nil
	}
	if !s.sharedHas(ctx, a) {
		return false, nil
	}
	step := ui.Event{Step: "build/" + bin.Name, Phase: plan.PhaseBuild}
	err := s.registries.FetchArtifact(ctx, a, path, func(done, total float64) {
		e := step
		e.Type, e.Time, e.Done, e.Total, e.Unit = ui.TypeProgress, time.Now(), done, total, "bytes"
		e.Message = "fetching " + bin.Name + " " + bin.Version
		s.options.Sink.Emit(e)
	})
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, err
	case errors.Is(err, image.ErrWrongContent) && s.options.Images.Verify == spec.VerifyEnforce:
		return false, failure.Refused{Err: fmt.Errorf("program %s: %w; ask who keeps that registry, or have it compiled here: images.sources without registry", bin.Name, err)}
	case errors.Is(err, image.ErrWrongContent), errors.Is(err, image.ErrNotReachable):
		s.warn(step, "program %s is made here: %v", bin.Name, err)
		return false, nil
	default:
		return false, fmt.Errorf("program %s: %w", bin.Name, err)
	}
}

// sharedHas asks images.registry, once, for everything of the catalogue that is not on this machine:
// programs, and bills of materials, which take all modules to make. It is not waited for beyond
// [ProbeTime].
func (s *Supply) sharedHas(ctx context.Context, a image.Artifact) bool {
	s.shared.once.Do(func() {
		s.shared.has = map[image.Artifact]bool{}
		var ask []image.Artifact
		add := func(digest string) {
			if one, ok := s.artifact(digest); ok {
				ask = append(ask, one)
			}
		}
		for _, bin := range s.All().Binaries {
			locked := s.locked(bin)
			if cached, err := s.builder.Cached(ctx, bin); err == nil && !cached {
				add(locked.SHA256)
			}
			if _, err := s.keptSBOM("sha256:"+locked.SHA256, locked.SBOM); err != nil {
				add(locked.SBOM)
			}
		}
		for _, i := range s.Locked.Images {
			if _, err := s.keptSBOM(i.Digest, i.SBOM); err != nil {
				add(i.SBOM)
			}
		}
		start := time.Now()
		probing, cancel := context.WithTimeout(ctx, ProbeTime)
		defer cancel()
		var why error
		for one, err := range s.registries.ProbeArtifacts(probing, ask) {
			if err == nil {
				s.shared.has[one] = true
			} else {
				why = err
			}
		}
		message := fmt.Sprintf("%s was asked for %d programs and documents in %.1f s: %d are fetched", s.options.Images.Registry,
			len(ask), time.Since(start).Seconds(), len(s.shared.has))
		if lacking := len(ask) - len(s.shared.has); lacking > 0 {
			message += fmt.Sprintf(", %d made here (%v)", lacking, why)
		}
		s.options.Sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: plan.PhaseBuild, Message: message})
	})
	return s.shared.has[a]
}

// fetchedSBOM is a bill of materials that was made here before or that images.registry has, if it is
// the wanted one; of is the digest of what it is about.
func (s *Supply) fetchedSBOM(ctx context.Context, of, want string) ([]byte, error) {
	doc, err := s.keptSBOM(of, want)
	if err == nil {
		return doc, nil
	}
	a, ok := s.fetchable(want)
	if !ok || !s.sharedHas(ctx, a) {
		return nil, err
	}
	file := s.sbomFile(of)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	err = atomicfile.Replace(file, func(tmp string) error { return s.registries.FetchArtifact(ctx, a, tmp, nil) })
	if err != nil {
		return nil, err
	}
	return s.keptSBOM(of, want)
}

// Published is what PublishPrograms did with one file.
type Published struct {
	Name      string
	Reference string
	Sent      bool // false: the registry had it
	Error     error
}

// PublishPrograms sends programs and archives that are on this machine as the lock has them to
// images.registry, with the bills of materials of them and of the images, so that others need not
// make them. What is not on this machine is left out. told hears of each when it is done.
func (s *Supply) PublishPrograms(ctx context.Context, told func(Published)) error {
	if s.options.Images.Registry == "" {
		return failure.Usagef("images.registry of orrery.yaml names no registry to push to")
	}
	if s.Locked == nil {
		return failure.Usagef("there is no lock for this machine's platform, and others ask by its digests: 'orrery lock' writes it")
	}
	registries, err := s.publisher()
	if err != nil {
		return err
	}
	have := build.Programs(s.CacheDir())
	files := map[string]struct{ name, path string }{}
	add := func(name, digest, path string) {
		if digest = strings.TrimPrefix(digest, "sha256:"); digest != "" && path != "" {
			files[digest] = struct{ name, path string }{name, path}
		}
	}
	sbom := func(name, of, want string) {
		if _, err := s.keptSBOM(of, want); err == nil {
			add(name+" (bill of materials)", want, s.sbomFile(of))
		}
	}
	for name, b := range s.Locked.Binaries {
		add(name, b.SHA256, have[b.SHA256])
		sbom(name, "sha256:"+b.SHA256, b.SBOM)
	}
	for name, i := range s.Locked.Images {
		sbom("image "+name, i.Digest, i.SBOM)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for digest, file := range files {
		g.Go(func() error {
			a, _ := s.artifact(digest)
			p := Published{Name: file.name, Reference: a.String()}
			p.Sent, p.Error = registries.PushArtifact(gctx, a, file.path)
			told(p)
			return p.Error
		})
	}
	return g.Wait()
}
