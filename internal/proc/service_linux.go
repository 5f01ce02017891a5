package proc

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// limit is a resource limit of a service, see getrlimit(2).
type limit struct {
	resource  int
	name      string // of the option of ulimit
	soft, max uint64
}

// infinity is RLIM_INFINITY.
const infinity = math.MaxUint64

// limits are what service managers give to a container runtime, whose containers inherit them.
var limits = []limit{
	{unix.RLIMIT_NOFILE, "open files (ulimit -n)", 1 << 20, 1 << 20},
	{unix.RLIMIT_NPROC, "processes of a user (ulimit -u)", infinity, infinity},
	{unix.RLIMIT_MEMLOCK, "locked memory (ulimit -l)", infinity, infinity},
	{unix.RLIMIT_AS, "address space (ulimit -v)", infinity, infinity},
	{unix.RLIMIT_DATA, "data segment (ulimit -d)", infinity, infinity},
	{unix.RLIMIT_STACK, "stack (ulimit -s)", 8 << 20, infinity},
	{unix.RLIMIT_FSIZE, "size of files (ulimit -f)", infinity, infinity},
	{unix.RLIMIT_CPU, "CPU time (ulimit -t)", infinity, infinity},
	{unix.RLIMIT_RSS, "resident memory (ulimit -m)", infinity, infinity},
	{unix.RLIMIT_LOCKS, "file locks (ulimit -x)", infinity, infinity},
	{unix.RLIMIT_CORE, "core files (ulimit -c)", 0, infinity},
	{unix.RLIMIT_RTPRIO, "realtime priority (ulimit -r)", 0, 0},
	{unix.RLIMIT_NICE, "nice priority (ulimit -e)", 0, 0},
	{unix.RLIMIT_RTTIME, "realtime (ulimit -R)", infinity, infinity},
}

// enough of a limit: less is worth a word to a person. Others are, when they are not unlimited.
var enough = map[int]uint64{unix.RLIMIT_NOFILE: 16 << 10, unix.RLIMIT_NPROC: 16 << 10, unix.RLIMIT_MEMLOCK: 8 << 20, unix.RLIMIT_STACK: 8 << 20}

// ExecService replaces this process by argv, as a service manager would start it: with nothing
// of what the caller of this program happened to have. That is umask, resource limits,
// priorities, CPUs, ignored and blocked signals, open files, groups and the working folder. It
// returns only when the program cannot be run; what cannot be changed stays, see [Kept].
//
// Most of it belongs to a thread and not to the process, which is why it takes an exec: the
// thread that calls it is then the only one.
func ExecService(path string, argv, env []string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.Umask(0o022)
	for _, l := range limits {
		setLimit(l)
	}
	// A program may change these of itself at any time; where it may not, it is said by Kept.
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 0)
	const ioprioWhoProcess = 1
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, 0) // of the nice value
	var all unix.CPUSet
	for i := range len(all) * 64 {
		all.Set(i)
	}
	_ = unix.SchedSetaffinity(0, &all)                      // the kernel leaves out what there is not
	_, _, _ = unix.Syscall(unix.SYS_SET_MEMPOLICY, 0, 0, 0) // MPOL_DEFAULT
	_, _, _ = unix.Syscall(unix.SYS_PERSONALITY, 0, 0, 0)
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 50_000, 0, 0, 0) // ns, the kernel's default
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0)
	if os.Geteuid() == 0 {
		_ = syscall.Setgroups(nil)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := closeOnExec(); err != nil {
		return err
	}
	// An exec resets what is caught and keeps what is ignored, so all is caught until then.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught)
	defer signal.Stop(caught)
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil); err != nil {
		return fmt.Errorf("unblock signals: %w", err)
	}
	return fmt.Errorf("run %s: %w", path, syscall.Exec(path, argv, env))
}

// setLimit sets one limit, or what comes nearest.
func setLimit(l limit) {
	if l.resource == unix.RLIMIT_NOFILE {
		if most, ok := number("/proc/sys/fs/nr_open"); ok {
			l.soft, l.max = min(l.soft, most), min(l.max, most)
		}
	}
	want := syscall.Rlimit{Cur: l.soft, Max: l.max}
	if syscall.Setrlimit(l.resource, &want) == nil {
		return
	}
	var have syscall.Rlimit
	if syscall.Getrlimit(l.resource, &have) == nil {
		want.Max = min(want.Max, have.Max)
		want.Cur = min(want.Cur, want.Max)
		_ = syscall.Setrlimit(l.resource, &want)
	}
}

func number(path string) (uint64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// closeOnExec lets all descriptors but the standard ones end with the program: the lock that
// flock(1) holds around a command would be held for as long as what the command left running.
func closeOnExec() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	fds, err := os.ReadDir("/proc/self/fd") // Linux before 5.11
	if err != nil {
		return err
	}
	for _, e := range fds {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// Kept names what a process that [ExecService] starts has from us all the same, since we may
// not change it: a line each, for a person.
func Kept() []string {
	var k []string
	can := capable()
	if !can(unix.CAP_SYS_RESOURCE) {
		for _, l := range limits {
			var have syscall.Rlimit
			need, some := enough[l.resource]
			if !some {
				need = l.max
			}
			if syscall.Getrlimit(l.resource, &have) == nil && have.Max < need {
				k = append(k, fmt.Sprintf("the limit of %d for %s", have.Max, l.name))
			}
		}
		if b, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
			if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n > 0 {
				k = append(k, fmt.Sprintf("oom_score_adj %d", n))
			}
		}
	}
	if !can(unix.CAP_SYS_NICE) {
		// The system call answers 20 minus the nice value.
		if p, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && p < 20 {
			k = append(k, fmt.Sprintf("the nice value %d", 20-p))
		}
	}
	status := readStatus()
	if status["NoNewPrivs"] == "1" {
		k = append(k, "no_new_privs, with which programs of pods gain no rights by setuid")
	}
	if status["Seccomp"] == "2" {
		k = append(k, "a seccomp filter")
	}
	return k
}

func capable() func(c int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return func(c int) bool { return err == nil && data[c/32].Effective&(1<<(c%32)) != 0 }
}

// readStatus reads /proc/self/status, see proc_pid_status(5).
func readStatus() map[string]string {
	m := map[string]string{}
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			m[name] = strings.TrimSpace(value)
		}
	}
	return m
}
