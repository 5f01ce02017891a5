package environment

import (
	"fmt"
	"strings"
	"testing"
)

// TestLastChange: what somebody changed is told from what the platform does all the time.
func TestLastChange(t *testing.T) {
	web := handled{"apps", "deployments", "shop", "web"}
	space := handled{"", "namespaces", "", "shop"}
	entry := func(verb, user, agent, ref, more string) string {
		return fmt.Sprintf(`{"verb":%q,"user":{"username":%q},"userAgent":%q,"objectRef":{%s},"requestReceivedTimestamp":"2026-01-01T00:00:01.000001Z"%s}`+"\n",
			verb, user, agent, ref, more)
	}
	const deployment = `"apiGroup":"apps","resource":"deployments","namespace":"shop","name":"web"`
	for name, c := range map[string]struct {
		line string
		of   handled
		want string // empty: nobody did
	}{
		"scaled":               {entry("patch", "ada", "kubectl/v1.36 (linux)", deployment+`,"subresource":"scale"`, ""), web, "ada kubectl patch scale Deployment shop/web"},
		"deleted":              {entry("delete", "ada", "curl/8", deployment, `,"responseStatus":{"code":200}`), web, "ada curl delete Deployment shop/web"},
		"a namespace":          {entry("patch", "ada", "kubectl/v1.36", `"resource":"namespaces","namespace":"shop","name":"shop"`, ""), space, "ada kubectl patch Namespace shop"},
		"a token of a pod":     {entry("patch", "system:serviceaccount:apps:default", "curl/8", deployment, ""), web, "system:serviceaccount:apps:default curl patch Deployment shop/web"},
		"refused":              {entry("patch", "ada", "kubectl/v1.36", deployment, `,"responseStatus":{"code":403}`), web, ""},
		"tried":                {entry("patch", "ada", "kubectl/v1.36", deployment, `,"requestURI":"/apis/apps/v1/x?dryRun=All"`), web, ""},
		"read":                 {entry("get", "ada", "kubectl/v1.36", deployment, ""), web, ""},
		"Orrery":               {entry("patch", "orrery-admin", "orrery", deployment, ""), web, ""},
		"the platform's own":   {entry("patch", "system:serviceaccount:argocd:argocd-controller", "argocd", deployment, ""), web, ""},
		"Kubernetes":           {entry("update", "system:kube-controller-manager", "kube-controller-manager/v1.36", deployment, ""), web, ""},
		"one of kube-system":   {entry("update", "system:serviceaccount:kube-system:deployment-controller", "kube-controller-manager/v1.36", deployment, ""), web, ""},
		"a status":             {entry("patch", "ada", "kubectl/v1.36", deployment+`,"subresource":"status"`, ""), web, ""},
		"what nobody applies":  {entry("patch", "ada", "kubectl/v1.36", `"resource":"pods","namespace":"shop","name":"web-1"`, ""), web, ""},
		"no entry":             {"{\n", web, ""},
		"an older one is kept": {entry("patch", "ada", "kubectl/v1.36", deployment, "") + strings.Replace(entry("patch", "bob", "kubectl/v1.36", deployment, ""), "2026-01-01", "2025-01-01", 1), web, "ada kubectl patch Deployment shop/web"},
	} {
		l := &lastChange{found: map[handled]ByHand{}, owned: owned{
			objects:  map[handled]ByHand{web: {Component: "shop", Object: "Deployment shop/web"}, space: {Component: "shop", Object: "Namespace shop"}},
			accounts: map[string]bool{"system:serviceaccount:argocd:argocd-controller": true},
		}}
		for _, part := range []string{c.line[:len(c.line)/2], c.line[len(c.line)/2:]} { // lines come in pieces
			if _, err := l.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
		}
		got := ""
		if b, ok := l.found[c.of]; ok {
			got = strings.Join([]string{b.Who, b.With, b.Verb, b.Object}, " ")
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
