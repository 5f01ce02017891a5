package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/orrery-dev/orrery/internal/kube"
)

// TestSecurity attacks an environment of one node with the components that every platform has.
// ORRERY_E2E_SECURITY=1 runs it: it takes two minutes besides `up`.
func TestSecurity(t *testing.T) {
	if os.Getenv("ORRERY_E2E_SECURITY") != "1" {
		t.Skip("some six hundred attacks on an environment of its own take minutes: ORRERY_E2E_SECURITY=1 runs them")
	}
	network := core
	if limits() == "" { // with policies, where this machine can
		network = "network: {plugin: auto}\ncomponents: [cilium, local-path, metrics-server, nats]\n"
	}
	e := newEnvironment(t, "attack", "servers: 1\nagents: 0\n"+network)
	e.up(t)
	attacks(t, e)
}

// openOnPurpose is what answers whoever asks, and why that may be. All else has to be refused.
// The first pattern is of the process that listens, the second of what was got from it.
var openOnPurpose = []struct{ who, what, why string }{
	{`.`, `^https? /(livez|readyz|healthz)$`, "health says yes or no, and nothing else"},
	{`^(kubernetes|kube-apiserver|exe|orrery)`, `^https /version$`, "the version of Kubernetes, as every cluster has it"},
	{`^coredns`, `.`, "names of Services and pods, to whom the network policy lets in; its metrics and health say how many were asked"},
	{`^nats-server`, `^http /(|varz|healthz|metrics)$`, "monitoring, in the pod's network: a network policy lets Prometheus in, and nobody else"},
	{`^nats-server`, `^http /connz`, "who is connected from where, on the same port, which NATS cannot open in part: a user's JWT is no secret," +
		" it signs in with a key that NATS never has"},
	{`^(etcd|kubernetes)`, `^http /(metrics|health)$`, "etcd's metrics on the fabric, which pods do not reach without a rule: numbers, no keys"},
	{`^kube-proxy`, `^http /metrics$`, "numbers, on the fabric, for Prometheus: it has no way to ask who somebody is"},
	{`^kube-proxy`, `^http /configz$`, "its settings, which Kubernetes serves beside the metrics and has no switch for: they name files and hold no key;" +
		" on loopback alone nobody would see whether it works. Without it: plugin cilium, which replaces it"},
	{`^local-path`, `^http /metrics$`, "numbers about volumes, for Prometheus"},
	{`^metrics-server`, `^https /version$`, "the version of an aggregated API, as Kubernetes has it"},
	{`^registry`, `^http /(v2/)?$`, "whoever is on the machine may pull: what is in images is public by design, and no secret is in any"},
	{`^exe`, `^http /(v2/)?$`, "the mirror's gate: reading is free, writing needs a password"},
	{`^pulse`, `^http /(|metrics)$`, "the page of a service of this platform"},
	{`^(kube-state-metrics|otelcol|prometheus|alertmanager|operator|grafana)`, `.`, "telemetry inside the cluster: a network policy says who reaches it"},
	{`^(hubble|cilium)`, `.`, "Cilium's agents answer on loopback of their node and to Prometheus"},
}

// attempt is one attack, and what came of it.
type attempt struct{ what, refusedBy, open string }

// attacker notes attempts. All are printed: a suite that says only "ok" proves nothing.
type attacker struct {
	*environment
	t     *testing.T
	tried []attempt
}

func (a *attacker) refused(what, by string) { a.tried = append(a.tried, attempt{what, by, ""}) }

func (a *attacker) succeeded(what, got string) { a.tried = append(a.tried, attempt{what, "", got}) }

func (a *attacker) purpose(what, why string) {
	a.tried = append(a.tried, attempt{what, "open on purpose: " + why, ""})
}

func attacks(t *testing.T, e *environment) {
	for name, attack := range map[string]func(*attacker){
		"ports": ports, "other-user": otherUser, "escapes": escapes, "accounts": accounts, "stolen-token": stolenTokens,
		"stolen-credential": stolenCredential,
		"namespaces":        crossNamespace, "web-pages": webPages, "links": nodeLinks,
	} {
		t.Run(name, func(t *testing.T) {
			a := &attacker{environment: e, t: t}
			attack(a)
			if len(a.tried) == 0 && !t.Skipped() {
				t.Error("nothing was tried")
			}
			for _, x := range a.tried {
				if x.open != "" {
					t.Errorf("NOT REFUSED: %s: %s", x.what, x.open)
					continue
				}
				t.Logf("%s: %s", x.what, x.refusedBy)
			}
		})
	}
}

var asked = []string{
	"/", "/metrics", "/api/v1/secrets", "/api/v1/nodes", "/version", "/healthz", "/livez", "/readyz", "/pods", "/configz", "/runningpods/", "/logs/",
	"/debug/pprof/", "/debug/flags/v", "/v2/", "/v2/_catalog", "/v2/keys", "/varz", "/connz", "/connz?auth=1&subs=1", "/health", "/stats/summary", "/containerLogs/a/b/c",
}

// credential is what nobody may be answered, on purpose or not: keys, seeds of NATS' keys, tokens of Kubernetes, passwords.
var credential = regexp.MustCompile(`PRIVATE KEY|eyJhbGciOi[\w-]+\.|\bS[AOU][A-Z2-7]{56}\b|"(password|passwd|pass|seed|secret|token|auth_token)": ?"[^"]+"`)

// ports: whatever listens, found by looking, is asked by who has no right to.
func ports(a *attacker) {
	t := a.t
	stranger := strings.TrimSpace(a.run(t, "kubectl", "-n", "default", "create", "token", "default"))
	credentials := map[string]string{"anonymous": "", "wrong token": "Bearer eyJhbGciOiJub25lIn0.e30.", "token of default/default": "Bearer " + stranger}
	all := a.listeners(t)
	if len(all) < 8 {
		t.Errorf("only %d ports were found: %v", len(all), all)
	}
	for _, l := range all {
		for _, who := range slices.Sorted(maps.Keys(credentials)) {
			a.knock(l, who, credentials[who])
		}
	}
}

func (a *attacker) knock(l listening, who, authorization string) {
	at := fmt.Sprintf("%s (%s) as %s", l.address, l.process, who)
	said := l.speak(a.t.Context())
	switch {
	case strings.HasPrefix(said.greeting, "INFO "):
		a.nats(l, at, authorization)
		return
	case said.protocol == "":
		a.refused(at, cmpOr(said.refusal, "it speaks neither HTTP nor TLS nor NATS, and answers nothing"))
		return
	case said.refusal != "":
		a.refused(at, said.protocol+": "+said.refusal)
		return
	}
	refusals := map[string]int{}
	client := l.client(said.protocol)
	defer client.CloseIdleConnections()
	for _, path := range asked {
		status, body, err := get(a.t.Context(), client, said.protocol+"://"+l.address+path, authorization, "")
		what := said.protocol + " " + path
		switch {
		case err != nil:
			refusals[regexp.MustCompile(`^.*: `).ReplaceAllString(err.Error(), "")]++
		case status >= 200 && status < 300:
			if found := credential.FindString(body); found != "" {
				a.succeeded(at, fmt.Sprintf("%s: a credential: %q", what, found))
			} else if why := purposeOf(l.process, what); why != "" {
				a.purpose(at+", "+what, why)
			} else {
				a.succeeded(at, fmt.Sprintf("%s: %d %q", what, status, last(body, 120)))
			}
		default:
			refusals[fmt.Sprintf("%s %d", http.StatusText(status), status)]++
		}
	}
	for _, by := range slices.Sorted(maps.Keys(refusals)) {
		a.refused(at, fmt.Sprintf("%s: %d paths: %s", said.protocol, refusals[by], by))
	}
}

func purposeOf(process, what string) string {
	for _, o := range openOnPurpose {
		if regexp.MustCompile(o.who).MatchString(process) && regexp.MustCompile(o.what).MatchString(what) {
			return o.why
		}
	}
	return ""
}

// nats: without credentials, or with wrong ones, nothing may be published.
func (a *attacker) nats(l listening, at, authorization string) {
	options := `{"verbose":true}`
	if authorization != "" {
		options = fmt.Sprintf(`{"verbose":true,"user":"app","pass":%q,"auth_token":%q}`, authorization, authorization)
	}
	answer := l.say(a.t.Context(), "CONNECT "+options+"\r\nPUB a 1\r\nx\r\nPING\r\n", "-ERR", "PONG")
	if strings.Contains(answer, "-ERR") || !strings.Contains(answer, "PONG") {
		a.refused(at, "NATS: "+strings.TrimSpace(regexp.MustCompile(`(?s)INFO .*?\r\n`).ReplaceAllString(answer, "")))
		return
	}
	a.succeeded(at, "NATS: "+last(answer, 200))
}

// otherUser: somebody else on this machine.
func otherUser(a *attacker) {
	t := a.t
	files := []string{a.state(), a.state("kubeconfig"), a.state("pki"), a.state("pki", "ca.key"), a.state("pki", "mirror-password"), a.state("signing", "cosign.key"), a.state("nodes")}
	pids := slices.Sorted(maps.Keys(a.processes(t)))
	if len(pids) > 40 {
		pids = pids[:40]
	}
	for _, pid := range pids {
		for _, f := range []string{"environ", "mem", "root/etc/kubernetes/pki", "cwd/."} {
			files = append(files, fmt.Sprintf("/proc/%d/%s", pid, f))
		}
	}
	sockets, _ := filepath.Glob(a.state("*.sock"))
	sockets = append(sockets, globs(a.state("*", "*.sock"), a.state("*", "*", "*.sock"))...)
	done := make(chan struct{})
	go asNobody(t, done, func() {
		for _, f := range files {
			if o, err := os.Open(f); err == nil {
				_, err = o.Read(make([]byte, 1))
				o.Close()
				if err == nil {
					a.succeeded("another user reads "+f, "it is read")
					continue
				}
				a.refused("another user reads "+f, err.Error())
			} else {
				a.refused("another user reads "+f, err.Error())
			}
		}
		for _, s := range sockets {
			if err := dialUnix(s); err == nil {
				a.succeeded("another user connects to "+s, "it is accepted")
			} else {
				a.refused("another user connects to "+s, err.Error())
			}
		}
	})
	<-done
	st := a.status(t)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		for _, path := range []string{"/v2/evil/blobs/uploads/", "/v2/evil/manifests/latest"} {
			for _, password := range []string{"", "Basic " + base64.StdEncoding.EncodeToString([]byte("orrery:wrong"))} {
				status, _, err := send(t.Context(), http.DefaultClient, method, "http://"+st.Endpoints["registry"]+path, password, "", nil)
				a.judge(fmt.Sprintf("another user writes to the mirror: %s %s (password: %t)", method, path, password != ""), status, err)
			}
		}
	}
}

func (a *attacker) judge(what string, status int, err error) {
	switch {
	case err != nil:
		a.refused(what, err.Error())
	case status < 300 || status == http.StatusSwitchingProtocols:
		a.succeeded(what, fmt.Sprint("status ", status))
	default:
		a.refused(what, fmt.Sprintf("%d %s", status, http.StatusText(status)))
	}
}

// hardened is a pod that would be let in, were it not for one change, and for its image.
func hardened(namespace string, change func(meta, pod, container map[string]any)) []byte {
	type m = map[string]any
	container := m{"name": "x", "image": "registry.orrery.internal/evil:latest",
		"securityContext": m{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": m{"drop": []string{"ALL"}}},
		"resources":       m{"limits": m{"cpu": "10m", "memory": "16Mi"}, "requests": m{"cpu": "1m", "memory": "16Mi"}}}
	pod := m{"automountServiceAccountToken": false, "containers": []any{container},
		"securityContext": m{"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": m{"type": "RuntimeDefault"}}}
	meta := m{"name": "escape", "namespace": namespace}
	change(meta, pod, container)
	b, _ := json.Marshal(m{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod})
	return b
}

// escapes: pods that would get at their node, made by who may make pods. Admission says no; each
// change is tried with an image of the lock, so that it is not the image that is refused.
func escapes(a *attacker) {
	t := a.t
	type m = map[string]any
	volume := func(v m) func(meta, pod, c m) {
		return func(_, pod, c m) {
			v["name"] = "v"
			pod["volumes"] = []any{v}
			c["volumeMounts"] = []any{m{"name": "v", "mountPath": "/v"}}
		}
	}
	security := func(field string, value any) func(meta, pod, c m) {
		return func(_, _, c m) { c["securityContext"].(m)[field] = value }
	}
	inPod := func(field string, value any) func(meta, pod, c m) { return func(_, pod, _ m) { pod[field] = value } }
	image, node := a.lockedImage(t), slices.Sorted(maps.Keys(a.nodes(t)))[0]
	// Where images are held to the lock; in apps a person tries their own, and is told.
	const guarded = "messaging"
	changes := map[string]func(meta, pod, c m){
		"hostPath":            volume(m{"hostPath": m{"path": "/"}}),
		"hostNetwork":         inPod("hostNetwork", true),
		"hostPID":             inPod("hostPID", true),
		"hostIPC":             inPod("hostIPC", true),
		"privileged":          security("privileged", true),
		"SYS_ADMIN":           security("capabilities", m{"add": []string{"SYS_ADMIN"}, "drop": []string{"ALL"}}),
		"root":                security("runAsUser", 0),
		"escalation":          security("allowPrivilegeEscalation", true),
		"unconfined seccomp":  security("seccompProfile", m{"type": "Unconfined"}),
		"procMount":           func(_, pod, c m) { pod["hostUsers"] = false; c["securityContext"].(m)["procMount"] = "Unmasked" },
		"hostPort":            func(_, _, c m) { c["ports"] = []any{m{"containerPort": 80, "hostPort": 80}} },
		"image volume":        volume(m{"image": m{"reference": "registry.orrery.internal/evil:latest"}}),
		"unlocked image":      func(_, _, c m) { c["image"] = "registry.orrery.internal/evil:latest" },
		"unlocked init image": func(_, pod, _ m) { pod["initContainers"] = []any{m{"name": "i", "image": "evil:latest"}} },
		"mirror pod annotation": func(meta, pod, _ m) {
			meta["annotations"], pod["nodeName"], pod["hostPID"] = m{"kubernetes.io/config.mirror": "x"}, node, true
		},
		"mirror pod, unlocked image": func(meta, pod, c m) {
			meta["annotations"], pod["nodeName"] = m{"kubernetes.io/config.mirror": "x"}, node
			c["image"] = "registry.orrery.internal/evil:latest"
		},
	}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		manifest := hardened(guarded, func(meta, pod, c m) { c["image"] = image; changes[name](meta, pod, c) })
		r := a.invoke(t.Context(), bytes.NewReader(manifest), "kubectl", "create", "--dry-run=server", "-f", "-")
		a.said("pod in "+guarded+" with "+name, r)
	}
	// Were it refused for another reason than its change, nothing would be proven.
	if r := a.invoke(t.Context(), bytes.NewReader(hardened(guarded, func(_, _, c m) { c["image"] = image })), "kubectl", "create", "--dry-run=server", "-f", "-"); r.code != 0 {
		t.Errorf("the pod without any change is refused too: %v", r)
	}
	a.ephemeral()
}

func (a *attacker) said(what string, r result) {
	if r.code == 0 {
		a.succeeded(what, strings.TrimSpace(r.stdout))
		return
	}
	a.refused(what, last(strings.TrimSpace(r.stderr), 300))
}

// lockedImage is one that pods may run.
func (a *attacker) lockedImage(t *testing.T) string {
	images := a.run(t, "kubectl", "get", "pods", "-A", "-o", `jsonpath={range .items[*]}{.spec.containers[0].image}{"\n"}{end}`)
	for line := range strings.Lines(images) {
		if strings.Contains(line, "@sha256:") {
			return strings.TrimSpace(line)
		}
	}
	t.Fatalf("no pod has an image of the lock: %s", images)
	return ""
}

// ephemeral puts another container into a pod that runs.
func (a *attacker) ephemeral() {
	t := a.t
	pod := decode[map[string]any](t, a.run(t, "kubectl", "-n", "messaging", "get", "pod", "nats-0", "-o", "json"))
	pod["spec"].(map[string]any)["ephemeralContainers"] = []any{map[string]any{"name": "x", "image": "registry.orrery.internal/evil:latest", "securityContext": map[string]any{"privileged": true}}}
	b, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	r := a.invoke(t.Context(), bytes.NewReader(b), "kubectl", "replace", "--raw", "/api/v1/namespaces/messaging/pods/nats-0/ephemeralcontainers?dryRun=All", "-f", "-")
	a.said("a privileged ephemeral container in nats-0", r)
}

// accounts: with the token of one account at what belongs to others.
func accounts(a *attacker) {
	t := a.t
	names := strings.Fields(a.run(t, "kubectl", "get", "serviceaccounts", "-A", "-o", `jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}`))
	node := slices.Sorted(maps.Keys(a.nodes(t)))[0]
	client, server := a.api(t)
	for _, name := range names {
		ns, account, _ := strings.Cut(name, "/")
		if ns == "kube-system" && regexp.MustCompile(`-controller$|^(node-controller|namespace-controller|expand-controller|generic-garbage-collector|root-ca-cert-publisher|cronjob-.*|horizontal-.*|kube-proxy|persistent-volume-binder|pv-.*|pvc-.*|resource-claim-.*|service-.*|token-cleaner|bootstrap-signer)$`).MatchString(account) {
			continue // those of Kubernetes' own controllers, whose tokens only these ask for
		}
		token := "Bearer " + strings.TrimSpace(a.run(t, "kubectl", "-n", ns, "create", "token", account))
		for _, try := range []struct{ method, path, body string }{
			{"GET", "/api/v1/secrets", ""},
			{"GET", "/api/v1/nodes/" + node + "/proxy/pods", ""},
			{"POST", "/api/v1/nodes/" + node + "/proxy/run/messaging/nats-0/nats?cmd=id", ""},
			{"POST", "/api/v1/namespaces/messaging/pods/nats-0/exec?command=id&stdout=true", ""},
			{"POST", "/api/v1/namespaces/kube-system/serviceaccounts/default/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}`},
			{"POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings?dryRun=All", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"evil"},` +
				`"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"Group","name":"system:authenticated"}]}`},
			{"POST", "/api/v1/namespaces/kube-system/pods?dryRun=All", string(hardened("kube-system", func(_, _, _ map[string]any) {}))},
			{"DELETE", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies?dryRun=All", ""},
		} {
			status, _, err := send(t.Context(), client, try.method, server+try.path, token, "", strings.NewReader(try.body))
			a.judge(fmt.Sprintf("%s: %s %s", name, try.method, try.path), status, err)
		}
	}
}

// stolenTokens: one that ended, one whose object is gone, one that says of itself what it likes.
func stolenTokens(a *attacker) {
	t := a.t
	client, server := a.api(t)
	me := func(token string) (int, error) {
		status, _, err := send(t.Context(), client, "POST", server+"/apis/authentication.k8s.io/v1/selfsubjectreviews", "Bearer "+token, "",
			strings.NewReader(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`))
		return status, err
	}
	good := strings.TrimSpace(a.run(t, "kubectl", "-n", "default", "create", "token", "default"))
	if status, err := me(good); err != nil || status != http.StatusCreated {
		t.Fatalf("a good token: %d %v", status, err)
	}
	for _, after := range []struct {
		what string
		exp  time.Duration
		ok   bool
	}{{"signed again as it was, which must be accepted", time.Hour, true}, {"that ended a minute ago", -time.Minute, false}} {
		status, err := me(resign(t, good, a.state("pki", "sa.key"), after.exp))
		if after.ok {
			if status != http.StatusCreated {
				t.Errorf("a token %s: %d %v", after.what, status, err)
			}
			continue
		}
		a.judge("a token "+after.what, status, err)
	}
	parts := strings.Split(good, ".")
	status, err := me(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".")
	a.judge("a token without a signature", status, err)

	a.run(t, "kubectl", "-n", "default", "create", "secret", "generic", "bound")
	bound := strings.TrimSpace(a.run(t, "kubectl", "-n", "default", "create", "token", "default", "--bound-object-kind=Secret", "--bound-object-name=bound"))
	if status, err := me(bound); err != nil || status != http.StatusCreated {
		t.Errorf("a token bound to a Secret that is there: %d %v", status, err)
	}
	a.run(t, "kubectl", "-n", "default", "delete", "secret", "bound")
	// The API server remembers for ten seconds who it let in.
	took := eventually(t, "a token whose object is gone is refused", time.Minute, func(context.Context) error {
		if status, err := me(bound); err == nil && status != http.StatusUnauthorized {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
	a.refused("a token whose object was deleted", fmt.Sprintf("401 Unauthorized, after %.0f s", took.Seconds()))
}

// resign gives a token another end, and signs it with the cluster's own key: a token that was good
// until then.
func resign(t *testing.T, token, keyFile string, left time.Duration) string {
	t.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	claims := decode[map[string]any](t, string(payload))
	now := time.Now()
	claims["exp"], claims["iat"], claims["nbf"] = now.Add(left).Unix(), now.Add(left-time.Hour).Unix(), now.Add(left-time.Hour).Unix()
	payload, err = json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
	b, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	sum := sha256.Sum256([]byte(signed))
	var signature []byte
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		signature = signES256(t, key, sum[:])
	} else {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		switch key := key.(type) {
		case *ecdsa.PrivateKey:
			signature = signES256(t, key, sum[:])
		case *rsa.PrivateKey:
			if signature, err = rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func signES256(t *testing.T, key *ecdsa.PrivateKey, sum []byte) []byte {
	r, s, err := ecdsa.Sign(rand.Reader, key, sum)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out
}

// stolenCredential: who took a credential of NATS has what it may until it ends, and is cut off then.
func stolenCredential(a *attacker) {
	t := a.t
	client, err := kube.Connect(a.state("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends := time.Now().Add(20 * time.Second)
	creds, err := client.NATSUser(t.Context(), ends)
	if err != nil {
		t.Fatal(err)
	}
	pods, options := natsServers(t, a.environment, client)
	options = append(options, nats.UserCredentialBytes(creds), nats.SetCustomDialer(nil))
	// Through the API server: no policy lets one server's network to another's clients.
	servers := map[string]string{}
	for name := range pods {
		address, stop, err := client.PortForward(t.Context(), "messaging", name, 4222)
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		servers[name] = "nats://" + address
	}
	cut := make(chan error, len(servers))
	for name, url := range servers {
		conn, err := nats.Connect(url, append(slices.Clone(options), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
			nats.ClosedHandler(func(c *nats.Conn) { cut <- c.LastError() }))...)
		if err != nil {
			t.Fatalf("%s, before its end: %v", name, err)
		}
		defer conn.Close()
	}
	for range servers {
		select {
		case why := <-cut:
			if early := time.Until(ends); early > time.Second {
				t.Errorf("cut off %s before its end: %v", early, why)
			}
			a.refused("a NATS credential that ended while it was connected", fmt.Sprintf("cut off %s after its end: %v", time.Since(ends).Round(time.Millisecond), why))
		case <-time.After(time.Until(ends) + 30*time.Second):
			a.succeeded("a NATS credential that ended while it was connected", "it is connected still")
		}
	}
	for name, url := range servers {
		what := "a NATS credential after its end, at " + name
		closed := make(chan struct{})
		conn, err := nats.Connect(url, append(slices.Clone(options), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))...)
		if err != nil {
			a.refused(what, err.Error())
			continue
		}
		// The server counts whole seconds: in the one of the end it lets in, and cuts off at once.
		select {
		case <-closed:
			a.refused(what, fmt.Sprintf("cut off at once: %v", conn.LastError()))
		case <-time.After(2 * time.Second):
			a.succeeded(what, "it is connected")
		}
		conn.Close()
	}
}

// crossNamespace: from the network of NATS, whose policy lets out to its peers and DNS only, to
// every port of pods in other namespaces.
func crossNamespace(a *attacker) {
	t := a.t
	st := a.status(t)
	if plugin := st.Network; plugin != "cilium" {
		t.Skipf("the network plugin %q enforces no policies", plugin)
	}
	var from int
	all := a.processes(t)
	for pid, name := range all {
		if name == "nats-server" {
			from = pid
		}
	}
	if from == 0 {
		t.Fatal("no NATS server was found")
	}
	targets := a.run(t, "kubectl", "get", "pods", "-A", "--field-selector=status.phase=Running", "-o",
		`jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name} {.status.podIP} {.spec.containers[*].ports[*].containerPort}{"\n"}{end}`)
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] == "messaging" {
			continue
		}
		for _, port := range f[3:] {
			if f[0] == "kube-system" && port == "53" {
				continue
			}
			what := fmt.Sprintf("from nats to %s/%s:%s", f[0], f[1], port)
			conn, err := dialIn(t.Context(), from, f[2]+":"+port, 2*time.Second)
			if err != nil {
				a.refused(what, err.Error())
				continue
			}
			conn.Close()
			a.succeeded(what, "it is connected")
		}
	}
}

// webPages: a page in a person's browser asks what listens on their machine, under its own name
// (DNS rebinding) or from its own origin.
func webPages(a *attacker) {
	t := a.t
	console, stop := opening(t, a.environment, "console")
	defer stop()
	mirror := "http://" + a.status(t).Endpoints["registry"]
	for name, at := range map[string]string{"console": console, "mirror": mirror + "/v2/"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			for what, header := range map[string][2]string{
				"under the host name evil.example": {"Host", "evil.example"}, "with a port": {"Host", "evil.example:80"}, "from the origin evil.example": {"Origin", "http://evil.example"},
			} {
				if name == "console" && header[0] == "Origin" && method == http.MethodGet {
					at = strings.Split(at, "?")[0] // a page of another origin knows no token of the address
				}
				status, body, err := sendWith(t.Context(), method, at, header[0], header[1])
				_ = body
				a.judge(fmt.Sprintf("%s: %s %s", name, method, what), status, err)
			}
		}
	}
}

// nodeLinks: a node lays links in its own folders, towards a file of the host; what the host then
// reads of the node must not have it.
func nodeLinks(a *attacker) {
	t := a.t
	secret := "sentinel-" + rand.Text()
	target := filepath.Join(t.TempDir(), "of-the-host")
	if err := os.WriteFile(target, []byte(secret+" PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	node := slices.Sorted(maps.Keys(a.nodes(t)))[0]
	laid := 0
	for _, dir := range []string{"log", "var", "etc", "var/log", "var/lib", "var/log/pods", "etc/kubernetes"} {
		for _, name := range []string{"evil.log", "evil.json", "evil.conf"} {
			link := a.state("nodes", node, dir, name)
			if os.Symlink(target, link) == nil {
				laid++
				t.Cleanup(func() { _ = os.Remove(link) })
			}
		}
	}
	if laid == 0 {
		t.Fatal("no link could be laid")
	}
	archive := filepath.Join(t.TempDir(), "support.tar.gz")
	a.run(t, "support", "--to", archive)
	a.lookFor(secret, "orrery support", unpack(t, archive))
	for _, args := range [][]string{{"logs", node + "/evil"}, {"logs", node + "/../../evil"}, {"audit", "-o", "json"}} {
		r := a.try(t, args...)
		a.lookFor(secret, "orrery "+strings.Join(args, " "), map[string][]byte{"output": []byte(r.stdout + r.stderr)})
	}
}

func (a *attacker) lookFor(secret, what string, in map[string][]byte) {
	for name, content := range in {
		if bytes.Contains(content, []byte(secret)) {
			a.succeeded(what+" after a node laid links", name+" holds a file of the host")
			return
		}
	}
	a.refused(what+" after a node laid links", "links are not followed")
}
