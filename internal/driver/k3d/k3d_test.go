package k3d

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/orrery-dev/orrery/infra"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/drivertest"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/spec"
)

func environment(name string) spec.Environment {
	e := spec.Named(name)
	e.Driver, e.Network.Plugin, e.Ports = spec.DriverK3d, spec.PluginRoutes, spec.Ports{API: 16443, Registry: 15000}
	return e
}

func decode(t *testing.T, b []byte) object {
	t.Helper()
	var o object
	if err := yaml.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// The file says of the default environment what orrery.yaml does: who looks at it sees what is made.
func TestTheFileIsTheDefaultEnvironment(t *testing.T) {
	file := decode(t, infra.K3dConfig)
	made, err := configuration(wish{spec: environment("local"), nodeImage: "orrery/node:1", sandbox: "s", id: "i", token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	got := decode(t, made)
	for _, same := range []string{"apiVersion", "kind", "servers", "agents", "kubeAPI", "subnet"} {
		if !reflect.DeepEqual(file[same], got[same]) {
			t.Errorf("%s: the file has %v, orrery.yaml %v", same, file[same], got[same])
		}
	}
	labels := func(o object) map[string]any {
		m := map[string]any{}
		for _, l := range list(child(child(o, "options"), "k3s")["nodeLabels"]) {
			name, _ := l["label"].(string)
			m[name] = l["nodeFilters"]
		}
		return m
	}
	if a, b := labels(file), labels(got); !reflect.DeepEqual(a, b) {
		t.Errorf("labels of nodes:\nfile %v\nmade %v", a, b)
	}
	if image, _ := file["image"].(string); !strings.Contains(image, "@sha256:") {
		t.Errorf("image %q is not pinned", image)
	}
}

func TestConfiguration(t *testing.T) {
	e := environment("demo")
	agents := 0
	e.Servers, e.Agents, e.Node.Memory = 1, &agents, "2Gi"
	b, err := configuration(wish{spec: e, nodeImage: "orrery/node:1", sandbox: "pause@x", id: "i", token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{
		"name: orrery-demo", "image: orrery/node:1", "--cluster-cidr=10.244.0.0/16", "--cluster-dns=10.96.0.10", "orrery.dev/id=i", "token: t",
		"http://k3d-orrery-demo-mirror:5000", "serversMemory: 2048m", "--pause-image=pause@x", "disableRollback: true",
		"--disable-network-policy", "--node-name=server1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in it:\n%s", want, text)
		}
	}
	for _, unwanted := range []string{"--flannel-backend=none", "--disable-kube-proxy", "agent:", "create:"} {
		if strings.Contains(text, unwanted) {
			t.Errorf("%q is in it:\n%s", unwanted, text)
		}
	}
	// Cilium's agents are pods: nodes bring neither network nor proxy, and share what is compiled.
	e.Network.Plugin = spec.PluginCilium
	if b, err = configuration(wish{spec: e}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--flannel-backend=none", "--disable-kube-proxy", "--node-name=server1", "orrery-objects:/var/lib/orrery-objects"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is not in it:\n%s", want, b)
		}
	}
	if _, err := configure([]byte("a: ["), wish{spec: e}); err == nil {
		t.Error("a damaged file is taken")
	}
}

func TestImages(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"bin/k3s": "program", "bin/cni/ptp": "plugin", "busybox/bin/busybox": "busybox", "nft/bin/nft": "nft", "nft/lib/libc.so.6": "c",
		"nft/lib/ld-linux-x86-64.so.2": "loader", "nft/doc/nftables/copyright": "licence", "busybox/doc/busybox/copyright": "licence",
	} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	var first []byte
	for range 2 {
		i, err := nodeImage(driver.Dist(dir), "amd64")
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := i.save(&b); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = b.Bytes()
		}
		if !bytes.Equal(first, b.Bytes()) {
			t.Fatal("the same files make another image")
		}
		// Times of files are not the image's, nor what a umask takes.
		program := filepath.Join(dir, "bin", "k3s")
		if err := errors.Join(os.Chtimes(program, time.Unix(0, 0), time.Unix(0, 0)), os.Chmod(program, 0o700), os.Chmod(filepath.Join(dir, "nft", "lib"), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	names := map[string]string{}
	outer := tar.NewReader(bytes.NewReader(first))
	for {
		h, err := outer.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(h.Name, "layer.tar") {
			continue
		}
		inner := tar.NewReader(outer)
		for {
			h, err := inner.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, twice := names[h.Name]; twice && h.Typeflag != tar.TypeDir {
				t.Errorf("%s is there twice", h.Name)
			}
			names[h.Name] = h.Linkname
		}
	}
	for name, link := range map[string]string{
		"bin/k3s": "/opt/orrery/bin/k3s", "bin/sh": "busybox", "bin/busybox": "", "opt/orrery/bin/cni/ptp": "", "lib64/ld-linux-x86-64.so.2": "/lib/ld-linux-x86-64.so.2",
		"usr/sbin/nft": "", "usr/share/doc/nftables/copyright": "",
	} {
		if got, ok := names[name]; !ok || got != link {
			t.Errorf("%s: link %q, there: %v", name, got, ok)
		}
	}
	if _, err := nodeImage(driver.Dist(t.TempDir()), "amd64"); err == nil || !strings.Contains(err.Error(), "orrery up") {
		t.Errorf("without a distribution: %v", err)
	}
}

func TestJudgements(t *testing.T) {
	good := engineInfo{OSType: "linux", Architecture: "x86_64", CgroupVersion: "2"}
	with := func(change func(*engineInfo)) engineInfo { i := good; change(&i); return i }
	for name, c := range map[string]struct {
		got  check.Result
		want check.State
		says string
	}{
		"k3d":                {judgeK3d("k3d version v5.9.0\nk3s version v1.35.5-k3s1 (default)\n"), check.Succeeded, "v5.9.0"},
		"an old k3d":         {judgeK3d("k3d version v5.7.5\n"), check.Failed, "v5.8.0"},
		"a k3d of one's own": {judgeK3d("k3d version dev\n"), check.Skipped, "v5.8.0"},
		"engine":             {judgeEngine(good, "amd64"), check.Succeeded, "v2"},
		"another platform":   {judgeEngine(good, "arm64"), check.Failed, "x86_64"},
		"Windows":            {judgeEngine(with(func(i *engineInfo) { i.OSType = "windows" }), "amd64"), check.Failed, "Linux containers"},
		"rootless":           {judgeEngine(with(func(i *engineInfo) { i.SecurityOptions = []string{"name=rootless"} }), "amd64"), check.Skipped, "rootless"},
		"rootless on v1": {judgeEngine(with(func(i *engineInfo) {
			i.SecurityOptions, i.CgroupVersion = []string{"name=rootless"}, "1"
		}), "amd64"), check.Failed, "control groups v1"},
		"memory":          {judgeMemory(8<<30, 3, 2), check.Succeeded, ""},
		"too little":      {judgeMemory(2<<30, 3, 2), check.Failed, "give it more"},
		"inotify":         {judgeInotify(128, 10, 3, 2), check.Succeeded, ""},
		"too few of them": {judgeInotify(128, 50, 3, 2), check.Failed, "max_user_instances=266"},
	} {
		if c.got.State != c.want || !strings.Contains(c.got.Message, c.says) {
			t.Errorf("%s: %+v, want %s with %q", name, c.got, c.want, c.says)
		}
	}
}

// TestDecideNetwork: Cilium where the engine's kernel takes it, else routes, with the reason.
func TestDecideNetwork(t *testing.T) {
	for kernel, want := range map[string]string{
		"6.1.0-18-amd64": "cilium ", "5.10.16.3-microsoft-standard-WSL2": "cilium ",
		"4.19.0-27-amd64": "routes too old", "": "routes which kernel",
	} {
		engineOf(t, map[string]any{"/info": engineInfo{KernelVersion: kernel}})
		plugin, reason := decideNetwork(t.Context(), nil)
		if wanted, says, _ := strings.Cut(want, " "); plugin != wanted || !strings.Contains(reason, says) || (reason == "") != (says == "") {
			t.Errorf("kernel %q: %s, %q; want %s", kernel, plugin, reason, want)
		}
	}
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "none"))
	if plugin, reason := decideNetwork(t.Context(), nil); plugin != spec.PluginRoutes || !strings.Contains(reason, "no container engine answers") {
		t.Errorf("without an engine: %s, %q", plugin, reason)
	}
}

// engineOf answers as an engine would, on a socket.
func engineOf(t *testing.T, answers map[string]any) (deleted *[]string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	deleted = &[]string{}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, apiVersion)
		if r.Method == http.MethodDelete {
			*deleted = append(*deleted, path)
			return
		}
		key := path
		if f := r.URL.Query().Get("filters"); f != "" {
			var byLabel struct{ Label []string }
			_ = json.Unmarshal([]byte(f), &byLabel)
			key += " " + strings.Join(byLabel.Label, ",")
		}
		answer, ok := answers[key]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"message":"no such thing: `+key+`"}`)
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	return deleted
}

func newDriver(t *testing.T, e spec.Environment) *Driver {
	t.Helper()
	d, err := New(driver.Options{Spec: e, StateDir: filepath.Join(t.TempDir(), "state"), Journal: &drivertest.Journal{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A cluster of that name that somebody else made is never touched, and no answer says that it is ours.
func TestAClusterOfSomebodyElse(t *testing.T) {
	theirs := []object{{"Id": "x", "Names": []string{"/k3d-orrery-demo-server-0"}, "State": "running", "Labels": object{labelCluster: "orrery-demo", labelRole: "server"}}}
	deleted := engineOf(t, map[string]any{
		"/containers/json " + labelCluster + "=orrery-demo": theirs, "/containers/json " + labelID + "=mine": []object{}, "/containers/json " + labelEnvironment + "=demo": []object{},
		"/networks": []object{}, "/volumes": object{},
	})
	d := newDriver(t, environment("demo"))
	if err := d.Prepare(t.Context()); !failure.IsRefused(err) {
		t.Errorf("prepare: %v", err)
	}
	if _, err := os.Stat(d.StateDir); err == nil {
		t.Error("what was refused left a folder")
	}
	// Nor when an environment of that name was begun before.
	if err := errors.Join(os.MkdirAll(d.StateDir, 0o700), d.remember(memory{ID: "mine", Token: "t", Made: true})); err != nil {
		t.Fatal(err)
	}
	if o, err := d.Observe(t.Context()); err != nil || o.Phase != driver.PhasePartial || o.Nodes != nil {
		t.Errorf("observed %+v, %v", o, err)
	}
	for name, f := range map[string]func() error{
		"stop": func() error { return d.Stop(t.Context()) }, "kill": func() error { return d.KillNode(t.Context(), "server-0") },
		"stop a node": func() error { return d.StopNode(t.Context(), "server-0") },
	} {
		if err := f(); !failure.IsRefused(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r := d.checkName(t.Context()); r.State != check.Failed {
		t.Errorf("preflight: %+v", r)
	}
	if err := d.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if len(*deleted) > 0 {
		t.Errorf("deleted %v", *deleted)
	}
	if leaks, err := d.Audit(t.Context()); err != nil || leaks != nil {
		t.Errorf("audit: %v, %v", leaks, err)
	}
}

// Of an environment whose memory is damaged nothing is removed, since nothing says what is its own.
func TestADamagedMemory(t *testing.T) {
	deleted := engineOf(t, nil)
	d := newDriver(t, environment("demo"))
	if err := errors.Join(os.MkdirAll(d.StateDir, 0o700), os.WriteFile(d.path(record), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(t.Context()); err == nil || !strings.Contains(err.Error(), "k3d cluster delete orrery-demo") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(d.path(record)); err != nil || len(*deleted) > 0 {
		t.Errorf("%v, deleted %v", err, *deleted)
	}
}

func TestARemovedContainerIsNamed(t *testing.T) {
	e := environment("demo")
	agents := 0
	e.Servers, e.Agents = 1, &agents
	engineOf(t, nil)
	err := newDriver(t, e).start(t.Context(), memory{}, seen{nodes: map[string]container{}})
	if err == nil || !strings.Contains(err.Error(), "server1") {
		t.Errorf("%v", err)
	}
}

func TestEnginesThatCannotBeAsked(t *testing.T) {
	dir := t.TempDir()
	get := func(host string) func(string) string {
		return func(name string) string { return map[string]string{"DOCKER_HOST": host}[name] }
	}
	for host, want := range map[string]string{"ssh://x": "ssh -L", "npipe:////./pipe/x": "unix:///PATH", "://": "DOCKER_HOST"} {
		if _, err := newEngine(get(host)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", host, err)
		}
	}
	e, err := newEngine(get("unix://" + dir + "/nobody"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.info(t.Context()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "start Docker") {
		t.Errorf("nobody: %v", err)
	}
	if err := e.why(syscall.EACCES); !strings.Contains(err.Error(), "usermod") {
		t.Errorf("no rights: %v", err)
	}
}

func TestUnframe(t *testing.T) {
	in := []byte{1, 0, 0, 0, 0, 0, 0, 3, 'o', 'n', 'e', 2, 0, 0, 0, 0, 0, 0, 1, '!'}
	var out bytes.Buffer
	if err := unframe(&out, bytes.NewReader(in)); err != nil || out.String() != "one!" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := unframe(&out, bytes.NewReader(in[:10])); err == nil {
		t.Error("half a frame is whole")
	}
}

func TestTheMirrorIsOutOfTheWay(t *testing.T) {
	for nodes, want := range map[string]string{"10.89.0.0/24": "10.89.0.254", "10.1.0.0/16": "10.1.255.254"} {
		e := environment("x")
		e.Network.Nodes = nodes
		if got := mirrorAddress(e).String(); got != want {
			t.Errorf("%s: %s, want %s", nodes, got, want)
		}
	}
}

func TestPlaces(t *testing.T) {
	var names []string
	for _, p := range places(environment("x")) {
		names = append(names, p.name)
	}
	if want := []string{"k3d-orrery-x-server-0", "k3d-orrery-x-server-1", "k3d-orrery-x-server-2", "k3d-orrery-x-agent-0", "k3d-orrery-x-agent-1"}; !slices.Equal(names, want) {
		t.Errorf("%v", names)
	}
}

// TestServices: what a node runs is told apart from what its pods run, which may have the same name.
func TestServices(t *testing.T) {
	p := processes{
		Titles: []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"},
		Processes: [][]string{
			{"root", "50", "40", "0", "17:46", "?", "00:00:00", "/sbin/docker-init -- /bin/k3s server"},
			{"root", "60", "50", "0", "17:46", "?", "00:00:00", "/bin/k3s server --node-name=server1"},
			{"root", "61", "60", "3", "17:46", "?", "00:00:22", "etcd --name=server1"},
			{"root", "62", "60", "2", "17:46", "?", "00:00:22", "/opt/orrery/bin/kubelet"},
			{"root", "70", "50", "0", "17:46", "?", "00:00:00", "/opt/orrery/bin/containerd-shim-runc-v2 -namespace k8s.io"},
			{"root", "71", "70", "0", "17:46", "?", "00:00:00", "etcd --of=a-pod"},
			{"cut off"},
		},
	}
	want := []driver.Service{{Name: "k3s", PID: 60, Restarts: 2}, {Name: "etcd", PID: 61}, {Name: "kubelet", PID: 62}}
	if got := p.services(2); !reflect.DeepEqual(got, want) {
		t.Errorf("services: %+v, want %+v", got, want)
	}
	p.Processes = p.Processes[:1]
	if got := p.services(0); got != nil {
		t.Errorf("without the node's program: %+v", got)
	}
	if got := (processes{Titles: []string{"USER"}, Processes: p.Processes}).services(0); got != nil {
		t.Errorf("without columns: %+v", got)
	}
}
