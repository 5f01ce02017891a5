package kube

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orrery-dev/orrery/internal/authority"
	"github.com/orrery-dev/orrery/internal/catalog"
)

const (
	// annotationIssuers is on the Secret of an authority: the ClusterIssuers that sign with it.
	annotationIssuers = "orrery.dev/issuers"
	// What cert-manager writes on a Secret that it made, so that it goes on with ours.
	annotationCertificate = "cert-manager.io/certificate-name"
	annotationIssuer      = "cert-manager.io/issuer-name"
	annotationIssuerKind  = "cert-manager.io/issuer-kind"
	annotationIssuerGroup = "cert-manager.io/issuer-group"
	labelCertificate      = "controller.cert-manager.io/fao"
	// annotationInject names the Certificate, NAMESPACE/NAME, whose authority an object is to have.
	annotationInject = "cert-manager.io/inject-ca-from"

	certManager = "cert-manager.io"
	// lifetimeOf a certificate that names none, as with cert-manager.
	defaultCertificateLifetime = 90 * 24 * time.Hour
)

// wantedCertificate is what a Certificate among the objects of a component asks for.
type wantedCertificate struct {
	namespace, name, secret, issuer string
	request                         authority.Request
}

// EnsureCertificates issues what the Certificates among objs ask for, where an authority of the
// environment signs for their issuer and there is nothing yet, or nothing that will do. So no pod
// waits for cert-manager, which takes them as its own and renews them once it is there.
func (c *Client) EnsureCertificates(ctx context.Context, component catalog.Component, objs []*unstructured.Unstructured) (written int, err error) {
	ctx, cancel := bounded(ctx, defaultTimeout)
	defer cancel()
	wanted, err := certificatesOf(objs)
	if err != nil || len(wanted) == 0 {
		return 0, err
	}
	var authorities map[string]authority.Pair
	err = c.retry(ctx, "read the authorities", func(ctx context.Context) (err error) {
		authorities, err = c.authorities(ctx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("component %s: %w", component.Name, err)
	}
	for _, w := range wanted {
		signer, ok := authorities[w.issuer]
		if !ok {
			continue // cert-manager's alone
		}
		err := c.retry(ctx, fmt.Sprintf("issue certificate %s/%s", w.namespace, w.name), func(ctx context.Context) error {
			wrote, err := c.ensureCertificate(ctx, component, w, signer)
			if wrote {
				written++
			}
			return err
		})
		if err != nil {
			return written, fmt.Errorf("component %s: %w", component.Name, err)
		}
	}
	return written, nil
}

// LackingCertificates reports whether a component's certificates are not all there, or about to
// end: cert-manager has not renewed them, or is not there.
func (c *Client) LackingCertificates(ctx context.Context, component string, applied Inventory) (bool, error) {
	isCertificate := func(r Ref) bool {
		return r.Kind == "Certificate" && strings.HasPrefix(r.APIVersion, certManager+"/")
	}
	want := 0
	for _, r := range slices.Concat(applied.Objects, applied.Deferred) {
		if isCertificate(r) {
			want++
		}
	}
	if want == 0 {
		return false, nil
	}
	secrets, err := c.List(ctx, "v1", "Secret", "", LabelComponent+"="+component+","+labelGenerated+"=true,"+labelCertificate+"=true")
	if err != nil {
		return false, err
	}
	// Those that cert-manager made are its own.
	for _, s := range secrets {
		leaf, err := authority.Parse(secretBytes(&s, "tls.crt"))
		if err != nil || time.Until(leaf.NotAfter) < leaf.NotAfter.Sub(leaf.NotBefore)/4 {
			return true, nil
		}
	}
	if len(secrets) >= want {
		return false, nil
	}
	authorities, err := c.authorities(ctx)
	return len(authorities) > 0, err
}

// Authority is the certificate of the environment's authority, PEM, and the Secret that has it.
func (c *Client) Authority(ctx context.Context) (certificate []byte, secret Ref, err error) {
	all, err := c.List(ctx, "v1", "Secret", "", labelGenerated+"=true")
	if err != nil {
		return nil, Ref{}, err
	}
	for _, o := range all {
		if ca := secretBytes(&o, "ca.crt"); o.GetAnnotations()[annotationIssuers] != "" && len(ca) > 0 {
			return ca, refOf(&o), nil
		}
	}
	return nil, Ref{}, errors.New("the environment has no certificate authority: run `orrery deploy namespaces`, which makes it")
}

// InjectAuthorities writes the authority of a component's own Certificates into those of its
// objects that ask for it, as cert-manager's injector does later and from then on.
func (c *Client) InjectAuthorities(ctx context.Context, component string, objs []*unstructured.Unstructured) error {
	ctx, cancel := bounded(ctx, defaultTimeout)
	defer cancel()
	wanted, err := certificatesOf(objs)
	if err != nil {
		return err
	}
	for _, o := range objs {
		from := o.GetAnnotations()[annotationInject]
		i := slices.IndexFunc(wanted, func(w wantedCertificate) bool { return w.namespace+"/"+w.name == from })
		if from == "" || i < 0 {
			continue
		}
		err := c.retry(ctx, fmt.Sprintf("write the authority into %s", refOf(o)), func(ctx context.Context) error {
			return c.inject(ctx, o, wanted[i])
		})
		if err != nil {
			return fmt.Errorf("component %s: %w", component, err)
		}
	}
	return nil
}

func (c *Client) inject(ctx context.Context, o *unstructured.Unstructured, w wantedCertificate) error {
	secret, err := c.Get(ctx, "v1", "Secret", w.namespace, w.secret)
	if apierrors.IsNotFound(err) {
		return nil // cert-manager's alone
	}
	if err != nil {
		return err
	}
	bundle := base64.StdEncoding.EncodeToString(secretBytes(secret, "ca.crt"))
	live, err := c.Get(ctx, o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName())
	if err != nil {
		return err
	}
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value string `json:"value"`
	}
	var patch []operation
	set := func(path, have string) {
		// Who injects merges: an authority that is in it already may have company.
		if bundle != "" && have == "" {
			patch = append(patch, operation{"add", path, bundle})
		}
	}
	if o.GetKind() == "APIService" {
		have, _, _ := unstructured.NestedString(live.Object, "spec", "caBundle")
		set("/spec/caBundle", have)
	} else {
		hooks, _, _ := unstructured.NestedSlice(live.Object, "webhooks")
		for i := range hooks {
			hook, _ := hooks[i].(map[string]any)
			have, _, _ := unstructured.NestedString(hook, "clientConfig", "caBundle")
			set(fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), have)
		}
	}
	if len(patch) == 0 {
		return nil
	}
	text, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	r, err := c.resource(ctx, o.GetAPIVersion(), o.GetKind(), o.GetNamespace())
	if err != nil {
		return err
	}
	_, err = r.Patch(ctx, o.GetName(), types.JSONPatchType, text, metav1.PatchOptions{FieldManager: FieldManager + "-authority"})
	return err
}

// certificatesOf reads the Certificates that an authority of ours may sign for. One for another
// kind of key, or for an authority of its own, is left to cert-manager.
func certificatesOf(objs []*unstructured.Unstructured) ([]wantedCertificate, error) {
	var wanted []wantedCertificate
	for _, o := range objs {
		if o.GroupVersionKind().GroupKind() != (schema.GroupKind{Group: certManager, Kind: "Certificate"}) {
			continue
		}
		var spec struct {
			SecretName  string                             `json:"secretName"`
			CommonName  string                             `json:"commonName"`
			DNSNames    []string                           `json:"dnsNames"`
			IPAddresses []string                           `json:"ipAddresses"`
			Duration    string                             `json:"duration"`
			Usages      []string                           `json:"usages"`
			IsCA        bool                               `json:"isCA"`
			IssuerRef   struct{ Name, Kind, Group string } `json:"issuerRef"`
			PrivateKey  struct {
				Algorithm string `json:"algorithm"`
				Size      int    `json:"size"`
			} `json:"privateKey"`
		}
		text, err := json.Marshal(o.Object["spec"])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", refOf(o), err)
		}
		if err := json.Unmarshal(text, &spec); err != nil {
			return nil, fmt.Errorf("%s: spec: %w", refOf(o), err)
		}
		if spec.IsCA || spec.IssuerRef.Kind != "ClusterIssuer" || cmp.Or(spec.IssuerRef.Group, certManager) != certManager ||
			spec.PrivateKey.Algorithm != "ECDSA" || cmp.Or(spec.PrivateKey.Size, 256) != 256 {
			continue
		}
		w := wantedCertificate{
			namespace: o.GetNamespace(), name: o.GetName(), secret: spec.SecretName, issuer: spec.IssuerRef.Name,
			request: authority.Request{CommonName: spec.CommonName, DNSNames: spec.DNSNames, Lifetime: defaultCertificateLifetime},
		}
		if spec.Duration != "" {
			if w.request.Lifetime, err = time.ParseDuration(spec.Duration); err != nil {
				return nil, fmt.Errorf("%s: spec.duration: %w", refOf(o), err)
			}
		}
		for _, a := range spec.IPAddresses {
			w.request.IPAddresses = append(w.request.IPAddresses, net.ParseIP(a))
		}
		for _, u := range spec.Usages {
			switch u {
			case "server auth":
				w.request.Usages = append(w.request.Usages, x509.ExtKeyUsageServerAuth)
			case "client auth":
				w.request.Usages = append(w.request.Usages, x509.ExtKeyUsageClientAuth)
			}
		}
		wanted = append(wanted, w)
	}
	return wanted, nil
}

// authorities are those of the environment, by the ClusterIssuers that sign with them.
func (c *Client) authorities(ctx context.Context) (map[string]authority.Pair, error) {
	all, err := c.List(ctx, "v1", "Secret", "", labelGenerated+"=true")
	if err != nil {
		return nil, err
	}
	found := map[string]authority.Pair{}
	for _, o := range all {
		pair := authority.Pair{Certificate: secretBytes(&o, "tls.crt"), Key: secretBytes(&o, "tls.key")}
		if len(pair.Certificate) == 0 || len(pair.Key) == 0 {
			continue
		}
		for issuer := range strings.SplitSeq(o.GetAnnotations()[annotationIssuers], ",") {
			if issuer != "" {
				found[issuer] = pair
			}
		}
	}
	return found, nil
}

func (c *Client) ensureCertificate(ctx context.Context, component catalog.Component, w wantedCertificate, signer authority.Pair) (wrote bool, err error) {
	secret, err := c.Get(ctx, "v1", "Secret", w.namespace, w.secret)
	missing := apierrors.IsNotFound(err)
	switch {
	case missing:
		secret = c.newSecret(component, catalog.Secret{Name: w.secret, Namespace: w.namespace})
		secret.Object["type"] = "kubernetes.io/tls"
	case err != nil:
		return false, err
	case secret.GetLabels()[labelGenerated] != "true":
		return false, nil // cert-manager made it, or a person
	default:
		have := authority.Pair{Certificate: secretBytes(secret, "tls.crt")}
		if have.Sound(signer.Certificate, w.request, w.request.Lifetime/4, time.Now()) == nil {
			return false, nil
		}
	}
	issued, err := signer.Issue(w.request, time.Now())
	if err != nil {
		return false, err
	}
	labels, annotations := secret.GetLabels(), secret.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	labels[labelCertificate] = "true"
	annotations[annotationCertificate], annotations[annotationIssuer] = w.name, w.issuer
	annotations[annotationIssuerKind], annotations[annotationIssuerGroup] = "ClusterIssuer", certManager
	secret.SetLabels(labels)
	secret.SetAnnotations(annotations)
	data := map[string]any{}
	for key, value := range map[string][]byte{"tls.crt": issued.Certificate, "tls.key": issued.Key, "ca.crt": signer.Certificate} {
		data[key] = base64.StdEncoding.EncodeToString(value)
	}
	secret.Object["data"] = data
	return true, c.writeSecret(ctx, secret, missing)
}

func secretBytes(secret *unstructured.Unstructured, key string) []byte {
	text, _, _ := unstructured.NestedString(secret.Object, "data", key)
	value, _ := base64.StdEncoding.DecodeString(text)
	return value
}
