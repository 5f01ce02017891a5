package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"

	"github.com/orrery-dev/orrery/internal/catalog"
)

// The tests must be those of the Kubernetes that nodes run.
func TestSuiteIsTheDistributions(t *testing.T) {
	c, err := catalog.Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	versions := func(file string) map[string]string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		mod, err := modfile.Parse(file, data, nil)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]string{}
		for _, r := range mod.Require {
			all[r.Mod.Path] = r.Mod.Version
		}
		for _, r := range mod.Replace {
			all[r.Old.Path] = r.New.Version
		}
		return all
	}
	suite, nodes := versions("suite/go.mod"), versions("../../infra/native/kubernetes/go.mod")
	if got := suite["k8s.io/kubernetes"]; got != c.Distribution.Kubernetes {
		t.Errorf("the tests are of %s, the nodes run %s", got, c.Distribution.Kubernetes)
	}
	for path, version := range nodes {
		if got := suite[path]; got != "" && got != version {
			t.Errorf("%s is %s in suite/go.mod and %s in the nodes': what both consist of is compiled twice", path, got, version)
		}
	}
}

func TestDocumentIsCurrent(t *testing.T) {
	want, err := renderText("../..")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../" + document)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the results say: go run ./test/conformance -render", document)
	}
}

// Everything that is listed has to be of use.
func TestNotesMatchResults(t *testing.T) {
	n, err := loadNotes("notes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, plugin := range []string{"ptp", "cilium"} {
		r, err := readResults(filepath.Join("results", plugin+".json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range n.Failures {
			if one.Plugin != plugin {
				continue
			}
			if !slices.ContainsFunc(r.cases(), func(c result) bool {
				return c.State == stateFailed && regexp.MustCompile(one.Match).MatchString(c.Name)
			}) {
				t.Errorf("notes.yaml explains %q on %s, which did not fail", one.Match, plugin)
			}
		}
	}
}

func TestLoadStandIns(t *testing.T) {
	s, err := loadStandIns("images.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range s.Images {
		if img.Note == "" || len(img.For) == 0 {
			t.Errorf("%s does not say what it stands for, or how it differs", img.Name)
		}
		for _, image := range img.For {
			if _, ok := inMirror(image + ":1"); !ok {
				t.Errorf("%s has no place in the mirror", image)
			}
		}
	}
	for name, text := range map[string]string{
		`no program "gone"`:                "images: [{name: a, for: [b], note: c, programs: [gone]}]\n",
		`no image "gone" stands before it`: "images: [{name: a, for: [b], note: c, base: gone}]\n",
		`no set "gone"`:                    "images: [{name: a, for: [b], note: c, sets: [gone]}]\n",
		`colour`:                           "images: [{name: a, colour: red}]\n",
	} {
		file := filepath.Join(t.TempDir(), "images.yaml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := loadStandIns(file); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want %s", err, name)
		}
	}
}

func TestLoadNotes(t *testing.T) {
	for _, text := range []string{"never: [{match: '(', why: x}]\n", "failures: [{match: x, why: y}]\n", "never: [{match: x}]\n", "failures: [{why: x}]\n", "always: []\n"} {
		file := filepath.Join(t.TempDir(), "notes.yaml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := loadNotes(file); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

const report = `[{"SpecReports": [
 {"ContainerHierarchyTexts": null, "LeafNodeText": "", "LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"},
 {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "should work [Conformance]", "LeafNodeType": "It", "State": "passed", "RunTime": 1500000000},
 {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "should break [Conformance]", "LeafNodeType": "It", "State": "failed", "RunTime": 2000000000, "Failure": {"Message": "timed\n out"}},
 {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "should hang [Conformance]", "LeafNodeType": "It", "State": "timedout"},
 {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "needs two nodes [Conformance]", "LeafNodeType": "It", "State": "skipped", "Failure": {"Message": "Requires at least 2 nodes"}},
 {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "needs a cloud [Conformance]", "LeafNodeType": "It", "State": "skipped"},
 {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "runs alone [Serial] [Conformance]", "LeafNodeType": "It", "State": "skipped"},
 {"ContainerHierarchyTexts": ["[sig-apps] Job"], "LeafNodeText": "should run [Conformance]", "LeafNodeType": "It", "State": "skipped"}]}]`

func TestOutcome(t *testing.T) {
	specs, err := readReport([]byte(report))
	if err != nil {
		t.Fatal(err)
	}
	n := notes{Never: []note{{Match: "needs a cloud", Why: "there is no cloud"}, {Match: "runs alone", Plugin: "cilium", Why: "x"}}}
	var got []result
	for _, s := range specs {
		if c, ok := s.outcome(options{plugin: "ptp", set: "network"}, n); ok {
			got = append(got, c)
		}
	}
	want := []result{
		{Name: "[sig-network] DNS should work [Conformance]", State: statePassed, Seconds: 1.5},
		{Name: "[sig-network] DNS should break [Conformance]", State: stateFailed, Reason: "timed out", Seconds: 2},
		{Name: "[sig-network] DNS should hang [Conformance]", State: stateFailed},
		{Name: "[sig-network] DNS needs two nodes [Conformance]", State: stateSkipped, Reason: "Requires at least 2 nodes"},
		{Name: "[sig-network] DNS needs a cloud [Conformance]", State: stateSkipped, Reason: "there is no cloud"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("outcomes:\n%+v\nwant\n%+v", got, want)
	}
	if _, err := readReport([]byte(`[{"SpecReports": [{"LeafNodeType": "SynchronizedBeforeSuite", "State": "failed", "Failure": {"Message": "no nodes"}}]}]`)); err == nil || !strings.Contains(err.Error(), "no nodes") {
		t.Errorf("error %v, want what the suite failed of", err)
	}
}

func TestMerge(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results", "ptp.json")
	run := func(version, date string, cases ...result) *results {
		before, err := readResults(file)
		if err != nil {
			t.Fatal(err)
		}
		r := &results{Plugin: "ptp", Kubernetes: version, Runs: []onerun{{Set: "network", Date: date}}, Cases: cases}
		if err := merge(before, r).write(file); err != nil {
			t.Fatal(err)
		}
		got, err := readResults(file)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	run("v1", "1", result{Name: "b", State: statePassed}, result{Name: "a", State: stateFailed, Reason: "x"})
	got := run("v1", "2", result{Name: "a", State: statePassed})
	if want := []result{{Name: "a", State: statePassed, Before: "x"}, {Name: "b", State: statePassed}}; !slices.Equal(got.Cases, want) {
		t.Errorf("merged: %+v", got.Cases)
	}
	if len(got.Runs) != 1 || got.Runs[0].Date != "2" {
		t.Errorf("runs: %+v", got.Runs)
	}
	if got := run("v1", "3", result{Name: "a", State: statePassed}); got.Cases[0].Before != "" {
		t.Errorf("it passed twice: %+v", got.Cases)
	}
	if got := run("v2", "4", result{Name: "a", State: statePassed}); len(got.Cases) != 1 {
		t.Errorf("results of another version stay: %+v", got.Cases)
	}
}

// A run that is killed has written what had ended, and the next one goes on with the rest.
func TestRecord(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ptp.json")
	earlier := &results{Kubernetes: "v1", Runs: []onerun{{Set: "short"}}, Cases: []result{{Name: "known", State: statePassed}}}
	now := &results{Kubernetes: "v1", Runs: []onerun{{Set: "network"}}}
	r, err := newRecord(file, earlier, now, []string{"known", "a", "b", "c", "d"}, false)
	if err != nil {
		t.Fatal(err)
	}
	const rule = "------------------------------\n"
	out := endings{log: io.Discard, record: r}
	for _, text := range []string{rule + "• [0.045 sec", "onds]\na [sig-network, Conformance]\nfile.go:1\n",
		rule + "b [x]\nfile.go:2\n  STEP: x\n• [FAILED] [1.500 seconds]\n", rule + "S [SKIPPED] [0.1 seconds]\nc [x]\n",
		rule + "• [INTERRUPTED] [1 seconds]\nd [x]\n", rule + "• [1 seconds]\nsomething else [x]\n"} {
		if _, err := io.WriteString(&out, text); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readResults(file)
	if err != nil {
		t.Fatal(err)
	}
	want := []result{{Name: "a", State: statePassed}, {Name: "b", State: stateFailed}, {Name: "c", State: stateNotRun},
		{Name: "d", State: stateNotRun}, {Name: "known", State: statePassed}}
	if !slices.Equal(got.Cases, want) {
		t.Errorf("written before the end: %+v\nwant %+v", got.Cases, want)
	}
	again := options{rest: true, focus: "."}
	if err := again.again(got); err != nil || again.names != "(b|c|d)$" {
		t.Errorf("the rest is %q, %v", again.names, err)
	}
	// The report says why.
	if _, err := r.add(result{Name: "b", State: stateFailed, Reason: "why", Seconds: 1}); err != nil {
		t.Fatal(err)
	}
	if got, _ = readResults(file); got.Cases[1].Reason != "why" {
		t.Errorf("%+v", got.Cases[1])
	}
	if err := (&options{failed: true, focus: "a"}).again(got); err == nil {
		t.Error("nothing of that failed, and it would be run again")
	}
}

func TestChoose(t *testing.T) {
	listing := "The following spec names can be used with 'ginkgo run --focus/skip':\n" +
		"    k8s.io/kubernetes@v1/test/a.go:1: [sig-network] DNS: works [Conformance]\n" +
		"    k8s.io/kubernetes@v1/test/a.go:2: [sig-network] DNS breaks [Conformance]\n" +
		"    k8s.io/kubernetes@v1/test/a.go:3: [sig-network] DNS is slow\n"
	got := options{set: "network", skip: "breaks"}.choose(listing)
	if want := []string{"[sig-network] DNS: works [Conformance]"}; !slices.Equal(got, want) {
		t.Errorf("chosen: %q, want %q", got, want)
	}
}

func TestMerged(t *testing.T) {
	for in, want := range map[string]string{
		"./bin/busybox": "usr/bin/busybox", "./usr/bin/curl": "usr/bin/curl", "./lib64/ld.so": "usr/lib64/ld.so",
		"./library/x": "library/x", "/etc/../../lib/x": "usr/lib/x", "./": "",
	} {
		if got := merged(in); got != want {
			t.Errorf("merged(%q) = %q, want %q", in, got, want)
		}
	}
}

// A hard link stands behind its target, a folder before what is in it.
func TestTreeOrder(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := tree{
		"usr/bin/a": {kind: tar.TypeLink, link: "usr/bin/b", mode: 0o755}, "usr/bin/b": {kind: tar.TypeReg, data: []byte("x"), mode: 0o755},
	}.write(w)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if want := []string{"usr/", "usr/bin/", "usr/bin/b", "usr/bin/a"}; !slices.Equal(names, want) {
		t.Errorf("entries %q, want %q", names, want)
	}
}

func TestSets(t *testing.T) {
	for name, pattern := range sets {
		if _, err := regexp.Compile(pattern); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
