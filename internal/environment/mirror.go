package environment

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/mirror/store"
)

// mirrored is the driver as one whose environments have a registry of their own.
func (e *Environment) mirrored() (driver.Mirrored, error) {
	d, ok := e.Driver.(driver.Mirrored)
	if !ok {
		return nil, fmt.Errorf("environments of the %s driver have no registry of their own", e.Kind.Name)
	}
	return d, nil
}

// Mirror is the registry of the environment's own, that images are pushed to and read back from.
func (e *Environment) Mirror() (mirror.Mirror, error) {
	d, err := e.mirrored()
	if err != nil {
		return mirror.Mirror{}, fmt.Errorf("%w: 'orrery images push' puts images into images.registry, and signs them", err)
	}
	return d.Mirror(), nil
}

// PruneMirror frees what the mirror has and no tag of it, no workload of the cluster and no lock
// names, see [store.Store.Prune]. With dryRun it only says what would go. The cluster has to
// answer: without knowing what it runs, nothing is removed.
func (e *Environment) PruneMirror(ctx context.Context, dryRun bool) (store.Pruned, error) {
	d, err := e.mirrored()
	if err != nil {
		return store.Pruned{}, err
	}
	client, err := e.Kube(ctx)
	if err != nil {
		return store.Pruned{}, err
	}
	defer client.Close()
	inUse, err := e.digestsInUse(ctx, client)
	if err != nil {
		return store.Pruned{}, fmt.Errorf("nothing was removed: %w\nis the environment running? orrery status%s", err, e.Flag())
	}
	return d.PruneMirror(ctx, inUse, dryRun)
}

// workloads are the kinds that say what pods run, or will when they are made again or rolled back.
var workloads = [][2]string{
	{"v1", "Pod"}, {"v1", "PodTemplate"}, {"v1", "ReplicationController"},
	{"apps/v1", "Deployment"}, {"apps/v1", "ReplicaSet"}, {"apps/v1", "StatefulSet"}, {"apps/v1", "DaemonSet"},
	{"apps/v1", "ControllerRevision"}, {"batch/v1", "Job"}, {"batch/v1", "CronJob"},
}

// digestPattern finds digests anywhere: whatever a workload says of one, it is not taken away.
var digestPattern = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

func (e *Environment) digestsInUse(ctx context.Context, client *kube.Client) ([]string, error) {
	var all []string
	for _, kind := range workloads {
		objects, err := client.List(ctx, kind[0], kind[1], "", "")
		if err != nil {
			return nil, fmt.Errorf("ask the cluster what runs: %w", err)
		}
		for _, o := range objects {
			text, err := json.Marshal(o.Object)
			if err != nil {
				return nil, fmt.Errorf("read %s %s/%s: %w", kind[1], o.GetNamespace(), o.GetName(), err)
			}
			all = append(all, digestPattern.FindAllString(string(text), -1)...)
		}
	}
	// What Argo CD follows names the artifacts of components by digest.
	apps, err := client.List(ctx, appVersion, "Application", gitops.Namespace, "")
	if err != nil && !meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("ask the cluster what Argo CD follows: %w", err)
	}
	for _, a := range apps {
		text, err := json.Marshal(a.Object["spec"])
		if err != nil {
			return nil, fmt.Errorf("read Application %s: %w", a.GetName(), err)
		}
		all = append(all, digestPattern.FindAllString(string(text), -1)...)
	}
	for _, ref := range e.Spec.Images.Allow {
		all = append(all, digestPattern.FindAllString(ref, -1)...)
	}
	// Without a catalogue at hand its images stay by their tags.
	if locked, err := e.Location.Lock(); err == nil && locked != nil {
		for _, img := range locked.Images {
			all = append(all, img.Digest)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// movedTags has a line for each workload that runs what a tag of the mirror named once: a node that
// has an image does not ask again, so that its pods may differ from those of other nodes.
func (e *Environment) movedTags(ctx context.Context, client *kube.Client) []string {
	m, err := e.Mirror()
	if err != nil {
		return nil
	}
	pods, err := client.List(ctx, "v1", "Pod", "", "")
	if err != nil {
		return nil
	}
	type tagged struct{ repository, tag string }
	names := map[tagged]string{} // what tags name now; "" when that cannot be told
	lines := map[string]bool{}
	for _, pod := range pods {
		for _, runs := range running(pod) {
			ref := tagged{}
			ref.repository, ref.tag = splitReference(runs.asked)
			if ref.repository == "" || runs.repository != ref.repository {
				continue
			}
			if _, asked := names[ref]; !asked {
				names[ref], _ = image.Tagged(ctx, m, ref.repository, ref.tag)
			}
			if now := names[ref]; now != "" && now != runs.digest {
				lines[fmt.Sprintf("%s runs %s:%s as it was, %s. The tag has moved since; "+
					"for all its pods to run the same: %s/%[2]s:%[3]s@%[6]s",
					workloadOf(pod), ref.repository, ref.tag, runs.digest, mirror.Host, now)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(lines))
}

// runningImage is what a container runs, and what its pod asked for.
type runningImage struct{ asked, repository, digest string }

// running are the images of a pod's containers that run.
func running(pod unstructured.Unstructured) []runningImage {
	var all []runningImage
	for _, list := range [][2]string{{"containers", "containerStatuses"}, {"initContainers", "initContainerStatuses"}} {
		asked := map[string]string{}
		specs, _, _ := unstructured.NestedSlice(pod.Object, "spec", list[0])
		for _, c := range specs {
			m, _ := c.(map[string]any)
			name, _ := m["name"].(string)
			asked[name], _ = m["image"].(string)
		}
		statuses, _, _ := unstructured.NestedSlice(pod.Object, "status", list[1])
		for _, c := range statuses {
			m, _ := c.(map[string]any)
			name, _ := m["name"].(string)
			id, _ := m["imageID"].(string)
			_, now, _ := unstructured.NestedMap(m, "state", "running")
			repository, digest, known := strings.Cut(strings.TrimPrefix(id, mirror.Host+"/"), "@")
			if now && known {
				all = append(all, runningImage{asked[name], repository, digest})
			}
		}
	}
	return all
}

// splitReference of an image of the mirror that is named by its tag alone; else both are empty.
func splitReference(ref string) (repository, tag string) {
	rest, ours := strings.CutPrefix(ref, mirror.Host+"/")
	if !ours || strings.Contains(rest, "@") {
		return "", ""
	}
	repository, tag, found := strings.Cut(rest, ":")
	if !found {
		tag = "latest"
	}
	return repository, tag
}

// workloadOf names what made a pod, for people: of a ReplicaSet, its Deployment.
func workloadOf(pod unstructured.Unstructured) string {
	kind, name := "Pod", pod.GetName()
	for _, owner := range pod.GetOwnerReferences() {
		if owner.Controller == nil || !*owner.Controller {
			continue
		}
		kind, name = owner.Kind, owner.Name
		if hash := pod.GetLabels()["pod-template-hash"]; kind == "ReplicaSet" && hash != "" {
			kind, name = "Deployment", strings.TrimSuffix(name, "-"+hash)
		}
	}
	return fmt.Sprintf("%s %s/%s", kind, pod.GetNamespace(), name)
}
