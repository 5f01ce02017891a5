package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// rounds are how often each way is measured in one environment; ways take turns, so that what
// else the machine does is the same to all of them.
const rounds = 5

// route is one way of a network, from a pod to another one.
type route struct {
	Network string `json:"network"`
	Way     string `json:"way"`
	// Medians, also of each sample's ratio to that of loopback in the same round.
	Stream      float64 `json:"bytesPerSecond"`
	StreamRatio float64 `json:"bytesToLoopback"`
	RPC         float64 `json:"roundTripsPerSecond"`
	RPCRatio    float64 `json:"roundTripsToLoopback"`
	Median      float64 `json:"medianMicroseconds"`
	P99         float64 `json:"p99Microseconds"`
	Samples     int     `json:"samples"`
}

// ways of each network. Loopback is that of the pod which serves.
var ways = []struct{ name, from string }{{"loopback", "server"}, {"same node", "near"}, {"across nodes", "far"}}

// network measures what one TCP connection between pods carries, and how fast one byte comes
// back, on each network and on plain loopback. Environments of both take turns.
func (b *bench) network(ctx context.Context, e env, r *report) error {
	found := map[string]map[string][]sample{} // network and way → kind → one each round
	plugins := []string{"ptp", "cilium"}
	for i := range b.runs {
		for _, plugin := range plugins {
			b.say("network %d of %d: %s", i+1, b.runs, plugin)
			if err := b.onePlugin(ctx, e, plugin, found); err != nil {
				return err
			}
		}
	}
	for _, plugin := range plugins {
		base := found[plugin+" loopback"]
		for _, w := range ways {
			s := found[plugin+" "+w.name]
			one := route{Network: plugin, Way: w.name, Samples: len(s["stream"])}
			of := func(kind string, value func(sample) float64) float64 {
				var values []float64
				for _, x := range s[kind] {
					values = append(values, value(x))
				}
				return median(values)
			}
			ratio := func(kind string) float64 {
				var values []float64
				for i, x := range s[kind] {
					values = append(values, x.Rate/base[kind][i].Rate)
				}
				return median(values)
			}
			rate := func(s sample) float64 { return s.Rate }
			one.Stream, one.StreamRatio = of("stream", rate), ratio("stream")
			one.RPC, one.RPCRatio = of("rpc", rate), ratio("rpc")
			one.Median = of("rpc", func(s sample) float64 { return s.Median })
			one.P99 = of("rpc", func(s sample) float64 { return s.P99 })
			r.Network = append(r.Network, one)
		}
	}
	return nil
}

// onePlugin makes an environment and adds to what was found.
func (b *bench) onePlugin(ctx context.Context, e env, plugin string, found map[string]map[string][]sample) error {
	e.file = filepath.Join(b.dir, plugin+".yaml")
	yaml := fmt.Sprintf("apiVersion: orrery.dev/v1alpha1\nkind: Environment\nname: %s\nservers: 1\nagents: 1\nnetwork: {plugin: %s}\ncomponents: [namespaces, coredns]\n", e.name, plugin)
	if err := os.WriteFile(e.file, []byte(yaml), 0o600); err != nil {
		return err
	}
	if _, err := b.run(ctx, e, "up", "-o", "json"); err != nil {
		return err
	}
	if err := b.ways(ctx, e, plugin, found); err != nil {
		return err
	}
	_, err := b.run(ctx, e, "down", "-o", "json")
	return err
}

func (b *bench) ways(ctx context.Context, e env, plugin string, found map[string]map[string][]sample) error {
	pods, err := b.loadPods(ctx, e, map[string]string{"server": "agent1", "near": "agent1", "far": "server1"})
	if err != nil {
		return err
	}
	serve, port, err := startServer(ctx, pods["server"].pid)
	if err != nil {
		return err
	}
	defer func() { _, _ = serve.Process.Kill(), serve.Wait() }()
	for i := range rounds + 1 {
		for _, w := range ways {
			address := pods["server"].address
			if w.from == "server" {
				address = "127.0.0.1"
			}
			for _, kind := range []string{"stream", "rpc"} {
				s, err := loadIn(ctx, pods[w.from].pid, kind, net.JoinHostPort(address, port))
				if err != nil {
					return fmt.Errorf("%s, %s: %w", plugin, w.name, err)
				}
				if i == 0 {
					continue // neighbours are looked up, agents still settle
				}
				key := plugin + " " + w.name
				if found[key] == nil {
					found[key] = map[string][]sample{}
				}
				found[key][kind] = append(found[key][kind], s)
			}
		}
	}
	return nil
}

// startServer starts what the clients ask, and returns its port.
func startServer(ctx context.Context, pid int) (*exec.Cmd, string, error) {
	cmd, out, err := startIn(ctx, pid, "serve")
	if err != nil {
		return nil, "", err
	}
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, "", errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return cmd, strings.TrimSpace(port), nil
}

// loadPod is a pod of which only the network is wanted.
type loadPod struct {
	pid     int // of a process in it, on the host
	address string
}

// loadPods starts pods on the nodes that are named, of the image that holds every pod's
// namespaces anyway.
func (b *bench) loadPods(ctx context.Context, e env, nodes map[string]string) (map[string]loadPod, error) {
	manifest := ""
	for name, node := range nodes {
		manifest += fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: load-%s}
spec:
  nodeName: %s
  automountServiceAccountToken: false
  containers: [{name: pause, image: "registry.orrery.internal/pause:1"}]
---
`, name, node)
	}
	kubectl := func(in string, args ...string) ([]byte, error) {
		cmd, stderr := b.command(ctx, env{name: e.name})
		cmd.Args = append([]string{b.cli, "kubectl", "--env", e.name}, args...)
		cmd.Stdin = strings.NewReader(in)
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("kubectl %v: %w\n%s", args, err, stderr)
		}
		return out, err
	}
	// A new cluster gives its namespaces a ServiceAccount a moment later.
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := kubectl(manifest, "apply", "-f", "-")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return nil, err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
	if _, err := kubectl("", "wait", "pod", "--all", "--for=condition=Ready", "--timeout=180s"); err != nil {
		return nil, err
	}
	out, err := kubectl("", "get", "pods", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name, UID string }
			Status   struct{ PodIP string }
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, err
	}
	pods := map[string]loadPod{}
	for _, p := range list.Items {
		pid, err := processOf(p.Metadata.UID)
		if err != nil {
			return nil, err
		}
		pods[strings.TrimPrefix(p.Metadata.Name, "load-")] = loadPod{pid: pid, address: p.Status.PodIP}
	}
	return pods, nil
}

// processOf finds a process of a pod by its control group.
func processOf(uid string) (int, error) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if group := read(filepath.Join(dir, "cgroup")); strings.Contains(group, uid) || strings.Contains(group, strings.ReplaceAll(uid, "-", "_")) {
			return strconv.Atoi(filepath.Base(dir))
		}
	}
	return 0, fmt.Errorf("no process of pod %s", uid)
}

// printNetwork shows the ways of each network, and one network beside the other.
func (r *report) printNetwork(w io.Writer) error {
	if len(r.Network) == 0 {
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\nONE CONNECTION BETWEEN PODS\tGbit/s\t÷ LOOPBACK\t1-BYTE RPC/s\t÷ LOOPBACK\tMEDIAN µs\tP99 µs\tSAMPLES")
	of := map[string]route{}
	for _, n := range r.Network {
		of[n.Network+" "+n.Way] = n
		fmt.Fprintf(tw, "%s, %s\t%s\t%.2f\t%s\t%.2f\t%s\t%s\t%d\n", n.Network, n.Way,
			number(n.Stream*8/1e9), n.StreamRatio, number(n.RPC), n.RPCRatio, number(n.Median), number(n.P99), n.Samples)
	}
	for _, way := range ways {
		p, c := of["ptp "+way.name], of["cilium "+way.name]
		if way.name != "loopback" && p.Samples > 0 && c.Samples > 0 {
			fmt.Fprintf(tw, "cilium ÷ ptp, %s\t%.2f\t\t%.2f\t\t%.2f\t%.2f\t\n", way.name,
				c.StreamRatio/p.StreamRatio, c.RPCRatio/p.RPCRatio, c.Median/p.Median, c.P99/p.P99)
		}
	}
	return tw.Flush()
}
