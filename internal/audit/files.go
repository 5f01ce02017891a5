package audit

import (
	"fmt"
	"strings"
	"time"
)

// expiresSoon is how long before its end a certificate is a finding; one that ended is critical.
const expiresSoon = 14 * 24 * time.Hour

func fileChecks() []Check {
	files := func(of func(Evidence) []File, wrong func(File) string) func(Evidence) []Finding {
		return func(e Evidence) []Finding {
			var all []Finding
			for _, f := range of(e) {
				if w := wrong(f); w != "" {
					all = append(all, Finding{Object: "file/" + f.Path, Detail: w})
				}
			}
			return all
		}
	}
	nodes := func(e Evidence) []File { return e.Files }
	state := func(e Evidence) []File { return e.State }
	readable := func(f File) string {
		if f.Key && f.Mode&0o077 != 0 {
			return fmt.Sprintf("it holds a key, and has mode %04o", f.Mode)
		}
		return ""
	}
	return []Check{
		{ID: "file-key-mode", Title: "Keys of nodes are readable by root only", Severity: High, Reference: "CIS 1.1.21 · CIS 4.1.5",
			Mend: "chmod 0600", Of: PartFiles, run: files(nodes, readable)},
		{ID: "file-writable", Title: "Configuration of nodes is written by root only", Severity: High, Reference: "CIS 1.1.1 · CIS 1.1.20 · CIS 4.1.9",
			Mend: "chmod go-w", Of: PartFiles, run: files(nodes, func(f File) string {
				if f.Mode&0o022 != 0 {
					return fmt.Sprintf("others may write it: mode %04o", f.Mode)
				}
				return ""
			})},
		{ID: "file-owner", Title: "Configuration and keys of nodes belong to root", Severity: High, Reference: "CIS 1.1.2 · CIS 1.1.19 · CIS 4.1.10",
			Mend: "chown root:root", Of: PartFiles, run: files(nodes, func(f File) string {
				if f.UID != 0 {
					return fmt.Sprintf("it belongs to user %d", f.UID)
				}
				return ""
			})},
		{ID: "state-key-mode", Title: "Keys below the state folder are readable by their owner only", Severity: High, Reference: "docs/reference/state-and-cache.md",
			Mend: "chmod 0600", Of: PartState, run: files(state, readable)},
		{ID: "state-plaintext", Title: "No log, journal or record holds a key or the value of a Secret", Severity: Critical, Reference: "CIS 5.4.1",
			Mend: "take the value out, change it, and mend what wrote it", Of: PartState, run: files(state, func(f File) string {
				if len(f.Secrets) > 0 {
					return "it holds a value of Secret " + strings.Join(f.Secrets, ", ")
				}
				if f.Key && f.Log {
					return "it is written for people, and holds a key"
				}
				return ""
			})},
		{ID: "certificate-expiry", Title: "No certificate ends soon", Severity: High, Reference: "https://kubernetes.io/docs/setup/best-practices/certificates/",
			Mend: "'orrery stop' and 'orrery start' renew those of an environment; cert-manager renews its own", Of: PartCerts,
			run: func(e Evidence) []Finding {
				var all []Finding
				for _, c := range e.Certificates {
					left := c.NotAfter.Sub(e.Now)
					f := Finding{Object: c.Where, Detail: fmt.Sprintf("%s ends %s", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))}
					switch {
					case left <= 0:
						f.Severity, f.Detail = Critical, fmt.Sprintf("%s ended %s", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
					case left > expiresSoon:
						continue
					}
					all = append(all, f)
				}
				return all
			}},
	}
}
