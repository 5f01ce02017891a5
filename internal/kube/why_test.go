package kube_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

const denial = `pods "web-0" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied request: no digest`

func TestDenied(t *testing.T) {
	for message, want := range map[string]bool{
		denial: true,
		`admission webhook "w.example.com" denied the request: no`:                                         true,
		`pods "web-0" is forbidden: violates PodSecurity "restricted:latest": privileged`:                  true,
		`pods "web-0" is forbidden: exceeded quota: few, requested: pods=1`:                                false,
		`Internal error occurred: failed calling webhook "w.example.com": connection refused`:              false,
		`error looking up service account default/web: serviceaccount "web" not found`:                     false,
		`Operation cannot be fulfilled on deployments.apps "web": the object has been modified`:            false,
		`deployments.apps "web" is forbidden: User "system:serviceaccount:argocd:a" cannot patch resource`: false,
		"": false,
	} {
		if got := kube.Denied(message); got != want {
			t.Errorf("%q: %v, want %v", message, got, want)
		}
	}
}

// TestWhyRefused: a refusal of pods is hopeless while it is about what the object says now.
func TestWhyRefused(t *testing.T) {
	for _, kind := range []string{"Deployment", "StatefulSet", "DaemonSet"} {
		t.Run(kind, func(t *testing.T) {
			server := kubetest.New(t)
			client, err := kube.ConnectWith(server.Kubeconfig())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			apply := func(image string) {
				t.Helper()
				objs, err := kube.Objects([]byte(strings.NewReplacer("KIND", kind, "IMAGE", image).Replace(`
apiVersion: apps/v1
kind: KIND
metadata: {name: web, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: IMAGE}]}}
`)))
				if err == nil {
					err = client.ApplyObjects(t.Context(), objs)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			ref := kube.Ref{APIVersion: "apps/v1", Kind: kind, Namespace: "default", Name: "web"}
			of := kubetest.Ref{Kind: kind, Namespace: "default", Name: "web"}
			apply("bad")
			server.Put(&unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "FailedCreate", "message": denial, "lastTimestamp": "2026-01-01T00:00:00Z",
				"metadata":       map[string]any{"name": "web.1", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
				"involvedObject": map[string]any{"kind": kind, "namespace": "default", "name": "web"},
			}})
			if why, hopeless := client.Why(t.Context(), ref); hopeless {
				t.Errorf("it was refused before somebody put it right: %q", why)
			}
			server.Hold(of, "FailedCreate: "+denial)
			server.Event(of, "FailedCreate", denial)
			if why, hopeless := client.Why(t.Context(), ref); !hopeless || !strings.HasPrefix(why, "its pods are refused: ValidatingAdmissionPolicy 'p'") || !strings.Contains(why, "no digest") {
				t.Errorf("refused: %q, hopeless %v", why, hopeless)
			}
		})
	}
}
