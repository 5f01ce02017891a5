package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// What came of a case. Skipped is no success, and not run is what a run that ended early left.
const (
	statePassed  = "passed"
	stateFailed  = "failed"
	stateSkipped = "skipped"
	stateNotRun  = "not run"
)

// results are those of one network.
type results struct {
	Plugin     string    `json:"plugin"`
	Kubernetes string    `json:"kubernetes"`
	Runs       []onerun  `json:"runs"`
	Images     []stoodIn `json:"images"`
	Cases      []result  `json:"cases"`
}

// onerun is when and on what cases were run.
type onerun struct {
	Set     string  `json:"set"`
	Focus   string  `json:"focus,omitempty"`
	Date    string  `json:"date"`
	Nodes   string  `json:"nodes"`           // servers+agents
	Again   bool    `json:"again,omitempty"` // only what had failed
	Minutes float64 `json:"minutes"`
}

type result struct {
	Name    string  `json:"name"`
	State   string  `json:"state"`
	Reason  string  `json:"reason,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	// Before is why it failed in the run before, when it passed in this one.
	Before string `json:"before,omitempty"`
}

func (r *results) count(state string) (n int) {
	for _, c := range r.Cases {
		if c.State == state {
			n++
		}
	}
	return n
}

func (r *results) summary() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped, %d not run",
		r.count(statePassed), r.count(stateFailed), r.count(stateSkipped), r.count(stateNotRun))
}

func (r *results) sort() {
	slices.SortFunc(r.Cases, func(a, b result) int { return strings.Compare(a.Name, b.Name) })
}

// print tells what did not pass, and the sum.
func (r *results) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, c := range r.Cases {
		if c.State != statePassed {
			fmt.Fprintf(t, "%s\t%s\t%s\n", c.State, c.Name, c.Reason)
		}
	}
	fmt.Fprintln(t, r.summary())
	return t.Flush()
}

// readResults is nil without an error where there is no such file.
func readResults(file string) (*results, error) {
	data, err := os.ReadFile(file)
	if file == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var r results
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &r, nil
}

// merge adds new results to earlier ones, of which there may be none: cases that were not run
// again stay, unless they are of another Kubernetes.
func merge(before, now *results) *results {
	all := *now
	all.Cases = slices.Clone(now.Cases)
	if before != nil && before.Kubernetes == now.Kubernetes {
		ran := map[string]int{}
		for i, c := range now.Cases {
			ran[c.Name] = i
		}
		for _, c := range before.Cases {
			if i, ok := ran[c.Name]; !ok {
				all.Cases = append(all.Cases, c)
			} else if c.State == stateFailed && all.Cases[i].State == statePassed {
				all.Cases[i].Before = cmp.Or(c.Reason, "no reason was given")
			}
		}
		// What this set needed no image for, others did.
		all.Images = slices.Clone(now.Images)
		for i, in := range all.Images {
			if j := slices.IndexFunc(before.Images, func(b stoodIn) bool { return b.Image == in.Image }); in.Name == "" && j >= 0 {
				all.Images[i] = before.Images[j]
			}
		}
		same := func(r onerun) bool {
			last := now.Runs[0]
			return r.Set == last.Set && r.Focus == last.Focus && (r.Again || !last.Again)
		}
		all.Runs = append(slices.DeleteFunc(slices.Clone(before.Runs), same), now.Runs...)
	}
	all.sort()
	return &all
}

// write replaces the file at once: a run may be killed at any moment.
func (r *results) write(file string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// cases is also that of no results.
func (r *results) cases() []result {
	if r == nil {
		return nil
	}
	return r.Cases
}
