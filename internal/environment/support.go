package environment

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/beneath"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
)

// supportLogLimit is how much of the end of each log goes into the archive, in bytes.
const supportLogLimit = 2 << 20

// supportPodLines is the same for a container, in lines.
const supportPodLines = 500

// SupportFile is a name for an archive of now.
func (e *Environment) SupportFile() string {
	return fmt.Sprintf("orrery-support-%s-%s.tar.gz", e.Spec.Name, time.Now().Format("20060102-150405.000"))
}

// WriteSupport collects what can be had; what cannot is noted inside the archive. It
// takes logs, status, events and object lists, never keys, kubeconfigs or Secrets.
func (e *Environment) WriteSupport(ctx context.Context, file string) (err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the support archive: %w", err)
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			err = errors.Join(err, os.Remove(file))
		}
	}()
	zw := gzip.NewWriter(f)
	tw := tar.NewWriter(zw)
	now := time.Now()
	put := func(name string, b []byte) error {
		h := &tar.Header{Name: "support/" + name, Mode: 0o600, Size: int64(len(b)), ModTime: now}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := tw.Write(b)
		return err
	}
	putJSON := func(name string, v any, from error) error {
		if from != nil {
			return put(name+".error", []byte(from.Error()+"\n"))
		}
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		return put(name, append(b, '\n'))
	}
	errs := []error{putJSON("host.json", map[string]string{"os": runtime.GOOS, "arch": runtime.GOARCH, "kernel": kernel()}, nil)}
	errs = append(errs, putJSON("spec.json", e.Spec, nil))
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	obs, err := e.Driver.Observe(ctx)
	errs = append(errs, putJSON("observation.json", obs, err))
	st, err := e.Status(ctx)
	errs = append(errs, putJSON("status.json", st, err))
	var pre CheckResults
	for _, c := range e.Driver.Preflight(ctx) {
		pre = append(pre, RunCheck(ctx, check.Condition{Component: c.Component, Name: c.Name, Timeout: 5 * time.Second, Probe: c.Probe}))
	}
	errs = append(errs, putJSON("preflight.json", pre, nil))
	if client, err := e.Kube(ctx); err == nil {
		defer client.Close()
		for _, k := range []struct{ apiVersion, kind string }{
			{"v1", "Node"}, {"v1", "Pod"}, {"v1", "Event"}, {"v1", "Service"}, {"v1", "PersistentVolumeClaim"},
			{"apps/v1", "Deployment"}, {"apps/v1", "StatefulSet"}, {"apps/v1", "DaemonSet"},
		} {
			list, err := client.List(ctx, k.apiVersion, k.kind, "", "")
			errs = append(errs, putJSON("cluster/"+strings.ToLower(k.kind)+"s.json", list, err))
		}
		errs = append(errs, putPodLogs(ctx, client, put))
	}
	errs = append(errs, filepath.WalkDir(e.StateDir, func(path string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(e.StateDir, path)
		if err != nil || relErr != nil {
			return nil
		}
		if d.IsDir() && (strings.HasSuffix(path, "/var") || rel == "registry" || rel == "layers" || rel == "dist" || rel == "pki") {
			return fs.SkipDir // data of nodes, images and keys
		}
		if d.Type().IsRegular() && (strings.HasSuffix(path, ".log") || rel == "journal.jsonl") {
			b, err := tail(e.StateDir, rel, supportLogLimit)
			if err != nil {
				return put("state/"+rel+".error", []byte(err.Error()))
			}
			return put("state/"+rel, b)
		}
		return nil
	}))
	return errors.Join(append(errs, tw.Close(), zw.Close())...)
}

// putPodLogs adds the end of the logs of every pod in the namespaces that Orrery runs
// workloads in, as far as it can be had. Other namespaces are the person's own.
func putPodLogs(ctx context.Context, client *kube.Client, put func(string, []byte) error) error {
	var errs []error
	inventories, err := client.Inventories(ctx)
	if err != nil {
		return put("cluster/logs.error", []byte(err.Error()+"\n"))
	}
	namespaces := map[string]bool{}
	for _, inv := range inventories {
		for _, r := range inv.Objects {
			if r.Kind == "Deployment" || r.Kind == "StatefulSet" || r.Kind == "DaemonSet" {
				namespaces[r.Namespace] = true
			}
		}
	}
	for ns := range namespaces {
		pods, err := client.List(ctx, "v1", "Pod", ns, "")
		if err != nil {
			errs = append(errs, put("cluster/logs/"+ns+".error", []byte(err.Error()+"\n")))
		}
		for _, pod := range pods {
			containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", "containers")
			for _, c := range containers {
				m, _ := c.(map[string]any)
				name, _ := m["name"].(string)
				text, err := client.Logs(ctx, ns, pod.GetName(), name, supportPodLines)
				if err != nil {
					text = err.Error() + "\n"
				}
				errs = append(errs, put("cluster/logs/"+ns+"/"+pod.GetName()+"_"+name+".log", []byte(text)))
			}
		}
	}
	return errors.Join(errs...)
}

// tail reads the last limit bytes of a file below dir, part of which nodes write to.
func tail(dir, name string, limit int64) ([]byte, error) {
	f, err := beneath.Open(dir, name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, io.NewSectionReader(f, max(0, st.Size()-limit), limit))
	return b.Bytes(), err
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
