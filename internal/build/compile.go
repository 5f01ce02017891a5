package build

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/proc"
)

// buildNice lowers builds below the nodes that may already run beside them, so that a
// cluster comes up at its own pace while images still compile. Each later stage is lower by
// stageNice: what nobody waits for yet takes the time that is left over.
const (
	buildNice = 10
	stageNice = 4
	mostNice  = 19
)

// lower lowers the process group of a compiler of bin, unless we are that low ourselves.
func lower(group int, bin catalog.Binary) {
	nice := min(buildNice+stageNice*bin.Stage, mostNice)
	// The system call returns 20 less the value that getpriority(2) names.
	if p, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil && 20-p >= nice {
		return
	}
	_ = syscall.Setpriority(syscall.PRIO_PGRP, group, nice)
}

// compile runs `go build` for bin into work/out. linking is called when only the linker
// is left.
func (b *Builder) compile(ctx context.Context, bin catalog.Binary, src source, cache goCache, work string, g grant, linking func()) (proc.Usage, error) {
	if err := b.prepare(ctx, cache, bin, work); err != nil {
		return proc.Usage{}, err
	}
	run := &goRun{
		bin: bin, dir: src.dir, path: b.go_.path,
		env: b.environment(b.go_, bin.CGO, cache.dir, append(g.env, "GOTMPDIR="+filepath.Join(work, "work"))...),
	}
	m := newMeter(bin, src.importPath(bin), linking)
	var usage proc.Usage
	if src.absent != "" {
		var err error
		if run.dir, usage, err = b.standIns(ctx, bin, src, cache, work, g); err != nil {
			return usage, b.explain(bin, src, m, err)
		}
	}
	free, err := freeSpace(cache.dir)
	if err == nil && free < spaceFor(bin, 1) {
		if err = b.trimCaches(0); err == nil {
			free, err = freeSpace(cache.dir)
		}
	}
	if err != nil {
		return proc.Usage{}, err
	}
	scarce := free < spaceFor(bin, 1)
	var parts [][]string
	if scarce || bin.CPUSeconds >= inParts {
		stale, err := run.list(ctx, m)
		if err != nil {
			return proc.Usage{}, b.explain(bin, src, m, err)
		}
		// It may still do, when much of it is compiled already. That takes a few seconds
		// to find out, so it is only asked for here.
		if need := spaceFor(bin, m.stalePart()); free < need {
			return proc.Usage{}, &SpaceError{Dir: b.opts.CacheDir, Need: need, Free: free}
		}
		parts = partsOf(stale)
	}

	var background sync.WaitGroup
	watch, stop := context.WithCancel(ctx)
	background.Go(func() { m.report(watch, func(p progress) { b.progress(bin.Name, p.event()) }) })
	if !m.counted() {
		// Counting runs beside the build: the total of the display comes a little late,
		// the binary does not.
		background.Go(func() { _, _ = run.list(watch, m) })
	}
	for _, packages := range append(parts, []string{bin.Package}) {
		var used proc.Usage
		used, err = run.build(ctx, filepath.Join(work, "out", bin.Name), packages, m)
		usage.CPU += used.CPU
		usage.MaxRSS = max(usage.MaxRSS, used.MaxRSS)
		if err != nil {
			break
		}
	}
	stop()
	background.Wait()
	if err != nil {
		return usage, b.explain(bin, src, m, err)
	}
	b.progress(bin.Name, m.finish().event())
	return usage, nil
}

// goRun is one binary's way of calling the go command.
type goRun struct {
	bin  catalog.Binary
	dir  string
	path string
	env  []string
}

// flags decide the bytes of the result; each is part of the key, or always the same.
func (r *goRun) flags() []string {
	f := []string{"-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", ldflags(r.bin)}
	if len(r.bin.Tags) > 0 {
		f = append(f, "-tags", strings.Join(r.bin.Tags, ","))
	}
	return f
}

// list finds out how many packages there are and which still have to be compiled. It returns
// those of the latter that can be compiled before the program, each after what it imports.
func (r *goRun) list(ctx context.Context, m *meter) (before []string, err error) {
	var out bytes.Buffer
	args := append([]string{"list", "-deps", "-f", "{{.Stale}} {{.Standard}} {{.ImportPath}}"}, r.flags()...)
	cmd := &proc.Cmd{Path: r.path, Args: append(args, r.bin.Package), Dir: r.dir, Env: r.env, Stdout: &out, Tail: maxDiagnostics}
	if err := proc.Run(ctx, cmd); err != nil {
		return nil, err
	}
	all, profiled := 0, false
	var stale []string
	for line := range strings.Lines(out.String()) {
		all++
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(f) != 3 || f[0] != "true" {
			continue
		}
		stale = append(stale, f[2])
		// "PACKAGE [PROGRAM]" is compiled for the program's profile, and cannot be asked for.
		profiled = profiled || strings.Contains(f[2], " ")
		if f[1] == "false" && f[2] != m.main {
			before = append(before, f[2])
		}
	}
	m.total(all, stale)
	if profiled {
		before = nil
	}
	return before, nil
}

const (
	// inParts is how many CPU-seconds a program takes that is compiled in parts: until a go
	// command ends, it keeps what it compiled a second time in its working folder, which was
	// 4.2 GB for Kubernetes.
	inParts = 200
	// partPackages is how many packages make a part: about 1 GB of working folder.
	partPackages = 700
)

// partsOf splits packages so that each go command compiles about as many; the last ones are
// left to the program's own.
func partsOf(packages []string) (parts [][]string) {
	for len(packages) > partPackages {
		parts = append(parts, packages[:partPackages])
		packages = packages[partPackages:]
	}
	return parts
}

// maxDiagnostics is how many bytes of what Go says are kept.
const maxDiagnostics = 16 << 10

// build compiles packages: the program itself into the file out, or some of those before it.
func (r *goRun) build(ctx context.Context, out string, packages []string, m *meter) (proc.Usage, error) {
	args := append([]string{"build", "-v", "-p", strconv.Itoa(cores())}, r.flags()...)
	if slices.Equal(packages, []string{r.bin.Package}) {
		args = append(args, "-o", out)
	}
	reader, writer := io.Pipe()
	var said bytes.Buffer // without the names of packages
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewReader(reader)
		for {
			line, err := lines.ReadString('\n')
			if !m.line(strings.TrimSuffix(line, "\n")) && said.Len() < maxDiagnostics {
				said.WriteString(line)
			}
			if err != nil {
				return
			}
		}
	})
	cmd := &proc.Cmd{
		Path: r.path, Args: append(args, packages...), Dir: r.dir, Env: r.env, Stderr: writer,
		Started: func(id proc.Identity) {
			lower(id.PID, r.bin)
			m.process(id.PID)
		},
	}
	err := proc.Run(ctx, cmd)
	_ = writer.Close()
	reading.Wait()
	var failed *proc.Error
	if errors.As(err, &failed) && ctx.Err() == nil {
		failed.Stderr = strings.TrimSpace(said.String())
	}
	return cmd.Usage, err
}

// cpuOf is what a process and its finished children have used, 0 when it is gone;
// proc_pid_stat(5).
func cpuOf(pid int) time.Duration {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) < 15 {
		return 0
	}
	ticks := int64(0)
	for _, s := range f[11:15] { // utime, stime, cutime, cstime
		n, _ := strconv.ParseInt(s, 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100) // USER_HZ is 100 everywhere
}
