package console

import (
	"context"
	"errors"
	"html/template"
	"net/http"
	"time"

	"github.com/orrery-dev/orrery/internal/dashboard"
)

// GitOps is who applies the platform, and how that goes.
type GitOps struct {
	HandedOver   bool   // Argo CD applies
	Revision     string // that it follows
	Problem      string // with Argo CD itself, or with what it follows
	Applications []Application
	ByHand       []ByHand // the newest last
}

// Application is a component as Argo CD has it.
type Application struct {
	Name, Revision, Sync, Health, Reason string
	State                                Health
}

// ByHand is a change of what Argo CD applies by somebody else.
type ByHand struct {
	At              time.Time
	Who, With, What string
}

const gitOpsPicture = "gitops"

// gitops is a picture that the drawer keeps: to ask who changed what by hand reads the audit logs.
func (c *Console) gitops(ctx context.Context, _ *http.Request) (*view, error) {
	v := &view{Template: "gitops.html", Title: "GitOps"}
	html, stale, ok := c.drawer.get(ctx, ask{board: dashboard.Dashboard{Name: gitOpsPicture}})
	if !ok {
		html = `<p class="wait"><span class="sr">loading</span></p>`
	} else if stale {
		html = `<p class="stale">from before; asking again</p>` + html
	}
	v.add("applications", html)
	return v, nil
}

func (c *Console) drawGitOps(ctx context.Context) (template.HTML, error) {
	if c.GitOps == nil {
		return "", errors.New("who applies the platform cannot be asked from here")
	}
	g, err := c.GitOps(ctx)
	if err != nil {
		return "", err
	}
	var d drawing
	if !g.HandedOver {
		d.f(`<p class="none">Orrery applies this environment, when somebody runs <code>orrery up</code>. `)
		d.f(`<code>orrery gitops enable</code> hands it over to Argo CD.</p>`)
		return d.html(), nil
	}
	good := 0
	for _, a := range g.Applications {
		if a.State == Good {
			good++
		}
	}
	d.f(`<p class="sub" role="status">%d of %s synced and healthy`, good, esc(count(len(g.Applications), "Application", "Applications")))
	if g.Revision != "" {
		d.f(` · pushed: <code>%s</code>`, esc(g.Revision))
	}
	d.f(`</p>`)
	if g.Problem != "" {
		d.f(`<p class="banner">%s<span>%s</span></p>`, icon(Failing), esc(cut(g.Problem, 1000)))
	}
	d.f(`<div class="scroll"><table><thead><tr><th>Application</th><th>Revision</th><th>Sync</th><th>Health</th><th>Reason</th></tr></thead>`)
	d.f(`<tbody>`)
	for _, a := range g.Applications {
		d.f(`<tr><td>%s <span class="sr">%s</span><b>%s</b></td><td class="mono">%s</td><td>%s</td><td>%s</td><td>%s</td></tr>`,
			icon(a.State), esc(string(a.State)), esc(a.Name), esc(a.Revision), esc(a.Sync), esc(a.Health), esc(cut(a.Reason, 600)))
	}
	d.f(`</tbody></table></div>`)
	if len(g.ByHand) == 0 {
		d.f(`<p class="calm">%s Nobody changed by hand what Argo CD applies, as far back as the audit logs go.</p>`, icon(Good))
		return d.html(), nil
	}
	d.f(`<div class="scroll"><table><thead><tr><th>Changed by hand</th><th>Who</th><th>With</th><th>What</th></tr></thead><tbody>`)
	for i := len(g.ByHand) - 1; i >= 0; i-- {
		b := g.ByHand[i]
		d.f(`<tr><td><time datetime="%s">%s</time></td><td>%s</td><td>%s</td><td>%s</td></tr>`,
			b.At.UTC().Format(time.RFC3339), b.At.Local().Format("2 Jan 15:04:05"), esc(b.Who), esc(b.With), esc(b.What))
	}
	d.f(`</tbody></table></div>`)
	return d.html(), nil
}
