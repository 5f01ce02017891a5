package environment

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/audit"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/kube"
)

// auditExceptions is the one list of what an audit lets be, below the catalogue's root.
const auditExceptions = "infra/audit-exceptions.yaml"

// Audit judges the security of the running cluster and of the state folder.
func (e *Environment) Audit(ctx context.Context) (audit.Report, error) {
	exceptions, err := e.auditExceptions()
	if err != nil {
		return audit.Report{}, err
	}
	seen, err := e.evidence(ctx)
	if err != nil {
		return audit.Report{}, err
	}
	return audit.Run(seen, exceptions), nil
}

// auditExceptions of the catalogue; a catalogue without the list excepts nothing.
func (e *Environment) auditExceptions() (audit.Exceptions, error) {
	root, err := e.Location.Root()
	if err != nil {
		return audit.Exceptions{}, err
	}
	b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(auditExceptions)))
	if errors.Is(err, fs.ErrNotExist) {
		return audit.Exceptions{}, nil
	}
	if err != nil {
		return audit.Exceptions{}, fmt.Errorf("read the exceptions of the audit: %w", err)
	}
	return audit.LoadExceptions(b)
}

// evidence is what can be seen. What cannot is in Missing, with the reason.
func (e *Environment) evidence(ctx context.Context) (audit.Evidence, error) {
	obs, err := e.Observe(ctx)
	if err != nil {
		return audit.Evidence{}, err
	}
	if obs.Phase != driver.PhaseRunning && obs.Kubeconfig == "" {
		return audit.Evidence{}, fmt.Errorf("environment %q is %s: 'orrery up%s' or 'orrery start%s' runs what is to be audited",
			e.Spec.Name, obs.Phase, e.Flag(), e.Flag())
	}
	client, err := e.connect(obs.Kubeconfig)
	if err != nil {
		return audit.Evidence{}, err
	}
	defer client.Close()
	g := gathering{secrets: map[string][]string{}, Evidence: audit.Evidence{
		Environment: e.Spec.Name, Now: time.Now(),
		Kubelets: map[string]map[string]any{}, Leaked: map[string][]string{}, Missing: map[string]string{},
	}}
	if err := g.objects(ctx, client); err != nil {
		return audit.Evidence{}, err
	}
	g.kubelets(ctx, client)
	if e.Kind.Distribution {
		g.processes(obs)
	} else {
		g.staticPods()
		g.Missing[audit.PartFiles] = "the nodes are not of this machine: run a CIS benchmark on them, such as kube-bench"
	}
	g.stateFolder(e.StateDir)
	return g.Evidence, nil
}

type gathering struct {
	audit.Evidence
	secrets map[string][]string // what to look for, by the name of the Secret; never shown
}

func (g *gathering) objects(ctx context.Context, c *kube.Client) error {
	secrets, err := c.List(ctx, "v1", "Secret", "", "")
	if err != nil {
		return fmt.Errorf("read the cluster: %w", err)
	}
	for _, s := range secrets {
		g.secret(s)
	}
	for _, k := range []struct{ apiVersion, kinds string }{
		{"v1", "Namespace Pod ConfigMap ServiceAccount Event"}, {"apps/v1", "Deployment StatefulSet DaemonSet"}, {"batch/v1", "Job CronJob"},
		{"rbac.authorization.k8s.io/v1", "Role ClusterRole RoleBinding ClusterRoleBinding"}, {"networking.k8s.io/v1", "NetworkPolicy"},
	} {
		for _, kind := range strings.Fields(k.kinds) {
			items, err := c.List(ctx, k.apiVersion, kind, "", "")
			if err != nil {
				return fmt.Errorf("read the cluster: %w", err)
			}
			for _, o := range items {
				o.SetManagedFields(nil)
				o.SetKind(kind)
				if in := g.leaks(o); len(in) > 0 {
					g.Leaked[audit.Name(o.Object)] = in
				}
				if kind != "Event" {
					g.Objects = append(g.Objects, o.Object)
				}
			}
		}
	}
	return nil
}

// secret notes when its certificate ends, and what must be nowhere else.
func (g *gathering) secret(s unstructured.Unstructured) {
	name := s.GetNamespace() + "/" + s.GetName()
	data, _, _ := unstructured.NestedStringMap(s.Object, "data")
	for key, text := range data {
		value, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			continue
		}
		if key == "tls.crt" || key == "ca.crt" {
			g.certificates("Secret/"+name+"/"+key, value)
		}
		if strings.HasSuffix(key, ".crt") || strings.HasSuffix(key, ".pub") || key == "namespace" {
			continue
		}
		longest := ""
		for line := range strings.Lines(string(value)) {
			if line = strings.TrimSpace(line); len(line) > len(longest) && !strings.HasPrefix(line, "-----") {
				longest = line
			}
		}
		if len(longest) >= 16 && !strings.ContainsAny(longest, " /") { // sentences and paths are no secrets
			g.secrets[name] = append(g.secrets[name], longest)
		}
	}
}

func (g *gathering) leaks(o unstructured.Unstructured) []string {
	text, err := json.Marshal(o.Object)
	if err != nil {
		return nil
	}
	return g.secretsIn(string(text))
}

// secretsIn are the names of the Secrets of which a value is in text.
func (g *gathering) secretsIn(text string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(g.secrets)) {
		if slices.ContainsFunc(g.secrets[name], func(v string) bool { return strings.Contains(text, v) }) {
			names = append(names, name)
		}
	}
	return names
}

func (g *gathering) certificates(where string, text []byte) {
	for i := 0; ; i++ {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			g.Certificates = append(g.Certificates, audit.Certificate{Where: where, Subject: c.Subject.String(), NotAfter: c.NotAfter})
		}
	}
}

// kubelets say themselves which configuration they have.
func (g *gathering) kubelets(ctx context.Context, c *kube.Client) {
	nodes, err := c.List(ctx, "v1", "Node", "", "")
	for _, n := range nodes {
		var body []byte
		if body, err = c.RawGet(ctx, "/api/v1/nodes/"+n.GetName()+"/proxy/configz"); err != nil {
			break
		}
		var answer struct {
			Config map[string]any `json:"kubeletconfig"`
		}
		if err = json.Unmarshal(body, &answer); err != nil {
			break
		}
		g.Kubelets[n.GetName()] = answer.Config
	}
	if err != nil {
		g.Missing[audit.PartKubelet] = "a kubelet does not say which configuration it has: " + err.Error()
	}
}

var controlPlane = []string{audit.PartAPIServer, audit.PartController, audit.PartScheduler, audit.PartEtcd}

// staticPods show the flags of a control plane that runs in pods, as kubeadm's does.
func (g *gathering) staticPods() {
	found := map[string]bool{}
	for _, o := range g.Objects {
		u := unstructured.Unstructured{Object: o}
		name := u.GetLabels()["component"]
		if u.GetKind() != "Pod" || u.GetNamespace() != "kube-system" || !slices.Contains(controlPlane, name) {
			continue
		}
		cs, _, _ := unstructured.NestedSlice(o, "spec", "containers")
		for _, c := range cs {
			c, _ := c.(map[string]any)
			command, _, _ := unstructured.NestedStringSlice(c, "command")
			args, _, _ := unstructured.NestedStringSlice(c, "args")
			node, _, _ := unstructured.NestedString(o, "spec", "nodeName")
			g.Processes = append(g.Processes, audit.Process{Node: node, Name: name, Args: append(command, args...)})
			found[name] = true
		}
	}
	for _, part := range controlPlane {
		if !found[part] {
			g.Missing[part] = "it runs neither on this machine nor in a pod that can be seen: ask who runs it"
		}
	}
}
