package environment

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// GitOps is who applies the platform, and how that goes. Its JSON form is a contract.
type GitOps struct {
	Applier      string          `json:"applier"`            // orrery or argocd
	Source       string          `json:"source,omitempty"`   // that Argo CD reads: oci or git
	Revision     string          `json:"revision,omitempty"` // that Argo CD follows
	Pushed       string          `json:"pushed,omitempty"`   // that was pushed last; the same, unless somebody moved the tag
	Applications []gitops.Status `json:"applications"`
	// Problem is what is the matter with Argo CD itself.
	Problem string `json:"problem,omitempty"`
	// ByHand are the last changes of what Argo CD applies that were neither its own nor the platform's.
	ByHand []ByHand `json:"byHand,omitempty"`
}

// Good: all that was pushed runs, and is well.
func (g GitOps) Good() bool {
	return g.Problem == "" && !slices.ContainsFunc(g.Applications, func(s gitops.Status) bool { return !s.Good() })
}

// Pushed is what a push did. Its JSON form is a contract.
type Pushed struct {
	Revision   string   `json:"revision"` // of what has all Applications: digest of an artifact, or hash of a commit
	Before     string   `json:"before,omitempty"`
	Components []string `json:"components"`
	Changed    []string `json:"changed"`
	Removed    []string `json:"removed,omitempty"`
	Seconds    float64  `json:"seconds"` // until all was synced and healthy
}

const appVersion = "argoproj.io/v1alpha1"

var rootRef = kube.Ref{APIVersion: appVersion, Kind: "Application", Namespace: gitops.Namespace, Name: gitops.Root}

// handed are the components that Argo CD applies.
func handed(inventories map[string]kube.Inventory) []string {
	var names []string
	for name, inv := range inventories {
		if inv.Applier == kube.ApplierArgoCD {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// tellHanded says who applies what a plan leaves alone for that.
func (p *Platform) tellHanded(inventories map[string]kube.Inventory) {
	if n := len(handed(inventories)); n > 0 {
		p.sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: plan.PhaseDeploy,
			Message: fmt.Sprintf("Argo CD applies %d components: 'orrery gitops push%s' gives it what the catalogue says now", n, p.Flag())})
	}
}

// EnableGitOps hands the platform over: Argo CD applies it from now on, and reads the source of that name; ""
// is the one that it reads already, or else that of orrery.yaml.
func (p *Platform) EnableGitOps(ctx context.Context, source string, timeout time.Duration) (Pushed, error) {
	if _, err := p.mirrored(); err != nil {
		return Pushed{}, failure.Refusedf("%w, and Argo CD reads what it applies from there: 'orrery up%s' goes on applying it. "+
			"It could read from images.registry with a password of its own and a network policy that lets it get there; neither is made yet", err, p.Flag())
	}
	client, err := p.kube(ctx)
	if err != nil {
		return Pushed{}, err
	}
	inventories, err := client.Inventories(ctx)
	if err != nil {
		return Pushed{}, err
	}
	argo, deployed := inventories[gitops.Component]
	if !deployed {
		return Pushed{}, failure.Refusedf("Argo CD is not there: 'orrery deploy %s%s' deploys it", gitops.Component, p.Flag())
	}
	objs, _ := inventoryObjects(argo)
	if r := client.Ready(gitops.Component, objs).Probe(ctx); r.Err != nil {
		return Pushed{}, failure.Refusedf("Argo CD is not ready, so nothing is handed over: %v", r.Err)
	}
	if source == "" {
		if source, err = handedWith(ctx, client); err != nil {
			return Pushed{}, err
		}
		source = cmp.Or(source, p.Spec.GitOps.Source)
	}
	if _, deployed := inventories[gitops.GitServer]; source == spec.GitOpsGit && !deployed {
		return Pushed{}, failure.Refusedf("the git server is not there: gitops.source: git in orrery.yaml, then 'orrery up%s' deploys it", p.Flag())
	}
	return p.push(ctx, client, inventories, source, timeout)
}

// PushGitOps gives Argo CD what the catalogue says now, and waits until that runs.
func (p *Platform) PushGitOps(ctx context.Context, timeout time.Duration) (Pushed, error) {
	client, err := p.kube(ctx)
	if err != nil {
		return Pushed{}, err
	}
	inventories, err := client.Inventories(ctx)
	if err != nil {
		return Pushed{}, err
	}
	if len(handed(inventories)) == 0 {
		return Pushed{}, failure.Refusedf("orrery applies this environment: 'orrery gitops enable%s' hands it over to Argo CD first", p.Flag())
	}
	return p.push(ctx, client, inventories, "", timeout)
}

// bad are the Applications that do not have revision, or what it points to, or are not well.
func (g GitOps) bad(revision string) []gitops.Status {
	var bad []gitops.Status
	for _, s := range g.Applications {
		if s.Component == gitops.Root {
			if s.Synced != revision || !s.Good() {
				bad = append(bad, s)
			}
			continue
		}
		if s.Synced != s.Revision || !s.Good() {
			bad = append(bad, s)
		}
	}
	// Whose own doing it is, before the one that waits for it.
	slices.SortStableFunc(bad, func(a, b gitops.Status) int {
		root := func(s gitops.Status) int { return map[bool]int{true: 1}[s.Component == gitops.Root] }
		return root(a) - root(b)
	})
	return bad
}

// GitOps is who applies the platform and how that goes.
func (e *Environment) GitOps(ctx context.Context) (GitOps, error) {
	client, err := e.Kube(ctx)
	if err != nil {
		return GitOps{}, err
	}
	defer client.Close()
	inventories, err := client.Inventories(ctx)
	if err != nil {
		return GitOps{}, err
	}
	names := handed(inventories)
	if len(names) == 0 {
		return GitOps{Applier: "orrery", Applications: []gitops.Status{}}, nil
	}
	g, err := gitOpsStatus(ctx, client, names)
	if err != nil {
		return g, err
	}
	if problem := e.followed(ctx, client, &g); g.Problem == "" {
		g.Problem = problem
	}
	if g.Problem == "" {
		if g.Problem, err = leaving(ctx, client, inventories, names, e.Flag()); err != nil {
			return g, err
		}
	}
	g.ByHand = e.byHand(ctx, client, inventories, g.Applications)
	return g, nil
}

// leaving says which namespaces that are applied somebody is deleting. What Argo CD may do in one goes with it, so
// that all it says is that something there is forbidden, also when it has made the namespace anew.
func leaving(ctx context.Context, client *kube.Client, inventories map[string]kube.Inventory, components []string, flag string) (string, error) {
	namespaces, err := client.List(ctx, "v1", "Namespace", "", "")
	if err != nil {
		return "", err
	}
	for _, n := range namespaces {
		ours := slices.ContainsFunc(components, func(c string) bool {
			return slices.ContainsFunc(inventories[c].Objects, func(r kube.Ref) bool { return r.Kind == "Namespace" && r.Name == n.GetName() })
		})
		if n.GetDeletionTimestamp() == nil || !ours {
			continue
		}
		why := "what is in it ends"
		if held := kube.StatusCondition(&n, "NamespaceContentRemaining"); held.True() {
			why = held.Message
		}
		return fmt.Sprintf("namespace %s is terminating, somebody deleted it: %s; 'orrery gitops push%s' makes it anew when it is gone", n.GetName(), why, flag), nil
	}
	return "", nil
}

// followed notes what Argo CD follows, and says what is the matter with that.
func (e *Environment) followed(ctx context.Context, client *kube.Client, g *GitOps) (problem string) {
	const still = "what runs goes on running, and nothing new gets through"
	push := "'orrery gitops push" + e.Flag() + "'"
	away := func(err error) string {
		if g.Source == spec.GitOpsGit {
			return fmt.Sprintf("the git server does not say what is followed; %s: %v", still, err)
		}
		return fmt.Sprintf("the mirror does not say what is followed; %s: %v; 'orrery up%s' starts the mirror", still, err, e.Flag())
	}
	src, err := e.source(ctx, client, g.Source, func(string, ...any) {})
	if err != nil {
		return away(err)
	}
	defer src.close()
	g.Revision, err = src.followed(ctx)
	switch {
	case isUnreadable(err):
		return fmt.Sprintf("what is followed cannot be read, %s; %s: %v; %s mends it", src.name(), still, err, push)
	case err != nil:
		return away(err)
	case g.Pushed != "" && g.Revision != g.Pushed:
		return fmt.Sprintf("somebody else moved %s from %s to %s: %s moves it back",
			src.name(), gitops.Revision(g.Pushed), cmp.Or(gitops.Revision(g.Revision), "nothing"), push)
	}
	bounded, cancel := context.WithTimeout(ctx, mirrorTime)
	defer cancel()
	if lines := damaged(bounded, src, *g); len(lines) > 0 {
		return fmt.Sprintf("%s does not have what was pushed; %s: %s; %s mends it", src.name(), still, strings.Join(lines, "; "), push)
	}
	return ""
}

func gitOpsStatus(ctx context.Context, client *kube.Client, components []string) (GitOps, error) {
	g := GitOps{Applier: kube.ApplierArgoCD, Applications: []gitops.Status{}}
	apps, err := client.List(ctx, appVersion, "Application", gitops.Namespace, "")
	if err != nil {
		return g, err
	}
	found := map[string]bool{}
	for _, a := range apps {
		s := gitops.StatusOf(&a)
		found[s.Component] = true
		if s.Component == gitops.Root {
			g.Pushed = a.GetAnnotations()[gitops.AnnotationPushed]
		}
		s.Hopeless = s.Hopeless || kube.Denied(s.Refused) // Argo CD tries it again and again
		for i, sick := range s.Sick {
			if sick.Kind == "Application" {
				continue
			}
			why, hopeless := client.Why(ctx, kube.Ref{APIVersion: sick.APIVersion, Kind: sick.Kind, Namespace: sick.Namespace, Name: sick.Name})
			if why != "" {
				s.Sick[i].Message = why
				s.Reason = fmt.Sprintf("%s %s: %s", sick.Kind, sick.Name, why)
			}
			s.Doubtful = s.Doubtful || hopeless && !s.Hopeless
			s.Hopeless = s.Hopeless || hopeless
		}
		g.Applications = append(g.Applications, s)
	}
	for _, name := range append([]string{gitops.Root}, components...) {
		if !found[name] {
			g.Applications = append(g.Applications, gitops.Status{Component: name, Sync: "Missing", Health: "Unknown", Reason: "there is no such Application (yet)"})
		}
	}
	slices.SortFunc(g.Applications, func(a, b gitops.Status) int { return cmp.Compare(a.Component, b.Component) })
	parts := []kube.Ref{
		{APIVersion: "apps/v1", Kind: "Deployment", Namespace: gitops.Namespace, Name: "argocd-controller"},
		{APIVersion: "apps/v1", Kind: "Deployment", Namespace: gitops.Namespace, Name: "argocd-repo-server"},
	}
	if g.Source, err = handedWith(ctx, client); err != nil {
		return g, err
	}
	if g.Source == spec.GitOpsGit {
		parts = append(parts, kube.Ref{APIVersion: "apps/v1", Kind: "StatefulSet", Namespace: gitops.GitServer, Name: gitops.GitServer})
	}
	for _, part := range parts {
		d, err := client.Get(ctx, part.APIVersion, part.Kind, part.Namespace, part.Name)
		switch {
		case apierrors.IsNotFound(err):
			g.Problem = part.Kind + " " + part.Name + " is not there: nothing new is applied"
		case err != nil:
			return g, err
		default:
			if n, _, _ := unstructured.NestedInt64(d.Object, "status", "readyReplicas"); n == 0 {
				why, _ := client.Why(ctx, part)
				g.Problem = strings.TrimSuffix(part.Kind+" "+part.Name+" is not ready, so this may be old: "+why, ": ")
			}
		}
	}
	return g, nil
}

// DisableGitOps gives everything back: Orrery applies again.
func (p *Platform) DisableGitOps(ctx context.Context) (components []string, err error) {
	client, err := p.kube(ctx)
	if err != nil {
		return nil, err
	}
	inventories, err := client.Inventories(ctx)
	if err != nil {
		return nil, err
	}
	// Its rights first: what it is in the middle of ends there.
	for _, kind := range []string{"ClusterRoleBinding", "RoleBinding", "ClusterRole", "Role"} {
		if err := deleteAll(ctx, client, "rbac.authorization.k8s.io/v1", kind, "", gitops.LabelRights); err != nil {
			return nil, err
		}
	}
	// The root before those that it would make anew.
	if err := client.Delete(ctx, rootRef.APIVersion, rootRef.Kind, rootRef.Namespace, rootRef.Name, -1); err != nil && !meta.IsNoMatchError(err) {
		return nil, err
	}
	for _, kind := range []string{"Application", "AppProject"} {
		if err := deleteAll(ctx, client, appVersion, kind, gitops.Namespace, "app.kubernetes.io/part-of=argocd"); err != nil {
			return nil, err
		}
	}
	if err := deleteAll(ctx, client, "v1", "Secret", gitops.Namespace, "argocd.argoproj.io/secret-type"); err != nil {
		return nil, err
	}
	components = handed(inventories)
	for _, name := range components {
		if err := client.TakeBack(ctx, name); err != nil {
			return components, err
		}
	}
	return components, nil
}

func deleteAll(ctx context.Context, client *kube.Client, apiVersion, kind, namespace, selector string) error {
	all, err := client.List(ctx, apiVersion, kind, namespace, selector)
	if meta.IsNoMatchError(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, o := range all {
		if err := client.Delete(ctx, apiVersion, kind, o.GetNamespace(), o.GetName(), -1); err != nil {
			return err
		}
	}
	return nil
}
