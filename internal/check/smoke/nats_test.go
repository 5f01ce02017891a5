package smoke

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/orrery-dev/orrery/internal/check"
)

// greeter accepts connections on 127.0.0.1 and says one thing to each.
func greeter(t *testing.T, says string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprint(c, says)
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	return l.Addr().String()
}

// TestNATSSpread: servers that the API calls Ready are asked themselves.
func TestNATSSpread(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*fakeAPI)
		state  check.State
		says   string
	}{
		{"well", func(*fakeAPI) {}, check.Succeeded, "3 NATS servers in 3 zones"},
		{"Ready from before a stop", func(f *fakeAPI) { delete(f.forwards, "nats-1:4222") }, check.Running,
			"nats-1 is called Ready and does not answer"},
		{"something else listens", func(f *fakeAPI) { f.forwards["nats-2:4222"] = greeter(t, "SSH-2.0-x") }, check.Running,
			"as no NATS server does"},
		{"nothing is said", func(f *fakeAPI) { f.forwards["nats-2:4222"] = greeter(t, "") }, check.Running, "wait for its greeting"},
		{"one is missing", func(f *fakeAPI) { delete(f.objects, key("Pod", "messaging", "nats-0")) }, check.Running,
			"2 of 3 NATS servers have a pod"},
		{"two in one zone", func(f *fakeAPI) {
			f.objects[key("Pod", "messaging", "nats-1")].Object["spec"] = map[string]any{"nodeName": "server1"}
		}, check.Failed, "in 2 zones"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, env := newFake(t)
			f.forwards = map[string]string{}
			f.put(map[string]any{"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": map[string]any{"name": "nats",
				"namespace": "messaging"}, "spec": map[string]any{"replicas": int64(3)}})
			for i := range 3 {
				name := fmt.Sprintf("nats-%d", i)
				f.put(map[string]any{
					"apiVersion": "v1", "kind": "Pod",
					"metadata": map[string]any{"name": name, "namespace": "messaging", "labels": map[string]any{"app.kubernetes.io/name": "nats"}},
					"spec":     map[string]any{"nodeName": fmt.Sprintf("server%d", i+1)},
					"status":   map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}},
				})
				f.forwards[name+":4222"] = greeter(t, "INFO {}\r\n")
			}
			test.change(f)
			f.judge(t, natsSpread(t.Context(), env), test.state, test.says)
		})
	}
}

// TestConnect: nobody answers at first, as after a start; what waiting does not cure is said.
func TestConnect(t *testing.T) {
	tries := 0
	dialer := dial(func() (net.Conn, error) {
		if tries++; tries < 3 {
			return nil, errors.New(`unable to upgrade connection: pod not found ("nats-0_messaging")`)
		}
		return net.Dial("tcp", greeter(t, "INFO {\"auth_required\":true}\r\n-ERR 'Authorization Violation'\r\n"))
	})
	_, err := connect(t.Context(), "nats://nats-0:4222", []nats.Option{nats.SetCustomDialer(dialer), nats.SkipHostLookup(),
		nats.Timeout(time.Second)})
	if !errors.Is(err, nats.ErrAuthorization) || tries != 3 {
		t.Errorf("after %d tries: %v", tries, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	tries = -1000
	if _, err := connect(ctx, "nats://nats-0:4222", []nats.Option{nats.SetCustomDialer(dialer),
		nats.SkipHostLookup()}); err == nil || !strings.Contains(err.Error(), "pod not found") {
		t.Errorf("the error of a connection that never came: %v", err)
	}
}

type dial func() (net.Conn, error)

func (d dial) Dial(string, string) (net.Conn, error) { return d() }
