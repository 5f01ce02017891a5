package app

import (
	"slices"
	"testing"
)

// cobra hands kubectl's flags on as they are, and with them ours that stand before the verb: one that is
// not taken out would have kubectl ask another environment.
func TestKubectlEnvironment(t *testing.T) {
	for _, test := range []struct{ args, rest, want []string }{
		{[]string{"get", "pods"}, []string{"get", "pods"}, []string{"", "", ""}},
		{[]string{"--env", "demo", "get", "--env", "x"}, []string{"get", "--env", "x"}, []string{"demo", "", ""}},
		{[]string{"--catalog", "there", "--env=demo", "apply", "-f", "x.yaml"}, []string{"apply", "-f", "x.yaml"}, []string{"demo", "", "there"}},
		{[]string{"-f", "demo.yaml", "--catalog=there", "get"}, []string{"get"}, []string{"", "demo.yaml", "there"}},
		{[]string{"--file=demo.yaml", "-n", "apps", "get"}, []string{"-n", "apps", "get"}, []string{"", "demo.yaml", ""}},
		{[]string{"--env"}, []string{"--env"}, []string{"", "", ""}},
	} {
		var o options
		if rest := o.own(test.args); !slices.Equal(rest, test.rest) {
			t.Errorf("%q: kubectl gets %q, want %q", test.args, rest, test.rest)
		}
		if got := []string{o.env, o.file, o.catalog}; !slices.Equal(got, test.want) {
			t.Errorf("%q: environment, file and catalogue %q, want %q", test.args, got, test.want)
		}
	}
}
