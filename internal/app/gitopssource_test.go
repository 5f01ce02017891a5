package app

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/gitops"
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
