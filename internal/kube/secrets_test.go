package kube

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/orrery-dev/orrery/internal/catalog"
)

func TestEnsureSecrets(t *testing.T) {
	c := connect(t)
	ns := fmt.Sprintf("t%d", time.Now().UnixNano()) // EnsureSecrets makes it
	component := catalog.Component{Name: ns, Namespace: ns, Secrets: []catalog.Secret{
		{Name: "public", PublicNKeys: []string{"keys-" + ns + "/admin", "keys-" + ns + "/app"}, Passwords: map[string]int{"p": 8}},
		{Name: "keys-" + ns, NKeys: map[string]string{"admin": "user", "app": "account"}},
	}}
	read := func(name string) map[string]string {
		t.Helper()
		o, err := c.Get(t.Context(), "v1", "Secret", ns, name)
		if err != nil {
			t.Fatal(err)
		}
		data, _, err := unstructured.NestedStringMap(o.Object, "data")
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range data {
			text, err := base64.StdEncoding.DecodeString(v)
			if err != nil {
				t.Fatal(err)
			}
			data[k] = string(text)
		}
		data["resourceVersion"] = o.GetResourceVersion()
		return data
	}
	ensure := func() {
		t.Helper()
		if _, err := c.EnsureSecrets(t.Context(), component); err != nil {
			t.Fatal(err)
		}
	}

	// Several processes at once agree on one set of values.
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, errs[i] = c.EnsureSecrets(t.Context(), component) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	keys, public := read("keys-"+ns), read("public")
	for prefix, first := range map[string]byte{"admin": 'U', "app": 'A'} {
		pair, err := nkeys.FromSeed([]byte(keys[prefix+".seed"]))
		if err != nil {
			t.Fatal(err)
		}
		want, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		if keys[prefix+".pub"] != want || public[prefix+".pub"] != want || want[0] != first {
			t.Errorf("%s: public keys %q and %q, want %q", prefix, keys[prefix+".pub"], public[prefix+".pub"], want)
		}
	}
	if _, leaked := public["admin.seed"]; leaked {
		t.Error("the copy holds a seed")
	}
	if !regexp.MustCompile(`^[A-Za-z0-9]{8}$`).MatchString(public["p"]) {
		t.Errorf("password = %q", public["p"])
	}

	ensure()
	if got := read("keys-" + ns); got["resourceVersion"] != keys["resourceVersion"] {
		t.Error("the second time wrote")
	}
	// What component.yaml gains is added, what exists stays.
	component.Secrets[1].NKeys["late"] = "user"
	component.Secrets[1].Passwords = map[string]int{"token": 40}
	ensure()
	if got := read("keys-" + ns); got["admin.seed"] != keys["admin.seed"] || got["late.seed"] == "" || len(got["token"]) != 40 {
		t.Errorf("keys = %v", got)
	}
	// Another component copies from this one; a copy follows its source.
	other := catalog.Component{Name: ns + "-other", Namespace: ns, Secrets: []catalog.Secret{{Name: "copy", PublicNKeys: []string{"keys-" + ns + "/late"}}}}
	if _, err := c.EnsureSecrets(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if got := read("copy"); got["late.pub"] != read("keys-" + ns)["late.pub"] {
		t.Errorf("copy = %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	other.Secrets[0].PublicNKeys = []string{"nowhere/late"}
	if _, err := c.EnsureSecrets(ctx, other); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v", err)
	}
	// Removing the component removes its secrets, and nobody else's.
	if err := c.Remove(t.Context(), component.Name); err != nil {
		t.Fatal(err)
	}
	if exists(t, c, ns, "Secret", "public") || !exists(t, c, ns, "Secret", "copy") {
		t.Error("the wrong secrets were removed")
	}
}

// TestNATSSecrets: from what an environment had before JWTs comes what NATS has to be given now. Nothing
// is signed again without need; a new key that signs has what it signed follow.
func TestNATSSecrets(t *testing.T) {
	c := connect(t)
	ns := fmt.Sprintf("n%d", time.Now().UnixNano())
	all, err := catalog.Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	component := catalog.Component{Name: ns, Namespace: ns}
	for _, s := range all.Components["nats"].Secrets {
		s.Namespace = ns
		component.Secrets = append(component.Secrets, s)
	}
	before := catalog.Component{Name: ns, Namespace: ns, Secrets: []catalog.Secret{{Name: "nats-app", NKeys: map[string]string{"app": "user"}}}}
	read := func(name, key string) string {
		t.Helper()
		o, err := c.Get(t.Context(), "v1", "Secret", ns, name)
		if err != nil {
			t.Fatal(err)
		}
		value, _, _ := unstructured.NestedString(o.Object, "data", key)
		text, err := base64.StdEncoding.DecodeString(value)
		if err != nil || len(text) == 0 {
			t.Fatalf("%s has no %s (%v)", name, key, err)
		}
		return string(text)
	}
	ensure := func(component catalog.Component, want int) {
		t.Helper()
		if wrote, err := c.EnsureSecrets(t.Context(), component); err != nil || wrote != want {
			t.Fatalf("wrote %d, want %d: %v", wrote, want, err)
		}
	}
	ensure(before, 1)
	seed := read("nats-app", "app.seed")
	ensure(component, len(component.Secrets))
	ensure(component, 0)
	creds := read("nats-app", "app.creds")
	if read("nats-app", "app.seed") != seed || !strings.Contains(creds, seed) || !strings.Contains(creds, read("nats-app", "app.jwt")) {
		t.Error("the user has another key than before")
	}
	conf := read("nats-accounts", "accounts.conf")
	for _, part := range []string{read("nats-accounts", "operator.jwt"), read("nats-accounts", "app.jwt"), read("nats-keys", "app.pub")} {
		if !strings.Contains(conf, `"`+part+`"`) {
			t.Errorf("accounts.conf does not have %s", part)
		}
	}
	if strings.Contains(conf, "${") || strings.Contains(conf, `""`) || regexp.MustCompile(`\bS[OAU][A-Z2-7]{56}\b`).MatchString(conf) {
		t.Errorf("accounts.conf:\n%s", conf)
	}
	var vault struct {
		Write []struct{ Data map[string]any }
	}
	if err := yaml.Unmarshal([]byte(read("nats-vault", "nats.yaml")), &vault); err != nil {
		t.Fatal(err)
	}
	if role := vault.Write[1].Data; len(role["publish"].([]any)) < 10 || vault.Write[0].Data["signing_seed"] != read("nats-vault", "vault-signing.seed") {
		t.Errorf("nats.yaml has %v", role)
	}
	// The key that signs users is made anew.
	secret, err := c.Get(t.Context(), "v1", "Secret", ns, "nats-keys")
	if err != nil {
		t.Fatal(err)
	}
	account := read("nats-keys", "app.pub")
	unstructured.RemoveNestedField(secret.Object, "data", "app-signing.seed")
	r, err := c.resource(t.Context(), "v1", "Secret", ns)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	ensure(component, 5) // keys, accounts, and the three users
	if read("nats-app", "app.creds") == creds || read("nats-app", "app.seed") != seed || read("nats-keys", "app.pub") != account {
		t.Error("the user was not signed again, or the account is another")
	}
	if claims, err := jwt.DecodeAccountClaims(read("nats-accounts", "app.jwt")); err != nil || !claims.SigningKeys.Contains(read("nats-keys", "app-signing.pub")) {
		t.Errorf("the account does not know the new key: %v", err)
	}
	lacking, err := c.LackingSecrets(t.Context(), component)
	if err != nil || len(lacking) != 0 {
		t.Errorf("lacking: %v, %v", lacking, err)
	}
	if err := c.Remove(t.Context(), component.Name); err != nil {
		t.Error(err)
	}
	// All of it at once, of what does not exist.
	if lacking, err = c.LackingSecrets(t.Context(), component); err != nil || len(lacking) == 0 {
		t.Errorf("lacking: %v, %v", lacking, err)
	}
}

func TestNewPassword(t *testing.T) {
	seen := map[string]bool{}
	for n := range 200 {
		p := string(newPassword(n))
		if len(p) != n || (n > 12 && seen[p]) {
			t.Errorf("password %d = %q", n, p)
		}
		seen[p] = true
	}
}

// TestTexts: a text has the password that there is, and follows when either changes.
func TestTexts(t *testing.T) {
	s := catalog.Secret{Name: "routes", Passwords: map[string]int{"password": 40}, Texts: map[string]string{"conf": `url: "routes:${password}@x"`}}
	data := map[string]string{}
	decoded := func(key string) string {
		b, err := base64.StdEncoding.DecodeString(data[key])
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, step := range []struct {
		name    string
		before  func()
		changed bool
	}{
		{"new", func() {}, true},
		{"again", func() {}, false},
		{"another text", func() { s.Texts["conf"] = `password: "${password}"` }, true},
		{"a secret from before texts", func() { delete(data, "conf") }, true},
		{"a new password", func() { delete(data, "password") }, true},
	} {
		step.before()
		changed, err := (&Client{}).fill(t.Context(), nil, catalog.Component{}, s, data)
		if err != nil || changed != step.changed {
			t.Errorf("%s: changed %t, want %t (%v)", step.name, changed, step.changed, err)
		}
		password := decoded("password")
		if want := strings.ReplaceAll(s.Texts["conf"], "${password}", password); len(password) != 40 || decoded("conf") != want {
			t.Errorf("%s: %q, want %q", step.name, decoded("conf"), want)
		}
	}
}
