package native

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/check"
)

// Before a node stops in good order, its containers end as their pods say: preStop, SIGTERM, and
// then the termination grace period (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/).
// PID 1 does it, with the kubelet ended first: see docs/adr/0035.

// Where containerd has what runs: a folder for each container, with its specification and PID.
const (
	taskFolder = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
	runcFolder = "/run/containerd/runc/k8s.io"
)

// The kubelet describes a container to the runtime by these; containerd hands on those that
// its configuration names.
const (
	annotationGrace   = "io.kubernetes.pod.terminationGracePeriod"
	annotationPreStop = "io.kubernetes.container.preStopHandler"
	annotationPorts   = "io.kubernetes.container.ports"
)

const (
	defaultGrace = 30 * time.Second // terminationGracePeriodSeconds of a pod that states none
	leastGrace   = 2 * time.Second  // after a preStop that took all of it, as kubelets have it
	// systemGrace is what containers of kube-system, such as the cluster's DNS, get when the
	// others have ended.
	systemGrace = 5 * time.Second
)

// container is one that runs in this node.
type container struct {
	id, folder      string
	pid             int
	namespace, name string // of its pod
	grace           time.Duration
	preStop         *handler
	ports           []containerPort
}

// handler is what a preStop does (v1.LifecycleHandler).
type handler struct {
	Exec *struct {
		Command []string `json:"command"`
	} `json:"exec"`
	HTTPGet *struct {
		Path        string          `json:"path"`
		Port        json.RawMessage `json:"port"` // a number, or the name of a port
		Host        string          `json:"host"`
		Scheme      string          `json:"scheme"`
		HTTPHeaders []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		} `json:"httpHeaders"`
	} `json:"httpGet"`
	Sleep *struct {
		Seconds int64 `json:"seconds"`
	} `json:"sleep"`
}

type containerPort struct {
	Name          string `json:"name"`
	ContainerPort int    `json:"containerPort"`
}

// containersIn lists what runs below a task folder, but for the sandboxes of pods.
func containersIn(folder string) []container {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	var list []container
	for _, e := range entries {
		c := container{id: e.Name(), folder: filepath.Join(folder, e.Name()), grace: defaultGrace}
		b, err := os.ReadFile(filepath.Join(c.folder, "config.json"))
		if err != nil {
			continue
		}
		var spec struct {
			Annotations map[string]string `json:"annotations"`
		}
		pid, perr := os.ReadFile(filepath.Join(c.folder, "init.pid"))
		if json.Unmarshal(b, &spec) != nil || perr != nil {
			continue
		}
		a := spec.Annotations
		c.pid, err = strconv.Atoi(strings.TrimSpace(string(pid)))
		if err != nil || c.pid <= 1 || a["io.kubernetes.cri.container-type"] != "container" {
			continue
		}
		c.namespace, c.name = a["io.kubernetes.cri.sandbox-namespace"], a["io.kubernetes.cri.sandbox-name"]
		if s, err := strconv.ParseInt(a[annotationGrace], 10, 32); err == nil && s >= 0 {
			c.grace = time.Duration(s) * time.Second
		}
		if h := (handler{}); json.Unmarshal([]byte(a[annotationPreStop]), &h) == nil {
			c.preStop = &h
		}
		_ = json.Unmarshal([]byte(a[annotationPorts]), &c.ports)
		list = append(list, c)
	}
	return list
}

func (c container) String() string { return c.namespace + "/" + c.name }

func (c container) ended() bool { return !exists(c.folder) || zombie(c.pid) }

// port of a preStop over HTTP.
func (c container) port(raw json.RawMessage) (int, error) {
	var n int
	if json.Unmarshal(raw, &n) == nil {
		return n, nil
	}
	var name string
	_ = json.Unmarshal(raw, &name)
	for _, p := range c.ports {
		if p.Name == name {
			return p.ContainerPort, nil
		}
	}
	return 0, fmt.Errorf("no port %s", raw)
}

// drainer ends the containers of a node.
type drainer struct {
	folder string
	// exec runs a command in a container.
	exec func(ctx context.Context, c container, command []string) error
	kill func(pid int, sig syscall.Signal) error
}

// drain gives all containers at most grace, those of kube-system some more at the end, and
// returns those that had not ended then.
func (d drainer) drain(ctx context.Context, grace time.Duration) (left []string) {
	for _, wave := range []struct {
		system bool
		limit  time.Duration
	}{{false, grace}, {true, min(grace, systemGrace)}} {
		ctx, cancel := context.WithTimeout(ctx, wave.limit)
		var all sync.WaitGroup
		var mu sync.Mutex
		for _, c := range containersIn(d.folder) {
			if (c.namespace == "kube-system") != wave.system {
				continue
			}
			all.Go(func() {
				if !d.end(ctx, c) {
					mu.Lock()
					defer mu.Unlock()
					left = append(left, c.String())
				}
			})
		}
		all.Wait()
		cancel()
	}
	slices.Sort(left)
	return slices.Compact(left)
}

// end asks one container to end, and reports whether it did so in time.
func (d drainer) end(ctx context.Context, c container) bool {
	began := time.Now()
	pre, cancel := context.WithTimeout(ctx, c.grace)
	if c.preStop != nil {
		_ = d.runPreStop(pre, c) // a kubelet goes on too
	}
	cancel()
	_ = d.kill(c.pid, syscall.SIGTERM)
	ctx, cancel = context.WithTimeout(ctx, max(c.grace-time.Since(began), leastGrace))
	defer cancel()
	return check.Until(ctx, check.Pause{First: 10 * time.Millisecond}, func() error {
		if !c.ended() {
			return errors.New("it runs")
		}
		return nil
	}) == nil
}

func (d drainer) runPreStop(ctx context.Context, c container) error {
	switch h := c.preStop; {
	case h.Exec != nil:
		return d.exec(ctx, c, h.Exec.Command)
	case h.Sleep != nil:
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
		}
	case h.HTTPGet != nil:
		return c.get(ctx)
	}
	return nil
}

// get asks for the URL of a preStop from inside the pod's network, at the pod's address as a
// kubelet does.
func (c container) get(ctx context.Context) error {
	h := c.preStop.HTTPGet
	port, err := c.port(h.Port)
	if err != nil {
		return err
	}
	secure := strings.EqualFold(h.Scheme, "https")
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		// Nobody's certificate is checked, as by a kubelet.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialIn(ctx, fmt.Sprintf("/proc/%d/ns/net", c.pid), h.Host, port)
		},
	}}
	scheme := "http"
	if secure {
		scheme = "https"
	}
	host := h.Host
	if host == "" {
		host = "pod" // whatever is dialled
	}
	req, err := http.NewRequestWithContext(
		ctx,
		http.MethodGet,
		fmt.Sprintf("%s://%s/%s", scheme, net.JoinHostPort(host, strconv.Itoa(port)), strings.TrimPrefix(h.Path, "/")),
		nil,
	)
	if err != nil {
		return err
	}
	for _, x := range h.HTTPHeaders {
		req.Header.Add(x.Name, x.Value)
	}
	r, err := client.Do(req)
	if err != nil {
		return err
	}
	return r.Body.Close()
}

// dialIn connects from a network namespace, by default to its own address.
func dialIn(ctx context.Context, namespace, host string, port int) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := os.Open(namespace)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		if host == "" {
			host = ownAddress()
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		done <- result{c, err}
	}()
	r := <-done
	return r.c, r.err
}

// ownAddress of the thread's network namespace.
func ownAddress() string {
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			return p.Addr().String()
		}
	}
	return "127.0.0.1"
}

// drainCommand asks PID 1 on its standard input to end the containers.
func drainCommand(grace time.Duration) string { return "drain " + grace.String() + "\n" }

// obey carries out what the supervisor asks on r until that ends, which is when the supervisor
// has gone.
func (s *serviceSet) obey(r *bufio.Scanner) {
	for r.Scan() {
		text, ok := strings.CutPrefix(r.Text(), "drain ")
		grace, err := time.ParseDuration(text)
		if !ok || err != nil {
			continue
		}
		go func() {
			began := time.Now()
			s.hold("kubelet") // or it would start again what ends
			d := drainer{folder: taskFolder, kill: syscall.Kill, exec: s.execIn}
			left := d.drain(s.stopping, grace)
			s.tell(initEvent{State: "drained", Left: left, Detail: time.Since(began).Round(time.Millisecond).String()})
		}()
	}
}

// hold ends a service for good.
func (s *serviceSet) hold(name string) {
	s.mu.Lock()
	s.held[name] = true
	pid := s.byName[name]
	s.mu.Unlock()
	if pid == 0 {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	s.drain(time.Now().Add(leastGrace), func(n string) bool { return n == name })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byName[name] == pid {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// execIn runs a command in a container, as its user and with its environment.
func (s *serviceSet) execIn(ctx context.Context, c container, command []string) error {
	args := append([]string{nodeBin + "runc", "--root", runcFolder, "exec", c.id}, command...)
	pid, ended, err := s.spawn(service{Name: "prestop", Args: args}, "prestop "+c.id)
	if err != nil {
		return err
	}
	select {
	case ws := <-ended:
		if !ws.Exited() || ws.ExitStatus() != 0 {
			return errors.New(describe(ws))
		}
		return nil
	case <-ctx.Done():
		_ = syscall.Kill(pid, syscall.SIGKILL)
		return ctx.Err()
	}
}
