package catalog

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/profile"
)

// tree is a small catalogue that is right; tests break one file of it.
func tree() map[string]string {
	return map[string]string{
		"go.mod":                         "module example.com/x\n",
		"infra/native/distribution.yaml": distributionYAML,
		"infra/native/runc/go.mod":       "module runc\n",
		"infra/native/pause/go.mod":      "module pause\n",
		"infra/native/ptp/go.mod":        "module ptp\n",
		"infra/k8s/overlays/local/overlay.yaml": "apiVersion: orrery.dev/v1alpha1\nkind: Overlay\nname: local\n" +
			"components: [web]\n",
		"infra/k8s/base/dns/component.yaml":           dnsYAML,
		"infra/k8s/base/dns/source/go.mod":            "module dns\n",
		"infra/k8s/base/dns/k/kustomization.yaml":     "resources: []\n",
		"infra/k8s/base/web/component.yaml":           webYAML,
		"infra/k8s/base/web/chart/Chart.yaml":         "name: web\n",
		"infra/k8s/base/web/smoke/kustomization.yaml": "resources: [job.yaml]\n",
		"infra/k8s/overlays/local/web/values.yaml":    "{}\n",
		"infra/k8s/overlays/prod/overlay.yaml":        "apiVersion: orrery.dev/v1alpha1\nkind: Overlay\nname: prod\ncomponents: [dns, web]\n",
		"infra/k8s/overlays/prod/README.md":           "text\n",
		"infra/k8s/base/README.md":                    "text\n",
		"infra/k8s/overlays/local/shared/labels.yaml": "{}\n",
	}
}

const (
	distributionYAML = `apiVersion: orrery.dev/v1alpha1
kind: Distribution
kubernetes: v1.37.2
binaries:
- {name: runc, module: runc, package: ., version: v1.5.2, cgo: true, cHeaders: [libseccomp-dev], cpuSeconds: 25}
cni:
- {name: ptp, module: ptp, package: .}
sandbox:
  name: pause
  version: v1
  binaries: [{name: pause, module: //infra/native/pause, package: .}]
`
	dnsYAML = `apiVersion: orrery.dev/v1alpha1
kind: Component
name: dns
description: Names.
namespace: kube-system
images:
- name: coredns
  version: v1.15.0
  binaries: [{name: coredns, module: source, package: ./cmd, cpuSeconds: 247.5, memoryMiB: 800}]
render: {kustomize: k}
secrets:
- {name: keys, nkeys: {admin: user}}
`
	webYAML = `apiVersion: orrery.dev/v1alpha1
kind: Component
name: web
description: Pages.
namespace: apps
needs: [dns]
images:
- {name: team/web, version: v2, user: "10:10", directories: [/data], binaries: [{name: web, module: //, package: ./web}]}
render: {chart: chart}
secrets:
- {name: web, passwords: {admin: 24}, publicNKeys: [keys/admin]}
smoke: [dns]
smokeJob: {kustomize: smoke, checks: [pages], deadline: 90s}
`
)

func write(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestLoad(t *testing.T) {
	root := write(t, tree())
	c, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	dns := c.Components["dns"].Images[0].Binaries[0]
	if want := filepath.Join(root, "infra/k8s/base/dns/source"); dns.Dir != want || dns.CPUSeconds != 247.5 || dns.MemoryMiB != 800 {
		t.Errorf("coredns = %+v, want Dir %s", dns, want)
	}
	if got := c.Components["web"].Images[0].Binaries[0].Dir; got != root {
		t.Errorf("// resolves to %s, want %s", got, root)
	}
	if got, want := c.Distribution.Sandbox.Binaries[0].Dir, filepath.Join(root, "infra/native/pause"); got != want {
		t.Errorf("//infra/native/pause resolves to %s, want %s", got, want)
	}
	web := c.Components["web"]
	if got := strings.Join(web.Checks(), " "); got != "dns pages" || web.SmokeJob.Time() != 90*time.Second {
		t.Errorf("checks of web: %s in %s", got, web.SmokeJob.Time())
	}
	if len(c.Overlays) != 2 || c.Overlays["prod"].Dir != filepath.Join(root, OverlayDir, "prod") {
		t.Errorf("overlays = %+v", c.Overlays)
	}
}

func TestLoadPulledImage(t *testing.T) {
	files := tree()
	digest := "sha256:" + strings.Repeat("0a", 32)
	files["infra/k8s/base/dns/component.yaml"] = strings.Replace(dnsYAML, "  binaries: [{name: coredns, module: source, package: ./cmd, cpuSeconds: 247.5, memoryMiB: 800}]\n", "  registry: docker.io/coredns/coredns:1@"+digest+"\n", 1)
	c, err := Load(write(t, files))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Components["dns"].Images[0]; got.RegistryDigest() != digest || len(got.Binaries) != 0 {
		t.Errorf("image = %+v", got)
	}
}

// network is the head of the distribution with a network that has the given parts.
func network(parts string) string { return "kubernetes: v1.37.2\nnetworks: {x: {" + parts + "}}" }

func TestLoadErrors(t *testing.T) {
	const (
		dns, web     = "infra/k8s/base/dns/component.yaml", "infra/k8s/base/web/component.yaml"
		overlay      = "infra/k8s/overlays/local/overlay.yaml"
		prodOverlay  = "infra/k8s/overlays/prod/overlay.yaml"
		distribution = "infra/native/distribution.yaml"
		coredns      = "binaries: [{name: coredns, module: source, package: ./cmd, cpuSeconds: 247.5, memoryMiB: 800}]"
	)
	tests := []struct {
		name, file, old, new string // file: replace old with new; all of it when old is "", remove it when both are
		want                 []string
	}{
		{"unknown field", web, "needs:", "need:", []string{web + `:6: need: unknown field, did you mean "needs"?; known: apiVersion, kind, name`}},
		{"field in the wrong case", web, "needs:", "Needs:", []string{`Needs: unknown field, did you mean "needs"?`}},
		{"nested unknown field", dns, "cpuSeconds", "cpuSecs", []string{"images[0].binaries[0].cpuSecs: unknown field"}},
		{"number for text", dns, "version: v1.15.0", "version: 1.10", []string{`images[0].version: is a number (1.10); must be text: write "1.10"`}},
		{"text for number", dns, "247.5", `"247"`, []string{`images[0].binaries[0].cpuSeconds: is text ("247"); must be a number, without quotes`}},
		{"fraction for whole number", dns, "800", "800.5", []string{`memoryMiB: is a number (800.5); must be a whole number`}},
		{"text for truth", distribution, "cgo: true", "cgo: yes", []string{"binaries[0].cgo: is text (\"yes\"); must be true or false"}},
		{"text for list", web, "[dns]\nimages", "dns\nimages", []string{`needs: is text ("dns"); must be a list`}},
		{"list for mapping", web, "{chart: chart}", "[chart]", []string{"render: is a list; must be a mapping with the fields kustomize, chart"}},
		{"mapping for text", web, "name: web\n", "name: {a: b}\n", []string{"name: is a mapping; must be text"}},
		{"duplicate key", web, "kind: Component\n", "kind: Component\nkind: Component\n", []string{":3: kind: is given twice (line 2 too)"}},
		{"alias", web, "description: Pages.", "description: &a Pages.", []string{"anchors and aliases"}},
		{"second document", web, "deadline: 90s}\n", "deadline: 90s}\n---\nx: 1\n", []string{"a second document begins"}},
		{"bad YAML", web, "needs: [dns]", "needs: [dns", []string{web + ":"}},
		{"empty file", web, "", "# nothing\n", []string{web + ":1: the file is empty"}},
		{"just text", web, "", "hello\n", []string{`the document: is text ("hello"); must be a mapping`}},
		{"no component.yaml", web, "", "", []string{web + ": cannot read it: no such file"}},
		{"wrong version", web, "v1alpha1", "v2", []string{`apiVersion: is "orrery.dev/v2"; must be orrery.dev/v1alpha1`}},
		{"wrong kind", web, "kind: Component", "kind: Overlay", []string{`kind: is "Overlay"; must be Component`}},
		{"name is not the folder's", web, "name: web\n", "name: site\n", []string{`name: is "site"; must be that of the folder, "web"`}},
		{"no description", web, "description: Pages.", "description:", []string{"description: is missing"}},
		{"bad namespace", web, "namespace: apps", "namespace: Apps", []string{`namespace: is "Apps"; must be lower-case`}},
		{"several mistakes at once", web, "namespace: apps\nneeds: [dns]", "namespace: Apps\nneeds: [dns, dns, web]", []string{"namespace: is", "needs[1]: \"dns\" is listed already", "needs[2]: a component cannot need itself"}},
		{"bootstrap outside of components", prodOverlay, "components: [dns, web]", "components: [dns]\nbootstrap: [web]", []string{`bootstrap[0]: is "web", which is not among components`}},
		{"gate outside of components", prodOverlay, "components: [dns, web]", "components: [dns]\ngate: web", []string{`gate: is "web", which is not among components`}},
		{"chart of a component that is not there", prodOverlay, "components: [dns, web]", "components: [web]\ncharts: {dns: {module: //infra/native/ptp, folder: example.com/x/chart}}", []string{"charts.dns: is for a component that is not among components"}},
		{"second chart", prodOverlay, "components: [dns, web]", "components: [dns, web]\ncharts: {web: {module: //infra/native/ptp, folder: example.com/x/chart}}", []string{"charts.web: the component renders a chart already"}},
		{"chart of no module", prodOverlay, "components: [dns, web]", "components: [dns, web]\ncharts: {dns: {module: //infra, folder: example.com/x/chart}}", []string{`charts.dns.module: "//infra" is no module`}},
		{"chart's module is relative", prodOverlay, "components: [dns, web]", "components: [dns, web]\ncharts: {dns: {module: ptp, folder: example.com/x/chart}}", []string{`charts.dns.module: is "ptp"; give the folder of a go.mod`}},
		{"chart's folder", prodOverlay, "components: [dns, web]", "components: [dns, web]\ncharts: {dns: {module: //infra/native/ptp, folder: example.com/../x}}", []string{`charts.dns.folder: is "example.com/../x"; give the full path`}},
		{"another network", web, "needs: [dns]", "needs: [dns]\nwhen: {network: calico}", []string{`when.network: is "calico"; must be one of cilium, ptp`}},
		{"unknown profile", web, "namespace: apps", "namespace: apps\nprofile: large", []string{`profile: is "large"; must be one of core, platform, full`}},
		{"need of a larger profile", web, "namespace: apps", "namespace: apps\nprofile: core", []string{"needs[0]: dns is of profile platform, and web of the smaller one core; give one of them the other's"}},
		{"unknown need", web, "needs: [dns]", "needs: [dms]", []string{`needs[0]: there is no component "dms"; there are: dns, web`}},
		{"cycle", dns, "namespace: kube-system", "namespace: kube-system\nneeds: [web]", []string{dns + ": needs: a cycle: dns → web → dns"}},
		{"both renders", web, "{chart: chart}", "{chart: chart, kustomize: k}", []string{"render: names both"}},
		{"no folder of CRDs", web, "{chart: chart}", "{chart: chart, crds: none}", []string{`render.crds: "none" is no folder`}},
		{"no render", web, "{chart: chart}", "{}", []string{"render: names neither"}},
		{"no chart", web, "{chart: chart}", "{chart: charts}", []string{`render.chart: "charts" has no Chart.yaml`}},
		{"chart outside", web, "{chart: chart}", "{chart: ../dns}", []string{`render.chart: "../dns" leaves the component's folder`}},
		{"no folder of the Job", web, "kustomize: smoke", "kustomize: tests", []string{web + `: smokeJob.kustomize: "tests" has no kustomization.yaml`}},
		{"Job outside", web, "kustomize: smoke", "kustomize: ../dns/k", []string{`smokeJob.kustomize: "../dns/k" leaves the component's folder`}},
		{"Job without a folder", web, "kustomize: smoke, ", "", []string{`smokeJob.kustomize: "" leaves`}},
		{"Job that checks nothing", web, "[pages]", "[]", []string{"smokeJob.checks: is empty"}},
		{"name of the Job's check", web, "[pages]", `[Pages, dns, a, a]`, []string{
			`smokeJob.checks[0]: is "Pages"; must be lower-case`, `smokeJob.checks[1]: is "dns", which smoke lists too`, `smokeJob.checks[3]: "a" is listed already`,
		}},
		{"no deadline", web, ", deadline: 90s", "", []string{`smokeJob.deadline: is ""; must be a time from 1s to 15m0s`}},
		{"deadline without a unit", web, "90s", `"90"`, []string{`smokeJob.deadline: is "90"`}},
		{"deadline as a number", web, "90s", "90", []string{`smokeJob.deadline: is a number (90); must be text`}},
		{"endless deadline", web, "90s", "3h", []string{`smokeJob.deadline: is "3h"`}},
		{"unknown field of the Job", web, "deadline: 90s", "deadline: 90s, timeout: 1s", []string{web + ":13: smokeJob.timeout: unknown field", "known: kustomize, checks, deadline"}},
		{"no module", dns, "module: source", "module: src", []string{`images[0].binaries[0].module: "src" is no module: there is no infra/k8s/base/dns/src/go.mod`}},
		{"list of what is left out", dns, "package: ./cmd", "package: example.org/dns/cmd, absent: gone.txt", []string{"images[0].binaries[0].absent: there is no infra/k8s/base/dns/source/gone.txt"}},
		{"list outside", dns, "package: ./cmd", "package: example.org/dns/cmd, absent: ../go.mod", []string{`absent: is "../go.mod"; must be a file in the folder of go.mod`}},
		{"C leaves out", distribution, "package: ., version: v1.5.2", "package: example.org/runc, absent: go.mod, version: v1.5.2", []string{"binaries[0].absent: is given for a program with C"}},
		{"module outside", dns, "module: source", "module: ../../../../..", []string{"leaves the repository"}},
		{"image name", dns, "name: coredns\n", "name: CoreDNS\n", []string{`images[0].name: is "CoreDNS"; must be a repository name`}},
		{"no binaries", dns, coredns, "binaries: []", []string{"images[0].binaries: is empty"}},
		{"files", dns, "namespace: kube-system", "namespace: kube-system\nfiles:\n- {name: a/b, url: 'http://x.test/main/a', commit: main, sha256: abc}\n- {name: c, url: 'https://x.test/" + strings.Repeat("1a", 20) + "/a?b', commit: " + strings.Repeat("1a", 20) + ", sha256: " + strings.Repeat("2b", 32) + "}\n- {name: c, url: 'https://x.test/main/../a', commit: " + strings.Repeat("1a", 20) + ", sha256: " + strings.Repeat("2b", 32) + "}",
			[]string{"files[0].name", "files[0].url", "files[0].commit", "files[0].sha256", "files[1].url: is", `files[2].url: does not have the commit`, `write it without`, `files[2]: "c" is listed already`}},
		{"pulled by name", dns, coredns, "registry: docker.io/x/y", []string{`images[0].registry: image reference "docker.io/x/y" has no digest; add @sha256:`, "orrery lock pin"}},
		{"pulled from nowhere", dns, coredns, "registry: x/y@sha256:" + strings.Repeat("0", 64), []string{`images[0].registry: is "x/y@sha256:`, "must begin with the registry's host"}},
		{"pulled, short digest", dns, coredns, "registry: docker.io/x/y@sha256:12", []string{"images[0].registry: image reference", "64 hexadecimal digits"}},
		{"built and pulled", dns, coredns, coredns + "\n  user: '1'\n  registry: docker.io/x/y@sha256:" + strings.Repeat("0", 64), []string{"images[0].binaries: is given beside registry", "images[0].user: is given beside registry"}},
		{"sandbox pulled", distribution, "binaries: [{name: pause, module: //infra/native/pause, package: .}]", "registry: docker.io/x/y@sha256:" + strings.Repeat("0", 64), []string{"sandbox.registry: the sandbox is part of every node"}},
		{"user by name", web, `"10:10"`, `nobody`, []string{`images[0].user: is "nobody"; must be UID`}},
		{"relative directory", web, "[/data]", "[data]", []string{"images[0].directories[0]"}},
		{"links collide", distribution, "cgo: true", "links: [runc]", []string{`binaries: two programs or links are called "runc"`}},
		{"image twice", web, "team/web, version: v2", "coredns, version: v2", []string{`image "coredns" is declared with other content than in infra/k8s/base/dns/component.yaml`}},
		{"program twice", web, "{name: web, module: //, package: ./web}", "{name: coredns, module: //, package: ./web}", []string{`program "coredns" is declared with other content`}},
		{"nkey type", dns, "admin: user", "admin: usr", []string{`secrets[0].nkeys.admin: is "usr"; must be one of account`}},
		{"short password", web, "admin: 24", "admin: 4", []string{"secrets[0].passwords.admin: is 4; must be a length"}},
		{"text of another's password", web, "publicNKeys:", "texts: {conf: '${admin} ${root}'}, publicNKeys:", []string{"secrets[0].texts.conf: names ${root}; must be another of its entries: admin, admin.pub"}},
		{"text under a password's key", web, "publicNKeys:", "texts: {admin: x}, publicNKeys:", []string{"secrets[0].texts.admin: is a password too"}},
		{"JWT of no key", dns, "nkeys: {admin: user}", "nkeys: {admin: user}, natsJWTs: {x: {by: keys/admin}}", []string{"secrets[0].natsJWTs.x.of: is missing"}},
		{"JWT by nobody", dns, "nkeys: {admin: user}", "nkeys: {admin: user}, natsJWTs: {admin: {}}", []string{`natsJWTs.admin: is ""; must be "secret/prefix"`}},
		{"JWT by another's key", web, "publicNKeys: [keys/admin]", "natsJWTs: {x: {of: keys/admin, by: keys/admin}}",
			[]string{`secrets[0].natsJWTs.x: names the key "keys/admin", which web does not generate`}},
		{"empty secret", dns, "nkeys: {admin: user}", "nkeys: {}", []string{"secrets[0]: generates nothing"}},
		{"unknown public key", web, "keys/admin", "keys/root", []string{`secrets[0].publicNKeys[0]: "keys/root" is generated by 0 secrets`}},
		{"overlay names nothing", overlay, "[web]", "[]", []string{"components: is empty"}},
		{"overlay with unknown component", overlay, "[web]", "[weg]", []string{`components[0]: there is no component "weg"; there are: dns, web`}},
		{"overlay's name", overlay, "name: local", "name: prod", []string{`name: is "prod"; must be that of the folder`}},
		{"layer over nothing", "infra/k8s/overlays/local/wep/values.yaml", "", "a: 1\n", []string{"infra/k8s/overlays/local/wep: lies over a component that does not exist"}},
		{"layer of the wrong form", "infra/k8s/overlays/local/dns/values.yaml", "", "a: 1\n", []string{"dns/values.yaml: would never be used: dns renders with kustomize"}},
		{"kustomization over a chart", "infra/k8s/overlays/local/web/kustomization.yaml", "", "a: 1\n", []string{"web/kustomization.yaml: would never be used: web renders a chart"}},
		{"no distribution", distribution, "", "", []string{distribution + ": cannot read it"}},
		{"no Kubernetes version", distribution, "kubernetes: v1.37.2", "", []string{"kubernetes: is missing"}},
		{"network's program", distribution, "kubernetes: v1.37.2", network("binaries: [{name: runc, module: //infra/native/pause, package: .}]"), []string{`networks.x.binaries: two programs or links are called "runc"`}},
		{"program as archive", distribution, "kubernetes: v1.37.2", network("archives: [{name: a, module: //infra/native/pause, package: .}]"), []string{"networks.x.archives[0]: is a program; give folder or debian"}},
		{"archive as program", distribution, "cgo: true", "folder: {path: example.org/m/x}", []string{"binaries[0]: is an archive and more", "is an archive; those belong to networks.NAME.archives"}},
		{"archive's name", distribution, "kubernetes: v1.37.2", network("archives: [{name: bin, module: //infra/native/pause, folder: {path: a/b}}]"), []string{"networks.x.archives[0].name: is \"bin\", which nodes have another folder of"}},
		{"folder leads out", distribution, "kubernetes: v1.37.2", network("archives: [{name: a, module: //infra/native/pause, folder: {path: a/../b, without: [../c]}}]"), []string{"folder.path: is \"a/../b\"", "folder.without[0]: is \"../c\""}},
		{"debian", distribution, "kubernetes: v1.37.2", network("archives: [{name: a, module: //infra/native/pause, debian: {suite: '', snapshot: yesterday, program: /bin/sh, packages: [{name: X, version: new, sha256: {amd64: '12'}}]}}]"), []string{
			"archives[0].module: is given beside debian", "suite: is missing", "snapshot: is \"yesterday\"", "program: is \"/bin/sh\"", "packages[0].name: is \"X\"", "packages[0].version: is \"new\"", "sha256.amd64: is \"12\"",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := tree()
			switch {
			case tt.old != "":
				if !strings.Contains(files[tt.file], tt.old) {
					t.Fatalf("%s does not contain %q", tt.file, tt.old)
				}
				files[tt.file] = strings.Replace(files[tt.file], tt.old, tt.new, 1)
			case tt.new != "":
				files[tt.file] = tt.new
			default:
				delete(files, tt.file)
			}
			// Keeps the folder there when its only file was removed.
			files[filepath.Join(filepath.Dir(tt.file), "NOTES")] = ""
			_, err := Load(write(t, files))
			if err == nil {
				t.Fatal("loaded, want an error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error\n%v\ndoes not say\n%s", err, want)
				}
			}
			for _, line := range strings.Split(err.Error(), "\n") {
				if !strings.HasPrefix(line, "infra/") {
					t.Errorf("%q does not begin with a file", line)
				}
			}
		})
	}
}

func TestSelect(t *testing.T) {
	c, err := Load(write(t, tree()))
	if err != nil {
		t.Fatal(err)
	}
	names := func(cs []Component) (out []string) {
		for _, c := range cs {
			out = append(out, c.Name)
		}
		return out
	}
	for _, tt := range []struct {
		overlay    string
		components []string
		want       []string
		wantErr    string
	}{
		{"local", nil, []string{"dns", "web"}, ""},
		{"local", []string{"dns"}, []string{"dns"}, ""},
		{"local", []string{"web", "web"}, []string{"dns", "web"}, ""},
		{"local", []string{"wev"}, nil, `there is no component "wev", did you mean "web"?; there are: dns, web`},
		{"prd", nil, nil, `there is no overlay "prd", did you mean "prod"?; there are: local, prod`},
	} {
		got, err := c.Select(tt.overlay, tt.components)
		if tt.wantErr != "" {
			if err == nil || err.Error() != tt.wantErr {
				t.Errorf("Select(%q, %q) = %v, want error %s", tt.overlay, tt.components, err, tt.wantErr)
			}
			continue
		}
		if err != nil || !slices.Equal(names(got), tt.want) {
			t.Errorf("Select(%q, %q) = %q, %v; want %q", tt.overlay, tt.components, names(got), err, tt.want)
		}
	}
}

// Whatever is selected, the gate and its needs come first.
func TestSelectGate(t *testing.T) {
	c := &Catalog{
		Components: map[string]Component{
			"base": {Name: "base"}, "gate": {Name: "gate", Needs: []string{"base"}},
			"a": {Name: "a"}, "dns": {Name: "dns"}, "z": {Name: "z", Needs: []string{"a", "dns", "gate"}},
		},
		Overlays: map[string]Overlay{"local": {Name: "local", Components: []string{"a", "base", "dns", "gate", "z"}, Bootstrap: []string{"dns"}, Gate: "gate"}},
	}
	got, err := c.Select("local", []string{"z"})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range got {
		lines = append(lines, c.Name+": "+strings.Join(c.Needs, " "))
	}
	if want := []string{"base: ", "dns: ", "gate: base", "a: gate", "z: a dns gate"}; !slices.Equal(lines, want) {
		t.Errorf("selected %q, want %q", lines, want)
	}
	for _, tt := range []struct{ named, want []string }{
		{[]string{"a"}, []string{"base", "dns", "gate", "a"}}, // dns: of the bootstrap, and nobody's need
		{[]string{"dns"}, []string{"base", "dns", "gate"}},
		{[]string{"base", "dns"}, []string{"base", "dns", "gate"}},
	} {
		got, err := c.Select("local", tt.named)
		if err != nil {
			t.Fatal(err)
		}
		have := []string{}
		for _, c := range got {
			have = append(have, c.Name)
		}
		if !slices.Equal(have, tt.want) {
			t.Errorf("Select(%q) = %q, want %q", tt.named, have, tt.want)
		}
	}
	if needs := c.Components["a"].Needs; needs != nil {
		t.Errorf("the catalogue was changed: a needs %q", needs)
	}
}

// What is for another network is neither selected nor needed, nor on the nodes, and asking
// for it says why.
func TestFor(t *testing.T) {
	c := &Catalog{
		Distribution: Distribution{Binaries: []Binary{{Name: "kubelet"}}, Networks: map[string]Network{"cilium": {Binaries: []Binary{{Name: "agent"}}}}},
		Components: map[string]Component{
			"agents": {Name: "agents", When: When{Network: "cilium"}}, "proxy": {Name: "proxy", When: When{Network: "ptp"}},
			"z": {Name: "z", Needs: []string{"agents", "proxy"}},
		},
		Overlays: map[string]Overlay{"local": {Name: "local", Components: []string{"agents", "proxy", "z"}, Bootstrap: []string{"agents"}}},
	}
	for network, want := range map[string]string{
		"cilium": "agents: z: agents", "ptp": "proxy: z: proxy", "auto": "agents: proxy: z: agents proxy", "": "agents: proxy: z: agents proxy",
	} {
		got, err := c.For(network, "").Select("local", nil)
		var lines []string
		for _, c := range got {
			lines = append(lines, strings.TrimSpace(c.Name+": "+strings.Join(c.Needs, " ")))
		}
		if text := strings.Join(lines, " "); err != nil || text != want {
			t.Errorf("%q: %s, %v, want %s", network, text, err, want)
		}
	}
	if _, err := c.For("ptp", "").Select("local", []string{"agents"}); err == nil || err.Error() != `component "agents" is for environments with network.plugin cilium; this one has ptp` {
		t.Error(err)
	}
	if _, err := c.For("ptp", "").Select("local", []string{"nothing"}); err == nil || !strings.Contains(err.Error(), "there is no component") {
		t.Error(err)
	}
	for network, want := range map[string]string{"cilium": "agents z", "ptp": "proxy z", "auto": "agents proxy z"} {
		if here := strings.Join(c.For(network, "").Here([]string{"agents", "proxy", "z"}), " "); here != want {
			t.Errorf("%s: %q, want %q", network, here, want)
		}
	}
	for network, want := range map[string]int{"cilium": 2, "ptp": 1} {
		if files := c.For(network, "").Distribution.Files(); len(files) != want {
			t.Errorf("nodes with %s have %v", network, files)
		}
	}
	if n := c.Components["z"].Needs; len(n) != 2 || len(c.Distribution.Files()) != 1 {
		t.Errorf("the catalogue was changed: %v, %v", n, c.Distribution)
	}
}

func TestWaves(t *testing.T) {
	part := func(name string, needs ...string) Component { return Component{Name: name, Needs: needs} }
	for _, tt := range []struct {
		in   []Component
		want string
	}{
		{nil, ""},
		{[]Component{part("b"), part("a")}, "a b"},
		{[]Component{part("c", "b"), part("b", "a"), part("a"), part("d", "a")}, "a | b d | c"},
		{[]Component{part("c", "elsewhere")}, "c"},
		{[]Component{part("a"), part("x", "y"), part("y", "x")}, "a | x y"},
	} {
		var waves []string
		for _, wave := range Waves(tt.in) {
			var names []string
			for _, c := range wave {
				names = append(names, c.Name)
			}
			waves = append(waves, strings.Join(names, " "))
		}
		if got := strings.Join(waves, " | "); got != tt.want {
			t.Errorf("Waves = %q, want %q", got, tt.want)
		}
	}
}

func TestFindRoot(t *testing.T) {
	root := write(t, tree())
	for _, dir := range []string{".", "infra", "infra/k8s/base/dns"} {
		if got, err := FindRoot(filepath.Join(root, dir)); err != nil || got != root {
			t.Errorf("FindRoot(%s) = %s, %v", dir, got, err)
		}
	}
	if _, err := FindRoot(t.TempDir()); err == nil || !strings.Contains(err.Error(), "--catalog DIR") {
		t.Errorf("FindRoot outside = %v", err)
	}
}

// TestRepository loads the catalogue that this repository ships.
func TestRepository(t *testing.T) {
	root, err := FindRoot(".")
	if err != nil {
		t.Skip("the repository holds no catalogue here: ", err)
	}
	c, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	for name := range c.Overlays {
		cs, err := c.Select(name, nil)
		if err != nil {
			t.Error(err)
		}
		if len(cs) < len(c.Overlays[name].Components) {
			t.Errorf("overlay %s selects %d components", name, len(cs))
		}
	}
}

func FuzzComponent(f *testing.F) {
	f.Add([]byte(dnsYAML))
	f.Add([]byte(webYAML))
	f.Add([]byte("smokeJob: {checks: [~, 1], deadline: 1e9s}"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("- 1\n---\n"))
	f.Add([]byte("images: [{binaries: [null, {links: [~]}]}]\nsecrets: [{passwords: {a: 1}}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c Component
		for _, err := range decode(data, &c) {
			if line, _, ok := strings.Cut(err.Error(), ":"); !ok || line == "" {
				t.Errorf("no line in %q", err)
			} else if _, bad := strconv.Atoi(line); bad != nil {
				t.Errorf("no line in %q", err)
			}
		}
		checkComponent(c, "x")
	})
}

func FuzzOverlay(f *testing.F) {
	for _, name := range slices.Sorted(maps.Keys(tree())) {
		if strings.HasSuffix(name, "overlay.yaml") {
			f.Add([]byte(tree()[name]))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var o Overlay
		decode(data, &o)
		checkOverlay(o, "x")
	})
}

// A profile has what a smaller one has; the bootstrap of an overlay is of every one.
func TestWithin(t *testing.T) {
	c := &Catalog{
		Components: map[string]Component{
			"base": {Name: "base"}, "nats": {Name: "nats", Profile: profile.Core}, "loki": {Name: "loki"}, "vault": {Name: "vault", Profile: profile.Full},
		},
		Overlays: map[string]Overlay{"local": {Name: "local", Components: []string{"base", "nats", "loki", "vault"}, Bootstrap: []string{"base"}}},
	}
	for of, want := range map[string]string{"core": "base nats", "platform": "base loki nats", "": "base loki nats", "full": "base loki nats vault"} {
		selected, err := c.Within(of).Select("local", nil)
		var names []string
		for _, component := range selected {
			names = append(names, component.Name)
		}
		if err != nil || strings.Join(names, " ") != want {
			t.Errorf("profile %q has %v, %v; want %s", of, names, err, want)
		}
	}
	if selected, err := c.Within("core").Select("local", []string{"vault"}); err != nil || len(selected) != 2 {
		t.Errorf("a component that was named: %v, %v", selected, err)
	}
}

// The core of the catalogue stands by itself.
func TestRepositoryProfiles(t *testing.T) {
	loaded, err := Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	for overlay, nodes := range map[string]string{"local": "routes", "prod": ""} { // locally with agents that are pods
		c := loaded.For("cilium", nodes)
		all, core := c.Within(profile.Full).Overlays[overlay].Components, c.Within(profile.Core).Overlays[overlay].Components
		if len(core) >= len(all) || !slices.Contains(core, "nats") {
			t.Errorf("%s: core is %v of %v", overlay, core, all)
		}
		selected, err := c.Within(profile.Core).Select(overlay, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, component := range selected {
			if !slices.Contains(core, component.Name) {
				t.Errorf("%s: core needs %s, which is of a larger profile", overlay, component.Name)
			}
		}
	}
}
