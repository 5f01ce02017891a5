package native

import (
	"fmt"
	"os"
	"path"
)

// The audit log of an API server, in its node. It rotates the file itself. Root's group may read
// it, as it may the logs of containers: so does the collector that sends it on, which is not root.
const (
	auditFolder    = "/var/log/kubernetes/audit"
	auditLog       = auditFolder + "/audit.log"
	auditMegabytes = 16
	auditBackups   = 3

	// auditService is the name under which a person reads it.
	auditService = "audit"
)

// makeAuditLog makes folder and file below a server's own folder. The API server would close the
// folder to the collector, and rotates to files of the mode that it finds.
func makeAuditLog(root *os.Root) error {
	folder, file := path.Clean("."+auditFolder), path.Clean("."+auditLog)
	if err := root.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	f, err := root.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Chmod(0o640); err != nil { // whatever the umask
		return fmt.Errorf("open the audit log to its readers: %w", err)
	}
	return nil
}

// auditPolicy says what is written down: every change, by whom and from where; what changes who may
// do what, with its content; who reads Secrets or goes into pods. Contents of Secrets, ConfigMaps
// and tokens never. Left out is what the cluster does all the time by itself: leases, events, status,
// reads.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/metrics*", "/openapi*", "/api", "/api/*", "/apis", "/apis/*"]
- level: None
  verbs: [get, list, watch, create, update, patch]
  resources:
  - {group: coordination.k8s.io, resources: [leases]}
- level: None
  verbs: [get, list, watch, create, update, patch]
  resources:
  - {group: "", resources: [events]}
  - {group: events.k8s.io, resources: [events]}
- level: None
  verbs: [update, patch]
  userGroups: ["system:nodes", "system:serviceaccounts"]
  resources:
  - {group: "", resources: ["*/status"]}
  - {group: apps, resources: ["*/status"]}
- level: None
  users: ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"]
  verbs: [get, list, watch]
- level: None
  userGroups: ["system:nodes"]
  verbs: [get, list, watch]
- level: Metadata
  resources:
  - {group: "", resources: [secrets]}
- level: None
  userGroups: ["system:serviceaccounts:kube-system"]
  verbs: [get, list, watch]
- level: None
  verbs: [create, update, patch]
  userGroups: ["system:serviceaccounts:kube-system"]
  resources:
  - {group: "", resources: [endpoints]}
  - {group: discovery.k8s.io, resources: [endpointslices]}
- level: Metadata
  userGroups: ["system:unauthenticated"]
- level: None
  verbs: [get, list, watch]
  resources:
  - {group: "", resources: [configmaps]}
- level: Metadata
  resources:
  - {group: "", resources: [configmaps, serviceaccounts/token]}
  - {group: authentication.k8s.io}
  - {group: authorization.k8s.io}
- level: Request
  verbs: [create, update, patch, delete, deletecollection]
  resources:
  - {group: rbac.authorization.k8s.io}
  - {group: admissionregistration.k8s.io}
  - {group: networking.k8s.io, resources: [networkpolicies]}
  - {group: cilium.io, resources: [ciliumnetworkpolicies, ciliumclusterwidenetworkpolicies]}
  - {group: "", resources: [namespaces]}
- level: Metadata
  resources:
  - {group: "", resources: [pods/exec, pods/attach, pods/portforward, pods/ephemeralcontainers, nodes/proxy]}
- level: None
  verbs: [get, list, watch]
- level: Metadata
`

// AuditService implements [driver.Auditor].
func (d *Driver) AuditService() string { return auditService }
