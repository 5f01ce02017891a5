package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// bundle measures what `bundle create` and `bundle import` make of the whole platform, and
// beside them what the disk takes. Rates are of bytes as they are unpacked; what the file
// itself has is told too.
func (b *bench) bundle(ctx context.Context, e env, r *report) error {
	file := filepath.Join(b.dir, "bench.orrery")
	defer func() { _ = os.Remove(file) }()
	var create, createCPU, load, loadCPU, rss, disk []float64
	var size, unpacked float64
	for i := range b.runs {
		b.say("bundle %d of %d", i+1, b.runs)
		var made struct {
			Size, Unpacked float64
			Seconds        float64
		}
		cpu, _, err := b.last(ctx, e, &made, "bundle", "create", file, "-o", "json")
		if err != nil {
			return err
		}
		size, unpacked = made.Size, made.Unpacked
		create, createCPU = append(create, made.Seconds), append(createCPU, cpu)
		into := e
		if into.cache, err = os.MkdirTemp(b.dir, "bundle-cache-"); err != nil {
			return err
		}
		var imported struct{ Seconds float64 }
		cpu, most, err := b.last(ctx, into, &imported, "bundle", "import", file, "-o", "json")
		if err != nil {
			return err
		}
		load, loadCPU, rss = append(load, imported.Seconds), append(loadCPU, cpu), append(rss, most)
		if err := os.RemoveAll(into.cache); err != nil {
			return err
		}
		rate, err := writeRate(filepath.Join(b.dir, "zeros"), int64(unpacked))
		if err != nil {
			return err
		}
		disk = append(disk, rate)
	}
	if len(create) == 0 {
		return nil
	}
	what := fmt.Sprintf("%.0f MB, unpacked %.0f MB; this disk writes and syncs %.0f MB/s", size/1e6, unpacked/1e6, median(disk))
	// Less is better in this report, so the promise of 300 MB/s is one of seconds.
	r.add("bundle create", "s", unpacked/300e6, what, create...)
	r.add("bundle create, CPU", "CPU-s", 0, "with bills of materials and provenance", createCPU...)
	r.add("bundle import", "s", unpacked/300e6, fmt.Sprintf("%.0f MB/s", unpacked/1e6/median(load)), load...)
	r.add("bundle import, CPU", "CPU-s", 0, "", loadCPU...)
	r.add("bundle import, memory", "MiB", 300, "most that was resident", rss...)
	return nil
}

// last runs a verb that ends its output with one JSON value, and says what CPU time and
// memory (MiB) it took.
func (b *bench) last(ctx context.Context, e env, into any, args ...string) (cpu, rss float64, err error) {
	cmd, stderr := b.command(ctx, e, args...)
	cmd.Env = append(cmd.Env, "ORRERY_KEY_PASSWORD=bench") // or the kernel's keyring would keep one
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(lastLine(out), into)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("orrery %v: %w\n%s", args, err, stderr)
	}
	cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		rss = float64(usage.Maxrss) / 1024
	}
	return cpu, rss, nil
}

// writeRate is what the disk takes of a file of n bytes that is synced, in MB/s.
func writeRate(file string, n int64) (float64, error) {
	f, err := os.Create(file)
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.Remove(file) }()
	defer f.Close()
	buffer := make([]byte, 4<<20)
	start := time.Now()
	for left := n; left > 0; left -= int64(len(buffer)) {
		if _, err := f.Write(buffer); err != nil {
			return 0, err
		}
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	return float64(n) / 1e6 / time.Since(start).Seconds(), nil
}
