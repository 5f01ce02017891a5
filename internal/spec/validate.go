package spec

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/orrery-dev/orrery/internal/profile"
	"github.com/orrery-dev/orrery/internal/reference"

	"github.com/orrery-dev/orrery/internal/spelling"
)

// Limits of an environment.
const (
	maxNameLength = 20
	maxNodes      = 50
	minMemory     = 512 << 20
)

// FieldError is one thing that is wrong with a file.
type FieldError struct {
	File    string // empty for an environment that came from no file
	Line    int    // 1-based; 0 when not known
	Path    string // such as network.pods or zones[1]; empty for the whole document
	Message string // what would be right
}

func (e *FieldError) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteString(": ")
	}
	if e.Path != "" {
		fmt.Fprintf(&b, "spec path `%s`: ", e.Path)
	}
	b.WriteString(e.Message)
	return b.String()
}

var (
	label     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	nameLabel = regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)
	quantity  = regexp.MustCompile(`^([0-9]{1,15}(?:\.[0-9]{1,3})?)(Ki|Mi|Gi|Ti|k|M|G|T|)$`)
)

// Validate checks every field and the relations between them. The error joins one
// [FieldError] for each finding.
func (e *Environment) Validate() error {
	c := &collector{}
	e.validate(c)
	return errors.Join(c.errs...)
}

// collector gathers field errors.
type collector struct{ errs []error }

func (c *collector) add(path, format string, a ...any) {
	c.errs = append(c.errs, &FieldError{Path: path, Message: fmt.Sprintf(format, a...)})
}

func (c *collector) oneOf(path, got string, want ...string) {
	if slices.Contains(want, got) {
		return
	}
	c.add(path, "want %s, got %q%s", list(want), got, near(got, want))
}

func (e *Environment) validate(c *collector) {
	e.validateHeader(c)
	if len(e.Name) > maxNameLength || !nameLabel.MatchString(e.Name) {
		c.add("name", "want at most %d lower case letters, digits and \"-\","+
			" beginning with a letter and not ending in \"-\", such as %q; got %q", maxNameLength, DefaultName, e.Name)
	}
	// Which drivers and overlays there are, this orrery and the catalogue know.
	form(c, "driver", e.Driver, "a driver such as native or existing")
	e.validateExisting(c)
	e.validateK3d(c)
	e.validateNodes(c)
	e.validateNetwork(c)
	c.oneOf("durability", string(e.Durability), string(DurabilityFull), string(DurabilityFast))
	e.validatePorts(c)
	form(c, "overlay", e.Overlay, "a folder of infra/k8s/overlays such as local")
	if e.Profile != "" {
		c.oneOf("profile", e.Profile, profile.All()...)
		if len(e.Components) > 0 {
			c.add("profile", "components lists what to deploy one by one; leave one of the two out")
		}
	}
	unique(c, "components", e.Components, "a component such as nats")
	e.validateImages(c)
	c.oneOf("gitops.source", e.GitOps.Source, GitOpsOCI, GitOpsGit)
}

func (e *Environment) validateExisting(c *collector) {
	x := e.Existing
	switch {
	case e.Driver != DriverExisting && x != nil:
		c.add("existing", "is for driver: existing, and the driver is %q; leave one of them out", e.Driver)
	case e.Driver != DriverExisting:
	case x == nil:
		c.add("existing", "want the cluster that driver: existing deploys to: kubeconfig (a file) and context (a name in it)")
	default:
		if x.Kubeconfig == "" {
			c.add("existing.kubeconfig", "want the file that the cluster is reached with, relative to orrery.yaml; got nothing")
		}
		if x.Context == "" {
			c.add("existing.context", "want a context of existing.kubeconfig, got nothing; the current one is never assumed")
		}
		unique(c, "existing.provides", x.Provides, "a component such as coredns")
		if e.Images.Registry == "" {
			c.add("images.registry", "want the registry that the cluster pulls from,"+
				" such as registry.example.org/platform; 'orrery images push' fills it")
		}
	}
}

func (e *Environment) validateK3d(c *collector) {
	if e.K3d == nil {
		return
	}
	if e.Driver != DriverK3d {
		c.add("k3d", "is for driver: k3d, and the driver is %q; leave one of them out", e.Driver)
	}
	for field, ref := range map[string]string{"k3d.image": e.K3d.Image, "k3d.loadBalancer": e.K3d.LoadBalancer, "k3d.tools": e.K3d.Tools} {
		if ref == "" {
			continue
		}
		if _, err := reference.ParsePinned(ref); err != nil {
			c.add(field, "%v", err)
		}
	}
}

func (e *Environment) validateHeader(c *collector) {
	if e.APIVersion != APIVersion {
		switch {
		case e.APIVersion == "":
			c.add("apiVersion", "want %s, got nothing; every orrery.yaml begins with it", APIVersion)
		case strings.HasPrefix(e.APIVersion, "orrery.dev/"):
			c.add("apiVersion", "this orrery reads %s, the file says %q;"+
				" use the orrery that the file was written for, or write it as %s", APIVersion, e.APIVersion, APIVersion)
		default:
			c.add("apiVersion", "want %s, got %q", APIVersion, e.APIVersion)
		}
	}
	if e.Kind != Kind {
		c.add("kind", "want %s, got %q", Kind, e.Kind)
	}
}

func (e *Environment) validateNodes(c *collector) {
	agents := e.AgentCount()
	switch {
	case e.Servers == 1, e.Servers == 3, e.Servers == 5, e.Servers == 7:
	case e.Servers <= 0:
		c.add("servers", "want 1, 3, 5 or 7, got %d; a cluster needs a server to run its control plane", e.Servers)
	case e.Servers > 7:
		c.add("servers", "want 1, 3, 5 or 7, got %d; more etcd members make every write slower; add agents instead", e.Servers)
	default: // 2, 4, 6
		c.add("servers", "want 1, 3, 5 or 7, got %d; an even number survives no more failures than %d (a majority of %d is %d), so say %d or %d",
			e.Servers, e.Servers-1, e.Servers, e.Servers/2+1, e.Servers-1, e.Servers+1)
	}
	if agents < 0 {
		c.add("agents", "want 0 or more, got %d", agents)
	}
	if e.Servers > 0 && agents > 0 && (agents > maxNodes || e.Servers+agents > maxNodes) {
		c.add("agents", "want at most %d nodes in all, got %d servers and %d agents", maxNodes, e.Servers, agents)
	}
	if len(e.Zones) == 0 {
		c.add("zones", "want at least one zone, such as [a, b, c]; leave the field out for the default")
	}
	unique(c, "zones", e.Zones, "a zone such as a")
	if m := e.Node.Memory; m != "" {
		if b, ok := parseQuantity(m); !ok {
			c.add("node.memory", "want a quantity such as 4Gi or 512Mi, got %q", m)
		} else if b < minMemory {
			c.add("node.memory", "want at least 512Mi, or the kubelet evicts what the platform needs; got %q", m)
		}
	}
}

func (e *Environment) validateNetwork(c *collector) {
	n := &e.Network
	switch e.Driver {
	case DriverExisting:
		c.oneOf("network.plugin", n.Plugin, PluginAuto, PluginCluster, PluginCilium)
	case DriverK3d:
		c.oneOf("network.plugin", n.Plugin, PluginAuto, PluginRoutes, PluginCilium)
		if n.Egress {
			c.add("network.egress", "nodes that are containers take their pods nowhere: leave it out with driver: k3d")
		}
		if e.Durability == DurabilityFast {
			c.add("durability", "is full with driver: k3d; leave it out")
		}
	default:
		c.oneOf("network.plugin", n.Plugin, PluginAuto, PluginCilium, PluginPTP)
	}
	total := max(e.Servers, 0) + max(e.AgentCount(), 0)
	ranges := []struct {
		field, cidr, example string
		prefix               netip.Prefix
	}{
		{field: "network.nodes", cidr: n.Nodes, example: "10.89.0.0/24"},
		{field: "network.pods", cidr: n.Pods, example: "10.244.0.0/16"},
		{field: "network.services", cidr: n.Services, example: "10.96.0.0/16"},
	}
	for i := range ranges {
		r := &ranges[i]
		p, err := netip.ParsePrefix(r.cidr)
		if err != nil || !p.Addr().Is4() {
			c.add(r.field, "want an IPv4 CIDR such as %s, got %q", r.example, r.cidr)
			continue
		}
		if p != p.Masked() {
			c.add(r.field, "want the first address of the range, %s, got %q", p.Masked(), r.cidr)
			continue
		}
		if why := unusable(p); why != "" {
			c.add(r.field, "want a private range such as %s, got %q, which holds %s", r.example, r.cidr, why)
			continue
		}
		r.prefix = p
	}
	if p := ranges[0].prefix; p.IsValid() && (p.Bits() > 24 || p.Bits() < 8) {
		c.add("network.nodes", "want /8 to /24, got %q; the nodes' addresses begin at the eleventh", n.Nodes)
	}
	if p := ranges[1].prefix; p.IsValid() {
		switch {
		case p.Bits() < 8:
			c.add("network.pods", "want /8 or smaller, got %q", n.Pods)
		case p.Bits() > 24 || 1<<(24-p.Bits()) < min(total, maxNodes):
			c.add("network.pods", "want room for a /24 for each of %d nodes (/%d or larger), got %q", total, podBits(total), n.Pods)
		}
	}
	if p := ranges[2].prefix; p.IsValid() && (p.Bits() < 12 || p.Bits() > 24) {
		c.add("network.services", "want /12 to /24 (the API server takes no larger range), got %q", n.Services)
	}
	for i, a := range ranges {
		for _, b := range ranges[:i] {
			if a.prefix.IsValid() && b.prefix.IsValid() && a.prefix.Overlaps(b.prefix) {
				c.add(a.field, "%s overlaps %s (%s); want ranges that share no address", a.cidr, b.field, b.cidr)
			}
		}
	}
}

func (e *Environment) validatePorts(c *collector) {
	for _, p := range []struct {
		field string
		port  int
	}{{"ports.api", e.Ports.API}, {"ports.registry", e.Ports.Registry}} {
		if p.port != 0 && (p.port < 1024 || p.port > math.MaxUint16) {
			c.add(p.field, "want 1024 to 65535, or 0 for a free one, got %d", p.port)
		}
	}
	if e.Ports.API != 0 && e.Ports.API == e.Ports.Registry {
		c.add("ports.registry", "%d is ports.api too; want another, or 0 for a free one", e.Ports.API)
	}
}

func (e *Environment) validateImages(c *collector) {
	i := &e.Images
	if len(i.Sources) == 0 {
		c.add("images.sources", "want at least one of bundle, registry and source; leave the field out for the default")
	}
	for n, s := range i.Sources {
		c.oneOf(fmt.Sprintf("images.sources[%d]", n), s, SourceBundle, SourceRegistry, SourceSource)
	}
	duplicates(c, "images.sources", i.Sources)
	if i.Registry != "" {
		if err := reference.ParsePrefix(i.Registry); err != nil {
			c.add("images.registry", "%v", err)
		}
	}
	for n, mirror := range i.Files {
		if !mirrorForm.MatchString(mirror) {
			c.add(fmt.Sprintf("images.files[%d]", n), "want https://HOST[:PORT][/PATH] without a query (http only of 127.0.0.1), got %q", mirror)
		}
	}
	duplicates(c, "images.files", i.Files)
	c.oneOf("images.verify", string(i.Verify), string(VerifyEnforce), string(VerifyWarn))
	for n, file := range i.TrustedKeys {
		if file == "" {
			c.add(fmt.Sprintf("images.trustedKeys[%d]", n), "want a PEM file with a public key, got nothing")
		}
	}
	duplicates(c, "images.trustedKeys", i.TrustedKeys)
	for n, builder := range i.Builders {
		if !uriForm.MatchString(builder) {
			c.add(fmt.Sprintf("images.builders[%d]", n), "want the URI that a provenance names its builder by,"+
				" such as https://orrery.dev/builder/local, got %q", builder)
		}
	}
	duplicates(c, "images.builders", i.Builders)
	for n, ref := range i.Allow {
		if _, err := reference.ParsePinned(ref); err != nil {
			c.add(fmt.Sprintf("images.allow[%d]", n), "%v", err)
		}
	}
	duplicates(c, "images.allow", i.Allow)
	if p := i.Password; p != nil {
		if p.SOPS == "" {
			c.add("images.password.sops", "want the file that SOPS encrypted, got nothing;"+
				" leave images.password out for a password in the kernel's keyring")
		}
		if p.Key == "" {
			c.add("images.password.key", "want the name of the value in images.password.sops, got nothing")
		}
	}
}

// mirrorForm is a web server's folder.
var mirrorForm = regexp.MustCompile(`^(https://[A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?|http://127\.0\.0\.1)(:[0-9]{1,5})?(/[A-Za-z0-9._~%+-]+)*/?$`)

// uriForm is as much of RFC 3986 as tells a URI from a name.
var uriForm = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:[^\s<>"]+$`)

// unusable names the special addresses that p holds.
func unusable(p netip.Prefix) string {
	for _, s := range []struct{ cidr, name string }{
		{"0.0.0.0/8", "\"this network\" (0.0.0.0/8)"},
		{"127.0.0.0/8", "loopback addresses (127.0.0.0/8)"},
		{"169.254.0.0/16", "link-local addresses (169.254.0.0/16)"},
		{"224.0.0.0/3", "multicast or reserved addresses (224.0.0.0/3)"},
	} {
		if p.Overlaps(netip.MustParsePrefix(s.cidr)) {
			return s.name
		}
	}
	return ""
}

// podBits is the prefix length that has a /24 for each of n nodes.
func podBits(n int) int {
	bits := 24
	for 1<<(24-bits) < n && bits > 0 {
		bits--
	}
	return bits
}

// form checks a name that only others know to be right.
func form(c *collector, path, v, want string) {
	if len(v) > 63 || !label.MatchString(v) {
		c.add(path, "want %s: lower case letters, digits and \"-\", at most 63; got %q", want, v)
	}
}

func unique(c *collector, path string, values []string, want string) {
	for i, v := range values {
		form(c, fmt.Sprintf("%s[%d]", path, i), v, want)
	}
	duplicates(c, path, values)
}

func duplicates(c *collector, path string, values []string) {
	for i, v := range values {
		if first := slices.Index(values, v); first < i {
			c.add(fmt.Sprintf("%s[%d]", path, i), "%q is already at %s[%d]; name it once", v, path, first)
		}
	}
}

// parseQuantity reads the part of a Kubernetes quantity that makes sense for memory.
func parseQuantity(s string) (int64, bool) {
	m := quantity.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, false
	}
	v *= map[string]float64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}[m[2]]
	if v >= math.MaxInt64 {
		return 0, false
	}
	return int64(v), true
}

func list(want []string) string {
	q := make([]string, len(want))
	for i, w := range want {
		q[i] = strconv.Quote(w)
	}
	if len(q) == 1 {
		return q[0]
	}
	return strings.Join(q[:len(q)-1], ", ") + " or " + q[len(q)-1]
}

// near suggests the word of want that got was probably meant to be, or nothing.
func near(got string, want []string) string {
	if best := spelling.Nearest(got, want); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}
