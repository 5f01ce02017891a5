package smoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
)

// platformNamespaces are those that every component relies on.
var platformNamespaces = []string{"platform", "data", "messaging", "observability", "observability-agents", "apps"}

const enforceLabel = "pod-security.kubernetes.io/enforce"

// namespaces: all of them exist, each with a pod-security level that is enforced.
func namespaces(ctx context.Context, env Env) check.Result {
	levels := map[string][]string{}
	for _, name := range platformNamespaces {
		o, err := env.Client.Get(ctx, "v1", "Namespace", "", name)
		if apierrors.IsNotFound(err) {
			return check.Fail(fmt.Errorf("there is no namespace %s; run `orrery deploy namespaces`", name))
		}
		if err != nil {
			return check.Wait("read namespace %s: %v", name, err)
		}
		if phase := text(o, "status", "phase"); phase != "Active" {
			return check.Wait("namespace %s is %s", name, phase)
		}
		level := o.GetLabels()[enforceLabel]
		if !slices.Contains([]string{"restricted", "baseline", "privileged"}, level) {
			return check.Fail(fmt.Errorf("namespace %s enforces no pod-security level: label %s is %q", name, enforceLabel, level))
		}
		levels[level] = append(levels[level], name)
	}
	var parts []string
	for _, level := range []string{"restricted", "baseline", "privileged"} {
		if levels[level] != nil {
			parts = append(parts, level+": "+strings.Join(levels[level], ", "))
		}
	}
	return check.OK("%s", strings.Join(parts, "; "))
}

// podSecurity: a privileged pod is refused in apps, for that reason.
func podSecurity(ctx context.Context, env Env) check.Result {
	return inSandbox(ctx, env, "pod-security", func(s *sandbox) (string, error) {
		name := s.name("privileged")
		err := s.create(ctx, map[string]any{
			"apiVersion": "v1", "kind": "Pod",
			"metadata": map[string]any{"name": name},
			"spec": map[string]any{
				"automountServiceAccountToken": false,
				// It would not run anywhere, were it let in.
				"nodeSelector": map[string]any{label: "nowhere"},
				"containers": []any{map[string]any{
					"name": "probe", "image": "refused.invalid/privileged:none",
					"securityContext": map[string]any{"privileged": true},
				}},
			},
		})
		switch {
		case err == nil:
			return "", fmt.Errorf("a privileged pod was let into namespace %s: its pod-security level is not enforced", namespace)
		case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "PodSecurity"):
			return fmt.Sprintf("a privileged pod was refused in %s", namespace), nil
		}
		return "", fmt.Errorf("try a privileged pod: %w", err)
	})
}

// dns: from a pod, the API's name and a headless Service's resolve to what they should,
// and a name that does not exist is denied.
func dns(ctx context.Context, env Env) check.Result {
	return inSandbox(ctx, env, "dns", func(s *sandbox) (string, error) {
		headless, err := s.service(ctx, "client", true)
		if err != nil {
			return "", err
		}
		name, err := s.pod(ctx, pod{part: "client", command: []string{"serve"}})
		if err != nil {
			return "", err
		}
		p, err := s.started(ctx, name)
		if err != nil {
			return "", err
		}
		api := "kubernetes.default.svc." + env.ClusterDomain
		own := fmt.Sprintf("%s.%s.svc.%s", headless, namespace, env.ClusterDomain)
		for _, q := range []struct{ host, want string }{
			{api, env.Spec.APIServiceIP().String()},
			{own, text(p, "status", "podIP")},
		} {
			err := until(ctx, settle, func() error {
				got, err := s.exec(ctx, name, "lookup", q.host)
				if err != nil {
					return fmt.Errorf("look up %s: %w", q.host, err)
				}
				if got != q.want {
					return fmt.Errorf("%s is %q, want %s", q.host, got, q.want)
				}
				return nil
			})
			if err != nil {
				return "", err
			}
		}
		absent := "absent-" + own
		got, err := s.exec(ctx, name, "lookup", absent)
		if err == nil {
			return "", fmt.Errorf("%s does not exist and is %q: something else answers for the cluster's names", absent, got)
		}
		if !strings.Contains(err.Error(), "no such host") {
			return "", fmt.Errorf("look up %s: want \"no such host\": %w", absent, err)
		}
		return fmt.Sprintf("a pod on %s resolves the API's name and its own", text(p, "spec", "nodeName")), nil
	})
}

// storage: what a pod writes to a claim of the default class is there for the next pod.
func storage(ctx context.Context, env Env) check.Result {
	return inSandbox(ctx, env, "storage", func(s *sandbox) (string, error) {
		claim := s.name("claim")
		err := s.create(ctx, map[string]any{
			"apiVersion": "v1", "kind": "PersistentVolumeClaim",
			"metadata": map[string]any{"name": claim},
			"spec": map[string]any{
				"accessModes": []any{"ReadWriteOnce"},
				"resources":   map[string]any{"requests": map[string]any{"storage": "16Mi"}},
			},
		})
		if err != nil {
			return "", err
		}
		secret := token(16)
		writer, err := s.pod(ctx, pod{part: "writer", command: []string{"write", "/data/token", secret}, claim: claim, once: true})
		if err != nil {
			return "", err
		}
		if _, err := s.started(ctx, writer); err != nil {
			return "", fmt.Errorf("write to the claim: %w%s", err, s.claimTrouble(ctx, claim))
		}
		// It has ended, so the next pod need not wait until its object is gone.
		if err := env.Client.Delete(ctx, "v1", "Pod", namespace, writer, -1); err != nil {
			return "", fmt.Errorf("delete the first pod: %w", err)
		}
		reader, err := s.pod(ctx, pod{part: "reader", command: []string{"serve"}, claim: claim})
		if err != nil {
			return "", err
		}
		p, err := s.started(ctx, reader)
		if err != nil {
			return "", fmt.Errorf("start a second pod on the claim: %w", err)
		}
		got, err := s.exec(ctx, reader, "read", "/data/token")
		if err != nil {
			return "", err
		}
		if got != secret {
			return "", fmt.Errorf("the second pod read %q, the first one wrote %q", got, secret)
		}
		class := ""
		if o, err := env.Client.Get(ctx, "v1", "PersistentVolumeClaim", namespace, claim); err == nil {
			class = text(o, "spec", "storageClassName")
		}
		return fmt.Sprintf("a volume of class %s on %s kept its data from one pod to the next", class, text(p, "spec", "nodeName")), nil
	})
}

// claimTrouble adds why a claim is not bound, when it is not.
func (s *sandbox) claimTrouble(ctx context.Context, claim string) string {
	o, err := s.env.Client.Get(context.WithoutCancel(ctx), "v1", "PersistentVolumeClaim", namespace, claim)
	if err != nil || text(o, "status", "phase") == "Bound" {
		return ""
	}
	if text(o, "spec", "storageClassName") == "" {
		return "; the claim got no storage class: there is no default one"
	}
	return fmt.Sprintf("; claim %s of class %s is %s", claim, text(o, "spec", "storageClassName"), text(o, "status", "phase"))
}

// usageList is the part of metrics.k8s.io/v1beta1 lists that is looked at.
type usageList struct {
	Items []struct {
		Metadata   struct{ Name, Namespace string }
		Usage      usage
		Containers []struct{ Usage usage }
	}
}

type usage struct{ CPU, Memory string }

// metrics: every node, and pods, report a usage that is not zero. After a start it takes
// two rounds of samples until there is one.
func metrics(ctx context.Context, env Env) check.Result {
	nodeUsage, err := readUsage(ctx, env, "/apis/metrics.k8s.io/v1beta1/nodes")
	if err != nil {
		return check.Wait("metrics of nodes: %v", err)
	}
	measured := map[string]usage{}
	for _, n := range nodeUsage.Items {
		measured[n.Metadata.Name] = n.Usage
	}
	for _, n := range env.topology() {
		u, ok := measured[n.Name]
		if !ok {
			return check.Wait("no metrics of node %s yet", n.Name)
		}
		if !positive(u.CPU) || !positive(u.Memory) {
			return check.Wait("node %s reports cpu %q and memory %q", n.Name, u.CPU, u.Memory)
		}
	}
	podUsage, err := readUsage(ctx, env, "/apis/metrics.k8s.io/v1beta1/namespaces/kube-system/pods")
	if err != nil {
		return check.Wait("metrics of pods: %v", err)
	}
	pods, busy := 0, 0
	for _, p := range podUsage.Items {
		for _, c := range p.Containers {
			if !positive(c.Usage.Memory) {
				return check.Wait("pod %s/%s reports memory %q", p.Metadata.Namespace, p.Metadata.Name, c.Usage.Memory)
			}
			if positive(c.Usage.CPU) {
				busy++
			}
		}
		pods++
	}
	// An idle pod may round to zero; not all of them do.
	if busy == 0 {
		return check.Wait("none of %d pods in kube-system reports cpu usage yet", pods)
	}
	return check.OK("%d nodes and %d pods of kube-system report their usage", len(measured), pods)
}

func readUsage(ctx context.Context, env Env, path string) (usageList, error) {
	var l usageList
	raw, err := env.Client.RawGet(ctx, path)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return l, fmt.Errorf("%s: %w", path, err)
	}
	if len(l.Items) == 0 {
		return l, errors.New("none yet")
	}
	return l, nil
}

func positive(quantity string) bool {
	q, err := resource.ParseQuantity(quantity)
	return err == nil && q.Sign() > 0
}

// zones of the nodes: name → zone.
func zones(ctx context.Context, env Env) (map[string]string, error) {
	found, err := nodesByName(ctx, env)
	if err != nil {
		return nil, err
	}
	zones := map[string]string{}
	for name, n := range found {
		zones[name] = n.GetLabels()[zoneLabel]
	}
	return zones, nil
}

// byName sorts objects.
func byName(objects []unstructured.Unstructured) {
	slices.SortFunc(objects, func(a, b unstructured.Unstructured) int { return strings.Compare(a.GetName(), b.GetName()) })
}
