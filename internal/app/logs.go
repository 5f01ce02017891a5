package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/failure"
)

func newLogs(o *options) *cobra.Command {
	var follow bool
	var q logQuery
	q.since = span(time.Hour)
	c := &cobra.Command{
		Use:   "logs NODE/SERVICE | --query LOGQL",
		Short: "Print the log of a node's service, such as server1/etcd, or what Loki finds",
		Long: `Print the log of a service of a node: etcd, kube-apiserver, kube-controller-manager,
kube-scheduler, containerd, kubelet, and kube-proxy or cilium-agent and cilium-operator. With
--query, search the logs of all pods in Loki instead, newest line last. Logs of one pod without
Loki: orrery kubectl logs.`,
		Example: `  orrery logs server1/etcd
  orrery logs agent2/kubelet -F
  orrery logs --query '{k8s_namespace_name="messaging"} |= "error"' --since 15m
  orrery logs --query '{service_name="pulse"}' -F`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: o.completeNodes,
		RunE: func(c *cobra.Command, args []string) error {
			asked := c.Flags().Changed("query")
			switch {
			case asked && len(args) > 0:
				return failure.Usagef("give NODE/SERVICE or --query, not both")
			case asked:
				q.follow = follow
				return runLogQuery(c.Context(), o, q)
			case len(args) == 0:
				return failure.Usagef("want NODE/SERVICE, such as server1/etcd, or --query with a LogQL query")
			case c.Flags().Changed("since") || c.Flags().Changed("limit"):
				return failure.Usagef("--since and --limit go with --query")
			}
			return runNodeLogs(c.Context(), o, args[0], follow)
		},
	}
	f := c.Flags()
	f.BoolVarP(&follow, "follow", "F", false, "go on until Ctrl-C")
	f.StringVar(&q.logql, "query", "", `LogQL query, such as '{k8s_namespace_name="messaging"} |= "error"'`)
	spanFlag(c, &q.since, "since", "how far back --query searches, such as 15m, 2h or 7d")
	f.IntVar(&q.limit, "limit", 200, "how many lines --query prints at first: the newest")
	return c
}

func runNodeLogs(ctx context.Context, o *options, which string, follow bool) error {
	node, service, ok := strings.Cut(which, "/")
	if !ok || service == "" {
		return failure.Usagef("want NODE/SERVICE, such as server1/etcd, got %q", which)
	}
	e, err := o.existing()
	if err != nil {
		return err
	}
	if err := e.KnownNode(node); err != nil {
		return err
	}
	logs, ok := e.Driver.(driver.LogSource)
	if !ok {
		return fmt.Errorf("the %s driver keeps no logs of node services", e.Kind.Name)
	}
	err = logs.Logs(ctx, node, service, follow, o.out)
	if ctx.Err() != nil {
		return nil // Ctrl-C is how a person ends -F
	}
	return err
}
