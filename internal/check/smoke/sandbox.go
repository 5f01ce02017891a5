package smoke

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
)

const (
	// label of everything that a check makes; its value is the check's name.
	label = "orrery.dev/smoke"
	// runLabel tells the objects of one run from those of another.
	runLabel = "orrery.dev/smoke-run"
	// namespace that checks make their objects in: where people's own services go.
	namespace = "apps"
	// hostNamespace is where pods may be in the network of their node.
	hostNamespace = "kube-system"
	// cleanupTime bounds the cleanup, which runs also after a cancel.
	cleanupTime = 15 * time.Second
	// settle bounds the wait for what lags behind after a start: endpoints, names, members, a
	// server that reads its log once more. Seconds, or a minute on a machine as below.
	settle = 90 * time.Second
	// startTime bounds the start of a pod: a second, or two minutes on a machine with fifty
	// processes waiting for each of its cores.
	startTime = 2 * time.Minute
	// abandoned is the age at which an object of another run has no owner any more.
	abandoned = 5 * time.Minute
)

// sandbox makes the objects of one run of a check and takes them all away again.
type sandbox struct {
	env   Env
	check string
	id    string

	mu   sync.Mutex
	made []*unstructured.Unstructured
}

// inSandbox calls f with a new sandbox and cleans up after it, whatever f returns and
// also when ctx has ended. A cleanup that fails makes the check fail.
func inSandbox(ctx context.Context, env Env, name string, f func(*sandbox) (string, error)) check.Result {
	s := &sandbox{env: env, check: name, id: token(4)}
	message, err := f(s)
	if cleanup := s.cleanup(ctx); cleanup != nil {
		err = errors.Join(err, fmt.Errorf("clean up after the check: %w", cleanup))
	}
	if err != nil {
		return check.Fail(err)
	}
	return check.OK("%s", message)
}

// token is a random text of n bytes in hex.
func token(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails, see its documentation
	return hex.EncodeToString(b)
}

// name of an object of this run.
func (s *sandbox) name(part string) string { return "smoke-" + s.check + "-" + s.id + "-" + part }

// create makes obj, in the checks' namespace unless it names another. It is noted before it
// is made, so that a create whose answer got lost is cleaned up too.
func (s *sandbox) create(ctx context.Context, obj map[string]any) error {
	u := &unstructured.Unstructured{Object: obj}
	if u.GetNamespace() == "" {
		u.SetNamespace(namespace)
	}
	labels := u.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[label], labels[runLabel] = s.check, s.id
	u.SetLabels(labels)
	s.sweep(ctx, u.GetAPIVersion(), u.GetKind(), u.GetNamespace())
	s.mu.Lock()
	s.made = append(s.made, u)
	s.mu.Unlock()
	return until(ctx, startTime, func() error {
		err := s.env.Client.Create(ctx, u.DeepCopy())
		if err == nil || apierrors.IsAlreadyExists(err) {
			return nil
		}
		// A new namespace is given its default ServiceAccount a moment later.
		if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "serviceaccount") {
			return err
		}
		return check.Final(err)
	})
}

// sweep removes what runs that were killed have left behind.
func (s *sandbox) sweep(ctx context.Context, apiVersion, kind, namespace string) {
	old, err := s.env.Client.List(ctx, apiVersion, kind, namespace, label+"="+s.check)
	if err != nil {
		return // the check itself will say what is wrong
	}
	for _, o := range old {
		if time.Since(o.GetCreationTimestamp().Time) > abandoned {
			_ = s.env.Client.Delete(ctx, apiVersion, kind, namespace, o.GetName(), -1)
		}
	}
}

func (s *sandbox) cleanup(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := make([]error, len(s.made))
	var deleting sync.WaitGroup
	for i, o := range s.made {
		deleting.Go(func() {
			if err := s.env.Client.Delete(ctx, o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName(), -1); err != nil && !apierrors.IsNotFound(err) {
				errs[i] = fmt.Errorf("%s %s/%s: %w", o.GetKind(), o.GetNamespace(), o.GetName(), err)
			}
		})
	}
	deleting.Wait()
	s.made = nil
	return errors.Join(errs...)
}

// pod describes a pod of the image probe that passes the "restricted" level.
type pod struct {
	part    string   // of its name, and the value of its label "part"
	command []string // arguments of probe
	once    bool     // runs to its end, instead of being Ready
	apart   string   // not on the node of the pod with this part
	node    string   // where it runs; "" leaves it to the scheduler
	host    bool     // in the network of its node, and so in a namespace that lets it
	labels  map[string]string
	claim   string // mounted at /data
	ca      bool   // trusts the cluster's own CA
}

// in is the namespace of the pod.
func (p pod) in() string {
	if p.host {
		return hostNamespace
	}
	return namespace
}

const partLabel = "orrery.dev/smoke-part"

func (s *sandbox) pod(ctx context.Context, p pod) (string, error) {
	image := s.env.Images["probe"]
	if image == "" {
		return "", errors.New("the image \"probe\" is not known: it belongs to the component namespaces; run `orrery deploy namespaces`")
	}
	container := map[string]any{
		"name":  "probe",
		"image": image,
		"args":  toAny(p.command),
		"resources": map[string]any{
			"requests": map[string]any{"cpu": "5m", "memory": "8Mi"},
			"limits":   map[string]any{"cpu": "500m", "memory": "64Mi"},
		},
		"securityContext": map[string]any{
			"allowPrivilegeEscalation": false,
			"readOnlyRootFilesystem":   true,
			"capabilities":             map[string]any{"drop": []any{"ALL"}},
		},
	}
	// No readiness probe: it would cost a second, and who asks a pod asks again until it answers.
	restart := "Never"
	if !p.once {
		restart = "Always"
	}
	if !p.once && !p.host {
		container["ports"] = []any{map[string]any{"containerPort": int64(8080)}}
	}
	podSpec := map[string]any{
		"restartPolicy":                 restart,
		"automountServiceAccountToken":  false,
		"enableServiceLinks":            false,
		"terminationGracePeriodSeconds": int64(2),
		"tolerations":                   []any{map[string]any{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"}},
		"securityContext": map[string]any{
			"runAsNonRoot": true, "runAsUser": int64(65532), "runAsGroup": int64(65532), "fsGroup": int64(65532),
			"seccompProfile": map[string]any{"type": "RuntimeDefault"},
		},
		"containers": []any{container},
	}
	if p.claim != "" {
		podSpec["volumes"] = []any{map[string]any{"name": "data", "persistentVolumeClaim": map[string]any{"claimName": p.claim}}}
		container["volumeMounts"] = []any{map[string]any{"name": "data", "mountPath": "/data"}}
	}
	if p.ca {
		podSpec["volumes"] = []any{map[string]any{"name": "ca", "configMap": map[string]any{"name": "kube-root-ca.crt"}}}
		container["volumeMounts"] = []any{map[string]any{"name": "ca", "mountPath": "/ca", "readOnly": true}}
		container["env"] = []any{map[string]any{"name": "SSL_CERT_FILE", "value": "/ca/ca.crt"}} // read by Go's crypto/x509
	}
	if p.apart != "" {
		podSpec["affinity"] = map[string]any{"podAntiAffinity": map[string]any{
			"requiredDuringSchedulingIgnoredDuringExecution": []any{map[string]any{
				"topologyKey":   hostnameLabel,
				"labelSelector": map[string]any{"matchLabels": s.selector(p.apart)},
			}},
		}}
	}
	if p.node != "" {
		podSpec["nodeSelector"] = map[string]any{hostnameLabel: p.node}
	}
	if p.host {
		podSpec["hostNetwork"] = true
	}
	name := s.name(p.part)
	podLabels := map[string]any{partLabel: p.part}
	for k, v := range p.labels {
		podLabels[k] = v
	}
	return name, s.create(ctx, map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": name, "namespace": p.in(), "labels": podLabels},
		"spec":     podSpec,
	})
}

// selector picks the pods of this run with the given part.
func (s *sandbox) selector(part string) map[string]any {
	return map[string]any{runLabel: s.id, partLabel: part}
}

// service puts a Service before the pods with the given part, on port 80; headless ones
// name the pods themselves.
func (s *sandbox) service(ctx context.Context, part string, headless bool) (string, error) {
	name := s.name(part)
	serviceSpec := map[string]any{
		"selector": s.selector(part),
		"ports":    []any{map[string]any{"port": int64(80), "targetPort": int64(8080), "protocol": "TCP"}},
	}
	if headless {
		serviceSpec["clusterIP"] = "None"
	}
	return name, s.create(ctx, map[string]any{
		"apiVersion": "v1", "kind": "Service",
		"metadata": map[string]any{"name": name},
		"spec":     serviceSpec,
	})
}

// started waits until a pod is Ready (or has ended well, when it runs once) and returns it.
func (s *sandbox) started(ctx context.Context, name string) (*unstructured.Unstructured, error) {
	return s.startedIn(ctx, namespace, name)
}

func (s *sandbox) startedIn(ctx context.Context, namespace, name string) (*unstructured.Unstructured, error) {
	var found *unstructured.Unstructured
	err := until(ctx, startTime, func() error {
		p, err := s.env.Client.Get(ctx, "v1", "Pod", namespace, name)
		if err != nil {
			return fmt.Errorf("pod %s: %w", name, err)
		}
		found = p
		phase := text(p, "status", "phase")
		switch {
		case phase == "Succeeded":
			return nil
		case phase == "Failed":
			return check.Final(fmt.Errorf("pod %s on %s failed: %s", name, text(p, "spec", "nodeName"), trouble(p)))
		case ready(p):
			return nil
		}
		return fmt.Errorf("pod %s is %s: %s", name, strings.ToLower(phase), trouble(p))
	})
	return found, err
}

// exec has probe answer a question in a pod and returns what it printed.
func (s *sandbox) exec(ctx context.Context, name string, args ...string) (string, error) {
	return s.execIn(ctx, namespace, name, args...)
}

// execIn asks once more when the connection broke: whatever probe is asked, it may be asked twice.
func (s *sandbox) execIn(ctx context.Context, namespace, name string, args ...string) (string, error) {
	return again(ctx, func() (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
		defer cancel()
		var out, errOut bytes.Buffer
		err := s.env.Client.Exec(ctx, namespace, name, "probe", append([]string{"/probe"}, args...), nil, &out, &errOut)
		if err == nil {
			return strings.TrimSpace(out.String()), nil
		}
		if detail := strings.TrimSpace(errOut.String() + out.String()); detail != "" {
			err = fmt.Errorf("%w: %s", err, detail)
		}
		return "", err
	})
}

// until is [check.Until] for at most limit.
func until(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return check.Until(ctx, check.Pause{First: 25 * time.Millisecond, Most: 500 * time.Millisecond}, f)
}

func toAny(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}
