package console

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestLive takes pictures of a console that runs: ORRERY_TEST_CONSOLE is the address that
// `orrery console` printed, ORRERY_TEST_SCREENSHOTS where they go. Pages are NAME=PATH in
// ORRERY_TEST_PAGES, or all there are; ORRERY_TEST_HEIGHT cuts them off.
func TestLive(t *testing.T) {
	address := os.Getenv("ORRERY_TEST_CONSOLE")
	if address == "" {
		t.Skip("needs ORRERY_TEST_CONSOLE, the address of a console that runs")
	}
	b := startBrowser(t)
	base, _, _ := strings.Cut(address, "/?")
	dir := shots(t)
	b.screen(1440, 900, false, "light")
	b.open(address)
	pages := map[string]string{"overview": "/", "logs": "/logs", "traces": "/traces", "verify": "/verify"}
	var boards []string
	b.eval(`[...document.querySelectorAll(".side nav .sub a")].map(a => a.getAttribute("href"))`, &boards)
	for _, path := range boards {
		pages[strings.TrimPrefix(path, "/d/")] = path
	}
	if only := os.Getenv("ORRERY_TEST_PAGES"); only != "" {
		pages = map[string]string{}
		for p := range strings.FieldsSeq(only) {
			name, path, _ := strings.Cut(p, "=")
			pages[name] = path
		}
	}
	for name, path := range pages {
		for _, screen := range []struct {
			name   string
			width  int
			phone  bool
			scheme string
		}{{"light", 1360, false, "light"}, {"dark", 1360, false, "dark"}, {"phone", 390, true, "light"}} {
			b.screen(screen.width, 900, screen.phone, screen.scheme)
			b.open(base + path)
			b.until(`!document.querySelector(".wait")`)
			var height int
			b.eval(`Math.max(900, document.documentElement.scrollHeight)`, &height)
			if most, err := strconv.Atoi(os.Getenv("ORRERY_TEST_HEIGHT")); err == nil {
				height = min(height, most)
			}
			b.screen(screen.width, height, screen.phone, screen.scheme)
			time.Sleep(300 * time.Millisecond)
			var bad []string
			b.eval(accessible, &bad)
			for _, s := range bad {
				t.Errorf("%s, %s: %s", name, screen.name, s)
			}
			b.shot(filepath.Join(dir, name+"-"+screen.name+".png"), false)
		}
		var paint float64
		b.eval(`performance.getEntriesByName("first-contentful-paint")[0]?.startTime || -1`, &paint)
		t.Logf("%s: first contentful paint %.0f ms", name, paint)
	}
	b.quiet(base)
}
