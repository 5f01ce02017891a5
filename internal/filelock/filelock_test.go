package filelock

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseLocks(t *testing.T) {
	const content = `1: FLOCK  ADVISORY  WRITE 4711 08:01:12 0 EOF
1: -> FLOCK  ADVISORY  WRITE 4712 08:01:12 0 EOF
2: FLOCK  ADVISORY  READ 4713 08:01:13 0 EOF
3: POSIX  ADVISORY  WRITE 4714 08:01:12 0 EOF
4: FLOCK  ADVISORY  READ -1 08:01:12 0 EOF
x
`
	if got := parseLocks(content, "08:01:12"); !slices.Equal(got, []int{4711}) {
		t.Errorf("got %v", got)
	}
}

// Nobody else can open a lock, not one either that an older orrery left open to all.
func TestModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	for _, made := range []bool{false, true} {
		if made {
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		f, err := Try(path, Exclusive)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := f.Stat(); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
		f.Close()
	}
}

// Another user who holds a lock is named, and waited for no longer than a moment.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it runs a process of another user")
	}
	program, err := exec.LookPath("flock")
	if err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "filelock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "lock")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	stranger := exec.Command(program, "--shared", path, "sleep", "600")
	stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, Setpgid: true}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-stranger.Process.Pid, syscall.SIGKILL)
		_ = stranger.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for { // until it has it
		f, err := Try(path, Exclusive)
		if errors.Is(err, ErrLocked) {
			break
		}
		if err != nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
		f.Close()
		if err := os.Chmod(path, 0o644); err != nil { // Try has closed it
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	before := strangerPatience
	strangerPatience = 100 * time.Millisecond
	t.Cleanup(func() { strangerPatience = before })
	if len(Holders(path)) == 0 {
		t.Skip("this kernel does not show who holds locks on", dir)
	}
	_, err = Wait(ctx, path, Exclusive, nil)
	held, ok := errors.AsType[*HeldError](err)
	if !ok || !errors.Is(err, ErrLocked) || held.Holders[0].UID != 65534 || !strings.Contains(err.Error(), "user 65534") || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

// Our own are waited for, and not for ever.
func TestWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := Try(path, Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	before := [2]time.Duration{strangerPatience, patience}
	strangerPatience, patience = 10*time.Millisecond, 200*time.Millisecond
	t.Cleanup(func() { strangerPatience, patience = before[0], before[1] })
	told := 0
	if _, err := Wait(t.Context(), path, Exclusive, func() { told++ }); !errors.Is(err, ErrLocked) || told != 1 {
		t.Errorf("got %v, told %d times", err, told)
	}
	f.Close()
	again, err := Wait(t.Context(), path, Exclusive, nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
