package native

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopTime bounds a graceful stop of a node.
const stopTime = 1500 * time.Millisecond

// statusFD is the pipe to the supervisor in PID 1.
const statusFD = 3

// initEvent is one line on the status pipe.
type initEvent struct {
	Service  string `json:"service,omitempty"`
	PID      int    `json:"pid,omitempty"` // in the node's PID namespace
	State    string `json:"state"`         // waiting | running | exited | failed | repaired | up | drained
	Restarts int    `json:"restarts,omitempty"`
	Detail   string `json:"detail,omitempty"`
	// Left are the pods whose containers had not ended, of drained.
	Left []string `json:"left,omitempty"`
}

// nodeInit is PID 1 of a node. First run: it waits until the supervisor has put it into its
// control groups and connected it, then takes its own view of the groups and runs itself again,
// so that all of its threads have that view.
func nodeInit(args []string) error {
	if len(args) == 1 {
		line := make([]byte, 1)
		if _, err := io.ReadFull(os.Stdin, line); err != nil {
			return fmt.Errorf("the supervisor went away: %w", err)
		}
		// Read now: from inside, the mounts of the host no longer look like roots.
		cg, err := hostCgroups()
		if err != nil {
			return err
		}
		layout, err := json.Marshal(cg)
		if err != nil {
			return err
		}
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return fmt.Errorf("unshare the cgroup namespace: %w", err)
		}
		return syscall.Exec("/proc/self/exe", []string{os.Args[0], modeNodeInit, args[0], string(layout)}, os.Environ())
	}
	b, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var c initConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	if exists(filepath.Join(c.State, memberAddedFile)) {
		c.joinExisting()
	}
	status := os.NewFile(statusFD, "status")
	if status == nil {
		return errors.New("no status pipe: node-init is started by the supervisor only")
	}
	unix.CloseOnExec(statusFD)
	if err := setUpNode(c, args[1]); err != nil {
		_ = json.NewEncoder(status).Encode(initEvent{State: "failed", Detail: err.Error()})
		return err
	}
	return runNode(c, status)
}

// setUpNode gives the namespaces the contents of a machine.
func setUpNode(c initConfig, layout string) error {
	var cg cgroups
	if err := json.Unmarshal([]byte(layout), &cg); err != nil {
		return fmt.Errorf("control groups: %w", err)
	}
	if err := enterRoot(c, cg); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("sethostname: %w", err)
	}
	if err := kernelOfNode(cg); err != nil {
		return err
	}
	if c.Datapath != nil {
		return c.Datapath.start()
	}
	return nil
}

// kernelOfNode sets what the kernel keeps for each namespace.
func kernelOfNode(cg cgroups) error {
	if cg.v2() {
		// A v2 group that hands controllers to its children holds no process itself.
		if err := os.MkdirAll("/sys/fs/cgroup/init", 0o755); err != nil {
			return err
		}
		if err := os.WriteFile("/sys/fs/cgroup/init/cgroup.procs", []byte("0"), 0o644); err != nil {
			return fmt.Errorf("leave the root of the node's cgroup: %w", err)
		}
		delegate("/sys/fs/cgroup")
	}
	for name, value := range map[string]string{
		// The limit would swallow most of "no such host" about pods that have gone, see ptp.routes.
		"icmp_ratelimit": "0",
		"ip_forward":     "1", "conf/all/rp_filter": "0", "conf/default/rp_filter": "0", "conf/eth0/rp_filter": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644); err != nil {
			return fmt.Errorf("sysctl net.ipv4.%s: %w", name, err)
		}
	}
	return nil
}

// runNode starts the services and reaps until it is told to end.
func runNode(c initConfig, status io.Writer) error {
	environment := []string{"PATH=" + nodeBin[:len(nodeBin)-1] + ":/run/tools", "HOME=/root", "HOSTNAME=" + c.Hostname}
	os.Clearenv()
	in := newServiceSet(c.Services, environment, status)
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	orphaned := make(chan struct{})
	go func() { // the supervisor holds the other end of standard input for as long as it lives
		in.obey(bufio.NewScanner(os.Stdin))
		close(orphaned)
	}()
	in.start()
	go in.reap()
	if c.Datapath != nil {
		go c.Datapath.announce(in.stopping)
	}
	go func() {
		// After the start nothing here needs memory.
		time.Sleep(5 * time.Second) //nolint:forbidigo // a moment to tidy up, not a condition
		debug.FreeOSMemory()
	}()
	select {
	case <-terminate:
		in.stop(stopTime)
	case <-orphaned:
	}
	return nil
}
