package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// document is the published table, from the repository's root.
const document = "docs/reference/conformance.md"

// render writes the document from the results that are in the repository.
func render(repo string) error {
	text, err := renderText(repo)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(repo, filepath.FromSlash(document)), text, 0o644)
}

func renderText(repo string) ([]byte, error) {
	here := filepath.Join(repo, "test", "conformance")
	notes, err := loadNotes(filepath.Join(here, "notes.yaml"))
	if err != nil {
		return nil, err
	}
	intro, err := os.ReadFile(filepath.Join(here, "intro.md"))
	if err != nil {
		return nil, err
	}
	p := page{notes: notes}
	for _, plugin := range []string{"ptp", "cilium"} {
		r, err := readResults(filepath.Join(here, "results", plugin+".json"))
		if err != nil {
			return nil, err
		}
		if r != nil {
			p.all = append(p.all, r)
		}
	}
	p.Write(intro)
	p.sums()
	for _, r := range p.all {
		p.notPassed(r)
		p.notRun(r)
	}
	p.network()
	p.images()
	return p.Bytes(), nil
}

// page is the document in the making.
type page struct {
	bytes.Buffer
	notes notes
	all   []*results
}

// groups are the rows of the first table.
var groups = []struct{ title, match string }{
	{"sig-network, conformance", sets["network"]},
	{"sig-network, NetworkPolicy", sets["netpol"]},
	{"sig-network, others", `\[sig-network\]`},
	{"sig-api-machinery, conformance", `\[sig-api-machinery\].*\[Conformance\]`},
	{"sig-apps, conformance", `\[sig-apps\].*\[Conformance\]`},
	{"sig-auth, conformance", `\[sig-auth\].*\[Conformance\]`},
	{"sig-cli, conformance", `\[sig-cli\].*\[Conformance\]`},
	{"sig-node, conformance", `\[sig-node\].*\[Conformance\]`},
	{"sig-scheduling, conformance", `\[sig-scheduling\].*\[Conformance\]`},
	{"sig-storage, conformance", `\[sig-storage\].*\[Conformance\]`},
	{"others", `.`},
}

// group is the index of the first group that a case is of.
func group(name string) int {
	for i, g := range groups {
		if regexp.MustCompile(g.match).MatchString(name) {
			return i
		}
	}
	return len(groups) - 1
}

// sums counts by group and network.
func (p *page) sums() {
	p.WriteString("## Sums\nPassed / failed / skipped, and what a run that ended early did not come to.\n\n|")
	for _, r := range p.all {
		fmt.Fprintf(p, " | %s", r.Plugin)
	}
	fmt.Fprintf(p, " |\n|---|%s\n", strings.Repeat("---|", len(p.all)))
	line := func(title string, of func(result) bool) {
		var cells []string
		ran := false
		for _, r := range p.all {
			n := map[string]int{}
			for _, c := range r.Cases {
				if of(c) {
					n[c.State]++
				}
			}
			cells = append(cells, "not run")
			if len(n) > 0 {
				ran = true
				cells[len(cells)-1] = fmt.Sprintf("%d / %d / %d", n[statePassed], n[stateFailed], n[stateSkipped])
				if n[stateNotRun] > 0 {
					cells[len(cells)-1] += fmt.Sprintf(", %d not run", n[stateNotRun])
				}
			}
		}
		if ran {
			fmt.Fprintf(p, "| %s | %s |\n", title, strings.Join(cells, " | "))
		}
	}
	for i, g := range groups {
		line(g.title, func(c result) bool { return group(c.Name) == i })
	}
	line("**all**", func(result) bool { return true })
	p.WriteString("\n| Network | Cases | Nodes | Date | Minutes |\n|---|---|---|---|---|\n")
	for _, r := range p.all {
		for _, run := range r.Runs {
			what := "`-set " + run.Set + "`"
			if run.Focus != "" {
				what = "`-focus '" + run.Focus + "'`"
			}
			if run.Again {
				what += ", what had failed"
			}
			fmt.Fprintf(p, "| %s | %s | %s | %s | %.0f |\n", r.Plugin, strings.ReplaceAll(what, "|", `\|`), run.Nodes, run.Date, run.Minutes)
		}
	}
}

// notPassed lists what failed and what was skipped, with the reason.
func (p *page) notPassed(r *results) {
	fmt.Fprintf(p, "\n## Failed on %s\n", r.Plugin)
	if r.count(stateFailed) == 0 {
		p.WriteString("None.\n")
	} else {
		p.WriteString("\n| Case | Whose | Why |\n|---|---|---|\n")
	}
	for _, c := range r.Cases {
		if c.State != stateFailed {
			continue
		}
		n, ok := p.notes.find(p.notes.Failures, r.Plugin, c.Name)
		if !ok {
			n = note{Whose: "not found out yet", Why: "it says: " + cmp.Or(c.Reason, "nothing, the run ended before its report")}
		}
		fmt.Fprintf(p, "| %s | %s | %s |\n", cell(c.Name), n.Whose, cell(n.Why))
	}
	var before []string
	for _, c := range r.Cases {
		if c.Before != "" {
			before = append(before, fmt.Sprintf("| %s | %s |\n", cell(c.Name), cell(c.Before)))
		}
	}
	if len(before) > 0 {
		p.WriteString("\nPassed, but had failed in the run before:\n\n| Case | It said |\n|---|---|\n" + strings.Join(before, ""))
	}
	fmt.Fprintf(p, "\n## Skipped on %s\n", r.Plugin)
	reasons := map[string][]string{}
	for _, c := range r.Cases {
		if c.State == stateSkipped {
			reasons[c.Reason] = append(reasons[c.Reason], c.Name)
		}
	}
	if len(reasons) == 0 {
		p.WriteString("None.\n")
	}
	for _, reason := range sortedKeys(reasons) {
		fmt.Fprintf(p, "\n%s\n\n", text(reason))
		for _, name := range reasons[reason] {
			fmt.Fprintf(p, "- %s\n", text(name))
		}
	}
}

// notRun lists what the last run did not come to.
func (p *page) notRun(r *results) {
	if r.count(stateNotRun) == 0 {
		return
	}
	fmt.Fprintf(p, "\n## Not run on %s\nThe run was ended before it came to these.\n\n", r.Plugin)
	for _, c := range r.Cases {
		if c.State == stateNotRun {
			fmt.Fprintf(p, "- %s\n", text(c.Name))
		}
	}
}

// network lists every case of sig-network.
func (p *page) network() {
	p.WriteString("\n## Every case of sig-network\n\n| Case |")
	states := map[string]map[string]string{}
	for _, r := range p.all {
		fmt.Fprintf(p, " %s |", r.Plugin)
		for _, c := range r.Cases {
			if strings.HasPrefix(c.Name, "[sig-network]") {
				if states[c.Name] == nil {
					states[c.Name] = map[string]string{}
				}
				states[c.Name][r.Plugin] = c.State
			}
		}
	}
	fmt.Fprintf(p, "\n|---|%s\n", strings.Repeat("---|", len(p.all)))
	for _, name := range slices.Sorted(maps.Keys(states)) {
		fmt.Fprintf(p, "| %s |", cell(strings.TrimPrefix(name, "[sig-network] ")))
		for _, r := range p.all {
			state := states[name][r.Plugin]
			if state == stateFailed {
				state = "**failed**"
			}
			fmt.Fprintf(p, " %s |", state)
		}
		p.WriteString("\n")
	}
}

// images says what stood in for what.
func (p *page) images() {
	p.WriteString("\n## Images\n\n| The suite's | In its place |\n|---|---|\n")
	if len(p.all) == 0 {
		return
	}
	last := p.all[len(p.all)-1]
	var none []string
	for _, i := range last.Images {
		if i.Name == "" {
			none = append(none, "`"+i.Image+"`")
			continue
		}
		fmt.Fprintf(p, "| `%s` | %s |\n", i.Image, cell(i.Note))
	}
	fmt.Fprintf(p, "\nNothing stands in for %s.\n", strings.Join(none, ", "))
}

// text keeps a name or message from being taken for markup.
func text(s string) string {
	return strings.NewReplacer("*", `\*`, "_", `\_`, "<", "&lt;", "`", "'").Replace(s)
}

func cell(s string) string { return strings.ReplaceAll(text(s), "|", `\|`) }
