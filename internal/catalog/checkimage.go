package catalog

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/orrery-dev/orrery/internal/reference"
)

func (p *problems) image(path string, image Image) {
	p.want(path+".name", image.Name, imageForm, "a repository name: lower-case letters and digits, parted by \".\", \"_\", \"-\" or \"/\"")
	p.want(path+".version", image.Version, tagForm, tagRule)
	switch {
	case image.Registry != "":
		p.registry(path, image)
		return
	case len(image.Binaries)+len(image.Nodes) == 0:
		p.add(path+".binaries", "is empty; an image holds at least one program, or names where it is pulled from (registry)")
	}
	p.binaries(path+".binaries", image.Binaries)
	for i, d := range image.Directories {
		if !filepath.IsAbs(d) || filepath.Clean(d) != d {
			p.add(fmt.Sprintf("%s.directories[%d]", path, i), "is %q; must be an absolute path without \"..\" or a slash at its end", d)
		}
	}
	if image.User != "" && !userForm.MatchString(image.User) {
		p.add(path+".user", "is %q; must be UID or UID:GID in digits, such as 65532:65532 (there is no /etc/passwd)", image.User)
	}
}

// registry checks an image that is pulled: what only a build could use is refused.
func (p *problems) registry(path string, image Image) {
	host, _, _ := strings.Cut(image.Registry, "/")
	switch r, err := reference.Parse(image.Registry); {
	case err != nil:
		p.add(path+".registry", "%v", err)
	case r.Digest == "" && r.Tag == "":
		p.add(path+".registry", "%v", fmt.Errorf("image reference %q %w; or a tag, whose digest 'orrery lock pin' asks for", image.Registry, reference.ErrNoDigest))
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		p.add(path+".registry", "is %q; must begin with the registry's host, such as docker.io/", image.Registry)
	}
	for _, f := range []struct {
		field string
		set   bool
	}{
		{"binaries", len(image.Binaries) > 0}, {"nodes", len(image.Nodes) > 0}, {"directories", len(image.Directories) > 0},
		{"entrypoint", len(image.Entrypoint) > 0}, {"user", image.User != ""},
	} {
		if f.set {
			p.add(path+"."+f.field, "is given beside registry; an image is built or pulled, so remove one of them")
		}
	}
}

func (p *problems) binaries(path string, binaries []Binary) {
	var names []string
	for i, b := range binaries {
		at := fmt.Sprintf("%s[%d]", path, i)
		names = append(names, b.Name)
		p.want(at+".name", b.Name, programForm, "a file name")
		if b.Module == "" && b.Debian == nil {
			p.add(at+".module", "is missing; must be the folder of go.mod, or // for the repository's own")
		}
		if b.Archive() {
			p.archive(at, b)
		} else if b.Package == "" {
			p.add(at+".package", "is missing; must be \".\", \"./dir\" or an import path")
		}
		if b.Absent != "" {
			p.absent(at+".absent", b)
		}
		if b.Version != "" {
			p.want(at+".version", b.Version, tagForm, tagRule)
		}
		if b.CPUSeconds < 0 {
			p.add(at+".cpuSeconds", "is %g; must not be negative", b.CPUSeconds)
		}
		if b.MemoryMiB < 0 {
			p.add(at+".memoryMiB", "is %d; must not be negative", b.MemoryMiB)
		}
		for j, link := range b.Links {
			p.want(fmt.Sprintf("%s.links[%d]", at, j), link, programForm, "a file name")
		}
		names = append(names, b.Links...)
	}
	seen := map[string]bool{}
	for _, n := range names {
		if n != "" && seen[n] {
			p.add(path, "two programs or links are called %q; their files would overwrite each other", n)
		}
		seen[n] = true
	}
}

// absent checks where a list of modules that are left out is, and of what.
func (p *problems) absent(at string, b Binary) {
	if !filepath.IsLocal(b.Absent) || path.Clean(b.Absent) != b.Absent {
		p.add(at, "is %q; must be a file in the folder of go.mod, such as absent.txt", b.Absent)
	}
	if b.CGO {
		p.add(at, "is given for a program with C; only a program in Go can leave modules out")
	}
}

var (
	snapshotForm = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`)
	versionForm  = regexp.MustCompile(`^([0-9]+:)?[0-9][A-Za-z0-9.+~-]*$`) // deb-version(7)
	hexForm      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	packageForm  = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`) // Debian policy 5.6.1
)

// archive checks a file that is made of others' files.
func (p *problems) archive(at string, b Binary) {
	if b.Package != "" || b.Folder != nil && b.Debian != nil || b.CGO || b.Absent != "" || len(b.Tags)+len(b.CHeaders)+len(b.Links) > 0 || b.LDFlags != "" {
		p.add(at, "is an archive and more; folder or debian stands for itself, beside name, module and version")
	}
	if f := b.Folder; f != nil {
		if f.Path == "" || path.Clean(f.Path) != f.Path {
			p.add(at+".folder.path", "is %q; must be a folder of a module, such as example.org/module/folder", f.Path)
		}
		for i, w := range f.Without {
			if w == "." || !filepath.IsLocal(w) || path.Clean(w) != w {
				p.add(fmt.Sprintf("%s.folder.without[%d]", at, i), "is %q; must be a folder or file below the folder", w)
			}
		}
	}
	if d := b.Debian; d != nil {
		if b.Module != "" {
			p.add(at+".module", "is given beside debian; packages of Debian are in no module")
		}
		p.want(at+".debian.suite", d.Suite, labelForm, "a release of Debian, such as bookworm")
		p.want(at+".debian.snapshot", d.Snapshot, snapshotForm, "a time as snapshot.debian.org names it, such as 20260901T000000Z")
		if !filepath.IsLocal(d.Program) {
			p.add(at+".debian.program", "is %q; must be the path of the program in its package, such as usr/bin/env", d.Program)
		}
		if len(d.Packages) == 0 {
			p.add(at+".debian.packages", "is empty")
		}
		for i, pkg := range d.Packages {
			at := fmt.Sprintf("%s.debian.packages[%d]", at, i)
			p.want(at+".name", pkg.Name, packageForm, "a package's name")
			p.want(at+".version", pkg.Version, versionForm, "a package's version")
			for _, arch := range sortedKeys(pkg.SHA256) {
				p.want(at+".sha256."+arch, pkg.SHA256[arch], hexForm, "64 hexadecimal digits")
			}
		}
	}
}
