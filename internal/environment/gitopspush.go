package environment

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

// pushable is a component as it is pushed.
type pushable struct {
	gitops.Part
	manifest []byte
	artifact v1.Image // where the source has those
}

func (p *Platform) push(ctx context.Context, client *kube.Client, inventories map[string]kube.Inventory, which string, timeout time.Duration) (Pushed, error) {
	start := time.Now()
	result := Pushed{Components: []string{}, Changed: []string{}}
	src, err := p.source(ctx, client, which, p.warn)
	if err != nil {
		return result, err
	}
	defer src.close()
	// Of a mirror that is away, nothing else is to be said.
	var before map[string]string
	result.Before, before, err = p.pushedBefore(ctx, src)
	if err != nil {
		return result, fmt.Errorf("%w; 'orrery up%s' starts the mirror", err, p.Flag())
	}
	parts, err := p.pushables(ctx, client, src, inventories, before)
	if err != nil {
		return result, err
	}
	for _, c := range parts {
		result.Components = append(result.Components, c.Name)
		if before[c.Name] != c.Revision {
			result.Changed = append(result.Changed, c.Name)
		}
	}
	mended, err := src.put(ctx, parts)
	if err != nil {
		return result, err
	}
	for _, name := range handed(inventories) {
		if !slices.Contains(result.Components, name) {
			result.Removed = append(result.Removed, name)
		}
	}
	if err := p.allow(ctx, client, src.where(), parts, inventories); err != nil {
		return result, err
	}
	// Of what is as it was, nothing is to be handed over.
	fresh := slices.DeleteFunc(slices.Clone(parts), func(c pushable) bool {
		inv := inventories[c.Name]
		return before[c.Name] == c.Revision && inv.Applier == kube.ApplierArgoCD && len(inv.Objects) == len(c.Objects)
	})
	for _, c := range fresh {
		if err := client.HandOver(ctx, c.Name, c.Objects); err != nil {
			return result, err
		}
	}
	manifest, err := kube.Manifest(gitops.Applications(src.where(), partsOf(parts)))
	if err != nil {
		return result, err
	}
	if result.Revision, err = src.follow(ctx, manifest); err != nil {
		return result, err
	}
	// What it has read, and what it follows, Argo CD has to look at anew.
	if err := p.tellArgo(ctx, client, src.where(), result.Revision, append(mended, gitops.Root)); err != nil {
		return result, err
	}
	if err := p.awaitSync(ctx, client, result.Revision, parts, timeout); err != nil {
		return result, err
	}
	for _, c := range fresh {
		if err := client.HandedOver(ctx, c.Name, c.Objects); err != nil {
			return result, err
		}
	}
	for _, name := range result.Removed { // nobody applies it any more
		if err := client.TakeBack(ctx, name); err != nil {
			return result, err
		}
		if _, err := client.RemoveOwned(ctx, name); err != nil {
			return result, err
		}
	}
	result.Seconds = time.Since(start).Seconds()
	return result, nil
}

func partsOf(parts []pushable) []gitops.Part {
	all := make([]gitops.Part, len(parts))
	for i, p := range parts {
		all[i] = p.Part
	}
	return all
}

// pushables renders what is handed over, and refuses what must not be pushed.
func (p *Platform) pushables(ctx context.Context, client *kube.Client, to source, inventories map[string]kube.Inventory, before map[string]string) ([]pushable, error) {
	m, err := p.Mirror()
	if err != nil {
		return nil, err
	}
	if err := p.LearnImages(ctx); err != nil {
		return nil, err
	}
	p.findPushed(ctx)
	sets := map[string]Rendered{}
	brought := map[schema.GroupKind]bool{}
	var components []catalog.Component
	for _, c := range p.Components {
		if c.Name == gitops.Component || c.Name == gitops.GitServer || !p.LeftOut(c.Name).IsZero() {
			continue
		}
		if _, deployed := inventories[c.Name]; !deployed {
			p.warn("%s is not deployed, so it is not pushed: 'orrery up%s' makes its secrets, and deploys it once", c.Name, p.Flag())
			continue
		}
		set, err := p.Render(ctx, c)
		if err != nil {
			return nil, err
		}
		sets[c.Name] = set
		components = append(components, c)
		for _, o := range set.Objects {
			if isCRD(o) {
				group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
				kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
				brought[schema.GroupKind{Group: group, Kind: kind}] = true
			}
		}
	}
	secrets, err := secretsOf(ctx, client)
	if err != nil {
		return nil, err
	}
	var all []pushable
	var errs []error
	for _, c := range components {
		errs = append(errs, p.missingImages(ctx, m, c))
		objs := slices.DeleteFunc(slices.Clone(sets[c.Name].Objects), func(o *unstructured.Unstructured) bool {
			if o.GetAnnotations()[kube.AnnotationOptional] != "true" || brought[o.GroupVersionKind().GroupKind()] {
				return false
			}
			_, err := client.Kind(ctx, o.GetAPIVersion(), o.GetKind())
			return meta.IsNoMatchError(err)
		})
		manifest, err := kube.Manifest(objs)
		if err != nil {
			return nil, fmt.Errorf("component %s: %w", c.Name, err)
		}
		errs = append(errs, gitops.RefuseSecrets(c.Name, manifest, secrets))
		all = append(all, pushable{gitops.Part{Name: c.Name, Namespace: c.Namespace, Needs: c.Needs, Objects: objs}, manifest, nil})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return all, to.revise(ctx, all, before)
}

// missingImages refuses a component whose pods would find no image.
func (p *Platform) missingImages(ctx context.Context, m mirror.Mirror, c catalog.Component) error {
	var lacking []string
	for _, img := range c.Images {
		b, known := p.known(img.Name)
		if !known || !image.Pushed(ctx, m, b) {
			lacking = append(lacking, img.Name)
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	return failure.Refusedf("component %s: the mirror has no image %s as the lock says: 'orrery up%s' builds and pushes it", c.Name, strings.Join(lacking, ", "), p.Flag())
}

// public are entries of Secrets that may be in anybody's hands.
func public(key string) bool {
	return key == "ca.crt" || key == "tls.crt" || strings.HasSuffix(key, ".pub") || strings.HasSuffix(key, ".crt")
}

// secretsOf are the values of the Secrets that Orrery, or cert-manager, has made; those that are rendered are
// configuration.
func secretsOf(ctx context.Context, client *kube.Client) (map[string][]byte, error) {
	all, err := client.List(ctx, "v1", "Secret", "", "")
	if err != nil {
		return nil, err
	}
	values := map[string][]byte{}
	for _, s := range all {
		if slices.ContainsFunc(s.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool { return f.Operation == "Apply" }) {
			continue
		}
		for key, value := range kube.SecretData(&s) {
			if !public(key) {
				values[s.GetNamespace()+"/"+s.GetName()+" "+key] = bytes.TrimSpace(value)
			}
		}
	}
	return values, nil
}

// allow gives Argo CD the rights that these objects take, and those that are still there from before:
// what is left out has to be pruned.
func (p *Platform) allow(ctx context.Context, client *kube.Client, from gitops.Source, parts []pushable, inventories map[string]kube.Inventory) error {
	refs, leave := map[kube.Ref]bool{}, map[kube.Ref]bool{}
	stays := map[string]bool{}
	var objs []*unstructured.Unstructured
	resources := map[schema.GroupKind]string{} // of kinds that are only just brought
	cluster := map[schema.GroupKind]bool{}
	for _, c := range parts {
		stays[c.Name] = true
		for _, o := range c.Objects {
			refs[kube.RefOf(o)] = true
			objs = append(objs, o)
			if isCRD(o) {
				text := func(f ...string) string { v, _, _ := unstructured.NestedString(o.Object, f...); return v }
				gk := schema.GroupKind{Group: text("spec", "group"), Kind: text("spec", "names", "kind")}
				resources[gk] = text("spec", "names", "plural")
				cluster[gk] = text("spec", "scope") == "Cluster"
			}
		}
	}
	pushed := maps.Clone(refs)
	for _, name := range handed(inventories) {
		for _, r := range inventories[name].Objects {
			leave[r] = leave[r] || stays[name] && !pushed[r] // of a component that is no longer pushed, all stays
			refs[r] = true
		}
	}
	var all []gitops.Object
	for r := range refs {
		gk := schema.FromAPIVersionAndKind(r.APIVersion, r.Kind).GroupKind()
		o := gitops.Object{Group: gk.Group, Kind: r.Kind, Resource: resources[gk], Namespace: r.Namespace, Name: r.Name, Leaves: leave[r]}
		known, err := client.Kind(ctx, r.APIVersion, r.Kind)
		switch {
		case err == nil:
			o.Resource = known.Resource
			if !known.Namespaced {
				o.Namespace = ""
			}
		case !meta.IsNoMatchError(err):
			return err
		case o.Resource == "":
			continue // a kind that is gone
		case cluster[gk]:
			o.Namespace = ""
		}
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b gitops.Object) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	kinds := gitops.KindsOf(all)
	for _, c := range parts {
		if c.Namespace != "" && !slices.Contains(kinds.Namespaces, c.Namespace) {
			kinds.Namespaces = append(kinds.Namespaces, c.Namespace)
		}
	}
	slices.Sort(kinds.Namespaces)
	if err := makeNamespaces(ctx, client, objs); err != nil {
		return err
	}
	apply := gitops.Rights(all, gitops.Bound(objs))
	apply = append(apply, gitops.Projects(from, kinds)...)
	apply = append(apply, from.Secret())
	return client.ApplyObjects(ctx, apply)
}

// makeNamespaces makes those that are only just brought: Argo CD needs roles in them before it can.
func makeNamespaces(ctx context.Context, client *kube.Client, objs []*unstructured.Unstructured) error {
	var missing []*unstructured.Unstructured
	for _, o := range objs {
		if o.GetAPIVersion() != "v1" || o.GetKind() != "Namespace" {
			continue
		}
		switch _, err := client.Get(ctx, "v1", "Namespace", "", o.GetName()); {
		case apierrors.IsNotFound(err):
			missing = append(missing, o)
		case err != nil:
			return err
		}
	}
	return client.ApplyObjects(ctx, missing)
}

// tellArgo has Applications look at once; what the root is in the middle of, for something older, ends.
func (p *Platform) tellArgo(ctx context.Context, client *kube.Client, from gitops.Source, revision string, look []string) error {
	live, err := client.Get(ctx, rootRef.APIVersion, rootRef.Kind, rootRef.Namespace, rootRef.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err == nil {
		phase, _, _ := unstructured.NestedString(live.Object, "status", "operationState", "phase")
		of, _, _ := unstructured.NestedString(live.Object, "status", "operationState", "syncResult", "revision")
		if phase == "Running" && of != revision {
			if err := client.MergePatch(ctx, rootRef, map[string]any{"status": map[string]any{"operationState": map[string]any{"phase": "Terminating"}}}); err != nil {
				return err
			}
		}
	}
	if err := client.ApplyObjects(ctx, []*unstructured.Unstructured{gitops.RootApplication(from, revision)}); err != nil {
		return err
	}
	for _, name := range look {
		ref := rootRef
		ref.Name = name
		now := map[string]any{"metadata": map[string]any{"annotations": map[string]any{"argocd.argoproj.io/refresh": "normal"}}}
		if err := client.MergePatch(ctx, ref, now); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// hopelessFor is how long pods must look hopeless: those of what was there before go away meanwhile.
const hopelessFor = 5 * time.Second

// lookTime bounds one look at all Applications.
const lookTime = 30 * time.Second

// awaitSync waits until the root has revision, and all that it points to runs. What cannot get better
// by waiting ends it, if it is of what was pushed now.
func (p *Platform) awaitSync(ctx context.Context, client *kube.Client, revision string, parts []pushable, timeout time.Duration) error {
	pushed, names := map[string]string{}, []string{}
	for _, c := range parts {
		pushed[c.Name] = c.Revision
		names = append(names, c.Name)
	}
	said, last := "", "nothing was seen of it"
	since := map[string]time.Time{} // when a component began to look hopeless
	// No deadline of ctx: a look that it cut short would be the last thing that was seen.
	deadline := time.After(timeout)
	for {
		look, cancel := context.WithTimeout(ctx, lookTime)
		g, err := gitOpsStatus(look, client, names)
		cancel()
		status := apierrors.APIStatus(nil)
		switch {
		case err == nil:
			bad := g.bad(revision)
			if len(bad) == 0 {
				return nil
			}
			hopeless := map[string]time.Time{}
			for _, s := range bad {
				if !s.HopelessWith(pushed[s.Component], revision) {
					continue
				}
				hopeless[s.Component] = time.Now()
				if before, known := since[s.Component]; known {
					hopeless[s.Component] = before
				}
				if !s.Doubtful || time.Since(hopeless[s.Component]) >= hopelessFor {
					return fmt.Errorf("%s did not get through, and what ran before goes on running: %s\n"+
						"'orrery gitops status%s' shows all; push what was there before, or something better", s.Component, s.Reason, p.Flag())
				}
			}
			since = hopeless
			last = g.lines(bad)
			if m := fmt.Sprintf("waiting for %d of %d: %s", len(bad), len(names)+1, bad[0].Line()); m != said {
				said = m
				p.sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: plan.PhaseDeploy, Message: m})
			}
		case errors.As(err, &status) && !kube.Transient(err):
			return err
		case ctx.Err() == nil:
			last = err.Error()
		}
		late := fmt.Errorf("not synced and healthy within %s", timeout)
		select {
		case <-ctx.Done():
			late = context.Cause(ctx)
		case <-deadline:
		case <-time.After(300 * time.Millisecond):
			continue
		}
		return fmt.Errorf("%w; what was seen last:\n%s\n'orrery gitops status%s' shows how it goes on", late, last, p.Flag())
	}
}

// lines say what is the matter, each Application on a line of its own.
func (g GitOps) lines(bad []gitops.Status) string {
	var lines []string
	if g.Problem != "" {
		lines = append(lines, g.Problem)
	}
	for _, s := range bad {
		lines = append(lines, s.Line())
	}
	return strings.Join(lines, "\n")
}
