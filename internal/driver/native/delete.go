package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/bpf"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/statedir"
)

// Delete implements [driver.Driver]. It needs nobody's help: what exists follows from the
// environment's name and state directory; only a way out needs the journal, which knows how
// the host was before.
func (d *Driver) Delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	var errs []error
	d.bpf = append(d.bpf, d.bpfNow()...)
	// The supervisor first, or it would start again what we end.
	if id, err := supervisorIdentity(d.paths); err == nil {
		errs = append(errs, id.End(ctx, syscall.SIGKILL, time.Second))
	}
	errs = append(errs, d.endProcesses(ctx))
	for _, p := range d.strays() {
		errs = append(errs, p.id.End(ctx, syscall.SIGKILL, time.Second))
	}
	errs = append(errs, d.undoEgress(ctx))
	if err := errors.Join(errs...); err != nil {
		// Files stay: they are what a second try needs.
		return err
	}
	if err := statedir.Remove(string(d.paths)); err != nil {
		return fmt.Errorf("remove %s: %w", d.paths, err)
	}
	for _, e := range d.effects() {
		if err := d.options.Journal.Undone(e); err != nil {
			errs = append(errs, fmt.Errorf("journal: %w", err))
		}
	}
	// The folder of all environments, when this was the last one.
	statedir.RemoveEmpty(filepath.Dir(string(d.paths)))
	return errors.Join(errs...)
}

// bpfNow are the BPF objects of the nodes that run.
func (d *Driver) bpfNow() []bpf.Object {
	var pids []int
	for _, p := range d.strays() {
		pids = append(pids, p.id.PID)
	}
	return bpf.Held(pids)
}

// effects that the driver makes, newest first; a way out is undone where it is removed.
func (d *Driver) effects() []driver.Effect {
	return []driver.Effect{d.supervisorEffect(), d.cgroupEffect(), d.directoryEffect()}
}

// process is one that belongs to the environment.
type process struct {
	id   proc.Identity
	what string // for a person
}

// strays finds processes of the environment by their program and their control group.
// Ourselves and zombies do not count.
func (d *Driver) strays() []process {
	var found []process
	groups, real := cgroupRoots(d.cluster.Environment), statedir.Real(string(d.paths))
	for _, pid := range allPIDs() {
		if pid == os.Getpid() {
			continue
		}
		dir := "/proc/" + strconv.Itoa(pid)
		exe, _ := os.Readlink(dir + "/exe")
		cg, _ := os.ReadFile(dir + "/cgroup")
		if !strings.HasPrefix(exe, real+"/") && !inGroup(string(cg), groups...) {
			continue
		}
		id, err := proc.Of(pid)
		if err != nil {
			continue
		}
		found = append(found, process{id, fmt.Sprintf("process %d (%s)", pid, strings.TrimSuffix(exe, " (deleted)"))})
	}
	return found
}

// inGroup reads /proc/PID/cgroup, "hierarchy:controllers:path" in each line.
func inGroup(content string, groups ...string) bool {
	for line := range strings.Lines(content) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && slices.ContainsFunc(groups, func(g string) bool { return f[2] == g || strings.HasPrefix(f[2], g+"/") }) {
			return true
		}
	}
	return false
}

// Audit implements [driver.Driver].
func (d *Driver) Audit(ctx context.Context) ([]string, error) {
	var leaks []string
	for _, p := range d.strays() {
		leaks = append(leaks, p.what)
	}
	var errs []error
	if cg, err := hostCgroups(); err != nil {
		errs = append(errs, err)
	} else {
		for _, dir := range cg.existing(cgroupRoots(d.cluster.Environment)...) {
			leaks = append(leaks, "cgroup "+dir)
		}
	}
	// They end with the mount namespaces of the nodes, unless somebody else holds them.
	leaks = append(leaks, bpf.Left(ctx, d.bpf, bpf.Gone)...)
	links, err := d.egressLeaks(ctx)
	errs, leaks = append(errs, err), append(leaks, links...)
	for _, port := range []int{d.cluster.API, d.cluster.Registry} {
		if who := d.listener(port); who != "" {
			leaks = append(leaks, fmt.Sprintf("listener on 127.0.0.1:%d (%s)", port, who))
		}
	}
	left, err := statedir.Left(string(d.paths))
	return append(leaks, left...), errors.Join(append(errs, err)...)
}

// listener says which process of the environment listens on a port of 127.0.0.1; "" when
// none does. Somebody else's listener on that port is none of our business.
func (d *Driver) listener(port int) string {
	inodes := listeningInodes(port)
	if len(inodes) == 0 {
		return ""
	}
	for _, p := range d.strays() {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.id.PID))
		for _, fd := range fds {
			if t, err := os.Readlink(fd); err == nil && slices.Contains(inodes, t) {
				return p.what
			}
		}
	}
	return ""
}

// listeningInodes lists the sockets ("socket:[N]") that listen on 127.0.0.1:port, from
// /proc/net/tcp: local address in field 1 (hex, little endian), state 0A in field 3, inode in 9.
func listeningInodes(port int) []string {
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return nil
	}
	want := fmt.Sprintf("0100007F:%04X", port)
	var inodes []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 9 && f[1] == want && f[3] == "0A" {
			inodes = append(inodes, "socket:["+f[9]+"]")
		}
	}
	return inodes
}
