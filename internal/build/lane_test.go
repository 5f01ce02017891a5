package build

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
)

func TestLaneTakesTheLowestStageThenTheMostExpensiveFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lane
		var order []float64
		for cost, stage := range map[float64]int{5: 0, 900: 2, 100: 1, 200: 1} {
			go func() {
				leave, err := l.enter(t.Context(), stage, cost)
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, cost) // one at a time: no lock, and -race would tell
				time.Sleep(time.Second)
				leave()
				leave() // once more does nothing
			}()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !slices.Equal(order, []float64{5, 200, 100, 900}) {
			t.Errorf("order %v", order)
		}
	})
}

func TestLaneCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lane
		leave, err := l.enter(t.Context(), 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		cause := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		if _, err := l.enter(ctx, 0, 2); !errors.Is(err, cause) {
			t.Errorf("error %v, want the cause", err)
		}
		leave()
		if again, err := l.enter(t.Context(), 0, 1); err != nil {
			t.Errorf("the lane is stuck: %v", err)
		} else {
			again()
		}
	})
}

func TestReserve(t *testing.T) {
	b, err := NewBuilder(Options{CacheDir: t.TempDir(), MaxMemoryMiB: 4000})
	if err != nil {
		t.Fatal(err)
	}
	small, err := b.reserve(t.Context(), 400)
	if err != nil || small.env[0] != "GOGC=off" {
		t.Errorf("400 MiB of 4000: %v, %v; want no garbage collection", small.env, err)
	}
	big, err := b.reserve(t.Context(), 2500)
	if err != nil || big.env[0] != "GOGC=400" {
		t.Errorf("2500 MiB of 4000: %v, %v", big.env, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.reserve(ctx, 1000); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beyond the budget: %v, want to wait", err)
	}
	small.release()
	big.release()
	// More than there is at all is built alone instead of never.
	huge, err := b.reserve(t.Context(), 9000)
	if err != nil {
		t.Fatal(err)
	}
	huge.release()
}

func TestMeter(t *testing.T) {
	linking := 0
	m := newMeter(catalog.Binary{Name: "app", Version: "v1", CPUSeconds: 100}, "example.org/app", func() { linking++ })
	if p := m.look(); p.total != 0 || p.message != "app v1: loading packages" {
		t.Errorf("at first %+v", p)
	}
	for line, want := range map[string]bool{
		"go: downloading example.org/x v1.2.3": true,
		"# example.org/x":                      false,
		"x.go:3:1: undefined: y":               false,
		"":                                     false,
	} {
		if got := m.line(line); got != want {
			t.Errorf("line(%q) = %v, want %v", line, got, want)
		}
	}
	if p := m.look(); p.message != "app v1: downloading example.org/x@v1.2.3" {
		t.Errorf("while downloading %+v", p)
	}
	m.line("fmt") // compiled before the count came
	m.total(40, []string{"example.org/a", "example.org/b", "example.org/app"})
	if p := m.look(); p.done != 1 || p.total != 4 {
		t.Errorf("counted %+v, want 1 of 4: what is cached counts neither way", p)
	}
	m.line("example.org/a")
	if linking != 0 {
		t.Error("linking too early")
	}
	m.line("example.org/b")
	if linking != 1 {
		t.Error("only the main package is left, and it is not linking")
	}
	m.line("example.org/app")
	if p := m.look(); p.done != 4 || p.total != 4 || linking != 1 || p.message != "app v1: compiling example.org/app" {
		t.Errorf("at last %+v, linking %d times", p, linking)
	}
	if part := m.stalePart(); part != 0.1 {
		t.Errorf("stale part %v", part)
	}
}

func TestMeterETA(t *testing.T) {
	m := newMeter(catalog.Binary{Name: "app", CPUSeconds: 1000}, "main", func() {})
	m.began = time.Now().Add(-10 * time.Second)
	var packages []string
	for i := range 100 {
		packages = append(packages, fmt.Sprint("p", i))
	}
	m.total(100, packages)
	early := m.look().eta
	for _, p := range packages[:90] {
		m.line(p)
	}
	late := m.look().eta
	if early <= 0 || late <= 0 || late >= early {
		t.Errorf("ETA %v, then %v: want it to fall", early, late)
	}
}

func TestReportIsThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(catalog.Binary{Name: "app"}, "main", func() {})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n := 0
		var busy sync.WaitGroup
		busy.Go(func() {
			for ctx.Err() == nil {
				m.line("p")
				time.Sleep(time.Millisecond)
			}
		})
		m.report(ctx, func(progress) { n++ })
		busy.Wait()
		if n < 30 || n > 42 {
			t.Errorf("%d events in 10 s, want about 4 a second", n)
		}
	})
}

// What nobody waits for yet has less of the cores.
func TestLaterStagesAreNicer(t *testing.T) {
	for stage, want := range map[int]int{1: 14, 2: 18, 3: 19, 9: 19} {
		child := exec.Command("sleep", "60")
		child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lower(child.Process.Pid, catalog.Binary{Stage: stage})
		p, err := syscall.Getpriority(syscall.PRIO_PROCESS, child.Process.Pid)
		_ = child.Process.Kill()
		_ = child.Wait()
		if err != nil || 20-p != want {
			t.Errorf("stage %d: nice %d, %v; want %d", stage, 20-p, err, want)
		}
	}
}
