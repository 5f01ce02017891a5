package world

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// World answers for every host. Close it.
type World struct {
	// CA is a PEM file with the authority of all certificates: images.caBundle.
	CA string
	// Proxy is the address of the way there, http://127.0.0.1:PORT: HTTPS_PROXY.
	Proxy string

	proxy, server *httptest.Server
	roots         *x509.CertPool

	mu    sync.Mutex
	files map[string][]byte // by https address
	asked map[string]int    // by https address
}

// New starts it; dir takes the file CA.
func New(dir string) (*World, error) {
	authority, err := newAuthority()
	if err != nil {
		return nil, err
	}
	w := &World{CA: filepath.Join(dir, "world-ca.pem"), files: map[string][]byte{}, asked: map[string]int{}, roots: x509.NewCertPool()}
	w.roots.AddCert(authority.certificate)
	if err := os.WriteFile(w.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.certificate.Raw}), 0o644); err != nil {
		return nil, err
	}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2/") {
			images.ServeHTTP(out, r)
			return
		}
		address := "https://" + r.Host + r.URL.Path
		w.mu.Lock()
		data, ok := w.files[address]
		w.asked[address]++
		w.mu.Unlock()
		if !ok {
			http.NotFound(out, r)
			return
		}
		_, _ = out.Write(data)
	}))
	w.server.TLS = &tls.Config{GetCertificate: authority.issue, MinVersion: tls.VersionTLS12}
	w.server.StartTLS()
	w.proxy = httptest.NewServer(http.HandlerFunc(w.connect))
	w.Proxy = w.proxy.URL
	return w, nil
}

// Close ends it.
func (w *World) Close() {
	w.proxy.Close()
	w.server.Close()
}

// Environment is what a program needs to go there.
func (w *World) Environment() []string {
	return []string{"HTTPS_PROXY=" + w.Proxy, "NO_PROXY=127.0.0.1,localhost"}
}

// Serve has a file under an address, https://HOST/PATH.
func (w *World) Serve(address string, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files[address] = data
}

// Asked is how often a file was asked for.
func (w *World) Asked(address string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[address]
}

// Push puts an image of these files (path: content), which are programs, under a reference by tag,
// and returns its digest.
func (w *World) Push(reference string, files map[string][]byte, labels map[string]string) (string, error) {
	var layer bytes.Buffer
	t := tar.NewWriter(&layer)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: strings.TrimPrefix(path, "/"), Size: int64(len(files[path])), Mode: 0o755, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
		if err := t.WriteHeader(h); err != nil {
			return "", err
		}
		if _, err := t.Write(files[path]); err != nil {
			return "", err
		}
	}
	if err := t.Close(); err != nil {
		return "", err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return "", err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return "", err
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: v1.Config{Labels: labels}, RootFS: rootFS(img)})
	if err != nil {
		return "", err
	}
	ref, err := name.NewTag(reference)
	if err != nil {
		return "", err
	}
	proxy, err := url.Parse(w.Proxy)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	if err := remote.Write(ref, img, remote.WithTransport(transport)); err != nil {
		return "", err
	}
	digest, err := img.Digest()
	return digest.String(), err
}

func rootFS(img v1.Image) v1.RootFS {
	config, err := img.ConfigFile()
	if err != nil {
		return v1.RootFS{}
	}
	return config.RootFS
}

// connect leads every tunnel to the one server.
func (w *World) connect(out http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(out, "only tunnels", http.StatusMethodNotAllowed)
		return
	}
	there, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", w.server.Listener.Addr().String())
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadGateway)
		return
	}
	here, _, err := http.NewResponseController(out).Hijack()
	if err != nil {
		there.Close()
		return
	}
	_, _ = io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
	var once sync.Once
	end := func() { once.Do(func() { here.Close(); there.Close() }) }
	for _, pair := range [][2]net.Conn{{here, there}, {there, here}} {
		go func() {
			defer end()
			_, _ = io.Copy(pair[0], pair[1])
		}()
	}
}

// authority makes certificates for whatever name is asked for.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the world of a test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate, key}, err
}

func (a *authority) issue(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName == "" {
		return nil, errors.New("no name was asked for")
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, DNSNames: []string{hello.ServerName}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}, a.certificate, a.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("a certificate for %s: %w", hello.ServerName, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}, nil
}
