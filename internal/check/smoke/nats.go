package smoke

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
)

// Names of the nats component; see infra/k8s/base/nats.
const (
	natsNamespace = "messaging"
	natsSet       = "nats"
	natsSelector  = "app.kubernetes.io/name=nats"
	natsPort      = 4222
	natsAppSecret = "nats-app"
	natsTLSSecret = "nats-tls"
)

// natsMessages are published to each stream.
const natsMessages = 500

// natsServers are the pods of NATS, and how many there should be.
func natsServers(ctx context.Context, env Env) (pods []unstructured.Unstructured, replicas int, err error) {
	set, err := env.Client.Get(ctx, "apps/v1", "StatefulSet", natsNamespace, natsSet)
	if err != nil {
		return nil, 0, fmt.Errorf("read the StatefulSet of NATS: %w", err)
	}
	n, _, _ := unstructured.NestedInt64(set.Object, "spec", "replicas")
	pods, err = env.Client.List(ctx, "v1", "Pod", natsNamespace, natsSelector)
	if err != nil {
		return nil, 0, fmt.Errorf("list the pods of NATS: %w", err)
	}
	byName(pods)
	return pods, int(n), nil
}

// natsSpread: all servers are Ready and answer, each in a zone of its own where there are enough.
func natsSpread(ctx context.Context, env Env) check.Result {
	pods, replicas, err := natsServers(ctx, env)
	if err != nil {
		return check.Wait("%v", err)
	}
	zoneOf, err := zones(ctx, env)
	if err != nil {
		return check.Wait("list nodes: %v", err)
	}
	if len(pods) != replicas {
		return check.Wait("%d of %d NATS servers have a pod", len(pods), replicas)
	}
	used := map[string]bool{}
	greetings := make([]error, len(pods))
	var asking sync.WaitGroup
	for i := range pods {
		asking.Go(func() { greetings[i] = natsGreeting(ctx, env, pods[i].GetName()) })
	}
	asking.Wait()
	for i := range pods {
		if !ready(&pods[i]) {
			return check.Wait("%s is not Ready: %s", pods[i].GetName(), trouble(&pods[i]))
		}
		// What the API calls Ready may have been so before the nodes were last stopped.
		if greetings[i] != nil {
			return check.Wait("%s is called Ready and does not answer: %v", pods[i].GetName(), greetings[i])
		}
		used[zoneOf[text(&pods[i], "spec", "nodeName")]] = true
	}
	available := map[string]bool{}
	for _, n := range env.topology() {
		available[n.Zone] = true
	}
	if want := min(replicas, len(available)); len(used) < want && len(available) >= 3 {
		return check.Fail(fmt.Errorf("%d NATS servers are in %d zones (%s), want %d:"+
			" the loss of one zone may lose a majority", replicas, len(used), list(used), want))
	}
	return check.OK("%d NATS servers in %d zones", replicas, len(used))
}

// natsGreeting waits for what every server says first to whoever connects.
func natsGreeting(ctx context.Context, env Env, pod string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	connection, err := (&podDialer{ctx: ctx, client: env.Client}).Dial("tcp", fmt.Sprintf("%s:%d", pod, natsPort))
	if err != nil {
		return err
	}
	defer connection.Close()
	defer context.AfterFunc(ctx, func() { _ = connection.Close() })()
	greeting := make([]byte, len("INFO "))
	if _, err := io.ReadFull(connection, greeting); err != nil {
		return fmt.Errorf("wait for its greeting: %w", err)
	}
	if string(greeting) != "INFO " {
		return fmt.Errorf("it greets with %q, as no NATS server does", greeting)
	}
	return nil
}

// natsAnonymous: who has no key is refused.
func natsAnonymous(ctx context.Context, env Env) check.Result {
	target, err := natsTargetOf(ctx, env)
	if err != nil {
		return check.Wait("%v", err)
	}
	return anonymousRefused(target.anonymous())
}

// anonymousRefused tries to connect without credentials.
func anonymousRefused(target natsTarget) check.Result {
	connection, err := nats.Connect(target.url, target.options...)
	switch {
	case err == nil:
		connection.Close()
		return check.Fail(errors.New("a client without credentials was let in"))
	case errors.Is(err, nats.ErrAuthorization):
		return check.OK("a client without credentials is refused")
	}
	return check.Wait("connect without credentials: %v", err)
}

// natsJetStream: see exercise.
func natsJetStream(ctx context.Context, env Env) check.Result {
	target, err := natsTargetOf(ctx, env)
	if err != nil {
		return check.Wait("%v", err)
	}
	message, err := exercise{messages: natsMessages, replicas: min(3, target.servers)}.run(ctx, target)
	if err != nil {
		return check.Fail(err)
	}
	return check.OK("%s", message)
}

// natsTarget is how to connect: every server has a port-forward of its own, so a client
// that loses one server goes on at another.
type natsTarget struct {
	url     string
	options []nats.Option
	auth    []nats.Option
	servers int
}

func (t natsTarget) anonymous() natsTarget { t.auth = nil; return t }

// natsTargetOf reads the pods and the credentials of NATS from the cluster. Connections
// made with it end with ctx.
func natsTargetOf(ctx context.Context, env Env) (natsTarget, error) {
	pods, replicas, err := natsServers(ctx, env)
	if err != nil {
		return natsTarget{}, err
	}
	if len(pods) == 0 {
		return natsTarget{}, errors.New("there is no pod of NATS")
	}
	auth, err := natsUser(ctx, env)
	if err != nil {
		return natsTarget{}, err
	}
	var urls []string
	for _, p := range pods {
		urls = append(urls, fmt.Sprintf("nats://%s:%d", p.GetName(), natsPort))
	}
	options := []nats.Option{
		nats.Name("orrery verify"),
		nats.SetCustomDialer(&podDialer{ctx: ctx, client: env.Client}),
		nats.SkipHostLookup(),
		nats.IgnoreDiscoveredServers(), // addresses of pods, out of reach from here
		nats.Timeout(5 * time.Second),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
	}
	secure, err := natsTLS(ctx, env)
	if err != nil {
		return natsTarget{}, err
	}
	return natsTarget{url: strings.Join(urls, ","), options: append(options, secure...), auth: []nats.Option{auth}, servers: replicas}, nil
}

// natsUser signs in as the application's user with the credentials that the cluster generated.
func natsUser(ctx context.Context, env Env) (nats.Option, error) {
	secret, err := env.Client.Get(ctx, "v1", "Secret", natsNamespace, natsAppSecret)
	if err != nil {
		return nil, fmt.Errorf("read the credentials of NATS: %w", err)
	}
	creds, err := secretValue(secret, "app.creds")
	if err != nil {
		return nil, fmt.Errorf("%w; orrery up writes it", err)
	}
	return nats.UserCredentialBytes(creds), nil
}

// natsTLS trusts the servers' CA where they have certificates (the prod overlay).
func natsTLS(ctx context.Context, env Env) ([]nats.Option, error) {
	roots, err := authorityOf(ctx, env, natsNamespace, natsTLSSecret)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// The name in the certificates is the Service's, whatever pod a forward leads to.
	name := natsSet + "." + natsNamespace + ".svc"
	return []nats.Option{nats.Secure(&tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12})}, nil
}

// authorityOf is who signed for the server whose certificate is in a Secret.
func authorityOf(ctx context.Context, env Env, namespace, name string) (*x509.CertPool, error) {
	secret, err := env.Client.Get(ctx, "v1", "Secret", namespace, name)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority in secret %s/%s: %w", namespace, name, err)
	}
	ca, err := secretValue(secret, "ca.crt")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("secret %s/%s: ca.crt holds no certificate", namespace, name)
	}
	return roots, nil
}

func secretValue(secret *unstructured.Unstructured, key string) ([]byte, error) {
	value, err := base64.StdEncoding.DecodeString(text(secret, "data", key))
	if err != nil || len(value) == 0 {
		return nil, fmt.Errorf("secret %s/%s has no %s", secret.GetNamespace(), secret.GetName(), key)
	}
	return value, nil
}

// podDialer connects to POD:PORT through a port-forward that lives as long as the
// connection.
type podDialer struct {
	ctx    context.Context // of the check: nats.go passes none to Dial
	client API
}

// Dial implements nats.CustomDialer.
func (d *podDialer) Dial(network, address string) (net.Conn, error) {
	pod, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, fmt.Errorf("port of %s: %w", address, err)
	}
	ctx, cancel := context.WithTimeout(d.ctx, 5*time.Second)
	defer cancel()
	// The forward must outlive this call, so its context is the check's; a server that
	// does not answer is given up with the timeout above.
	type forward struct {
		local string
		stop  func()
		err   error
	}
	made := make(chan forward, 1)
	go func() {
		local, stop, err := d.client.PortForward(d.ctx, natsNamespace, pod, port)
		made <- forward{local, stop, err}
	}()
	var f forward
	select {
	case f = <-made:
	case <-ctx.Done():
		go func() {
			if f := <-made; f.err == nil {
				f.stop()
			}
		}()
		return nil, fmt.Errorf("port-forward to %s: %w", pod, context.Cause(ctx))
	}
	if f.err != nil {
		return nil, f.err
	}
	connection, err := (&net.Dialer{}).DialContext(ctx, network, f.local)
	if err != nil {
		f.stop()
		return nil, err
	}
	return &forwarded{Conn: connection, stop: sync.OnceFunc(f.stop)}, nil
}

// forwarded is a connection that ends its port-forward when it is closed.
type forwarded struct {
	net.Conn
	stop func()
}

func (f *forwarded) Close() error {
	err := f.Conn.Close()
	f.stop()
	return err
}

// ConnectNATS logs in to NATS as the application's user, and says how many servers there should be. The
// connection ends with ctx.
func ConnectNATS(ctx context.Context, env Env, name string) (*nats.Conn, int, error) {
	target, err := natsTargetOf(ctx, env)
	if err != nil {
		return nil, 0, err
	}
	connection, err := connect(ctx, target.url, slices.Concat(target.options, target.auth, []nats.Option{nats.Name(name)}))
	return connection, target.servers, err
}
