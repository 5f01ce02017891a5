package english

import (
	"strings"
	"testing"

	"k8s.io/kubectl/pkg/util/i18n"
)

func TestTranslated(t *testing.T) {
	for argv, want := range map[string]bool{
		"kubectl get pods":         true,
		"/opt/orrery/bin/kubectl":  true,
		"kubernetes kubectl get":   true,
		"kubelet --config x":       false,
		"kubernetes kubelet":       false,
		"kube-apiserver --kubectl": false,
		"":                         false,
	} {
		if got := translated(strings.Fields(argv)); got != want {
			t.Errorf("translated(%q) = %t, want %t", argv, got, want)
		}
	}
}

// TestText: without translations texts are as they stand in the source.
func TestText(t *testing.T) {
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	const text = "Deprecated: Use of this flag is discouraged."
	if got := i18n.T(text); got != text {
		t.Errorf("T = %q", got)
	}
}
