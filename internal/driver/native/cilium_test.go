package native

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/spec"
)

func TestCiliumServices(t *testing.T) {
	c := testClusterOf(t, spec.PluginCilium)
	names := func(n node) (s []string) {
		for _, svc := range nodeServices(c, n, cilium{}) {
			s = append(s, svc.Name)
		}
		return s
	}
	agent := []string{"containerd", "kubelet", "cilium-agent"}
	if got := names(c.Nodes[4]); !slices.Equal(got, agent) {
		t.Errorf("an agent runs %v, want %v", got, agent)
	}
	server := slices.Concat([]string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}, agent, []string{"cilium-operator"})
	if got := names(c.Nodes[0]); !slices.Equal(got, server) {
		t.Errorf("a server runs %v, want %v", got, server)
	}
	if r := (cilium{}).routes(c, c.Nodes[0]); len(r) > 0 {
		t.Errorf("routes that are the agent's business: %v", r)
	}
	for _, s := range (cilium{}).services(c, c.Nodes[0]) {
		if s.WaitAs != s.Name || !strings.HasPrefix(s.Wait, "https://127.0.0.1:6443/apis/cilium.io/") {
			t.Errorf("%s does not wait for its rights: %q as %q", s.Name, s.Wait, s.WaitAs)
		}
	}
}

func configOf(t *testing.T, c cluster, n node, file string) map[string]string {
	t.Helper()
	files, err := cilium{}.files(c, n)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	if b := files[file]; b == nil {
		return nil
	} else if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCiliumConfig(t *testing.T) {
	c := testClusterOf(t, spec.PluginCilium)
	for _, egress := range []bool{false, true} {
		c.Egress = egress
		m := configOf(t, c, c.Nodes[0], "kubernetes/cilium-agent.yaml")
		for key, want := range map[string]string{
			"ipam": "kubernetes", "k8s-require-ipv4-pod-cidr": "true", "kube-proxy-replacement": "true",
			"ipv4-native-routing-cidr": "10.244.0.0/16", "prometheus-serve-addr": "10.89.0.11:9962",
			"enable-ipv4-masquerade": fmt.Sprint(egress), "enable-bpf-masquerade": fmt.Sprint(egress),
			"enable-l7-proxy": "true", "enable-bpf-tproxy": "true", "k8s-kubeconfig-path": "/etc/kubernetes/cilium-agent.conf",
		} {
			if m[key] != want {
				t.Errorf("egress %t: %s is %q, want %q", egress, key, m[key], want)
			}
		}
		// Without these sizes the agent takes those of a large machine.
		for _, key := range []string{"bpf-ct-global-tcp-max", "bpf-ct-global-any-max", "bpf-nat-global-max", "bpf-neigh-global-max", "bpf-lb-map-max", "bpf-policy-map-max"} {
			if m[key] == "" {
				t.Errorf("no %s", key)
			}
		}
	}
	o := configOf(t, c, c.Nodes[0], "kubernetes/cilium-operator.yaml")
	a := configOf(t, c, c.Nodes[0], "kubernetes/cilium-agent.yaml")
	for key, v := range o {
		if av, ok := a[key]; ok && av != v && key != "k8s-kubeconfig-path" {
			t.Errorf("agent and operator disagree about %s: %q and %q", key, av, v)
		}
	}
	if o["skip-crd-creation"] != "true" || o["operator-prometheus-serve-addr"] != "10.89.0.11:9963" {
		t.Errorf("operator: %v", o)
	}
	if configOf(t, c, c.Nodes[4], "kubernetes/cilium-operator.yaml") != nil {
		t.Error("an operator on an agent")
	}
}

// Agents and operators have certificates of their own, and nobody's other key.
func TestCiliumCredentials(t *testing.T) {
	p, c := paths(t.TempDir()), testClusterOf(t, spec.PluginCilium)
	if _, err := materialize(&issuer{now: time.Now}, p, c); err != nil {
		t.Fatal(err)
	}
	pki := func(n, name string) string { return p.nodeEtc(n, "kubernetes", "pki", name) }
	crt := certificate(t, pki("server1", "cilium-agent.crt"))
	if crt.Subject.CommonName != "orrery:cilium-agent:server1" || !slices.Equal(crt.Subject.Organization, []string{ciliumAgents}) {
		t.Errorf("agent is %s", crt.Subject)
	}
	if crt := certificate(t, pki("server1", "cilium-operator.crt")); !slices.Equal(crt.Subject.Organization, []string{ciliumOperators}) {
		t.Errorf("operator is %s", crt.Subject)
	}
	for _, gone := range []string{pki("agent1", "cilium-operator.crt"), pki("agent1", "kube-proxy.crt"), p.nodeEtc("agent1", "kubernetes", "kube-proxy.yaml")} {
		if exists(gone) {
			t.Errorf("%s is there", gone)
		}
	}
	conf, err := os.ReadFile(p.nodeEtc("agent1", "kubernetes", "cilium-agent.conf"))
	if err != nil || !strings.Contains(string(conf), "cilium-agent.key") {
		t.Errorf("kubeconfig %q, %v", conf, err)
	}
}

// What agents and operators may do is Cilium's business only.
func TestCiliumRules(t *testing.T) {
	for who, rules := range map[string][]rule{"agent": ciliumAgentRules, "operator": ciliumOperatorRules, "lease": ciliumLeaseRules} {
		for _, r := range rules {
			writes := slices.ContainsFunc(r.verbs, func(v string) bool { return !slices.Contains(read, v) })
			if writes && r.group != "cilium.io" && r.group != "coordination.k8s.io" {
				t.Errorf("%s may %v %v of %q", who, r.verbs, r.resources, r.group)
			}
			for _, list := range [][]string{r.verbs, r.resources, {r.group}} {
				if slices.Contains(list, "*") {
					t.Errorf("%s has a wildcard: %+v", who, r)
				}
			}
			if slices.Contains(r.resources, "secrets") {
				t.Errorf("%s reads secrets", who)
			}
		}
	}
}

// fakeCRDs puts files where the distribution has them.
func fakeCRDs(t *testing.T, p paths) {
	t.Helper()
	dir := p.join("dist", "crds")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, k := range ciliumKinds {
		text := "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: " + k + ".cilium.io, annotations: {by: us}}\nspec: {group: cilium.io}\nstatus: {}\n"
		if err := os.WriteFile(filepath.Join(dir, k+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCiliumObjects(t *testing.T) {
	p := paths(t.TempDir())
	if _, err := (cilium{}).objects(p); err == nil || !strings.Contains(err.Error(), "orrery up") {
		t.Errorf("without the kinds: %v", err)
	}
	fakeCRDs(t, p)
	all, err := cilium{}.objects(p)
	if err != nil {
		t.Fatal(err)
	}
	if want := 6 + len(ciliumKinds); len(all) != want {
		t.Errorf("%d objects, want %d", len(all), want)
	}
	for _, o := range all {
		if collections[o["kind"].(string)] == "" {
			t.Errorf("no path for %v", o["kind"])
		}
		if _, ok := o["status"]; ok {
			t.Errorf("%v with a status", o["kind"])
		}
	}
}

// put makes what is not there, leaves what is as wanted, and replaces what is not.
func TestPut(t *testing.T) {
	var mu sync.Mutex
	have, calls, late := map[string]object{}, []string{}, 2
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, r.Method)
		body := object{}
		b, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(b, &body)
		switch r.Method {
		case http.MethodPost:
			if late--; late >= 0 { // the namespace is not there yet
				w.WriteHeader(http.StatusNotFound)
				return
			}
			key := r.URL.Path + "/" + body["metadata"].(object)["name"].(string)
			if _, there := have[key]; there {
				w.WriteHeader(http.StatusConflict)
				return
			}
			body["metadata"].(object)["resourceVersion"] = "7"
			have[key] = body
		case http.MethodGet:
			_ = json.NewEncoder(w).Encode(have[r.URL.Path])
		case http.MethodPut:
			if body["metadata"].(object)["resourceVersion"] != "7" {
				w.WriteHeader(http.StatusConflict)
				return
			}
			have[r.URL.Path] = body
		}
	}))
	defer server.Close()
	a := &api{base: server.URL, http: server.Client()}
	role := func(verb string) object {
		return object{"kind": "Role", "metadata": object{"name": "r", "namespace": "n", "annotations": object{"by": "us"}}, "rules": []any{verb}}
	}
	put := func(o object, want string) {
		t.Helper()
		calls = nil
		if err := a.put(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(calls, " "); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	put(role("get"), "POST POST POST")
	put(role("get"), "POST GET")
	put(role("list"), "POST GET PUT")
	put(role("list"), "POST GET")
	got := have["/apis/rbac.authorization.k8s.io/v1/namespaces/n/roles/r"]
	if fmt.Sprint(got["rules"]) != "[list]" || got["metadata"].(object)["annotations"].(object)["by"] != "us" {
		t.Errorf("left %v", got)
	}
	if err := a.put(t.Context(), object{"kind": "Pod", "metadata": object{"name": "p"}}); err == nil {
		t.Error("makes any kind")
	}
}

func TestPutRefused(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no such field", http.StatusUnprocessableEntity)
	}))
	defer server.Close()
	a := &api{base: server.URL, http: server.Client()}
	if err := a.put(t.Context(), object{"kind": "ClusterRole", "metadata": object{"name": "x"}}); err == nil || !strings.Contains(err.Error(), "no such field") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	server.Close()
	if err := a.put(ctx, object{"kind": "ClusterRole", "metadata": object{"name": "x"}}); err == nil {
		t.Error("nobody answered")
	}
}

func TestCiliumReady(t *testing.T) {
	if err := (cilium{}).ready(t.Context(), 1<<30); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("without a process: %v", err)
	}
	const well = `{"cilium":{"state":"Ok"}}`
	for _, tc := range []struct{ health, endpoints, want string }{
		{well, `[{"status":{"identity":{"id":4},"state":"regenerating"}},{"status":{"identity":{"id":1},"state":"ready"}}]`, ""},
		{well, `[{"status":{"identity":{"id":1},"state":"regenerating"}}]`, "(regenerating)"},
		{well, `[]`, "not begun"},
		{`{"cilium":{"state":"Failure","msg":"no clang for you"}}`, `[]`, "Failure: no clang for you"},
		{`{}`, `[]`, "not ready"},
		{`what`, `[]`, "status"},
	} {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, map[string]string{"/v1/healthz": tc.health, "/v1/endpoint": tc.endpoints}[r.URL.Path])
		})}
		go func() { _ = s.Serve(l) }()
		err = agentStatus(t.Context(), l.Addr().String())
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %s: %v, want %q", tc.health, tc.endpoints, err, tc.want)
		}
		s.Close()
	}
}
