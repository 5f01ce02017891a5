package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Tunnel accepts connections on l and brings each to a port of a ready pod of a Service,
// until ctx ends; then it closes l and waits for what it started. When the pod goes away
// the next connection goes to another one; while there is none, connections are closed at
// once and trouble is told why.
func (c *Client) Tunnel(ctx context.Context, l net.Listener, namespace, service string, port int, trouble func(error)) error {
	t := &tunnel{trouble: trouble, open: func(ctx context.Context) (string, func(), error) {
		pod, target, err := c.backend(ctx, namespace, service, port)
		if err != nil {
			return "", nil, err
		}
		return c.PortForward(ctx, namespace, pod, target)
	}}
	return t.serve(ctx, l)
}

// backend is a ready pod behind a Service, and the number of its port.
func (c *Client) backend(ctx context.Context, namespace, service string, port int) (pod string, target int, err error) {
	svc, err := c.Get(ctx, "v1", "Service", namespace, service)
	if err != nil {
		return "", 0, err
	}
	name, found := "", false
	ports, _, _ := unstructured.NestedSlice(svc.Object, "spec", "ports")
	for _, p := range ports {
		if m, ok := p.(map[string]any); ok && m["port"] == int64(port) {
			name, _ = m["name"].(string)
			found = true
		}
	}
	if !found {
		return "", 0, fmt.Errorf("service %s/%s has no port %d", namespace, service, port)
	}
	slices, err := c.List(ctx, "discovery.k8s.io/v1", "EndpointSlice", namespace, "kubernetes.io/service-name="+service)
	if err != nil {
		return "", 0, err
	}
	for _, s := range slices {
		target, ok := slicePort(s, name)
		if !ok {
			continue
		}
		if pod := readyPod(s); pod != "" {
			return pod, target, nil
		}
	}
	return "", 0, fmt.Errorf("service %s/%s has no ready pod", namespace, service)
}

func slicePort(slice unstructured.Unstructured, name string) (int, bool) {
	ports, _, _ := unstructured.NestedSlice(slice.Object, "ports")
	for _, p := range ports {
		m, _ := p.(map[string]any)
		n, _ := m["name"].(string)
		if number, ok := m["port"].(int64); ok && n == name {
			return int(number), true
		}
	}
	return 0, false
}

func readyPod(slice unstructured.Unstructured) string {
	endpoints, _, _ := unstructured.NestedSlice(slice.Object, "endpoints")
	for _, e := range endpoints {
		m, _ := e.(map[string]any)
		ready, stated, _ := unstructured.NestedBool(m, "conditions", "ready")
		kind, _, _ := unstructured.NestedString(m, "targetRef", "kind")
		name, _, _ := unstructured.NestedString(m, "targetRef", "name")
		if (ready || !stated) && kind == "Pod" {
			return name
		}
	}
	return ""
}

// tunnel keeps one port-forward, and makes another when it no longer takes connections.
type tunnel struct {
	open    func(context.Context) (addr string, stop func(), err error)
	trouble func(error)

	mu   sync.Mutex
	addr string
	stop func()
}

func (t *tunnel) serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unhook := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer unhook()
	defer t.drop("")
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			cancel()
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		wg.Go(func() {
			if err := t.carry(ctx, conn); err != nil && ctx.Err() == nil {
				t.trouble(err)
			}
		})
	}
}

func (t *tunnel) carry(ctx context.Context, near net.Conn) error {
	defer near.Close()
	far, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer far.Close()
	unhook := context.AfterFunc(ctx, func() { _ = near.Close(); _ = far.Close() })
	defer unhook()
	var wg sync.WaitGroup
	pipe := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		if half, ok := to.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	}
	wg.Go(func() { pipe(far, near) })
	pipe(near, far)
	_ = near.Close() // nothing more comes; do not wait for the other side to notice
	wg.Wait()
	return nil
}

func (t *tunnel) dial(ctx context.Context) (net.Conn, error) {
	for try := 0; ; try++ {
		addr, err := t.forward(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn, nil
		}
		t.drop(addr)
		if try > 0 || ctx.Err() != nil {
			return nil, err
		}
	}
}

func (t *tunnel) forward(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.addr == "" {
		addr, stop, err := t.open(ctx)
		if err != nil {
			return "", err
		}
		t.addr, t.stop = addr, stop
	}
	return t.addr, nil
}

// drop gives up the forward at addr, or whatever there is.
func (t *tunnel) drop(addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stop != nil && (addr == "" || addr == t.addr) {
		t.stop()
		t.addr, t.stop = "", nil
	}
}
