package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestSelectProgram(t *testing.T) {
	for _, tc := range []struct {
		argv []string
		want []string // nil: refused
	}{
		{[]string{"/opt/bin/kubelet", "--v=2"}, []string{"kubelet", "--v=2"}},
		{[]string{"kubernetes", "etcd", "--name=a"}, []string{"etcd", "--name=a"}},
		{[]string{"kubectl", "get", "kubelet"}, []string{"kubectl", "get", "kubelet"}},
		{[]string{"kubernetes"}, nil},
		{[]string{"kubernetes", "nonsense"}, nil},
		{nil, nil},
	} {
		_, argv, ok := selectProgram(tc.argv)
		if ok != (tc.want != nil) || !slices.Equal(argv, tc.want) {
			t.Errorf("selectProgram(%q) = %q, %v; want %q", tc.argv, argv, ok, tc.want)
		}
	}
}

func TestUsageNamesEveryProgram(t *testing.T) {
	var out bytes.Buffer
	usage(&out)
	for name := range programs {
		if !strings.Contains(out.String(), name) {
			t.Errorf("usage does not name %s: %s", name, out.String())
		}
	}
}
