package catalog

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/profile"
	"github.com/orrery-dev/orrery/internal/reference"
)

var (
	labelForm   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)                                      // RFC 1123 label
	nameForm    = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)                                    // RFC 1123 subdomain, near enough
	imageForm   = regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*(/[a-z0-9]+([._-][a-z0-9]+)*)*$`)                // OCI distribution spec, <name>
	tagForm     = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)                                       // OCI distribution spec, <reference>
	programForm = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)                                       // a file name
	userForm    = regexp.MustCompile(`^[0-9]{1,10}(:[0-9]{1,10})?$`)                                              // UID[:GID]
	httpsForm   = regexp.MustCompile(`^https://[a-z0-9]([-.a-z0-9]*[a-z0-9])?(:[0-9]+)?(/[A-Za-z0-9._~+@%-]+)+$`) // no query, no empty part
	commitForm  = regexp.MustCompile(`^[0-9a-f]{40}$`)                                                            // of Git, SHA-1
	sumForm     = regexp.MustCompile(`^[0-9a-f]{64}$`)                                                            // SHA-256
	keyForm     = regexp.MustCompile(`^[-._a-zA-Z0-9]{1,253}$`)                                                   // a key of a Secret
	nkeyTypes   = []string{"account", "cluster", "operator", "server", "user"}                                    // nkeys with a seed
	labelRule   = "lower-case letters, digits and \"-\", at most 63 characters"                                   // of labelForm
	tagRule     = "letters, digits, \".\", \"_\" and \"-\", at most 128 characters, such as \"v1.2.3\""           // of tagForm
)

// networks are the plugins that a component may be made for; those of the spec but for auto.
var networks = []string{"cilium", "ptp"}

// problems collects the mistakes of one file, each as "path: what is wrong; what is right".
type problems []string

func (p *problems) add(path, format string, a ...any) {
	*p = append(*p, path+": "+fmt.Sprintf(format, a...))
}

// want checks a text against a form.
func (p *problems) want(path, value string, form *regexp.Regexp, rule string) {
	switch {
	case value == "":
		p.add(path, "is missing; must be %s", rule)
	case !form.MatchString(value):
		p.add(path, "is %q; must be %s", value, rule)
	}
}

func (p *problems) head(apiVersion, kind, wantKind string) {
	if apiVersion != APIVersion {
		p.add("apiVersion", "is %q; must be %s", apiVersion, APIVersion)
	}
	if kind != wantKind {
		p.add("kind", "is %q; must be %s", kind, wantKind)
	}
}

// unique reports entries of a list that come twice.
func (p *problems) unique(path string, names []string) {
	first := map[string]int{}
	for i, n := range names {
		if j, ok := first[n]; ok {
			p.add(fmt.Sprintf("%s[%d]", path, i), "%q is listed already (%s[%d]); remove one", n, path, j)
			continue
		}
		first[n] = i
	}
}

func checkComponent(c Component, folder string) []string {
	var p problems
	p.head(c.APIVersion, c.Kind, "Component")
	if c.Name != folder {
		p.add("name", "is %q; must be that of the folder, %q", c.Name, folder)
	}
	p.want("name", c.Name, labelForm, labelRule)
	if strings.TrimSpace(c.Description) == "" {
		p.add("description", "is missing; say in a line what the component is for")
	}
	p.want("namespace", c.Namespace, labelForm, labelRule)
	p.unique("needs", c.Needs)
	for i, n := range c.Needs {
		if n == c.Name {
			p.add(fmt.Sprintf("needs[%d]", i), "a component cannot need itself")
		}
	}
	if profile.Rank(c.Profile) < 0 {
		p.add("profile", "is %q; must be one of %s", c.Profile, list(profile.All()))
	}
	if w := c.When.Network; w != "" && !slices.Contains(networks, w) {
		p.add("when.network", "is %q; must be one of %s", w, list(networks))
	}
	if w := c.When.Cluster; w != "" && w != OwnCluster {
		p.add("when.cluster", "is %q; must be %s, or left out", w, OwnCluster)
	}
	switch {
	case c.Render.Kustomize == "" && c.Render.Chart == "":
		p.add("render", "names neither; give one of kustomize and chart")
	case c.Render.Kustomize != "" && c.Render.Chart != "":
		p.add("render", "names both; give one of kustomize and chart")
	}
	var images []string
	for i, image := range c.Images {
		images = append(images, image.Name)
		p.image(fmt.Sprintf("images[%d]", i), image)
	}
	p.unique("images", images)
	p.files(c.Files)
	var secrets []string
	for i, s := range c.Secrets {
		secrets = append(secrets, c.secretNamespace(s)+"/"+s.Name)
		p.secret(fmt.Sprintf("secrets[%d]", i), s, c.natsUsers())
	}
	p.unique("secrets", secrets)
	p.unique("ready", c.Ready)
	p.unique("smoke", c.Smoke)
	p.smokeJob(c)
	return p
}

func (p *problems) files(files []File) {
	var names []string
	for i, f := range files {
		at := fmt.Sprintf("files[%d]", i)
		names = append(names, f.Name)
		p.want(at+".name", f.Name, programForm, "a file name")
		p.want(at+".url", f.URL, httpsForm, "the address of one file, https://HOST/PATH without a query")
		p.want(at+".commit", f.Commit, commitForm, "the 40 hexadecimal digits of a commit")
		p.want(at+".sha256", f.SHA256, sumForm, "64 hexadecimal digits: sha256sum of the file")
		if commitForm.MatchString(f.Commit) && !strings.Contains(f.URL, "/"+f.Commit+"/") {
			p.add(at+".url", "does not have the commit %s in it; what a branch or a tag names changes", f.Commit)
		}
		if strings.Contains(f.URL, "/../") || strings.Contains(f.URL, "/./") {
			p.add(at+".url", "is %q; write it without \".\" and \"..\"", f.URL)
		}
	}
	p.unique("files", names)
}

func (p *problems) smokeJob(c Component) {
	j := c.SmokeJob
	if j == nil {
		return
	}
	if len(j.Checks) == 0 {
		p.add("smokeJob.checks", "is empty; name what the Job checks, as it prints it")
	}
	p.unique("smokeJob.checks", j.Checks)
	for i, name := range j.Checks {
		at := fmt.Sprintf("smokeJob.checks[%d]", i)
		p.want(at, name, labelForm, labelRule)
		if slices.Contains(c.Smoke, name) {
			p.add(at, "is %q, which smoke lists too; take another name", name)
		}
	}
	if d, err := time.ParseDuration(j.Deadline); err != nil || d < minDeadline || d > maxDeadline {
		p.add("smokeJob.deadline", "is %q; must be a time from %s to %s, such as 90s", j.Deadline, minDeadline, maxDeadline)
	}
}

func (c Component) secretNamespace(s Secret) string {
	if s.Namespace != "" {
		return s.Namespace
	}
	return c.Namespace
}

func (p *problems) image(path string, image Image) {
	p.want(path+".name", image.Name, imageForm, "a repository name: lower-case letters and digits, parted by \".\", \"_\", \"-\" or \"/\"")
	p.want(path+".version", image.Version, tagForm, tagRule)
	switch {
	case image.Registry != "":
		p.registry(path, image)
		return
	case len(image.Binaries) == 0:
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
		{"binaries", len(image.Binaries) > 0}, {"directories", len(image.Directories) > 0},
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

// natsUsers are the entries that texts know of users of NATS.
func (c Component) natsUsers() (names []string) {
	for _, s := range c.Secrets {
		for _, key := range sortedKeys(s.NATSJWTs) {
			if len(s.NATSJWTs[key].Publish)+len(s.NATSJWTs[key].Subscribe) > 0 {
				names = append(names, key+".publish", key+".subscribe")
			}
		}
	}
	return names
}

func (p *problems) secret(path string, s Secret, natsUsers []string) {
	p.want(path+".name", s.Name, nameForm, "lower-case letters, digits, \"-\" and \".\"")
	if s.Namespace != "" {
		p.want(path+".namespace", s.Namespace, labelForm, labelRule)
	}
	if len(s.NKeys)+len(s.PublicNKeys)+len(s.Passwords)+len(s.NATSJWTs) == 0 && s.Authority == nil {
		p.add(path, "generates nothing; give nkeys, publicNKeys, passwords, natsJWTs or authority")
	}
	if a := s.Authority; a != nil {
		if len(a.Issuers) == 0 || len(a.Domains) == 0 {
			p.add(path+".authority", "needs issuers and domains: who signs with it, and what it may sign for")
		}
		for i, name := range a.Issuers {
			p.want(fmt.Sprintf("%s.authority.issuers[%d]", path, i), name, nameForm, "lower-case letters, digits, \"-\" and \".\"")
		}
		for i, name := range a.Domains {
			p.want(fmt.Sprintf("%s.authority.domains[%d]", path, i), name, nameForm, "lower-case letters, digits, \"-\" and \".\"")
		}
	}
	entries := slices.Concat(sortedKeys(s.Passwords), natsUsers)
	for _, key := range sortedKeys(s.NKeys) {
		p.want(path+".nkeys."+key, key, keyForm, "letters, digits, \"-\", \"_\" and \".\"")
		if !slices.Contains(nkeyTypes, s.NKeys[key]) {
			p.add(path+".nkeys."+key, "is %q; must be one of %s", s.NKeys[key], list(nkeyTypes))
		}
		entries = append(entries, key+".pub", key+".seed")
	}
	ref := func(path, ref string) (prefix string) {
		name, key, ok := strings.Cut(ref, "/")
		if !ok || name == "" || key == "" || strings.Contains(key, "/") {
			p.add(path, "is %q; must be \"secret/prefix\"", ref)
		}
		return key
	}
	for i, r := range s.PublicNKeys {
		entries = append(entries, ref(fmt.Sprintf("%s.publicNKeys[%d]", path, i), r)+".pub")
	}
	for _, key := range sortedKeys(s.NATSJWTs) {
		at := path + ".natsJWTs." + key
		p.want(at, key, keyForm, "letters, digits, \"-\", \"_\" and \".\"")
		entries = append(entries, key+".jwt")
		j := s.NATSJWTs[key]
		if _, own := s.NKeys[key]; j.Of == "" && !own {
			p.add(at+".of", "is missing, and the secret has no key %q of its own", key)
		} else if j.Of != "" {
			ref(at+".of", j.Of)
		}
		for _, r := range j.Refs() {
			ref(at, r)
		}
	}
	for _, key := range sortedKeys(s.Passwords) {
		p.want(path+".passwords."+key, key, keyForm, "letters, digits, \"-\", \"_\" and \".\"")
		if n := s.Passwords[key]; n < 8 || n > 1024 {
			p.add(path+".passwords."+key, "is %d; must be a length between 8 and 1024 characters", n)
		}
	}
	for _, key := range sortedKeys(s.Texts) {
		p.want(path+".texts."+key, key, keyForm, "letters, digits, \"-\", \"_\" and \".\"")
		if _, taken := s.Passwords[key]; taken {
			p.add(path+".texts."+key, "is a password too; must be another key")
		}
		os.Expand(s.Texts[key], func(name string) string {
			if !slices.Contains(entries, name) {
				p.add(path+".texts."+key, "names ${%s}; must be another of its entries: %s", name, list(entries))
			}
			return ""
		})
	}
}

func checkOverlay(o Overlay, folder string) []string {
	var p problems
	p.head(o.APIVersion, o.Kind, "Overlay")
	if o.Name != folder {
		p.add("name", "is %q; must be that of the folder, %q", o.Name, folder)
	}
	if len(o.Components) == 0 {
		p.add("components", "is empty; name at least one component")
	}
	p.unique("components", o.Components)
	p.unique("bootstrap", o.Bootstrap)
	for i, c := range o.Bootstrap {
		if !slices.Contains(o.Components, c) {
			p.add(fmt.Sprintf("bootstrap[%d]", i), "is %q, which is not among components; name it there too", c)
		}
	}
	if o.Gate != "" && !slices.Contains(o.Components, o.Gate) {
		p.add("gate", "is %q, which is not among components; name it there too", o.Gate)
	}
	for _, name := range sortedKeys(o.Charts) {
		at, chart := "charts."+name, o.Charts[name]
		if !slices.Contains(o.Components, name) {
			p.add(at, "is for a component that is not among components; name it there too")
		}
		if !strings.HasPrefix(chart.Module, "//") {
			p.add(at+".module", "is %q; give the folder of a go.mod from the repository's root, such as //infra/native/cilium", chart.Module)
		}
		if chart.Folder == "" || path.Clean(chart.Folder) != chart.Folder || path.IsAbs(chart.Folder) {
			p.add(at+".folder", "is %q; give the full path of a folder of a required module, such as example.com/x/charts/x", chart.Folder)
		}
	}
	return p
}

func checkDistribution(d Distribution) []string {
	var p problems
	p.head(d.APIVersion, d.Kind, "Distribution")
	p.want("kubernetes", d.Kubernetes, tagForm, "a version, such as v1.37.2")
	if len(d.Binaries) == 0 {
		p.add("binaries", "is empty; a node is made of programs")
	}
	p.binaries("binaries", d.Binaries)
	p.binaries("cni", d.CNI)
	p.image("sandbox", d.Sandbox)
	for _, name := range sortedKeys(d.Networks) {
		at, n := "networks."+name, d.Networks[name]
		p.want(at, name, labelForm, labelRule)
		// Beside those of every node, which their files must not overwrite.
		p.binaries(at+".binaries", slices.Concat(n.Binaries, d.Binaries))
		p.binaries(at+".cni", slices.Concat(n.CNI, d.CNI))
		p.binaries(at+".archives", n.Archives)
		for i, b := range n.Archives {
			if b.Name == "bin" || b.Name == "objects" {
				p.add(fmt.Sprintf("%s.archives[%d].name", at, i), "is %q, which nodes have another folder of", b.Name)
			}
			if !b.Archive() {
				p.add(fmt.Sprintf("%s.archives[%d]", at, i), "is a program; give folder or debian")
			}
		}
	}
	for _, list := range [][]Binary{d.Binaries, d.CNI} {
		for _, b := range list {
			if b.Archive() {
				p.add("binaries", "%q is an archive; those belong to networks.NAME.archives", b.Name)
			}
		}
	}
	if d.Sandbox.Registry != "" {
		p.add("sandbox.registry", "the sandbox is part of every node and is built here; name its binaries")
	}
	return p
}
