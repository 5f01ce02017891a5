package native

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
)

var _ driver.EtcdKeeper = (*Driver)(nil)

// alarmNoSpace is raised when a member's file has reached its quota: etcd takes no writes then,
// but for deletions.
const alarmNoSpace = "NOSPACE"

// defaultQuota of etcd, where a member does not say its own.
const defaultQuota = 2 << 30

// etcdTunnel is where the supervisor hands requests on to a server's member. It is what can
// reach them: they listen on the fabric only.
const etcdTunnel = "/v1/etcd/"

// tunnelEtcd answers POST /v1/etcd/NODE/PATH with what the member on NODE says.
func (s *supervisor) tunnelEtcd(w http.ResponseWriter, r *http.Request) {
	n, ok := s.cluster.node(r.PathValue("name"))
	if !ok || !n.server() {
		reply(w, nil, fmt.Errorf("no server %q in environment %q", r.PathValue("name"), s.cluster.Environment))
		return
	}
	transport, err := etcdTransport(s.paths, n, s.fabric.ns.dial)
	if err != nil {
		reply(w, nil, err)
		return
	}
	(&httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "https", fmt.Sprintf("%s:2379", n.Address), ""
			p.Out.URL.Path, p.Out.URL.RawPath = "/"+r.PathValue("path"), ""
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { reply(w, nil, err) },
	}).ServeHTTP(w, r)
}

// postEtcd asks the member on a server over the supervisor. The caller closes the answer.
func (c *client) postEtcd(ctx context.Context, on node, path string, body any) (io.ReadCloser, error) {
	answer, err := postJSON(ctx, c.http, "http://supervisor"+etcdTunnel+on.Name+path, body)
	if status, ok := errors.AsType[*statusError](err); ok && status.code == http.StatusNotFound {
		return nil, errOldSupervisor
	}
	if err != nil {
		return nil, fmt.Errorf("etcd on %s: %w", on.Name, err)
	}
	return answer, nil
}

var errOldSupervisor = errors.New("the supervisor is of an orrery that could not look after etcd: 'orrery stop' and 'orrery start' renew it")

func (c *client) askEtcd(ctx context.Context, on node, path string, body, into any) error {
	answer, err := c.postEtcd(ctx, on, path, body)
	if err != nil {
		return err
	}
	return decodeAnswer(answer, into)
}

// etcd asks the members of a running environment.
func (d *Driver) etcd() (memberAPI, error) {
	if _, err := supervisorIdentity(d.paths); err != nil {
		return nil, fmt.Errorf("ask etcd: %w; 'orrery up' or 'orrery start' starts the environment", err)
	}
	return newClient(d.paths).askEtcd, nil
}

// memberStatus is the answer to /v3/maintenance/status. etcd leaves out what is zero.
type memberStatus struct {
	Header struct {
		Member   uint64 `json:"member_id,string"`
		Revision int64  `json:"revision,string"`
	} `json:"header"`
	Version string   `json:"version"`
	Size    int64    `json:"dbSize,string"`
	InUse   int64    `json:"dbSizeInUse,string"`
	Quota   int64    `json:"dbSizeQuota,string"`
	Leader  uint64   `json:"leader,string"`
	Index   uint64   `json:"raftIndex,string"`
	Term    uint64   `json:"raftTerm,string"`
	Applied uint64   `json:"raftAppliedIndex,string"`
	Learner bool     `json:"isLearner"`
	Errors  []string `json:"errors"`
}

func (ask memberAPI) status(ctx context.Context, n node) (memberStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var s memberStatus
	return s, ask(ctx, n, "/v3/maintenance/status", struct{}{}, &s)
}

// alarm that a member has raised.
type alarm struct {
	Member uint64 `json:"memberID,string"`
	Name   string `json:"alarm"`
}

// alarms of all members, as one that has a quorum knows them.
func (ask memberAPI) alarms(ctx context.Context, c cluster) ([]alarm, error) {
	var errs []error
	for _, s := range c.servers() {
		var answer struct {
			Alarms []alarm `json:"alarms"`
		}
		one, cancel := context.WithTimeout(ctx, askTime)
		err := ask(one, s, "/v3/maintenance/alarm", map[string]string{"action": "GET"}, &answer)
		cancel()
		if err == nil {
			return answer.Alarms, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no member of etcd says which alarms there are: %w", errors.Join(errs...))
}

// look asks every member how it is. An alarm of one keeps all from writing.
func (ask memberAPI) look(ctx context.Context, c cluster) []driver.EtcdMember {
	alarms, alarmErr := ask.alarms(ctx, c)
	var members []driver.EtcdMember
	var raised []string
	for _, n := range c.servers() {
		m := driver.EtcdMember{Node: n.Name}
		s, err := ask.status(ctx, n)
		if err != nil {
			m.Problem = "it does not answer: " + err.Error()
			members = append(members, m)
			continue
		}
		m = driver.EtcdMember{
			Node: n.Name, ID: strconv.FormatUint(s.Header.Member, 16), Version: s.Version,
			Leader: s.Leader == s.Header.Member, Learner: s.Learner,
			Size: s.Size, InUse: s.InUse, Quota: cmp.Or(s.Quota, defaultQuota),
			Term: s.Term, Index: s.Index, Applied: s.Applied,
		}
		for _, a := range alarms {
			if a.Member == s.Header.Member {
				m.Alarms = append(m.Alarms, a.Name)
				raised = append(raised, a.Name+" of "+n.Name)
			}
		}
		switch {
		case s.Leader == 0:
			m.Problem = "it knows no leader: more than half of the members have to answer"
		case alarmErr != nil:
			m.Problem = alarmErr.Error()
		case len(alarms) == 0 && len(s.Errors) > 0: // they repeat alarms
			m.Problem = strings.Join(s.Errors, "; ")
		}
		members = append(members, m)
	}
	for i, m := range members {
		if m.Problem == "" && len(raised) > 0 {
			members[i].Problem = "alarm " + strings.Join(raised, ", ")
		}
		members[i].Healthy = members[i].Problem == ""
	}
	return members
}

// EtcdMembers implements [driver.EtcdKeeper].
func (d *Driver) EtcdMembers(ctx context.Context) ([]driver.EtcdMember, error) {
	ask, err := d.etcd()
	if err != nil {
		return nil, err
	}
	return ask.look(ctx, d.cluster), nil
}

// SnapshotEtcd implements [driver.EtcdKeeper].
func (d *Driver) SnapshotEtcd(ctx context.Context, w io.Writer) (string, error) {
	ask, err := d.etcd()
	if err != nil {
		return "", err
	}
	var from node
	var most uint64
	var errs []error
	for _, n := range d.cluster.servers() {
		s, err := ask.status(ctx, n)
		if err != nil {
			errs = append(errs, err)
		} else if from.Name == "" || s.Applied > most {
			from, most = n, s.Applied
		}
	}
	if from.Name == "" {
		return "", fmt.Errorf("no member of etcd answers: %w", errors.Join(errs...))
	}
	body, err := newClient(d.paths).postEtcd(ctx, from, "/v3/maintenance/snapshot", struct{}{})
	if err != nil {
		return "", err
	}
	defer body.Close()
	if err := copySnapshot(w, body); err != nil {
		return "", fmt.Errorf("snapshot of etcd on %s: %w", from.Name, err)
	}
	return from.Name, nil
}

// copySnapshot takes the parts out of their JSON.
func copySnapshot(w io.Writer, r io.Reader) error {
	parts := json.NewDecoder(r)
	for {
		var part struct {
			Result struct {
				Blob []byte `json:"blob"`
			} `json:"result"`
			Error struct {
				Message string `json:"message"`
			} `json:"error"`
		}
		err := parts.Decode(&part)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case part.Error.Message != "":
			return errors.New(part.Error.Message)
		}
		if _, err := w.Write(part.Result.Blob); err != nil {
			return err
		}
	}
}

// DefragmentEtcd implements [driver.EtcdKeeper].
func (d *Driver) DefragmentEtcd(ctx context.Context, tell func(driver.EtcdDefragmented)) error {
	ask, err := d.etcd()
	if err != nil {
		return err
	}
	if tell == nil {
		tell = func(driver.EtcdDefragmented) {}
	}
	return ask.defragment(ctx, d.cluster, tell)
}

// defragTime bounds what one member needs: etcd copies its file, of 8 GiB at most, key by key.
const defragTime = 10 * time.Minute

func (ask memberAPI) defragment(ctx context.Context, c cluster, tell func(driver.EtcdDefragmented)) error {
	var followers, leader []node
	for _, n := range c.servers() {
		s, err := ask.status(ctx, n)
		if err == nil && s.Leader == 0 {
			err = errors.New("it knows no leader")
		}
		if err != nil {
			return fmt.Errorf("nothing was done: a member at work answers nothing, and %s cannot stand in for it: %w",
				n.Name, err)
		}
		if s.Leader == s.Header.Member {
			leader = append(leader, n)
		} else {
			followers = append(followers, n)
		}
	}
	alarms, err := ask.alarms(ctx, c)
	if err != nil {
		return fmt.Errorf("nothing was done: %w", err)
	}
	full := slices.ContainsFunc(alarms, func(a alarm) bool { return a.Name == alarmNoSpace })
	if full {
		if err := ask.compact(ctx, c.servers()[0]); err != nil {
			return err
		}
	}
	for _, n := range append(followers, leader...) {
		did, err := ask.defragmentOne(ctx, n)
		if err != nil {
			return fmt.Errorf("defragment etcd on %s: %w", n.Name, err)
		}
		tell(did)
	}
	if !full {
		return nil
	}
	return ask.disarm(ctx, c)
}

// compact forgets what keys were before. Whoever watches from there lists anew.
func (ask memberAPI) compact(ctx context.Context, on node) error {
	s, err := ask.status(ctx, on)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, defragTime)
	defer cancel()
	body := map[string]any{"revision": strconv.FormatInt(s.Header.Revision, 10), "physical": true}
	var ignored any
	err = ask(ctx, on, "/v3/kv/compaction", body, &ignored)
	if err != nil && codeOf(err) != codeOutOfRange { // compacted already
		return fmt.Errorf("compact the history of etcd: %w", err)
	}
	return nil
}

// codeOutOfRange is gRPC's for a revision that is no more.
const codeOutOfRange = 11

// codeOf is gRPC's code of a refusal that came through the gateway; 0 when there is none.
func codeOf(err error) int {
	var refusal struct {
		Code int `json:"code"`
	}
	if status, ok := errors.AsType[*statusError](err); ok {
		_ = json.Unmarshal([]byte(status.text), &refusal)
	}
	return refusal.Code
}

// defragmentOne returns when the member follows a leader again.
func (ask memberAPI) defragmentOne(ctx context.Context, n node) (driver.EtcdDefragmented, error) {
	did := driver.EtcdDefragmented{Node: n.Name}
	ctx, cancel := context.WithTimeout(ctx, defragTime)
	defer cancel()
	s, err := ask.status(ctx, n)
	if err != nil {
		return did, err
	}
	did.Before = s.Size
	var ignored any
	if err := ask(ctx, n, "/v3/maintenance/defragment", struct{}{}, &ignored); err != nil {
		return did, err
	}
	err = check.Until(ctx, check.Pause{First: 100 * time.Millisecond}, func() error {
		s, err := ask.status(ctx, n)
		if err == nil && s.Leader == 0 {
			err = errors.New("it knows no leader")
		}
		did.After = s.Size
		return err
	})
	return did, err
}

// disarm takes the alarm back where there is space. etcd would raise it again at the next write.
func (ask memberAPI) disarm(ctx context.Context, c cluster) error {
	for _, m := range ask.look(ctx, c) {
		if !slices.Contains(m.Alarms, alarmNoSpace) {
			continue
		}
		if m.Size > m.Quota-m.Quota/10 {
			return fmt.Errorf("etcd on %s keeps its alarm NOSPACE: it holds %s, and may hold %s; delete objects, which works "+
				"(the runbook EtcdDatabaseNearlyFull says how to find them), then run 'orrery etcd defrag' again",
				m.Node, size(uint64(m.Size)), size(uint64(m.Quota)))
		}
		id, err := strconv.ParseUint(m.ID, 16, 64)
		if err != nil {
			return err
		}
		n, _ := c.node(m.Node)
		one, cancel := context.WithTimeout(ctx, 2*askTime)
		body := map[string]string{"action": "DEACTIVATE", "memberID": strconv.FormatUint(id, 10), "alarm": alarmNoSpace}
		var ignored any
		err = ask(one, n, "/v3/maintenance/alarm", body, &ignored)
		cancel()
		if err != nil {
			return fmt.Errorf("take the alarm NOSPACE of %s back: %w", m.Node, err)
		}
	}
	return nil
}

// ReplaceEtcdMember implements [driver.EtcdKeeper].
func (d *Driver) ReplaceEtcdMember(ctx context.Context, name string) error {
	if err := (&programs{paths: d.paths}).check(); err != nil {
		return err
	}
	if _, err := supervisorIdentity(d.paths); err != nil {
		return fmt.Errorf("replace the member on %s: %w; 'orrery up' or 'orrery start' starts the environment", name, err)
	}
	if err := d.gracefully(ctx, "/v1/nodes/"+name+"/replace"); err != nil {
		return fmt.Errorf("replace the member on %s: %w", name, err)
	}
	return d.settled(ctx, name)
}
