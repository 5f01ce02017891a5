package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/image"
)

// suiteModule pins the tests.
const suiteModule = "//test/conformance/suite"

// testPackage is Kubernetes' end-to-end tests.
const testPackage = "k8s.io/kubernetes/test/e2e"

// programs are what a run consists of, in the cache.
type programs struct {
	tests   string // compiled testPackage
	ginkgo  string // runs them side by side
	kubectl string // the nodes' own
	version string // of Kubernetes
	builder *image.Builder
	dist    catalog.Distribution
}

// build compiles what is not in the cache yet.
func (r *runner) build(ctx context.Context) error {
	c, err := catalog.Load(r.repo)
	if err != nil {
		return err
	}
	b, err := image.NewBuilder(build.Options{CacheDir: r.cache, RepoRoot: r.repo})
	if err != nil {
		return err
	}
	r.programs = programs{version: c.Distribution.Kubernetes, builder: b, dist: c.Distribution}
	r.say("building the tests of Kubernetes %s, if they are not built yet", r.programs.version)
	ginkgo, err := b.Binary(ctx, catalog.Binary{
		Name: "ginkgo", Module: suiteModule, Package: "github.com/onsi/ginkgo/v2/ginkgo", CPUSeconds: 20, MemoryMiB: 400,
	})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(c.Distribution.Binaries, func(b catalog.Binary) bool { return b.Name == "kubernetes" })
	if i < 0 {
		return errors.New("the distribution has no kubernetes")
	}
	kubernetes := c.Distribution.Binaries[i]
	multi, err := b.Binary(ctx, kubernetes)
	if err != nil {
		return err
	}
	// It is the program that it is called as.
	r.programs.kubectl = filepath.Join(r.dir, "kubectl")
	if err := os.Symlink(multi, r.programs.kubectl); err != nil {
		return err
	}
	r.programs.ginkgo = ginkgo
	r.programs.tests, err = r.compileTests(ctx, kubernetes.LDFlags)
	return err
}

// compileTests is [image.Builder.Binary] for tests, which that does not build: the same flags
// and the same Go cache, so that what the distribution consists of is not compiled again.
func (r *runner) compileTests(ctx context.Context, ldflags string) (string, error) {
	folder := filepath.Join(r.repo, strings.TrimPrefix(suiteModule, "//"))
	goVersion, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("ask Go for its version: %w", err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %s %q\n", goVersion, testPackage, ldflags)
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%d\n%s", len(data), data)
	}
	store := filepath.Join(r.cache, "conformance")
	if err := os.MkdirAll(store, 0o755); err != nil {
		return "", err
	}
	program := filepath.Join(store, "e2e-"+hex.EncodeToString(h.Sum(nil))[:16]+".test")
	lock, err := filelock.Wait(ctx, filepath.Join(store, ".lock"), filelock.Exclusive,
		func() { r.say("another process is building the tests") })
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	cache := filepath.Join(r.cache, "go-build-conformance")
	// Nobody is to drop the Go cache meanwhile.
	inUse, err := filelock.Wait(ctx, cache+".lock", filelock.Shared, nil)
	if err != nil {
		return "", err
	}
	defer inUse.Close()
	cmd := exec.CommandContext(ctx, "nice", "-n", "10", "go", "test", "-c", "-mod=readonly", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= "+ldflags, "-o", program+".new", testPackage)
	cmd.Dir = folder
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "GOFLAGS=") && !strings.HasPrefix(kv, "GOCACHE=") && !strings.HasPrefix(kv, "CGO_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "GOENV=off", "GOWORK=off", "GOTOOLCHAIN=local", "GOAMD64=v1", "GOARM64=v8.0", "GOGC=400",
		"CGO_ENABLED=0", "GOCACHE="+cache)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("compile %s: %w\n%s", testPackage, err, msg), os.RemoveAll(program+".new"))
	}
	if err := r.dropOld(store); err != nil {
		return "", err
	}
	return program, os.Rename(program+".new", program)
}

// dropOld removes tests of other versions: each is 150 MiB.
func (r *runner) dropOld(store string) error {
	old, err := filepath.Glob(filepath.Join(store, "e2e-*.test"))
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return nil
}
