package app

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/secrets"
)

func newSecretsEdit(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "edit",
		Short: "Open infra/secrets/data.yaml in your editor, in the clear, in memory",
		Long: `Decrypt infra/secrets/data.yaml into a file in memory (/dev/shm, mode 0600), open it in $VISUAL or $EDITOR,
and encrypt what comes back. The file in memory is overwritten and removed in any case. Nothing changes
when nothing was changed, when the editor fails, or when what it wrote cannot be read: then it is offered
again.

Keep an editor from writing copies elsewhere: vim -n -i NONE, for one.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return editSecrets(c.Context(), o) },
	}
}

func editSecrets(ctx context.Context, o *options) error {
	root, err := o.secretsRoot()
	if err != nil {
		return err
	}
	f, err := dataFile(root, true)
	if err != nil {
		return err
	}
	before, err := f.Plain()
	if err != nil {
		return err
	}
	file, shred, err := inMemory(before)
	if err != nil {
		return err
	}
	defer shred()
	for {
		if err := o.runEditor(ctx, file); err != nil {
			return fmt.Errorf("the editor failed, and %s is as it was: %w", secrets.DataFile, err)
		}
		after, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read what the editor wrote: %w", err)
		}
		if bytes.Equal(before, after) {
			_, err = fmt.Fprintln(o.out, "nothing was changed")
			return err
		}
		if err = f.Replace(after); err == nil {
			_, err = f.Values()
		}
		if err == nil {
			break
		}
		fmt.Fprintf(o.err, "%v\n", err)
		if !o.again() {
			return failure.Usagef("%s is as it was", secrets.DataFile)
		}
	}
	if err := saveData(root, f); err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.out, "%s is encrypted anew; 'orrery up' applies it\n", secrets.DataFile)
	return err
}

// again asks whether to open the editor once more; no without a terminal.
func (o *options) again() bool {
	fmt.Fprint(o.err, "edit it again? [y/n] ")
	line, err := bufio.NewReader(o.in).ReadString('\n')
	return err == nil && strings.HasPrefix(strings.ToLower(line), "y")
}

// runEditor waits for it. It has the terminal, and none of the variables that hold a key.
func (o *options) runEditor(ctx context.Context, file string) error {
	editor := cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi")
	// As git does: the variable may hold arguments.
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$@"`, editor, file)
	cmd.Env = proc.Environment("LANG", "LC_*", "SHELL", "COLORTERM", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = o.in, o.out, o.err
	return cmd.Run()
}
