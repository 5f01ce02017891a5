package main

import (
	"bytes"
	"io"
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

// What a snapshot becomes has to be wholly said: a default would be a member of no cluster.
func TestRestoreWantsAllFlags(t *testing.T) {
	all := []string{"--snapshot=s", "--data-dir=d", "--name=a", "--initial-advertise-peer-urls=https://a:2380", "--initial-cluster=a=https://a:2380", "--initial-cluster-token=t"}
	c, err := restoreConfig(all, io.Discard)
	if err != nil || c.RevisionBump == 0 || !c.MarkCompacted || !slices.Equal(c.PeerURLs, []string{"https://a:2380"}) {
		t.Errorf("%+v, %v", c, err)
	}
	for i := range all {
		if _, err := restoreConfig(slices.Delete(slices.Clone(all), i, i+1), io.Discard); err == nil {
			t.Errorf("without %s", all[i])
		}
	}
	if _, err := restoreConfig(append(all, "more"), io.Discard); err == nil {
		t.Error("with more than flags")
	}
}
