package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Cmd is one command. Only Path is needed.
type Cmd struct {
	Path string   // a path, or a name that is looked for in PATH
	Args []string // without the name itself
	Dir  string
	Env  []string // "K=V"; nil means ours

	// User and Group, when not 0, are the IDs that it runs as, without further groups. Only
	// root may.
	User, Group uint32

	Stdin          io.Reader // nil reads nothing
	Stdout, Stderr io.Writer // nil drops; the tail of stderr is kept in any case

	// Grace is how long the process group may take after SIGTERM, sent when the context
	// ends, before SIGKILL. Default 2 s.
	Grace time.Duration
	// Tail is how many bytes of stderr an error carries. Default 4 KiB.
	Tail int

	// Started, when not nil, is told the identity of the process.
	Started func(Identity)

	// Usage is filled when the command has ended.
	Usage Usage
}

// Usage is what a command and its waited-for children took.
type Usage struct {
	CPU    time.Duration // user + system
	MaxRSS int64         // bytes, of the largest process
}

// Error is returned by [Run] for a command that started and did not succeed.
type Error struct {
	Command string // name and arguments
	Code    int    // exit code, -1 when ended by a signal
	Signal  syscall.Signal
	Stderr  string // the end of it, trimmed
	Err     error  // the context's cause when it was that, else *exec.ExitError
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", e.Command)
	switch {
	case e.Err != nil && (errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, context.DeadlineExceeded)):
		b.WriteString(e.Err.Error())
	case e.Signal != 0:
		fmt.Fprintf(&b, "ended by signal %s", e.Signal)
	case e.Code > 0:
		fmt.Fprintf(&b, "exit code %d", e.Code)
	default:
		fmt.Fprintf(&b, "%v", e.Err)
	}
	if e.Stderr != "" {
		fmt.Fprintf(&b, ": %s", e.Stderr)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Run executes c and waits for it. The command gets a process group of its own: when ctx
// ends the group is sent SIGTERM and, after c.Grace, SIGKILL; when we die it is killed.
// A command that could not be started is an *exec.Error or *os.PathError, one that
// failed an [*Error].
func Run(ctx context.Context, c *Cmd) error {
	// Pdeathsig fires when the creating thread ends, not the process: keep the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	grace, size := c.Grace, c.Tail
	if grace == 0 {
		grace = 2 * time.Second
	}
	if size == 0 {
		size = 4 << 10
	}
	tail := &tailWriter{size: size, next: c.Stderr}
	x := exec.CommandContext(ctx, c.Path, c.Args...)
	x.Dir, x.Env, x.Stdin, x.Stdout, x.Stderr = c.Dir, c.Env, c.Stdin, c.Stdout, tail
	x.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endsWithUs(x.SysProcAttr)
	if c.User != 0 || c.Group != 0 {
		x.SysProcAttr.Credential = &syscall.Credential{Uid: c.User, Gid: c.Group}
	}
	ended := make(chan struct{})
	var killer sync.WaitGroup
	x.Cancel = func() error {
		pgid := x.Process.Pid
		killer.Go(func() {
			t := time.NewTimer(grace)
			defer t.Stop()
			select {
			case <-ended:
			case <-t.C:
			}
			// Also after a quick end: a grandchild may have ignored SIGTERM.
			_ = syscall.Kill(-pgid, syscall.SIGKILL)
		})
		return syscall.Kill(-pgid, syscall.SIGTERM)
	}
	// Pipes held open by a grandchild do not keep us for longer than this.
	x.WaitDelay = grace + time.Second
	if err := x.Start(); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(c.Path), err)
	}
	if c.Started != nil {
		if id, err := childOf(x.Process.Pid); err == nil {
			c.Started(id)
		}
	}
	err := x.Wait()
	close(ended)
	killer.Wait()
	if s := x.ProcessState; s != nil {
		c.Usage.CPU = s.UserTime() + s.SystemTime()
		if r, ok := s.SysUsage().(*syscall.Rusage); ok {
			c.Usage.MaxRSS = r.Maxrss * rssUnit
		}
	}
	if err == nil {
		return nil
	}
	e := &Error{Command: c.String(), Code: -1, Stderr: tail.String(), Err: err}
	if s := x.ProcessState; s != nil {
		e.Code = s.ExitCode()
		if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
			e.Signal = w.Signal()
		}
	}
	if ctx.Err() != nil {
		e.Err = context.Cause(ctx)
	}
	return e
}

// String is the command line as a person would read it, cut at 200 bytes.
func (c *Cmd) String() string {
	s := strings.Join(append([]string{filepath.Base(c.Path)}, c.Args...), " ")
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}

// tailWriter passes writes on and keeps the last size bytes.
type tailWriter struct {
	size int
	next io.Writer

	mu  sync.Mutex
	buf []byte
}

func (t *tailWriter) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.size; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.mu.Unlock()
	if t.next != nil {
		return t.next.Write(p)
	}
	return len(p), nil
}

func (t *tailWriter) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.buf), "?"))
}

// Look reports where a program is, or an error that names it. It looks in PATH and in
// the system folders that a person's PATH often lacks.
func Look(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return filepath.Abs(p)
	}
	for _, d := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		p := filepath.Join(d, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}
