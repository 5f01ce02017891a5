package gitops

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestArtifact(t *testing.T) {
	text := []byte("---\nkind: ConfigMap\n")
	var digests []string
	for range 2 {
		a, err := Artifact(text)
		if err != nil {
			t.Fatal(err)
		}
		d, err := a.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d.String())
		back, err := Manifest(a)
		if err != nil || string(back) != string(text) {
			t.Errorf("read back %q, %v", back, err)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("the same manifest has digests %v", digests)
	}
	other, err := Artifact([]byte("---\nkind: Secret\n"))
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := other.Digest(); d.String() == digests[0] {
		t.Error("another manifest has the same digest")
	}
}

func TestWaves(t *testing.T) {
	parts := []Part{
		{Name: "pulse", Needs: []string{"nats", "prometheus"}}, {Name: "nats", Needs: []string{"dns", "argocd"}},
		{Name: "dns", Needs: []string{"namespaces"}}, {Name: "prometheus", Needs: []string{"namespaces"}}, {Name: "namespaces"},
	}
	got := fmt.Sprint(Waves(parts))
	if want := "map[dns:1 namespaces:0 nats:2 prometheus:1 pulse:3]"; got != want {
		t.Errorf("waves %s, want %s", got, want)
	}
	apps := Applications(OCI("10.0.0.1:5000"), parts)
	if w := apps[0].GetAnnotations()["argocd.argoproj.io/sync-wave"]; w != "3" {
		t.Errorf("pulse is of wave %q", w)
	}
	for _, a := range apps {
		if len(a.GetFinalizers()) > 0 {
			t.Errorf("%s has finalizers: who deletes it by hand deletes what it applied", a.GetName())
		}
	}
}

func TestRefuseSecrets(t *testing.T) {
	value := []byte("correct-horse-battery")
	key := "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n"
	seed := "SU" + strings.Repeat("A", 56)
	values := map[string][]byte{"data/db password": value, "data/db user": []byte("admin")}
	for _, c := range []struct {
		name, manifest string
		refused        bool
	}{
		{"nothing", "password: none\nuser: admin\n", false},
		{"a value", "args: [--password=" + string(value) + "]\n", true},
		{"a value as a Secret has it", "password: " + base64.StdEncoding.EncodeToString(value) + "\n", true},
		{"a key", key, true},
		{"a key as a Secret has it", "tls.key: " + base64.StdEncoding.EncodeToString([]byte(key)) + "\n", true},
		{"a seed of NATS", "seed: " + seed + "\n", true},
		{"a digest", "image: x@sha256:" + strings.Repeat("ab", 32) + "\n", false},
		{"a certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", false},
	} {
		err := RefuseSecrets("c", []byte(c.manifest), values)
		if errors.Is(err, ErrSecret) != c.refused {
			t.Errorf("%s: %v; refused should be %v", c.name, err, c.refused)
		}
		if err != nil && (strings.Contains(err.Error(), string(value)) || strings.Contains(err.Error(), "MHcC")) {
			t.Errorf("%s: the error says the secret: %v", c.name, err)
		}
	}
}

func TestRights(t *testing.T) {
	objects := []Object{
		{"", "Namespace", "namespaces", "", "data", false},
		{"", "Namespace", "namespaces", "", "former", true},
		{"", "Secret", "secrets", "data", "config", false},
		{"apps", "Deployment", "deployments", "data", "db", false},
		{"apps", "Deployment", "deployments", "data", "ui", false},
		{"rbac.authorization.k8s.io", "ClusterRole", "clusterroles", "", "db", false},
		{"rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings", "", "db", false},
	}
	rights := Rights(objects, map[string][]string{"ClusterRole": {"db", "system:auth-delegator"}})
	text, pruned := "", false
	for _, o := range rights {
		y, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		text += "---\n" + string(y)
		if o.GetKind() == "ClusterRole" && o.GetName() == reads {
			for _, r := range o.Object["rules"].([]any) {
				if slices.Contains(r.(map[string]any)["resources"].([]any), any("secrets")) {
					t.Error("it may list the Secrets of the cluster")
				}
			}
			continue
		}
		rules, _ := o.Object["rules"].([]any)
		for _, r := range rules {
			m := r.(map[string]any)
			if names, _ := m["resourceNames"].([]any); len(names) == 0 {
				t.Errorf("%s %s/%s writes without names: %v", o.GetKind(), o.GetNamespace(), o.GetName(), m)
			}
			if slices.Contains(m["resources"].([]any), any("namespaces")) && slices.Contains(m["verbs"].([]any), any("delete")) {
				if fmt.Sprint(m["resourceNames"]) != "[former]" {
					t.Errorf("it may delete namespaces: %v", m)
				}
				pruned = true
			}
		}
	}
	if !pruned {
		t.Error("it may not prune a namespace that left")
	}
	if strings.Contains(text, "'*'") || strings.Contains(text, "cluster-admin") {
		t.Errorf("too much:\n%s", text)
	}
	for _, want := range []string{"resourceNames:\n  - db\n  - ui\n", "- bind", "- escalate", "- system:auth-delegator", "- applications\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	kinds := KindsOf(objects)
	if len(kinds.Cluster) != 3 || len(kinds.Namespaced) != 2 || fmt.Sprint(kinds.Namespaces) != "[data]" {
		t.Errorf("kinds %+v", kinds)
	}
}

func TestHopelessWith(t *testing.T) {
	for _, c := range []struct {
		s    Status
		want bool
	}{
		{Status{Component: "nats", Revision: "r2", Synced: "r2", Hopeless: true}, true},
		{Status{Component: "nats", Revision: "r1", Synced: "r1", Hopeless: true}, false}, // of before the push
		{Status{Component: "nats", Revision: "r2", Synced: "r1", Hopeless: true}, false}, // not there yet
		{Status{Component: "nats", Revision: "r2", Synced: "r2"}, false},
		{Status{Component: Root, Revision: Tag, Synced: "root2", Tried: "root2", Operation: "Failed"}, true},
		{Status{Component: Root, Revision: Tag, Synced: "root2", Tried: "root1", Operation: "Failed"}, false}, // seen, and not tried yet
		{Status{Component: Root, Revision: Tag, Synced: "root1", Tried: "root1", Operation: "Failed"}, false},
	} {
		if got := c.s.HopelessWith("r2", "root2"); got != c.want {
			t.Errorf("%+v: %v, want %v", c.s, got, c.want)
		}
	}
}

func TestStatusOf(t *testing.T) {
	const spec = "metadata: {name: nats}\nspec: {source: {targetRevision: r2}}\n"
	for _, c := range []struct {
		name, status   string
		good, hopeless bool
		reason         string
	}{
		{"new", "", false, false, ""},
		{"good", "sync: {status: Synced, revision: r2}, health: {status: Healthy}, operationState: {phase: Succeeded, syncResult: {revision: r2}}", true, false, ""},
		{"refused", "sync: {status: OutOfSync, revision: r2}, health: {status: Healthy}, operationState: {phase: Failed, message: m, syncResult: {revision: r2, resources: [{kind: Deployment, name: web, status: SyncFailed, message: 'denied: no digest'}]}}", false, true, "Deployment web: denied: no digest"},
		{"was refused", "sync: {status: OutOfSync, revision: r1}, health: {status: Healthy}, operationState: {phase: Failed, syncResult: {revision: r1}}", false, false, ""},
		{"source away", "sync: {status: Unknown}, health: {status: Healthy}, conditions: [{type: ComparisonError, message: 'connection refused'}]", false, false, "connection refused"},
		{"sick", "sync: {status: Synced, revision: r2}, health: {status: Degraded}, resources: [{kind: Pod, name: p, version: v1, health: {status: Degraded, message: 'crashes'}}]", false, false, "Pod p: crashes"},
	} {
		app := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(spec+"status: {"+c.status+"}\n"), &app.Object); err != nil {
			t.Fatal(err)
		}
		s := StatusOf(app)
		if s.Good() != c.good || s.Hopeless != c.hopeless || s.Reason != c.reason {
			t.Errorf("%s: good %v, hopeless %v, reason %q; want %v, %v, %q", c.name, s.Good(), s.Hopeless, s.Reason, c.good, c.hopeless, c.reason)
		}
	}
}

// FuzzManifest: an artifact that somebody else pushed is refused, or is one manifest.
func FuzzManifest(f *testing.F) {
	good, err := Artifact([]byte("kind: ConfigMap\n"))
	if err != nil {
		f.Fatal(err)
	}
	layers, err := good.Layers()
	if err != nil {
		f.Fatal(err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		f.Fatal(err)
	}
	layer, err := io.ReadAll(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(layer)
	f.Add(layer[:len(layer)/2])
	f.Fuzz(func(t *testing.T, layer []byte) {
		image, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer, types.OCILayer))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := Manifest(image); err == nil && len(text) > maxManifest {
			t.Errorf("%d bytes", len(text))
		}
	})
}

// A Secret that one source has written and then the other says all that the first did.
func TestSecretOfSource(t *testing.T) {
	keys := func(s Source) string {
		return fmt.Sprint(slices.Sorted(maps.Keys(s.Secret().Object["stringData"].(map[string]any))))
	}
	if a, b := keys(OCI("10.0.0.1:5000")), keys(Git()); a != b {
		t.Errorf("the mirror has %s, the git server %s", a, b)
	}
	for _, s := range []Source{OCI("10.0.0.1:5000"), Git()} {
		data := map[string][]byte{}
		for k, v := range s.Secret().Object["stringData"].(map[string]any) {
			data[k] = []byte(v.(string))
		}
		if Of(data) != s {
			t.Errorf("%v is read as %v", s, Of(data))
		}
	}
}
