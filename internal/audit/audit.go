package audit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Severity of a finding.
type Severity string

// Severities, from the least.
const (
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Severities are all of them, from the least.
func Severities() []Severity { return []Severity{Low, Medium, High, Critical} }

// Rank orders severities; -1 for what is none.
func (s Severity) Rank() int { return slices.Index(Severities(), s) }

// Check says what is looked for, why, and how to mend it.
type Check struct {
	ID        string   `json:"id"`
	Title     string   `json:"title"`
	Severity  Severity `json:"severity"`
	Reference string   `json:"reference"` // "CIS 1.2.6", "KEP-1205", the address of a document
	Mend      string   `json:"mend"`
	// Of is the part of [Evidence] that it needs; when that cannot be had, it is skipped.
	Of string `json:"-"`

	run func(Evidence) []Finding
}

// Finding is one thing that a check found.
type Finding struct {
	Check     string   `json:"check"`
	Title     string   `json:"title"`
	Severity  Severity `json:"severity"`
	Object    string   `json:"object"` // "Deployment/NAMESPACE/NAME", "process/NODE/kube-apiserver", "file/PATH"
	Detail    string   `json:"detail"` // what was seen; never a secret
	Reference string   `json:"reference"`
	Mend      string   `json:"mend"`
	Excepted  string   `json:"excepted,omitempty"` // the reason of the exception, if there is one

	component string
}

// Skipped is a check that could not look.
type Skipped struct {
	Check  string `json:"check"`
	Reason string `json:"reason"`
}

// Report is what an audit found. Passed, Skipped and the checks of Findings are all checks.
type Report struct {
	Environment string    `json:"environment"`
	Time        time.Time `json:"time"`
	Findings    []Finding `json:"findings"`
	Excepted    []Finding `json:"excepted"`
	Passed      []string  `json:"passed"`
	Skipped     []Skipped `json:"skipped"`
}

// Parts of the evidence.
const (
	PartAPIServer  = "kube-apiserver"
	PartController = "kube-controller-manager"
	PartScheduler  = "kube-scheduler"
	PartEtcd       = "etcd"
	PartKubelet    = "kubelet"
	PartFiles      = "files"
	PartState      = "state folder"
	PartObjects    = "objects"
	PartCerts      = "certificates"
)

// Process is a program of the control plane, with the command line that it really has.
type Process struct {
	Node, Name string
	Args       []string
	// Configs are the files that flags name, decoded, by the name of the flag.
	Configs map[string]map[string]any
}

// File is one that has an owner and a mode.
type File struct {
	Path string
	Mode uint32 // permission bits
	UID  int
	// Key: it holds a key, a token or a password. Log: it is written for people to read.
	Key, Log bool
	// Secrets are the names of Secrets whose values are in it.
	Secrets []string
}

// Certificate is one that was found, in a file or in a Secret.
type Certificate struct {
	Where, Subject string
	NotAfter       time.Time
}

// Object is a Kubernetes object as JSON has it. Values of Secrets are no part of it.
type Object = map[string]any

// Evidence is all that is judged.
type Evidence struct {
	Environment  string
	Now          time.Time
	Processes    []Process
	Kubelets     map[string]map[string]any // the configuration that a kubelet says it has, by node
	Files        []File                    // of nodes and their keys
	State        []File                    // below the state folder
	Certificates []Certificate
	Objects      []Object
	// Leaked are objects that hold the value of a Secret in plain sight: object → names of Secrets.
	Leaked map[string][]string
	// Missing parts, and why.
	Missing map[string]string
	// Partly are the parts of which not all was seen, and why: what is found counts, and that
	// nothing is found does not.
	Partly map[string]string
}

// All checks, sorted.
func All() []Check {
	all := slices.Concat(settings(), workloadChecks(), rbacChecks(), fileChecks())
	slices.SortFunc(all, func(a, b Check) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Run judges the evidence. Exceptions that match nothing are findings themselves.
func Run(e Evidence, exceptions Exceptions) Report {
	r := Report{Environment: e.Environment, Time: e.Now.UTC(), Findings: []Finding{}, Excepted: []Finding{}, Passed: []string{}, Skipped: []Skipped{}}
	ran := map[string]bool{}
	use := exceptions.use()
	for _, c := range All() {
		if why, missing := e.Missing[c.Of]; missing {
			r.Skipped = append(r.Skipped, Skipped{c.ID, why})
			continue
		}
		unseen, partly := e.Partly[c.Of]
		ran[c.ID] = !partly
		clean := true
		for _, f := range c.run(e) {
			f.Check, f.Title, f.Reference, f.Mend = c.ID, c.Title, c.Reference, c.Mend
			f.Severity = cmp.Or(f.Severity, c.Severity)
			if f.Excepted = use.reason(c.ID, f.Object); f.Excepted != "" {
				r.Excepted = append(r.Excepted, f)
				continue
			}
			clean = false
			r.Findings = append(r.Findings, f)
		}
		switch {
		case clean && partly:
			r.Skipped = append(r.Skipped, Skipped{c.ID, unseen})
		case clean:
			r.Passed = append(r.Passed, c.ID)
		}
	}
	r.Findings = append(r.Findings, use.unused(ran, components(e.Objects))...)
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Severity.Rank(), a.Severity.Rank()), cmp.Compare(a.Check, b.Check), cmp.Compare(a.Object, b.Object))
	})
	return r
}

// AtLeast counts the findings of that severity or a higher one.
func (r Report) AtLeast(s Severity) int {
	n := 0
	for _, f := range r.Findings {
		if f.Severity.Rank() >= s.Rank() {
			n++
		}
	}
	return n
}

// each makes a check of a function over single objects.
func each(kinds string, f func(Object) []string) func(Evidence) []Finding {
	return func(e Evidence) []Finding {
		var all []Finding
		for _, o := range e.Objects {
			if !slices.Contains(strings.Fields(kinds), str(o, "kind")) {
				continue
			}
			for _, detail := range f(o) {
				all = append(all, Finding{Object: Name(o), Detail: detail})
			}
		}
		return all
	}
}

// Name is how findings and exceptions call an object: KIND/NAMESPACE/NAME, or KIND/NAME.
func Name(o Object) string {
	kind, ns, name := str(o, "kind"), str(o, "metadata", "namespace"), str(o, "metadata", "name")
	if ns == "" {
		return kind + "/" + name
	}
	return kind + "/" + ns + "/" + name
}

func components(objects []Object) map[string]bool {
	seen := map[string]bool{}
	for _, o := range objects {
		seen[str(o, "metadata", "labels", "orrery.dev/component")] = true
	}
	return seen
}

// at walks into what JSON decodes to; nil when there is no such thing.
func at(v any, path ...string) any {
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func str(v any, path ...string) string { s, _ := at(v, path...).(string); return s }

func list(v any, path ...string) []any { l, _ := at(v, path...).([]any); return l }

func texts(v any, path ...string) []string {
	var all []string
	for _, x := range list(v, path...) {
		all = append(all, fmt.Sprint(x))
	}
	return all
}
