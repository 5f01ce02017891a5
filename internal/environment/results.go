package environment

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
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/plan"
)

// resultsFile of the state directory holds the last result of every check, whoever ran it:
// `up`, `verify` or the console.
const resultsFile = "verified.json"

// LastResult is the last result of one check.
type LastResult struct {
	CheckResult
	// At is when the check ended.
	At time.Time `json:"at"`
}

// readResults returns the last results; none when nothing was verified yet. What cannot be
// read is as if there were none, with the reason.
func readResults(stateDir string) ([]LastResult, error) {
	path := filepath.Join(stateDir, resultsFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("earlier results of verify: %w", err)
	}
	var all []LastResult
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("earlier results of verify in %s: %w; the next `orrery verify` writes it anew", path, err)
	}
	return all, nil
}

// recordResults notes results over earlier ones of the same checks.
func recordResults(ctx context.Context, stateDir string, results CheckResults, at time.Time) error {
	lock, err := filelock.Wait(ctx, filepath.Join(stateDir, "."+resultsFile+".lock"), filelock.Exclusive, nil)
	if err != nil {
		return fmt.Errorf("note the results of verify: %w", err)
	}
	defer lock.Close()
	all, _ := readResults(stateDir) // an unreadable one is replaced
	for _, r := range results {
		all = slices.DeleteFunc(all, func(v LastResult) bool { return v.Component == r.Component && v.Name == r.Name })
		all = append(all, LastResult{r, at.UTC().Truncate(time.Millisecond)})
	}
	slices.SortFunc(all, func(a, b LastResult) int {
		return cmp.Or(cmp.Compare(a.Component, b.Component), cmp.Compare(a.Name, b.Name))
	})
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(stateDir, resultsFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("note the results of verify: %w", err)
	}
	return nil
}

// record notes results for the console's page. Nothing depends on it, so that its failure
// is only logged. What was interrupted says nothing.
func (p *Platform) record(ctx context.Context, results CheckResults) {
	if ctx.Err() != nil || len(results) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := recordResults(bounded, p.StateDir, results, time.Now()); err != nil {
		p.request.Log.Warn("verify", "error", err)
	}
}

// LastResults are the last results of the checks that this environment still has.
func (p *Platform) LastResults() []LastResult {
	all, err := readResults(p.StateDir)
	if err != nil {
		p.request.Log.Warn("verify", "error", err)
	}
	return slices.DeleteFunc(all, func(r LastResult) bool {
		_, ok := p.Component(r.Component)
		return !ok && r.Component != plan.VerifyCluster || r.State == check.Running
	})
}
