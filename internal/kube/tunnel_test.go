package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

// echo says its name to every connection, and then what it is told, until that ends.
func echo(t *testing.T, name string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, name)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l
}

// say connects, tells something, and hears all of the answer; "" when nobody is there.
func say(t *testing.T, l net.Listener, what string) string {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprint(c, what)
	_ = c.(*net.TCPConn).CloseWrite()
	b, _ := io.ReadAll(c)
	return string(b)
}

func local(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A pod that dies, or is no longer ready, is replaced by the next one, and those that are connected
// to it may end; no pod at all is told.
func TestTunnel(t *testing.T) {
	pods := map[string]net.Listener{"first": echo(t, "first"), "second": echo(t, "second"), "third": echo(t, "third")}
	var mu sync.Mutex
	ready, stopped := []string{"first"}, map[string]bool{}
	set := func(names ...string) {
		mu.Lock()
		defer mu.Unlock()
		ready = names
	}
	isStopped := func(pod string) bool {
		mu.Lock()
		defer mu.Unlock()
		return stopped[pod]
	}
	told := make(chan error, 10)
	tun := &tunnel{
		trouble: func(err error) { told <- err },
		choose: func(_ context.Context, now backend) (backend, error) {
			mu.Lock()
			defer mu.Unlock()
			if len(ready) == 0 {
				return backend{}, errors.New("no ready pod")
			}
			return backend{ready[0], 80}, nil
		},
		open: func(_ context.Context, b backend) (string, func(), error) {
			return pods[b.pod].Addr().String(), func() {
				mu.Lock()
				defer mu.Unlock()
				stopped[b.pod] = true
			}, nil
		},
	}
	l := local(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- tun.serve(ctx, l) }()
	for range 2 {
		if got := say(t, l, "hello"); got != "first\nhello" {
			t.Errorf("%q", got)
		}
	}
	long, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	hear := func(want string) {
		t.Helper()
		long.SetDeadline(time.Now().Add(time.Minute))
		b := make([]byte, len(want))
		if _, err := io.ReadFull(long, b); err != nil || string(b) != want {
			t.Errorf("%q, %v", b, err)
		}
	}
	hear("first\n")
	set("second")
	if got := say(t, l, ""); got != "second\n" {
		t.Errorf("after the first was no longer ready: %q", got)
	}
	fmt.Fprint(long, "still here")
	hear("still here")
	if isStopped("first") {
		t.Error("the first was given up while somebody spoke to it")
	}
	long.Close()
	eventually(t, func() error {
		if !isStopped("first") {
			return errors.New("the first is kept though nobody speaks to it")
		}
		return nil
	})
	pods["second"].Close() // and nobody has noticed
	set("third")
	if got := say(t, l, ""); got != "third\n" {
		t.Errorf("after the second died: %q", got)
	}
	set()
	if got := say(t, l, ""); got != "" {
		t.Errorf("without a pod: %q", got)
	}
	if err := <-told; err == nil || err.Error() != "no ready pod" {
		t.Errorf("told %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !isStopped("second") || !isStopped("third") {
		t.Errorf("stopped: %v", stopped)
	}
}

// put writes objects of YAML to a cluster.
func put(t *testing.T, api *kubetest.Server, text string) {
	t.Helper()
	objs, err := parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objs {
		api.Put(o)
	}
}

// Connections follow a Service to the port of its pods that it means, and to one that is ready;
// what the node says against a connection is told.
func TestTunnelToService(t *testing.T) {
	api := kubetest.New(t)
	put(t, api, `
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default}
spec:
  ports: [{name: http, port: 80, targetPort: web}, {name: admin, port: 81, targetPort: 9000}]
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: default}
---
apiVersion: v1
kind: Pod
metadata: {name: new, namespace: default}`)
	// A named port may be another number in every pod: a slice for each.
	endpoints := func(oldReady, newReady bool) {
		put(t, api, fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-1, namespace: default, labels: {kubernetes.io/service-name: shop}}
ports: [{name: http, port: 8080}, {name: admin, port: 9000}]
endpoints: [{conditions: {ready: false}, targetRef: {kind: Node, name: n}}, {conditions: {ready: %t}, targetRef: {kind: Pod, name: old}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-2, namespace: default, labels: {kubernetes.io/service-name: shop}}
ports: [{name: http, port: 8081}, {name: admin, port: 9000}]
endpoints: [{conditions: {ready: %t}, targetRef: {kind: Pod, name: new}}]`, oldReady, newReady))
	}
	endpoints(true, true)
	pods := map[kubetest.Forward]net.Listener{
		{Namespace: "default", Pod: "old", Port: 8080}: echo(t, "old"), {Namespace: "default", Pod: "new", Port: 8081}: echo(t, "new"),
	}
	api.HandleForward(func(f kubetest.Forward) (string, error) {
		l := pods[f]
		if l == nil {
			return "", fmt.Errorf("dial tcp 127.0.0.1:%d: connection refused", f.Port)
		}
		return l.Addr().String(), nil
	})
	c, err := ConnectWith(api.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	told := make(chan error, 10)
	var tunnels sync.WaitGroup
	t.Cleanup(tunnels.Wait) // its context ends before
	tunnel := func(port int) net.Listener {
		l := local(t)
		tunnels.Go(func() {
			if err := c.Tunnel(t.Context(), l, "default", "shop", port, func(err error) { told <- err }); err != nil {
				t.Error(err)
			}
		})
		return l
	}
	l := tunnel(80)
	if got := say(t, l, "hello"); got != "old\nhello" {
		t.Errorf("%q", got)
	}
	endpoints(false, true)
	eventually(t, func() error { // within a second it may ask the old one
		if got := say(t, l, ""); got != "new\n" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	if len(told) > 0 {
		t.Errorf("told %v", <-told)
	}
	if got := say(t, tunnel(81), ""); got != "" {
		t.Errorf("%q", got)
	}
	if err := <-told; !strings.Contains(err.Error(), "port 9000 of pod default/new: does anything listen there? ") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("told %v", err)
	}
	endpoints(false, false)
	tunnel(80)
	if err := <-told; err.Error() != "service default/shop has no ready pod" {
		t.Errorf("told %v", err)
	}
}

func TestServicePort(t *testing.T) {
	api := kubetest.New(t)
	put(t, api, `
apiVersion: v1
kind: Service
metadata: {name: one, namespace: default}
spec: {ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: default}
spec: {ports: [{name: http, port: 9000}, {name: dns, port: 53, protocol: UDP}, {name: db, port: 80, appProtocol: postgresql}]}
---
apiVersion: v1
kind: Service
metadata: {name: udp, namespace: default}
spec: {ports: [{port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: default}
spec: {type: ExternalName, externalName: example.org}`)
	c, err := ConnectWith(api.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for _, tt := range []struct {
		service, which string
		want           ServicePort
		err            string
	}{
		{"one", "", ServicePort{Port: 5432}, ""},
		{"one", "5432", ServicePort{Port: 5432}, ""},
		{"one", "80", ServicePort{}, `has no TCP port "80"; it has 5432`},
		{"two", "http", ServicePort{"http", 9000, "http"}, ""},
		{"two", "80", ServicePort{"db", 80, ""}, ""},
		{"two", "", ServicePort{}, "say which: default/two:9000, of 9000 (http), 80 (db)"},
		{"two", "dns", ServicePort{}, `has no TCP port "dns"`},
		{"udp", "", ServicePort{}, "has no TCP port"},
		{"elsewhere", "", ServicePort{}, "another name of example.org"},
	} {
		got, err := c.ServicePort(t.Context(), "default", tt.service, tt.which)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s:%s: %+v, %v", tt.service, tt.which, got, err)
		}
	}
	if _, err := c.ServicePort(t.Context(), "default", "none", ""); !apierrors.IsNotFound(err) {
		t.Errorf("a service that is not there: %v", err)
	}
	for _, tt := range []struct {
		speaks, name string
		number       int64
		want         string
	}{
		{"http", "", 1, "http"}, {"HTTPS", "http", 80, "https"}, {"kubernetes.io/ws", "", 1, "http"}, {"kubernetes.io/wss", "", 1, "https"},
		{"kubernetes.io/h2c", "http", 80, ""}, {"", "https-api", 1, "https"}, {"", "web", 1, "http"}, {"", "grpc", 80, ""},
		{"", "", 80, "http"}, {"", "", 8443, "https"}, {"", "", 4222, ""}, {"", "80-8080", 80, "http"}, {"", "main", 8080, "http"}, {"postgresql", "http", 80, ""},
	} {
		if got := scheme(tt.speaks, tt.name, tt.number); got != tt.want {
			t.Errorf("%q %q %d: %q, want %q", tt.speaks, tt.name, tt.number, got, tt.want)
		}
	}
}
