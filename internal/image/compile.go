package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/proc"
)

// buildNice lowers builds below the nodes that may already run beside them, so that a
// cluster comes up at its own pace while images still compile.
const buildNice = 10

// compile runs `go build` for bin into work/out. linking is called when only the linker
// is left.
func (b *Builder) compile(ctx context.Context, bin catalog.Binary, src source, work string, g grant, linking func()) (proc.Usage, error) {
	if err := os.MkdirAll(b.goCache(), 0o755); err != nil {
		return proc.Usage{}, err
	}
	inUse, err := waitLock(ctx, b.goCache()+".lock", lockShared, nil)
	if err != nil {
		return proc.Usage{}, fmt.Errorf("lock the build cache: %w", err)
	}
	defer inUse.Close()

	run := &goRun{
		bin: bin, dir: src.dir, path: b.go_.path,
		env: b.environment(b.go_, bin.CGO, append(g.env, "GOTMPDIR="+filepath.Join(work, "work"))...),
	}
	m := newMeter(bin, src.importPath(bin), linking)
	if free, err := freeSpace(b.goCache()); err != nil {
		return proc.Usage{}, err
	} else if free < spaceFor(bin, 1) {
		// It may still do, when much of it is compiled already. That takes a few seconds
		// to find out, so it is only asked for here.
		if err := run.list(ctx, m); err != nil {
			return proc.Usage{}, b.explain(bin, src, m, err)
		}
		if need := spaceFor(bin, m.stalePart()); free < need {
			return proc.Usage{}, &SpaceError{Dir: b.opts.CacheDir, Need: need, Free: free}
		}
	}

	var background sync.WaitGroup
	watch, stop := context.WithCancel(ctx)
	background.Go(func() { m.report(watch, func(p progress) { b.progress(bin.Name, p.event()) }) })
	if !m.counted() {
		// Counting runs beside the build: the total of the display comes a little late,
		// the binary does not.
		background.Go(func() { _ = run.list(watch, m) })
	}
	usage, err := run.build(ctx, filepath.Join(work, "out", bin.Name), m)
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

// list finds out how many packages there are and which still have to be compiled.
func (r *goRun) list(ctx context.Context, m *meter) error {
	var out bytes.Buffer
	args := append([]string{"list", "-deps", "-f", "{{.Stale}} {{.ImportPath}}"}, r.flags()...)
	cmd := &proc.Cmd{Path: r.path, Args: append(args, r.bin.Package), Dir: r.dir, Env: r.env, Stdout: &out, Tail: maxDiagnostics}
	if err := proc.Run(ctx, cmd); err != nil {
		return err
	}
	all := 0
	var stale []string
	for line := range strings.Lines(out.String()) {
		all++
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "true "); ok {
			stale = append(stale, p)
		}
	}
	m.total(all, stale)
	return nil
}

// maxDiagnostics is how many bytes of what Go says are kept.
const maxDiagnostics = 16 << 10

func (r *goRun) build(ctx context.Context, out string, m *meter) (proc.Usage, error) {
	args := append([]string{"build", "-v", "-p", strconv.Itoa(cores()), "-o", out}, r.flags()...)
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
		Path: r.path, Args: append(args, r.bin.Package), Dir: r.dir, Env: r.env, Stderr: writer,
		Started: func(id proc.Identity) {
			_ = syscall.Setpriority(syscall.PRIO_PGRP, id.PID, buildNice)
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
