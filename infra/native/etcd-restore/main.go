// Command etcd-restore makes the data of one member of etcd from a snapshot, as 'etcdutl snapshot
// restore' does: with the same package of etcd's, and without the ten modules that draw tables.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// revisionBump is by how much revisions of what was restored are higher than they were: nobody
// who remembers one from before takes a later one for it. Kubernetes writes for months until then.
const revisionBump = 1_000_000_000

func main() { os.Exit(run()) }

func run() int {
	c, err := restoreConfig(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "etcd-restore:", err)
		return 2
	}
	if err := snapshot.NewV3(zap.NewNop()).Restore(c); err != nil {
		fmt.Fprintln(os.Stderr, "etcd-restore:", err)
		return 1
	}
	return 0
}

// restoreConfig reads flags, which are called as those of etcd.
func restoreConfig(args []string, usage io.Writer) (snapshot.RestoreConfig, error) {
	c := snapshot.RestoreConfig{RevisionBump: revisionBump, MarkCompacted: true}
	var peers string
	f := flag.NewFlagSet("etcd-restore", flag.ContinueOnError)
	f.SetOutput(usage)
	f.StringVar(&c.SnapshotPath, "snapshot", "", "file to restore from")
	f.StringVar(&c.OutputDataDir, "data-dir", "", "folder to make; it must be empty or absent")
	f.StringVar(&c.Name, "name", "", "name of the member")
	f.StringVar(&peers, "initial-advertise-peer-urls", "", "where others reach it")
	f.StringVar(&c.InitialCluster, "initial-cluster", "", "NAME=URL of every member")
	f.StringVar(&c.InitialClusterToken, "initial-cluster-token", "", "what only members of this cluster have")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	var missing []string
	f.VisitAll(func(f *flag.Flag) {
		if f.Value.String() == "" {
			missing = append(missing, "--"+f.Name)
		}
	})
	if len(missing) > 0 || f.NArg() > 0 {
		return c, fmt.Errorf("want all flags and nothing else: missing %q, left over %q", missing, f.Args())
	}
	c.PeerURLs = strings.Split(peers, ",")
	return c, nil
}
