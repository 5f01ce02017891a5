package smoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
)

// Names of the foundationdb component; see infra/k8s/base/foundationdb.
const (
	fdbNamespace = "data"
	fdbContainer = "foundationdb"
	fdbPods      = "foundationdb.org/fdb-cluster-name=foundationdb,foundationdb.org/fdb-process-class=storage"
	fdbStorage   = 3
	fdbZones     = 3
)

// foundationdb: the database says that it is available, healthy and has all copies, in three zones; and
// what was committed through one process is read through another.
func foundationdb(ctx context.Context, env Env) check.Result {
	pods, err := env.Client.List(ctx, "v1", "Pod", fdbNamespace, fdbPods)
	if err != nil {
		return check.Wait("list FoundationDB's pods: %v", err)
	}
	slices.SortFunc(pods, func(a, b unstructured.Unstructured) int { return strings.Compare(a.GetName(), b.GetName()) })
	if len(pods) < fdbStorage {
		return check.Wait("%d storage pods of FoundationDB, want %d: orrery logs fdb-operator", len(pods), fdbStorage)
	}
	first, other := pods[0].GetName(), pods[len(pods)-1].GetName()
	minimal, err := fdbcli(ctx, env, first, "status minimal")
	if err != nil {
		return check.Wait("%v", err)
	}
	if !strings.Contains(minimal, "The database is available") {
		return check.Wait("fdbcli status minimal in %s says: %s", first, lastLine(minimal))
	}
	out, err := fdbcli(ctx, env, first, "status json")
	if err != nil {
		return check.Wait("%v", err)
	}
	status, err := parseFDBStatus(out)
	if err != nil {
		return check.Wait("fdbcli status json in %s: %v", first, err)
	}
	if err := status.sound(); err != nil {
		return check.Wait("%v", err)
	}
	start := time.Now()
	if err := fdbWrite(ctx, env, first, other); err != nil {
		return check.Wait("%v", err)
	}
	return check.OK("available, healthy, all copies, %d processes in %d zones; committed through %s and read through %s in %.1f s",
		len(status.Cluster.Processes), len(status.zones()), first, other, time.Since(start).Seconds())
}

func fdbcli(ctx context.Context, env Env, pod, command string) (string, error) {
	return execute(ctx, env, fdbNamespace, pod, fdbContainer, nil, "fdbcli", "--timeout", "20", "--exec", command)
}

// fdbWrite commits a key, reads it elsewhere, and clears it.
func fdbWrite(ctx context.Context, env Env, writer, reader string) (err error) {
	key, value := "orrery-verify/"+token(4), token(8)
	if _, err := fdbcli(ctx, env, writer, "writemode on; set "+key+" "+value); err != nil {
		return fmt.Errorf("write through %s: %w", writer, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execTime)
		defer cancel()
		if _, clearErr := fdbcli(ctx, env, writer, "writemode on; clear "+key); clearErr != nil && err == nil {
			err = fmt.Errorf("clear the key of this check: %w", clearErr)
		}
	}()
	out, err := fdbcli(ctx, env, reader, "get "+key)
	if err != nil {
		return fmt.Errorf("read through %s: %w", reader, err)
	}
	if !strings.Contains(out, "is `"+value+"'") {
		return fmt.Errorf("what was written through %s is not read through %s: %q", writer, reader, lastLine(out))
	}
	return nil
}

// fdbStatus is the part of FoundationDB's machine-readable status that is looked at.
type fdbStatus struct {
	Client struct {
		DatabaseStatus struct {
			Available bool `json:"available"`
			Healthy   bool `json:"healthy"`
		} `json:"database_status"`
	} `json:"client"`
	Cluster struct {
		FullReplication bool `json:"full_replication"`
		Data            struct {
			State struct {
				Name    string `json:"name"`
				Healthy bool   `json:"healthy"`
			} `json:"state"`
		} `json:"data"`
		RecoveryState struct {
			Name string `json:"name"`
		} `json:"recovery_state"`
		Processes map[string]struct {
			Excluded bool `json:"excluded"`
			Locality struct {
				Zone string `json:"zoneid"`
			} `json:"locality"`
			Roles []struct {
				Role string `json:"role"`
			} `json:"roles"`
		} `json:"processes"`
	} `json:"cluster"`
}

// parseFDBStatus reads what fdbcli prints for "status json". It may warn before the JSON, and prints
// a sentence instead of it while it reaches nobody.
func parseFDBStatus(out string) (status fdbStatus, err error) {
	i := strings.IndexByte(out, '{')
	if i < 0 {
		return status, fmt.Errorf("it answers with no JSON: %s", lastLine(out))
	}
	if err := json.NewDecoder(strings.NewReader(out[i:])).Decode(&status); err != nil {
		return status, fmt.Errorf("it answers with what is no JSON: %w", err)
	}
	return status, nil
}

// zones are those of the processes that store.
func (s fdbStatus) zones() map[string]bool {
	zones := map[string]bool{}
	for _, p := range s.Cluster.Processes {
		for _, r := range p.Roles {
			if r.Role == "storage" && !p.Excluded && p.Locality.Zone != "" {
				zones[p.Locality.Zone] = true
			}
		}
	}
	return zones
}

func (s fdbStatus) sound() error {
	switch {
	case !s.Client.DatabaseStatus.Available:
		return errors.New("FoundationDB is not available")
	case s.Cluster.RecoveryState.Name != "fully_recovered":
		return fmt.Errorf("FoundationDB recovers: %s", s.Cluster.RecoveryState.Name)
	case !s.Client.DatabaseStatus.Healthy || !s.Cluster.Data.State.Healthy:
		return fmt.Errorf("FoundationDB is not healthy: its data is %q", s.Cluster.Data.State.Name)
	case !s.Cluster.FullReplication:
		return fmt.Errorf("FoundationDB lacks copies: its data is %q", s.Cluster.Data.State.Name)
	case len(s.zones()) < fdbZones:
		return fmt.Errorf("FoundationDB stores in %d zones, want %d", len(s.zones()), fdbZones)
	}
	return nil
}
