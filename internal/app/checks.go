package app

import (
	"encoding/xml"
	"fmt"
	"io"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/environment"
)

// report is what `verify -o json` prints.
type report struct {
	Passed  int                      `json:"passed"`
	Failed  int                      `json:"failed"`
	Skipped int                      `json:"skipped"`
	Checks  environment.CheckResults `json:"checks"`
}

func reportOf(rs environment.CheckResults) report {
	return report{rs.Count(check.Succeeded), rs.Count(check.Failed), rs.Count(check.Skipped), append(environment.CheckResults{}, rs...)}
}

// junit writes the results in the XML form that CI systems read
// (https://github.com/testmoapp/junitxml).
func junit(w io.Writer, rs environment.CheckResults) error {
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
	s := suite{Name: "orrery verify", Tests: len(rs), Failures: rs.Count(check.Failed), Skipped: rs.Count(check.Skipped)}
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
