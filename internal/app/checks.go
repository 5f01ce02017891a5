package app

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/ui"
)

// checkResult is one line of `verify`; its JSON form is a contract.
type checkResult struct {
	Component string      `json:"component"`
	Name      string      `json:"name"`
	State     check.State `json:"state"`
	Detail    string      `json:"detail"`
	Seconds   float64     `json:"seconds"`
}

type checkResults []checkResult

func runCheck(ctx context.Context, c check.Condition) checkResult {
	start := time.Now()
	r := check.Await(ctx, c, nil)
	return checkResult{Component: c.Component, Name: c.Name, State: r.State, Detail: r.Message, Seconds: seconds(cmp.Or(r.Took, time.Since(start)))}
}

func (rs checkResults) count(s check.State) int {
	n := 0
	for _, r := range rs {
		if r.State == s {
			n++
		}
	}
	return n
}

// state sums up: failed when one failed, skipped when there was nothing else.
func (rs checkResults) state() (ui.State, error) {
	var errs []error
	for _, r := range rs {
		if r.State == check.Failed {
			errs = append(errs, fmt.Errorf("%s/%s: %s", r.Component, r.Name, r.Detail))
		}
	}
	switch {
	case len(errs) > 0:
		return ui.StateFailed, errors.Join(errs...)
	case len(rs) > 0 && rs.count(check.Skipped) == len(rs):
		return ui.StateSkipped, nil
	}
	return ui.StateDone, nil
}

// report is what `verify -o json` prints.
type report struct {
	Passed  int          `json:"passed"`
	Failed  int          `json:"failed"`
	Skipped int          `json:"skipped"`
	Checks  checkResults `json:"checks"`
}

func (rs checkResults) report() report {
	return report{rs.count(check.Succeeded), rs.count(check.Failed), rs.count(check.Skipped), append(checkResults{}, rs...)}
}

// junit writes the results in the XML form that CI systems read
// (https://github.com/testmoapp/junitxml).
func (rs checkResults) junit(w io.Writer) error {
	type message struct {
		Message string `xml:"message,attr"`
	}
	type testCase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		Time    string   `xml:"time,attr"`
		Failure *message `xml:"failure,omitempty"`
		Skipped *message `xml:"skipped,omitempty"`
		Out     string   `xml:"system-out,omitempty"`
	}
	type suite struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Cases    []testCase `xml:"testcase"`
	}
	s := suite{Name: "orrery verify", Tests: len(rs), Failures: rs.count(check.Failed), Skipped: rs.count(check.Skipped)}
	for _, r := range rs {
		c := testCase{Class: r.Component, Name: r.Name, Time: fmt.Sprintf("%.3f", r.Seconds)}
		switch r.State {
		case check.Failed:
			c.Failure = &message{r.Detail}
		case check.Skipped:
			c.Skipped = &message{r.Detail}
		default:
			c.Out = r.Detail
		}
		s.Cases = append(s.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(s); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// tally collects results of steps that run side by side.
type tally struct {
	mu  sync.Mutex
	all checkResults
}

func (t *tally) add(rs ...checkResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, rs...)
}

func seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond)) / float64(time.Second)
}

func (t *tally) any() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all) > 0
}

func (t *tally) sorted() checkResults {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.sorted()
}
