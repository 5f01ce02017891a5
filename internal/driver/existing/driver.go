package existing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/spec"
)

// How long the cluster may take.
const (
	answerTime = 30 * time.Second // to answer at all
	lookTime   = 10 * time.Second // to be looked at
	readyTime  = 5 * time.Minute  // until its nodes are Ready
)

// kubeconfigFile is the copy in the state folder.
const kubeconfigFile = "kubeconfig"

// Kind is this driver as orrery.yaml knows it. It takes no root, makes nothing, and images are
// in a registry that the person names.
func Kind() driver.Kind {
	return driver.Kind{
		Name: spec.DriverExisting,
		New:  func(o driver.Options) (driver.Driver, error) { return New(o) },
		DecideNetwork: func(context.Context, driver.Compiler) (plugin, reason string) {
			return spec.PluginCluster, ""
		},
	}
}

// Driver of one environment. It implements [driver.Driver] and [driver.Guest].
type Driver struct {
	driver.Options
	cluster spec.Existing
}

var (
	_ driver.Driver = (*Driver)(nil)
	_ driver.Guest  = (*Driver)(nil)
)

// New makes the driver, and looks at nothing.
func New(o driver.Options) (*Driver, error) {
	if o.Spec.Existing == nil {
		return nil, failure.Usagef("driver: existing needs the block existing in orrery.yaml, with kubeconfig and context")
	}
	return &Driver{o, *o.Spec.Existing}, nil
}

func (d *Driver) copied() string { return filepath.Join(d.StateDir, kubeconfigFile) }

// Credentials is the one context of the person's kubeconfig with all that it refers to; the
// copy where that file is gone.
func (d *Driver) Credentials(context.Context) ([]byte, error) {
	config, err := clientcmd.LoadFromFile(d.cluster.Kubeconfig)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err := os.ReadFile(d.copied()); err == nil {
			return data, nil
		}
	}
	if err != nil {
		return nil, failure.Usage{Err: fmt.Errorf("existing.kubeconfig: %w", err)}
	}
	if config.Contexts[d.cluster.Context] == nil {
		var names []string
		for name := range config.Contexts {
			names = append(names, name)
		}
		slices.Sort(names)
		return nil, failure.Usagef("existing.context: %s has no context %q; it has: %v", d.cluster.Kubeconfig, d.cluster.Context, names)
	}
	config.CurrentContext = d.cluster.Context
	config.Extensions = nil
	for _, step := range []func(*api.Config) error{api.MinifyConfig, clientcmd.ResolveLocalPaths, api.FlattenConfig} {
		if err := step(config); err != nil {
			return nil, failure.Usage{Err: fmt.Errorf("existing.kubeconfig %s: %w", d.cluster.Kubeconfig, err)}
		}
	}
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("write the kubeconfig: %w", err)
	}
	return data, nil
}

// connect with the person's credentials as they are now.
func (d *Driver) connect(ctx context.Context) (*kube.Client, error) {
	data, err := d.Credentials(ctx)
	if err != nil {
		return nil, err
	}
	return kube.ConnectWith(data, kube.WithLog(d.Log))
}

// Prepare implements [driver.Driver]: images are in a registry of the person's.
func (d *Driver) Prepare(context.Context) error { return nil }

// Ensure implements [driver.Driver]: the API answers, and a copy of the way to it is kept.
func (d *Driver) Ensure(ctx context.Context) error {
	data, err := d.Credentials(ctx)
	if err != nil {
		return err
	}
	client, err := kube.ConnectWith(data, kube.WithLog(d.Log))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var last error
	if err := check.Until(ctx, check.Pause{First: 200 * time.Millisecond}, func() error {
		_, last = client.RawGet(ctx, "/version")
		if last != nil && !kube.Transient(last) {
			return check.Final(last)
		}
		return last
	}); err != nil {
		return fmt.Errorf("context %s of %s does not answer: %w", d.cluster.Context, d.cluster.Kubeconfig, cmp.Or(last, err))
	}
	if err := d.Journal.Begin(driver.Effect{Kind: "file", ID: d.copied()}); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := os.MkdirAll(d.StateDir, 0o700); err != nil {
		return err
	}
	return atomicfile.Write(d.copied(), data, 0o600)
}

// Ready implements [driver.Driver].
func (d *Driver) Ready(ctx context.Context) error {
	client, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	var last error
	err = check.Until(ctx, check.Pause{First: 500 * time.Millisecond}, func() error {
		last = ready(ctx, client)
		return last
	})
	if err != nil {
		return cmp.Or(last, err)
	}
	return nil
}

// ready: there are nodes, and those that take pods are Ready.
func ready(ctx context.Context, client *kube.Client) error {
	nodes, err := client.List(ctx, "v1", "Node", "", "")
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return errors.New("the cluster has no nodes")
	}
	var not []string
	for _, n := range nodes {
		if !kube.StatusCondition(&n, "Ready").True() {
			not = append(not, n.GetName())
		}
	}
	if not != nil {
		return fmt.Errorf("not Ready: %v; whoever made the cluster looks after its nodes", not)
	}
	return nil
}

// Observe implements [driver.Driver]. Without a copy of the kubeconfig nothing was begun.
func (d *Driver) Observe(ctx context.Context) (driver.Observation, error) {
	o := driver.Observation{Phase: driver.PhaseAbsent}
	if _, err := os.Stat(d.copied()); errors.Is(err, fs.ErrNotExist) {
		return d.nodes(ctx, o) // what is counted before anything is made
	} else if err != nil {
		return o, err
	}
	o.Phase, o.Kubeconfig = driver.PhasePartial, d.copied()
	return d.nodes(ctx, o)
}

// nodes adds what the cluster says; one that does not answer says nothing.
func (d *Driver) nodes(ctx context.Context, o driver.Observation) (driver.Observation, error) {
	client, err := d.lookWith(ctx, o.Kubeconfig)
	if err != nil {
		return o, nil
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	list, err := client.List(ctx, "v1", "Node", "", "")
	if err != nil {
		return o, nil
	}
	if o.Phase == driver.PhasePartial {
		o.Phase = driver.PhaseRunning
	}
	o.Endpoints = map[string]string{driver.EndpointAPI: client.Server()}
	for _, n := range list {
		o.Nodes = append(o.Nodes, node(n))
	}
	slices.SortFunc(o.Nodes, func(a, b driver.Node) int {
		return cmp.Or(-cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name)) // servers first
	})
	return o, nil
}

func (d *Driver) lookWith(ctx context.Context, copied string) (*kube.Client, error) {
	if copied != "" {
		return kube.Connect(copied, kube.WithLog(d.Log))
	}
	return d.connect(ctx)
}

func node(o unstructured.Unstructured) driver.Node {
	labels := o.GetLabels()
	n := driver.Node{
		Name: o.GetName(), Role: driver.RoleAgent, Zone: labels["topology.kubernetes.io/zone"], Rack: labels["rack"],
		// Whether its machine runs, only its kubelet tells.
		Running: kube.StatusCondition(&o, "Ready").True(),
	}
	if _, server := labels["node-role.kubernetes.io/control-plane"]; server {
		n.Role = driver.RoleServer
	}
	n.PodCIDR, _, _ = unstructured.NestedString(o.Object, "spec", "podCIDR")
	addresses, _, _ := unstructured.NestedSlice(o.Object, "status", "addresses")
	for _, a := range addresses {
		if a, ok := a.(map[string]any); ok && a["type"] == "InternalIP" && n.Address == "" {
			n.Address, _ = a["address"].(string)
		}
	}
	return n
}

// Stop implements [driver.Driver]: it is refused, once there is something to stop.
func (d *Driver) Stop(context.Context) error {
	if _, err := os.Stat(d.copied()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return failure.Refusedf("somebody else made this cluster, and starts and stops it: 'orrery down' takes out what is deployed to it")
}

// Delete implements [driver.Driver]: it leaves the cluster alone, and forgets the way to it.
func (d *Driver) Delete(context.Context) error {
	if err := os.Remove(d.copied()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.Journal.Undone(driver.Effect{Kind: "file", ID: d.copied()}); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := os.RemoveAll(d.StateDir); err != nil {
		return err
	}
	return nil
}

// Audit implements [driver.Driver]. What is left in the cluster is asked of its inventories,
// before the way to it is forgotten.
func (d *Driver) Audit(context.Context) ([]string, error) {
	if _, err := os.Stat(d.copied()); err == nil {
		return []string{"file " + d.copied()}, nil
	}
	return nil, nil
}
