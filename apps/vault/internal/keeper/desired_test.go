package keeper

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoad(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"two files":       {map[string]string{"a.yaml": "mounts: {kv: {type: kv}}", "b.yaml": "policies: {a: b}"}, ""},
		"empty":           {map[string]string{"a.yaml": ""}, ""},
		"none":            {nil, "no file *.yaml"},
		"unknown field":   {map[string]string{"a.yaml": "mount: {}"}, "field mount not found"},
		"twice":           {map[string]string{"a.yaml": "policies: {a: b}", "b.yaml": "policies: {a: c}"}, "policies.a is in another file"},
		"without a type":  {map[string]string{"a.yaml": "mounts: {kv: {}}"}, "mounts.kv.type is not set"},
		"without a path":  {map[string]string{"a.yaml": "write: [{data: {}}]"}, "write[0].path is not set"},
		"not YAML at all": {map[string]string{"a.yaml": "{"}, "a.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err := load(dir)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestKeys(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	part := base64.RawURLEncoding.EncodeToString
	text, err := jwk{Kty: "EC", Crv: "P-256", X: part(point[1:33]), Y: part(point[33:])}.pem()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	got, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil || !key.PublicKey.Equal(got) {
		t.Errorf("%v, %v; want the key that was written", got, err)
	}
	if _, err := (jwk{Kty: "OKP", Kid: "7"}).pem(); err == nil || !strings.Contains(err.Error(), "key 7") {
		t.Errorf("a kind that is not known: %v", err)
	}
}
