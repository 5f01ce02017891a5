package e2e

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/gitops"
)

// git: the same platform out of a git server, and back. Away, pushed to by somebody else and corrupt, it leaves all
// running, that is said, and a push mends it.
func (g *handed) git(t *testing.T) {
	before := g.pods(t)
	start := time.Now()
	g.run(t, "gitops", "enable", "--source", "git")
	t.Logf("from the mirror to the git server: %.1f s", time.Since(start).Seconds())
	g.same(t, "out of the git server", before)
	g.change(t)
	before = g.pods(t)
	others := func(what string) { // the server's own pod is another one
		t.Helper()
		was, now := maps.Clone(before), g.pods(t)
		for _, pods := range []map[string]string{was, now} {
			delete(pods, gitops.GitServer+"/"+gitops.GitServer+"-0")
		}
		if !maps.Equal(was, now) {
			t.Errorf("%s: pods were\n%v\nand are\n%v", what, was, now)
		}
	}
	says := func(parts ...string) {
		t.Helper()
		eventually(t, "it is said", time.Minute, func(ctx context.Context) error {
			r := g.invoke(ctx, nil, "gitops", "status")
			for _, part := range parts {
				if r.code != 1 || !strings.Contains(r.stderr, part) {
					return errors.New(r.String())
				}
			}
			return nil
		})
	}
	scale := func(n string) {
		g.run(t, "kubectl", "-n", gitops.GitServer, "scale", "statefulset", gitops.GitServer, "--replicas="+n)
	}
	scale("0")
	says("StatefulSet git-server is not ready")
	others("the git server is away")
	scale("1")
	g.well(t)

	repository := g.repository(t)
	file := filepath.Join(repository, "refs/heads", gitops.Branch)
	head, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	commit := strings.TrimSpace(string(head))
	g.run(t, "gitops", "push") // nothing changed: no commit
	if now, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(now)) != commit {
		t.Errorf("a push of nothing moved %s to %s, %v", commit, now, err)
	}
	packs, err := filepath.Glob(filepath.Join(repository, "objects/pack/*.pack"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	for _, pack := range packs {
		if err := os.Truncate(pack, 100); err != nil {
			t.Fatal(err)
		}
	}
	says("what is followed cannot be read, branch main of the git server", "gitops push")
	others("the repository is corrupt")
	start = time.Now()
	g.run(t, "gitops", "push")
	t.Logf("mended: %.1f s", time.Since(start).Seconds())
	others("mended")
	g.run(t, "gitops", "status")
	g.run(t, "gitops", "enable", "--source", "oci")
	others("out of the mirror again")
}

// repository is that of the git server, on the disk of its node.
func (g *handed) repository(t *testing.T) (folder string) {
	t.Helper()
	if err := filepath.WalkDir(g.state(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == gitops.GitRepository {
			folder = path
			return fs.SkipAll
		}
		return nil
	}); err != nil || folder == "" {
		t.Fatalf("there is no %s below %s: %v", gitops.GitRepository, g.state(), err)
	}
	return folder
}
