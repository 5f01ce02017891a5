package app

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/natsjwt/natsjwttest"
)

// TestOpenNATS: while NATS is open, `env` says where, and names files with a credential that ends; a
// second one that is opened leaves them alone, and nothing is left afterwards.
func TestOpenNATS(t *testing.T) {
	s := newSmall(t)
	s.up()
	account, signing := natsjwttest.NewKey(t, nkeys.PrefixByteAccount), natsjwttest.NewKey(t, nkeys.PrefixByteAccount)
	secret := func(namespace, name string, data map[string]string) {
		encoded := map[string]any{}
		for k, v := range data {
			encoded[k] = base64.StdEncoding.EncodeToString([]byte(v))
		}
		o := object("v1", "Secret", name, map[string]any{"data": encoded})
		o.SetNamespace(namespace)
		o.SetLabels(map[string]string{"orrery.dev/generated": "true"})
		o.SetAnnotations(map[string]string{"orrery.dev/issuers": "environment"})
		s.cluster.API.Put(o)
	}
	service := object("v1", "Service", "nats", map[string]any{"spec": map[string]any{
		"ports": []any{map[string]any{"name": "client", "port": int64(4222)}}}})
	pod := object("v1", "Pod", "nats-0", nil)
	slice := object("discovery.k8s.io/v1", "EndpointSlice", "nats-x", map[string]any{
		"ports":     []any{map[string]any{"name": "client", "port": int64(4222)}},
		"endpoints": []any{map[string]any{"targetRef": map[string]any{"kind": "Pod", "name": "nats-0"}}},
	})
	slice.SetLabels(map[string]string{"kubernetes.io/service-name": "nats"})
	for _, o := range []*unstructured.Unstructured{service, pod, slice} {
		o.SetNamespace("messaging")
		s.cluster.API.Put(o)
	}

	variables := func() (vars map[string]string) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.want(exitOK, "env -o json")), &vars); err != nil {
			t.Fatal(err)
		}
		return vars
	}
	_, stop := s.until("open nats")
	if vars := variables(); vars["NATS_URL"] != "" {
		t.Errorf("without what signs: %v", vars)
	}
	if _, errs := stop(); !strings.Contains(errs, "note: there are no files for programs") {
		t.Errorf("it is not said that there are none: %s", errs)
	}

	secret("cert-manager", "environment-authority", map[string]string{"ca.crt": "the authority"})
	secret("messaging", "nats-keys", map[string]string{"app.pub": account.Public, "app-signing.seed": string(signing.Seed)})
	line, stop := s.until("open nats -o json")
	var at opened
	if err := json.Unmarshal([]byte(line), &at); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	vars := variables()
	if vars["NATS_URL"] != at.URL || vars["NATS_CREDS"] != at.Credentials || vars["NATS_CA"] != at.Authority || !strings.HasPrefix(at.URL, "nats://127.0.0.1:") {
		t.Errorf("opened %+v, variables %v", at, vars)
	}
	if st, err := os.Stat(at.Credentials); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the credential: %v, %v", st, err)
	}
	creds, err := os.ReadFile(at.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseDecoratedJWT(creds)
	if err != nil {
		t.Fatal(err)
	}
	user, err := jwt.DecodeUserClaims(token)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(time.Unix(user.Expires, 0)); left <= 0 || left > 24*time.Hour || user.Issuer != signing.Public || user.IssuerAccount != account.Public {
		t.Errorf("a user of %s, signed by %s, that ends in %s", user.IssuerAccount, user.Issuer, left)
	}
	if pair, err := jwt.ParseDecoratedUserNKey(creds); err != nil {
		t.Error(err)
	} else if public, _ := pair.PublicKey(); public != user.Subject {
		t.Error("the key in the file is not the user's")
	}
	if strings.Contains(line, string(signing.Seed)) || strings.Contains(string(creds), string(signing.Seed)) {
		t.Error("what signs was given away")
	}

	_, stopSecond := s.until("open nats")
	if vars := variables(); vars["NATS_URL"] != at.URL {
		t.Errorf("the second took it over: %v", vars)
	}
	if _, errs := stopSecond(); !strings.Contains(errs, "another `orrery open nats` runs") {
		t.Errorf("the second does not say so: %s", errs)
	}

	if code, errs := stop(); code != exitOK {
		t.Errorf("%d, %s", code, errs)
	}
	if vars := variables(); vars["NATS_URL"] != "" || vars["NATS_CREDS"] != "" {
		t.Errorf("afterwards: %v", vars)
	}
	if _, err := os.Stat(at.Credentials); !os.IsNotExist(err) {
		t.Errorf("the credential was left: %v", err)
	}
}
