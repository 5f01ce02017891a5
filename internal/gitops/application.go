package gitops

import (
	"maps"
	"regexp"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Names in the cluster and in the registry.
const (
	Namespace = "argocd"
	// Root is the Application that has all others.
	Root = "orrery"
	// Repository has all artifacts, and Tag there is what Root follows.
	Repository = "gitops/platform"
	Tag        = "current"
	// Component is what Argo CD itself comes with, and GitServer what it reads where that is git. They are not
	// handed over: who applies is not what it applies.
	Component = "argocd"
	GitServer = "git-server"

	apiVersion = "argoproj.io/v1alpha1"
	inCluster  = "https://kubernetes.default.svc"
	project    = "platform"
)

// Part is a component that is handed over.
type Part struct {
	Name      string
	Namespace string
	Needs     []string
	Revision  string // that has its manifest: the digest of its artifact, or the hash of a commit
	Objects   []*unstructured.Unstructured
}

// Waves say when each part is applied: after all that it needs. Needs that are no parts do not count.
func Waves(parts []Part) map[string]int {
	needs := map[string][]string{}
	for _, p := range parts {
		needs[p.Name] = p.Needs
	}
	waves := map[string]int{}
	var of func(name string) int
	of = func(name string) int {
		if w, known := waves[name]; known {
			return w
		}
		waves[name] = 0 // the catalogue has no cycles
		wave := 0
		for _, n := range needs[name] {
			if _, part := needs[n]; part {
				wave = max(wave, of(n)+1)
			}
		}
		waves[name] = wave
		return wave
	}
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		of(name)
	}
	return waves
}

// Applications are those of parts, which the root applies.
func Applications(from Source, parts []Part) []*unstructured.Unstructured {
	waves := Waves(parts)
	var all []*unstructured.Unstructured
	for _, p := range parts {
		app := application(p.Name, project, from, p.Revision, p.Namespace)
		app.SetAnnotations(map[string]string{"argocd.argoproj.io/sync-wave": strconv.Itoa(waves[p.Name])})
		all = append(all, app)
	}
	return all
}

// AnnotationPushed is on the root, and has what the last push had it follow.
const AnnotationPushed = "orrery.dev/pushed"

// RootApplication is what Argo CD is told first. pushed is what the source's name for it points to.
func RootApplication(from Source, pushed string) *unstructured.Unstructured {
	root := application(Root, Root, from, from.follow(), Namespace)
	root.SetAnnotations(map[string]string{AnnotationPushed: pushed})
	return root
}

func application(name, project string, from Source, revision, namespace string) *unstructured.Unstructured {
	return object("Application", name, map[string]any{
		"project": project,
		"source": map[string]any{
			"repoURL": from.URL, "targetRevision": revision, "path": from.path(name),
		},
		"destination": map[string]any{"server": inCluster, "namespace": namespace},
		// Without a finalizer: who deletes an Application by hand deletes nothing that it applied, and
		// the root makes it anew.
		"syncPolicy": map[string]any{
			"automated": map[string]any{"prune": true, "selfHeal": true},
			// What is no field of a kind the server refuses when it is applied. To ask it for that as kubectl
			// does parses all of its OpenAPI for each object: half of what a sync costs.
			"syncOptions": []any{"ServerSideApply=true", "FailOnSharedResource=true", "PruneLast=true", "Validate=false"},
			"retry": map[string]any{
				"limit":   int64(3),
				"backoff": map[string]any{"duration": "2s", "factor": int64(2), "maxDuration": "20s"},
			},
		},
		"revisionHistoryLimit": int64(5),
	})
}

func object(kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiVersion, "kind": kind,
		"metadata": map[string]any{"name": name, "namespace": Namespace, "labels": map[string]any{"app.kubernetes.io/part-of": "argocd"}},
		"spec":     spec,
	}}
}

// Projects say what the Applications may have: the root Applications alone, the others what parts
// consist of, and from nowhere else.
func Projects(from Source, kinds Kinds) []*unstructured.Unstructured {
	var cluster, namespaced, destinations []any
	for _, k := range kinds.Cluster {
		cluster = append(cluster, map[string]any{"group": k.Group, "kind": k.Kind})
	}
	for _, k := range kinds.Namespaced {
		namespaced = append(namespaced, map[string]any{"group": k.Group, "kind": k.Kind})
	}
	for _, n := range kinds.Namespaces {
		destinations = append(destinations, map[string]any{"server": inCluster, "namespace": n})
	}
	// An Application's own destination has to be allowed too, where it has only objects of the cluster.
	return []*unstructured.Unstructured{
		object("AppProject", Root, map[string]any{
			"description":                "what applies the platform: Applications, and nothing else",
			"sourceRepos":                []any{from.URL},
			"destinations":               []any{map[string]any{"server": inCluster, "namespace": Namespace}},
			"namespaceResourceWhitelist": []any{map[string]any{"group": "argoproj.io", "kind": "Application"}},
		}),
		object("AppProject", project, map[string]any{
			"description":                "the components of the platform, as they were pushed",
			"sourceRepos":                []any{from.URL},
			"destinations":               destinations,
			"clusterResourceWhitelist":   cluster,
			"namespaceResourceWhitelist": namespaced,
		}),
	}
}

// hash is what names content: a digest, or the hash of a commit.
var hash = regexp.MustCompile(`^(sha256:)?([0-9a-f]{12})[0-9a-f]{28,52}$`)

// Revision is how a digest or the hash of a commit is shown to people.
func Revision(revision string) string {
	if m := hash.FindStringSubmatch(revision); m != nil {
		return m[2]
	}
	return revision
}
