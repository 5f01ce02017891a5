package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// pair is one figure of this revision and of the one it is held against, run in turns.
type pair struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Before []float64 `json:"before"`
	After  []float64 `json:"after"`
	Ratio  float64   `json:"ratio"` // of the medians, after to before
}

// pairs runs up, up again and down with the command line and the catalogue of another revision
// and of this one in turns, so that whatever else the machine does meets both.
func (b *bench) pairs(ctx context.Context, r *report) error {
	other, remove, err := b.checkout(ctx, b.against)
	if err != nil {
		return err
	}
	defer remove()
	file := ""
	if b.components != "" {
		file = filepath.Join(b.dir, "pairs.yaml")
		yaml := "apiVersion: orrery.dev/v1alpha1\nkind: Environment\nname: " + b.env + "\ncomponents: [" + b.components + "]\n"
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			return err
		}
	}
	sides := []env{{name: b.env, file: file, tree: other}, {name: b.env, file: file}}
	for _, e := range sides {
		if err := b.warm(ctx, e); err != nil {
			return err
		}
	}
	figures := []pair{{Name: "up, verified", Unit: "s"}, {Name: "up, CPU", Unit: "CPU-s"}, {Name: "up with nothing to do", Unit: "s"},
		{Name: "down with audit", Unit: "s"}}
	for i := range b.runs {
		for side, e := range sides {
			b.say("pair %d of %d, %s", i+1, b.runs, []string{b.against, "this tree"}[side])
			values, err := b.round(ctx, e)
			if err != nil {
				return err
			}
			for f, v := range values {
				to := &figures[f].Before
				if side == 1 {
					to = &figures[f].After
				}
				*to = append(*to, v)
			}
		}
	}
	for _, f := range figures {
		f.Ratio = median(f.After) / median(f.Before)
		r.Pairs = append(r.Pairs, f)
	}
	return nil
}

// round is one life of an environment: its values in the order of the figures of pairs.
func (b *bench) round(ctx context.Context, e env) ([]float64, error) {
	up, err := b.run(ctx, e, "up", "-o", "json")
	if err != nil {
		return nil, err
	}
	inside, err := cpuSeconds(e.name)
	if err != nil {
		return nil, err
	}
	again, err := b.run(ctx, e, "up", "-o", "json")
	if err != nil {
		return nil, err
	}
	down, err := b.run(ctx, e, "down", "-o", "json")
	if err != nil {
		return nil, err
	}
	return []float64{up.seconds["total"], inside + up.cpu, again.wall.Seconds(), down.wall.Seconds()}, nil
}

// checkout makes a work tree of a revision and compiles its command line; remove takes it away.
func (b *bench) checkout(ctx context.Context, revision string) (t *tree, remove func(), err error) {
	dir := filepath.Join(b.dir, "against")
	git := func(ctx context.Context, args ...string) error {
		if msg, err := exec.CommandContext(ctx, "git", append([]string{"-C", b.repo}, args...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, msg)
		}
		return nil
	}
	if err := git(ctx, "worktree", "add", "--detach", dir, revision); err != nil {
		return nil, nil, err
	}
	remove = func() { _ = git(context.WithoutCancel(ctx), "worktree", "remove", "--force", dir) }
	out := filepath.Join(b.dir, "before")
	if err := os.MkdirAll(out, 0o700); err != nil {
		remove()
		return nil, nil, err
	}
	cli, err := compile(ctx, dir, out)
	if err != nil {
		remove()
		return nil, nil, err
	}
	return &tree{repo: dir, cli: cli}, remove, nil
}

func printPairs(w io.Writer, pairs []pair) {
	if len(pairs) == 0 {
		return
	}
	fmt.Fprintln(w, "\nFIGURE\tBEFORE\tAFTER\tRATIO\tRUNS BEFORE\tRUNS AFTER")
	for _, p := range pairs {
		list := func(values []float64) string {
			s := make([]string, len(values))
			for i, v := range values {
				s[i] = number(v)
			}
			return strings.Join(s, " ")
		}
		fmt.Fprintf(w, "%s\t%s %s\t%s %s\t%.2f\t%s\t%s\n", p.Name, number(median(p.Before)), p.Unit,
			number(median(p.After)), p.Unit, p.Ratio, cmp.Or(list(p.Before), "-"), cmp.Or(list(p.After), "-"))
	}
}
