package flow

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/orrery-dev/orrery/internal/proc"
)

// Server is where the flows of one node can be read.
type Server struct {
	Node    string // "" when it knows those of all nodes
	Address string // as hubble's --server takes it
}

// Source reads flows of an environment.
type Source struct {
	// Servers finds the program hubble and who is to be asked, anew for every reading: nodes
	// come and go.
	Servers func(context.Context) (program string, servers []Server, err error)
	// Trouble is told what is missing though there is an answer: a node that does not say, events
	// that were lost. It may be called from several goroutines. Nil drops it.
	Trouble func(node string, err error)
}

// maxLine is the longest line that is read; flows have about two kilobytes.
const maxLine = 1 << 20

// Read returns the flows that q selects, oldest first. A node that cannot be asked is told to
// Trouble, and an error when no node can be.
func (s Source) Read(ctx context.Context, q Query) ([]Flow, error) {
	program, servers, err := s.find(ctx, q)
	if err != nil {
		return nil, err
	}
	found := make([][]Flow, len(servers))
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		wg.Go(func() {
			errs[i] = s.observe(ctx, program, server, q, false, func(f Flow) error {
				found[i] = append(found[i], f)
				if q.Last > 0 && len(found[i]) >= 2*q.Last { // of those since, the newest
					found[i] = append(found[i][:0], newest(found[i], q.Last)...)
				}
				return nil
			})
		})
	}
	wg.Wait()
	if err := s.judge(ctx, servers, errs); err != nil {
		return nil, err
	}
	all := slices.Concat(found...)
	slices.SortStableFunc(all, order)
	return newest(all, q.Last), nil
}

// judge is an error when there is no answer at all, and tells of what is missing otherwise.
func (s Source) judge(ctx context.Context, servers []Server, errs []error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	failed := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	if len(failed) == len(errs) {
		return errors.Join(failed...)
	}
	for i, err := range errs {
		if err != nil {
			s.tell(servers[i].Node, err)
		}
	}
	return nil
}

func (s Source) tell(node string, err error) {
	if s.Trouble != nil {
		s.Trouble(node, err)
	}
}

func (s Source) find(ctx context.Context, q Query) (string, []Server, error) {
	if err := q.Check(); err != nil {
		return "", nil, err
	}
	program, servers, err := s.Servers(ctx)
	if err != nil {
		return "", nil, err
	}
	var nodes []string
	wanted := slices.DeleteFunc(slices.Clone(servers), func(v Server) bool {
		nodes = append(nodes, v.Node)
		return q.Node != "" && v.Node != "" && v.Node != q.Node
	})
	switch {
	case len(servers) == 0:
		return "", nil, errors.New("no node runs whose flows could be read")
	case len(wanted) == 0:
		return "", nil, fmt.Errorf("no node %q runs: there are %s", q.Node, strings.Join(nodes, ", "))
	}
	return program, wanted, nil
}

// observe runs hubble for one server until it ends or give returns an error, which is then
// returned.
func (s Source) observe(ctx context.Context, program string, server Server, q Query, follow bool, give func(Flow) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := proc.Run(ctx, &proc.Cmd{
			Path: program, Args: q.args(server.Address, follow), Stdout: in,
			// Neither a person's configuration nor their proxy has a say here.
			Env: []string{"HOME=/nonexistent", "PATH=/nonexistent"},
		})
		in.Close()
		ended <- err
	}()
	if err := s.lines(out, server, q, give); err != nil {
		cancel()
		out.CloseWithError(err)
		<-ended //nolint:errcheck // what it says comes of the cancel
		return err
	}
	if err := <-ended; err != nil {
		return fmt.Errorf("flows of %s: %w", cmp.Or(server.Node, server.Address), err)
	}
	return nil
}

// lines decodes what hubble prints, to its end.
func (s Source) lines(out io.Reader, server Server, q Query, give func(Flow) error) error {
	r := bufio.NewReaderSize(out, 64<<10)
	for {
		line, err := readLine(r)
		if len(bytes.TrimSpace(line)) > 0 {
			f, bad := decode(line)
			var lost lostError
			switch {
			case errors.As(bad, &lost):
				s.tell(server.Node, bad)
			case errors.Is(bad, errNoFlow):
			case bad != nil && err != nil: // cut off: how it ended says why
			case bad != nil:
				return bad
			default:
				f.Node = cmp.Or(server.Node, f.Node)
				if q.match(f) {
					if err := give(f); err != nil {
						return err
					}
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readLine is a line without bound of the reader's buffer, but below maxLine.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, fmt.Errorf("hubble printed a line of more than %d bytes", maxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
