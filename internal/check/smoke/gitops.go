package smoke

import (
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/kube"
)

const applicationAPI = "argoproj.io/v1alpha1"

// healTime is longer than the controller waits at most before it heals once more what somebody changes again
// and again.
const healTime = 150 * time.Second

// handedOver are the Applications; none where Orrery applies.
func handedOver(ctx context.Context, env Env) ([]gitops.Status, error) {
	apps, err := env.Client.List(ctx, applicationAPI, "Application", gitops.Namespace, "")
	if err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) {
		return nil, err
	}
	var all []gitops.Status
	for _, a := range apps {
		all = append(all, gitops.StatusOf(&a))
	}
	return all, nil
}

var notHandedOver = check.Skip("Orrery applies this environment: 'orrery gitops enable' hands it over")

// applications: what was handed over is as it was pushed, and well.
func applications(ctx context.Context, env Env) check.Result {
	all, err := handedOver(ctx, env)
	if err != nil {
		return check.Wait("read the Applications: %v", err)
	}
	if len(all) == 0 {
		return notHandedOver
	}
	var bad []string
	root := false
	for _, s := range all {
		root = root || s.Component == gitops.Root
		if !s.Good() {
			bad = append(bad, s.Line())
		}
	}
	if !root {
		bad = append(bad, "Application "+gitops.Root+" is missing, so nobody follows what is pushed: 'orrery gitops push' makes it anew")
	}
	if len(bad) > 0 {
		return check.Wait("%s", strings.Join(bad, "; "))
	}
	return check.OK("%d Applications are synced and healthy", len(all))
}

// drift: what somebody changes by hand is changed back. It is tried on how much history an Application
// keeps, which nothing that runs depends on. A revert is not tried: it takes two pushes, and they move the one tag
// that all is applied from; a check that ends in the middle would leave the platform at its own revision.
func drift(ctx context.Context, env Env) check.Result {
	all, err := handedOver(ctx, env)
	if err != nil {
		return check.Wait("read the Applications: %v", err)
	}
	if len(all) == 0 {
		return notHandedOver
	}
	name := ""
	for _, s := range all {
		if s.Component != gitops.Root && s.Good() && name == "" {
			name = s.Component
		}
		if s.Component == gitops.Root && !s.Good() {
			return check.Wait("%s", s.Line())
		}
	}
	if name == "" {
		return check.Wait("no Application is synced and healthy")
	}
	took, err := healed(ctx, env, name)
	if err != nil {
		return check.Fail(err)
	}
	return check.OK("Application %s was changed by hand, and back %.1f s later", name, took.Seconds())
}

func healed(ctx context.Context, env Env, name string) (took time.Duration, err error) {
	limit := func() (int64, error) {
		app, err := env.Client.Get(ctx, applicationAPI, "Application", gitops.Namespace, name)
		if err != nil {
			return 0, err
		}
		n, _, err := unstructured.NestedInt64(app.Object, "spec", "revisionHistoryLimit")
		return n, err
	}
	set := func(ctx context.Context, n int64) error {
		ref := kube.Ref{APIVersion: applicationAPI, Kind: "Application", Namespace: gitops.Namespace, Name: name}
		return env.Client.MergePatch(ctx, ref, map[string]any{"spec": map[string]any{"revisionHistoryLimit": n}})
	}
	want, err := limit()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := set(ctx, want+1); err != nil {
		return 0, err
	}
	err = until(ctx, healTime, func() error {
		n, err := limit()
		if err == nil && n != want {
			err = fmt.Errorf("what was changed by hand in Application %s is not changed back: Argo CD heals nothing; 'orrery gitops status' says more", name)
		}
		return err
	})
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = set(undo, want)
	}
	return time.Since(start), err
}
