package plan

import (
	"fmt"
	"slices"
	"strings"
)

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// String is the plan for a person: what `up --dry-run` prints.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d to do", plural(len(p.Steps), "step"), p.Pending())
	if cpu := p.CPUSeconds(); cpu > 0 {
		fmt.Fprintf(&b, ", %.0f CPU-seconds to compile", cpu)
		for i, m := range p.Milestones {
			if until := p.secondsUntil(i); until > 0 {
				fmt.Fprintf(&b, "\n  %.0f of them until: %s", until, m.Title)
			}
		}
	}
	b.WriteString("\n")
	width := 0
	for _, s := range p.Steps {
		if !s.Done {
			width = max(width, len(s.ID))
		}
	}
	for _, phase := range []string{PhaseBuild, PhaseCluster, PhaseDeploy, PhaseVerify} {
		steps := slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return s.Phase != phase })
		if len(steps) == 0 {
			continue
		}
		pending, left := Plan{Steps: steps}.Pending(), 0
		for _, s := range steps {
			if !s.Skip.IsZero() {
				left++
			}
		}
		if pending+left == 0 {
			fmt.Fprintf(&b, "%s: nothing to do\n", phase)
			continue
		}
		fmt.Fprintf(&b, "%s: %d of %d\n", phase, pending, len(steps))
		for _, s := range steps {
			switch {
			case !s.Skip.IsZero():
				fmt.Fprintf(&b, "  - %-*s  skipped: %s\n", width, s.ID, s.Skip)
			case !s.Done:
				b.WriteString(s.line(p, width))
			}
		}
		if done := len(steps) - pending - left; done > 0 {
			fmt.Fprintf(&b, "  = %d up to date\n", done)
		}
	}
	return b.String()
}

func (s Step) line(p Plan, width int) string {
	line := fmt.Sprintf("  + %-*s  %s", width, s.ID, s.Title)
	if s.CPUSeconds > 0 {
		line += fmt.Sprintf(" (%.0f CPU-s)", s.CPUSeconds)
	}
	var waits []string
	for _, need := range s.Waits() {
		if n, ok := p.Step(need); ok && !n.Done {
			waits = append(waits, need)
		}
	}
	if len(waits) > 4 {
		waits = append(waits[:3:3], fmt.Sprintf("%d more", len(waits)-3))
	}
	if len(waits) > 0 {
		line += ", after " + strings.Join(waits, ", ")
	}
	return line + "\n"
}
