package kube

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/authority"
	"github.com/orrery-dev/orrery/internal/catalog"
)

// labelGenerated marks secrets that EnsureSecrets made.
const labelGenerated = "orrery.dev/generated"

// EnsureSecrets makes the generated secrets of a component, and their namespaces, where
// they do not exist, and says how many it wrote. Values that exist are never overwritten, but by those of
// [WithSecrets], so that it may run before every apply; an entry that component.yaml gained is added. Copies
// of public keys and texts follow their source.
func (c *Client) EnsureSecrets(ctx context.Context, component catalog.Component) (written int, err error) {
	ctx, cancel := bounded(ctx, defaultTimeout)
	defer cancel()
	for _, s := range generated(component) {
		err := c.retry(ctx, fmt.Sprintf("generate Secret %s/%s", s.Namespace, s.Name), func(ctx context.Context) error {
			wrote, err := c.ensureSecret(ctx, component, s)
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

// LackingSecrets is what EnsureSecrets would make, or add, of the generated secrets of a
// component.
func (c *Client) LackingSecrets(ctx context.Context, component catalog.Component) ([]Change, error) {
	ctx, cancel := bounded(ctx, defaultTimeout)
	defer cancel()
	var lacking []Change
	keys := &generatedKeys{client: c}
	for _, s := range generated(component) {
		ref := Ref{APIVersion: "v1", Kind: "Secret", Namespace: s.Namespace, Name: s.Name}
		before, err := c.Get(ctx, "v1", "Secret", s.Namespace, s.Name)
		change := Change{Object: ref, Action: ActionChange}
		var after *unstructured.Unstructured
		switch {
		case apierrors.IsNotFound(err):
			change.Action, before, after, err = ActionCreate, nil, c.newSecret(component, s), nil
		case err == nil:
			after = before.DeepCopy()
			var changed bool
			if changed, err = c.fillSecret(ctx, keys, component, s, after); err != nil && len(lacking) > 0 {
				continue // a copy, of a key that is lacking itself
			} else if err == nil && !changed {
				continue
			}
		}
		if err == nil {
			change.Diff, err = unified(ref, before, after)
		}
		if err != nil {
			return lacking, fmt.Errorf("component %s: look at Secret %s/%s: %w", component.Name, s.Namespace, s.Name, err)
		}
		lacking = append(lacking, change)
	}
	return lacking, nil
}

// generated are the secrets of a component, with their namespaces. Those that name others come
// after those.
func generated(component catalog.Component) []catalog.Secret {
	byName := map[string]catalog.Secret{}
	for _, s := range component.Secrets {
		byName[s.Name] = s
	}
	var depth func(s catalog.Secret, seen []string) int
	depth = func(s catalog.Secret, seen []string) (n int) {
		refs := slices.Clone(s.PublicNKeys)
		for _, j := range s.NATSJWTs {
			refs = append(refs, append(j.Refs(), j.Of)...)
		}
		for _, ref := range refs {
			name, _, _ := strings.Cut(ref, "/")
			if of, ok := byName[name]; ok && name != s.Name && !slices.Contains(seen, name) {
				n = max(n, 1+depth(of, append(seen, s.Name)))
			}
		}
		return n
	}
	secrets := slices.Clone(component.Secrets)
	slices.SortStableFunc(secrets, func(a, b catalog.Secret) int { return depth(a, nil) - depth(b, nil) })
	for i := range secrets {
		secrets[i].Namespace = cmp.Or(secrets[i].Namespace, component.Namespace)
	}
	return secrets
}

func (c *Client) newSecret(component catalog.Component, s catalog.Secret) *unstructured.Unstructured {
	secret := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
		"metadata": map[string]any{
			"name": s.Name, "namespace": s.Namespace,
			"labels": c.owner.labels(map[string]any{LabelManagedBy: FieldManager, LabelComponent: component.Name, labelGenerated: "true"}),
		},
	}}
	if s.Authority != nil {
		secret.SetAnnotations(map[string]string{annotationIssuers: strings.Join(s.Authority.Issuers, ",")})
	}
	return secret
}

// fillSecret is fill for a whole object.
func (c *Client) fillSecret(
	ctx context.Context, keys *generatedKeys, component catalog.Component, s catalog.Secret,
	secret *unstructured.Unstructured) (changed bool, err error) {
	data, _, err := unstructured.NestedStringMap(secret.Object, "data")
	if err != nil {
		return false, fmt.Errorf("data: %w", err)
	}
	if data == nil {
		data = map[string]string{}
	}
	if changed, err = c.fill(ctx, keys, component, s, data); err != nil || !changed {
		return false, err
	}
	return true, unstructured.SetNestedStringMap(secret.Object, data, "data")
}

func (c *Client) ensureSecret(ctx context.Context, component catalog.Component, s catalog.Secret) (wrote bool, err error) {
	secret, err := c.Get(ctx, "v1", "Secret", s.Namespace, s.Name)
	missing := apierrors.IsNotFound(err)
	switch {
	case missing:
		secret = c.newSecret(component, s)
	case err != nil:
		return false, err
	default:
		if by := c.foreign(secret); by != "" && (!c.owner.Adopt || c.otherEnvironment(secret)) {
			return false, errTaken(refOf(secret), by)
		}
	}
	before, _, _ := unstructured.NestedStringMap(secret.Object, "data")
	changed, err := c.fillSecret(ctx, &generatedKeys{client: c}, component, s, secret)
	if err != nil || !changed && !missing {
		return false, err
	}
	after, _, _ := unstructured.NestedStringMap(secret.Object, "data")
	noteChange(secret, before, after)
	err = c.writeSecret(ctx, secret, missing)
	return err == nil, err
}

// writeSecret updates a Secret, or makes it, with its namespace where there is none.
func (c *Client) writeSecret(ctx context.Context, secret *unstructured.Unstructured, missing bool) error {
	if !missing {
		r, err := c.resource(ctx, "v1", "Secret", secret.GetNamespace())
		if err != nil {
			return err
		}
		// The resourceVersion that was read makes a concurrent writer a conflict, which is retried.
		_, err = r.Update(ctx, secret, metav1.UpdateOptions{FieldManager: FieldManager})
		return err
	}
	err := c.Create(ctx, secret)
	switch {
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("%w: another process made it just now", errNotYet)
	case apierrors.IsNotFound(err):
		// The component that owns the namespace, or this one, adopts it later.
		ns := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Namespace",
			"metadata": map[string]any{"name": secret.GetNamespace(), "labels": c.owner.labels(map[string]any{LabelManagedBy: FieldManager})},
		}}
		if err := c.Create(ctx, ns); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		return fmt.Errorf("%w: its namespace was made just now", errNotYet)
	}
	return err
}

// fill adds the entries that are not there yet; data holds base64, as the API does.
func (c *Client) fill(ctx context.Context, keys *generatedKeys, component catalog.Component, s catalog.Secret, data map[string]string) (changed bool, err error) {
	put := func(key string, value []byte) {
		if v := base64.StdEncoding.EncodeToString(value); data[key] != v {
			data[key], changed = v, true
		}
	}
	if c.given != nil {
		given, err := c.given()
		if err != nil {
			return false, err
		}
		for key, value := range given[cmp.Or(s.Namespace, component.Namespace)+"/"+s.Name] {
			put(key, value)
		}
	}
	for _, prefix := range slices.Sorted(maps.Keys(s.NKeys)) {
		if data[prefix+".seed"] != "" {
			seed, err := base64.StdEncoding.DecodeString(data[prefix+".seed"])
			if err != nil {
				return false, fmt.Errorf("%s.seed: %w", prefix, err)
			}
			public, err := publicOf(seed)
			if err != nil {
				return false, fmt.Errorf("%s.seed: %w", prefix, err)
			}
			put(prefix+".pub", public)
			continue
		}
		seed, err := newSeed(s.NKeys[prefix])
		if err != nil {
			return false, fmt.Errorf("nkeys.%s: %w", prefix, err)
		}
		public, err := publicOf(seed)
		if err != nil {
			return false, fmt.Errorf("nkeys.%s: %w", prefix, err)
		}
		put(prefix+".seed", seed)
		put(prefix+".pub", public)
	}
	for _, key := range slices.Sorted(maps.Keys(s.Passwords)) {
		if data[key] == "" {
			put(key, newPassword(s.Passwords[key]))
		}
	}
	if s.Authority != nil && (data["tls.crt"] == "" || data["tls.key"] == "") {
		pair, err := authority.New(fmt.Sprintf("Orrery authority %s", newPassword(6)), s.Authority.Domains, time.Now())
		if err != nil {
			return false, fmt.Errorf("authority: %w", err)
		}
		put("tls.crt", pair.Certificate)
		put("tls.key", pair.Key)
		put("ca.crt", pair.Certificate)
	}
	for _, ref := range s.PublicNKeys {
		name, prefix, _ := strings.Cut(ref, "/")
		public, err := keys.public(ctx, component, s, name, prefix)
		if err != nil {
			return false, fmt.Errorf("publicNKeys %s: %w", ref, err)
		}
		put(prefix+".pub", public)
	}
	for _, key := range slices.Sorted(maps.Keys(s.NATSJWTs)) {
		if err := signNATS(ctx, keys, component, s, key, data, put); err != nil {
			return false, fmt.Errorf("natsJWTs.%s: %w", key, err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.Texts)) {
		put(key, []byte(os.Expand(s.Texts[key], func(name string) string {
			if subjects, ok := natsSubjects(component, name); ok {
				return subjects
			}
			entry, _ := base64.StdEncoding.DecodeString(data[name])
			return string(entry)
		})))
	}
	return changed, nil
}

// generatedKeys are the entries of the generated secrets of the cluster, read once.
type generatedKeys struct {
	client *Client
	read   bool
	all    []unstructured.Unstructured
}

func (k *generatedKeys) secrets(ctx context.Context) (all []unstructured.Unstructured, err error) {
	if !k.read {
		k.all, err = k.client.List(ctx, "v1", "Secret", "", labelGenerated+"=true")
		k.read = err == nil
	}
	return k.all, err
}

// public is a public key of another generated secret: one of the same component, else the only
// one of that name in the cluster that has the key.
func (k *generatedKeys) public(ctx context.Context, component catalog.Component, s catalog.Secret, name, prefix string) ([]byte, error) {
	var own []string
	for _, o := range component.Secrets {
		if _, ok := o.NKeys[prefix]; ok && o.Name == name {
			own = append(own, cmp.Or(o.Namespace, component.Namespace))
		}
	}
	all, err := k.secrets(ctx)
	if err != nil {
		return nil, err
	}
	var found []string
	var in []string
	for _, o := range all {
		data, _, _ := unstructured.NestedStringMap(o.Object, "data")
		if o.GetName() != name || data[prefix+".pub"] == "" {
			continue
		}
		if len(own) == 0 && o.GetNamespace() == s.Namespace && o.GetName() == s.Name {
			continue // itself
		}
		if len(own) > 0 && !slices.Contains(own, o.GetNamespace()) {
			continue
		}
		found, in = append(found, data[prefix+".pub"]), append(in, o.GetNamespace())
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d generated secrets %s have %s.pub (in the namespaces %q); must be exactly one:"+
			" deploy the component that generates it first", len(found), name, prefix, in)
	}
	return base64.StdEncoding.DecodeString(found[0])
}

func newSeed(kind string) ([]byte, error) {
	prefixes := map[string]nkeys.PrefixByte{
		"account": nkeys.PrefixByteAccount, "cluster": nkeys.PrefixByteCluster, "operator": nkeys.PrefixByteOperator,
		"server": nkeys.PrefixByteServer, "user": nkeys.PrefixByteUser,
	}
	prefix, ok := prefixes[kind]
	if !ok {
		return nil, fmt.Errorf("unknown type %q; known: %s", kind, sortedNames(prefixes))
	}
	pair, err := nkeys.CreatePair(prefix)
	if err != nil {
		return nil, err
	}
	defer pair.Wipe()
	seed, err := pair.Seed()
	return slices.Clone(seed), err // Wipe clears the pair's own bytes
}

func publicOf(seed []byte) ([]byte, error) {
	pair, err := nkeys.FromSeed(slices.Clone(seed))
	if err != nil {
		return nil, err
	}
	defer pair.Wipe()
	public, err := pair.PublicKey()
	return []byte(public), err
}

// newPassword makes n characters that need no quoting anywhere: letters and digits.
func newPassword(n int) []byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 0, n)
	for b := make([]byte, 64); len(out) < n; {
		rand.Read(b) // never fails, see crypto/rand
		for _, x := range b {
			// Bytes beyond the largest multiple of the alphabet's size would favour its beginning.
			if int(x) < 256-256%len(alphabet) && len(out) < n {
				out = append(out, alphabet[int(x)%len(alphabet)])
			}
		}
	}
	return out
}
