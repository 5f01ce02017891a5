package smoke

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/orrery-dev/orrery/internal/authority"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/natsjwt"
)

// natsServerBinary finds or builds the server that the component pins.
var natsServerBinary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("ORRERY_TEST_NATS_SERVER"); path != "" {
		return path, nil
	}
	if path, err := exec.LookPath("nats-server"); err == nil {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "orrery-nats-server-")
	if err != nil {
		return "", err
	}
	builtServer = dir
	path := filepath.Join(dir, "nats-server")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Dir = filepath.Join(natsChart, "../source")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build nats-server from %s: %w: %s", build.Dir, err, out)
	}
	return path, nil
})

var builtServer string // folder to remove at the end

// natsCluster is three real servers with the configuration of the chart, on addresses of
// the loopback interface in place of pods.
type natsCluster struct {
	t       *testing.T
	config  string            // as rendered
	entries map[string]string // of the generated secrets
	addr    []string
	running []*exec.Cmd
	env     []string
	target  natsTarget
	dir     string // of configurations and certificates
	renew   func() // writes another certificate of the same authority
}

// startNATS starts the configuration of an overlay.
func startNATS(t *testing.T, overlay string) *natsCluster {
	t.Helper()
	if testing.Short() {
		t.Skip("needs three real NATS servers; not with -short")
	}
	binary, err := natsServerBinary()
	if err != nil {
		t.Skipf("no nats-server: %v", err)
	}
	objects, err := renderNATS(t, overlay, nil)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	c := &natsCluster{t: t, config: natsConf(t, objects), running: make([]*exec.Cmd, 3)}
	// Any 127/8 address is the host's own; a random network keeps test runs apart.
	network := fmt.Sprintf("127.%d.%d", 1+rand.IntN(200), rand.IntN(250))
	c.env = []string{"NATS_CERTIFICATES=" + filepath.Join(root, "nats")}
	var urls []string
	for i := range 3 {
		c.addr = append(c.addr, fmt.Sprintf("%s.%d", network, i+1))
		urls = append(urls, "nats://"+c.addr[i]+":4222")
	}
	c.target = natsTarget{
		url:     strings.Join(urls, ","),
		servers: 3,
		options: []nats.Option{nats.IgnoreDiscoveredServers(), nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond), nats.Timeout(2 * time.Second)},
	}
	dir := filepath.Join(root, "nats")
	c.writeSecrets(root)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c.dir = dir
	roots, renew := writeCertificate(t, dir, c.addr)
	c.renew = renew
	c.target.options = append(c.target.options, nats.Secure(&tls.Config{RootCAs: roots, ServerName: "nats.messaging.svc", MinVersion: tls.VersionTLS12}))
	for i := range 3 {
		text := strings.NewReplacer("/etc/nats-tls", dir, "0.0.0.0:", c.addr[i]+":", `"/data`, fmt.Sprintf(`"%s`, filepath.Join(dir, fmt.Sprint("data", i)))).Replace(c.config)
		if err := os.WriteFile(c.file(dir, i), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.start(binary, dir, i)
	}
	t.Cleanup(func() {
		for i := range c.running {
			c.stop(i, syscall.SIGKILL)
		}
		if t.Failed() {
			for i := range 3 {
				log, _ := os.ReadFile(c.file(dir, i) + ".log")
				t.Logf("server %d:\n%s", i, tail(string(log), 25))
			}
		}
	})
	c.awaitHealthy()
	return c
}

// writeSecrets writes what the generated secrets mount, with addresses in place of the pods' names,
// and keeps the credentials of each user.
func (c *natsCluster) writeSecrets(root string) {
	c.t.Helper()
	all, err := catalog.Load("../../..")
	if err != nil {
		c.t.Fatal(err)
	}
	secrets := all.Components["nats"].Secrets
	entries := map[string]string{"nats-routes/password": "12e4"} // would be a number, were it not quoted
	for _, s := range secrets {
		for prefix, kind := range s.NKeys {
			pair, err := nkeys.CreatePair(map[string]nkeys.PrefixByte{
				"operator": nkeys.PrefixByteOperator, "account": nkeys.PrefixByteAccount, "user": nkeys.PrefixByteUser}[kind])
			if err != nil {
				c.t.Fatal(err)
			}
			seed, _ := pair.Seed()
			public, _ := pair.PublicKey()
			entries[s.Name+"/"+prefix+".seed"], entries[s.Name+"/"+prefix+".pub"] = string(seed), public
		}
	}
	for _, s := range secrets {
		if s.Namespace != "" {
			continue // of others than the servers
		}
		for _, ref := range s.PublicNKeys {
			entries[s.Name+"/"+path.Base(ref)+".pub"] = entries[ref+".pub"]
		}
		for prefix, j := range s.NATSJWTs {
			own := s.Name + "/" + prefix
			claim := natsjwt.Claim{Subject: entries[cmp.Or(j.Of, own)+".pub"], SystemAccount: entries[j.SystemAccount+".pub"],
				Account: entries[j.Account+".pub"], JetStream: j.JetStream, Publish: j.Publish, Subscribe: j.Subscribe}
			for _, ref := range j.SigningKeys {
				claim.SigningKeys = append(claim.SigningKeys, entries[ref+".pub"])
			}
			token, err := claim.Sign([]byte(entries[j.By+".seed"]), "")
			if err != nil {
				c.t.Fatal(err)
			}
			entries[own+".jwt"] = token
			if s.NKeys[prefix] == "user" {
				creds, err := natsjwt.Creds(token, []byte(entries[own+".seed"]))
				if err != nil {
					c.t.Fatal(err)
				}
				entries[own+".creds"] = string(creds)
			}
		}
		for name, text := range s.Texts {
			text = os.Expand(text, func(name string) string { return entries[s.Name+"/"+name] })
			for i, addr := range c.addr {
				text = strings.ReplaceAll(text, fmt.Sprintf("nats-%d.nats-headless.messaging.svc", i), addr)
			}
			if strings.Contains(text, ".svc:") {
				c.t.Fatalf("%s names more servers than there are:\n%s", name, text)
			}
			if err := os.MkdirAll(filepath.Join(root, s.Name), 0o700); err != nil {
				c.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, s.Name, name), []byte(text), 0o600); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	c.entries = entries
	c.target.auth = []nats.Option{nats.UserCredentialBytes([]byte(entries["nats-app/app.creds"]))}
}

func (c *natsCluster) file(dir string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("nats-%d.conf", i))
}

func (c *natsCluster) start(binary, dir string, i int) {
	c.t.Helper()
	log, err := os.OpenFile(c.file(dir, i)+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary, "--config", c.file(dir, i))
	cmd.Env = append([]string{fmt.Sprintf("POD_NAME=nats-%d", i), fmt.Sprintf(`SERVER_TAG="zone:%c"`, 'a'+i)}, c.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.running[i] = cmd
}

// stop signals server i and waits until it has ended.
func (c *natsCluster) stop(i int, signal syscall.Signal) {
	if c.running[i] == nil {
		return
	}
	c.running[i].Process.Signal(signal)
	c.running[i].Wait()
	c.running[i] = nil
}

// restart ends server i with the signal and starts it again.
func (c *natsCluster) restart(i int, signal syscall.Signal) {
	path, config := c.running[i].Path, c.running[i].Args[2]
	c.stop(i, signal)
	c.start(path, filepath.Dir(config), i)
}

// awaitHealthy waits for the answer that the startup probe of the pods waits for.
func (c *natsCluster) awaitHealthy() {
	c.t.Helper()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	start := time.Now()
	err := until(context.Background(), 60*time.Second, func() error {
		for _, a := range c.addr {
			response, err := client.Get("http://" + a + ":8222/healthz")
			if err != nil {
				return err
			}
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				return fmt.Errorf("%s is not healthy: %s", a, response.Status)
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("three servers healthy after %v", time.Since(start).Round(time.Millisecond))
}

// connect as the application's user.
func (c *natsCluster) connect() *nats.Conn {
	c.t.Helper()
	connection, err := nats.Connect(c.target.url, append(c.target.options, c.target.auth...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(connection.Close)
	return connection
}

// writeCertificate puts what cert-manager makes of the chart's Certificate into dir: its
// names, and the test's addresses in place of the pods'. renew writes the next one.
func writeCertificate(t *testing.T, dir string, addresses []string) (roots *x509.CertPool, renew func()) {
	t.Helper()
	ca, err := authority.New("test", []string{"svc"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	request := authority.Request{
		DNSNames: []string{"nats.messaging.svc"}, Lifetime: time.Hour,
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, a := range addresses {
		request.IPAddresses = append(request.IPAddresses, net.ParseIP(a))
	}
	renew = func() {
		issued, err := ca.Issue(request, time.Now())
		if err != nil {
			t.Error(err)
		}
		for name, text := range map[string][]byte{"tls.crt": issued.Certificate, "tls.key": issued.Key, "ca.crt": ca.Certificate} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Error(err)
			}
		}
	}
	renew()
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Certificate)
	return roots, renew
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func TestMain(m *testing.M) {
	code := m.Run()
	if builtServer != "" {
		os.RemoveAll(builtServer)
	}
	os.Exit(code)
}

var errTest = errors.New("from the test")
