package smoke

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	// maxExecOutput bounds what a program in a pod may answer.
	maxExecOutput = 4 << 20
	// execTime bounds how long it may take.
	execTime = time.Minute
)

// execute runs a program in a container. An error has the last of what it said.
func execute(ctx context.Context, env Env, namespace, pod, container string, in io.Reader, command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, execTime)
	defer cancel()
	out, errOut := &bounded{left: maxExecOutput}, &bounded{left: maxExecOutput}
	if err := env.Client.Exec(ctx, namespace, pod, container, command, in, out, errOut); err != nil {
		said := lastLine(errOut.String())
		if said == "" {
			said = lastLine(out.String())
		}
		return "", fmt.Errorf("%s in %s: %w: %s", command[0], pod, err, said)
	}
	return out.String(), nil
}

// bounded keeps the beginning.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	keep := p[:min(len(p), b.left)]
	b.left -= len(keep)
	_, err := b.Buffer.Write(keep)
	return len(p), err
}

// lastLine is the last line of some text, for a message.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	s = s[strings.LastIndexByte(s, '\n')+1:]
	return s[max(0, len(s)-200):]
}
