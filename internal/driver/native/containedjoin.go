package native

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
)

// joinPort is where servers let nodes in.
const joinPort = 9345

// joinRequest asks to be let in.
type joinRequest struct {
	Node node `json:"node"`
	// Fresh is a server without data of etcd: it becomes a new member.
	Fresh bool `json:"fresh,omitempty"`
}

// joinAnswer tells a node what it has to know. A server gets the keys that all servers have, an
// agent the pairs that are its own.
type joinAnswer struct {
	Cluster contained         `json:"cluster"` // with the servers
	Files   map[string][]byte `json:"files"`
}

// sharedKeys are what every server has in its pki folder.
var sharedKeys = []string{
	"ca.crt", "ca.key", "etcd-ca.crt", "etcd-ca.key", "front-proxy-ca.crt", "front-proxy-ca.key",
	"clients-ca.crt", "clients-ca.key", "sa.key", keyringFile,
}

// tokenTLS is a configuration for both ends of a connection between two that know the token: each
// shows that it has the key that is made of it, which nobody else can make. No certificate of the
// cluster is needed, and the token is never sent.
func tokenTLS(token string) (*tls.Config, error) {
	if token == "" {
		return nil, errors.New("nodes that join each other need a token (K3S_TOKEN)")
	}
	seed, err := hkdf.Key(sha256.New, []byte(token), nil, "orrery: let a node in", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	public, _ := key.Public().(ed25519.PublicKey)
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "orrery-join"}, NotAfter: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, public, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAnyClientCert,
		// Not who signed it matters, but whose key it is: that is looked at below, at both ends.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !public.Equal(s.PeerCertificates[0].PublicKey) {
				return errors.New("the other end has another token")
			}
			return nil
		},
	}, nil
}

// joins lets nodes in on a server.
type joins struct {
	paths paths
	all   contained
	self  node
	token string
	log   *slog.Logger

	mu sync.Mutex // one at a time: members of etcd are added one after the other
}

func (j *joins) serve(ctx context.Context) error {
	secure, err := tokenTLS(j.token)
	if err != nil {
		j.log.Info("without a token no node is let in")
		return nil
	}
	l, err := tls.Listen("tcp", fmt.Sprintf(":%d", joinPort), secure)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/join", func(w http.ResponseWriter, r *http.Request) {
		var ask joinRequest
		err := json.NewDecoder(io.LimitReader(r.Body, mostAnswer)).Decode(&ask)
		var answer joinAnswer
		if err == nil {
			answer, err = j.letIn(r.Context(), ask)
		}
		if err != nil {
			j.log.Warn("a node is not let in", "node", ask.Node.Name, "error", err)
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		j.log.Info("a node is let in", "node", ask.Node.Name, "address", ask.Node.Address, "role", ask.Node.Role)
		_ = json.NewEncoder(w).Encode(answer)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(j.log.Handler(), slog.LevelDebug)}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (j *joins) letIn(ctx context.Context, ask joinRequest) (joinAnswer, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := ask.Node
	if n.Name == "" || filepath.Base(n.Name) != n.Name || n.Name == j.self.Name || !n.Address.IsValid() {
		return joinAnswer{}, fmt.Errorf("node %q at %s cannot be let in", n.Name, n.Address)
	}
	answer := joinAnswer{Cluster: j.all, Files: map[string][]byte{}}
	var d net.Dialer
	members := askMembers(j.paths, func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) })
	// As this member has them: one that was added and has not begun takes the quorum away from two.
	var known struct {
		Members []member `json:"members"`
	}
	if err := members(ctx, j.self, "/v3/cluster/member/list", struct {
		Linearizable bool `json:"linearizable"`
	}{}, &known); err != nil {
		return joinAnswer{}, err
	}
	waiting := func(m member) bool { return m.Name == "" && slices.Contains(m.PeerURLs, peerURL(n)) }
	if n.server() && ask.Fresh && !slices.ContainsFunc(known.Members, waiting) {
		if err := members.replace(ctx, j.all.cluster, n); err != nil {
			return joinAnswer{}, err
		}
	}
	servers, err := serversOf(known.Members)
	if err != nil {
		return joinAnswer{}, err
	}
	if answer.Cluster.Nodes = others(servers, n.Name); n.server() {
		answer.Cluster.Nodes = append(answer.Cluster.Nodes, n)
	}
	if n.server() {
		for _, name := range sharedKeys {
			if answer.Files[name], err = os.ReadFile(j.paths.pki(name)); err != nil {
				return joinAnswer{}, err
			}
		}
		return answer, nil
	}
	one := j.all.cluster
	one.Nodes = []node{n}
	if err := credentials(&issuer{now: time.Now}, j.paths, one, allotted{}); err != nil {
		return joinAnswer{}, err
	}
	files, err := filepath.Glob(j.paths.nodeEtc(n.Name, "kubernetes", "pki", "*"))
	if err != nil {
		return joinAnswer{}, err
	}
	for _, f := range files {
		if answer.Files[filepath.Base(f)], err = os.ReadFile(f); err != nil {
			return joinAnswer{}, err
		}
	}
	return answer, nil
}

// serversOf are the members of etcd that have begun.
func serversOf(list []member) ([]node, error) {
	var servers []node
	for _, m := range list {
		if len(m.PeerURLs) == 0 || m.Name == "" {
			continue
		}
		u, err := url.Parse(m.PeerURLs[0])
		if err != nil {
			return nil, err
		}
		a, err := netip.ParseAddr(u.Hostname())
		if err != nil {
			return nil, fmt.Errorf("member %s of etcd: %w", m.Name, err)
		}
		servers = append(servers, node{Name: m.Name, Role: driver.RoleServer, Address: a})
	}
	return servers, nil
}

// joinTime bounds one try: a member is added meanwhile.
const joinTime = 15 * time.Second

// join asks until somebody lets the node in: the server that it was sent to, or another that it knows.
func (c Contained) join(ctx context.Context, p paths, known []node, self node, fresh bool) (contained, error) {
	secure, err := tokenTLS(c.Token)
	if err != nil {
		return contained{}, err
	}
	client := &http.Client{Timeout: joinTime, Transport: &http.Transport{TLSClientConfig: secure, DisableKeepAlives: true}}
	hosts := []string{c.Join}
	for _, s := range known {
		if s.Name != self.Name {
			hosts = append(hosts, s.Address.String())
		}
	}
	body, err := json.Marshal(joinRequest{self, fresh})
	if err != nil {
		return contained{}, err
	}
	var answer joinAnswer
	said := ""
	if err := check.Until(ctx, check.Pause{First: 300 * time.Millisecond, Most: 2 * time.Second}, func() error {
		var errs []error
		for _, h := range hosts {
			err := post(ctx, client, "https://"+net.JoinHostPort(h, fmt.Sprint(joinPort))+"/v1/join", body, &answer)
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		err := errors.Join(errs...)
		if said != err.Error() {
			said = err.Error()
			c.Log.Info("waits to be let in", "error", err)
		}
		return err
	}); err != nil {
		return contained{}, fmt.Errorf("join the cluster: %w", err)
	}
	for name, content := range answer.Files {
		at := p.nodeEtc(self.Name, "kubernetes", "pki", filepath.Base(name))
		if c.Server {
			if !slices.Contains(sharedKeys, name) {
				return contained{}, fmt.Errorf("the server sent %q, which is no key that servers share", name)
			}
			at = p.pki(name)
		}
		if _, err := writeFile(at, content); err != nil {
			return contained{}, err
		}
	}
	return answer.Cluster, nil
}

func post(ctx context.Context, client *http.Client, url string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r, err := client.Do(req)
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		defer r.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(r.Body, mostAnswer))
		return &statusError{r.StatusCode, string(bytes.TrimSpace(text))}
	}
	return decodeAnswer(r.Body, into)
}
