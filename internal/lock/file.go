package lock

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxSize is far beyond what a catalogue can need, in bytes.
const maxSize = 16 << 20

// ErrVersion is wrapped by the error about a lock of another version. Such a lock must not
// be overwritten.
var ErrVersion = errors.New("a lock of another version")

// Load reads a lock. A file that is not there is an error that wraps fs.ErrNotExist.
func Load(path string) (Lock, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Lock{}, fmt.Errorf("read the lock: %w", err)
	}
	return Parse(data, path)
}

// Parse reads a lock and checks it; file is what errors call it. Unknown fields,
// duplicate keys and values of the wrong form are errors that name the field.
func Parse(data []byte, file string) (Lock, error) {
	bad := func(err error) (Lock, error) {
		text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "), "yaml: ")
		return Lock{}, fmt.Errorf("%s: %s\n'orrery lock' writes it anew", file, strings.TrimPrefix(text, "error unmarshaling JSON: "))
	}
	if len(data) > maxSize {
		return bad(fmt.Errorf("has %d bytes; a lock has at most %d", len(data), maxSize))
	}
	if i := bytes.Index(data, []byte("\n<<<<<<< ")); i >= 0 {
		return bad(fmt.Errorf("line %d: an unresolved merge conflict", bytes.Count(data[:i], []byte("\n"))+2))
	}
	// The version first: fields of a newer one are unknown for a good reason.
	var head struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal(data, &head); err != nil {
		return bad(err)
	}
	if head.APIVersion != APIVersion {
		err := fmt.Errorf("%s: apiVersion: is %q; this program reads %s:"+
			" use the program that belongs to this repository", file, head.APIVersion, APIVersion)
		if head.APIVersion != "" {
			err = fmt.Errorf("%w (%w)", err, ErrVersion)
		}
		return Lock{}, err
	}
	if head.Kind != Kind {
		return bad(fmt.Errorf("kind: is %q; must be %s", head.Kind, Kind))
	}
	var l Lock
	if err := yaml.UnmarshalStrict(data, &l); err != nil {
		return bad(err)
	}
	if err := l.validate(); err != nil {
		return bad(err)
	}
	return l, nil
}

var (
	platformForm = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+$`)
	hexForm      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	digestForm   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	sumForm      = regexp.MustCompile(`^h1:[A-Za-z0-9+/]{43}=$`)
	goForm       = regexp.MustCompile(`^(go1\.[0-9]+|devel )`)
	commitForm   = regexp.MustCompile(`^[0-9a-f]{40}$`)
	dayForm      = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)
	nameForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
)

// validate names every field that is wrong.
func (l Lock) validate() error {
	var errs []error
	want := func(path, value string, form *regexp.Regexp, what string) {
		if !form.MatchString(value) {
			errs = append(errs, fmt.Errorf("%s: is %q; must be %s", path, value, what))
		}
	}
	optional := func(path, value string, form *regexp.Regexp, what string) {
		if value != "" {
			want(path, value, form, what)
		}
	}
	const aDigest, aName = "sha256: and 64 hexadecimal digits", "letters, digits, '.', '_' and '-'"
	for _, pname := range slices.Sorted(maps.Keys(l.Platforms)) {
		p := l.Platforms[pname]
		at := "platforms." + pname
		want(at, pname, platformForm, "OS/ARCH, such as linux/amd64")
		for _, name := range slices.Sorted(maps.Keys(p.Binaries)) {
			b, at := p.Binaries[name], at+".binaries."+name
			want(at, name, nameForm, aName)
			if b.Module == "" || b.Package == "" {
				errs = append(errs, fmt.Errorf("%s: module and package are needed", at))
			}
			if strings.Contains(b.Module, "@") != (b.Sum != "") {
				errs = append(errs, fmt.Errorf("%s.sum: belongs to MODULE@VERSION, and only to that", at))
			}
			optional(at+".sum", b.Sum, sumForm, "h1: and a hash as in go.sum")
			switch b.Kind {
			case "":
				want(at+".go", b.Go, goForm, "a Go version such as go1.26.8")
			case KindFolder, KindDebian:
				if (b.Kind == KindDebian) != (len(b.Packages) > 0) {
					errs = append(errs, fmt.Errorf("%s.packages: belong to kind %s, and only to that", at, KindDebian))
				}
			default:
				errs = append(errs, fmt.Errorf("%s.kind: is %q; must be %s or %s, or be left out", at, b.Kind, KindFolder, KindDebian))
			}
			optional(at+".pins", b.Pins, digestForm, aDigest)
			optional(at+".tree", b.Tree, digestForm, aDigest)
			want(at+".sha256", b.SHA256, hexForm, "64 hexadecimal digits")
			optional(at+".sbom", b.SBOM, digestForm, aDigest)
			if b.CPUSeconds < 0 {
				errs = append(errs, fmt.Errorf("%s.cpuSeconds: is %v; must not be negative", at, b.CPUSeconds))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(p.Images)) {
			i, at := p.Images[name], at+".images."+name
			want(at, name, nameForm, aName)
			if i.Version == "" || len(i.Binaries) == 0 {
				errs = append(errs, fmt.Errorf("%s: version and binaries are needed", at))
			}
			for n, b := range i.Binaries {
				if _, ok := p.Binaries[b]; !ok {
					errs = append(errs, fmt.Errorf("%s.binaries[%d]: %q is not among platforms.%s.binaries", at, n, b, pname))
				}
			}
			want(at+".digest", i.Digest, digestForm, aDigest)
			optional(at+".sbom", i.SBOM, digestForm, aDigest)
		}
		for _, entry := range slices.Sorted(maps.Keys(p.Omitted)) {
			kind, name, _ := strings.Cut(entry, " ")
			_, binary := p.Binaries[name]
			_, image := p.Images[name]
			switch {
			case kind != "binary" && kind != "image" || !nameForm.MatchString(name) || p.Omitted[entry] == "":
				errs = append(errs, fmt.Errorf("%s.omitted: is %q: %q; must be binary NAME or image NAME,"+
					" with the reason", at, entry, p.Omitted[entry]))
			case kind == "binary" && binary, kind == "image" && image:
				errs = append(errs, fmt.Errorf("%s.omitted: %q is not omitted: there is an entry for it", at, entry))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.Pins)) {
		p, at := l.Pins[name], "pins."+name
		want(at+".digest", p.Digest, digestForm, aDigest)
		want(at+".seen", p.Seen, dayForm, "a day, such as 2026-11-30")
		if p.Bytes < 0 {
			errs = append(errs, fmt.Errorf("%s.bytes: is %d; must not be negative", at, p.Bytes))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.Files)) {
		f, at := l.Files[name], "files."+name
		if !strings.HasPrefix(f.URL, "https://") {
			errs = append(errs, fmt.Errorf("%s.url: is %q; must begin with https://", at, f.URL))
		}
		want(at+".commit", f.Commit, commitForm, "40 hexadecimal digits")
		want(at+".sha256", f.SHA256, hexForm, "64 hexadecimal digits")
	}
	return errors.Join(errs...)
}

const heading = `# What every binary and image of this repository must be, and the inputs that make it so.
# Written by 'orrery lock', compared by 'orrery lock --check' and by 'orrery up'.
# See docs/reference/lock.md.
`

// Format returns l as the file has it: sorted, one value per line, the same bytes for
// the same lock.
func (l Lock) Format() ([]byte, error) {
	l.APIVersion, l.Kind = APIVersion, Kind
	if err := l.validate(); err != nil {
		return nil, err
	}
	data, err := yaml.Marshal(l)
	if err != nil {
		return nil, err
	}
	return append([]byte(heading), data...), nil
}
