package e2e

import (
	"context"
	"fmt"
	"maps"
	"testing"
)

// hostPort: a pod's port on its node answers processes of that node and of others, at that
// node's address only, and is gone with the pod.
func (n *networked) hostPort(t *testing.T) {
	// No namespace of the platform lets pods use the host.
	const namespace = "net-host"
	n.runWith(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+", labels: {pod-security.kubernetes.io/enforce: privileged}}\n", "kubectl", "apply", "-f", "-")
	t.Cleanup(func() {
		n.invoke(context.Background(), nil, "kubectl", "delete", "namespace", namespace, "--wait=false")
	})
	n.run(t, "kubectl", "-n", namespace, "wait", "serviceaccount/default", "--for=create", "--timeout=60s")
	manifest := ""
	for name, spec := range map[string]string{
		"net-host-port": `nodeName: ` + n.server + `, containers: [{name: probe, image: "%s", args: [serve], ports: [{containerPort: 8080, hostPort: 18080}]}]`,
		"net-host-near": `nodeName: ` + n.server + `, hostNetwork: true, containers: [{name: probe, image: "%s", args: [sleep]}]`,
		"net-host-far":  `nodeName: ` + n.client + `, hostNetwork: true, containers: [{name: probe, image: "%s", args: [sleep]}]`,
	} {
		manifest += fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: "+namespace+", labels: {net: host-port}}\n"+
			"spec: {automountServiceAccountToken: false, terminationGracePeriodSeconds: 1, "+spec+"}\n---\n", name, n.probeImage(t))
	}
	n.runWith(t, manifest, "kubectl", "apply", "-f", "-")
	n.run(t, "kubectl", "-n", namespace, "wait", "pod", "-l", "net=host-port", "--for=condition=Ready", "--timeout=120s")
	nodes := n.nodes(t)
	answers := func(what, atServer string) {
		want := map[string]string{}
		var urls []string
		for name, node := range nodes {
			url := "http://" + node.Address + ":18080/"
			urls, want[url] = append(urls, url), ""
			if name == n.server {
				want[url] = atServer
			}
		}
		for _, from := range []string{"net-host-near", "net-host-far"} {
			eventually(t, what+", asked from "+from, restored, func(ctx context.Context) error {
				got, err := n.askFrom(ctx, namespace, from, urls...)
				if err == nil && !maps.Equal(got, want) {
					err = fmt.Errorf("answers are %v, want %v", got, want)
				}
				return err
			})
		}
	}
	answers("the port on the pod's node answers", "net-host-port")
	n.run(t, "kubectl", "-n", namespace, "delete", "pod", "net-host-port")
	answers("the port is gone with the pod", "")
}
