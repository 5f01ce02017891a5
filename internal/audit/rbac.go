package audit

import (
	"fmt"
	"slices"
	"strings"
)

// builtIn: Kubernetes makes it, and mends it.
func builtIn(o Object) bool {
	return str(o, "metadata", "labels", "kubernetes.io/bootstrapping") == "rbac-defaults" || strings.HasPrefix(str(o, "metadata", "name"), "system:")
}

// right is what somebody may do with something.
type right struct{ groups, resources, verbs string }

func matchesAny(have []string, want string) bool {
	return slices.ContainsFunc(strings.Fields(want), func(w string) bool {
		return slices.Contains(have, w) || slices.Contains(have, "*")
	})
}

// grants makes a check of roles that give one of these rights.
func grants(rights ...right) func(Evidence) []Finding {
	return each("Role ClusterRole", func(o Object) []string {
		if builtIn(o) {
			return nil
		}
		var all []string
		for _, rule := range list(o, "rules") {
			groups, resources, verbs := texts(rule, "apiGroups"), texts(rule, "resources"), texts(rule, "verbs")
			for _, r := range rights {
				if r.groups != "" && !slices.Contains(groups, "*") && !slices.Contains(groups, r.groups) {
					continue
				}
				if r.groups == "" && !slices.Contains(groups, "") && !slices.Contains(groups, "*") {
					continue
				}
				if matchesAny(resources, r.resources) && matchesAny(verbs, r.verbs) {
					what := fmt.Sprintf("may %s %s", strings.Join(verbs, ", "), strings.Join(resources, ", "))
					if names := texts(rule, "resourceNames"); len(names) > 0 {
						what += " " + strings.Join(names, ", ")
					}
					all = append(all, what)
					break
				}
			}
		}
		return all
	})
}

func rbacChecks() []Check {
	check := func(id string, s Severity, reference, title, mend string, run func(Evidence) []Finding) Check {
		return Check{ID: id, Severity: s, Reference: reference, Title: title, Mend: mend, Of: PartObjects, run: run}
	}
	const rbac = "rbac.authorization.k8s.io"
	return []Check{
		check("rbac-cluster-admin", High, "CIS 5.1.1", "Nobody but administrators is cluster-admin", "bind a role with what is needed",
			each("ClusterRoleBinding RoleBinding", func(o Object) []string {
				if builtIn(o) || str(o, "roleRef", "name") != "cluster-admin" {
					return nil
				}
				if str(o, "metadata", "name") == "cluster-admin" {
					return nil
				}
				return []string{"bound to " + subjects(o)}
			})),
		// Whoever may patch one is answered with all that is in it.
		check("rbac-secrets", Medium, "CIS 5.1.2", "Few may read or write Secrets", "name the Secrets (resourceNames), in one namespace",
			grants(right{"", "secrets", "get list watch update patch"})),
		check("rbac-wildcard", High, "CIS 5.1.3", "No role is for everything", "name the groups, resources and verbs",
			each("Role ClusterRole", func(o Object) []string {
				if builtIn(o) || str(o, "metadata", "name") == "cluster-admin" {
					return nil
				}
				var all []string
				for _, rule := range list(o, "rules") {
					for _, f := range []string{"resources", "verbs", "apiGroups"} {
						if slices.Contains(texts(rule, f), "*") {
							all = append(all, f+": *")
						}
					}
				}
				return all
			})),
		check("rbac-pods", Medium, "CIS 5.1.4", "Few may make pods", "name the controller that may, and why",
			grants(right{"", "pods", "create"}, right{"apps", "deployments statefulsets daemonsets", "create"}, right{"batch", "jobs cronjobs", "create"})),
		check("rbac-masters", Critical, "CIS 5.1.7", "Nobody is bound to system:masters", "bind a group that can be taken away",
			each("ClusterRoleBinding RoleBinding", func(o Object) []string {
				for _, s := range list(o, "subjects") {
					if str(s, "name") == "system:masters" && str(o, "metadata", "name") != "cluster-admin" {
						return []string{"it binds system:masters"}
					}
				}
				return nil
			})),
		check("rbac-anonymous", Critical, "CIS 5.1.1 · https://kubernetes.io/docs/concepts/security/rbac-good-practices/", "Nothing is given to who did not say who they are",
			"take system:anonymous and system:unauthenticated out of the binding",
			each("ClusterRoleBinding RoleBinding", func(o Object) []string {
				for _, s := range list(o, "subjects") {
					n, role := str(s, "name"), str(o, "roleRef", "name")
					if (n == "system:anonymous" || n == "system:unauthenticated") && role != "system:public-info-viewer" {
						return []string{n + " has " + role}
					}
				}
				return nil
			})),
		check("rbac-escalation", High, "CIS 5.1.8", "Nobody may give themselves rights", "take bind, escalate and impersonate away",
			grants(right{rbac, "roles clusterroles", "bind escalate"}, right{"", "users groups serviceaccounts", "impersonate"},
				right{rbac, "rolebindings clusterrolebindings", "create update patch"})),
		check("rbac-volumes", Medium, "CIS 5.1.9", "Few may make volumes", "only who provisions them", grants(right{"", "persistentvolumes", "create"})),
		check("rbac-nodes-proxy", High, "CIS 5.1.10", "Nobody may ask kubelets through the API",
			"nodes/metrics and nodes/stats are enough to measure", grants(right{"", "nodes/proxy", "get create"})),
		check("rbac-approval", High, "CIS 5.1.11", "Few may approve certificates", "name the signer (resourceNames)",
			grants(right{"certificates.k8s.io", "certificatesigningrequests/approval", "update patch"}, right{"certificates.k8s.io", "signers", "approve sign"})),
		check("rbac-webhooks", High, "CIS 5.1.12", "Few may change admission", "name the configuration (resourceNames)",
			grants(right{"admissionregistration.k8s.io", "validatingwebhookconfigurations mutatingwebhookconfigurations validatingadmissionpolicies validatingadmissionpolicybindings",
				"create update patch delete"})),
		check("rbac-tokens", High, "CIS 5.1.13", "Few may make tokens of others", "name the account (resourceNames)", grants(right{"", "serviceaccounts/token", "create"})),
		check("rbac-exec", High, "https://kubernetes.io/docs/concepts/security/rbac-good-practices/",
			"Few may enter pods", "take pods/exec, pods/attach and pods/ephemeralcontainers away",
			grants(right{"", "pods/exec pods/attach", "create get"}, right{"", "pods/ephemeralcontainers", "update patch"})),
		check("rbac-default-account", High, "CIS 5.1.5", "The account default has no rights", "bind an account of its own",
			each("ClusterRoleBinding RoleBinding", func(o Object) []string {
				for _, s := range list(o, "subjects") {
					if str(s, "kind") == "ServiceAccount" && str(s, "name") == "default" {
						return []string{"default of " + str(s, "namespace") + " has " + str(o, "roleRef", "name")}
					}
				}
				return nil
			})),
	}
}

func subjects(o Object) string {
	var all []string
	for _, s := range list(o, "subjects") {
		all = append(all, strings.TrimPrefix(strings.Join([]string{str(s, "kind"), str(s, "namespace"), str(s, "name")}, "/"), "/"))
	}
	return strings.Join(all, ", ")
}
