package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const mib = 1 << 20

// machine is what the figures were measured on.
type machine struct {
	CPU       string  `json:"cpu"`
	Cores     int     `json:"cores"`
	MemoryMiB int     `json:"memoryMiB"`
	Kernel    string  `json:"kernel"`
	Go        string  `json:"go"`
	Load      float64 `json:"load"` // average of one minute before the first figure
	// Others are environments that run meanwhile. They share programs with ours, and so
	// make our part of their memory (PSS) look smaller.
	Others []string `json:"others,omitempty"`
	Time   string   `json:"time"`
}

func lookAtMachine(ctx context.Context) machine {
	m := machine{Cores: runtime.NumCPU(), Time: time.Now().UTC().Format(time.RFC3339)}
	m.Others = environments()
	m.CPU = field("/proc/cpuinfo", "model name")
	kib, _ := strconv.Atoi(strings.Fields(field("/proc/meminfo", "MemTotal") + " 0")[0])
	m.MemoryMiB = kib / 1024
	m.Kernel = strings.TrimSpace(read("/proc/sys/kernel/osrelease"))
	m.Load, _ = strconv.ParseFloat(strings.Fields(read("/proc/loadavg") + " 0")[0], 64)
	if out, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output(); err == nil {
		m.Go = strings.TrimSpace(string(out))
	}
	return m
}

func (m machine) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%d cores (%s), %d MiB, Linux %s, %s, load %.2f, %s\n", m.Cores, m.CPU, m.MemoryMiB, m.Kernel, m.Go, m.Load, m.Time)
	if err == nil && m.Load > float64(m.Cores)/4 {
		_, err = fmt.Fprintln(w, "This machine is busy: times are those of a busy machine.")
	}
	if err == nil && len(m.Others) > 0 {
		_, err = fmt.Fprintf(w, "Other environments run here (%s): PSS is lower than it would be alone.\n", strings.Join(m.Others, ", "))
	}
	if err == nil {
		_, err = fmt.Fprintln(w)
	}
	return err
}

// environments that have a control group, whoever made them.
func environments() []string {
	var names []string
	for _, pattern := range []string{"/sys/fs/cgroup/orrery/*/cgroup.procs", "/sys/fs/cgroup/*/orrery/*/cgroup.procs"} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			if name := filepath.Base(filepath.Dir(f)); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func read(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// field is the value of the first "name : value" line.
func field(path, name string) string {
	s := bufio.NewScanner(strings.NewReader(read(path)))
	for s.Scan() {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// cpuSeconds is what all processes of an environment used so far, ended ones too, by its
// control group.
func cpuSeconds(env string) (float64, error) {
	for _, mount := range []string{"/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct"} {
		b, err := os.ReadFile(filepath.Join(mount, "orrery", env, "cpuacct.usage"))
		if err == nil {
			ns, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
			return ns / 1e9, err
		}
	}
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		b, err := os.ReadFile(filepath.Join(mount, "orrery", env, "cpu.stat"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "usage_usec "); ok {
				us, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
				return us / 1e6, err
			}
		}
	}
	return 0, fmt.Errorf("no control group of environment %q tells its CPU time", env)
}

// process is one look at one process.
type process struct {
	kind     string
	rss, pss float64 // MiB
	cpu      float64 // seconds
}

// clockTick of /proc/PID/stat: 1/100 s on every Linux that Go runs on.
const clockTick = 100

// processes of an environment, by its control group.
func processes(env string) map[int]process {
	all := map[int]process{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		group := read(filepath.Join(dir, "cgroup"))
		if err != nil || !strings.Contains(group+"\n", "/orrery/"+env+"/") && !strings.Contains(group+"\n", "/orrery/"+env+"\n") {
			continue
		}
		p := process{kind: kindOf(read(filepath.Join(dir, "cmdline")))}
		for line := range strings.Lines(read(filepath.Join(dir, "smaps_rollup"))) {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			kib, _ := strconv.ParseFloat(f[1], 64)
			switch f[0] {
			case "Rss:":
				p.rss = kib / 1024
			case "Pss:":
				p.pss = kib / 1024
			}
		}
		_, after, _ := strings.Cut(read(filepath.Join(dir, "stat")), ") ")
		if f := strings.Fields(after); len(f) > 12 {
			user, _ := strconv.ParseFloat(f[11], 64)
			system, _ := strconv.ParseFloat(f[12], 64)
			p.cpu = (user + system) / clockTick
		}
		all[pid] = p
	}
	return all
}

// kindOf names a process: its program, for our own also its mode.
func kindOf(cmdline string) string {
	args := strings.Split(cmdline, "\x00")
	name := filepath.Base(args[0])
	if name == "orrery" && len(args) > 1 {
		name += " " + args[1]
	}
	return name
}

// kinds sums processes up; cores are the difference between two looks.
func kinds(before, after map[int]process, window time.Duration) []kind {
	sums := map[string]*kind{}
	for pid, p := range after {
		k := sums[p.kind]
		if k == nil {
			k = &kind{Name: p.kind}
			sums[p.kind] = k
		}
		k.Count++
		k.RSS += p.rss
		k.PSS += p.pss
		k.Cores += (p.cpu - before[pid].cpu) / window.Seconds()
	}
	all := []kind{}
	for _, k := range sums {
		all = append(all, *k)
	}
	slices.SortFunc(all, func(a, b kind) int { return cmp.Compare(b.PSS, a.PSS) })
	return all
}

// allocated is what a folder takes on its disk, in MiB. Files with several names count
// once in seen, which may be shared by several calls.
func allocated(dir string, seen map[uint64]bool) float64 {
	var dev uint64
	var total int64
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it may just have gone
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if dev == 0 {
			dev = st.Dev
		}
		if st.Dev != dev {
			return fs.SkipDir
		}
		if seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = true
		total += st.Blocks * 512
		return nil
	})
	return float64(total) / mib
}

var errNoSummary = errors.New("the verb ended without a summary")

func lastLine(b []byte) []byte {
	b = bytes.TrimRight(b, "\n")
	return b[bytes.LastIndexByte(b, '\n')+1:]
}
