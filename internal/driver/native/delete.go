package native

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/bpf"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/proc"
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
	errs = append(errs, d.unmountAll())
	if err := errors.Join(errs...); err != nil {
		// Files stay: they are what a second try needs.
		return err
	}
	if err := os.RemoveAll(string(d.paths)); err != nil {
		return fmt.Errorf("remove %s: %w", d.paths, err)
	}
	for _, e := range d.effects() {
		if err := d.options.Journal.Undone(e); err != nil {
			errs = append(errs, fmt.Errorf("journal: %w", err))
		}
	}
	// The folder of all environments, when this was the last one.
	_ = os.Remove(filepath.Dir(string(d.paths)))
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

// unmountAll removes mounts of the host below the state directory. There should be none:
// nodes mount in namespaces of their own.
func (d *Driver) unmountAll() error {
	mounts, err := mountsBelow(string(d.paths))
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	return errors.Join(errs...)
}

func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMountsBelow(f, dir)
}

func parseMountsBelow(r io.Reader, dir string) ([]string, error) {
	var found []string
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 5 {
			continue
		}
		// Spaces and the like are octal escapes, proc_pid_mountinfo(5).
		at := unescape(f[4])
		if at == dir || strings.HasPrefix(at, dir+"/") {
			found = append(found, at)
		}
	}
	return found, s.Err()
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
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
	group := cgroupRoot(d.cluster.Environment)
	for _, pid := range allPIDs() {
		if pid == os.Getpid() {
			continue
		}
		dir := "/proc/" + strconv.Itoa(pid)
		exe, _ := os.Readlink(dir + "/exe")
		cg, _ := os.ReadFile(dir + "/cgroup")
		if !strings.HasPrefix(exe, string(d.paths)+"/") && !inGroup(string(cg), group) {
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
func inGroup(content, group string) bool {
	for line := range strings.Lines(content) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && (f[2] == group || strings.HasPrefix(f[2], group+"/")) {
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
	mounts, err := mountsBelow(string(d.paths))
	errs := []error{err}
	for _, m := range mounts {
		leaks = append(leaks, "mount "+m)
	}
	if cg, err := hostCgroups(); err != nil {
		errs = append(errs, err)
	} else {
		for _, dir := range cg.existing(cgroupRoot(d.cluster.Environment)) {
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
	if st, err := os.Lstat(string(d.paths)); err == nil {
		leaks = append(leaks, fmt.Sprintf("%s %s", kindOf(st), d.paths))
	} else if !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return leaks, errors.Join(errs...)
}

func kindOf(st fs.FileInfo) string {
	if st.IsDir() {
		return "directory"
	}
	return "file"
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
