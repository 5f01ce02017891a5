package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/proc"
)

// ensureSupervisor starts the supervisor unless it runs and answers.
func (d *Driver) ensureSupervisor(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.patience())
	defer cancel()
	c := newClient(d.paths)
	if id, err := supervisorIdentity(d.paths); err == nil {
		var suspended error
		err := check.Until(ctx, check.Pause{First: 10 * time.Millisecond}, func() error {
			if !id.Alive() {
				return nil
			}
			_, err := c.status(ctx)
			if errors.Is(err, errSuspended) {
				suspended = err
				return nil
			}
			return err
		})
		if err = errors.Join(suspended, err); err != nil {
			return fmt.Errorf("the supervisor (PID %d) runs but does not answer: %w", id.PID, err)
		}
		if id.Alive() {
			return nil
		}
	} else if !errors.Is(err, errNoSupervisor) {
		return err
	}
	for _, e := range []driver.Effect{d.cgroupEffect(), d.supervisorEffect()} {
		if err := d.options.Journal.Begin(e); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	if err := installExecutable(d.options.Executable, d.paths.executable()); err != nil {
		return err
	}
	return d.spawnSupervisor(ctx, c)
}

func (d *Driver) spawnSupervisor(ctx context.Context, c *client) error {
	logPath := d.paths.log("supervisor")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(d.paths.executable(), modeSupervise, string(d.paths))
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOGC=50"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", d.whyNotRun(cmd.Path, err))
	}
	id, err := proc.Of(cmd.Process.Pid)
	if err != nil && !errors.Is(err, proc.ErrGone) {
		return err
	}
	go func() { _ = cmd.Wait() }() // so that one that ends at once is no zombie
	var died bool
	err = check.Until(ctx, check.Pause{First: 5 * time.Millisecond}, func() error {
		if !id.Alive() {
			// Perhaps because another process was quicker to start one.
			if other, err := supervisorIdentity(d.paths); err != nil || other == id {
				died = true
				return nil
			}
		}
		_, err := c.status(ctx)
		return err
	})
	if died {
		return fmt.Errorf("the supervisor ended at once: %s (more in %s)", lastLine(tail(logPath, 1000)), logPath)
	}
	if err != nil {
		return fmt.Errorf("the supervisor does not answer: %w; see %s", err, logPath)
	}
	return nil
}

// installExecutable copies this program, so that the supervisor can start nodes long
// after the original (which 'go run' deletes) has gone. An earlier copy is not relied on:
// somebody may have changed it.
func installExecutable(from, to string) error {
	src, err := os.Stat(from)
	if err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	temporary := to + ".new"
	out, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err == nil {
		err = os.Chtimes(temporary, src.ModTime(), src.ModTime())
	}
	if err == nil {
		err = os.Rename(temporary, to)
	}
	if err != nil {
		os.Remove(temporary)
		return fmt.Errorf("copy this program to %s: %w", to, err)
	}
	return nil
}
