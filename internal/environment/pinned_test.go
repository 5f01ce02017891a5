package environment

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/test/world"
)

// A component of a file of a public repository and an image that is named by tag: left out with
// the reason while either cannot be had, deployed when both can, and there without a network
// from then on.
func TestFromPublicPlaces(t *testing.T) {
	const (
		commit = "0123456789abcdef0123456789abcdef01234567"
		url    = "https://files.test/acme/" + commit + "/settings.yaml"
		text   = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n"
	)
	public, err := world.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer public.Close()
	for _, pair := range public.Environment() {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
	s := newSmall(t)
	sum := sha256.Sum256([]byte(text))
	s.edit("infra/k8s/base/planets/component.yaml", "render:\n", "images:\n  - {name: operator, version: v1, registry: 'registry.test/acme/operator:v1'}\n"+
		"files:\n  - {name: settings.yaml, url: '"+url+"', commit: "+commit+", sha256: "+hex.EncodeToString(sum[:])+"}\nrender:\n")
	s.edit("infra/k8s/base/planets/kustomization.yaml", "resources: [", "resources: [files/settings.yaml, ")
	s.configure("", "[bundle]", "[bundle, registry], caBundle: "+public.CA)

	why := func() plan.Cause {
		t.Helper()
		return s.plan(Selection{Prune: true}).Skipped()["planets"]
	}
	if c := why(); c.Kind != plan.CauseUnreachable || !strings.Contains(c.Root, url+" not reachable: the answer is 404") {
		t.Errorf("no file: %+v", c)
	}
	public.Serve(url, []byte(text))
	if c := why(); c.Kind != plan.CauseUnpinned || !strings.Contains(c.Root, "orrery lock pin planets") {
		t.Errorf("no digest: %+v", c)
	}
	s.mustUp(Selection{Prune: true})
	if s.cluster.API.Get("v1", "ConfigMap", "shop", "settings") != nil {
		t.Error("it was deployed without its image")
	}

	_, err = public.Push("registry.test/acme/operator:v1", map[string][]byte{"/operator": []byte("#!/bin/sh\n")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := s.open(Selection{})
	file := p.Supply.LockFile()
	l, err := lock.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Supply.Pin(t.Context(), "planets", &l, time.Now(), false); err != nil {
		t.Fatal(err)
	}
	p.Close()
	data, err := l.Format()
	if err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Base(file), string(data))
	s.mustUp(Selection{Prune: true})
	if s.cluster.API.Get("v1", "ConfigMap", "shop", "settings") == nil {
		t.Errorf("the file's object is not there\n%s", s.all())
	}
	if p := s.plan(Selection{Prune: true}); !p.UpToDate() || len(p.Skipped()) > 0 {
		t.Errorf("to do: %q, skipped %v", changes(p), p.Skipped())
	}
	asked := public.Asked(url)
	public.Close()
	if p := s.plan(Selection{Prune: true}); !p.UpToDate() || public.Asked(url) != asked {
		t.Errorf("without a network: to do %q, skipped %v", changes(p), p.Skipped())
	}
}
