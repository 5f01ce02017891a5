package kube

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orrery-dev/orrery/internal/authority"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/mirror"
)

// Where somebody compiled ScyllaDB's operator, at the commit that its component names: the program, and the
// tree that it was compiled from, which has the pinned files. Nothing of it is in this repository.
const (
	scyllaOperator = "ORRERY_TEST_SCYLLA_OPERATOR"
	scyllaSource   = "ORRERY_TEST_SCYLLA_SOURCE"
)

// TestScyllaOperator has the real operator, with the rights that its component gives it, and its webhook work on
// our ScyllaCluster. StatefulSets, Jobs and admission are Kubernetes' own; of the nodes there is what
// schedules a pod by its zone and calls it ready, so that the operator comes to the next rack.
func TestScyllaOperator(t *testing.T) {
	program, source := os.Getenv(scyllaOperator), os.Getenv(scyllaSource)
	if program == "" || source == "" {
		t.Skipf("needs ScyllaDB's operator, which is in no module: set %s and %s", scyllaOperator, scyllaSource)
	}
	c := connect(t)
	withControllers(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	withWorkloads(t)

	cat := shipped(t)
	overlay := cat.Overlays["local"]
	images, facts := map[string]string{}, testFacts
	for _, name := range []string{"scylla-operator", "scylladb"} {
		for _, image := range cat.Components[name].Images {
			_, digest, _ := strings.Cut(image.Registry, "@")
			images[image.Name] = mirror.Host + "/" + image.Name + ":" + image.Version + "@" + digest
			facts.AllowedImages = append(facts.AllowedImages, images[image.Name])
		}
	}
	names := []string{"namespaces", "image-policy", "scylla-operator", "scylladb"}
	apply := func(name string) []*unstructured.Unstructured {
		t.Helper()
		component := cat.Components[name]
		in := RenderInput{Component: component, Overlay: overlay, Facts: facts, Files: sourceFiles(t, source, component)}
		if len(component.Files) > 0 || name == "scylladb" {
			in.Images = images
		}
		objs, err := Render(in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.EnsureSecrets(ctx, component); err != nil {
			t.Fatal(err)
		}
		for _, o := range objs {
			if o.GetKind() == "ValidatingWebhookConfiguration" {
				runWebhook(t, program, o)
			}
		}
		if _, err := c.Apply(ctx, name, objs); err != nil {
			t.Fatal(err)
		}
		return objs
	}
	var args []string // of the operator
	for _, o := range slices.Concat(apply("namespaces"), apply("image-policy"), apply("scylla-operator")) {
		if o.GetKind() == "Deployment" && o.GetName() == "scylla-operator" {
			containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
			args, _, _ = unstructured.NestedStringSlice(containers[0].(map[string]any), "args")
		}
	}
	for _, zone := range []string{"a", "b", "c"} {
		node := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{
			"name": "node-" + zone, "labels": map[string]any{"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": "node-" + zone}}}}
		if err := c.Create(ctx, node); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Delete(context.Background(), "v1", "Node", "", node.GetName(), 0); err != nil {
				t.Error(err)
			}
		})
	}
	log := runProgram(t, program, append(args, "--kubeconfig="+as(t, "platform", "scylla-operator"), "--namespace=platform", "--image="+images["scylla-operator"])...)
	playing, stop := context.WithCancel(context.Background())
	var players sync.WaitGroup
	var leaving atomic.Bool
	players.Go(func() { playNodes(playing, t, c, &leaving) })
	t.Cleanup(func() { stop(); players.Wait() })
	// While the operator and the nodes are there to take away what is theirs.
	t.Cleanup(func() {
		leaving.Store(true)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		for _, name := range slices.Backward(names) {
			if err := c.Remove(ctx, name); err != nil {
				t.Error(err)
			}
		}
	})

	start := time.Now()
	apply("scylladb")
	t.Log("our ScyllaCluster passes the operator's webhook")
	eventually(t, func() error { // that what judges a ScyllaCluster is in force
		bad, err := c.Get(ctx, "scylla.scylladb.com/v1", "ScyllaCluster", "scylladb", "scylladb")
		if err != nil {
			return err
		}
		racks, _, _ := unstructured.NestedSlice(bad.Object, "spec", "datacenter", "racks")
		racks[1].(map[string]any)["name"] = "a"
		_ = unstructured.SetNestedSlice(bad.Object, racks, "spec", "datacenter", "racks")
		in, err := c.resource(ctx, "scylla.scylladb.com/v1", "ScyllaCluster", "scylladb")
		if err != nil {
			return err
		}
		if _, err = in.Update(ctx, bad, metav1.UpdateOptions{DryRun: []string{"All"}}); err == nil || !strings.Contains(err.Error(), "Duplicate value") {
			return fmt.Errorf("two racks of one name: %v", err)
		}
		return nil
	})
	defer func() {
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("the operator said, at the end:\n%s", text[max(0, len(text)-8<<10):])
		}
	}()
	waitFor(t, ctx, func() error {
		cluster, err := c.Get(ctx, "scylla.scylladb.com/v1", "ScyllaCluster", "scylladb", "scylladb")
		if err != nil {
			return err
		}
		status, _, _ := unstructured.NestedMap(cluster.Object, "status")
		conditions := map[string]string{}
		list, _ := status["conditions"].([]any)
		for _, x := range list {
			x := x.(map[string]any)
			conditions[x["type"].(string)] = x["status"].(string)
		}
		if conditions["Available"] != "True" || conditions["Progressing"] != "False" || conditions["Degraded"] != "False" {
			return fmt.Errorf("%v", status)
		}
		return nil
	})
	t.Logf("available after %s", time.Since(start).Round(time.Second))
	for _, want := range []Ref{
		{"apps/v1", "StatefulSet", "scylladb", "scylladb-dc1-a"}, {"apps/v1", "StatefulSet", "scylladb", "scylladb-dc1-b"},
		{"apps/v1", "StatefulSet", "scylladb", "scylladb-dc1-c"}, {"v1", "Service", "scylladb", "scylladb-client"},
		{"v1", "Service", "scylladb", "scylladb-dc1-a-0"}, {"v1", "Secret", "scylladb", "scylladb-local-user-admin"},
		{"v1", "ConfigMap", "scylladb", "scylladb-local-serving-ca"}, {"policy/v1", "PodDisruptionBudget", "scylladb", "scylladb"},
	} {
		if _, err := c.Get(ctx, want.APIVersion, want.Kind, want.Namespace, want.Name); err != nil {
			t.Errorf("the operator made no %s: %v", want, err)
		}
	}
	pods, err := c.List(ctx, "v1", "Pod", "scylladb", "scylla/cluster=scylladb,scylla/rack")
	if err != nil {
		t.Fatal(err)
	}
	var placed []string
	for _, p := range pods {
		node, _, _ := unstructured.NestedString(p.Object, "spec", "nodeName")
		placed = append(placed, p.GetLabels()["scylla/rack"]+" on "+node)
	}
	slices.Sort(placed)
	if want := []string{"a on node-a", "b on node-b", "c on node-c"}; !slices.Equal(placed, want) {
		t.Errorf("racks: %v, want %v", placed, want)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range slices.Compact(regexp.MustCompile(`(?m)^.* (?:is forbidden|cannot \w+ resource|denied).*$`).FindAllString(string(text), 20)) {
		t.Errorf("the operator lacks a right: %s", line)
	}
}

// waitFor retries f until the context ends, and then says what it last said by itself.
func waitFor(t *testing.T, ctx context.Context, f func() error) {
	t.Helper()
	var last error
	for {
		err := f()
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatal(cmp.Or(last, err))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// sourceFiles are the pinned files of a component, out of a tree of its project.
func sourceFiles(t *testing.T, source string, component catalog.Component) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, f := range component.Files {
		_, path, _ := strings.Cut(f.URL, "/"+f.Commit+"/")
		data, err := os.ReadFile(filepath.Join(source, path))
		if err != nil {
			t.Fatal(err)
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(data)); sum != f.SHA256 {
			t.Fatalf("%s has sha256 %s, pinned is %s: the tree is of another commit than %s", path, sum, f.SHA256, f.Commit)
		}
		files[f.Name] = data
	}
	return files
}

// as writes a kubeconfig for what a service account may do.
func as(t *testing.T, namespace, account string) string {
	t.Helper()
	data, err := os.ReadFile(cluster.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := strings.Replace(string(data), "token: secret", fmt.Sprintf("token: secret, as: %q, as-groups: [%q, %q, %q]",
		"system:serviceaccount:"+namespace+":"+account, "system:serviceaccounts", "system:serviceaccounts:"+namespace, "system:authenticated"), 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// withWorkloads adds the controllers that make pods.
func withWorkloads(t *testing.T) {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	runProgram(t, os.Getenv(multicall), "kube-controller-manager", "--kubeconfig="+cluster.kubeconfig, "--leader-elect=false",
		"--bind-address=127.0.0.1", "--secure-port="+port, "--authentication-skip-lookup",
		"--controllers=statefulset-controller,job-controller,disruption-controller,serviceaccount-controller,persistentvolumeclaim-protection-controller",
		"--kube-api-qps=200", "--kube-api-burst=400")
}

// runProgram runs a program until the test ends, and names the file that it writes to.
func runProgram(t *testing.T, program string, args ...string) (log string) {
	t.Helper()
	own := &testCluster{dir: t.TempDir()}
	own.ctx, own.cancel = context.WithCancel(context.Background())
	t.Cleanup(own.stop)
	if err := own.run(program, args...); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(own.dir, args[0]+".log")
}

// runWebhook runs the operator's webhook on the loopback, and has a configuration name it there: the API
// server of the tests reaches no Service.
func runWebhook(t *testing.T, program string, configuration *unstructured.Unstructured) {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := authority.New("test", []string{"localhost"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(authority.Request{
		CommonName: "webhook", IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, Lifetime: time.Hour, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, data := range map[string][]byte{cert: pair.Certificate, key: pair.Key} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	runProgram(t, program, "run-webhook-server", "--tls-cert-file="+cert, "--tls-private-key-file="+key, "--port="+port)
	webhooks, _, _ := unstructured.NestedSlice(configuration.Object, "webhooks")
	for _, w := range webhooks {
		w.(map[string]any)["clientConfig"] = map[string]any{
			"url": "https://127.0.0.1:" + port + "/validate", "caBundle": base64.StdEncoding.EncodeToString(ca.Certificate),
		}
	}
	_ = unstructured.SetNestedSlice(configuration.Object, webhooks, "webhooks")
}

// playNodes is what nodes and the pods on them do in namespace scylladb: a pod is scheduled and gets an address, one of a
// rack becomes ready and says who it is, with the rights of its account, and one of a Job ends.
func playNodes(ctx context.Context, t *testing.T, c *Client, leaving *atomic.Bool) {
	member, err := Connect(as(t, "scylladb", "scylladb-member"))
	if err != nil {
		t.Error(err)
		return
	}
	defer member.Close()
	for ctx.Err() == nil {
		pods, err := c.List(ctx, "v1", "Pod", "scylladb", "")
		members := 0
		for _, pod := range pods {
			if !ofJob(&pod) {
				members++
			}
		}
		for i, pod := range pods {
			err = cmp.Or(err, playNode(ctx, c, member, &pod, fmt.Sprintf("10.244.0.%d", 10+i), members))
		}
		// The rights of the members go before their pods do.
		passing := apierrors.IsConflict(err) || apierrors.IsNotFound(err) || leaving.Load() && apierrors.IsForbidden(err)
		if err != nil && ctx.Err() == nil && !passing {
			t.Error(err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func ofJob(pod *unstructured.Unstructured) bool {
	return slices.ContainsFunc(pod.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return o.Kind == "Job" })
}

// zoneOf is the zone that a pod's affinity asks for; a where it asks for none.
func zoneOf(pod *unstructured.Unstructured) string {
	data, _ := pod.MarshalJSON()
	if m := regexp.MustCompile(`"key":"topology.kubernetes.io/zone","operator":"In","values":\["(\w)"\]`).FindSubmatch(data); m != nil {
		return string(m[1])
	}
	return "a"
}

func playNode(ctx context.Context, c, member *Client, pod *unstructured.Unstructured, address string, members int) error {
	if pod.GetDeletionTimestamp() != nil {
		return c.Delete(ctx, "v1", "Pod", pod.GetNamespace(), pod.GetName(), 0)
	}
	in, err := c.resource(ctx, "v1", "Pod", pod.GetNamespace())
	if err != nil {
		return err
	}
	if node, _, _ := unstructured.NestedString(pod.Object, "spec", "nodeName"); node == "" {
		binding := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Binding", "metadata": map[string]any{"name": pod.GetName(), "namespace": pod.GetNamespace()},
			"target": map[string]any{"apiVersion": "v1", "kind": "Node", "name": "node-" + zoneOf(pod)},
		}}
		_, err := in.Create(ctx, binding, metav1.CreateOptions{}, "binding")
		return err
	}
	ended := ofJob(pod)
	if !ended {
		// What the program in the pod writes once ScyllaDB runs. The ring changes with each that joins.
		services, err := member.resource(ctx, "v1", "Service", pod.GetNamespace())
		if err != nil {
			return err
		}
		patch := fmt.Sprintf(`{"metadata":{"annotations":{"internal.scylla-operator.scylladb.com/host-id":%q,`+
			`"internal.scylla-operator.scylladb.com/current-token-ring-hash":"ring-%d"}}}`, pod.GetUID(), members)
		if _, err := services.Patch(ctx, pod.GetName(), types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("as the account of a member: %w", err)
		}
	}
	if phase, _, _ := unstructured.NestedString(pod.Object, "status", "phase"); phase != "Pending" {
		return nil
	}
	now := time.Now().UTC().Format(time.RFC3339)
	var statuses []any
	containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", "containers")
	for _, x := range containers {
		x := x.(map[string]any)
		status := map[string]any{"name": x["name"], "image": x["image"], "imageID": x["image"], "ready": !ended, "started": !ended, "restartCount": int64(0),
			"containerID": "played://" + pod.GetName(), "state": map[string]any{"running": map[string]any{"startedAt": now}}}
		if ended {
			status["state"] = map[string]any{"terminated": map[string]any{"exitCode": int64(0), "startedAt": now, "finishedAt": now, "reason": "Completed"}}
		}
		statuses = append(statuses, status)
	}
	phase, ready := "Running", "True"
	if ended {
		phase, ready = "Succeeded", "False"
	}
	pod.Object["status"] = map[string]any{
		"phase": phase, "podIP": address, "podIPs": []any{map[string]any{"ip": address}}, "startTime": now, "containerStatuses": statuses,
		"conditions": []any{map[string]any{"type": "Ready", "status": ready, "lastTransitionTime": now}},
	}
	_, err = in.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}
