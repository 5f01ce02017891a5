package console

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// handedOver is a platform that Argo CD applies, with a component that does not get through and a change by hand.
func handedOver() GitOps {
	at := time.Date(2026, 11, 30, 20, 0, 0, 0, time.UTC)
	return GitOps{
		HandedOver: true, Revision: "5f1c2a9b7d3e",
		Applications: []Application{
			{"coredns", "9b1d4ce0f7a2", "Synced", "Healthy", "", Good},
			{"metrics-server", "77aa01c3be52", "OutOfSync", "Healthy", "Deployment metrics-server: its pods are refused: image has no digest", Failing},
			{"nats", "c0ffee12ab34", "Synced", "Progressing", "StatefulSet nats is Progressing", Starting},
			{"orrery", "current", "Synced", "Degraded", "", Failing},
		},
		ByHand: []ByHand{
			{at, "orrery-admin", "kubectl", "patch scale Deployment kube-system/metrics-server"},
			{at.Add(time.Minute), "system:serviceaccount:apps:robot", "curl", "delete Service kube-system/metrics-server"},
		},
	}
}

// The page says what 'orrery gitops status' says, and goes on with what it had where something is the matter.
func TestGitOps(t *testing.T) {
	w := newWorld(t)
	w.gitops = handedOver()
	_, s := w.serve(t)
	client := visitor(t, s)
	stream := events(t, client, s.URL, "/gitops")
	await(t, stream, "applications", "1 of 4 Applications synced and healthy")
	body, _ := read(t, client, s.URL+"/gitops")
	for _, want := range []string{
		`aria-current="page">GitOps`, "pushed: <code>5f1c2a9b7d3e", "<b>metrics-server</b>", "OutOfSync", "its pods are refused", "Progressing",
		"orrery-admin", "patch scale Deployment kube-system/metrics-server",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in %s", want, body)
		}
	}
	if strings.Index(body, "system:serviceaccount:apps:robot") > strings.Index(body, "orrery-admin") {
		t.Error("the newest change by hand is not the first")
	}
	if strings.Contains(body, "banner\">") {
		t.Error("a problem is shown where there is none")
	}
	g := handedOver()
	g.Problem, g.ByHand = "the mirror does not say what is followed", nil
	other := &Console{Options: Options{GitOps: func(context.Context) (GitOps, error) { return g, nil }}}
	html, err := other.drawGitOps(t.Context())
	if err != nil || !strings.Contains(string(html), "the mirror does not say what is followed") || !strings.Contains(string(html), "Nobody changed by hand") {
		t.Errorf("%v: %s", err, html)
	}
	other.GitOps = func(context.Context) (GitOps, error) { return GitOps{}, errors.New("connection refused") }
	if _, err := other.drawGitOps(t.Context()); err == nil || err.Error() != "connection refused" {
		t.Errorf("%v", err)
	}
}
