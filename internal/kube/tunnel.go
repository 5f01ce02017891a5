package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Tunnel accepts connections on l and brings each to a port of a ready pod of a Service, until
// ctx ends; then it closes l and waits for what it started. It stays with a pod for as long as
// that is ready; then new connections go to another one, and those that are open are left to end
// by themselves. What keeps connections from their pod is told to trouble, also before the first
// connects; whoever made such a connection sees it closed.
func (c *Client) Tunnel(ctx context.Context, l net.Listener, namespace, service string, port int, trouble func(error)) error {
	t := &tunnel{
		trouble: trouble, fresh: time.Second,
		choose: func(ctx context.Context, now backend) (backend, error) {
			return c.backend(ctx, namespace, service, port, now)
		},
		open: func(ctx context.Context, b backend) (string, func(), error) {
			return c.portForward(ctx, namespace, b.pod, b.port, func(err error) {
				said := strings.Join(strings.Fields(err.Error()), " ") // all of it: the reason stands at the end
				trouble(fmt.Errorf("port %d of pod %s/%s: does anything listen there? %s", b.port, namespace, b.pod, said))
			})
		},
	}
	return t.serve(ctx, l)
}

// backend is a pod, and the number of its port.
type backend struct {
	pod  string
	port int
}

// backend is a ready one behind a Service: now, if that is.
func (c *Client) backend(ctx context.Context, namespace, service string, port int, now backend) (backend, error) {
	ports, err := c.servicePorts(ctx, namespace, service)
	if err != nil {
		return backend{}, err
	}
	i := slices.IndexFunc(ports, func(p ServicePort) bool { return p.Port == port })
	if i < 0 {
		return backend{}, fmt.Errorf("service %s/%s has no port %d", namespace, service, port)
	}
	found, err := c.List(ctx, "discovery.k8s.io/v1", "EndpointSlice", namespace, "kubernetes.io/service-name="+service)
	if err != nil {
		return backend{}, err
	}
	var ready []backend
	for _, s := range found {
		if target, ok := slicePort(s, ports[i].Name); ok {
			for _, pod := range readyPods(s) {
				ready = append(ready, backend{pod, target})
			}
		}
	}
	switch {
	case len(ready) == 0:
		return backend{}, apierrors.NewServiceUnavailable(fmt.Sprintf("service %s/%s has no ready pod", namespace, service))
	case slices.Contains(ready, now):
		return now, nil
	}
	return ready[0], nil
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

func readyPods(slice unstructured.Unstructured) (pods []string) {
	endpoints, _, _ := unstructured.NestedSlice(slice.Object, "endpoints")
	for _, e := range endpoints {
		m, _ := e.(map[string]any)
		ready, stated, _ := unstructured.NestedBool(m, "conditions", "ready")
		kind, _, _ := unstructured.NestedString(m, "targetRef", "kind")
		name, _, _ := unstructured.NestedString(m, "targetRef", "name")
		if (ready || !stated) && kind == "Pod" {
			pods = append(pods, name)
		}
	}
	return pods
}

// tunnel keeps one port-forward for new connections.
type tunnel struct {
	choose  func(ctx context.Context, now backend) (backend, error)
	open    func(context.Context, backend) (addr string, stop func(), err error)
	trouble func(error)
	fresh   time.Duration // for how long what was chosen is good without asking

	mu  sync.Mutex
	now *forward
}

// forward is one to a pod; it ends with the last of its connections once it was left.
type forward struct {
	backend
	addr   string
	stop   func()
	chosen time.Time
	users  int
	left   bool
}

func (t *tunnel) serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unhook := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer unhook()
	defer t.leave(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { // so that the first connection is fast, and trouble is known before
		f, err := t.acquire(ctx)
		if err == nil {
			t.release(f)
		} else if ctx.Err() == nil {
			t.trouble(err)
		}
	})
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
	f, far, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer t.release(f)
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

func (t *tunnel) dial(ctx context.Context) (*forward, net.Conn, error) {
	for try := 0; ; try++ {
		f, err := t.acquire(ctx)
		if err != nil {
			return nil, nil, err
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", f.addr)
		if err == nil {
			return f, conn, nil
		}
		t.leave(f)
		t.release(f)
		if try > 0 || ctx.Err() != nil {
			return nil, nil, err
		}
	}
}

// acquire is the forward for one more connection; release gives it back.
func (t *tunnel) acquire(ctx context.Context) (*forward, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var now backend
	if t.now != nil {
		now = t.now.backend
	}
	if t.now == nil || time.Since(t.now.chosen) >= t.fresh {
		chosen, err := t.choose(ctx, now)
		if err != nil {
			return nil, err
		}
		if t.now == nil || chosen != now {
			addr, stop, err := t.open(ctx, chosen)
			if err != nil {
				return nil, err
			}
			t.end()
			t.now = &forward{backend: chosen, addr: addr, stop: stop}
		}
		t.now.chosen = time.Now()
	}
	t.now.users++
	return t.now, nil
}

func (t *tunnel) release(f *forward) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.users--; f.left && f.users == 0 {
		f.stop()
	}
}

// leave has new connections go elsewhere than to f, or to whatever there is.
func (t *tunnel) leave(f *forward) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f == nil || f == t.now {
		t.end()
	}
}

func (t *tunnel) end() {
	if f := t.now; f != nil {
		t.now, f.left = nil, true
		if f.users == 0 {
			f.stop()
		}
	}
}
