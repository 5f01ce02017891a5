package environment

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/spec"
)

// ByHand is who changed an object that Argo CD applies, last. Its JSON form is a contract.
type ByHand struct {
	At        time.Time `json:"at"`
	Component string    `json:"component"`
	Object    string    `json:"object"` // Kind NAMESPACE/NAME
	// Who is the user, as the audit log has it; empty where only the object says that it was changed.
	Who  string `json:"who,omitempty"`
	With string `json:"with,omitempty"` // the program, or the field manager
	Verb string `json:"verb"`
}

// byHandShown is how many a status shows: the newest.
const byHandShown = 10

// handled is an object as the audit log names it.
type handled struct{ group, resource, namespace, name string }

// owned is what the audit log is searched for.
type owned struct {
	objects map[handled]ByHand // with what is known without the log
	// accounts are what the platform's own controllers are to the API: what they change is not by hand.
	accounts map[string]bool
}

// ownedBy are the objects of what Argo CD applies.
func ownedBy(ctx context.Context, client *kube.Client, inventories map[string]kube.Inventory) owned {
	o := owned{map[handled]ByHand{}, map[string]bool{}}
	for component, inv := range inventories {
		for _, r := range inv.Objects {
			if r.Kind == "ServiceAccount" {
				o.accounts["system:serviceaccount:"+r.Namespace+":"+r.Name] = true
			}
			kind, err := client.Kind(ctx, r.APIVersion, r.Kind)
			if err != nil || inv.Applier != kube.ApplierArgoCD {
				continue
			}
			o.objects[handled{kind.Group, kind.Resource, r.Namespace, r.Name}] = ByHand{Component: component, Object: r.String()}
		}
	}
	return o
}

// auditEntry is what is read of an entry of the audit log.
type auditEntry struct {
	Verb       string `json:"verb"`
	RequestURI string `json:"requestURI"`
	UserAgent  string `json:"userAgent"`
	User       struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		Resource    string `json:"resource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
		APIGroup    string `json:"apiGroup"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	At metav1.MicroTime `json:"requestReceivedTimestamp"`
}

// changes tells an entry that somebody changed an object with, who is neither of Kubernetes nor of the platform.
func (e auditEntry) changes(accounts map[string]bool) bool {
	switch {
	case !slices.Contains([]string{"create", "update", "patch", "delete"}, e.Verb), e.ObjectRef.Name == "", e.ObjectRef.Subresource == "status":
		return false
	case e.ResponseStatus.Code >= 300 || strings.Contains(e.RequestURI, "dryRun="):
		return false
	case accounts[e.User.Username], strings.HasPrefix(e.User.Username, "system:serviceaccount:kube-system:"):
		return false
	case strings.HasPrefix(e.User.Username, "system:") && !strings.HasPrefix(e.User.Username, "system:serviceaccount:"):
		return false
	}
	return e.UserAgent != kube.FieldManager // of Orrery itself
}

// lastChange is the newest change of each object, by lines that are written to it.
type lastChange struct {
	owned
	found map[handled]ByHand
	rest  []byte
}

func (l *lastChange) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		line, after, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.line(line)
		l.rest = after
	}
}

func (l *lastChange) line(line []byte) {
	var e auditEntry
	// Most entries are of the platform's controllers; they are not parsed.
	if bytes.Contains(line, []byte(`"username":"system:serviceaccount:kube-system:`)) || json.Unmarshal(line, &e) != nil || !e.changes(l.accounts) {
		return
	}
	of := handled{e.ObjectRef.APIGroup, e.ObjectRef.Resource, e.ObjectRef.Namespace, e.ObjectRef.Name}
	if of.resource == "namespaces" { // the log has them as inside themselves
		of.namespace = ""
	}
	change, ours := l.objects[of]
	if !ours || e.At.Time.Before(l.found[of].At) {
		return
	}
	change.At, change.Who, change.Verb = e.At.Time, e.User.Username, e.Verb
	change.With, _, _ = strings.Cut(e.UserAgent, "/")
	if e.ObjectRef.Subresource != "" {
		change.Verb += " " + e.ObjectRef.Subresource
	}
	l.found[of] = change
}

// byHand says who changed last what Argo CD applies: by the audit logs, as far back as they go, and for
// what is not as it was pushed now, by who manages its fields.
func (e *Environment) byHand(ctx context.Context, client *kube.Client, inventories map[string]kube.Inventory, apps []gitops.Status) []ByHand {
	l := &lastChange{owned: ownedBy(ctx, client, inventories), found: map[handled]ByHand{}}
	logs, readable := e.Driver.(driver.LogSource)
	auditor, kept := e.Driver.(driver.Auditor)
	if readable && kept {
		for _, n := range e.Spec.Topology() {
			if n.Role == spec.RoleServer {
				// A server that is down has nothing to say, and the others answered meanwhile.
				_ = logs.Logs(ctx, n.Name, auditor.AuditService(), false, l)
				l.rest = nil
			}
		}
	}
	for _, a := range apps {
		for _, d := range a.Drifted {
			of, change, ok := l.managed(ctx, client, d)
			if _, known := l.found[of]; ok && !known {
				l.found[of] = change
			}
		}
	}
	all := slices.SortedFunc(maps.Values(l.found), func(a, b ByHand) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Object, b.Object)) })
	return all[max(0, len(all)-byHandShown):]
}

// managed is who wrote fields of an object after Argo CD had applied it.
func (l *lastChange) managed(ctx context.Context, client *kube.Client, d gitops.Sick) (handled, ByHand, bool) {
	kind, err := client.Kind(ctx, d.APIVersion, d.Kind)
	if err != nil {
		return handled{}, ByHand{}, false
	}
	of := handled{kind.Group, kind.Resource, d.Namespace, d.Name}
	live, err := client.Get(ctx, d.APIVersion, d.Kind, d.Namespace, d.Name)
	if err != nil {
		return of, ByHand{}, false
	}
	change := l.objects[of]
	manager, at := kube.LastManager(live)
	change.With, change.At, change.Verb = manager, at, "change"
	return of, change, manager != "" && change.Object != ""
}
