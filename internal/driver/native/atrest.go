package native

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
)

var _ driver.AtRestKeeper = (*Driver)(nil)

// reloadTime bounds the wait for API servers to read a changed file: they look once a minute.
const reloadTime = 3 * time.Minute

// apiTunnel is where the supervisor hands a look at one API server's numbers on, past the balancer.
const apiTunnel = "/v1/apiserver/"

// tunnelMetrics answers GET /v1/apiserver/NODE/metrics.
func (s *supervisor) tunnelMetrics(w http.ResponseWriter, r *http.Request) {
	n, ok := s.cluster.node(r.PathValue("name"))
	if !ok || !n.server() {
		reply(w, nil, fmt.Errorf("no server %q in environment %q", r.PathValue("name"), s.cluster.Environment))
		return
	}
	a, err := newAPI(s.paths, apiPort)
	if err != nil {
		reply(w, nil, err)
		return
	}
	defer a.close()
	a.base = fmt.Sprintf("https://%s:%d", n.Address, apiPort)
	a.http.Transport.(*http.Transport).DialContext = dialWith(s.fabric.ns.dial)
	b, err := a.get(r.Context(), "/metrics")
	if err != nil {
		reply(w, nil, err)
		return
	}
	_, _ = w.Write(b)
}

// RotateAtRest implements [driver.AtRestKeeper]. How far it has come is in the order of the keys
// alone: a new one after the old is read with; before it, it writes. Each order is written down before
// the servers are told, but the last one after: a server never has a key that the file has not.
func (d *Driver) RotateAtRest(ctx context.Context, tell func(part string)) (done driver.AtRestRotation, err error) {
	if tell == nil {
		tell = func(string) {}
	}
	fail := func(err error) (driver.AtRestRotation, error) {
		return done, fmt.Errorf("%w\n  nothing is lost: 'orrery secrets rotate-at-rest' goes on from here", err)
	}
	if _, err := supervisorIdentity(d.paths); err != nil {
		return done, fmt.Errorf("rotate the key of what is in etcd: %w; 'orrery up' or 'orrery start' starts the environment", err)
	}
	if err := lostKeys(d.paths, d.cluster); err != nil {
		return done, err
	}
	ring, err := readKeyring(d.paths.pki(keyringFile))
	if err != nil {
		return done, err
	}
	at, err := newRotation(ring)
	if err != nil {
		return done, err
	}
	done.From, done.To, done.Resumed = at.old.name, at.new.name, len(ring) > 1
	if !at.writes {
		// Not before all of them can be told: one that cannot would end with a key that it lacks.
		if err := d.everyServerReloads(ctx); err != nil {
			return done, err
		}
		tell("read with " + at.new.name)
		if err := d.useKeys(ctx, keyring{at.old, at.new}, true); err != nil {
			return fail(err)
		}
	}
	tell("write with " + at.new.name)
	if err := d.useKeys(ctx, keyring{at.new, at.old}, true); err != nil {
		return fail(err)
	}
	tell("write everything anew")
	if done.Rewritten, done.Encrypted, err = d.rewrite(ctx, at.new.name); err != nil {
		return fail(err)
	}
	tell("give up " + at.old.name)
	if err := d.useKeys(ctx, keyring{at.new}, false); err != nil {
		return fail(err)
	}
	return done, nil
}

// rotation is where an exchange of keys stands.
type rotation struct {
	old, new atRestKey
	writes   bool // the new one is first already
}

func newRotation(ring keyring) (rotation, error) {
	switch len(ring) {
	case 1:
		return rotation{ring[0], ring.next(), false}, nil
	case 2:
		if ring.next().name == keyAfter(ring[0]) { // the first has the highest number
			return rotation{ring[1], ring[0], true}, nil
		}
		return rotation{ring[0], ring[1], false}, nil
	}
	return rotation{}, fmt.Errorf("%s has %d keys, want one, or two while they are exchanged: restore it from a backup", keyringFile, len(ring))
}

// keyAfter is the name of the key that follows one.
func keyAfter(k atRestKey) string { return keyring{k}.next().name }

// useKeys tells all servers which keys to use, and returns when those that run do. first: before
// that, the file is written.
func (d *Driver) useKeys(ctx context.Context, r keyring, first bool) error {
	file := d.paths.pki(keyringFile)
	if first {
		if _, err := writeFile(file, []byte(r.String())); err != nil {
			return err
		}
	}
	config := r.config()
	for _, n := range d.cluster.servers() {
		if _, err := writeFile(d.paths.nodeEtc(n.Name, "kubernetes", "pki", atRestConfig), config); err != nil {
			return fmt.Errorf("keys of %s: %w", n.Name, err)
		}
	}
	want := fmt.Sprintf("sha256:%x", sha256.Sum256(config))
	ctx, cancel := context.WithTimeout(ctx, max(reloadTime, d.options.Timeout))
	defer cancel()
	err := check.Until(ctx, check.Pause{First: 250 * time.Millisecond, Most: 2 * time.Second}, func() error {
		return d.eachRunning(ctx, func(n node) error {
			got, err := d.loadedKeys(ctx, n)
			if err == nil && got != want {
				err = fmt.Errorf("the API server of %s has not read its new keys yet", n.Name)
			}
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("tell API servers their keys: %w", err)
	}
	if !first {
		_, err = writeFile(file, []byte(r.String()))
	}
	return err
}

// eachRunning asks every server but those that a person has stopped: these read their keys when they
// start. One that does not run without having been stopped is waited for.
func (d *Driver) eachRunning(ctx context.Context, ask func(node) error) error {
	st, err := newClient(d.paths).status(ctx)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, m := range st.Nodes {
		wanted[m.Name] = m.Wanted
	}
	var errs []error
	for _, n := range d.cluster.servers() {
		if wanted[n.Name] {
			errs = append(errs, ask(n))
		}
	}
	if len(errs) == 0 {
		return errors.New("no server runs: 'orrery node start' starts one")
	}
	return errors.Join(errs...)
}

func (d *Driver) everyServerReloads(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.patience())
	defer cancel()
	return check.Until(ctx, check.Pause{First: 250 * time.Millisecond, Most: 2 * time.Second}, func() error {
		err := d.eachRunning(ctx, func(n node) error {
			_, err := d.loadedKeys(ctx, n)
			return err
		})
		if errors.Is(err, errNoReload) || errors.Is(err, errOldSupervisor) {
			err = check.Final(err)
		}
		return err
	})
}

var errNoReload = errors.New("it was started by an orrery that could not exchange keys: 'orrery stop' and 'orrery start' renew it")

var loadedConfig = regexp.MustCompile(`(?m)^apiserver_encryption_config_controller_last_config_info\{.*\bhash="([^"]+)"`)

// loadedKeys is the hash of the file that a server's API server works with.
func (d *Driver) loadedKeys(ctx context.Context, n node) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://supervisor"+apiTunnel+n.Name+"/metrics", nil)
	if err != nil {
		return "", err
	}
	r, err := newClient(d.paths).http.Do(req)
	if err != nil {
		return "", fmt.Errorf("API server of %s: %w", n.Name, err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, maxMessage))
	switch {
	case err != nil:
		return "", fmt.Errorf("API server of %s: %w", n.Name, err)
	case r.StatusCode == http.StatusNotFound:
		return "", errOldSupervisor
	case r.StatusCode != http.StatusOK:
		return "", fmt.Errorf("API server of %s: %s", n.Name, bytes.TrimSpace(b[:min(len(b), 300)]))
	}
	m := loadedConfig.FindSubmatch(b)
	if m == nil {
		return "", fmt.Errorf("API server of %s: %w", n.Name, errNoReload)
	}
	return string(m[1]), nil
}

// rewrites is how often everything is looked through: what is made meanwhile has the new key.
const rewrites = 5

// rewrite has the API write all that etcd has under another key, or under none, until there is no
// such thing. What etcd holds is what counts.
func (d *Driver) rewrite(ctx context.Context, key string) (rewritten, encrypted int, err error) {
	ask, err := d.etcdValues()
	if err != nil {
		return 0, 0, err
	}
	a, err := newAPI(d.paths, d.cluster.API)
	if err != nil {
		return 0, 0, err
	}
	defer a.close()
	var refused error
	for range rewrites {
		var stale []string
		encrypted, refused = 0, nil
		for _, resource := range encryptedResources {
			err := ask.each(ctx, "/registry/"+resource+"/", func(at string, value []byte) {
				if by, _, ok := sealedValue(value); ok && by == key {
					encrypted++
				} else {
					stale = append(stale, at)
				}
			})
			if err != nil {
				return rewritten, encrypted, fmt.Errorf("look through etcd: %w", err)
			}
		}
		if len(stale) == 0 {
			return rewritten, encrypted, nil
		}
		for _, at := range stale {
			did, err := a.writeAnew(ctx, at)
			if err != nil {
				refused = errors.Join(refused, err)
			}
			if did {
				rewritten++
			}
		}
		if ctx.Err() != nil {
			return rewritten, encrypted, ctx.Err()
		}
	}
	return rewritten, encrypted, errors.Join(errors.New("not everything could be written under the new key, so the old one is kept"), refused)
}

// writeAnew writes the object that etcd has at a key as it is. The API server skips that for one
// that was not changed, unless it is under another key than the one that writes.
func (a *api) writeAnew(ctx context.Context, at string) (did bool, err error) {
	f := strings.Split(strings.TrimPrefix(at, "/registry/"), "/")
	if len(f) != 3 {
		return false, fmt.Errorf("etcd has %s, which is no object of a namespace", at)
	}
	url := fmt.Sprintf("/api/v1/namespaces/%s/%s/%s", f[1], f[0], f[2])
	b, err := a.get(ctx, url)
	if isStatus(err, http.StatusNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s %s/%s: %w", f[0], f[1], f[2], err)
	}
	_, err = a.send(ctx, http.MethodPut, url, "application/json", json.RawMessage(b))
	if isStatus(err, http.StatusConflict) || isStatus(err, http.StatusNotFound) { // somebody was quicker
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("write %s %s/%s anew: %w", f[0], f[1], f[2], err)
	}
	return true, nil
}

// etcdValues reads what etcd has at keys.
type etcdValues func(ctx context.Context, body, into any) error

// mostValues bounds an answer: of valuesAtOnce objects of 1.5 MiB at most, in base64.
const (
	mostValues   = 64 << 20
	valuesAtOnce = 16
)

func (d *Driver) etcdValues() (etcdValues, error) {
	if _, err := supervisorIdentity(d.paths); err != nil {
		return nil, fmt.Errorf("ask etcd: %w; 'orrery up' or 'orrery start' starts the environment", err)
	}
	c := newClient(d.paths)
	return func(ctx context.Context, body, into any) error {
		var errs []error
		for _, n := range d.cluster.servers() {
			one, cancel := context.WithTimeout(ctx, 4*askTime)
			answer, err := c.postEtcd(one, n, "/v3/kv/range", body)
			if err == nil {
				err = json.NewDecoder(io.LimitReader(answer, mostValues)).Decode(into)
				answer.Close()
			}
			cancel()
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}, nil
}

type etcdRange struct {
	More bool `json:"more"`
	KVs  []struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
	} `json:"kvs"`
}

// each calls f with all keys that begin with prefix, and their values.
func (ask etcdValues) each(ctx context.Context, prefix string, f func(key string, value []byte)) error {
	end := []byte(prefix)
	end[len(end)-1]++
	for from := []byte(prefix); ; {
		var page etcdRange
		if err := ask(ctx, map[string]any{"key": from, "range_end": end, "limit": valuesAtOnce}, &page); err != nil {
			return err
		}
		for _, kv := range page.KVs {
			f(string(kv.Key), kv.Value)
		}
		if !page.More || len(page.KVs) == 0 {
			return nil
		}
		from = append(page.KVs[len(page.KVs)-1].Key, 0)
	}
}

// AtRestKey implements [driver.AtRestKeeper].
func (d *Driver) AtRestKey(ctx context.Context, resource, namespace, name string) (string, error) {
	ask, err := d.etcdValues()
	if err != nil {
		return "", err
	}
	at := fmt.Sprintf("/registry/%s/%s/%s", resource, namespace, name)
	var page etcdRange
	if err := ask(ctx, map[string]any{"key": []byte(at)}, &page); err != nil {
		return "", fmt.Errorf("read %s from etcd: %w", at, err)
	}
	if len(page.KVs) == 0 {
		return "", fmt.Errorf("etcd has no %s", at)
	}
	key, _, _ := sealedValue(page.KVs[0].Value)
	return key, nil
}
