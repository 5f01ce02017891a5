package environment

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/secrets"
	"github.com/orrery-dev/orrery/internal/ui"
)

const sentinel = "s3ntinel-that-no-file-may-hold"

// keep writes data.yaml with one value, encrypted for a new key, and returns that key.
func (s *small) keep(namespace, name, key, value string) string {
	s.t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		s.t.Fatal(err)
	}
	f := secrets.NewManifests()
	if err := f.Set(namespace, name, key, value); err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(s.platform.Root, filepath.FromSlash(secrets.DataFile))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := f.Save(path, []string{identity.Recipient().String()}); err != nil {
		s.t.Fatal(err)
	}
	return identity.String()
}

func (s *small) secretEntry(namespace, name, key string) string {
	s.t.Helper()
	o := s.cluster.API.Get("v1", "Secret", namespace, name)
	if o == nil {
		return ""
	}
	data, _ := o.Object["data"].(map[string]any)
	text, _ := data[key].(string)
	value, _ := base64.StdEncoding.DecodeString(text)
	return string(value)
}

// A value of the repository takes the place of the generated one where the key is, a changed one
// that of the old one; it stands in no file, event or message. Without a key there are generated
// values, and a person is told.
func TestRepositorySecrets(t *testing.T) {
	s := newSmall(t)
	s.edit("infra/k8s/base/shop/component.yaml", "secrets:\n", "secrets:\n  - name: shop-login\n    passwords: {password: 40, other: 10}\n")
	key := s.keep("shop", "shop-login", "password", sentinel)
	all := Selection{Prune: true}

	s.mustUp(all)
	if got := s.secretEntry("shop", "shop-login", "password"); len(got) != 40 || got == sentinel {
		t.Errorf("without a key: %d characters", len(got))
	}
	if !s.told(ui.TypeNotice, "is not decrypted, since there is no age key here") {
		t.Errorf("nobody was told:\n%s", s.all())
	}
	t.Setenv(secrets.EnvKey, key)
	if got := changes(s.plan(all)); !strings.Contains(got, "deploy/shop") {
		t.Errorf("with the key there is to do: %q", got)
	}
	s.mustUp(all)
	if got := s.secretEntry("shop", "shop-login", "password"); got != sentinel {
		t.Errorf("with the key: %q", got)
	}
	if got := s.secretEntry("shop", "shop-login", "other"); len(got) != 10 {
		t.Errorf("an entry that is not in the file: %q", got)
	}
	if p := s.plan(all); !p.UpToDate() {
		t.Errorf("then there is to do: %q", changes(p))
	}
	for _, dir := range []string{s.request.StateRoot, s.request.CacheDir, filepath.Dir(s.file), s.platform.Root} {
		searchFor(t, dir, sentinel)
	}
	if said := s.all(); strings.Contains(said, sentinel) || strings.Contains(said, base64.StdEncoding.EncodeToString([]byte(sentinel))) {
		t.Error("it was said")
	}

	t.Setenv(secrets.EnvKey, s.keep("shop", "shop-login", "password", "another"))
	s.mustUp(all)
	if got := s.secretEntry("shop", "shop-login", "password"); got != "another" {
		t.Errorf("a changed value: %q", got)
	}
	s.keep("elsewhere", "unknown", "x", "y")
	t.Setenv(secrets.EnvKey, key)
	refused := func(want error) {
		t.Helper()
		if err := s.up(all); !errors.As(err, new(failure.Refused)) || !errors.Is(err, want) {
			t.Errorf("%v is not %v", err, want)
		}
		if got := s.secretEntry("shop", "shop-login", "password"); got != "another" {
			t.Errorf("something was applied: %q", got)
		}
	}
	refused(secrets.ErrWrongKey)
	t.Setenv(secrets.EnvKey, s.keep("shop", "shop-login", "password", "third"))
	path := filepath.Join(s.platform.Root, filepath.FromSlash(secrets.DataFile))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s.write(secrets.DataFile, strings.Replace(string(text), "name: shop-login", "name: shop-admin", 1))
	refused(secrets.ErrTampered)
	s.write(secrets.DataFile, string(text[:len(text)/2]))
	if err := s.up(all); !errors.As(err, new(failure.Refused)) {
		t.Errorf("cut short: %v", err)
	}
	t.Setenv(secrets.EnvKey, s.keep("elsewhere", "unknown", "x", "y"))
	s.mustUp(all)
	if !s.told(ui.TypeNotice, "no component that is deployed has the Secret elsewhere/unknown") {
		t.Errorf("an unused Secret:\n%s", s.all())
	}
}

// searchFor fails for every file below dir that holds the text, as it is or in base64.
func searchFor(t *testing.T, dir, text string) {
	t.Helper()
	looked := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		looked++
		for _, form := range []string{text, base64.StdEncoding.EncodeToString([]byte(text))} {
			if strings.Contains(string(data), form) {
				t.Errorf("%s holds it", path)
			}
		}
		return err
	})
	if err != nil || looked == 0 {
		t.Fatalf("%s: %d files, %v", dir, looked, err)
	}
}

// What reads a Secret is restarted when a value of it changed, once, and so is nothing else.
func TestReadersOfAChangedSecret(t *testing.T) {
	s := newSmall(t)
	s.edit("infra/k8s/base/shop/component.yaml", "secrets:\n", "secrets:\n  - name: shop-login\n    passwords: {password: 40}\n  - name: shop-other\n    passwords: {password: 40}\n")
	s.edit("infra/k8s/base/shop/shop.yaml", "          image: registry.orrery.internal/shop\n",
		"          image: registry.orrery.internal/shop\n          env: [{name: LOGIN, valueFrom: {secretKeyRef: {name: shop-login, key: password}}}]\n")
	all := Selection{Prune: true}
	const restarted = "is restarted: a Secret that it reads was changed"
	annotation := func() string {
		t.Helper()
		text, _, err := unstructured.NestedString(s.cluster.API.Get("apps/v1", "Deployment", "shop", "shop").Object,
			"spec", "template", "metadata", "annotations", "orrery.dev/secrets-changed")
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	s.mustUp(all)
	if annotation() != "" || s.told(ui.TypeNotice, restarted) {
		t.Errorf("restarted when it was made: %q", annotation())
	}
	t.Setenv(secrets.EnvKey, s.keep("shop", "shop-other", "password", sentinel))
	s.mustUp(all)
	if annotation() != "" || s.told(ui.TypeNotice, restarted) {
		t.Errorf("restarted for a Secret that it does not read: %q", annotation())
	}
	before := ""
	for _, value := range []string{"another", "a third"} {
		t.Setenv(secrets.EnvKey, s.keep("shop", "shop-login", "password", value))
		s.mustUp(all)
		now := annotation()
		if _, err := time.Parse(time.RFC3339Nano, now); err != nil || now == before {
			t.Errorf("%s: not restarted: %q, %q before, %v", value, now, before, err)
		}
		if !s.told(ui.TypeNotice, "Deployment shop/shop "+restarted) {
			t.Errorf("nobody was told:\n%s", s.all())
		}
		if p := s.plan(all); !p.UpToDate() {
			t.Errorf("%s: then there is to do: %q", value, changes(p))
		}
		s.mustUp(Selection{Components: []string{"shop"}})
		if annotation() != now {
			t.Errorf("%s: restarted once more", value)
		}
		before = now
	}
}
