package native

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/proc"
)

// leastDisk is what etcd has to be able to write at any time: the next file of its log.
const leastDisk = 64 << 20

// blame says of a failed start what is behind it, when nothing can be written: whatever is
// written first fails, and is not at fault.
func (d *Driver) blame(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil { // nothing but the person who interrupts is to blame
		return err
	}
	if full := d.fullDisk(); full != "" {
		return fmt.Errorf("%s and start again; what failed over it: %w", full, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	ask, aerr := d.etcd()
	if aerr != nil {
		return err
	}
	alarms, _ := ask.alarms(ctx, d.cluster) // nobody answers: then there is no alarm to blame
	if slices.ContainsFunc(alarms, func(a alarm) bool { return a.Name == alarmNoSpace }) {
		return fmt.Errorf("etcd takes no writes, it has the alarm NOSPACE: 'orrery etcd defrag' makes space; what failed over it: %w", err)
	}
	return err
}

// fullDisk names the environment's disk when etcd cannot write on it.
func (d *Driver) fullDisk() string {
	if d.host.disk == nil {
		return ""
	}
	free, _, err := d.host.disk(string(d.paths))
	if err != nil || free >= leastDisk {
		return ""
	}
	return fmt.Sprintf("the disk of %s is full (%s are free), and etcd cannot write: free some space there", d.paths, size(free))
}

// explain says what the nodes' services do, for an error about waiting.
func (d *Driver) explain(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	st, err := newClient(d.paths).status(ctx)
	if err != nil {
		return "; " + err.Error()
	}
	var b strings.Builder
	for _, n := range st.Nodes {
		switch {
		case !n.Wanted:
			fmt.Fprintf(&b, "\n  %s was stopped by a person: 'orrery node start %s'", n.Name, n.Name)
		case !n.Running:
			fmt.Fprintf(&b, "\n  %s does not run: %s", n.Name, n.Problem)
		}
		for _, s := range n.Services {
			if s.Restarts > 0 || s.State != "running" {
				why, _ := d.failure(n.Name, s.Name)
				if why == "" {
					why = "the end of its log: " + lastLine(tail(d.paths.nodeLog(n.Name, s.Name), 400))
				}
				fmt.Fprintf(&b, "\n  %s/%s: %s, %d restarts; %s", n.Name, s.Name, s.State, s.Restarts, why)
			}
		}
	}
	return b.String()
}

func lastLine(s string) string { return s[strings.LastIndexByte(s, '\n')+1:] }

// hopeless is an error when no server comes up at all: the same thing fails again and
// again before any service runs, and waiting longer will not help.
func (d *Driver) hopeless(st supervisorStatus) error {
	for _, n := range st.Nodes {
		server := d.cluster.role(n.Name) == driver.RoleServer
		if server && n.Wanted && (n.Running || n.Problem == "" || n.Starts < 5) {
			return nil
		}
	}
	return errors.New("no server starts")
}

// longestLife is the processor time, in seconds, of the process of a service that has had the
// most. It grows while one works, and not when they end again and again.
func longestLife(st supervisorStatus, service string) string {
	var most time.Duration
	for _, n := range st.Nodes {
		for _, s := range n.Services {
			if s.Name == service && s.PID > 0 {
				if used, err := proc.CPU(s.PID); err == nil {
					most = max(most, used)
				}
			}
		}
	}
	return fmt.Sprintf("%d s", most/time.Second)
}
