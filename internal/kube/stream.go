package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	oldstream "k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // deprecated, and in use by client-go
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
)

// PortForward listens on a free port of 127.0.0.1 and forwards it to a port of a pod. It
// returns when connections are accepted. stop ends it and waits until it has ended;
// calling it twice is fine. It ends with ctx too, or when the pod goes away: then
// connections are refused.
func (c *Client) PortForward(ctx context.Context, namespace, pod string, port int) (addr string, stop func(), err error) {
	return c.portForward(ctx, namespace, pod, port, func(err error) { // the caller sees its own connection fail
		c.log.Debug("port-forward", "namespace", namespace, "pod", pod, "port", port, "error", err)
	})
}

// portForward tells trouble what the pod's side says against single connections.
func (c *Client) portForward(ctx context.Context, namespace, pod string, port int, trouble func(error)) (addr string, stop func(), err error) {
	fail := func(err error) (string, func(), error) {
		return "", nil, fmt.Errorf("forward to port %d of pod %s/%s: %w", port, namespace, pod, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	u := c.podURL(namespace, pod, "portforward", nil)
	config := rest.CopyConfig(c.config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return inContext{ctx, next} })
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return fail(err)
	}
	overSPDY := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	overWebsocket, err := portforward.NewSPDYOverWebsocketDialer(u, config)
	if err != nil {
		return fail(err)
	}
	dialer := portforward.NewFallbackDialer(overWebsocket, overSPDY, wantsSPDY)

	ready := make(chan struct{})
	logged := klog.NewContext(ctx, klog.New(errorSink(trouble)))
	forwarder, err := portforward.NewOnAddressesWithContext(logged, dialer, []string{"127.0.0.1"}, []string{"0:" + strconv.Itoa(port)}, ready, io.Discard, io.Discard)
	if err != nil {
		return fail(err)
	}
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- forwarder.ForwardPorts() })
	stop = func() { cancel(); wg.Wait() }
	select {
	case <-ready:
	case err := <-ended:
		stop()
		if err == nil {
			err = ctx.Err()
		}
		return fail(err)
	case <-ctx.Done():
		stop()
		return fail(context.Cause(ctx))
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		stop()
		return fail(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local), stop, nil
}

// errorSink is told the errors that client-go only logs, but not what happened to the local side
// of a connection, which knows by itself.
type errorSink func(error)

func (s errorSink) Error(err error, _ string, _ ...any) {
	if local := (*net.OpError)(nil); !errors.As(err, &local) {
		s(err)
	}
}

func (errorSink) Init(klog.RuntimeInfo)            {}
func (errorSink) Enabled(int) bool                 { return false }
func (errorSink) Info(int, string, ...any)         {}
func (s errorSink) WithValues(...any) klog.LogSink { return s }
func (s errorSink) WithName(string) klog.LogSink   { return s }

// inContext binds the requests of dialers that take no context: without it a silent
// server would hold them for ever.
type inContext struct {
	ctx  context.Context
	next http.RoundTripper
}

func (i inContext) RoundTrip(r *http.Request) (*http.Response, error) {
	return i.next.RoundTrip(r.WithContext(i.ctx))
}

// Exec runs a command in a container; an empty container means the pod's default one.
// stdin, stdout and stderr may be nil. A command that fails is an error that satisfies
// k8s.io/client-go/util/exec.ExitError.
func (c *Client) Exec(ctx context.Context, namespace, pod, container string, cmd []string, stdin io.Reader, stdout, stderr io.Writer) error {
	query := url.Values{"command": cmd}
	if container != "" {
		query.Set("container", container)
	}
	for name, wanted := range map[string]bool{"stdin": stdin != nil, "stdout": stdout != nil, "stderr": stderr != nil} {
		if wanted {
			query.Set(name, "true")
		}
	}
	fail := func(err error) error {
		return fmt.Errorf("run %q in pod %s/%s: %w", strings.Join(cmd, " "), namespace, pod, err)
	}
	u := c.podURL(namespace, pod, "exec", query)
	overWebsocket, err := remotecommand.NewWebSocketExecutor(c.config, http.MethodGet, u.String())
	if err != nil {
		return fail(err)
	}
	overSPDY, err := remotecommand.NewSPDYExecutor(c.config, http.MethodPost, u)
	if err != nil {
		return fail(err)
	}
	executor, err := remotecommand.NewFallbackExecutor(overWebsocket, overSPDY, wantsSPDY)
	if err != nil {
		return fail(err)
	}
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout, Stderr: stderr}); err != nil {
		return fail(err)
	}
	return nil
}

// wantsSPDY says whether the server, or a proxy before it, speaks no websockets.
func wantsSPDY(err error) bool {
	// remotecommand returns one type of error, the dialers of portforward still the other.
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err) ||
		oldstream.IsUpgradeFailure(err)
}

// Logs reads the last lines of a container; an empty container means the pod's default
// one, a tail of 0 or less all lines.
func (c *Client) Logs(ctx context.Context, namespace, pod, container string, tail int64) (string, error) {
	query := url.Values{}
	if container != "" {
		query.Set("container", container)
	}
	if tail > 0 {
		query.Set("tailLines", strconv.FormatInt(tail, 10))
	}
	path := "/api/v1/namespaces/" + namespace + "/pods/" + pod + "/log?" + query.Encode()
	text, err := c.RawGet(ctx, path)
	if err != nil {
		return "", fmt.Errorf("logs of pod %s/%s: %w", namespace, pod, err)
	}
	return string(text), nil
}

// FollowLogs reads what a container prints from its beginning until it ends, or until the
// connection breaks: who reads on looks at the container first. It ends with ctx; the caller
// closes it.
func (c *Client) FollowLogs(ctx context.Context, namespace, pod, container string) (io.ReadCloser, error) {
	fail := func(err error) (io.ReadCloser, error) {
		return nil, fmt.Errorf("follow the logs of pod %s/%s: %w", namespace, pod, err)
	}
	u := c.podURL(namespace, pod, "log", url.Values{"container": {container}, "follow": {"true"}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fail(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fail(err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // the status says most of it
		return fail(statusError(resp.StatusCode, body))
	}
	return resp.Body, nil
}

func (c *Client) podURL(namespace, pod, subresource string, query url.Values) *url.URL {
	u := c.base.JoinPath("api/v1/namespaces", namespace, "pods", pod, subresource)
	u.RawQuery = query.Encode()
	return u
}
