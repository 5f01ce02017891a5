package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/observe"
)

// Options are what a console shows.
type Options struct {
	// Environment is the name of what is shown.
	Environment string
	// Look sees how everything is now. Together with an error it may return what could be
	// seen all the same.
	Look func(context.Context) (Snapshot, error)
	// API reaches Prometheus, Loki and Tempo.
	API observe.API
	// Dashboards in the order of the menu.
	Dashboards []dashboard.Dashboard
	// Verify runs the checks and reports each when it begins (state running) and ends. Nil
	// when checks cannot be run from here.
	Verify func(ctx context.Context, report func(Check)) error
	// Flows is what the service map shows. Nil where the network keeps no record.
	Flows FollowFlows
	// GitOps is who applies the platform. Nil where that cannot be asked.
	GitOps func(context.Context) (GitOps, error)
	// Earlier are the last results of the checks from before this console, by whomever. Nil
	// or none: nobody has verified.
	Earlier func() []Check
	// Token that the first request must carry; at least 16 characters.
	Token string
	// Address that is listened on, 127.0.0.1:PORT; see [Listen].
	Address string
	// Interval between looks. Default 2 s.
	Interval time.Duration
	Log      *slog.Logger
}

//go:embed assets
var assets embed.FS

// Console is an http.Handler. Its looks and drawings end with the context given to [New];
// Close waits for that.
type Console struct {
	Options
	mux       *http.ServeMux
	templates *template.Template
	watcher   *watcher
	drawer    *drawer
	sources   sources
	verifier  *verifier
	flows     *flowWatcher
	host      string // NAME.localhost:PORT, with a random name: requests for other hosts are refused
	session   string // value of the cookie
	version   string // of the assets
	base      context.Context
	wg        sync.WaitGroup
}

// New starts to look at the environment.
func New(ctx context.Context, o Options) (*Console, error) {
	if len(o.Token) < 16 {
		return nil, errors.New("console: the token must have at least 16 characters")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Interval == 0 {
		o.Interval = 2 * time.Second
	}
	_, port, ok := strings.Cut(o.Address, ":")
	if !ok {
		return nil, fmt.Errorf("console: address %q has no port", o.Address)
	}
	sum := sha256.Sum256([]byte("session of " + o.Token))
	c := &Console{
		Options: o, mux: http.NewServeMux(), base: ctx,
		sources: sources{observe.NewPrometheus(o.API), observe.NewLoki(o.API), observe.NewTempo(o.API)},
		watcher: newWatcher(o.Look, o.Interval), host: randomName() + ".localhost:" + port, session: hex.EncodeToString(sum[:]),
	}
	c.drawer = newDrawer(ctx, func(ctx context.Context, a ask) (template.HTML, error) {
		if a.board.Name == gitOpsPicture {
			return c.drawGitOps(ctx)
		}
		s := c.watcher.view().snapshot
		return c.sources.draw(ctx, a, s)
	})
	c.verifier = newVerifier(ctx, o.Verify)
	c.flows = newFlowWatcher(ctx, o.Flows)
	var err error
	if c.templates, err = template.New("").Funcs(template.FuncMap{"icon": icon}).ParseFS(assets, "assets/*.html"); err != nil {
		return nil, fmt.Errorf("console: templates: %w", err)
	}
	c.version = assetVersion()
	c.routes()
	c.wg.Go(func() { c.watcher.run(ctx) })
	return c, nil
}

// Close waits until everything that New started has ended; cancel its context first.
func (c *Console) Close() {
	c.wg.Wait()
	c.drawer.wait()
	c.verifier.wait()
	c.flows.wait()
}

// Ready waits until the first look is over, or ctx ends.
func (c *Console) Ready(ctx context.Context) {
	seen := c.watcher.view()
	at, failed, changed := seen.at, seen.stale, seen.changed
	if at.IsZero() && failed == nil {
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// URL that opens the console in a browser.
func (c *Console) URL() string { return "http://" + c.host + "/?token=" + url.QueryEscape(c.Token) }

// cookieName and themeCookie are kept by browsers for the console's own name.
const (
	cookieName  = "orrery"
	themeCookie = "orrery-theme"
)

// randomName is a label of a host name that nobody guesses (80 bits). A browser sends a cookie of
// 127.0.0.1 to all ports of it, whoever serves there; one of this name only to whoever knows it.
func randomName() string { return strings.ToLower(rand.Text()[:16]) }

func assetVersion() string {
	h := sha256.New()
	for _, name := range []string{"console.css", "console.js", "icon.svg"} {
		data, _ := fs.ReadFile(assets, "assets/"+name)
		h.Write(data)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// pages are the views by the pattern of their address (net/http.ServeMux).
func (c *Console) pages() map[string]viewFunc {
	return map[string]viewFunc{
		"GET /{$}":         c.overview,
		"GET /map":         c.serviceMap,
		"GET /d/{name}":    c.board,
		"GET /logs":        c.logs,
		"GET /traces":      c.traces,
		"GET /traces/{id}": c.trace,
		"GET /verify":      c.verify,
		"GET /gitops":      c.gitops,
	}
}

const tracesPattern = "GET /traces"

func (c *Console) routes() {
	for pattern, view := range c.pages() {
		if pattern != tracesPattern {
			c.mux.HandleFunc(pattern, c.page(view))
		}
	}
	// Somebody who pastes an id into the search means that trace.
	search := c.page(c.traces)
	c.mux.HandleFunc(tracesPattern, func(w http.ResponseWriter, r *http.Request) {
		if q := strings.TrimSpace(r.URL.Query().Get("q")); len(q) >= 16 {
			if id, err := observe.ParseTraceID(q); err == nil {
				http.Redirect(w, r, "/traces/"+id, http.StatusSeeOther) //nolint:gosec // G710: an id is hexadecimal
				return
			}
		}
		search(w, r)
	})
	c.mux.HandleFunc("GET /events", c.events)
	c.mux.HandleFunc("POST /verify", c.startVerify)
	c.mux.HandleFunc("POST /theme", c.setTheme)
	for name, kind := range map[string]string{"console.css": "text/css; charset=utf-8", "console.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"} {
		data, err := fs.ReadFile(assets, "assets/"+name)
		if err != nil {
			panic(err) // embedded: cannot be missing
		}
		c.mux.HandleFunc("GET /assets/"+name, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			if r.URL.Query().Get("v") == c.version {
				w.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
			}
			_, _ = w.Write(data)
		})
	}
	c.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.refuse(w, r, http.StatusNotFound, "There is no such page.")
	})
}

// policy of content: nothing but what this server has, no inline style or script.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';" +
	" form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP lets in who knows the token, under the console's own name: a page of another
// origin that makes its own name point here (DNS rebinding) asks for another host.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if r.Host != c.host {
		c.refuse(w, r, http.StatusMisdirectedRequest, "This console answers only under the address that orrery console printed.")
		return
	}
	if given := r.URL.Query().Get("token"); given != "" && r.Method == http.MethodGet {
		if subtle.ConstantTimeCompare([]byte(given), []byte(c.Token)) != 1 {
			c.refuse(w, r, http.StatusForbidden, "This token is not the one that orrery console printed last.")
			return
		}
		//nolint:gosec // G124: plain HTTP on loopback, where not every browser keeps a Secure cookie
		http.SetCookie(w, &http.Cookie{Name: cookieName, Value: c.session, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
		to := *r.URL
		q := to.Query()
		q.Del("token")
		to.RawQuery, to.Scheme, to.Host = q.Encode(), "", ""
		if !strings.HasPrefix(to.Path, "/") || strings.HasPrefix(to.Path, "//") {
			to.Path = "/"
		}
		http.Redirect(w, r, to.String(), http.StatusSeeOther) //nolint:gosec // G710: a path of this host
		return
	}
	cookie, err := r.Cookie(cookieName)
	if err != nil || subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(c.session)) != 1 {
		c.refuse(w, r, http.StatusForbidden, "Open the address that orrery console printed: it carries the token.")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead && !c.ownOrigin(r) {
		c.refuse(w, r, http.StatusForbidden, "This request comes from another page.")
		return
	}
	c.mux.ServeHTTP(w, r)
}

func (c *Console) ownOrigin(r *http.Request) bool {
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && origin.Scheme == "http" && origin.Host == c.host
}

func (c *Console) refuse(w http.ResponseWriter, r *http.Request, code int, text string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	err := c.templates.ExecuteTemplate(w, "refused.html", map[string]any{"Text": text, "Code": code, "Known": code == http.StatusNotFound})
	if err != nil {
		c.Log.DebugContext(r.Context(), "console", "path", r.URL.Path, "error", err)
	}
}

func (c *Console) setTheme(w http.ResponseWriter, r *http.Request) {
	theme := r.FormValue("theme")
	if theme != "light" && theme != "dark" && theme != "" {
		c.refuse(w, r, http.StatusBadRequest, "There is no such theme.")
		return
	}
	//nolint:gosec // G124: as above
	http.SetCookie(w, &http.Cookie{Name: themeCookie, Value: theme, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	w.WriteHeader(http.StatusNoContent)
}

// page writes a whole page.
func (c *Console) page(build viewFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		// A page does not wait for slow answers: what is not there yet comes by events.
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		v, err := build(ctx, r)
		if err != nil {
			c.refuse(w, r, http.StatusNotFound, err.Error())
			return
		}
		c.frame(v, r)
		var b strings.Builder
		if err := c.templates.ExecuteTemplate(&b, v.Template, v); err != nil {
			c.Log.ErrorContext(r.Context(), "console: page", "path", r.URL.Path, "error", err)
			c.refuse(w, r, http.StatusInternalServerError, "The page could not be written: "+err.Error())
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(b.String()))
	}
}

// patience of a page with the sources: first paint is to be below 300 ms.
const patience = 150 * time.Millisecond

// events keeps a page fresh: fragments that changed are sent as they are to be.
func (c *Console) events(w http.ResponseWriter, r *http.Request) {
	target, err := url.Parse(r.URL.Query().Get("page"))
	if err != nil || target.IsAbs() || target.Host != "" {
		c.refuse(w, r, http.StatusBadRequest, "The page to follow is not one of this console.")
		return
	}
	inner := r.Clone(r.Context())
	inner.URL, inner.Form, inner.PostForm = target, nil, nil
	build := c.viewOf(inner)
	if build == nil {
		c.refuse(w, r, http.StatusNotFound, "There is no such page.")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	sent := map[string]template.HTML{}
	for {
		changed := c.watcher.view().changed
		// By now there is time: the answers of slow sources are waited for.
		ctx, cancel := context.WithTimeout(r.Context(), perDraw+time.Second)
		v, err := build(ctx, inner)
		cancel()
		if err == nil {
			c.frame(v, inner)
			for _, f := range v.fragments {
				if was, known := sent[f.ID]; known && was == f.HTML {
					continue
				}
				sent[f.ID] = f.HTML
				data, err := json.Marshal(map[string]string{"id": f.ID, "html": string(f.HTML)})
				if err != nil {
					continue
				}
				if _, err := fmt.Fprintf(w, "event: patch\ndata: %s\n\n", data); err != nil {
					return
				}
			}
		}
		// A line now and then shows either side that the other is there.
		if _, err := fmt.Fprintf(w, ": at %d\n\n", time.Now().Unix()); err != nil || flush.Flush() != nil {
			return
		}
		every := time.NewTimer(5 * time.Second)
		select {
		case <-r.Context().Done():
			every.Stop()
			return
		case <-c.base.Done():
			every.Stop()
			return
		case <-changed:
			every.Stop()
		case <-c.verifier.changes():
			every.Stop()
		case <-every.C:
		}
	}
}

// viewOf finds the page of an address, and gives the request the parts of it that the page
// reads; nil when there is none.
func (c *Console) viewOf(r *http.Request) (found viewFunc) {
	mux := http.NewServeMux()
	for pattern, view := range c.pages() {
		mux.HandleFunc(pattern, func(_ http.ResponseWriter, matched *http.Request) {
			found = view
			for _, part := range []string{"name", "id"} {
				r.SetPathValue(part, matched.PathValue(part))
			}
		})
	}
	mux.ServeHTTP(discarded{http.Header{}}, r)
	return found
}

// discarded is the answer of a mux that is only asked which pattern fits.
type discarded struct{ header http.Header }

func (d discarded) Header() http.Header       { return d.header }
func (discarded) Write(p []byte) (int, error) { return len(p), nil }
func (discarded) WriteHeader(int)             {}
