package build

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/catalog"
)

// grant is memory that one build may use.
type grant struct {
	release func()
	// env tunes Go's collector, which costs a fifth of a build's CPU at its default.
	env []string
}

const (
	defaultMemoryMiB = 1024 // for a binary that nobody measured
	// unlimitedGC is how much more memory a build takes without garbage collection.
	unlimitedGC = 2.3
)

// reserve waits until the build of a binary fits into memory. With plenty of it, the
// build goes without garbage collection up to that limit.
func (b *Builder) reserve(ctx context.Context, miB int) (grant, error) {
	b.mu.Lock()
	if b.memory == nil {
		b.budget = int64(b.opts.MaxMemoryMiB)
		if b.budget <= 0 {
			b.budget = max(defaultMemoryMiB, availableMemoryMiB()*3/4)
		}
		b.memory = semaphore.NewWeighted(b.budget)
	}
	memory, budget := b.memory, b.budget
	b.mu.Unlock()

	want := int64(miB)
	if want <= 0 {
		want = defaultMemoryMiB
	}
	if ample := int64(unlimitedGC * float64(want)); ample <= budget/2 && memory.TryAcquire(ample) {
		return grant{
			release: func() { memory.Release(ample) },
			env:     []string{"GOGC=off", fmt.Sprintf("GOMEMLIMIT=%dMiB", ample)},
		}, nil
	}
	// More than there is in total is built alone, and may swap.
	want = min(want, budget)
	if err := memory.Acquire(ctx, want); err != nil {
		return grant{}, context.Cause(ctx)
	}
	return grant{release: func() { memory.Release(want) }, env: []string{"GOGC=400"}}, nil
}

// availableMemoryMiB is MemAvailable of /proc/meminfo, proc_meminfo(5); 0 when unknown.
func availableMemoryMiB() int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			kB, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return kB >> 10
		}
	}
	return 0
}

// SpaceError says that a build does not fit on the disk. Nothing was left behind.
type SpaceError struct {
	Dir  string
	Need int64 // bytes, estimated
	Free int64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("no space left: about %s are needed in %s and %s are free; free some, or choose a cache folder on another disk",
		size(e.Need), e.Dir, size(e.Free))
}

func size(n int64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20)
}

// Measured: a cold build of Kubernetes takes 900 CPU-seconds and writes 4.1 GiB of cache.
// The linker's working copy and the result come on top.
const (
	cacheBytesPerCPUSecond = 5 << 20
	linkBytes              = 400 << 20
)

// spaceFor estimates what building bin writes when only the given part of its packages
// has to be compiled: those into the cache, the same again into the working folder of a go
// command, which has a part of a large program at a time, and what the linker writes.
func spaceFor(bin catalog.Binary, part float64) int64 {
	cpu := bin.CPUSeconds
	if cpu <= 0 {
		cpu = smallBuild
	}
	link := min(int64(linkBytes), int64(cpu)*cacheBytesPerCPUSecond)
	compiled := part * cpu
	return int64(compiled+min(compiled, inParts))*cacheBytesPerCPUSecond + link
}

// freeSpace is what an ordinary user may still write to dir's file system, in bytes.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
