package audit

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const workloads = "Deployment StatefulSet DaemonSet Job CronJob Pod ReplicaSet"

// podOf is the spec of the pods that an object makes; nil for what another object made.
func podOf(o Object) any {
	if len(list(o, "metadata", "ownerReferences")) > 0 {
		return nil
	}
	switch str(o, "kind") {
	case "Pod":
		return at(o, "spec")
	case "CronJob":
		return at(o, "spec", "jobTemplate", "spec", "template", "spec")
	}
	return at(o, "spec", "template", "spec")
}

func containers(pod any) []any {
	return slices.Concat(list(pod, "initContainers"), list(pod, "containers"), list(pod, "ephemeralContainers"))
}

// perPod and perContainer make checks of functions that say what is wrong, or nothing.
func perPod(f func(pod any) string) func(Evidence) []Finding {
	return each(workloads, func(o Object) []string {
		if pod := podOf(o); pod != nil {
			if wrong := f(pod); wrong != "" {
				return []string{wrong}
			}
		}
		return nil
	})
}

func perContainer(f func(pod, c any) string) func(Evidence) []Finding {
	return each(workloads, func(o Object) []string {
		var all []string
		pod := podOf(o)
		for _, c := range containers(pod) {
			if wrong := f(pod, c); wrong != "" {
				all = append(all, "container "+str(c, "name")+": "+wrong)
			}
		}
		return all
	})
}

// secured is a field of a container's security context, or of its pod's.
func secured(pod, c any, name string) any {
	if v := at(c, "securityContext", name); v != nil {
		return v
	}
	return at(pod, "securityContext", name)
}

// secretName is a name of what should not be in the open.
var secretName = regexp.MustCompile(`(?i)(passw(or)?d|secret|token|api_?key|private_?key|credential)s?$`)

func workloadChecks() []Check {
	check := func(id string, s Severity, reference, title, mend string, run func(Evidence) []Finding) Check {
		return Check{ID: id, Severity: s, Reference: reference, Title: title, Mend: mend, Of: PartObjects, run: run}
	}
	return []Check{
		check("workload-privileged", Critical, "CIS 5.2.2", "No container is privileged", "take securityContext.privileged away",
			perContainer(func(_, c any) string {
				if at(c, "securityContext", "privileged") == true {
					return "it is privileged"
				}
				return ""
			})),
		check("workload-host-namespaces", High, "CIS 5.2.3 · CIS 5.2.4 · CIS 5.2.5", "No pod shares namespaces of its node", "take hostPID, hostIPC and hostNetwork away",
			perPod(func(pod any) string {
				var has []string
				for _, f := range []string{"hostPID", "hostIPC", "hostNetwork"} {
					if at(pod, f) == true {
						has = append(has, f)
					}
				}
				return strings.Join(has, ", ")
			})),
		check("workload-escalation", High, "CIS 5.2.6", "No process gets more rights than its parent", "securityContext.allowPrivilegeEscalation: false",
			perContainer(func(_, c any) string {
				if at(c, "securityContext", "allowPrivilegeEscalation") != false {
					return "allowPrivilegeEscalation is not false"
				}
				return ""
			})),
		check("workload-root", High, "CIS 5.2.7", "No container runs as root", "securityContext.runAsNonRoot: true and a runAsUser of its own",
			perContainer(func(pod, c any) string {
				if user, ok := number(secured(pod, c, "runAsUser")); ok && user == 0 {
					return "runAsUser is 0"
				}
				if secured(pod, c, "runAsNonRoot") != true {
					return "runAsNonRoot is not true"
				}
				return ""
			})),
		check("workload-capabilities", High, "CIS 5.2.8 · CIS 5.2.9 · CIS 5.2.10", "No container has capabilities", "capabilities: {drop: [ALL]} and no add",
			perContainer(func(_, c any) string {
				if added := texts(c, "securityContext", "capabilities", "add"); len(added) > 0 {
					return "adds " + strings.Join(added, ", ")
				}
				if !slices.Contains(texts(c, "securityContext", "capabilities", "drop"), "ALL") {
					return "does not drop ALL"
				}
				return ""
			})),
		check("workload-host-path", High, "CIS 5.2.12", "No pod mounts a folder of its node", "use a claim, an emptyDir or a ConfigMap",
			perPod(func(pod any) string {
				var has []string
				for _, v := range list(pod, "volumes") {
					if p := str(v, "hostPath", "path"); p != "" {
						has = append(has, p)
					}
				}
				return strings.Join(has, ", ")
			})),
		check("workload-host-port", Medium, "CIS 5.2.13", "No container listens on a port of its node", "use a Service",
			perContainer(func(_, c any) string {
				for _, p := range list(c, "ports") {
					if n, ok := number(at(p, "hostPort")); ok && n != 0 {
						return fmt.Sprintf("hostPort %v", n)
					}
				}
				return ""
			})),
		check("workload-seccomp", Medium, "CIS 5.7.2", "Every container has a seccomp profile", "securityContext.seccompProfile.type: RuntimeDefault",
			perContainer(func(pod, c any) string {
				if kind := str(secured(pod, c, "seccompProfile"), "type"); kind != "RuntimeDefault" && kind != "Localhost" {
					return fmt.Sprintf("its seccomp profile is %q", kind)
				}
				return ""
			})),
		check("workload-root-file-system", Medium, "CIS 5.7.3 · Docker CIS 5.12", "Containers do not write to their image",
			"readOnlyRootFilesystem: true; emptyDir for what is written",
			perContainer(func(_, c any) string {
				if at(c, "securityContext", "readOnlyRootFilesystem") != true {
					return "readOnlyRootFilesystem is not true"
				}
				return ""
			})),
		check("workload-unpinned", High, "CIS 5.5.1 · docs/adr/0013-pods-run-what-the-lock-names.md", "Every image is named by its digest", "name it NAME@sha256:DIGEST",
			perContainer(func(_, c any) string {
				if img := str(c, "image"); !strings.Contains(img, "@sha256:") {
					return img + " may become another"
				}
				return ""
			})),
		check("workload-unbounded", Medium, "https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/",
			"Every container has a limit of memory", "resources.limits.memory",
			perContainer(func(_, c any) string {
				if at(c, "resources", "limits", "memory") == nil {
					return "it has no limit of memory"
				}
				return ""
			})),
		check("workload-token", Medium, "CIS 5.1.6", "Only pods that ask the API have a token for it",
			"automountServiceAccountToken: false; who needs a token says true in the pod, beside a ServiceAccount of its own", tokens),
		check("workload-default-account", Medium, "CIS 5.1.5", "No pod with a token runs as the account default", "a ServiceAccount of its own",
			perPod(func(pod any) string {
				if name := str(pod, "serviceAccountName"); (name == "" || name == "default") && at(pod, "automountServiceAccountToken") != false {
					return "it runs as default, and has its token"
				}
				return ""
			})),
		check("workload-default-namespace", Low, "CIS 5.7.4", "Nothing runs in the namespace default", "a namespace of its own",
			each(workloads, func(o Object) []string {
				if str(o, "metadata", "namespace") == "default" && podOf(o) != nil {
					return []string{"it is in the namespace default"}
				}
				return nil
			})),
		check("plaintext-env", High, "CIS 5.4.1", "No password is written into an environment variable", "valueFrom.secretKeyRef, or better a file of a Secret",
			perContainer(func(_, c any) string {
				for _, v := range list(c, "env") {
					if value := str(v, "value"); secretName.MatchString(str(v, "name")) && value != "" && !strings.Contains(value, "/") {
						return str(v, "name") + " has a value in plain sight"
					}
				}
				return ""
			})),
		check("plaintext-secret-env", Low, "CIS 5.4.1", "Secrets are files, not environment variables", "mount the Secret, readable by its user only",
			perContainer(func(_, c any) string {
				for _, v := range list(c, "env") {
					if at(v, "valueFrom", "secretKeyRef") != nil {
						return str(v, "name") + " is of a Secret"
					}
				}
				for _, v := range list(c, "envFrom") {
					if at(v, "secretRef") != nil {
						return "envFrom takes a Secret"
					}
				}
				return ""
			})),
		check("plaintext-configmap", High, "CIS 5.4.1", "No ConfigMap holds a key or a password", "put it into a Secret",
			each("ConfigMap", func(o Object) []string {
				var all []string
				data, _ := at(o, "data").(map[string]any)
				for k, v := range data {
					text := fmt.Sprint(v)
					switch {
					case strings.Contains(text, "PRIVATE KEY-----"):
						all = append(all, k+" holds a private key")
					case secretName.MatchString(k) && text != "":
						all = append(all, k+" is called like a secret")
					}
				}
				slices.Sort(all)
				return all
			})),
		check("plaintext-leaked", Critical, "CIS 5.4.1", "The value of a Secret is in that Secret only", "take the value out, and change it",
			func(e Evidence) []Finding {
				var all []Finding
				for object, secrets := range e.Leaked {
					all = append(all, Finding{Object: object, Detail: "holds a value of Secret " + strings.Join(secrets, ", ")})
				}
				return all
			}),
		check("namespace-policies", High, "CIS 5.3.2", "Every namespace has a network policy that denies what no other allows",
			"a NetworkPolicy with podSelector {} and both policyTypes", policies),
		check("namespace-pod-security", High, "CIS 5.2.1 · KEP-2579", "Every namespace enforces a Pod Security level", "label pod-security.kubernetes.io/enforce: restricted",
			each("Namespace", func(o Object) []string {
				switch level := str(o, "metadata", "labels", "pod-security.kubernetes.io/enforce"); level {
				case "restricted", "baseline":
					return nil
				case "":
					return []string{"it enforces none"}
				default:
					return []string{"it enforces " + level}
				}
			})),
	}
}

func number(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case float64:
		return int64(n), true
	case int:
		return int64(n), true
	}
	return 0, false
}

// tokens: a pod has one unless it, or its account, says no.
func tokens(e Evidence) []Finding {
	off := map[string]bool{}
	for _, o := range e.Objects {
		if str(o, "kind") == "ServiceAccount" && at(o, "automountServiceAccountToken") == false {
			off[str(o, "metadata", "namespace")+"/"+str(o, "metadata", "name")] = true
		}
	}
	var all []Finding
	for _, o := range e.Objects {
		if !slices.Contains(strings.Fields(workloads), str(o, "kind")) {
			continue
		}
		pod := podOf(o)
		if pod == nil || at(pod, "automountServiceAccountToken") != nil { // true is asked for
			continue
		}
		account := str(pod, "serviceAccountName")
		if account == "" {
			account = "default"
		}
		if !off[str(o, "metadata", "namespace")+"/"+account] {
			all = append(all, Finding{Object: Name(o), Detail: "it has the token of " + account + ", and nobody says that it needs one"})
		}
	}
	return all
}

// policies: a namespace with pods, or any but those that nothing runs in, denies by default.
func policies(e Evidence) []Finding {
	denied := map[string]map[string]bool{}
	for _, o := range e.Objects {
		selector, _ := at(o, "spec", "podSelector").(map[string]any)
		if str(o, "kind") != "NetworkPolicy" || len(selector) > 0 {
			continue
		}
		ns := str(o, "metadata", "namespace")
		if denied[ns] == nil {
			denied[ns] = map[string]bool{}
		}
		types := texts(o, "spec", "policyTypes")
		if len(types) == 0 {
			types = []string{"Ingress"}
		}
		for _, t := range types {
			denied[ns][t] = true
		}
	}
	var all []Finding
	for _, o := range e.Objects {
		if str(o, "kind") != "Namespace" {
			continue
		}
		var open []string
		for _, t := range []string{"Ingress", "Egress"} {
			if !denied[str(o, "metadata", "name")][t] {
				open = append(open, strings.ToLower(t))
			}
		}
		if len(open) > 0 {
			all = append(all, Finding{Object: Name(o), Detail: "nothing denies " + strings.Join(open, " and ") + " by default"})
		}
	}
	return all
}
