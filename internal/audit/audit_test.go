package audit

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

var now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// cases have for every check a right and a wrong piece of evidence. Processes are "NAME FLAG…",
// kubelets and objects YAML.
var cases = map[string]struct{ right, wrong string }{
	"apiserver-anonymous":                {"kube-apiserver --anonymous-auth=false", "kube-apiserver"},
	"apiserver-token-file":               {"kube-apiserver", "kube-apiserver --token-auth-file=/x"},
	"apiserver-kubelet-certificate":      {"kube-apiserver --kubelet-client-certificate=/x", "kube-apiserver"},
	"apiserver-kubelet-authority":        {"kube-apiserver --kubelet-certificate-authority=/x", "kube-apiserver"},
	"apiserver-authorization-always":     {"kube-apiserver --authorization-mode=Node,RBAC", "kube-apiserver --authorization-mode=RBAC,AlwaysAllow"},
	"apiserver-authorization-node":       {"kube-apiserver --authorization-mode Node,RBAC", "kube-apiserver --authorization-mode=RBAC"},
	"apiserver-authorization-rbac":       {"kube-apiserver --authorization-config=/x", "kube-apiserver --authorization-mode=Node"},
	"apiserver-admission-always":         {"kube-apiserver", "kube-apiserver --enable-admission-plugins=NodeRestriction,AlwaysAdmit"},
	"apiserver-admission-serviceaccount": {"kube-apiserver", "kube-apiserver --disable-admission-plugins=ServiceAccount"},
	"apiserver-admission-lifecycle":      {"kube-apiserver", "kube-apiserver --disable-admission-plugins=NamespaceLifecycle"},
	"apiserver-admission-podsecurity":    {"kube-apiserver", "kube-apiserver --disable-admission-plugins=PodSecurity"},
	"apiserver-admission-noderestriction": {"kube-apiserver --enable-admission-plugins=NodeRestriction",
		"kube-apiserver --enable-admission-plugins=NodeRestriction --enable-admission-plugins=Other"},
	"apiserver-profiling":             {"kube-apiserver --profiling=false", "kube-apiserver"},
	"apiserver-audit-log":             {"kube-apiserver --audit-log-path=/x", "kube-apiserver --audit-log-path-x=/x"},
	"apiserver-audit-age":             {"kube-apiserver --audit-log-maxage=30", "kube-apiserver --audit-log-maxage=0"},
	"apiserver-audit-backup":          {"kube-apiserver --audit-log-maxbackup=3", "kube-apiserver"},
	"apiserver-audit-size":            {"kube-apiserver --audit-log-maxsize=3", "kube-apiserver"},
	"apiserver-serviceaccount-lookup": {"kube-apiserver", "kube-apiserver --service-account-lookup=false"},
	"apiserver-serviceaccount-key":    {"kube-apiserver --service-account-key-file=/x", "kube-apiserver"},
	"apiserver-token-extension":       {"kube-apiserver --service-account-extend-token-expiration=false", "kube-apiserver"},
	"apiserver-etcd-certificate":      {"kube-apiserver --etcd-certfile=/x", "kube-apiserver"},
	"apiserver-etcd-authority":        {"kube-apiserver --etcd-cafile=/x", "kube-apiserver"},
	"apiserver-tls":                   {"kube-apiserver --tls-cert-file=/x", "kube-apiserver"},
	"apiserver-tls-version":           {"kube-apiserver", "kube-apiserver --tls-min-version=VersionTLS10"},
	"apiserver-client-authority":      {"kube-apiserver --client-ca-file=/x", "kube-apiserver"},
	"apiserver-encryption":            {"kube-apiserver --encryption-provider-config=/x", "kube-apiserver"},
	"apiserver-encryption-first":      {"kube-apiserver CONFIG secretbox", "kube-apiserver CONFIG identity"},
	"controller-profiling":            {"kube-controller-manager --profiling=false", "kube-controller-manager --profiling"},
	"controller-accounts":             {"kube-controller-manager --use-service-account-credentials", "kube-controller-manager"},
	"controller-key":                  {"kube-controller-manager --service-account-private-key-file=/x", "kube-controller-manager"},
	"controller-root-ca":              {"kube-controller-manager --root-ca-file=/x", "kube-controller-manager"},
	"controller-authorization":        {"kube-controller-manager --bind-address=127.0.0.1", "kube-controller-manager --bind-address=0.0.0.0"},
	"scheduler-profiling":             {"kube-scheduler --profiling=false", "kube-scheduler"},
	"scheduler-authorization":         {"kube-scheduler --authorization-kubeconfig=/x", "kube-scheduler"},
	"etcd-tls":                        {"etcd --cert-file=/x", "etcd"},
	"etcd-client-auth":                {"etcd --client-cert-auth", "etcd --client-cert-auth=false"},
	"etcd-auto-tls":                   {"etcd", "etcd --auto-tls"},
	"etcd-peer-tls":                   {"etcd --peer-cert-file=/x", "etcd"},
	"etcd-peer-auth":                  {"etcd --peer-client-cert-auth=true", "etcd"},
	"etcd-peer-auto-tls":              {"etcd", "etcd --peer-auto-tls=true"},
	"etcd-authority":                  {"etcd --trusted-ca-file=/x", "etcd"},

	"kubelet-anonymous":         {"authentication: {anonymous: {enabled: false}}", "authentication: {anonymous: {enabled: true}}"},
	"kubelet-authorization":     {"authorization: {mode: Webhook}", "authorization: {mode: AlwaysAllow}"},
	"kubelet-client-authority":  {"authentication: {x509: {clientCAFile: /x}}", "{}"},
	"kubelet-read-only-port":    {"readOnlyPort: 0", "readOnlyPort: 10255"},
	"kubelet-streaming-timeout": {"streamingConnectionIdleTimeout: 4h0m0s", "streamingConnectionIdleTimeout: 0s"},
	"kubelet-kernel-defaults":   {"protectKernelDefaults: true", "{}"},
	"kubelet-events":            {"eventRecordQPS: 50", "eventRecordQPS: -1"},
	"kubelet-certificate":       {"tlsCertFile: /x", "{}"},
	"kubelet-pid-limit":         {"podPidsLimit: 1024", "podPidsLimit: -1"},
	"kubelet-seccomp":           {"seccompDefault: true", "seccompDefault: false"},
	"kubelet-static-pods":       {"{}", "staticPodPath: /etc/kubernetes/manifests"},

	"workload-privileged":        {pod("securityContext: {privileged: false}", ""), pod("securityContext: {privileged: true}", "")},
	"workload-host-namespaces":   {pod("", ""), pod("", "hostPID: true")},
	"workload-escalation":        {pod("securityContext: {allowPrivilegeEscalation: false}", ""), pod("", "")},
	"workload-root":              {pod("", "securityContext: {runAsNonRoot: true}"), pod("securityContext: {runAsUser: 0}", "securityContext: {runAsNonRoot: true}")},
	"workload-capabilities":      {pod("securityContext: {capabilities: {drop: [ALL]}}", ""), pod("securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}}", "")},
	"workload-host-path":         {pod("", "volumes: [{name: v, emptyDir: {}}]"), pod("", "volumes: [{name: v, hostPath: {path: /etc}}]")},
	"workload-host-port":         {pod("ports: [{containerPort: 80}]", ""), pod("ports: [{hostPort: 80}]", "")},
	"workload-seccomp":           {pod("", "securityContext: {seccompProfile: {type: RuntimeDefault}}"), pod("", "")},
	"workload-root-file-system":  {pod("securityContext: {readOnlyRootFilesystem: true}", ""), pod("", "")},
	"workload-unpinned":          {pod("image: a@sha256:00", ""), pod("image: a:1", "")},
	"workload-unbounded":         {pod("resources: {limits: {memory: 1Mi}}", ""), pod("resources: {limits: {cpu: 1}}", "")},
	"workload-token":             {pod("", "automountServiceAccountToken: false"), pod("", "")},
	"workload-default-account":   {pod("", "serviceAccountName: own"), pod("", "serviceAccountName: default")},
	"workload-default-namespace": {pod("", ""), strings.ReplaceAll(pod("", ""), "namespace: a", "namespace: default")},
	"plaintext-env":              {pod("env: [{name: PASSWORD_FILE, value: /x}]", ""), pod("env: [{name: DB_PASSWORD, value: hunter2}]", "")},
	"plaintext-secret-env":       {pod("env: [{name: A, valueFrom: {configMapKeyRef: {name: x}}}]", ""), pod("env: [{name: A, valueFrom: {secretKeyRef: {name: x}}}]", "")},
	"plaintext-configmap":        {"kind: ConfigMap\ndata: {a: b}", "kind: ConfigMap\ndata: {a: '-----BEGIN EC PRIVATE KEY-----'}"},
	"namespace-policies": {"kind: Namespace\nmetadata: {name: a}\n---\nkind: NetworkPolicy\nmetadata: {namespace: a}\nspec: {podSelector: {}, policyTypes: [Ingress, Egress]}",
		"kind: Namespace\nmetadata: {name: a}\n---\nkind: NetworkPolicy\nmetadata: {namespace: a}\nspec: {podSelector: {}}"},
	"namespace-pod-security": {"kind: Namespace\nmetadata: {labels: {pod-security.kubernetes.io/enforce: restricted}}", "kind: Namespace\nmetadata: {name: a}"},

	"rbac-cluster-admin":   {binding("view", "Group", "people"), binding("cluster-admin", "Group", "people")},
	"rbac-secrets":         {role("''", "secrets", "create"), role("''", "secrets", "list")},
	"rbac-wildcard":        {role("apps", "deployments", "get"), role("apps", "'*'", "get")},
	"rbac-pods":            {role("''", "pods", "get"), role("apps", "deployments", "create")},
	"rbac-masters":         {binding("view", "Group", "people"), binding("view", "Group", "system:masters")},
	"rbac-anonymous":       {binding("system:public-info-viewer", "Group", "system:unauthenticated"), binding("view", "User", "system:anonymous")},
	"rbac-escalation":      {role("rbac.authorization.k8s.io", "roles", "get"), role("rbac.authorization.k8s.io", "clusterroles", "bind")},
	"rbac-volumes":         {role("''", "persistentvolumes", "get"), role("''", "persistentvolumes", "create")},
	"rbac-nodes-proxy":     {role("''", "nodes/metrics", "get"), role("''", "nodes/proxy", "get")},
	"rbac-approval":        {role("certificates.k8s.io", "certificatesigningrequests", "get"), role("certificates.k8s.io", "certificatesigningrequests/approval", "update")},
	"rbac-webhooks":        {role("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "get"), role("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "patch")},
	"rbac-tokens":          {role("''", "serviceaccounts", "create"), role("''", "serviceaccounts/token", "create")},
	"rbac-exec":            {role("''", "pods", "get"), role("''", "pods/exec", "create")},
	"rbac-default-account": {binding("view", "ServiceAccount", "own"), binding("view", "ServiceAccount", "default")},
}

func pod(container, spec string) string {
	return "kind: Pod\nmetadata: {name: p, namespace: a}\nspec:\n  containers:\n  - name: c\n    " + container + "\n  " + spec + "\n"
}

func role(group, resource, verb string) string {
	return "kind: ClusterRole\nmetadata: {name: r}\nrules: [{apiGroups: [" + group + "], resources: [" + resource + "], verbs: [" + verb + "]}]"
}

func binding(role, kind, name string) string {
	return "kind: ClusterRoleBinding\nmetadata: {name: b}\nroleRef: {name: '" + role + "'}\nsubjects: [{kind: " + kind + ", name: '" + name + "', namespace: a}]"
}

func evidence(t *testing.T, of, text string) Evidence {
	t.Helper()
	e := Evidence{Now: now}
	decode := func(text string) map[string]any {
		var m map[string]any
		if err := yaml.Unmarshal([]byte(text), &m); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		return m
	}
	switch of {
	case PartKubelet:
		e.Kubelets = map[string]map[string]any{"n": decode(text)}
	case PartObjects:
		for _, doc := range strings.Split(text, "\n---\n") {
			e.Objects = append(e.Objects, decode(doc))
		}
	default:
		args := strings.Fields(text)
		p := Process{Node: "n", Name: args[0], Args: args}
		if len(args) == 3 && args[1] == "CONFIG" {
			p.Configs = map[string]map[string]any{"encryption-provider-config": {"firstProvider": args[2]}}
		}
		e.Processes = []Process{p}
	}
	return e
}

// elsewhere are checks whose evidence is not text.
var elsewhere = map[string]struct{ right, wrong Evidence }{
	"plaintext-leaked":   {Evidence{}, Evidence{Leaked: map[string][]string{"ConfigMap/a/b": {"a/s"}}}},
	"file-key-mode":      {Evidence{Files: []File{{Mode: 0o600, Key: true}}}, Evidence{Files: []File{{Mode: 0o640, Key: true}}}},
	"file-writable":      {Evidence{Files: []File{{Mode: 0o644}}}, Evidence{Files: []File{{Mode: 0o664}}}},
	"file-owner":         {Evidence{Files: []File{{UID: 0}}}, Evidence{Files: []File{{UID: 1000}}}},
	"state-key-mode":     {Evidence{State: []File{{Mode: 0o644}}}, Evidence{State: []File{{Mode: 0o644, Key: true}}}},
	"state-plaintext":    {Evidence{State: []File{{Mode: 0o600, Key: true}}}, Evidence{State: []File{{Log: true, Secrets: []string{"a/b"}}}}},
	"certificate-expiry": {Evidence{Certificates: []Certificate{{NotAfter: now.Add(30 * 24 * time.Hour)}}}, Evidence{Certificates: []Certificate{{NotAfter: now.Add(24 * time.Hour)}}}},
}

func TestChecks(t *testing.T) {
	for _, c := range All() {
		t.Run(c.ID, func(t *testing.T) {
			if c.Title == "" || c.Reference == "" || c.Mend == "" || c.Of == "" || c.Severity.Rank() < 0 {
				t.Errorf("it is not complete: %+v", c)
			}
			e, given := elsewhere[c.ID]
			if text, ok := cases[c.ID]; ok {
				e.right, e.wrong, given = evidence(t, c.Of, text.right), evidence(t, c.Of, text.wrong), true
			}
			if !given {
				t.Fatal("it has no case that passes and none that fails")
			}
			e.right.Now, e.wrong.Now = now, now
			if found := c.run(e.right); len(found) > 0 {
				t.Errorf("what is right is found wrong: %+v", found)
			}
			if found := c.run(e.wrong); len(found) != 1 {
				t.Errorf("%d findings where there is one: %+v", len(found), found)
			}
		})
	}
}

func TestAnonymousHealthOnly(t *testing.T) {
	p := Process{Name: PartAPIServer, Configs: map[string]map[string]any{"authentication-config": {
		"anonymous": map[string]any{"enabled": true, "conditions": []any{map[string]any{"path": "/livez"}}}}}}
	r := Run(Evidence{Now: now, Processes: []Process{p}}, Exceptions{})
	for _, f := range r.Findings {
		if f.Check == "apiserver-anonymous" {
			t.Errorf("%+v", f)
		}
	}
}

func TestExpired(t *testing.T) {
	r := Run(Evidence{Now: now, Certificates: []Certificate{{Where: "x", NotAfter: now.Add(-time.Second)}}}, Exceptions{})
	if len(r.Findings) != 1 || r.Findings[0].Severity != Critical {
		t.Errorf("%+v", r.Findings)
	}
}

func TestSkippedIsNotPassed(t *testing.T) {
	r := Run(Evidence{Now: now, Missing: map[string]string{PartEtcd: "no etcd here"}}, Exceptions{})
	if len(r.Skipped) != 7 || r.Skipped[0].Reason != "no etcd here" {
		t.Errorf("skipped: %+v", r.Skipped)
	}
	for _, id := range r.Passed {
		if strings.HasPrefix(id, "etcd-") {
			t.Errorf("%s passed without being looked at", id)
		}
	}
}

// Of what was seen in part, what is found counts; that nothing is found does not, and neither does
// that an exception matches nothing.
func TestPartlySeen(t *testing.T) {
	e := evidence(t, PartObjects, pod("securityContext: {privileged: true}", ""))
	e.Partly = map[string]string{PartObjects: "one namespace was not seen"}
	r := Run(e, Exceptions{Exceptions: []Exception{{Check: "workload-host-path", Object: "Pod/a/p", Reason: "because"}}})
	if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Check == "workload-privileged" }) {
		t.Errorf("findings: %+v", r.Findings)
	}
	if slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Check == UnusedException }) {
		t.Errorf("an exception is called unused: %+v", r.Findings)
	}
	if slices.Contains(r.Passed, "workload-host-path") || !slices.Contains(r.Skipped, Skipped{"workload-host-path", "one namespace was not seen"}) {
		t.Errorf("passed %v, skipped %v", r.Passed, r.Skipped)
	}
}

func TestExceptions(t *testing.T) {
	x, err := LoadExceptions([]byte(`apiVersion: orrery.dev/v1alpha1
kind: AuditExceptions
exceptions:
- {check: workload-host-path, object: Pod/a/*, reason: it makes volumes}
- {check: workload-privileged, object: Pod/a/p, reason: matches nothing}
- {check: workload-privileged, object: Pod/b/q, reason: not deployed, component: absent}
- {check: workload-privileged, object: Pod/b/r, reason: one of two is not, component: c absent}
- {check: etcd-tls, object: process/n/etcd, reason: not looked at}
`))
	if err != nil {
		t.Fatal(err)
	}
	e := evidence(t, PartObjects, pod("", "volumes: [{name: v, hostPath: {path: /etc}}]"))
	e.Missing = map[string]string{PartEtcd: "none"}
	r := Run(e, x)
	if len(r.Excepted) != 1 || r.Excepted[0].Excepted != "it makes volumes" {
		t.Errorf("excepted: %+v", r.Excepted)
	}
	var unused []string
	for _, f := range r.Findings {
		if f.Check == UnusedException {
			unused = append(unused, f.Object)
		}
	}
	if len(unused) != 1 || unused[0] != "Pod/a/p" {
		t.Errorf("exceptions that match nothing: %v", unused)
	}
	for _, wrong := range []string{
		"{check: workload-privileged, object: Pod/a/p}", "{check: workload-privileged, object: '*', reason: x}",
		"{check: no-such, object: a, reason: x}", "{check: workload-privileged, object: a, reason: x, more: y}",
	} {
		if _, err := LoadExceptions([]byte("apiVersion: orrery.dev/v1alpha1\nkind: AuditExceptions\nexceptions: [" + wrong + "]")); err == nil {
			t.Errorf("accepted: %s", wrong)
		}
	}
	if _, err := LoadExceptions([]byte("kind: Other")); err == nil {
		t.Error("another kind is accepted")
	}
}

func TestSARIF(t *testing.T) {
	e := evidence(t, PartObjects, pod("securityContext: {privileged: true}", ""))
	e.Missing = map[string]string{PartEtcd: "none"}
	r := Run(e, Exceptions{Exceptions: []Exception{{Check: "workload-root", Object: "Pod/a/p", Reason: "because"}}})
	b, err := r.SARIF("1")
	if err != nil {
		t.Fatal(err)
	}
	var log struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			Results []struct {
				RuleID       string
				RuleIndex    int
				Suppressions []struct{ Justification string }
			}
		}
	}
	if err := json.Unmarshal(b, &log); err != nil {
		t.Fatal(err)
	}
	if log.Version != "2.1.0" || len(log.Runs) != 1 || len(log.Runs[0].Results) != len(r.Findings)+1 {
		t.Fatalf("%s", b)
	}
	suppressed := 0
	for _, x := range log.Runs[0].Results {
		if log.Runs[0].Tool.Driver.Rules[x.RuleIndex].ID != x.RuleID {
			t.Errorf("rule %d is not %s", x.RuleIndex, x.RuleID)
		}
		suppressed += len(x.Suppressions)
	}
	if suppressed != 1 || r.AtLeast(Critical) != 1 {
		t.Errorf("%d suppressed, %d critical", suppressed, r.AtLeast(Critical))
	}
}
