package native

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
)

// member of etcd, as its JSON gateway has it.
type member struct {
	ID       string   `json:"ID"`
	Name     string   `json:"name,omitempty"`
	PeerURLs []string `json:"peerURLs"`
}

// memberAPI asks the member on a server.
type memberAPI func(ctx context.Context, on node, path string, body, into any) error

// dialer connects to an address of the fabric.
type dialer = func(ctx context.Context, address string) (net.Conn, error)

// askMembers asks over the fabric.
func askMembers(p paths, dial dialer) memberAPI {
	return func(ctx context.Context, on node, path string, body, into any) error {
		transport, err := etcdTransport(p, on, dial)
		if err != nil {
			return err
		}
		answer, err := postJSON(ctx, &http.Client{Transport: transport}, fmt.Sprintf("https://%s:2379%s", on.Address, path), body)
		if err != nil {
			return fmt.Errorf("etcd on %s: %w", on.Name, err)
		}
		return decodeAnswer(answer, into)
	}
}

// etcdTransport reaches the member on a node with the certificate that its API server has.
func etcdTransport(p paths, on node, dial dialer) (*http.Transport, error) {
	at := func(name string) string { return p.nodeEtc(on.Name, "kubernetes", "pki", name) }
	pair, err := tls.LoadX509KeyPair(at("apiserver-etcd-client.crt"), at("apiserver-etcd-client.key"))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(p.pki("etcd-ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext:       dialWith(dial),
		TLSClientConfig:   &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12},
	}, nil
}

// dialWith is dial as a transport wants it.
func dialWith(dial dialer) func(ctx context.Context, _, address string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) }
}

// mostAnswer is how long an answer that is no snapshot can be.
const mostAnswer = 1 << 20

// postJSON returns an answer that is a success; the caller closes it.
func postJSON(ctx context.Context, client *http.Client, url string, body any) (io.ReadCloser, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	r, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if r.StatusCode == http.StatusOK {
		return r.Body, nil
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(r.Body, mostAnswer))
	return nil, &statusError{r.StatusCode, string(bytes.TrimSpace(text))}
}

func decodeAnswer(answer io.ReadCloser, into any) error {
	defer answer.Close()
	b, err := io.ReadAll(io.LimitReader(answer, mostAnswer))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

const askTime = 3 * time.Second // a member without a quorum does not answer

// members lists them as the other servers have them, and says who answered. Only members with a
// quorum answer.
func (ask memberAPI) members(ctx context.Context, c cluster, of node) (list []member, from node, err error) {
	var errs []error
	for _, s := range c.servers() {
		if s.Name == of.Name {
			continue
		}
		var answer struct {
			Members []member `json:"members"`
		}
		one, cancel := context.WithTimeout(ctx, askTime)
		err := ask(one, s, "/v3/cluster/member/list", struct {
			Linearizable bool `json:"linearizable"`
		}{true}, &answer)
		cancel()
		if err == nil && len(answer.Members) > 0 {
			return answer.Members, s, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
	}
	return nil, node{}, fmt.Errorf("no other member of etcd answers with a quorum: %w", errors.Join(errs...))
}

// replace makes room for n: the member that it was is removed, and one without data is added, as
// https://etcd.io/docs/v3.6/op-guide/runtime-configuration/#replace-a-failed-machine has it.
func (ask memberAPI) replace(ctx context.Context, c cluster, n node) error {
	list, from, err := ask.members(ctx, c, n)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*askTime)
	defer cancel()
	peer := peerURL(n)
	var ignored any
	for _, m := range list {
		if m.Name != n.Name && !slices.Contains(m.PeerURLs, peer) {
			continue
		}
		if err := ask(ctx, from, "/v3/cluster/member/remove", map[string]string{"ID": m.ID}, &ignored); err != nil {
			return fmt.Errorf("remove the member that %s was: %w", n.Name, err)
		}
	}
	if err := ask(ctx, from, "/v3/cluster/member/add", map[string][]string{"peerURLs": {peer}}, &ignored); err != nil {
		return fmt.Errorf("add %s as a new member: %w", n.Name, err)
	}
	return nil
}

// Three files say what a server's member of etcd has been through.
func (p paths) etcdFolder() string           { return filepath.Join("lib", "etcd") } // below var of a node
func (p paths) memberJoined(n string) string { return p.join("nodes", n, "etcd-joined") }
func (p paths) memberAdded(n string) string  { return filepath.Join(p.node(n), memberAddedFile) }

// memberAddedFile tells PID 1 that its member joins others.
const memberAddedFile = "etcd-added"

// noteMember writes down that the node's member has data, so that we know when it is gone.
func (p paths) noteMember(n node) error {
	if !n.server() || !exists(p.etcd(n)) {
		return nil
	}
	_, err := writeFile(p.memberJoined(n.Name), []byte("its data was seen\n"))
	if rerr := os.Remove(p.memberAdded(n.Name)); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// memberLoss is what a member without data is.
type memberLoss int

const (
	memberWhole   memberLoss = iota // it has its data, or nobody has any yet
	memberLate                      // it may never have had data: others have begun
	memberWithout                   // it had data, and it is gone
)

func (p paths) memberLoss(c cluster, n node) memberLoss {
	switch {
	case !n.server() || exists(p.etcd(n)):
		return memberWhole
	case exists(p.memberJoined(n.Name)):
		return memberWithout
	}
	for _, s := range c.servers() {
		if s.Name != n.Name && exists(p.etcd(s)) {
			return memberLate
		}
	}
	return memberWhole
}

var errLastMember = errors.New(
	"its data of etcd is gone and there is no other server that has it: 'orrery etcd restore' takes it from a snapshot; without one 'orrery down' removes the environment, and 'orrery up' makes it anew",
)

// restoreMember lets a member that lost its data join again. One that never had data starts as
// the others did while these have no quorum. Until one is there it waits, and tells why.
func (m *machine) restoreMember(ctx context.Context, loss memberLoss) error {
	if loss == memberWhole {
		return m.paths.noteMember(m.node)
	}
	if len(m.cluster.servers()) == 1 {
		return errLastMember
	}
	if loss == memberLate {
		if _, _, err := m.ask.members(ctx, m.cluster, m.node); err != nil {
			return nil //nolint:nilerr // there is nothing to join yet
		}
	}
	// Noted first: between its removal and its addition it must not start as the one it was.
	if _, err := writeFile(m.paths.memberJoined(m.node.Name), []byte("it is replaced\n")); err != nil {
		return err
	}
	m.log.Warn("the node has no data of etcd while others have; it joins as a new member", "node", m.node.Name)
	// Members that were separated a moment ago let nobody in for five seconds.
	err := check.Until(ctx, check.Pause{First: time.Second}, func() error {
		err := m.ask.replace(ctx, m.cluster, m.node)
		if err != nil {
			m.tell("its data of etcd is gone, and to join again it needs more than half of the members: " + err.Error())
		}
		return err
	})
	if err != nil {
		return err
	}
	_, err = writeFile(m.paths.memberAdded(m.node.Name), []byte("member added\n"))
	return err
}

// tell says why the node does not run yet.
func (m *machine) tell(problem string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.problem = problem
}

// replaceMember takes a server's data away and lets it join again with none. It asks first
// whether the others can do without. It returns the pods that had not ended within grace.
func (s *supervisor) replaceMember(ctx context.Context, m *machine, grace time.Duration) (left []string, err error) {
	if !m.node.server() {
		return nil, fmt.Errorf("%s is an agent, and has no member of etcd", m.node.Name)
	}
	if len(s.cluster.servers()) == 1 {
		return nil, fmt.Errorf(
			"%s is the only server: there is nobody to get its data from; 'orrery etcd restore' takes it from a snapshot",
			m.node.Name,
		)
	}
	if _, _, err := m.ask.members(ctx, s.cluster, m.node); err != nil {
		return nil, fmt.Errorf("the member on %s stays: %w", m.node.Name, err)
	}
	left = m.drain(ctx, grace)
	m.stop()
	if _, err := writeFile(s.paths.memberJoined(m.node.Name), []byte("its data was taken away\n")); err != nil {
		return left, err
	}
	root, err := os.OpenRoot(s.paths.nodeVar(m.node.Name)) // the node may have put links there
	if err != nil {
		return left, err
	}
	defer root.Close()
	if err := root.RemoveAll(s.paths.etcdFolder()); err != nil {
		return left, fmt.Errorf("remove the data of %s: %w", m.node.Name, err)
	}
	if err := os.Remove(s.paths.nodeStop(m.node.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return left, err
	}
	m.start()
	return left, nil
}

// joinExisting lets etcd join a cluster that has begun.
func (c *initConfig) joinExisting() {
	for i, svc := range c.Services {
		if svc.Name != "etcd" {
			continue
		}
		args := slices.Clone(svc.Args)
		for j, a := range args {
			if a == initialState+"new" {
				args[j] = initialState + "existing"
			}
		}
		c.Services[i].Args = args
	}
}
