package app

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/driver"
)

func newLogs(o *options) *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "logs NODE/SERVICE",
		Short: "Print the log of a node's service, such as server1/etcd",
		Long: `Print the log of a service of a node: etcd, kube-apiserver, kube-controller-manager,
kube-scheduler, containerd, kubelet, kube-proxy. Logs of pods: orrery kubectl logs.`,
		Example: `  orrery logs server1/etcd
  orrery logs agent2/kubelet -F`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeNodes,
		RunE: func(c *cobra.Command, args []string) error {
			node, service, ok := strings.Cut(args[0], "/")
			if !ok || service == "" {
				return usagef("want NODE/SERVICE, such as server1/etcd, got %q", args[0])
			}
			s, err := o.attachExisting()
			if err != nil {
				return err
			}
			if err := s.knownNode(node); err != nil {
				return err
			}
			logs, ok := s.driver.(driver.LogSource)
			if !ok {
				return fmt.Errorf("the %s driver keeps no logs of node services", s.spec.Driver)
			}
			err = logs.Logs(c.Context(), node, service, follow, o.out)
			if c.Context().Err() != nil {
				return nil // Ctrl-C is how a person ends -f
			}
			return err
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "F", false, "go on until Ctrl-C")
	return c
}
