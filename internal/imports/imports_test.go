package imports

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/orrery-dev/orrery/"

// pure packages import nothing else than this: they are functions of what they are given, or
// read files (os).
var pure = map[string]string{
	"catalog": "internal/profile internal/reference internal/spelling go.yaml.in/yaml/v3 bytes cmp errors fmt io io/fs maps os path path/filepath reflect regexp slices strconv strings time",
	"plan":    "internal/catalog internal/profile internal/spec errors fmt reflect slices strings",
	"spec":    "internal/profile internal/reference internal/spelling go.yaml.in/yaml/v3 bytes cmp embed encoding/binary errors fmt io math net/netip os path/filepath reflect regexp slices strconv strings",
}

// rules say what the files of other packages must not import: paths with all below them,
// "ours" for this module, "others" for all but the standard library.
var rules = []struct{ packages, not, why string }{
	{"atomicfile beneath disk filelock golden mirror proc profile reference spelling statedir ui", "ours", "what everything may use uses nothing"},
	{"authority", "ours k8s.io", "it makes certificates, and knows no cluster"},
	{"failure", "ours", "everything may say whose an error is"},
	{"supply", "internal/environment internal/engine internal/driver internal/kube internal/console", "it knows no environment and no cluster"},
	{"environment", "internal/app internal/console internal/driver/native github.com/spf13/cobra", "it knows no verb, and drivers only by their kind"},
	{"app", "internal/engine", "it parses, calls and prints"},
	{"check", "ours", "drivers, kube and tests share it"},
	{"check/smoke", "internal/driver/native", "what a check says must be true on every driver"},
	{"check/jobline", "os net k8s.io internal/kube", "it is pure"},
	{"absent", "ours others", "it is pinned by what it imports, and compiled where a program leaves modules out"},
	{"clangcache", "ours others", "programs of nodes are pinned by what they import"},
	{"natsjwt", "ours net os os/exec k8s.io", "it is pure"},
	{"dashboard", "net os/exec k8s.io internal/observe internal/kube", "it is pure"},
	{"lock", "os/exec net internal/build internal/image internal/app", "it reads, writes and compares"},
	{"sbom licence", "os/exec net", "it never looks at the world"},
	{"oci", "ours os/exec net", "formats only: requests are handed to it"},
	{"audit", "ours os os/exec net k8s.io", "it judges what it is given"},
	{"gitops", "ours os os/exec net k8s.io/client-go", "it computes, and asks nobody"},
	{"ci", "internal/environment internal/engine internal/driver internal/kube internal/supply net", "it runs programs, and knows no environment"},
	{"build", "internal/image internal/oci internal/kube internal/engine internal/driver", "it makes programs, and knows no image and no environment"},
	{"image", "internal/kube internal/engine internal/driver", "it knows no environment"},
	{"bundle", "internal/kube internal/engine internal/driver os/exec", "it packs, and runs no program"},
	{"driver driver/native", "internal/catalog internal/kube internal/check/smoke k8s.io/client-go", "a driver knows no component"},
	{"driver/existing", "internal/catalog internal/check/smoke internal/environment internal/supply k8s.io/client-go/dynamic", "a driver knows no component; the API is all that this one has to look at, so that it may use internal/kube"},
	{"driver/k3d", "internal/catalog internal/check/smoke internal/environment internal/supply internal/driver/native k8s.io/client-go/dynamic", "a driver knows no component, and this one is for machines that are not Linux too"},
	{"driver/k3d/node", "internal/catalog internal/kube internal/environment internal/supply k8s.io", "it is what runs in a node"},
	{"driver/k3d/contract", "ours others", "both ends share it"},
	{"driver/fake", "internal/catalog internal/check/smoke internal/driver/native internal/app k8s.io/client-go", "a driver knows no component"},
	{"engine", "internal/catalog internal/kube internal/driver/native", "actions are handed to it"},
	{"kube", "internal/driver internal/engine internal/build internal/image", "a kubeconfig is all that it is given"},
	{"kube/kubetest", "ours", "the tests of whoever talks to a cluster may use it"},
	{"bundle/bundletest", "internal/app internal/kube internal/driver internal/engine os/exec", "it packs, and runs no program"},
	{"observe", "internal/kube internal/driver github.com/prometheus github.com/grafana", "it asks over HTTP"},
	{"flow", "internal/kube internal/driver internal/catalog", "it knows no cluster"},
	{"console", "internal/kube internal/driver", "functions are handed to it"},
}

// foreign are packages that the command line must not be linked with, also not by way of
// others.
var foreign = map[string]string{
	module + "internal/kube/kubetest":      "it is for tests",
	module + "internal/driver/fake":        "it is for tests",
	module + "internal/driver/drivertest":  "it is for tests",
	module + "internal/bundle/bundletest":  "it is for tests",
	"k8s.io/client-go/kubernetes":          "the typed clientset costs compile time (ADR 0004)",
	"helm.sh/helm/v4":                      "it brings the typed clientset (ADR 0004)",
	"google.golang.org/grpc":               "Hubble and collectors are executed or asked over HTTP (ADR 0024)",
	"go.opentelemetry.io":                  "it is not needed to read telemetry",
	"github.com/cilium/cilium":             "it is executed (ADR 0024)",
	"github.com/sigstore":                  "its formats are small, its SDKs are not (ADR 0012)",
	"k8s.io/client-go/informers":           "the dynamic client is enough (ADR 0004)",
	"k8s.io/client-go/applyconfigurations": "the dynamic client is enough (ADR 0004)",
}

func TestRules(t *testing.T) {
	imports := map[string][]string{}
	for _, line := range list(t, "./internal/...", `{{.ImportPath}} {{join .Imports " "}}`) {
		pkg, all, _ := strings.Cut(line, " ")
		imports[strings.TrimPrefix(pkg, module+"internal/")] = strings.Fields(all)
	}
	for pkg, only := range pure {
		for _, path := range imports[pkg] {
			if !slices.Contains(strings.Fields(only), strings.TrimPrefix(path, module)) {
				t.Errorf("internal/%s imports %s: it is pure, and imports only %s", pkg, path, only)
			}
		}
	}
	for _, rule := range rules {
		for _, pkg := range strings.Fields(rule.packages) {
			if _, ok := imports[pkg]; !ok {
				t.Errorf("there is no package internal/%s", pkg)
			}
			for _, path := range imports[pkg] {
				for _, not := range strings.Fields(rule.not) {
					if forbids(not, path) {
						t.Errorf("internal/%s imports %s: %s", pkg, path, rule.why)
					}
				}
			}
		}
	}
}

func forbids(rule, path string) bool {
	switch rule {
	case "ours":
		return strings.HasPrefix(path, module)
	case "others":
		first, _, _ := strings.Cut(path, "/")
		return strings.Contains(first, ".")
	case "net": // net/netip and net/url are fine
		return path == "net" || path == "net/http"
	}
	return within(strings.TrimPrefix(path, module), rule)
}

// within: path is that package or below it.
func within(path, of string) bool { return path == of || strings.HasPrefix(path, of+"/") }

func TestLinked(t *testing.T) {
	linked := list(t, "./cmd/orrery", "{{.ImportPath}}", "-deps")
	for _, path := range linked {
		for of, why := range foreign {
			if within(path, of) && path != "k8s.io/client-go/kubernetes/scheme" { // Helm's engine names all kinds
				t.Errorf("cmd/orrery is linked with %s: %s", path, why)
			}
		}
	}
	if len(linked) < 100 {
		t.Errorf("only %d packages were looked at", len(linked))
	}
}

// list runs go list at the root of the repository.
func list(t *testing.T, pattern, format string, flags ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"list", "-f", format}, flags...), pattern)...)
	cmd.Dir = "../.."
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
