package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	_ "github.com/orrery-dev/orrery/internal/driver/drivers" // those that this orrery has
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Exit codes. Scripts may rely on them.
const (
	exitOK          = 0
	exitFailed      = 1   // the verb ran and failed, or a check did
	exitUsage       = 2   // the command line or a file given by the person is wrong
	exitRefused     = 3   // the host lacks something, or the lock does not allow what would run
	exitInterrupted = 130 // Ctrl-C
)

// exitError ends with a code after everything has been printed already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Main runs the program: one invocation, or what the drivers have it run again for. It returns
// the exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if code, handled := reexec(args); handled {
		return code
	}
	// Verbs are short: less collecting saves a quarter of their time. The limit keeps what
	// streams a lot, such as a bundle, from growing.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(200 << 20)
	return Run(args, stdin, stdout, stderr)
}

// Run is one invocation; nothing of the process is changed.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := interruptible(stderr)
	defer stop()
	root := newRoot(&streams{in: stdin, out: stdout, err: stderr})
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	return exitCode(interruptedBy(context.Cause(ctx), err), stderr)
}

// exitCode prints err, if it has not been printed, and maps it to a code.
func exitCode(err error, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	if code, ok := errors.AsType[exitError](err); ok {
		return int(code)
	}
	fmt.Fprintln(stderr, "orrery: "+strings.TrimSpace(err.Error()))
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	if failure.IsUsage(err) {
		return exitUsage
	}
	if failure.IsRefused(err) {
		return exitRefused
	}
	return exitFailed
}

// interruption is why a verb was cancelled: a person, a closed terminal or another program.
type interruption struct{ by os.Signal }

func (i interruption) Error() string {
	switch i.by {
	case syscall.SIGINT:
		return "interrupted (Ctrl-C)"
	case syscall.SIGHUP:
		return "interrupted: the terminal was closed (SIGHUP)"
	}
	return "interrupted: another program ended it (SIGTERM)"
}

// Is implements the interface that [errors.Is] looks for: whoever is interrupted is cancelled.
func (interruption) Is(target error) bool { return target == context.Canceled }

// interruptedBy names what cancelled a verb where its error does not.
func interruptedBy(cause, err error) error {
	i, ok := errors.AsType[interruption](cause)
	if _, named := errors.AsType[interruption](err); !ok || named || !errors.Is(err, context.Canceled) {
		return err
	}
	if err == context.Canceled { //nolint:errorlint // alone it says no more
		return i
	}
	return fmt.Errorf("%w: %w", i, err)
}

// interruptible returns a context that the first SIGINT, SIGTERM or SIGHUP cancels, so that
// the verb cleans up; the second, unless it is SIGHUP, ends the process at once.
func interruptible(stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	sig := make(chan os.Signal, 2)
	done := make(chan struct{})
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signal.Notify(sig, syscall.SIGHUP)
	}
	go func() {
		var by os.Signal
		select {
		case <-done:
			return
		case by = <-sig:
		}
		// Whoever reads our output may have gone with the terminal, which must not end the clean-up.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
		fmt.Fprintln(stderr, "orrery: interrupted, cleaning up (once more to leave at once)")
		cancel(interruption{by})
		for {
			select {
			case <-done:
				return
			case s := <-sig:
				if s == syscall.SIGHUP { // a shell says it again when it ends
					continue
				}
				ui.Restore()
				os.Exit(exitInterrupted)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(sig)
		close(done)
		cancel(nil)
	}
}
