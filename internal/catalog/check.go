package catalog

import (
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/profile"
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
var networks = []string{"cilium", "ptp", "routes"}

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
	if w := c.When.Agents; w != "" && (w != AgentPods || c.When.Network == "") {
		p.add("when.agents", "is %q; must be %s, beside when.network, or left out", w, AgentPods)
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
