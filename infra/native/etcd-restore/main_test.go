package main

import (
	"io"
	"slices"
	"testing"
)

// What a snapshot becomes has to be wholly said: a default would be a member of no cluster.
func TestRestoreWantsAllFlags(t *testing.T) {
	all := []string{
		"--snapshot=s", "--data-dir=d", "--name=a", "--initial-advertise-peer-urls=https://a:2380",
		"--initial-cluster=a=https://a:2380", "--initial-cluster-token=t",
	}
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
