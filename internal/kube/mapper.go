package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// mapper finds the endpoint of a kind. It asks for one group and version at a time, so
// that an aggregated API that is down (metrics, say) disturbs nobody who does not use it.
// What the server does not know is asked for again: CRDs come and go.
type mapper struct {
	get   func(ctx context.Context, path string) ([]byte, error)
	mu    sync.Mutex
	known map[schema.GroupVersion]map[string]mapping
	asked map[schema.GroupVersion]*sync.Mutex // so that many callers at once ask once
}

type mapping struct {
	resource   schema.GroupVersionResource
	namespaced bool
}

func (m *mapper) find(ctx context.Context, apiVersion, kind string) (mapping, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return mapping{}, fmt.Errorf("apiVersion %q of a %s: %w", apiVersion, kind, err)
	}
	if found, ok := m.lookup(gv, kind); ok {
		return found, nil
	}
	turn := m.turn(gv)
	turn.Lock()
	defer turn.Unlock()
	if found, ok := m.lookup(gv, kind); ok {
		return found, nil
	}
	path := "/apis/" + apiVersion
	if gv.Group == "" {
		path = "/api/" + apiVersion
	}
	noMatch := &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: gv.Group, Kind: kind}, SearchedVersions: []string{gv.Version}}
	body, err := m.get(ctx, path)
	if apierrors.IsNotFound(err) {
		return mapping{}, noMatch
	}
	if err != nil {
		return mapping{}, fmt.Errorf("ask the server for the kinds of %s: %w", apiVersion, err)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(body, &list); err != nil {
		return mapping{}, fmt.Errorf("kinds of %s: %w", apiVersion, err)
	}
	kinds := map[string]mapping{}
	for _, r := range list.APIResources {
		// Subresources (pods/log) have a kind too; only plain resources are objects.
		if _, twice := kinds[r.Kind]; !twice && !strings.Contains(r.Name, "/") {
			kinds[r.Kind] = mapping{gv.WithResource(r.Name), r.Namespaced}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = map[schema.GroupVersion]map[string]mapping{}
	}
	m.known[gv] = kinds
	if found, ok := kinds[kind]; ok {
		return found, nil
	}
	return mapping{}, noMatch
}

func (m *mapper) lookup(gv schema.GroupVersion, kind string) (mapping, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.known[gv][kind]
	return found, ok
}

func (m *mapper) turn(gv schema.GroupVersion) *sync.Mutex {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asked == nil {
		m.asked = map[schema.GroupVersion]*sync.Mutex{}
	}
	if m.asked[gv] == nil {
		m.asked[gv] = &sync.Mutex{}
	}
	return m.asked[gv]
}

// forget drops what is known of a group and version.
func (m *mapper) forget(gv schema.GroupVersion) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, gv)
}
