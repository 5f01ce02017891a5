package main

import (
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
	"strings"
	"sync"
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
	deleted chan string
	made    chan string
	changes chan string // for the watch of claims
}

func newCluster(t *testing.T) (*cluster, *provisioner) {
	t.Helper()
	c := &cluster{t: t, volumes: map[string]string{}, deleted: make(chan string, 10), made: make(chan string, 10), changes: make(chan string, 10)}
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
	case one && r.Method == http.MethodDelete:
		delete(c.volumes, name)
		fmt.Fprint(w, "{}")
		c.deleted <- name
	case one && c.volumes[name] != "":
		fmt.Fprint(w, c.volumes[name])
	case strings.HasSuffix(r.URL.Path, "/storageclasses/local-path"):
		fmt.Fprintf(w, `{"provisioner":%q,"reclaimPolicy":"Delete"}`, testName)
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
			var v object
			v.Metadata.Name, v.Metadata.Annotations = "pvc-1", map[string]string{provisionedBy: tc.by}
			v.Status.Phase, v.Spec.ReclaimPolicy, v.Spec.Local = tc.phase, tc.reclaim, &localSource{path}
			v.Spec.NodeAffinity = &nodeAffinity{}
			v.Spec.NodeAffinity.Required.Terms = []term{{[]expression{{hostname, "In", []string{tc.node}}}}}
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
