package proc

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// show prints what this process was started with.
func show() {
	status := readStatus()
	fmt.Println("umask", status["Umask"])
	fmt.Println("ignored", status["SigIgn"])
	fmt.Println("blocked", status["SigBlk"])
	for _, l := range limits {
		var have syscall.Rlimit
		_ = syscall.Getrlimit(l.resource, &have)
		fmt.Println("limit", l.resource, have.Cur, have.Max)
	}
	p, _ := unix.Getpriority(unix.PRIO_PROCESS, 0)
	a, _ := unix.SchedGetAttr(0, 0)
	var cpus unix.CPUSet
	_ = unix.SchedGetaffinity(0, &cpus)
	oom, _ := os.ReadFile("/proc/self/oom_score_adj")
	dir, _ := os.Getwd()
	groups, _ := os.Getgroups()
	fmt.Println("nice", 20-p, "policy", a.Policy, "cpus", cpus.Count(), "oom", strings.TrimSpace(string(oom)), "dir", dir, "groups", groups)
	for fd := 3; fd < 20; fd++ {
		if to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && strings.HasPrefix(to, "/etc/") {
			fmt.Println("open", to)
		}
	}
}

// Whatever the caller has, what runs as a service has the same.
func TestExecServiceInheritsNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root may raise priorities")
	}
	run := func(before string) string {
		t.Helper()
		cmd := exec.Command("sh", "-c", before+"exec \"$0\"", os.Args[0])
		cmd.Env = append(os.Environ(), "PROC_TEST_CHILD=service")
		cmd.Dir = t.TempDir()
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v: %s", before, err, out.String())
		}
		return out.String()
	}
	plain := run("")
	for _, want := range []string{"umask 0022", "ignored 0000000000000000", "nice 0 policy 0", "dir /", "oom 0"} {
		if !strings.Contains(plain, want) {
			t.Errorf("no %q in\n%s", want, plain)
		}
	}
	for _, before := range []string{
		"umask 077; ", "umask 000; ", "ulimit -Sn 1024; ", "ulimit -Sc unlimited; ", "ulimit -Sf 100; ", "ulimit -Ss 1000; ",
		"trap '' HUP INT PIPE TERM USR1; ", "exec 7</etc/passwd; ", "renice -n 19 $$ >/dev/null; ", "chrt -b -p 0 $$ >/dev/null; ",
		"taskset -p 1 $$ >/dev/null; ",
	} {
		if tool := strings.Fields(before)[0]; tool == "renice" || tool == "chrt" || tool == "taskset" {
			if _, err := exec.LookPath(tool); err != nil {
				continue
			}
		}
		if got := run(before); got != plain {
			t.Errorf("after %q:\n%s\nwant\n%s", before, got, plain)
		}
	}
}

func TestKeptNamesWhatCannotBeRaised(t *testing.T) {
	if capable()(unix.CAP_SYS_RESOURCE) {
		t.Skip("this process may raise every limit")
	}
	cmd := exec.Command("sh", "-c", "ulimit -n 1024; exec \"$0\"", os.Args[0])
	cmd.Env = append(os.Environ(), "PROC_TEST_CHILD=kept")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(string(out), "\n"); !slices.Contains(lines, "the limit of 1024 for open files (ulimit -n)") {
		t.Errorf("got %s", out)
	}
}
