package smoke

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
)

// Names of the scylladb component; see infra/k8s/base/scylladb.
const (
	scyllaNamespace  = "scylladb"
	scyllaContainer  = "scylla"
	scyllaDatacenter = "dc1"
	scyllaPods       = "scylla/cluster=scylladb,scylla-operator.scylladb.com/pod-type=scylladb-node"
	scyllaRacks      = 3
)

// cqlScript runs CQL with a credential that is in no argument and no environment: both come on
// standard input, the file for cqlsh first, a line "--" between them.
const cqlScript = `set -eu; umask 077; f=$(mktemp); trap 'rm -f "$f"' EXIT
while IFS= read -r line && [ "$line" != -- ]; do printf '%s\n' "$line"; done >"$f"
HOME=/tmp cqlsh --cqlshrc "$f" --request-timeout 30 127.0.0.1 9042`

// scylladb: every rack has its node, all of them agree that they are up, and what a quorum wrote
// through one node a quorum reads through another.
func scylladb(ctx context.Context, env Env) check.Result {
	pods, err := env.Client.List(ctx, "v1", "Pod", scyllaNamespace, scyllaPods)
	if err != nil {
		return check.Wait("list ScyllaDB's pods: %v", err)
	}
	slices.SortFunc(pods, func(a, b unstructured.Unstructured) int { return strings.Compare(a.GetName(), b.GetName()) })
	if len(pods) < scyllaRacks {
		return check.Wait("%d pods of ScyllaDB, want %d: orrery logs scylla-operator", len(pods), scyllaRacks)
	}
	for _, p := range pods {
		if err := scyllaUp(ctx, env, p.GetName()); err != nil {
			return check.Wait("%s: %v", p.GetName(), err)
		}
	}
	secret, err := env.Client.Get(ctx, "v1", "Secret", scyllaNamespace, "scylladb")
	if err != nil {
		return check.Wait("read the password of role admin: %v", err)
	}
	password, err := base64.StdEncoding.DecodeString(text(secret, "data", "password"))
	if err != nil {
		return check.Fail(fmt.Errorf("secret %s/scylladb: password: %w", scyllaNamespace, err))
	}
	took, err := scyllaQuorum(ctx, env, string(password), pods[0].GetName(), pods[1].GetName())
	if err != nil {
		return check.Wait("%v", err)
	}
	return check.OK("%d nodes up in as many racks; a quorum wrote through %s and read through %s in %.1f s",
		len(pods), pods[0].GetName(), pods[1].GetName(), took.Seconds())
}

// scyllaUp asks one node what it thinks of all.
func scyllaUp(ctx context.Context, env Env, pod string) error {
	out, err := execute(ctx, env, scyllaNamespace, pod, scyllaContainer, nil, "nodetool", "status")
	if err != nil {
		return err
	}
	nodes, err := parseNodetoolStatus(out)
	if err != nil {
		return err
	}
	racks := map[string]bool{}
	for _, n := range nodes {
		if n.State != "UN" {
			return fmt.Errorf("nodetool status says that %s of rack %s is %s, want UN (up, normal)", n.Address, n.Rack, n.State)
		}
		racks[n.Rack] = true
	}
	if len(nodes) < scyllaRacks || len(racks) < scyllaRacks {
		return fmt.Errorf("nodetool status knows %d nodes in %d racks, want %d in %d", len(nodes), len(racks), scyllaRacks, scyllaRacks)
	}
	return nil
}

// scyllaQuorum writes and reads in a keyspace of its own, which it drops.
func scyllaQuorum(ctx context.Context, env Env, password, writer, reader string) (took time.Duration, err error) {
	cql := func(ctx context.Context, pod string, statements ...string) (string, error) {
		in := fmt.Sprintf("[authentication]\nusername = admin\npassword = %s\n--\n%s\n", password, strings.Join(statements, "\n"))
		return execute(ctx, env, scyllaNamespace, pod, scyllaContainer, strings.NewReader(in), "bash", "-c", cqlScript)
	}
	value := token(8)
	keyspace := "orrery_verify_" + token(4)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execTime)
		defer cancel()
		if _, dropErr := cql(ctx, writer, "DROP KEYSPACE IF EXISTS "+keyspace+";"); dropErr != nil && err == nil {
			err = fmt.Errorf("drop the keyspace of this check: %w", dropErr)
		}
	}()
	start := time.Now()
	_, err = cql(ctx, writer,
		fmt.Sprintf("CREATE KEYSPACE %s WITH replication = {'class': 'NetworkTopologyStrategy', '%s': %d};", keyspace, scyllaDatacenter, scyllaRacks),
		fmt.Sprintf("CREATE TABLE %s.t (k text PRIMARY KEY, v text);", keyspace),
		"CONSISTENCY QUORUM",
		fmt.Sprintf("INSERT INTO %s.t (k, v) VALUES ('k', '%s');", keyspace, value))
	if err != nil {
		return 0, fmt.Errorf("write through %s: %w", writer, err)
	}
	out, err := cql(ctx, reader, "CONSISTENCY QUORUM", fmt.Sprintf("SELECT v FROM %s.t WHERE k = 'k';", keyspace))
	if err != nil {
		return 0, fmt.Errorf("read through %s: %w", reader, err)
	}
	if !strings.Contains(out, value) {
		return 0, fmt.Errorf("what was written through %s is not read through %s: %q", writer, reader, lastLine(out))
	}
	return time.Since(start), nil
}

// scyllaNode is a line of `nodetool status`.
type scyllaNode struct {
	// State is two letters: U(p) or D(own); N(ormal), L(eaving), J(oining) or M(oving).
	State, Address, Rack string
}

// parseNodetoolStatus reads the nodes of all data centres. The load is one column or two ("?",
// "1.5 MB"), and who owns what is left out of some versions: the rack comes last in all of them.
func parseNodetoolStatus(out string) ([]scyllaNode, error) {
	var nodes []scyllaNode
	table := false
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 1 && fields[0] == "--" && fields[1] == "Address":
			table = true
			if fields[len(fields)-1] != "Rack" {
				return nil, fmt.Errorf("the last column of nodetool status is %q, want Rack", fields[len(fields)-1])
			}
		case len(fields) == 0 || strings.HasPrefix(line, "Datacenter:"):
			table = false
		case table && isNodeState(fields[0]):
			if len(fields) < 5 {
				return nil, fmt.Errorf("nodetool status: cannot read the line %q", strings.TrimSpace(line))
			}
			nodes = append(nodes, scyllaNode{State: fields[0], Address: fields[1], Rack: fields[len(fields)-1]})
		}
	}
	if len(nodes) == 0 {
		return nil, errors.New("nodetool status lists no node")
	}
	return nodes, nil
}

func isNodeState(s string) bool {
	return len(s) == 2 && strings.Contains("UD?", s[:1]) && strings.Contains("NLJM?", s[1:])
}
