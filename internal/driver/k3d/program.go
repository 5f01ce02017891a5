package k3d

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/proc"
)

// k3d runs the program. What it says is in the error, or in the log.
func (d *Driver) k3d(ctx context.Context, env []string, args ...string) error {
	_, err := d.k3dOutput(ctx, env, args...)
	return err
}

func (d *Driver) k3dOutput(ctx context.Context, env []string, args ...string) (string, error) {
	program, err := proc.Look("k3d")
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, getK3d)
	}
	var out, said strings.Builder
	err = proc.Run(ctx, &proc.Cmd{
		Path: program, Args: args, Stdout: &out, Stderr: &said, Grace: 10 * time.Second,
		// k3d leaves copies of its configuration, with the token of nodes, among temporary files: these go
		// with the environment.
		Env: slices.Concat(os.Environ(), env, []string{"DOCKER_HOST=" + d.engine.address, "TMPDIR=" + d.StateDir}),
	})
	d.Log.Debug("k3d", "args", args, "said", out.String()+said.String())
	if err != nil {
		var failed *proc.Error
		if errors.As(err, &failed) {
			failed.Stderr = colours.ReplaceAllString(failed.Stderr, "")
		}
		return "", fmt.Errorf("%w\n%s", err, colours.ReplaceAllString(lastLines(out.String(), 6), ""))
	}
	return out.String(), nil
}

// colours are in what k3d says wherever it says it.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
