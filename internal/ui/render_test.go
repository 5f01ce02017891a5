package ui

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/orrery-dev/orrery/internal/golden"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// day plays an `up` with most of what can happen. at is called at some moments.
func day(sink Sink, at func(moment string)) {
	start := time.Now()
	emit := func(e Event) { e.Time = time.Now(); sink.Emit(e) }
	run := func(id, title string) {
		emit(Event{Type: TypeStep, Step: id, State: StateRunning, Message: title})
	}
	end := func(id string, state State, seconds float64, msg, err string) {
		emit(Event{Type: TypeStep, Step: id, State: state, Seconds: seconds, Message: msg, Error: err})
	}
	count := func(id string, done, total float64) {
		emit(Event{Type: TypeProgress, Step: id, Done: done, Total: total, Unit: "packages"})
	}
	overall := func(done, eta float64) {
		e := Event{Type: TypeProgress, Done: done, Total: 12, Unit: "steps", ETA: eta}
		if done < 8 {
			e.Message = "nodes Ready in about 3 min"
		}
		emit(e)
	}
	emit(Event{Type: TypeNotice, Message: "installing nftables, libseccomp-dev with apt"})
	end("build/runc", StateCached, 0, "Build runc v1.5.2", "")
	end("build/registry", StateCached, 0, "Build registry v3.1.2", "")
	emit(Event{Type: TypeMilestone, Step: "nodes", State: StateRunning, ETA: 200, Total: 2, Unit: "builds", Message: "nodes Ready: expected in about 3 min"})
	run("build/kubernetes", "Build kubernetes v1.37.2")
	run("build/nats-server", "Build nats-server v2.15.2")
	run("prepare", "Registry mirror")
	overall(2, 260)
	at("start")
	for i := range 40 {
		time.Sleep(time.Second)
		count("build/kubernetes", float64(50*(i+1)), 2310)
		count("build/nats-server", float64(20*(i+1)), 820)
		overall(2, 260-float64(i))
		switch i {
		case 1:
			end("prepare", StateDone, 1.2, "Registry mirror", "")
			emit(Event{Type: TypeWarning, Step: "prepare", Message: "fs.inotify.max_user_instances is 128", Error: "8 nodes at most;\nraise it with: sysctl -w fs.inotify.max_user_instances=1024"})
		case 20:
			at("middle")
		}
	}
	end("build/nats-server", StateDone, 40.4, "Build nats-server v2.15.2", "")
	time.Sleep(150 * time.Second)
	end("build/kubernetes", StateDone, time.Since(start).Seconds(), "", "")
	emit(Event{Type: TypeMilestone, Step: "nodes", State: StateDone, Seconds: 190, Done: 2, Total: 2, Unit: "builds", Message: "nodes Ready after 3 min 10 s"})
	run("deploy/nats", "Deploy nats")
	overall(8, 12)
	emit(Event{Type: TypeProgress, Step: "deploy/nats", Message: "waiting for StatefulSet nats: 1 of 3 ready; nats-1 pulls its image", Done: 1, Total: 3, Unit: "pods"})
	time.Sleep(11 * time.Second)
	emit(Event{Type: TypeProgress, Step: "deploy/nats", Message: "waiting for StatefulSet nats: 2 of 3 ready; nats-2\x1b[31m is\tPending", Done: 2, Total: 3, Unit: "pods"})
	at("deploy")
	end("deploy/nats", StateDone, 14.2, "Deploy nats", "")
	end("deploy/dns", StateCached, 0.4, "Deploy dns", "")
	end("deploy/foundationdb", StateSkipped, 0, "image foundationdb is not reachable; import a bundle or allow a registry", "")
	run("verify/nats", "Verify nats")
	run("verify/cluster", "Verify the cluster")
	time.Sleep(3200 * time.Millisecond)
	end("verify/nats", StateFailed, 3.2, "Verify nats", "stream ORDERS: want 1000 messages, got 999\nleader: nats-1\n  after stepdown: nats-2")
	end("verify/cluster", StateCancelled, 3.2, "stopped because another step failed", "")
	emit(Event{Type: TypeSummary, Message: "NODE     ZONE  ADDRESS\nserver1  a     10.89.0.11\n", Data: map[string]int{"total": 208}})
}

func TestPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		p := newPlain(&b)
		day(p, func(string) {})
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		p.Emit(Event{Type: TypeNotice, Message: "after the end"})
		golden.Equal(t, filepath.Join("testdata", "plain.txt"), b.String())
	})
}

func TestJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		j := newJSON(&b)
		day(j, func(string) {})
		j.Emit(Event{Type: TypeSummary, Data: func() {}})
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		all := strings.SplitAfter(b.String(), "\n")
		// The first seconds and the end say it all.
		golden.Equal(t, filepath.Join("testdata", "events.jsonl"), strings.Join(all[:16], "")+strings.Join(all[len(all)-10:], ""))
	})
}

func TestTTY(t *testing.T) {
	for _, c := range []struct {
		name           string
		columns, rows  int
		color, unicode bool
	}{
		{"tty", 80, 24, false, true},
		{"tty-color", 100, 24, true, true},
		{"tty-narrow", 34, 8, false, true},
		{"tty-ascii", 60, 5, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				screen := newScreen(c.columns)
				v := newTTY(screen, func() (int, int) { return c.columns, c.rows }, c.color, c.unicode)
				v.start()
				var b strings.Builder
				day(v, func(moment string) {
					time.Sleep(4 * frameEvery)
					synctest.Wait()
					fmt.Fprintf(&b, "--- %s\n%s", moment, screen)
					if cursor, wrap, _ := screen.modes(); cursor || !wrap {
						t.Error("cursor shown or wrapping off while the view lives")
					}
				})
				if err := errors.Join(v.Close(), v.Close()); err != nil {
					t.Fatal(err)
				}
				v.Emit(Event{Type: TypeNotice, Message: "after the end"})
				fmt.Fprintf(&b, "--- end\n%s", screen)
				if cursor, wrap, synchronized := screen.modes(); !cursor || !wrap || synchronized {
					t.Error("the terminal was not given back as it was")
				}
				golden.Equal(t, filepath.Join("testdata", c.name+".txt"), b.String())
			})
		})
	}
}

// One write per frame and at most ten frames a second, whatever is emitted.
func TestTTYPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n counter
		v := newTTY(&n, func() (int, int) { return 80, 24 }, true, true)
		v.start()
		for i := range 3000 {
			v.Emit(Event{Type: TypeStep, Step: fmt.Sprint("build/", i%300), State: StateRunning})
			time.Sleep(time.Millisecond)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if n > 31 {
			t.Errorf("%d writes in 3 s, want at most 31", n)
		}
	})
}

type counter int

func (c *counter) Write(p []byte) (int, error) { *c++; return len(p), nil }

// No live line reaches the last column, and all of them leave room on the screen.
func TestTTYFits(t *testing.T) {
	for columns := 1; columns < 130; columns += 3 {
		for _, rows := range []int{1, 2, 4, 10, 60} {
			v := newTTY(&bytes.Buffer{}, nil, true, true)
			now := time.Now()
			for i := range 20 {
				v.Emit(Event{Time: now, Type: TypeStep, Step: fmt.Sprintf("build/a-very-long-name-%d", i), State: StateRunning, Message: strings.Repeat("é", 90)})
			}
			v.Emit(Event{Time: now, Type: TypeProgress, Done: 3, Total: 20, ETA: 4000})
			live := v.live(columns, rows, now)
			if len(live) > max(rows-2, 2) {
				t.Errorf("%d live lines on %d rows", len(live), rows)
			}
			for _, l := range live {
				if l.width() >= max(columns, 1) && l.width() > 0 {
					t.Errorf("a line of %d columns in a terminal of %d: %v", l.width(), columns, l)
				}
			}
		}
	}
}

// A terminal that was made narrower has wrapped the last frame: nothing of it stays behind.
func TestTTYResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var columns atomic.Int64
		columns.Store(80)
		screen := newScreen(80)
		v := newTTY(screen, func() (int, int) { return int(columns.Load()), 24 }, false, true)
		v.start()
		v.Emit(Event{Type: TypeStep, Step: "build/kubernetes", State: StateRunning, Message: strings.Repeat("long ", 20)})
		time.Sleep(time.Second)
		synctest.Wait()
		columns.Store(30)
		screen.resize(30)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := strings.Count(screen.String(), "build/"); got != 1 {
			t.Errorf("%d remains of the step, want 1:\n%s", got, screen)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(screen.String()); got != "" {
			t.Errorf("left on the screen: %q", got)
		}
	})
}

func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		screen := newScreen(80)
		size := func() (int, int) { return 80, 24 }
		v := newTTY(screen, size, true, true)
		v.start()
		v.Emit(Event{Type: TypeStep, Step: "a", State: StateRunning})
		unblock := make(chan struct{})
		stuck := newTTY(writerFunc(func([]byte) (int, error) { <-unblock; return 0, nil }), size, true, true)
		stuck.start()
		stuck.Emit(Event{Type: TypeStep, Step: "a", State: StateRunning})
		time.Sleep(time.Second)
		synctest.Wait()
		if cursor, _, _ := screen.modes(); cursor {
			t.Fatal("the view does not live")
		}
		begin := time.Now()
		Restore()
		if took := time.Since(begin); took > restoreTimeout {
			t.Errorf("a blocked terminal held it up for %s", took)
		}
		close(unblock)
		if cursor, wrap, _ := screen.modes(); !cursor || !wrap {
			t.Error("the terminal was not given back")
		}
		synctest.Wait()
	})
}

func TestConcurrentEmit(t *testing.T) {
	for name, r := range map[string]Renderer{
		"json":  newJSON(&bytes.Buffer{}),
		"plain": newPlain(&bytes.Buffer{}),
		"tty": func() Renderer {
			v := newTTY(&bytes.Buffer{}, func() (int, int) { return 80, 24 }, true, true)
			v.start()
			return v
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			for g := range 8 {
				go func() {
					defer func() { done <- struct{}{} }()
					for i := range 200 {
						id := fmt.Sprint("step/", g, i%7)
						r.Emit(Event{Type: TypeStep, Step: id, State: StateRunning})
						r.Emit(Event{Type: TypeProgress, Step: id, Done: float64(i), Total: 200})
						r.Emit(Event{Type: TypeStep, Step: id, State: StateDone, Seconds: 1})
					}
				}()
			}
			for i := range 8 {
				<-done
				if i == 6 {
					go r.Close() // an interrupt, while others still emit
				}
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestWriteErrorIsReturned(t *testing.T) {
	want := errors.New("broken pipe")
	w := writerFunc(func([]byte) (int, error) { return 0, want })
	tty := newTTY(w, func() (int, int) { return 80, 24 }, false, true)
	tty.start()
	for name, r := range map[string]Renderer{"json": newJSON(w), "plain": newPlain(w), "tty": tty} {
		r.Emit(Event{Type: TypeNotice, Message: "hello"})
		if err := r.Close(); !errors.Is(err, want) {
			t.Errorf("%s: Close = %v, want %v", name, err, want)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestChoose(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	t.Setenv("TERM", "xterm-256color")
	for _, c := range []struct {
		name string
		got  Renderer
		want string
	}{
		{"json", Choose(file, true, true), "*ui.jsonLines"},
		{"file", Choose(file, false, false), "*ui.plain"},
		{"buffer", Choose(&bytes.Buffer{}, false, false), "*ui.plain"},
	} {
		if got := fmt.Sprintf("%T", c.got); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestUTF8Locale(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want bool
	}{
		{nil, true},
		{map[string]string{"LANG": "de_DE.UTF-8"}, true},
		{map[string]string{"LANG": "C.utf8"}, true},
		{map[string]string{"LANG": "C"}, false},
		{map[string]string{"LC_ALL": "POSIX", "LANG": "en_GB.UTF-8"}, false},
	} {
		if got := utf8Locale(func(k string) string { return c.env[k] }); got != c.want {
			t.Errorf("utf8Locale(%v) = %v", c.env, got)
		}
	}
}
