package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/console"
	"github.com/orrery-dev/orrery/internal/filelock"
)

// verifiedFile of the state directory holds the last result of every check, whoever ran it:
// `up`, `verify` or the console.
const verifiedFile = "verified.json"

// verifiedResult is the last result of one check.
type verifiedResult struct {
	checkResult
	// At is when the check ended.
	At time.Time `json:"at"`
}

func (r verifiedResult) same(o checkResult) bool {
	return r.Component == o.Component && r.Name == o.Name
}

// readVerified returns the last results; none when nothing was verified yet. What cannot be
// read is as if there were none, with the reason.
func readVerified(stateDir string) ([]verifiedResult, error) {
	data, err := os.ReadFile(filepath.Join(stateDir, verifiedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("earlier results of verify: %w", err)
	}
	var all []verifiedResult
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("earlier results of verify in %s: %w; the next `orrery verify` writes it anew", filepath.Join(stateDir, verifiedFile), err)
	}
	return all, nil
}

// recordVerified notes results over earlier ones of the same checks.
func recordVerified(ctx context.Context, stateDir string, results checkResults, at time.Time) error {
	lock, err := filelock.Wait(ctx, filepath.Join(stateDir, "."+verifiedFile+".lock"), filelock.Exclusive, nil)
	if err != nil {
		return fmt.Errorf("note the results of verify: %w", err)
	}
	defer lock.Close()
	all, _ := readVerified(stateDir) // an unreadable one is replaced
	for _, r := range results {
		all = slices.DeleteFunc(all, func(v verifiedResult) bool { return v.same(r) })
		all = append(all, verifiedResult{r, at.UTC().Truncate(time.Millisecond)})
	}
	slices.SortFunc(all, func(a, b verifiedResult) int {
		return cmp.Or(cmp.Compare(a.Component, b.Component), cmp.Compare(a.Name, b.Name))
	})
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(stateDir, verifiedFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("note the results of verify: %w", err)
	}
	return nil
}

// record notes results for the console's page. Nothing depends on it, so that its failure
// is only logged. What was interrupted says nothing.
func (p *platform) record(ctx context.Context, results checkResults) {
	if ctx.Err() != nil || len(results) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := recordVerified(bounded, p.stateDir, results, time.Now()); err != nil {
		p.log.Warn("verify", "error", err)
	}
}

// earlier are the last results of the checks that this environment still has.
func (p *platform) earlier() []console.Check {
	all, err := readVerified(p.stateDir)
	if err != nil {
		p.log.Warn("console", "error", err)
	}
	var checks []console.Check
	for _, r := range all {
		if _, ok := p.component(r.Component); !ok && r.Component != "cluster" || r.State == check.Running {
			continue
		}
		checks = append(checks, console.Check{Component: r.Component, Name: r.Name, State: string(r.State), Detail: r.Detail, Seconds: r.Seconds, At: r.At})
	}
	return checks
}
