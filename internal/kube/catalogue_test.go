package kube

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/catalog"
)

// TestShippedCatalogue applies what this repository ships for the local overlay to a
// real API server: a second apply and a diff find nothing to do (which a manifest with
// defaults or units that the server rewrites could break), and removing leaves nothing.
func TestShippedCatalogue(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute, most of it the deletion of namespaces")
	}
	c := connect(t)
	withControllers(t)
	// 35 CPU-seconds, most of them the API server's: the bounds that calls have by
	// themselves are too narrow for a busy machine.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cat := shipped(t).For("", "") // Cilium's agents as pods are a chart of a module, which the driver's tests render
	components, err := cat.Select("local", nil)
	if err != nil {
		t.Fatal(err)
	}
	// Without its pinned files, which are not in the repository, a component is skipped, and so is what
	// needs it. Those that are needed come first.
	skipped := map[string]bool{}
	components = slices.DeleteFunc(components, func(c catalog.Component) bool {
		skipped[c.Name] = len(absentFiles(c)) > 0 || slices.ContainsFunc(c.Needs, func(n string) bool { return skipped[n] })
		return skipped[c.Name]
	})
	rendered := map[string][]*unstructured.Unstructured{}
	for _, component := range components {
		objs, err := Render(RenderInput{Component: component, Overlay: cat.Overlays["local"], Facts: testFacts})
		if err != nil {
			t.Fatal(err)
		}
		rendered[component.Name] = objs
		if _, err := c.EnsureSecrets(ctx, component); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Apply(ctx, component.Name, objs); err != nil {
			t.Fatal(err)
		}
	}
	for _, component := range components { // what waited for the kinds of another component
		if _, err := c.Apply(ctx, component.Name, rendered[component.Name]); err != nil {
			t.Fatal(err)
		}
	}
	for _, component := range components {
		objs := rendered[component.Name]
		applied, err := c.Apply(ctx, component.Name, objs)
		if err != nil {
			t.Fatal(err)
		}
		if want := len(objs) - len(applied.Deferred); applied.Unchanged != want {
			t.Errorf("%s: applied again: %+v, want %d unchanged", component.Name, applied, want)
		}
		changes, err := c.Diff(ctx, component.Name, objs)
		if err != nil {
			t.Fatal(err)
		}
		for _, ch := range changes {
			t.Errorf("%s: %s %s right after the apply:\n%s", component.Name, ch.Action, ch.Object, ch.Diff)
		}
	}
	slices.Reverse(components)
	for _, component := range components {
		if err := c.Remove(ctx, component.Name); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []struct{ apiVersion, kind string }{
		{"v1", "Namespace"}, {"v1", "Service"}, {"v1", "ConfigMap"}, {"v1", "Secret"}, {"apps/v1", "Deployment"}, {"apps/v1", "StatefulSet"},
		{"rbac.authorization.k8s.io/v1", "ClusterRole"}, {"apiregistration.k8s.io/v1", "APIService"}, {"storage.k8s.io/v1", "StorageClass"},
	} {
		for _, component := range components {
			left, err := c.List(ctx, kind.apiVersion, kind.kind, "", LabelComponent+"="+component.Name)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range left {
				t.Errorf("left after the removal: %s", refOf(&o))
			}
		}
	}
}

func TestStreamsToNowhere(t *testing.T) {
	c := connect(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for name, f := range map[string]func(c *Client) error{
		"forward to port 80 of pod default/none": func(c *Client) error {
			_, _, err := c.PortForward(ctx, "default", "none", 80)
			return err
		},
		`run "true" in pod default/none`: func(c *Client) error {
			return c.Exec(ctx, "default", "none", "", []string{"true"}, nil, nil, nil)
		},
		"logs of pod default/none": func(c *Client) error {
			_, err := c.Logs(ctx, "default", "none", "", 1)
			return err
		},
	} {
		if err := f(c); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "not found") {
			t.Errorf("%s: error = %v", name, err)
		}
	}
	// A server that accepts and says nothing must not hold a caller beyond its context.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	config := *c.config
	config.Host = "http://" + silent.Addr().String()
	d, err := newClient(&config)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := d.RawGet(short, "/readyz"); err == nil {
		t.Error("a silent server answered")
	}
	if _, _, err := d.PortForward(short, "default", "none", 80); err == nil {
		t.Error("a silent server forwarded")
	}
	if took := time.Since(start); took > attemptTimeout/2 {
		t.Errorf("held for %s", took)
	}
}
