package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var bootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
})

// Self is the identity of this process.
func Self() (Identity, error) { return Of(os.Getpid()) }

// Of reads the identity of a PID. It returns [ErrGone] when there is no such process or
// it is a zombie.
func Of(pid int) (Identity, error) {
	boot, err := bootID()
	if err != nil {
		return Identity{}, fmt.Errorf("read the boot id: %w", err)
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return Identity{}, fmt.Errorf("pid %d: %w", pid, ErrGone)
	}
	if err != nil {
		return Identity{}, err
	}
	state, start, err := parseStat(b)
	if err != nil {
		return Identity{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	if state == 'Z' || state == 'X' {
		return Identity{}, fmt.Errorf("pid %d: %w", pid, ErrGone)
	}
	return Identity{PID: pid, Start: start, Boot: boot}, nil
}

// parseStat takes the state and the start time out of /proc/PID/stat. The command in
// parentheses may hold spaces and parentheses itself, hence the search from the end.
func parseStat(b []byte) (state byte, start uint64, err error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, 0, errors.New("no command in parentheses")
	}
	f := bytes.Fields(b[i+1:])
	if len(f) < 20 {
		return 0, 0, fmt.Errorf("%d fields after the command, want at least 20", len(f))
	}
	start, err = strconv.ParseUint(string(f[19]), 10, 64)
	return f[0][0], start, err
}

// Alive reports whether the very process still runs. A zombie does not.
func (id Identity) Alive() bool {
	now, err := Of(id.PID)
	return err == nil && now == id
}

// open returns a pidfd of the very process.
func (id Identity) open() (int, error) {
	if id.PID <= 0 {
		return -1, ErrGone
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return -1, fmt.Errorf("pid %d: %w", id.PID, ErrGone)
	}
	if err != nil {
		return -1, fmt.Errorf("pidfd_open %d: %w", id.PID, err)
	}
	// Checked after the open: from here on the descriptor cannot move to another process.
	if !id.Alive() {
		unix.Close(fd)
		return -1, fmt.Errorf("pid %d: %w", id.PID, ErrGone)
	}
	return fd, nil
}

// Signal sends sig to the very process, never to one that took its PID over.
// It returns [ErrGone] when the process has ended.
func (id Identity) Signal(sig syscall.Signal) error {
	fd, err := id.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("pid %d: %w", id.PID, ErrGone)
	} else if err != nil {
		return fmt.Errorf("signal %d to pid %d: %w", sig, id.PID, err)
	}
	return nil
}

// Wait returns nil once the process has ended, or the cause of ctx. The process need
// not be a child.
func (id Identity) Wait(ctx context.Context) error {
	fd, err := id.open()
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		// A pidfd turns readable when its process ends. The slice bounds how late a
		// cancelled context is seen.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll pidfd of %d: %w", id.PID, err)
		}
		if n > 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for pid %d to end: %w", id.PID, context.Cause(ctx))
		}
	}
}

// End asks the process to end with sig, waits at most grace and then kills it. It
// returns nil once it has ended.
func (id Identity) End(ctx context.Context, sig syscall.Signal, grace time.Duration) error {
	if err := id.Signal(sig); errors.Is(err, ErrGone) {
		return nil
	} else if err != nil {
		return err
	}
	soft, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if id.Wait(soft) == nil {
		return nil
	}
	if err := id.Signal(syscall.SIGKILL); errors.Is(err, ErrGone) {
		return nil
	} else if err != nil {
		return err
	}
	hard, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer stop()
	return id.Wait(hard)
}

// childOf is the identity of a process that this one started and has not waited for.
func childOf(pid int) (Identity, error) { return Of(pid) }

// endsWithUs has the kernel kill a command when the thread that started it ends.
func endsWithUs(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// rssUnit is what getrusage(2) counts ru_maxrss in, in bytes.
const rssUnit = 1024

// CPU is the processor time that a process has had.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields after the command", pid, len(f))
	}
	var sum uint64
	for _, field := range f[11:13] { // utime and stime, in clock ticks
		n, err := strconv.ParseUint(string(field), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		sum += n
	}
	const tick = 10 * time.Millisecond // USER_HZ, the same on every machine that Linux shows to programs
	return time.Duration(sum) * tick, nil
}

// Suspended reports whether the very process was told to stop for a while (SIGSTOP, or a
// debugger): it then neither works nor answers.
func (id Identity) Suspended() bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(id.PID) + "/stat")
	if err != nil {
		return false
	}
	state, start, err := parseStat(b)
	return err == nil && start == id.Start && (state == 'T' || state == 't')
}
