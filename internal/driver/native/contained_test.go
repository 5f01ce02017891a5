package native

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/beneath"
	"github.com/orrery-dev/orrery/internal/driver"
)

// Who has another token is not let in, and is not told anything either.
func TestOnlyWhoHasTheTokenIsLetIn(t *testing.T) {
	ours, err := tokenTLS("right")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("in")) }))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.TLS = ours
	server.StartTLS()
	defer server.Close()
	for token, want := range map[string]bool{"right": true, "wrong": false} {
		secure, err := tokenTLS(token)
		if err != nil {
			t.Fatal(err)
		}
		r, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: secure}}).Get(server.URL)
		if (err == nil) != want {
			t.Errorf("token %s: %v", token, err)
		}
		if err == nil {
			r.Body.Close()
		}
	}
	// Nor a client that looks away when the server shows another key, nor one without any.
	wrong, err := tokenTLS("wrong")
	if err != nil {
		t.Fatal(err)
	}
	for _, pairs := range [][]tls.Certificate{wrong.Certificates, nil} {
		careless := &tls.Config{InsecureSkipVerify: true, Certificates: pairs} //nolint:gosec // that is the point
		if r, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: careless}}).Get(server.URL); err == nil {
			r.Body.Close()
			t.Error("a client without the token was let in")
		}
	}
	if _, err := tokenTLS(""); err == nil {
		t.Error("no token is a token")
	}
}

func TestAgentsGetWhatIsTheirs(t *testing.T) {
	p := paths(t.TempDir())
	c := Contained{Environment: "x", State: string(p), Name: "s0", Address: netip.MustParseAddr("10.0.0.2"), Server: true, Zone: "a", Rack: "a",
		Pods: netip.MustParsePrefix("10.42.0.0/16"), Services: netip.MustParsePrefix("10.43.0.0/16"), DNS: netip.MustParseAddr("10.43.0.10"),
		Names: []string{"k3d-x-serverlb"}, Log: slog.New(slog.DiscardHandler)}
	all, fresh, err := c.know(t.Context(), p)
	if err != nil || !fresh {
		t.Fatalf("the first server: fresh %v, %v", fresh, err)
	}
	cert, _, _, err := loadPair(p.nodeEtc("s0", "kubernetes", "pki", "apiserver"))
	if err != nil || !slices.Contains(cert.DNSNames, "k3d-x-serverlb") {
		t.Errorf("names of the API server: %v, %v", cert, err)
	}
	// What an agent is sent, without etcd: credentials for one node out of the server's authorities.
	one := all.cluster
	one.Nodes = []node{{Name: "a0", Role: driver.RoleAgent, Address: netip.MustParseAddr("10.0.0.9")}}
	if err := credentials(&issuer{now: time.Now}, p, one, allotted{}); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(p.nodeEtc("a0", "kubernetes", "pki", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f))
	}
	if want := []string{"ca.crt", "kube-proxy.crt", "kube-proxy.key", "kubelet.crt", "kubelet.key"}; !slices.Equal(names, want) {
		t.Errorf("an agent gets %v, want %v: no authority's key, and nobody else's", names, want)
	}
	// A second start knows the cluster, and refuses another address once there is data.
	if again, _, err := c.know(t.Context(), p); err != nil || again.Environment != "x" || len(again.Nodes) != 1 {
		t.Errorf("again: %+v, %v", again, err)
	}
	if err := os.MkdirAll(p.etcd(node{Name: "s0"}), 0o700); err != nil {
		t.Fatal(err)
	}
	c.Address = netip.MustParseAddr("10.0.0.3")
	if _, _, err := c.know(t.Context(), p); err == nil || !strings.Contains(err.Error(), "10.0.0.2") {
		t.Errorf("a member of etcd at another address: %v", err)
	}
}

// What an audit reads of a node is in its place: nothing is read of what a node has behind a link.
func TestContainedLaysNoLinksWhereAnAuditLooks(t *testing.T) {
	if os.Getenv("ORRERY_TEST_PART") != "lay" {
		if os.Geteuid() != 0 {
			t.Skip("needs root: it mounts")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestContainedLaysNoLinksWhereAnAuditLooks$", "-test.v")
		cmd.Env = append(os.Environ(), "ORRERY_TEST_PART=lay")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	b := &rootBuilder{root: "/"}
	b.do("private", func() error { return syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "") })
	for _, d := range []string{"/etc", "/opt", "/run", "/var"} {
		b.mount("tmpfs", d, "tmpfs", 0, "mode=755")
	}
	if b.err != nil {
		t.Fatal(b.err)
	}
	c := Contained{Environment: "x", State: "/var/lib/orrery", Name: "s0", Address: netip.MustParseAddr("10.0.0.2"), Server: true,
		Pods: netip.MustParsePrefix("10.42.0.0/16"), Services: netip.MustParsePrefix("10.43.0.0/16"), DNS: netip.MustParseAddr("10.43.0.10"),
		Log: slog.New(slog.DiscardHandler)}
	p := paths(c.State)
	all, _, err := c.know(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := all.node(c.Name)
	if err := c.lay(p, n, all); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{nodePKI + atRestConfig, "/etc/containerd/config.toml"} {
		f, err := beneath.Open("/", file, os.O_RDONLY, 0)
		if err != nil {
			t.Error(err)
			continue
		}
		f.Close()
		if err := os.WriteFile(file, nil, 0o600); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s can be written to: %v", file, err)
		}
	}
	for _, dir := range []string{cniFolder, "/var/lib/etcd"} {
		if err := os.WriteFile(dir+"/x", nil, 0o600); err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Lstat("/var/lib/etcd"); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("etcd's folder: %v, %v", info, err)
	}
}

func TestServersOfMembers(t *testing.T) {
	got, err := serversOf([]member{{Name: "s0", PeerURLs: []string{"https://10.0.0.2:2380"}}, {PeerURLs: []string{"https://10.0.0.3:2380"}}})
	if err != nil || len(got) != 1 || got[0].Address != netip.MustParseAddr("10.0.0.2") || !got[0].server() {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := serversOf([]member{{Name: "s0", PeerURLs: []string{"https://s0:2380"}}}); err == nil {
		t.Error("a member at a name has no address")
	}
}

func TestWantedRoutes(t *testing.T) {
	var list nodeList
	if err := json.Unmarshal([]byte(`{"items":[
		{"metadata":{"name":"me"},"spec":{"podCIDR":"10.42.0.0/24"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.2"}]}},
		{"metadata":{"name":"other"},"spec":{"podCIDR":"10.42.1.0/24"},"status":{"addresses":[{"type":"Hostname","address":"x"},{"type":"InternalIP","address":"10.0.0.3"}]}},
		{"metadata":{"name":"young"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.4"}]}},
		{"metadata":{"name":"greedy"},"spec":{"podCIDR":"0.0.0.0/0"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.5"}]}},
		{"metadata":{"name":"strange"},"spec":{"podCIDR":"192.0.2.0/24"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.6"}]}},
		{"metadata":{"name":"wide"},"spec":{"podCIDR":"10.0.0.0/8"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.7"}]}},
		{"metadata":{"name":"nowhere"},"spec":{"podCIDR":"10.42.3.0/24"}}]}`), &list); err != nil {
		t.Fatal(err)
	}
	routes, own := wantedRoutes(list.Items, "me", netip.MustParsePrefix("10.42.0.0/16"))
	want := map[netip.Prefix]netip.Addr{netip.MustParsePrefix("10.42.0.0/24"): {}, netip.MustParsePrefix("10.42.1.0/24"): netip.MustParseAddr("10.0.0.3")}
	if own != netip.MustParsePrefix("10.42.0.0/24") || !maps.Equal(routes, want) {
		t.Errorf("own %s, routes %v", own, routes)
	}
}

// A watch that is refused again and again is not asked for without a pause.
func TestFollowNodesPauses(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Query().Has("watch") {
			http.Error(w, "not you", http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, `{"items": [{"metadata": {"name": "me"}}]}`)
	}))
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	told := 0
	err := followNodes(ctx, server.Client(), server.URL, func(nodes []listedNode) error { told += len(nodes); return nil })
	if err == nil || !strings.Contains(err.Error(), "not you") || told == 0 {
		t.Errorf("%d nodes, %v", told, err)
	}
	if n := asked.Load(); n > 8 {
		t.Errorf("asked %d times in a second", n)
	}
}

// A container sees a part of each hierarchy, and has it as a whole once it has a view of its own.
func TestContainedCgroups(t *testing.T) {
	v1 := "30 20 0:26 /docker/abc /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n31 20 0:27 /docker/abc /sys/fs/cgroup/systemd ro - cgroup cgroup rw,name=systemd\n1 0 0:1 / / rw - overlay overlay rw\n"
	cg, err := parseContainedCgroups(v1)
	if err != nil || len(cg.V1) != 2 || cg.V1[0] != (hierarchy{"/sys/fs/cgroup/memory", "memory"}) {
		t.Errorf("%+v, %v", cg, err)
	}
	cg, err = parseContainedCgroups("30 20 0:26 /system.slice/docker-abc.scope /sys/fs/cgroup rw - cgroup2 cgroup rw\n")
	if err != nil || !cg.v2() || cg.Unified != "/sys/fs/cgroup" {
		t.Errorf("%+v, %v", cg, err)
	}
}

// The plugin that hands out ranges comes with the range, and what a deployed network brings is left to it.
func TestAllottedFiles(t *testing.T) {
	c := testCluster(t)
	n := c.Nodes[0]
	for name, x := range map[string]struct {
		net  allotted
		cidr netip.Prefix
		want bool
	}{
		"no range yet": {allotted{}, netip.Prefix{}, false}, "a range": {allotted{}, n.PodCIDR, true}, "another network": {allotted{unconnected: true}, n.PodCIDR, false},
	} {
		n.PodCIDR = x.cidr
		files, err := x.net.files(c, n)
		if _, has := files[cniFile]; err != nil || has != x.want {
			t.Errorf("%s: %v, %v", name, has, err)
		}
	}
	if s := (allotted{unproxied: true}).services(c, n); s != nil {
		t.Errorf("kube-proxy runs where another network serves Services: %v", s)
	}
}
