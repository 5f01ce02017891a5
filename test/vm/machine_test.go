package vm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a Debian that is switched off or on.
type machine struct {
	dir            string // of disk and console
	kernel, initrd string
	boot           *boot // nil when off
}

// boot is one time that the machine runs.
type boot struct {
	process *os.Process
	ended   chan error // of the process, once
	in      io.WriteCloser
	lines   chan string // of the shell, closed when the machine is off
}

// on starts the machine and returns when its shell takes commands.
func (m *machine) on(t *testing.T) {
	t.Helper()
	qemu := exec.Command("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		// A processor of one instruction a nanosecond of the machine's own time, however fast it is run here: what
		// waits in there waits no less for being slow.
		"-accel", "tcg,tb-size=512", "-icount", "shift=0", "-cpu", "max", "-smp", "1", "-m", strconv.Itoa(memoryMiB),
		"-kernel", m.kernel, "-initrd", m.initrd, "-append", "root=/dev/vda rw console=ttyS0 quiet",
		"-drive", "if=virtio,format=raw,file="+m.disk(),
		"-chardev", "file,id=console,append=on,path="+m.console(), "-serial", "chardev:console",
		"-chardev", "stdio,id=commands,signal=off", "-serial", "chardev:commands")
	in, err := qemu.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	qemu.Stderr = os.Stderr
	qemu.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for the test
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	b := &boot{process: qemu.Process, ended: make(chan error, 1), in: in, lines: make(chan string, 1000)}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			b.lines <- s.Text()
		}
		close(b.lines)
		b.ended <- qemu.Wait()
	}()
	m.boot = b
	t.Cleanup(func() { m.cutPower(t) })
	began := time.Now()
	if _, err := b.until(t, bootTime, "commands please"); err != nil {
		t.Fatalf("it does not boot: %v; its console is %s", err, m.console())
	}
	t.Logf("booted in %.0f s", time.Since(began).Seconds())
}

func (m *machine) disk() string { return filepath.Join(m.dir, "disk") }

func (m *machine) console() string { return filepath.Join(m.dir, "console") }

// until reads lines to the one that begins with prefix, and returns those before it and it.
func (b *boot) until(t *testing.T, limit time.Duration, prefix string) ([]string, error) {
	t.Helper()
	var lines []string
	late := time.NewTimer(limit)
	defer late.Stop()
	for {
		select {
		case l, ok := <-b.lines:
			if !ok {
				return lines, errors.New("the machine went off")
			}
			lines = append(lines, l)
			if strings.HasPrefix(l, prefix) {
				return lines, nil
			}
		case <-late.C:
			return lines, fmt.Errorf("no line %q within %s", prefix, limit)
		}
	}
}

// try runs a line of shell in the machine and returns what it printed and its exit status.
func (m *machine) try(t *testing.T, limit time.Duration, line string) (string, int) {
	t.Helper()
	const end = "--- ended with "
	began := time.Now()
	m.tell(t, "{ "+line+"\n} </dev/null 2>&1; printf '\\n"+end+"%d\\n' $?")
	lines, err := m.boot.until(t, limit, end)
	if err != nil {
		t.Fatalf("%s: %v; it printed\n%s", line, err, strings.Join(lines, "\n"))
	}
	last := len(lines) - 1
	code, err := strconv.Atoi(strings.TrimPrefix(lines[last], end))
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Logf("%s: %.0f s", line, took.Seconds())
	}
	return strings.TrimSpace(strings.Join(lines[:last], "\n")), code
}

// run is try for what must succeed.
func (m *machine) run(t *testing.T, limit time.Duration, line string) string {
	t.Helper()
	out, code := m.try(t, limit, line)
	if code != 0 {
		t.Fatalf("%s: exit status %d\n%s", line, code, out)
	}
	return out
}

// tell writes a line to the machine's shell.
func (m *machine) tell(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(m.boot.in, line+"\n"); err != nil {
		t.Fatalf("tell the machine %q: %v", line, err)
	}
}

// off shuts it down in good order.
func (m *machine) off(t *testing.T) {
	t.Helper()
	began := time.Now()
	m.tell(t, "systemctl --no-block poweroff")
	select {
	case <-m.boot.ended:
		m.boot.ended <- nil
		t.Logf("shut down in %.0f s", time.Since(began).Seconds())
	case <-time.After(offTime):
		t.Errorf("it does not shut down within %s; its console is %s", offTime, m.console())
	}
	m.cutPower(t)
}

// cutPower ends it at once, whatever it was about.
func (m *machine) cutPower(t *testing.T) {
	t.Helper()
	if m.boot == nil {
		return
	}
	if err := syscall.Kill(-m.boot.process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("cut the power: %v", err)
	}
	<-m.boot.ended
	m.boot.in.Close()
	for range m.boot.lines { //nolint:revive // to its end
	}
	m.boot = nil
}
