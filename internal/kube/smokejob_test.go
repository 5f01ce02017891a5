package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/mirror"
)

const jobYAML = `apiVersion: batch/v1
kind: Job
metadata:
  name: check
spec:
  template:
    spec:
      automountServiceAccountToken: false
      securityContext:
        runAsNonRoot: true
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: check
          image: registry.orrery.internal/helper
          args: ["http://hello.space.svc.${clusterDomain}."]
          resources:
            limits: {cpu: 100m, memory: 32Mi}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
`

func jobInput(t *testing.T, files map[string]string) RenderInput {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return RenderInput{
		Component: catalog.Component{
			Name: "hello", Namespace: "space", Dir: filepath.Join(root, "base/hello"),
			Images:   []catalog.Image{{Name: "helper", Version: "v1"}},
			SmokeJob: &catalog.SmokeJob{Kustomize: "smoke"},
		},
		Overlay: catalog.Overlay{Name: "local", Dir: filepath.Join(root, "overlays/local")},
		Facts:   testFacts,
		Images:  map[string]string{"helper": mirror.Host + "/helper:v1@sha256:" + strings.Repeat("ab", 32)},
	}
}

func TestRenderSmokeJob(t *testing.T) {
	const kustomization = "base/hello/smoke/kustomization.yaml"
	for _, tt := range []struct {
		name     string
		old, new string // of the Job
		more     map[string]string
		says     []string // of the error; none: it renders
	}{
		{name: "well"},
		{"an overlay's arguments", "", "", map[string]string{
			"overlays/local/hello/smoke/kustomization.yaml": "resources: [../../../../base/hello/smoke]\nnamePrefix: over-\n",
		}, nil},
		{"two objects", "", "", map[string]string{kustomization: "resources: [job.yaml]\nconfigMapGenerator: [{name: x, literals: [a=b]}]\n"},
			[]string{"must be one Job", "ConfigMap x-"}},
		{"no Job", "kind: Job", "kind: CronJob", nil, []string{"CronJob check; must be one Job"}},
		{"another namespace", "name: check\nspec", "name: check\n  namespace: kube-system\nspec", nil,
			[]string{"must be in the component's namespace, space"}},
		{"unknown fact", "clusterDomain", "clusterdomain", nil, []string{"unknown fact ${clusterdomain}"}},
		{"another's image", "internal/helper", "internal/probe", nil, []string{"image probe is not one of this component"}},
		{"image by tag", "registry.orrery.internal/helper", "docker.io/x/y:1", nil, []string{"has no digest"}},
		{"host's network", "automount", "hostNetwork: true\n      automount", nil, []string{"hostNetwork is true"}},
		{"root", "runAsNonRoot: true", "runAsNonRoot: true\n        runAsUser: 0", nil, []string{"runAsUser not 0"}},
		{"container as root", "allowPriv", "runAsNonRoot: false\n            allowPriv", nil, []string{"runAsNonRoot must be true"}},
		{"no seccomp", "{type: RuntimeDefault}", "{type: Unconfined}", nil, []string{"seccompProfile.type"}},
		{"capability", "{drop: [ALL]}", "{drop: [ALL], add: [SYS_ADMIN]}", nil, []string{"must drop ALL and add none"}},
		{"privileged", "Escalation: false", "Escalation: true", nil, []string{"allowPrivilegeEscalation must be false"}},
		{"host path", "containers:", "volumes: [{name: x, hostPath: {path: /}}]\n      containers:", nil,
			[]string{"volumes[0].hostPath: must be one of configMap"}},
		{"host port", "resources:", "ports: [{containerPort: 80, hostPort: 80}]\n          resources:", nil, []string{"ports[0].hostPort"}},
		{"sysctl", "seccompProfile:", "sysctls: [{name: a, value: b}]\n        seccompProfile:", nil, []string{"sysctls"}},
		{"token", "automountServiceAccountToken: false", "enableServiceLinks: false", nil,
			[]string{"automountServiceAccountToken must be false"}},
		{"account of its own", "automountServiceAccountToken: false", "serviceAccountName: check", nil, nil},
		{"two containers", "containers:", "initContainers: [{name: x}]\n      containers:", nil, []string{"must have one container"}},
		{"no limits", "limits: {cpu: 100m, memory: 32Mi}", "limits: {cpu: 100m}", nil, []string{"must bound cpu and memory"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.old != "" && !strings.Contains(jobYAML, tt.old) {
				t.Fatalf("no %q in the Job", tt.old)
			}
			files := map[string]string{kustomization: "resources: [job.yaml]\n", "base/hello/smoke/job.yaml": strings.Replace(jobYAML, tt.old,
				tt.new, 1)}
			for name, text := range tt.more {
				files[name] = text
			}
			in := jobInput(t, files)
			job, err := RenderSmokeJob(in)
			if tt.says == nil {
				if err != nil {
					t.Fatal(err)
				}
				containers, _, _ := unstructured.NestedSlice(job.Object, "spec", "template", "spec", "containers")
				c := containers[0].(map[string]any)
				args := c["args"].([]any)
				if c["image"] != in.Images["helper"] || args[0] != "http://hello.space.svc.cluster.local." || job.GetNamespace() != "space" {
					t.Errorf("rendered %v in %s", c, job.GetNamespace())
				}
				if tt.more != nil && job.GetName() != "over-check" {
					t.Errorf("the overlay was not laid over it: %s", job.GetName())
				}
				return
			}
			for _, says := range tt.says {
				if err == nil || !strings.Contains(err.Error(), says) {
					t.Errorf("error %v does not say %q", err, says)
				}
			}
		})
	}
}

// TestShippedSmokeJobs: what the catalogue brings renders in every overlay.
func TestShippedSmokeJobs(t *testing.T) {
	cat := shipped(t)
	for _, overlay := range cat.Overlays {
		components, err := cat.Select(overlay.Name, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range components {
			if c.SmokeJob == nil {
				continue
			}
			if _, err := RenderSmokeJob(RenderInput{Component: c, Overlay: overlay, Facts: testFacts}); err != nil {
				t.Errorf("%s: %v", overlay.Name, err)
			}
		}
	}
}
