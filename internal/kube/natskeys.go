package kube

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/natsjwt"
)

// signNATS puts a JWT, and the credentials of a user of this secret, where they do not say yet what
// they should. data is that of the secret.
func signNATS(ctx context.Context, keys *generatedKeys, component catalog.Component, s catalog.Secret, key string, data map[string]string,
	put func(key string, value []byte)) error {
	j := s.NATSJWTs[key]
	entry := func(ref, suffix string) ([]byte, error) { return keys.entry(ctx, component, s, data, ref, suffix) }
	public := func(ref string) (string, error) {
		if ref == "" {
			return "", nil
		}
		b, err := entry(ref, ".pub")
		return string(b), err
	}
	of := cmp.Or(j.Of, s.Name+"/"+key)
	claim := natsjwt.Claim{Name: key, JetStream: j.JetStream, Publish: j.Publish, Subscribe: j.Subscribe}
	var err error
	if claim.Subject, err = public(of); err != nil {
		return err
	}
	if claim.SystemAccount, err = public(j.SystemAccount); err != nil {
		return err
	}
	if claim.Account, err = public(j.Account); err != nil {
		return err
	}
	for _, ref := range j.SigningKeys {
		signing, err := public(ref)
		if err != nil {
			return err
		}
		claim.SigningKeys = append(claim.SigningKeys, signing)
	}
	issuer, err := entry(j.By, ".seed")
	if err != nil {
		return err
	}
	defer clear(issuer)
	before, err := base64.StdEncoding.DecodeString(data[key+".jwt"])
	if err != nil {
		before = nil // made anew
	}
	token, err := claim.Sign(issuer, string(before))
	if err != nil {
		return err
	}
	put(key+".jwt", []byte(token))
	name, prefix, _ := strings.Cut(of, "/")
	if name != s.Name || s.NKeys[prefix] != "user" {
		return nil
	}
	seed, err := entry(of, ".seed")
	if err != nil {
		return err
	}
	defer clear(seed)
	creds, err := natsjwt.Creds(token, seed)
	if err == nil {
		put(key+".creds", creds)
	}
	return err
}

// entry is one of a key that the component generates: of the secret that is being filled, or another.
func (k *generatedKeys) entry(ctx context.Context, component catalog.Component, s catalog.Secret, data map[string]string,
	ref, suffix string) ([]byte, error) {
	name, prefix, _ := strings.Cut(ref, "/")
	if name != s.Name {
		all, err := k.secrets(ctx)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", ref, err)
		}
		data = nil
		for _, o := range component.Secrets {
			if o.Name != name {
				continue
			}
			namespace := cmp.Or(o.Namespace, component.Namespace)
			i := slices.IndexFunc(all, func(u unstructured.Unstructured) bool { return u.GetName() == name && u.GetNamespace() == namespace })
			if i < 0 { // somebody else's, which was adopted, has no label
				other, err := k.client.Get(ctx, "v1", "Secret", namespace, name)
				if err != nil {
					return nil, fmt.Errorf("key %s: %w", ref, err)
				}
				all, i = append(all, *other), len(all)
				k.all = all
			}
			data, _, _ = unstructured.NestedStringMap(all[i].Object, "data")
		}
	}
	value, err := base64.StdEncoding.DecodeString(data[prefix+suffix])
	if err != nil || len(value) == 0 {
		return nil, fmt.Errorf("secret %s has no %s%s", name, prefix, suffix)
	}
	return value, nil
}

// natsSubjects is what a user of the component may publish or subscribe to, as JSON, under the name
// PREFIX.publish or PREFIX.subscribe.
func natsSubjects(component catalog.Component, name string) (string, bool) {
	for _, s := range component.Secrets {
		for key, j := range s.NATSJWTs {
			subjects := j.Publish
			switch name {
			case key + ".publish":
			case key + ".subscribe":
				subjects = j.Subscribe
			default:
				continue
			}
			text, err := json.Marshal(subjects)
			return string(text), err == nil
		}
	}
	return "", false
}

// NATSUser makes a credential of NATS for a program on this host: a user with a key of its own who may do
// what the account "app" may, until then.
func (c *Client) NATSUser(ctx context.Context, until time.Time) (creds []byte, err error) {
	keys, err := c.Get(ctx, "v1", "Secret", "messaging", "nats-keys")
	if err != nil {
		return nil, fmt.Errorf("read what signs for NATS' users: %w", err)
	}
	account, issuer := secretBytes(keys, "app.pub"), secretBytes(keys, "app-signing.seed")
	if len(account) == 0 || len(issuer) == 0 {
		return nil, errors.New("secret messaging/nats-keys has no app.pub and app-signing.seed: run `orrery deploy nats`, which completes it")
	}
	defer clear(issuer)
	public, seed, err := natsjwt.NewUser()
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	token, err := natsjwt.Claim{Name: "host", Subject: public, Account: string(account), Expires: until}.Sign(issuer, "")
	if err != nil {
		return nil, err
	}
	return natsjwt.Creds(token, seed)
}
