package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// figure is one thing that is measured. Less is better for all of them.
type figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Median float64   `json:"median"`
	Values []float64 `json:"values"`
	Target float64   `json:"target,omitempty"` // 0: none was promised
	Ratio  float64   `json:"ratio,omitempty"`  // of the median to the target
	Note   string    `json:"note,omitempty"`
}

// kind sums up the processes of one program.
type kind struct {
	Name  string  `json:"name"`
	Count int     `json:"count"`
	RSS   float64 `json:"rssMiB"`
	PSS   float64 `json:"pssMiB"`
	Cores float64 `json:"cores"`
}

type report struct {
	Machine machine  `json:"machine"`
	Figures []figure `json:"figures"`
	// Idle processes of the cluster of three servers and two agents without components.
	Idle []kind `json:"idle,omitempty"`
	// IdlePlatform is the same with all components.
	IdlePlatform []kind `json:"idlePlatform,omitempty"`
	// Used is what an up of the whole platform cost: CPU-seconds, not cores.
	Used []kind `json:"used,omitempty"`
	// Pairs hold this revision against another one.
	Pairs []pair `json:"pairs,omitempty"`
	// Network has the ways between pods.
	Network []route `json:"network,omitempty"`
	// Disk is what is allocated, in MiB.
	Disk map[string]float64 `json:"diskMiB,omitempty"`
}

func (r *report) add(name, unit string, target float64, note string, values ...float64) {
	if len(values) == 0 {
		return
	}
	f := figure{Name: name, Unit: unit, Values: values, Median: median(values), Target: target, Note: note}
	if target > 0 {
		f.Ratio = f.Median / target
	}
	r.Figures = append(r.Figures, f)
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func (r *report) json(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r *report) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FIGURE\tMEASURED\tTARGET\tRATIO\tRUNS\tNOTE")
	for _, f := range r.Figures {
		target, ratio, runs := "-", "-", ""
		if f.Target > 0 {
			target, ratio = "≤ "+number(f.Target)+" "+f.Unit, fmt.Sprintf("%.2f", f.Ratio)
		}
		for _, v := range f.Values {
			runs += number(v) + " "
		}
		fmt.Fprintf(tw, "%s\t%s %s\t%s\t%s\t%s\t%s\n", f.Name, number(f.Median), f.Unit, target, ratio, runs, f.Note)
	}
	for _, t := range []struct {
		title, last string
		kinds       []kind
	}{
		{"IDLE PROCESSES, 3+2", "CORES", r.Idle}, {"IDLE PROCESSES, PLATFORM", "CORES", r.IdlePlatform},
		{"PROCESSES AFTER UP, PLATFORM", "CPU-S", r.Used},
	} {
		if len(t.kinds) == 0 {
			continue
		}
		fmt.Fprintf(tw, "\n%s\tCOUNT\tRSS MiB\tPSS MiB\t%s\t\n", t.title, t.last)
		total := kind{Name: "total"}
		for _, k := range t.kinds {
			total.Count, total.RSS, total.PSS, total.Cores = total.Count+k.Count, total.RSS+k.RSS, total.PSS+k.PSS, total.Cores+k.Cores
			k.print(tw)
		}
		total.print(tw)
	}
	printPairs(tw, r.Pairs)
	if len(r.Disk) > 0 {
		fmt.Fprintln(tw, "\nON DISK, all components\tMiB")
		for _, k := range sortedByValue(r.Disk) {
			fmt.Fprintf(tw, "%s\t%.0f\n", k, r.Disk[k])
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	return r.printNetwork(w)
}

func (k kind) print(w io.Writer) {
	fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%.4f\t\n", k.Name, k.Count, k.RSS, k.PSS, k.Cores)
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func sortedByValue(m map[string]float64) []string {
	keys := []string{}
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b)) })
	return keys
}
