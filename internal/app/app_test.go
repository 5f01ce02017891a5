package app

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"testing"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver/native"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/mirror"
)

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err   error
		code  int
		print bool
	}{
		{nil, exitOK, false},
		{errors.New("boom"), exitFailed, true},
		{fmt.Errorf("wrapped: %w", failure.Usagef("no such flag")), exitUsage, true},
		{fmt.Errorf("wrapped: %w", failure.Refused{Err: errors.New("no nft")}), exitRefused, true},
		{fmt.Errorf("wrapped: %w", context.Canceled), exitInterrupted, true},
		{fmt.Errorf("wrapped: %w", exitError(7)), 7, false},
	} {
		var out bytes.Buffer
		if code := exitCode(c.err, &out); code != c.code || (out.Len() > 0) != c.print {
			t.Errorf("exitCode(%v) = %d, printed %q; want %d", c.err, code, out.String(), c.code)
		}
	}
}

func TestCheckResults(t *testing.T) {
	rs := environment.CheckResults{
		{Component: "nats", Name: "streams", State: check.Failed, Detail: `lost "3" messages`, Seconds: 1.5},
		{Component: "dns", Name: "lookup", State: check.Succeeded, Detail: "ok"},
		{Component: "data", Name: "fdb", State: check.Skipped, Detail: "no image"},
	}
	if r := reportOf(rs); r.Passed != 1 || r.Failed != 1 || r.Skipped != 1 || len(r.Checks) != 3 {
		t.Errorf("report: %+v", r)
	}
	if s := rs.Sorted(); s[len(s)-1].State != check.Failed {
		t.Errorf("the failure is not last: %v", s)
	}
	if r := reportOf(nil); r.Checks == nil {
		t.Error("an empty report prints null instead of []")
	}
	var out bytes.Buffer
	if err := junit(&out, rs); err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Skipped  int `xml:"skipped,attr"`
		Cases    []struct {
			Failure *struct {
				Message string `xml:"message,attr"`
			} `xml:"failure"`
		} `xml:"testcase"`
	}
	if err := xml.Unmarshal(out.Bytes(), &suite); err != nil {
		t.Fatal(err)
	}
	if suite.Tests != 3 || suite.Failures != 1 || suite.Skipped != 1 || suite.Cases[0].Failure.Message != `lost "3" messages` {
		t.Errorf("junit: %+v", suite)
	}
}

// The driver knows no catalogue, so the name of the sandbox image stands in both.
func TestSandboxImageIsTheDistributions(t *testing.T) {
	c, err := catalog.Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := c.Distribution.Sandbox
	if got := mirror.Host + "/" + s.Name + ":" + s.Version; got != native.SandboxImage {
		t.Errorf("infra/native/distribution.yaml says %s, the native driver pulls %s", got, native.SandboxImage)
	}
}
