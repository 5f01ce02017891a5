package native

import (
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// spawner starts processes from one thread that lives as long as the program: Pdeathsig
// is sent when the creating thread ends, not the creating process.
type spawner struct{ jobs chan spawnJob }

type spawnJob struct {
	cmd  *exec.Cmd
	done chan error
}

// newSpawner starts the thread; with a namespace, in it.
func newSpawner(ns *netNS) (*spawner, error) {
	s := &spawner{jobs: make(chan spawnJob)}
	entered := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if ns != nil {
			if err := unix.Setns(ns.fd(), unix.CLONE_NEWNET); err != nil {
				entered <- err
				return
			}
		}
		entered <- nil
		for j := range s.jobs {
			j.done <- j.cmd.Start()
		}
	}()
	return s, <-entered
}

// start is cmd.Start on the lasting thread. cmd.SysProcAttr.Pdeathsig is the caller's to set.
func (s *spawner) start(cmd *exec.Cmd) error {
	j := spawnJob{cmd, make(chan error, 1)}
	s.jobs <- j
	return <-j.done
}
