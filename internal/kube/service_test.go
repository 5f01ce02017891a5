package kube

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/orrery-dev/orrery/internal/authority"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

// tlsPod answers under a certificate for name that an authority signed, with what it was asked.
func tlsPod(t *testing.T, by authority.Pair, name string, asks bool) string {
	t.Helper()
	pair, err := by.Issue(authority.Request{
		CommonName: name, DNSNames: []string{name}, Lifetime: time.Hour, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/nothing" {
			http.Error(w, "no such thing", http.StatusNotFound)
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	if asks { // who it is
		s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		s.TLS.ClientCAs.AppendCertsFromPEM(by.Certificate)
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// Who answers for a Service over TLS has to be the one whom its authority knows; the API server's
// proxy, which would believe anybody, is not asked.
func TestSecureService(t *testing.T) {
	newAuthority := func() authority.Pair {
		p, err := authority.New("test", []string{"svc"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	mine, others := newAuthority(), newAuthority()
	api := kubetest.New(t)
	put(t, api, `
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default}
spec: {ports: [{name: https, port: 443}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop-0, namespace: default}`)
	ready := func(is bool) {
		put(t, api, fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-1, namespace: default, labels: {kubernetes.io/service-name: shop}}
ports: [{name: https, port: 8443}]
endpoints: [{conditions: {ready: %t}, targetRef: {kind: Pod, name: shop-0}}]`, is))
	}
	trust := func(a authority.Pair) {
		put(t, api, fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: shop-tls, namespace: default}
data: {ca.crt: %s}`, base64.StdEncoding.EncodeToString(a.Certificate)))
	}
	var pod atomic.Value
	pod.Store(tlsPod(t, mine, "shop.default.svc", false))
	api.HandleForward(func(kubetest.Forward) (string, error) { return pod.Load().(string), nil })

	const proxy = "/api/v1/namespaces/default/services/https:shop:443/proxy"
	ask := func(path string) (string, error) {
		c, err := ConnectWith(api.Kubeconfig())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b, err := c.RawGet(t.Context(), path)
		return string(b), err
	}
	if _, err := ask(proxy + "/x"); err == nil || !strings.Contains(err.Error(), "shop-tls") || apierrors.IsNotFound(err) {
		t.Errorf("without its Secret: %v", err)
	}
	trust(mine)
	if b, err := ask(proxy + "/x"); !apierrors.IsServiceUnavailable(err) || !strings.Contains(b, `"kind":"Status"`) {
		t.Errorf("without a pod: %q, %v", b, err)
	}
	ready(true)
	if b, err := ask(proxy + "/a/b?c=d"); b != "GET /a/b?c=d " || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := ask(proxy + "/nothing"); b != "no such thing\n" || !apierrors.IsNotFound(err) {
		t.Errorf("what it has not: %q, %v", b, err)
	}
	if b, err := ask(strings.Replace(proxy, "shop", "none", 1)); !apierrors.IsNotFound(err) || !strings.Contains(b, `"kind":"Status"`) {
		t.Errorf("a Service that is not there: %q, %v", b, err)
	}
	for what, impostor := range map[string]string{
		"another authority's": tlsPod(t, others, "shop.default.svc", false), "another Service": tlsPod(t, mine, "pub.default.svc", false),
	} {
		pod.Store(impostor)
		if b, err := ask(proxy + "/x"); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %q, %v", what, b, err)
		}
	}

	// Who has to show a certificate shows the Service's own, which those have who may read its Secret.
	pod.Store(tlsPod(t, mine, "shop.default.svc", true))
	if b, err := ask(proxy + "/x"); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %q, %v", b, err)
	}
	both, err := mine.Issue(authority.Request{
		DNSNames: []string{"shop.default.svc"}, Lifetime: time.Hour, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.StdEncoding.EncodeToString
	put(t, api, fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: shop-tls, namespace: default}
data: {ca.crt: %s, tls.crt: %s, tls.key: %s}`, encode(mine.Certificate), encode(both.Certificate), encode(both.Key)))
	if b, err := ask(proxy + "/x"); b != "GET /x " || err != nil {
		t.Errorf("with a certificate: %q, %v", b, err)
	}
	trust(mine)

	// One client, many requests; its authority is exchanged meanwhile.
	pod.Store(tlsPod(t, mine, "shop.default.svc", false))
	c, err := ConnectWith(api.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 3 {
		b, err := c.RawPost(t.Context(), proxy+"/x", "text/plain", []byte("body"))
		if string(b) != "POST /x body" || err != nil {
			t.Errorf("request %d: %q, %v", i, b, err)
		}
	}
	pod.Store(tlsPod(t, others, "shop.default.svc", false))
	trust(others)
	c.services.close()
	if b, err := c.RawGet(t.Context(), proxy+"/x"); string(b) != "GET /x " || err != nil {
		t.Errorf("after its authority was exchanged: %q, %v", b, err)
	}
}
