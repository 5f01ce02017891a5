package mirror

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The password goes with writes, to the mirror and to nobody else, wherever it sends one.
func TestRepository(t *testing.T) {
	var seen []string
	note := func(who string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, ok := r.BasicAuth(); ok {
				who += "(" + user + " " + password + ")"
			}
			seen = append(seen, r.Method+" "+who)
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
		}))
		t.Cleanup(s.Close)
		return s
	}
	mirrored, other := note("mirror"), note("other")
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := Mirror{Address: strings.TrimPrefix(mirrored.URL, "http://"), PasswordFile: file}
	url, client, err := m.Repository(t.Context(), "app", true)
	if err != nil || url != mirrored.URL+"/v2/app" {
		t.Fatalf("%s, %v", url, err)
	}
	for _, ask := range []struct{ method, url string }{{"GET", url}, {"PUT", other.URL}, {"PUT", url}} {
		req, err := http.NewRequestWithContext(t.Context(), ask.method, ask.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusFound {
			t.Errorf("%s: a redirection was followed: %s", ask.url, resp.Status)
		}
	}
	if got, want := strings.Join(seen, ", "), "GET mirror, PUT other, PUT mirror(orrery secret)"; got != want {
		t.Errorf("asked: %s; want %s", got, want)
	}
}
