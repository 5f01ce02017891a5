package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// bench runs the command line and looks at what it makes.
type bench struct {
	options
	dir, repo, cli string
	progress       io.Writer
}

// env is one environment under test. Without a tree it is of this one.
type env struct {
	name, file, cache string
	tree              *tree
}

// tree is a revision of the repository and the command line compiled from it.
type tree struct{ repo, cli string }

// verb is one finished invocation.
type verb struct {
	wall    time.Duration
	cpu     float64            // of the command line and what it waited for, in seconds
	seconds map[string]float64 // of its summary
	changed bool
}

// measure fills the report. It goes on to the next figures only when it can.
func (b *bench) measure(ctx context.Context, r *report) error {
	if st, err := os.Stat(b.cli); err == nil {
		defer func() {
			r.add("size of the orrery binary", "MiB", 0, "-s -w", float64(st.Size())/mib)
		}()
	}
	main := env{name: b.env}
	if b.against != "" {
		return b.pairs(ctx, r)
	}
	if b.runs > 0 || b.idle {
		if err := b.warm(ctx, main); err != nil {
			return err
		}
	}
	for _, part := range []struct {
		name    string
		measure func(context.Context, env, *report) error
	}{{"cluster", b.cluster}, {"platform", b.platform}, {"network", b.network}, {"images", b.images}, {"bundle", b.bundle}} {
		if b.runs == 0 || b.only != "" && b.only != part.name {
			continue
		}
		if err := part.measure(ctx, main, r); err != nil {
			return err
		}
	}
	if b.idle && b.only == "" {
		if err := b.idling(ctx, r); err != nil {
			return err
		}
	}
	if b.cold {
		return b.coldBuild(ctx, r)
	}
	return nil
}

// warm builds what is not in the cache yet, so that no figure includes it.
func (b *bench) warm(ctx context.Context, e env) error {
	out, err := b.output1(ctx, e, "doctor", "-o", "json")
	if err != nil {
		return err
	}
	var doctor struct{ Builds int }
	if err := json.Unmarshal(out, &doctor); err != nil {
		return fmt.Errorf("read what doctor says: %w", err)
	}
	if doctor.Builds == 0 {
		return nil
	}
	b.say("%d programs are not in the cache: an up that is not measured comes first", doctor.Builds)
	if _, err := b.run(ctx, e, "up", "-o", "json"); err != nil {
		return err
	}
	_, err = b.run(ctx, e, "down", "-o", "json")
	return err
}

// cluster times the bare cluster: create, stop, start, down.
func (b *bench) cluster(ctx context.Context, e env, r *report) error {
	var ready, cpu, stop, start []float64
	for i := range b.runs {
		b.say("cluster %d of %d", i+1, b.runs)
		v, err := b.run(ctx, e, "cluster", "create", "-o", "json")
		if err != nil {
			return err
		}
		inside, err := cpuSeconds(e.name)
		if err != nil {
			return err
		}
		ready, cpu = append(ready, v.seconds["nodesReady"]), append(cpu, inside+v.cpu)
		for _, step := range []struct {
			verb []string
			to   *[]float64
		}{{[]string{"stop", "--now"}, &stop}, {[]string{"start"}, &start}} {
			if v, err = b.run(ctx, e, append(step.verb, "-o", "json")...); err != nil {
				return err
			}
			*step.to = append(*step.to, v.wall.Seconds())
		}
		if _, err = b.run(ctx, e, "down", "-o", "json"); err != nil {
			return err
		}
	}
	r.add("3+2 all Ready", "s", 8, "cluster create, warm cache", ready...)
	r.add("3+2 all Ready, CPU", "CPU-s", 18, "nodes and command line", cpu...)
	r.add("stop", "s", 2, "without components", stop...)
	r.add("start to all Ready", "s", 6, "without components", start...)
	return nil
}

// platform times the whole: up, up again, stop, start, down.
func (b *bench) platform(ctx context.Context, e env, r *report) error {
	var ready, verified, cpu, again, verify, stop, start, down []float64
	for i := range b.runs {
		b.say("platform %d of %d", i+1, b.runs)
		v, err := b.run(ctx, e, "up", "-o", "json")
		if err != nil {
			return err
		}
		inside, err := cpuSeconds(e.name)
		if err != nil {
			return err
		}
		ready, verified = append(ready, v.seconds["platformReady"]), append(verified, v.seconds["total"])
		cpu = append(cpu, inside+v.cpu)
		if i == b.runs-1 {
			r.Used = kinds(nil, processes(e.name), time.Second)
		}
		if v, err = b.run(ctx, e, "up", "-o", "json"); err != nil {
			return err
		}
		if v.changed {
			b.say("the second up changed something: its time is not that of one that has nothing to do")
		}
		again = append(again, v.wall.Seconds())
		began := time.Now()
		check, stderr := b.command(ctx, e, "verify", "-o", "json")
		if _, err := check.Output(); err != nil {
			return fmt.Errorf("orrery verify: %w\n%s", err, stderr)
		}
		verify = append(verify, time.Since(began).Seconds())
		if i == b.runs-1 {
			r.Disk = b.onDisk(e)
			if b.idle {
				if err := b.platformIdling(ctx, e, r); err != nil {
					return err
				}
			}
		}
		for _, step := range []struct {
			verb []string
			to   *[]float64
		}{{[]string{"stop", "--now"}, &stop}, {[]string{"start"}, &start}, {[]string{"down"}, &down}} {
			if v, err = b.run(ctx, e, append(step.verb, "-o", "json")...); err != nil {
				return err
			}
			*step.to = append(*step.to, v.wall.Seconds())
		}
	}
	r.add("up, components Ready", "s", 0, "warm cache", ready...)
	r.add("up, verified", "s", 45, "warm cache", verified...)
	r.add("up, CPU", "CPU-s", 75, "nodes, pods and command line", cpu...)
	r.add("up with nothing to do", "s", 0.6, "whole process, right after an up", again...)
	r.add("verify", "s", 6, "all checks", verify...)
	r.add("stop, all components", "s", 2, "", stop...)
	r.add("start to all Ready, all components", "s", 6, "nodes Ready", start...)
	r.add("down with audit", "s", 3, "all components", down...)
	return nil
}

// onDisk is what nodes and the rest of the state take. The distribution is hard links
// into the cache.
func (b *bench) onDisk(e env) map[string]float64 {
	disk := map[string]float64{}
	state := filepath.Join(b.dir, "state", e.name)
	seen := map[uint64]bool{}
	nodes, _ := filepath.Glob(filepath.Join(state, "nodes", "*"))
	for _, n := range nodes {
		disk["node "+filepath.Base(n)] = allocated(n, seen)
	}
	disk["layers that all nodes share"] = allocated(filepath.Join(state, "layers"), seen)
	disk["registry mirror"] = allocated(filepath.Join(state, "registry"), seen)
	disk["node distribution, once (links into the cache)"] = allocated(filepath.Join(state, "dist"), seen)
	disk["rest of the state"] = allocated(state, seen)
	return disk
}

// idling measures what a cluster without components takes when nothing happens, and what
// one more agent adds.
func (b *bench) idling(ctx context.Context, r *report) error {
	more := env{name: b.env + "-more", file: filepath.Join(b.dir, "more.yaml")}
	yaml := "apiVersion: orrery.dev/v1alpha1\nkind: Environment\nname: " + more.name + "\nagents: 3\n"
	if err := os.WriteFile(more.file, []byte(yaml), 0o600); err != nil {
		return err
	}
	pss, cores := map[string]float64{}, map[string]float64{}
	for _, e := range []env{{name: b.env}, more} {
		if _, err := b.run(ctx, e, "cluster", "create", "-o", "json"); err != nil {
			return err
		}
		all, used, err := b.idle1(ctx, e)
		if err != nil {
			return err
		}
		pss[e.name], cores[e.name] = sumPSS(all), used
		if e.name == b.env {
			r.Idle = all
		}
		if _, err := b.run(ctx, e, "down", "-o", "json"); err != nil {
			return err
		}
	}
	r.add("idle 3+2, PSS", "MiB", 1.7*1024, fmt.Sprintf("after %s", b.settle), pss[b.env])
	r.add("idle 3+2, cores", "cores", 0.30, fmt.Sprintf("over %s", b.window), cores[b.env])
	r.add("one more agent, PSS", "MiB", 150, "3+3 less 3+2", pss[more.name]-pss[b.env])
	r.add("one more agent, cores", "cores", 0, "3+3 less 3+2", cores[more.name]-cores[b.env])
	return nil
}

// platformIdling measures what the whole platform takes when nobody uses it.
func (b *bench) platformIdling(ctx context.Context, e env, r *report) error {
	all, cores, err := b.idle1(ctx, e)
	if err != nil {
		return err
	}
	r.IdlePlatform = all
	r.add("idle platform, PSS", "MiB", 3.6*1024, fmt.Sprintf("after %s", b.settle), sumPSS(all))
	r.add("idle platform, cores", "cores", 0.42, fmt.Sprintf("over %s", b.window), cores)
	return nil
}

// idle1 lets an environment settle and measures it: its processes by kind, and the cores that it
// takes by its control group, which counts what ended meanwhile too.
func (b *bench) idle1(ctx context.Context, e env) (all []kind, cores float64, err error) {
	b.say("%s idles for %s, then %s are measured", e.name, b.settle, b.window)
	if err := pause(ctx, b.settle); err != nil {
		return nil, 0, err
	}
	first, start := processes(e.name), time.Now()
	used, err := cpuSeconds(e.name)
	if err != nil {
		return nil, 0, err
	}
	if err := pause(ctx, b.window); err != nil {
		return nil, 0, err
	}
	now, err := cpuSeconds(e.name)
	if err != nil {
		return nil, 0, err
	}
	window := time.Since(start)
	return kinds(first, processes(e.name), window), (now - used) / window.Seconds(), nil
}

func sumPSS(all []kind) (mib float64) {
	for _, k := range all {
		mib += k.PSS
	}
	return mib
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// coldBuild makes the platform with an empty cache. Modules come from the usual module
// cache, so that the network is not what is measured.
func (b *bench) coldBuild(ctx context.Context, r *report) error {
	e := env{name: b.env + "-cold", cache: filepath.Join(b.dir, "cache")}
	b.say("a build with an empty cache: about 10 minutes on 4 cores")
	watch, stop := context.WithCancel(ctx)
	var peak float64
	var wg sync.WaitGroup
	wg.Go(func() {
		for pause(watch, 5*time.Second) == nil {
			peak = max(peak, allocated(b.dir, map[uint64]bool{}))
		}
	})
	v, err := b.run(ctx, e, "up", "-o", "json")
	stop()
	wg.Wait()
	if err != nil {
		return err
	}
	if _, err := b.run(ctx, e, "down", "-o", "json"); err != nil {
		return err
	}
	cores := float64(runtime.NumCPU())
	r.add("cold: builds", "s", 0, "wall, until the last image", v.seconds["build"])
	r.add("cold: builds, CPU", "CPU-s", 0, "all children of the command line", v.cpu)
	r.add("cold: wall ÷ (CPU-s ÷ cores)", "×", 1.15, "", v.seconds["build"]/(v.cpu/cores))
	r.add("cold: up, verified", "s", 0, "", v.seconds["total"])
	r.add("cold: peak disk", "GB", 15, "cache and state", peak*mib/1e9)
	return nil
}

// run runs a verb that prints events and reads its summary, if it has one.
func (b *bench) run(ctx context.Context, e env, args ...string) (verb, error) {
	start := time.Now()
	cmd, stderr := b.command(ctx, e, args...)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	err := cmd.Run()
	v := verb{wall: time.Since(start)}
	if err != nil {
		return v, fmt.Errorf("orrery %s: %w\n%s%s", strings.Join(args, " "), err, stderr, lastLine(stdout.Bytes()))
	}
	v.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	var summary struct {
		Changed bool
		Seconds json.RawMessage
	}
	if err := json.Unmarshal(lastLine(stdout.Bytes()), &summary); err != nil {
		return v, fmt.Errorf("orrery %s: %w: %w", strings.Join(args, " "), errNoSummary, err)
	}
	v.changed = summary.Changed
	// Only up's summary holds several; what else there is measures itself as one number.
	if bytes.HasPrefix(summary.Seconds, []byte("{")) {
		if err := json.Unmarshal(summary.Seconds, &v.seconds); err != nil {
			return v, fmt.Errorf("orrery %s: read its seconds: %w", strings.Join(args, " "), err)
		}
	}
	return v, nil
}

// output1 runs a verb that prints one JSON value. doctor's exit status also tells what up
// would refuse, which up then says better.
func (b *bench) output1(ctx context.Context, e env, args ...string) ([]byte, error) {
	cmd, stderr := b.command(ctx, e, args...)
	out, err := cmd.Output()
	if len(out) == 0 && err != nil {
		return nil, fmt.Errorf("orrery %s: %w\n%s", strings.Join(args, " "), err, stderr)
	}
	return out, nil
}

func (b *bench) command(ctx context.Context, e env, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t := tree{b.repo, b.cli}
	if e.tree != nil {
		t = *e.tree
	}
	args = append(args, "--env", e.name, "--catalog", t.repo)
	if e.file != "" {
		args = append(args, "--file", e.file)
	}
	cmd := exec.CommandContext(ctx, t.cli, args...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "ORRERY_STATE_DIR="+filepath.Join(b.dir, "state"))
	if e.cache != "" {
		cmd.Env = append(cmd.Env, "ORRERY_CACHE_DIR="+e.cache)
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	return cmd, stderr
}

func (b *bench) say(format string, a ...any) {
	fmt.Fprintf(b.progress, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, a...)...)
}

// cleanUp removes environments that a failure or Ctrl-C left.
func (b *bench) cleanUp() error {
	entries, err := os.ReadDir(filepath.Join(b.dir, "state"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	left := map[string]bool{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") { // the key that signs bundles
			left[e.Name()] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := b.run(ctx, env{name: name}, "down", "-o", "json")
		cancel()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
