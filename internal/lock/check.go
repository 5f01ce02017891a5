package lock

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Difference is one field of an entry that is not as locked.
type Difference struct {
	Field  string `json:"field"`
	Locked string `json:"locked"`
	Have   string `json:"have"`
}

// Drift is an entry that is not as locked. It is an error, for those who refuse it.
type Drift struct {
	Kind        string       `json:"kind"` // binary | image | file
	Name        string       `json:"name"`
	Problem     string       `json:"problem,omitempty"` // when the entry is missing, on one side
	Differences []Difference `json:"differences,omitempty"`
}

// Error says what differs and how to get what is right.
func (d Drift) Error() string {
	return fmt.Sprintf("%s %s: %s\n  %s", d.Kind, d.Name, d.Reason(), d.remedy())
}

// Reason says what differs.
func (d Drift) Reason() string {
	var parts []string
	if d.Problem != "" {
		parts = append(parts, d.Problem)
	}
	for _, diff := range d.Differences {
		parts = append(parts, fmt.Sprintf("%s is %s, locked is %s", diff.Field, diff.Have, diff.Locked))
	}
	return strings.Join(parts, "; ")
}

// Explain is what a person reads about all drift: what is the same is said once.
func Explain(drift []Drift) string {
	var b strings.Builder
	for len(drift) > 0 {
		first := drift[0]
		var names []string
		var rest []Drift
		for _, d := range drift {
			if d.Kind == first.Kind && d.Reason() == first.Reason() {
				names = append(names, d.Name)
			} else {
				rest = append(rest, d)
			}
		}
		fmt.Fprintf(&b, "%s %s: %s\n", first.Kind, strings.Join(names, ", "), first.Reason())
		drift = rest
		if len(rest) == 0 || rest[0].remedy() != first.remedy() {
			fmt.Fprintf(&b, "  %s\n", first.remedy())
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (d Drift) remedy() string {
	if d.Problem != "" {
		return "'orrery lock' brings the lock up to date"
	}
	for _, diff := range d.Differences {
		if diff.Field == "go" {
			return fmt.Sprintf(`use that Go: PATH="$(GOTOOLCHAIN=%s go env GOROOT)/bin:$PATH" orrery …; or lock what yours makes: orrery lock`, diff.Locked)
		}
	}
	for _, diff := range d.Differences {
		switch diff.Field {
		case "sha256", "digest", "sbom":
		default:
			return "if the change is meant, lock it: orrery lock; if not, undo it: git diff shows it"
		}
	}
	if d.Kind == "image" {
		return "the inputs are as locked and the bytes are not: 'orrery images reproduce " + d.Name + "' tells whether this machine makes the same twice; if the way images are made changed: orrery lock"
	}
	if len(d.Differences) == 1 && d.Differences[0].Field == "sbom" {
		return "the program is as locked and what is said of it is not: if licences or their list changed, orrery lock"
	}
	return "the inputs are as locked and the bytes are not: remove the cache and build again; if it stays," +
		" this machine's Go or disk is not to be trusted"
}

// Check compares what is there with what is locked. have may lack digests of what is not
// built: those are not compared. With all, have is the whole catalogue, and entries that
// only the lock has are drift as well.
//
// What the lock says was omitted is no drift either, and is named in notes.
//
// A binary made with other C tools than the locked one is no drift, because those come
// from the machine's distribution: it is named in notes.
func Check(locked, have Platform, all bool) (drift []Drift, notes []string) {
	changed := map[string]bool{} // binaries that explain why an image differs
	for _, name := range slices.Sorted(maps.Keys(have.Binaries)) {
		h := have.Binaries[name]
		l, ok := locked.Binaries[name]
		if !ok {
			changed[name] = true
			if why := locked.Omitted["binary "+name]; why != "" {
				notes = append(notes, fmt.Sprintf("binary %s is compared with nothing: %s", name, why))
				continue
			}
			drift = append(drift, Drift{Kind: "binary", Name: name, Problem: "is not in the lock"})
			continue
		}
		d := binaryDifferences(l, h)
		if len(d) == 0 && h.SHA256 != "" && h.SHA256 != l.SHA256 {
			if !slices.Equal(l.CTools, h.CTools) {
				notes = append(notes, fmt.Sprintf("binary %s is not the locked one, because this machine's C tools are others (%s; locked: %s)",
					name, only(h.CTools, l.CTools), only(l.CTools, h.CTools)))
				changed[name] = true
				continue
			}
			d = []Difference{{"sha256", l.SHA256, h.SHA256}}
		}
		if len(d) == 0 && h.SBOM != "" && h.SHA256 == l.SHA256 && h.SBOM != l.SBOM {
			drift = append(drift, Drift{Kind: "binary", Name: name, Differences: []Difference{{"sbom", orNothing(l.SBOM), h.SBOM}}})
		}
		if len(d) > 0 {
			drift = append(drift, Drift{Kind: "binary", Name: name, Differences: d})
			changed[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have.Images)) {
		h := have.Images[name]
		l, ok := locked.Images[name]
		if !ok {
			if why := locked.Omitted["image "+name]; why != "" {
				notes = append(notes, fmt.Sprintf("image %s is compared with nothing: %s", name, why))
				continue
			}
			drift = append(drift, Drift{Kind: "image", Name: name, Problem: "is not in the lock"})
			continue
		}
		d := imageDifferences(l, h)
		explained := slices.ContainsFunc(h.Binaries, func(b string) bool { return changed[b] })
		if len(d) == 0 && !explained {
			if h.Digest != "" && h.Digest != l.Digest {
				d = append(d, Difference{"digest", l.Digest, h.Digest})
			}
			if h.SBOM != "" && h.SBOM != l.SBOM {
				d = append(d, Difference{"sbom", l.SBOM, h.SBOM})
			}
		}
		if len(d) > 0 {
			drift = append(drift, Drift{Kind: "image", Name: name, Differences: d})
		}
	}
	if all {
		for _, name := range slices.Sorted(maps.Keys(locked.Binaries)) {
			if _, ok := have.Binaries[name]; !ok {
				drift = append(drift, Drift{Kind: "binary", Name: name, Problem: "is in the lock and not in the catalogue"})
			}
		}
		for _, name := range slices.Sorted(maps.Keys(locked.Images)) {
			if _, ok := have.Images[name]; !ok {
				drift = append(drift, Drift{Kind: "image", Name: name, Problem: "is in the lock and not in the catalogue"})
			}
		}
	}
	return drift, notes
}

// CheckFiles compares the files of the whole catalogue with those that are locked.
func CheckFiles(locked, have map[string]File) (drift []Drift) {
	names := map[string]bool{}
	for _, files := range []map[string]File{locked, have} {
		for name := range files {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		l, isLocked := locked[name]
		h, isThere := have[name]
		switch {
		case !isLocked:
			drift = append(drift, Drift{Kind: "file", Name: name, Problem: "is not in the lock"})
			continue
		case !isThere:
			drift = append(drift, Drift{Kind: "file", Name: name, Problem: "is in the lock and not in the catalogue"})
			continue
		}
		var d differences
		d.text("url", l.URL, h.URL)
		d.text("commit", l.Commit, h.Commit)
		d.text("content (sha256)", l.SHA256, h.SHA256)
		if len(d) > 0 {
			drift = append(drift, Drift{Kind: "file", Name: name, Differences: d})
		}
	}
	return drift
}

// SameInputs reports whether both are made from the same, but for C tools, which come from the
// machine: then what the one became is what the other stands for.
func (b Binary) SameInputs(other Binary) bool { return len(binaryDifferences(b, other)) == 0 }

// binaryDifferences compares inputs, in the order in which one explains the next.
func binaryDifferences(l, h Binary) []Difference {
	var d differences
	d.text("kind", l.Kind, h.Kind)
	d.text("go", l.Go, h.Go)
	d.text("module", l.Module, h.Module)
	d.text("sum", l.Sum, h.Sum)
	d.text("package", l.Package, h.Package)
	d.list("flags", l.Flags, h.Flags)
	d.list("packages", l.Packages, h.Packages)
	d.list("links", l.Links, h.Links)
	d.text("pins (go.mod, go.sum)", l.Pins, h.Pins)
	d.text("tree (source in this repository)", l.Tree, h.Tree)
	return d
}

func imageDifferences(l, h Image) []Difference {
	var d differences
	d.text("version", l.Version, h.Version)
	if !slices.Equal(l.Binaries, h.Binaries) {
		d.text("binaries", strings.Join(l.Binaries, " "), strings.Join(h.Binaries, " "))
	}
	d.text("user", l.User, h.User)
	d.text("entrypoint", strings.Join(l.Entrypoint, " "), strings.Join(h.Entrypoint, " "))
	d.text("directories", strings.Join(l.Directories, " "), strings.Join(h.Directories, " "))
	return d
}

type differences []Difference

func (d *differences) text(field, locked, have string) {
	if locked != have {
		*d = append(*d, Difference{field, orNothing(locked), orNothing(have)})
	}
}

// list names only the elements that differ.
func (d *differences) list(field string, locked, have []string) {
	if !slices.Equal(locked, have) {
		*d = append(*d, Difference{field, only(locked, have), only(have, locked)})
	}
}

func only(a, b []string) string {
	var out []string
	for _, s := range a {
		if !slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return orNothing(strings.Join(out, ", "))
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
