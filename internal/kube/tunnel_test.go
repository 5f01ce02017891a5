package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// echo answers every connection with its name.
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
			fmt.Fprint(c, name)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l
}

// A pod that dies is replaced by the next one; no pod at all is told.
func TestTunnel(t *testing.T) {
	first, second := echo(t, "first"), echo(t, "second")
	var mu sync.Mutex
	pods := []string{first.Addr().String(), second.Addr().String()}
	told := make(chan error, 10)
	tun := &tunnel{
		trouble: func(err error) { told <- err },
		open: func(context.Context) (string, func(), error) {
			mu.Lock()
			defer mu.Unlock()
			if len(pods) == 0 {
				return "", nil, errors.New("no ready pod")
			}
			addr := pods[0]
			pods = pods[1:]
			return addr, func() {}, nil
		},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- tun.serve(ctx, l) }()
	get := func() string {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		b, _ := io.ReadAll(c)
		return string(b)
	}
	for range 2 {
		if got := get(); got != "first" {
			t.Errorf("%q", got)
		}
	}
	first.Close()
	if got := get(); got != "second" {
		t.Errorf("after the first died: %q", got)
	}
	second.Close()
	if got := get(); got != "" {
		t.Errorf("without a pod: %q", got)
	}
	if err := <-told; err == nil || err.Error() != "no ready pod" {
		t.Errorf("told %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestReadyPod(t *testing.T) {
	slice := unstructured.Unstructured{Object: map[string]any{
		"ports": []any{map[string]any{"name": "web", "port": int64(9090)}},
		"endpoints": []any{
			map[string]any{"conditions": map[string]any{"ready": false}, "targetRef": map[string]any{"kind": "Pod", "name": "a"}},
			map[string]any{"targetRef": map[string]any{"kind": "Node", "name": "n"}},
			map[string]any{"conditions": map[string]any{"ready": true}, "targetRef": map[string]any{"kind": "Pod", "name": "b"}},
		},
	}}
	if pod := readyPod(slice); pod != "b" {
		t.Error(pod)
	}
	if port, ok := slicePort(slice, "web"); !ok || port != 9090 {
		t.Error(port, ok)
	}
	if _, ok := slicePort(slice, "other"); ok {
		t.Error("a port that is not there")
	}
}
