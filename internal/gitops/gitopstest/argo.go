package gitopstest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

const appVersion = "argoproj.io/v1alpha1"

// Argo is one that runs.
type Argo struct {
	client *kube.Client

	mu     sync.Mutex
	broken map[string]Broken
	git    *Git // where there is one
}

// Broken is how the Application of a component is in place of synced and healthy; the zero value is good.
type Broken struct {
	// Phase of its sync, such as Failed, and what the server said to its Deployment.
	Phase, Refused string
	// Health of its Deployment, such as Progressing.
	Health string
}

// Deploy puts what of Argo CD is looked at into a cluster, its kinds as the repository has them,
// and runs one until the test ends.
func Deploy(tb testing.TB, cluster *kubetest.Server, repository string) *Argo {
	tb.Helper()
	client, err := kube.ConnectWith(cluster.Kubeconfig())
	if err != nil {
		tb.Fatal(err)
	}
	text := "{apiVersion: v1, kind: Namespace, metadata: {name: " + gitops.Namespace + "}}\n"
	for _, name := range []string{"argocd-controller", "argocd-repo-server"} {
		text += fmt.Sprintf("---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: %[1]s, namespace: %[2]s},"+
			" spec: {replicas: 1, selector: {matchLabels: {app: %[1]s}}, template: {metadata: {labels: {app: %[1]s}}}}}\n", name, gitops.Namespace)
	}
	for _, kind := range []string{"application", "appproject"} {
		crd, err := os.ReadFile(filepath.Join(repository, "infra/k8s/base/argocd/crds", kind+".yaml"))
		if err != nil {
			tb.Fatal(err)
		}
		text += "---\n" + string(crd)
	}
	objs, err := kube.Objects([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := client.Apply(tb.Context(), gitops.Component, objs); err != nil {
		tb.Fatal(err)
	}
	a := &Argo{client: client, broken: map[string]Broken{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := a.look(ctx); err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				tb.Errorf("Argo CD of the test: %v", err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	tb.Cleanup(func() { cancel(); <-done; client.Close() })
	return a
}

// Break says how a component is from now on.
func (a *Argo) Break(component string, how Broken) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broken[component] = how
}

// look is one round of the controller.
func (a *Argo) look(ctx context.Context) error {
	apps, err := a.client.List(ctx, appVersion, "Application", gitops.Namespace, "")
	if err != nil {
		return err
	}
	for _, app := range apps {
		digest, manifest, unread := a.read(ctx, &app)
		if app.GetName() == gitops.Root && unread == nil {
			if err := a.client.ApplyObjects(ctx, manifest); err != nil {
				return err
			}
		}
		ref := kube.RefOf(&app)
		ref.APIVersion, ref.Kind = appVersion, "Application"
		if err := a.client.MergePatch(ctx, ref, map[string]any{"status": a.status(app.GetName(), digest, unread)}); err != nil {
			return err
		}
	}
	return nil
}

// status of an Application whose source has what the digest names, or could not be read.
func (a *Argo) status(component, digest string, unread error) map[string]any {
	a.mu.Lock()
	how := a.broken[component]
	a.mu.Unlock()
	result := map[string]any{"revision": digest, "resources": []any{}}
	status := map[string]any{
		"sync": map[string]any{"status": "Synced", "revision": digest}, "health": map[string]any{"status": "Healthy"},
		"operationState": map[string]any{"phase": "Succeeded", "syncResult": result},
		"conditions":     nil, "resources": nil,
	}
	if how.Phase != "" {
		result["resources"] = []any{map[string]any{"kind": "Deployment", "name": component, "status": "SyncFailed", "message": how.Refused}}
		status["sync"] = map[string]any{"status": "OutOfSync", "revision": digest}
		status["operationState"] = map[string]any{"phase": how.Phase, "syncResult": result}
	}
	if unread != nil {
		status["sync"] = map[string]any{"status": "Unknown"}
		status["conditions"] = []any{map[string]any{"type": "ComparisonError", "message": unread.Error()}}
	}
	if how.Health != "" {
		status["health"] = map[string]any{"status": how.Health}
		status["resources"] = []any{map[string]any{
			"group": "apps", "version": "v1", "kind": "Deployment", "namespace": component, "name": component,
			"health": map[string]any{"status": how.Health, "message": "Waiting for rollout to finish"},
		}}
	}
	return status
}

// read is what an Application's source has.
func (a *Argo) read(ctx context.Context, app *unstructured.Unstructured) (digest string, manifest []*unstructured.Unstructured, err error) {
	url, _, _ := unstructured.NestedString(app.Object, "spec", "source", "repoURL")
	revision, _, _ := unstructured.NestedString(app.Object, "spec", "source", "targetRevision")
	if url == gitops.Git().URL {
		folder, _, _ := unstructured.NestedString(app.Object, "spec", "source", "path")
		a.mu.Lock()
		g := a.git
		a.mu.Unlock()
		commit, text, err := g.read(ctx, revision, folder)
		if err != nil {
			return "", nil, err
		}
		manifest, err = kube.Objects(text)
		return commit, manifest, err
	}
	sep := ":"
	if strings.Contains(revision, ":") {
		sep = "@"
	}
	ref, err := name.ParseReference(strings.TrimPrefix(url, "oci://")+sep+revision, name.Insecure)
	if err != nil {
		return "", nil, err
	}
	image, err := remote.Image(ref, remote.WithContext(ctx))
	if err != nil {
		return "", nil, err
	}
	d, err := image.Digest()
	if err != nil {
		return "", nil, err
	}
	text, err := gitops.Manifest(image)
	if err != nil {
		return "", nil, err
	}
	manifest, err = kube.Objects(text)
	return d.String(), manifest, err
}
