package app

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/gitops/gitopstest"
)

// sources: where what Argo CD follows is away, is no manifest, or is not what was pushed, that is said, what
// runs goes on, and the next push puts it right.
func (s *small) sources() {
	before := s.cluster.API.Get("apps/v1", "Deployment", "shop", "shop").GetGeneration()
	good := s.tagged()
	for _, c := range []struct {
		name   string
		harm   func(t *testing.T)
		status []string
		push   string // what a push says that cannot help; else it does
		mend   string
	}{
		{"away", func(*testing.T) { s.cluster.LoseRegistry() }, []string{"the mirror does not say what is followed", "connection refused", "what runs goes on"}, "connection refused", "up"},
		{"corrupt", func(t *testing.T) {
			artifact, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte("no archive"), types.OCILayer))
			if err != nil {
				t.Fatal(err)
			}
			s.tag(artifact)
		}, []string{"orrery  ", "Unknown", "read the artifact", "somebody else moved gitops/platform:current"}, "", ""},
		{"moved", func(t *testing.T) {
			other, err := gitops.Artifact([]byte("---\napiVersion: v1\nkind: List\nitems: []\n"))
			if err != nil {
				t.Fatal(err)
			}
			s.tag(other)
		}, []string{"somebody else moved gitops/platform:current", "'orrery gitops push --env small' moves it back"}, "", ""},
		{"damaged", func(*testing.T) { s.cluster.Damage(s.layer("@" + s.revision("shop"))) },
			[]string{"the mirror does not have what was pushed", "shop: read the artifact", "'orrery gitops push --env small' mends it"}, "", ""},
		{"damaged applications", func(*testing.T) { s.cluster.Damage(s.layer(":" + gitops.Tag)) },
			[]string{"the mirror does not have what was pushed", "orrery: read the artifact"}, "", ""},
	} {
		c.harm(s.t)
		for _, part := range c.status {
			s.await("gitops status", exitFailed, part)
		}
		if c.push != "" {
			s.want(exitFailed, "gitops push", c.push)
		}
		if c.mend != "" {
			s.want(exitOK, c.mend)
		}
		s.want(exitOK, "gitops push", "all synced and healthy")
		s.want(exitOK, "gitops status")
		if now := s.tagged(); now != good {
			s.t.Errorf("%s: the tag is at %s, and was at %s", c.name, now, good)
		}
		if now := s.cluster.API.Get("apps/v1", "Deployment", "shop", "shop").GetGeneration(); now != before {
			s.t.Errorf("%s: generation %d became %d: what ran did not go on", c.name, before, now)
		}
	}
}

// gitSource goes over to a git server and back. What is the matter with its repository is said, what runs goes on, and
// a push, which is a commit on top of what is there, puts it right.
func (s *small) gitSource(a *gitopstest.Argo) {
	generation := func() int64 { return s.cluster.API.Get("apps/v1", "Deployment", "shop", "shop").GetGeneration() }
	before := generation()
	s.want(exitUsage, "gitops enable --source svn", `no source "svn"`)
	s.want(exitRefused, "gitops enable --source git", "gitops.source: git in orrery.yaml")
	g := a.ServeGit(s.t, s.cluster.API)
	s.want(exitOK, "gitops enable --source git", "all synced and healthy")
	s.want(exitOK, "gitops status", "(git)", "shop", "Synced")
	s.want(exitOK, "gitops enable", "nothing changed") // which stays with git, though orrery.yaml says nothing of it
	s.want(exitOK, "gitops diff")
	for _, c := range []struct {
		name   string
		harm   func()
		status []string
		push   string // what a push says that cannot help; else it does
		mend   func()
	}{
		{"away", func() { g.Off(true) }, []string{"the git server does not say what is followed", "what runs goes on"}, "reach the git server", func() { g.Off(false) }},
		{"forced back", func() { g.Run("update-ref", "refs/heads/main", "main~") }, []string{"somebody else moved branch main of the git server", "'orrery gitops push --env small' moves it back"}, "", nil},
		{"a commit of somebody else", func() {
			g.Run("update-ref", "refs/heads/main", strings.TrimSpace(g.Run("commit-tree", "-p", "main", "-m", "mine", strings.TrimSpace(g.Run("mktree", "--missing")))))
		}, []string{"somebody else moved branch main", "Unknown"}, "", nil},
		{"another history", func() {
			g.Run("update-ref", "refs/heads/main", strings.TrimSpace(g.Run("commit-tree", "-m", "mine", "main^{tree}")))
		},
			[]string{"somebody else moved branch main"}, "", nil},
		{"no branch", func() { g.Run("update-ref", "-d", "refs/heads/main") }, []string{"somebody else moved branch main of the git server", "to nothing"}, "", nil},
		{"corrupt", func() { g.Damage() }, []string{"what is followed cannot be read", "mends it"}, "", nil},
	} {
		c.harm()
		for _, part := range c.status {
			s.await("gitops status", exitFailed, part)
		}
		if c.push != "" {
			s.want(exitFailed, "gitops push", c.push)
		}
		if c.mend != nil {
			c.mend()
		}
		s.want(exitOK, "gitops push", "all synced and healthy")
		s.want(exitOK, "gitops status")
		s.want(exitOK, "gitops diff")
	}
	s.want(exitOK, "gitops enable --source oci", "all synced and healthy")
	s.want(exitOK, "gitops status", "(oci)")
	s.want(exitOK, "gitops enable --source git", "all synced and healthy")
	if now := generation(); now != before {
		s.t.Errorf("generation %d became %d: what ran did not go on", before, now)
	}
}

func (s *small) followed() name.Reference {
	ref, err := name.ParseReference(s.cluster.Registry()+"/"+gitops.Repository+":"+gitops.Tag, name.Insecure)
	if err != nil {
		s.t.Fatal(err)
	}
	return ref
}

// tagged is the digest that Argo CD follows.
func (s *small) tagged() string {
	d, err := remote.Get(s.followed(), remote.WithContext(s.t.Context()))
	if err != nil {
		s.t.Fatal(err)
	}
	return d.Digest.String()
}

// tag has Argo CD follow another artifact.
func (s *small) tag(artifact v1.Image) {
	if err := remote.Write(s.followed(), artifact, remote.WithContext(s.t.Context())); err != nil {
		s.t.Fatal(err)
	}
}

// layer is the digest of the one layer of an artifact.
func (s *small) layer(reference string) string {
	ref, err := name.ParseReference(s.cluster.Registry()+"/"+gitops.Repository+reference, name.Insecure)
	if err != nil {
		s.t.Fatal(err)
	}
	artifact, err := remote.Image(ref, remote.WithContext(s.t.Context()))
	if err != nil {
		s.t.Fatal(err)
	}
	manifest, err := artifact.Manifest()
	if err != nil {
		s.t.Fatal(err)
	}
	return manifest.Layers[0].Digest.String()
}
