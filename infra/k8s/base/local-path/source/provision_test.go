package main

import (
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const testName = "orrery.dev/local-path"

// cluster is an API server with claims, volumes and one storage class.
type cluster struct {
	t *testing.T

	mu      sync.Mutex
	claims  []string          // JSON of the list
	volumes map[string]string // by name
	refuse  int               // that many POSTs of volumes fail
	events  []string
	patches []string          // method-less: path and body
	nodes   map[string]string // their readiness, "True" or not
	mode    string            // of the storage class
	params  string            // likewise, in JSON
	deleted chan string
	made    chan string
	changes chan string // for the watch of claims
}

func newCluster(t *testing.T) (*cluster, *provisioner) {
	t.Helper()
	c := &cluster{t: t, nodes: map[string]string{"agent1": "True", "agent2": "True"}, volumes: map[string]string{}, deleted: make(chan string, 10), made: make(chan string, 10), changes: make(chan string, 10)}
	s := httptest.NewTLSServer(c)
	t.Cleanup(s.CloseClientConnections)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	a, err := newAPI(s.URL, ca, token)
	if err != nil {
		t.Fatal(err)
	}
	f, err := openFolders(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.root.Close() })
	return c, &provisioner{api: a, folders: f, node: "agent1", name: testName, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer secret" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	name, one := strings.CutPrefix(r.URL.Path, "/api/v1/persistentvolumes/")
	switch {
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/events"):
		b, _ := io.ReadAll(r.Body)
		c.events = append(c.events, string(b))
		fmt.Fprint(w, "{}")
	case r.Method == http.MethodPost && c.refuse > 0:
		c.refuse--
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"message":"quota"}`)
	case r.Method == http.MethodPost:
		b, _ := io.ReadAll(r.Body)
		var o object
		if err := json.Unmarshal(b, &o); err != nil {
			c.t.Error(err)
		}
		c.volumes[o.Metadata.Name] = string(b)
		fmt.Fprint(w, "{}")
		c.made <- o.Metadata.Name
	case r.Method == http.MethodPatch:
		b, _ := io.ReadAll(r.Body)
		if ct := r.Header.Get("Content-Type"); ct != "application/merge-patch+json" {
			c.t.Errorf("a patch of type %s", ct)
		}
		c.patches = append(c.patches, r.URL.Path+" "+string(b))
		fmt.Fprint(w, "{}")
	case strings.HasPrefix(r.URL.Path, "/api/v1/nodes/") && c.nodes[strings.TrimPrefix(r.URL.Path, "/api/v1/nodes/")] != "":
		fmt.Fprintf(w, `{"status":{"conditions":[{"type":"Ready","status":%q}]}}`, c.nodes[strings.TrimPrefix(r.URL.Path, "/api/v1/nodes/")])
	case one && r.Method == http.MethodDelete:
		delete(c.volumes, name)
		fmt.Fprint(w, "{}")
		c.deleted <- name
	case one && c.volumes[name] != "":
		fmt.Fprint(w, c.volumes[name])
	case strings.HasSuffix(r.URL.Path, "/storageclasses/local-path"):
		fmt.Fprintf(w, `{"provisioner":%q,"reclaimPolicy":"Delete","volumeBindingMode":%q,"parameters":%s}`,
			testName, cmp.Or(c.mode, "WaitForFirstConsumer"), cmp.Or(c.params, "null"))
	case strings.HasSuffix(r.URL.Path, "/persistentvolumeclaims") && r.URL.Query().Get("watch") == "":
		fmt.Fprintf(w, `{"metadata":{"resourceVersion":"5"},"items":[%s]}`, strings.Join(c.claims, ","))
	case strings.HasSuffix(r.URL.Path, "/persistentvolumeclaims"):
		if v := r.URL.Query().Get("resourceVersion"); v != "5" && v != "7" {
			c.t.Errorf("watches from %s", v)
		}
		w.(http.Flusher).Flush()
		c.mu.Unlock()
		defer c.mu.Lock()
		for {
			select {
			case e, ok := <-c.changes:
				if !ok {
					return
				}
				fmt.Fprintln(w, e)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// claimWith is a claim that agent1 is to serve, changed.
func claimWith(t *testing.T, change func(map[string]any)) (string, object) {
	t.Helper()
	c := map[string]any{
		"metadata": map[string]any{"name": "data", "namespace": "apps", "uid": "1-2", "resourceVersion": "7",
			"annotations": map[string]any{selectedNode: "agent1", wantedFrom: testName}},
		"spec": map[string]any{"storageClassName": "local-path", "accessModes": []string{"ReadWriteOnce"}, "volumeMode": "Filesystem",
			"resources": map[string]any{"requests": map[string]string{"storage": "1Gi"}}},
	}
	if change != nil {
		change(c)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var o object
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	return string(b), o
}

func TestClaim(t *testing.T) {
	annotate := func(key, value string) func(map[string]any) {
		return func(c map[string]any) {
			c["metadata"].(map[string]any)["annotations"].(map[string]any)[key] = value
		}
	}
	set := func(key string, value any) func(map[string]any) {
		return func(c map[string]any) { c["spec"].(map[string]any)[key] = value }
	}
	ask := func(size string) func(map[string]any) {
		return set("resources", map[string]any{"requests": map[string]string{"storage": size}})
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(t.TempDir(), &disk); err != nil {
		t.Fatal(err)
	}
	bytes := func(blocks uint64) string { return strconv.FormatUint(blocks*uint64(disk.Bsize), 10) }
	whole, more := bytes(disk.Blocks), bytes(disk.Blocks+1)
	for name, tc := range map[string]struct {
		change func(map[string]any)
		made   bool
		event  string
	}{
		"good":                   {nil, true, "ProvisioningSucceeded"},
		"another node":           {annotate(selectedNode, "agent2"), false, ""},
		"no node yet":            {annotate(selectedNode, ""), false, ""},
		"another provisioner":    {annotate(wantedFrom, "example.com/other"), false, ""},
		"bound":                  {set("volumeName", "pvc-0"), false, ""},
		"class of another":       {set("storageClassName", "absent"), false, ""},
		"shared by nodes":        {set("accessModes", []string{"ReadWriteMany"}), false, "access mode ReadWriteMany"},
		"block device":           {set("volumeMode", "Block"), false, "volume mode Block"},
		"from a snapshot":        {set("dataSource", map[string]any{"kind": "VolumeSnapshot"}), false, "snapshot"},
		"with a selector":        {set("selector", map[string]any{"matchLabels": map[string]string{"a": "b"}}), false, "selector"},
		"for one pod":            {set("accessModes", []string{"ReadWriteOncePod"}), true, "ProvisioningSucceeded"},
		"a long name":            {func(c map[string]any) { c["metadata"].(map[string]any)["name"] = strings.Repeat("n", 253) }, true, "ProvisioningSucceeded"},
		"size is not held":       {nil, true, "no limit holds its size"},
		"all that the disk has":  {ask(whole), true, "no limit holds its size"},
		"more than the disk":     {ask(more), false, "the claim asks for " + more + ", and the node's whole disk has"},
		"a name that climbs out": {func(c map[string]any) { c["metadata"].(map[string]any)["name"] = "../../x" }, false, "no name of a folder"},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, p := newCluster(t)
			_, claim := claimWith(t, tc.change)
			_ = p.claim(context.Background(), claim)
			folders, err := os.ReadDir(p.folders.root.Name())
			if err != nil {
				t.Fatal(err)
			}
			if got := len(cluster.volumes) == 1; got != tc.made || len(folders) != len(cluster.volumes) {
				t.Fatalf("volumes %v, folders %v; made should be %t", cluster.volumes, folders, tc.made)
			}
			if all := strings.Join(cluster.events, "\n"); !strings.Contains(all, tc.event) || tc.event == "" && all != "" {
				t.Errorf("events %s, want one with %q", all, tc.event)
			}
			if !tc.made {
				return
			}
			var v object
			if err := json.Unmarshal([]byte(cluster.volumes["pvc-1-2"]), &v); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(v.Spec.Local.Path)
			if err != nil || info.Mode().Perm() != 0o777 {
				t.Errorf("folder %v, %v; want mode 0777", info, err)
			}
			if !slices.Contains(v.Metadata.Finalizers, finalizer) {
				t.Errorf("whoever deletes the volume leaves its folder: finalizers %q", v.Metadata.Finalizers)
			}
			if !onNode(v.Spec.NodeAffinity, "agent1") || v.Metadata.Annotations[provisionedBy] != testName || v.Spec.ReclaimPolicy != "Delete" {
				t.Errorf("volume %s", cluster.volumes["pvc-1-2"])
			}
			if err := p.claim(context.Background(), claim); err != nil || len(cluster.made) != 1 {
				t.Errorf("a second look: %v, %d made", err, len(cluster.made))
			}
		})
	}
}

func TestRefusedVolumeLeavesNoFolder(t *testing.T) {
	cluster, p := newCluster(t)
	cluster.refuse = 1
	_, claim := claimWith(t, nil)
	if err := p.claim(context.Background(), claim); err == nil || !strings.Contains(err.Error(), "quota") {
		t.Errorf("err = %v, want the API's reason", err)
	}
	if folders, _ := os.ReadDir(p.folders.root.Name()); len(folders) > 0 {
		t.Errorf("left %v", folders)
	}
}

func volumeWith(path, phase, reclaim, node string) (v object) {
	v.Metadata.Name, v.Metadata.Annotations = "pvc-1", map[string]string{provisionedBy: testName}
	v.Status.Phase, v.Spec.ReclaimPolicy, v.Spec.Local = phase, reclaim, &localSource{path}
	v.Spec.NodeAffinity = &nodeAffinity{}
	v.Spec.NodeAffinity.Required.Terms = []term{{[]expression{{hostname, "In", []string{node}}}}}
	return v
}

func TestVolume(t *testing.T) {
	for name, tc := range map[string]struct {
		phase, reclaim, by, node string
		removed                  bool
	}{
		"released":        {"Released", "Delete", testName, "agent1", true},
		"in use":          {"Bound", "Delete", testName, "agent1", false},
		"to be kept":      {"Released", "Retain", testName, "agent1", false},
		"of another":      {"Released", "Delete", "example.com/other", "agent1", false},
		"of another node": {"Released", "Delete", testName, "agent2", false},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, p := newCluster(t)
			path, err := p.folders.create("pvc-1")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(path, "data"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			v := volumeWith(path, tc.phase, tc.reclaim, tc.node)
			v.Metadata.Annotations[provisionedBy] = tc.by
			for range 2 { // the second finds the folder gone
				if err := p.volume(context.Background(), v); err != nil {
					t.Fatal(err)
				}
			}
			_, err = os.Stat(path)
			if got := os.IsNotExist(err); got != tc.removed || len(cluster.deleted) > 0 != tc.removed {
				t.Errorf("folder removed: %t, volume deleted: %d times; want %t", got, len(cluster.deleted), tc.removed)
			}
		})
	}
}

// TestDeletedVolume: a volume that somebody deletes goes when no claim has it, and its folder with it
// unless it is to be kept.
func TestDeletedVolume(t *testing.T) {
	for name, tc := range map[string]struct {
		phase, reclaim, node string
		finalizers           []string
		removed              bool
		patch                string // part of the one that is sent
	}{
		"before its claim, which has it": {"Bound", "Delete", "agent1", []string{"kubernetes.io/pv-protection", finalizer}, false, ""},
		"before its claim, which is gone": {"Released", "Delete", "agent1", []string{"kubernetes.io/pv-protection", finalizer}, true,
			`"finalizers":["kubernetes.io/pv-protection"]`},
		"never bound":                {"Available", "Delete", "agent1", []string{finalizer}, true, `"finalizers":[]`},
		"to be kept":                 {"Released", "Retain", "agent1", []string{finalizer}, false, `"finalizers":[]`},
		"of a node that is away":     {"Released", "Delete", "agent2", []string{finalizer}, false, ""},
		"of a node that is no more":  {"Released", "Delete", "agent9", []string{finalizer}, false, `"finalizers":[]`},
		"nothing of ours on it":      {"Released", "Delete", "agent1", []string{"example.com/x"}, true, ""},
		"of a lost node, and in use": {"Bound", "Delete", "agent9", []string{finalizer}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, p := newCluster(t)
			path, err := p.folders.create("pvc-1")
			if err != nil {
				t.Fatal(err)
			}
			v := volumeWith(path, tc.phase, tc.reclaim, tc.node)
			v.Metadata.DeletionTimestamp, v.Metadata.Finalizers, v.Metadata.ResourceVersion = "2026-01-01T00:00:00Z", tc.finalizers, "7"
			if err := p.volume(t.Context(), v); err != nil && !errors.Is(err, errLater) {
				t.Fatal(err)
			}
			if _, err := os.Stat(path); os.IsNotExist(err) != tc.removed {
				t.Errorf("folder removed: %t, want %t", os.IsNotExist(err), tc.removed)
			}
			if all := strings.Join(cluster.patches, "\n"); !strings.Contains(all, tc.patch) || tc.patch == "" && all != "" || all != "" && !strings.Contains(all, `"resourceVersion":"7"`) {
				t.Errorf("patches %s, want one with %q", all, tc.patch)
			}
			if len(cluster.deleted) > 0 {
				t.Error("what is being deleted was deleted again")
			}
		})
	}
	t.Run("made before there were finalizers", func(t *testing.T) {
		cluster, p := newCluster(t)
		v := volumeWith("/x", "Bound", "Delete", "agent1")
		v.Metadata.Finalizers = []string{"kubernetes.io/pv-protection"}
		if err := p.volume(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(cluster.patches, "\n"); !strings.Contains(all, `"finalizers":["kubernetes.io/pv-protection","orrery.dev/local-path"]`) {
			t.Errorf("patches %s", all)
		}
	})
}

// TestUnserved: who has to wait for a volume, or will not get one, is told why, once.
func TestUnserved(t *testing.T) {
	annotations := func(node string) func(map[string]any) {
		return func(c map[string]any) {
			a := map[string]any{wantedFrom: testName}
			if node != "" {
				a[selectedNode] = node
			}
			c["metadata"].(map[string]any)["annotations"] = a
		}
	}
	bound := func(has string) func(map[string]any) {
		return func(c map[string]any) {
			c["spec"].(map[string]any)["volumeName"] = "pvc-0"
			c["status"] = map[string]any{"capacity": map[string]string{"storage": has}}
		}
	}
	for name, tc := range map[string]struct {
		change       func(map[string]any)
		mode, params string
		event, patch string
		later        bool
	}{
		"node that is no more":     {annotations("agent9"), "", "", "node agent9, which was chosen for it, does not exist any more", `"volume.kubernetes.io/selected-node":null`, false},
		"node that is away":        {annotations("agent3"), "", "", "node agent3, which was chosen for it, is not ready", "", true},
		"node that will serve it":  {annotations("agent2"), "", "", "", "", true},
		"bound at once":            {annotations(""), "Immediate", "", "takes volumeBindingMode WaitForFirstConsumer", "", false},
		"nobody asks for it yet":   {annotations(""), "", "", "", "", false},
		"parameters":               {nil, "", `{"quota":"on","path":"/x"}`, "has the parameters path, quota", "", false},
		"expansion":                {bound("512Mi"), "", "", "cannot be made larger than 512Mi", "", false},
		"as large as it asked for": {bound("1024Mi"), "", "", "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, p := newCluster(t)
			cluster.mode, cluster.params, cluster.nodes["agent3"] = tc.mode, tc.params, "Unknown"
			_, claim := claimWith(t, tc.change)
			if err := p.claim(t.Context(), claim); errors.Is(err, errLater) != tc.later || err != nil && !tc.later {
				t.Fatalf("%v; another look later: %t", err, tc.later)
			}
			if all := strings.Join(cluster.events, "\n"); !strings.Contains(all, tc.event) || tc.event == "" && all != "" {
				t.Errorf("events %s, want one with %q", all, tc.event)
			}
			if all := strings.Join(cluster.patches, "\n"); !strings.Contains(all, tc.patch) || tc.patch == "" && all != "" {
				t.Errorf("patches %s, want one with %q", all, tc.patch)
			}
			if len(cluster.volumes) > 0 {
				t.Errorf("made %v", cluster.volumes)
			}
			// The program of another node says it under the same name.
			other := &provisioner{api: p.api, folders: p.folders, node: "agent5", name: p.name, log: p.log}
			before := len(cluster.events)
			_ = other.claim(t.Context(), claim)
			names := map[string]bool{}
			for _, e := range cluster.events {
				var o object
				if err := json.Unmarshal([]byte(e), &o); err != nil {
					t.Fatal(err)
				}
				names[o.Metadata.Name] = true
			}
			if before > 0 && len(names) != 1 {
				t.Errorf("the same thing under the names %v", names)
			}
		})
	}
}

func TestSize(t *testing.T) {
	for quantity, want := range map[string]float64{"1Gi": 1 << 30, "500M": 5e8, "1024Mi": 1 << 30, "12": 12, "1e3": 1000, "1.5Ki": 1536, "1500m": 1.5, "2E": 2e18, "": 0, "x": 0, "Gi": 0} {
		if got := size(quantity); got != want {
			t.Errorf("size(%q) = %v, want %v", quantity, got, want)
		}
	}
}

func TestRemovesNothingOutside(t *testing.T) {
	_, p := newCluster(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(p.folders.root.Name(), "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "keep"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "/", "/etc", outside, p.folders.root.Name(), p.folders.root.Name() + "/../x", p.folders.root.Name() + "/a/b", "pvc-1"} {
		if err := p.folders.remove(path); err == nil {
			t.Errorf("remove(%q) = nil", path)
		}
	}
	if err := p.folders.remove(filepath.Join(p.folders.root.Name(), "link")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "keep")); err != nil {
		t.Error("what a link pointed to is gone")
	}
	if _, err := p.folders.create("a/b"); err == nil {
		t.Error("a folder of two names")
	}
}

// TestWatch: what is listed is handled, what changes later too, what fails again, and a
// watch that ends goes on where it was.
func TestWatch(t *testing.T) {
	cluster, p := newCluster(t)
	first, _ := claimWith(t, nil)
	second, _ := claimWith(t, func(c map[string]any) {
		c["metadata"].(map[string]any)["uid"] = "3"
		c["metadata"].(map[string]any)["name"] = "more"
	})
	cluster.claims, cluster.refuse = []string{first}, 2
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { watch(ctx, p.api, "/api/v1/persistentvolumeclaims", p.claim, p.log); close(done) }()
	await := func(want string) {
		t.Helper()
		select {
		case got := <-cluster.made:
			if got != want {
				t.Fatalf("made %s, want %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s was not made", want)
		}
	}
	await("pvc-1-2") // at the third try
	cluster.changes <- `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}`
	cluster.changes <- `{"type":"ADDED","object":` + second + `}`
	await("pvc-3")
	cancel()
	<-done
}

func TestBadArguments(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, args := range [][]string{
		{},
		{"-node=a", "-folder=/x"},
		{"-node=a", "-folder=/x", "-provisioner=p", "more"},
		{"-node=a", "-folder=/x", "-provisioner=p"}, // not in a pod
	} {
		if err := run(context.Background(), args, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("run(%q) = nil", args)
		}
	}
	for _, dir := range []string{"", "/", "x", "/x/../y", "/absent/folder"} {
		if _, err := openFolders(dir); err == nil {
			t.Errorf("openFolders(%q) = nil", dir)
		}
	}
}

func TestMetrics(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var m metrics
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.serve(ctx, l) }()
	m.made.Add(2)
	handle := m.counting(func(context.Context, object) error { return errors.New("no space left on device") })
	_ = handle(t.Context(), object{})
	r, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nlocal_path_volumes_made_total 2\n", "\nlocal_path_volumes_removed_total 0\n", "\nlocal_path_failures_total 1\n", "# TYPE local_path_failures_total counter\n"} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %q in %s", want, body)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// What ended because this program ends has not failed.
	_ = handle(ctx, object{})
	if m.failed.Load() != 1 {
		t.Errorf("%d failures", m.failed.Load())
	}
}
