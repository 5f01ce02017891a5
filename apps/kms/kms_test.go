package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	kmsapi "k8s.io/kms/apis/v2"
)

// vault plays what the plugin asks of one: versions of a key, and refusals.
type vault struct {
	mu      sync.Mutex
	keys    []cipher.AEAD // by version, from 1
	born    int64         // when the key was made
	refuses int           // status that it answers with, 0 for none
	leaves  bool          // the key is exportable
	token   string
}

func (v *vault) rotate(t *testing.T) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	block, err := aes.NewCipher(bytes.Repeat([]byte{byte(v.born) + byte(len(v.keys))}, 32))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	v.keys = append(v.keys, aead)
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	refuse := func(status int, why ...string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": why})
	}
	var ask struct {
		Plaintext  []byte `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
	}
	_ = json.NewDecoder(r.Body).Decode(&ask)
	var data map[string]any
	switch {
	case v.refuses != 0:
		refuse(v.refuses)
		return
	case r.Header.Get("X-Vault-Token") != v.token:
		refuse(http.StatusForbidden, "permission denied")
		return
	case r.Method == http.MethodGet && r.URL.Path == "/v1/transit/keys/etcd":
		made := map[string]int64{}
		for i := range v.keys {
			made[fmt.Sprint(i+1)] = v.born + int64(i)
		}
		data = map[string]any{"latest_version": len(v.keys), "keys": made, "exportable": v.leaves}
	case r.URL.Path == "/v1/transit/encrypt/etcd":
		n := len(v.keys)
		sealed := v.keys[n-1].Seal(nil, make([]byte, 12), ask.Plaintext, nil)
		data = map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", n, base64.StdEncoding.EncodeToString(sealed)), "key_version": n}
	case r.URL.Path == "/v1/transit/decrypt/etcd":
		var n int
		var text string
		_, _ = fmt.Sscanf(ask.Ciphertext, "vault:v%d:%s", &n, &text)
		sealed, err := base64.StdEncoding.DecodeString(text)
		if err != nil || n < 1 || n > len(v.keys) {
			refuse(http.StatusBadRequest, "invalid ciphertext")
			return
		}
		opened, err := v.keys[n-1].Open(nil, make([]byte, 12), sealed, nil)
		if err != nil {
			refuse(http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		data = map[string]any{"plaintext": opened}
	default:
		refuse(http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
}

// start runs the plugin in front of v, and returns what an API server has of it.
func start(t *testing.T, v *vault) (kmsapi.KeyManagementServiceClient, *transit) {
	t.Helper()
	server := httptest.NewTLSServer(v)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca"), filepath.Join(dir, "token")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, text := range map[string][]byte{ca: authority, token: []byte(v.token + "\n")} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plugin := &transit{mount: "transit", key: "etcd", tokenFile: token}
	if err := plugin.connect(server.URL, ca); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended, socket := make(chan error, 1), filepath.Join(dir, "s")
	if _, err := listenAndEnd(socket); err != nil { // what a plugin that was killed leaves
		t.Fatal(err)
	}
	go func() { ended <- serve(ctx, slog.New(slog.DiscardHandler), socket, plugin) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		plugin.http.CloseIdleConnections()
	})
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return kmsapi.NewKeyManagementServiceClient(conn), plugin
}

func listenAndEnd(socket string) (os.FileInfo, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		return nil, err
	}
	return os.Stat(socket)
}

// A rotated key is a new one for the API server, and what the old version sealed opens.
func TestRotation(t *testing.T) {
	v := &vault{born: 1800000000, token: "one"}
	v.rotate(t)
	c, _ := start(t, v)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	before, err := c.Status(ctx, &kmsapi.StatusRequest{})
	if err != nil || before.Version != "v2" || before.Healthz != "ok" {
		t.Fatalf("%v, %v", before, err)
	}
	old, err := c.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: []byte("seed"), Uid: "1"})
	if err != nil || old.KeyId != before.KeyId || bytes.Contains(old.Ciphertext, []byte("seed")) {
		t.Fatalf("%v, %v; want key %s", old, err, before.KeyId)
	}
	v.rotate(t)
	after, err := c.Status(ctx, &kmsapi.StatusRequest{})
	if err != nil || after.KeyId == before.KeyId {
		t.Fatalf("after a rotation: %v, %v; before it %s", after, err, before.KeyId)
	}
	now, err := c.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: []byte("seed"), Uid: "2"})
	if err != nil || now.KeyId != after.KeyId {
		t.Fatalf("%v, %v", now, err)
	}
	for _, sealed := range []*kmsapi.EncryptResponse{old, now} {
		opened, err := c.Decrypt(ctx, &kmsapi.DecryptRequest{Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId, Uid: "3"})
		if err != nil || string(opened.Plaintext) != "seed" {
			t.Errorf("%s: %v, %v", sealed.KeyId, opened, err)
		}
	}
	// A key of the same name that was made anew is another one.
	v.mu.Lock()
	v.keys, v.born = nil, v.born+7
	v.mu.Unlock()
	v.rotate(t)
	if anew, err := c.Status(ctx, &kmsapi.StatusRequest{}); err != nil || anew.KeyId == before.KeyId {
		t.Errorf("a key made anew: %v, %v", anew, err)
	}
	if _, err := c.Decrypt(ctx, &kmsapi.DecryptRequest{Ciphertext: old.Ciphertext}); err == nil || !strings.Contains(err.Error(), "authentication failed") {
		t.Errorf("what the lost key sealed: %v", err)
	}
}

// What is wrong is said, and is over when it is.
func TestTrouble(t *testing.T) {
	v := &vault{born: 1800000000, token: "one"}
	v.rotate(t)
	c, plugin := start(t, v)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, test := range []struct {
		change, back func()
		want         string
	}{
		{func() { v.refuses = http.StatusServiceUnavailable }, func() { v.refuses = 0 }, "it is sealed"},
		{func() { v.token = "two" }, func() { v.token = "one" }, "permission denied"},
		{func() { v.leaves = true }, func() { v.leaves = false }, "may leave Vault"},
		{func() { plugin.key = "other" }, func() { plugin.key = "etcd" }, "no such key or mount"},
	} {
		v.mu.Lock()
		test.change()
		v.mu.Unlock()
		if _, err := c.Status(ctx, &kmsapi.StatusRequest{}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v; want %q", err, test.want)
		}
		v.mu.Lock()
		test.back()
		v.mu.Unlock()
		if _, err := c.Status(ctx, &kmsapi.StatusRequest{}); err != nil {
			t.Errorf("when it is over: %v", err)
		}
	}
	// An agent has renewed the token.
	v.mu.Lock()
	v.token = "three"
	v.mu.Unlock()
	if err := os.WriteFile(plugin.tokenFile, []byte("three"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(ctx, &kmsapi.StatusRequest{}); err != nil {
		t.Error(err)
	}
}

// A key of a cluster goes to nobody who cannot say who it is, and no file is in the way of a socket.
func TestRefused(t *testing.T) {
	for address, want := range map[string]string{"": "no URL", "http://vault:8200": "https", "vault:8200": "https", "https://": "https"} {
		if err := new(transit).connect(address, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", address, err, want)
		}
	}
	file := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := listen(t.Context(), file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("%v, %v", l, err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want it for its user alone", info.Mode(), err)
	}
	if l, err := listen(t.Context(), socket); err == nil || !strings.Contains(err.Error(), "another plugin") {
		t.Errorf("%v, %v", l, err)
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	other := transit{mount: "transit", key: "etcd", tokenFile: file}
	if err := other.connect(server.URL, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a Vault that nobody vouches for: %v", err)
	}
}
