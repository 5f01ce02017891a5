package smoketest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

// Install has probe answer in the pods of a cluster, and its API give tokens of an hour.
func Install(s *kubetest.Server) {
	s.HandleExec(Probe(s))
	s.Handle("/api/v1/namespaces/apps/serviceaccounts/default/token", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		claims := base64.RawURLEncoding.EncodeToString([]byte(`{"iat":1800000000,"exp":1800003600}`))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","status":{"token":"e30.%s.x"}}`, claims)
	}))
}

// Probe runs `probe get URL` and `probe reach [N*]URL...`.
func Probe(s *kubetest.Server) func(kubetest.Exec) (string, error) {
	n := &network{cluster: s}
	return func(e kubetest.Exec) (string, error) {
		from := s.Get("v1", "Pod", e.Namespace, e.Pod)
		if from == nil || len(e.Command) < 3 || e.Command[0] != "/probe" {
			return "", fmt.Errorf("no such command here: %q", e.Command)
		}
		switch verb, args := e.Command[1], e.Command[2:]; verb {
		case "get":
			return n.get(from, args[0])
		case "reach":
			return n.reach(from, args)
		default:
			return "", fmt.Errorf("probe %s is not known here", verb)
		}
	}
}

type network struct {
	cluster *kubetest.Server
	turn    atomic.Int64
}

// reach asks every URL, as often as it says.
func (n *network) reach(from *unstructured.Unstructured, urls []string) (string, error) {
	var b strings.Builder
	for _, u := range urls {
		times := 1
		if count, rest, ok := strings.Cut(u, "*"); ok {
			var err error
			if times, err = strconv.Atoi(count); err != nil {
				return "", err
			}
			u = rest
		}
		r := struct {
			URL     string   `json:"url"`
			Answers []string `json:"answers"`
			Failed  int      `json:"failed,omitempty"`
			Error   string   `json:"error,omitempty"`
		}{URL: u, Answers: []string{}}
		for range times {
			answer, err := n.get(from, u)
			if err != nil {
				r.Failed, r.Error = r.Failed+1, err.Error()
				continue
			}
			r.Answers = append(r.Answers, answer)
		}
		if err := json.NewEncoder(&b).Encode(r); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// get is the answer of whoever is behind a URL.
func (n *network) get(from *unstructured.Unstructured, address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	node := n.nodeAt(u.Hostname())
	if u.Scheme == "https" {
		return n.readyz(node, u)
	}
	for _, pod := range n.cluster.List("v1", "Pod", "") {
		if text(pod, "status", "podIP") == u.Hostname() && node == nil {
			return answer(pod, address)
		}
	}
	for _, service := range n.cluster.List("v1", "Service", "") {
		named := strings.HasPrefix(u.Hostname(), service.GetName()+"."+service.GetNamespace()+".svc")
		if text(service, "spec", "clusterIP") == u.Hostname() || named || node != nil && hasNodePort(service, u.Port()) {
			return n.serve(from, service, address)
		}
	}
	return "", fmt.Errorf("nobody answers at %s", address)
}

func (n *network) nodeAt(address string) *unstructured.Unstructured {
	for _, node := range n.cluster.List("v1", "Node", "") {
		list, _, _ := unstructured.NestedSlice(node.Object, "status", "addresses")
		for _, a := range list {
			if a, ok := a.(map[string]any); ok && a["address"] == address {
				return node
			}
		}
	}
	return nil
}

// readyz is what the API server of a node says of itself.
func (n *network) readyz(node *unstructured.Unstructured, u *url.URL) (string, error) {
	if node == nil || u.Path != "/readyz" || !kube.StatusCondition(node, "Ready").True() {
		return "", fmt.Errorf("nobody answers at %s", u)
	}
	return "[+]ping ok\n[+]etcd ok\n[+]etcd-readiness ok\nreadyz check passed", nil
}

// serve picks one of the pods behind a Service.
func (n *network) serve(from, service *unstructured.Unstructured, address string) (string, error) {
	selector, _, _ := unstructured.NestedStringMap(service.Object, "spec", "selector")
	behind := n.cluster.List("v1", "Pod", service.GetNamespace())
	behind = slices.DeleteFunc(behind, func(pod *unstructured.Unstructured) bool {
		elsewhere := text(service, "spec", "internalTrafficPolicy") == "Local" && text(pod, "spec", "nodeName") != text(from, "spec", "nodeName")
		return len(selector) == 0 || elsewhere || !labels.SelectorFromSet(selector).Matches(labels.Set(pod.GetLabels())) || !kube.StatusCondition(pod, "Ready").True()
	})
	switch {
	case len(behind) == 0:
		return "", fmt.Errorf("nobody answers at %s", address)
	case text(service, "spec", "sessionAffinity") == "ClientIP":
		return answer(behind[0], address)
	}
	return answer(behind[n.turn.Add(1)%int64(len(behind))], address)
}

// answer of `probe serve`: its name.
func answer(pod *unstructured.Unstructured, address string) (string, error) {
	if !kube.StatusCondition(pod, "Ready").True() {
		return "", fmt.Errorf("nobody answers at %s", address)
	}
	return pod.GetName(), nil
}

func hasNodePort(service *unstructured.Unstructured, port string) bool {
	ports, _, _ := unstructured.NestedSlice(service.Object, "spec", "ports")
	return slices.ContainsFunc(ports, func(p any) bool {
		m, _ := p.(map[string]any)
		return m["nodePort"] != nil && fmt.Sprint(m["nodePort"]) == port
	})
}

func text(o *unstructured.Unstructured, path ...string) string {
	s, _, _ := unstructured.NestedString(o.Object, path...)
	return s
}
