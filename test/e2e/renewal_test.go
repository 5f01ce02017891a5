package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/kube"
)

// renewals that every NATS server has to serve.
const renewals = 2

// TestRenewal has cert-manager renew NATS' certificate every minute, while messages are published and
// clients come and go: none is lost, none refused, none cut off. ORRERY_E2E_FULL=1 runs it.
func TestRenewal(t *testing.T) {
	if os.Getenv("ORRERY_E2E_FULL") != "1" {
		t.Skip("it waits for certificates of a minute, some six minutes in all: ORRERY_E2E_FULL=1 runs it")
	}
	e := newEnvironment(t, "renew", "servers: 1\nagents: 0\nnetwork: {plugin: ptp}\ncomponents: [local-path, nats, cert-manager]\n")
	e.up(t)
	l := openLedger(t, e)
	l.more(t, 50, restored)
	w := watchNATS(t, e)
	// cert-manager takes none that is shorter than an hour; it is renewed when a minute of it is over. The
	// first has months left, and nobody looks at how long it was asked for: it is renewed by hand, as
	// 'cmctl renew' does.
	e.run(t, "kubectl", "-n", "messaging", "patch", "certificate", "nats", "--type=merge", "-p", `{"spec":{"duration":"1h","renewBefore":"59m"}}`)
	e.run(t, "kubectl", "-n", "messaging", "patch", "certificate", "nats", "--subresource=status", "--type=merge", "-p",
		fmt.Sprintf(`{"status":{"conditions":[{"type":"Issuing","status":"True","reason":"ManuallyTriggered","message":"by a test","lastTransitionTime":%q}]}}`,
			time.Now().UTC().Format(time.RFC3339)))
	took := eventually(t, "every server serves renewed certificates", 10*time.Minute, func(context.Context) error { return w.renewed() })
	t.Logf("%d renewals at each of %d servers after %.0f s", renewals, len(w.served), took.Seconds())
	l.more(t, 50, restored)
	w.end(t)
	l.check(t)
	if err := l.failed(); err != nil {
		t.Errorf("the publisher was disturbed: %v", err)
	}
	for range 5 {
		e.run(t, "verify", "cert-manager")
	}
}

// failed is the last error of the publisher, if it has one now; see withStream for the one that ends every turn.
func (l *ledger) failed() error {
	if _, err := l.count(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// natsWatch keeps one client at every server, and has others connect all the time.
type natsWatch struct {
	stop func()
	done sync.WaitGroup

	mu      sync.Mutex
	served  map[string]map[string]bool // server → serial numbers
	came    int
	refused []error
}

func watchNATS(t *testing.T, e *environment) *natsWatch {
	t.Helper()
	client, err := kube.Connect(e.state("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	w := &natsWatch{stop: cancel, served: map[string]map[string]bool{}}
	secret, err := client.Get(ctx, "v1", "Secret", "messaging", "nats-app")
	if err != nil {
		t.Fatal(err)
	}
	creds, err := secretValue(secret, "app.creds")
	if err != nil {
		t.Fatal(err)
	}
	servers, options := natsServers(t, e, client)
	options = append(options, nats.UserCredentialBytes(creds))
	for name, url := range servers {
		w.served[name] = map[string]bool{}
		stays, err := nats.Connect(url, append(slices.Clone(options), nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if ctx.Err() == nil {
				w.fail(fmt.Errorf("a client of %s was cut off: %w", name, err))
			}
		}))...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Cleanup(stays.Close)
		w.done.Go(func() {
			for ctx.Err() == nil {
				w.come(name, url, options)
				select {
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond): // a steady witness, not a load test
				}
			}
		})
	}
	return w
}

// natsServers are the URLs of NATS' servers, by pod, and how to connect to them but for a credential.
func natsServers(t *testing.T, e *environment, client *kube.Client) (urls map[string]string, options []nats.Option) {
	t.Helper()
	pods, err := client.List(t.Context(), "v1", "Pod", "messaging", "app.kubernetes.io/name=nats")
	if err != nil || len(pods) == 0 {
		t.Fatalf("%d pods of NATS: %v", len(pods), err)
	}
	urls = map[string]string{}
	for _, pod := range pods {
		ip, _, _ := unstructured.NestedString(pod.Object, "status", "podIP")
		urls[pod.GetName()] = "nats://" + net.JoinHostPort(ip, "4222")
	}
	secret, err := client.Get(t.Context(), "v1", "Secret", "messaging", "nats-tls")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := secretValue(secret, "ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	// From a pod's own network: a port-forward could fail by itself.
	var within inNetworkOf
	for pid, name := range e.processes(t) {
		if name == "nats-server" {
			within = inNetworkOf(pid)
		}
	}
	return urls, []nats.Option{
		nats.NoReconnect(), nats.Timeout(5 * time.Second), nats.SetCustomDialer(within),
		nats.Secure(&tls.Config{RootCAs: roots, ServerName: "nats.messaging.svc", MinVersion: tls.VersionTLS12}),
	}
}

// inNetworkOf a process is where connections come from.
type inNetworkOf int

// Dial implements nats.CustomDialer.
func (pid inNetworkOf) Dial(_, address string) (net.Conn, error) {
	return dialIn(context.Background(), int(pid), address, 5*time.Second)
}

// come connects once, and notes the certificate.
func (w *natsWatch) come(name, url string, options []nats.Option) {
	conn, err := nats.Connect(url, options...)
	if err != nil {
		w.fail(fmt.Errorf("%s refused a client: %w", name, err))
		return
	}
	defer conn.Close()
	state, err := conn.TLSConnectionState()
	if err != nil {
		w.fail(fmt.Errorf("%s: %w", name, err))
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.came++
	w.served[name][state.PeerCertificates[0].SerialNumber.String()] = true
}

func (w *natsWatch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused = append(w.refused, err)
}

func (w *natsWatch) renewed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range maps.Keys(w.served) {
		if n := len(w.served[name]); n <= renewals {
			return fmt.Errorf("%s has served %d certificates", name, n)
		}
	}
	return nil
}

func (w *natsWatch) end(t *testing.T) {
	t.Helper()
	w.stop()
	w.done.Wait()
	for _, err := range w.refused {
		t.Error(err)
	}
	t.Logf("%d clients came, %d were refused or cut off", w.came, len(w.refused))
}
