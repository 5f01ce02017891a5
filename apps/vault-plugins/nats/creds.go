package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

func (b *backend) credsPath() *framework.Path {
	return &framework.Path{
		Pattern:      "creds/" + framework.GenericNameRegex("name"),
		HelpSynopsis: "A credential of a role, with a lease.",
		Fields:       map[string]*framework.FieldSchema{"name": {Type: framework.TypeLowerCaseString, Description: "Name of the role."}},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{Callback: b.issue},
		},
	}
}

func (b *backend) credential() *framework.Secret {
	return &framework.Secret{
		Type: "nats_user",
		Fields: map[string]*framework.FieldSchema{
			"creds": {Type: framework.TypeString, Description: "JWT and seed, as clients read them from a file."},
		},
		Renew:  b.renew,
		Revoke: b.revoke,
	}
}

// lifetimes of a lease and of the JWT in it.
func (b *backend) lifetimes(r *role) (ttl, longest time.Duration, err error) {
	longest = b.System().MaxLeaseTTL()
	if r.MaxTTL > 0 && r.MaxTTL < longest {
		longest = r.MaxTTL
	}
	ttl, _, err = framework.CalculateTTL(b.System(), 0, r.TTL, 0, longest, 0, time.Time{})
	return ttl, longest, err
}

func (b *backend) issue(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	r, err := loadRole(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return logical.ErrorResponse("there is no role %q", name), nil
	}
	c, err := loadConfig(ctx, req.Storage)
	if errors.Is(err, errNotConfigured) {
		return logical.ErrorResponse(err.Error()), nil
	}
	if err != nil {
		return nil, err
	}
	ttl, longest, err := b.lifetimes(r)
	if err != nil {
		return nil, err
	}
	signer, _, err := pairOf("signing_seed", c.SigningSeed, nkeys.PrefixByteAccount)
	if err != nil {
		return nil, err
	}
	defer signer.Wipe()
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	defer user.Wipe()
	public, err := user.PublicKey()
	if err != nil {
		return nil, err
	}
	seed, err := user.Seed()
	if err != nil {
		return nil, err
	}
	ends := time.Now().Add(longest)
	claims := jwt.NewUserClaims(public)
	claims.Name = "vault " + name
	claims.IssuerAccount = c.Account
	claims.Expires = ends.Unix()
	claims.Pub.Allow, claims.Sub.Allow = r.Publish, r.Subscribe
	token, err := claims.Encode(signer)
	if err != nil {
		return nil, fmt.Errorf("sign a user of role %s: %w", name, err)
	}
	creds, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return nil, err
	}
	response := b.Secret("nats_user").Response(
		map[string]any{
			"creds": string(creds), "jwt": token, "seed": string(seed), "public_key": public,
			"account": c.Account, "expires_at": ends.UTC().Format(time.RFC3339),
		},
		map[string]any{"public_key": public, "expires": ends.Unix(), "role": name},
	)
	response.Secret.TTL, response.Secret.MaxTTL = ttl, longest
	return response, nil
}

// renew prolongs the lease, never beyond the end of the JWT, which Vault sees to with MaxTTL.
func (b *backend) renew(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	name, _ := req.Secret.InternalData["role"].(string)
	r, err := loadRole(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, fmt.Errorf("role %q is gone, so its credentials are not renewed", name)
	}
	expires, err := seconds(req.Secret.InternalData["expires"])
	if err != nil {
		return nil, err
	}
	ttl, _, err := b.lifetimes(r)
	if err != nil {
		return nil, err
	}
	// The role may allow more than when the JWT was signed.
	left := time.Until(expires).Truncate(time.Second)
	if left <= 0 {
		return nil, errors.New("the credential has ended; take a new one")
	}
	req.Secret.TTL = min(ttl, left)
	req.Secret.MaxTTL = expires.Sub(req.Secret.IssueTime)
	return &logical.Response{Secret: req.Secret}, nil
}

// revoke is written down before it is pushed: what fails here is pushed by the next that does not.
func (b *backend) revoke(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	public, _ := req.Secret.InternalData["public_key"].(string)
	if !nkeys.IsValidPublicUserKey(public) {
		return nil, errors.New("the lease does not name the key of its user")
	}
	expires, err := seconds(req.Secret.InternalData["expires"])
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if now.After(expires) {
		return nil, nil // the servers have seen to it
	}
	entry, err := logical.StorageEntryJSON(revokedPrefix+public, revocation{At: now, Expires: expires.Add(time.Minute)})
	if err != nil {
		return nil, err
	}
	if err := req.Storage.Put(ctx, entry); err != nil {
		return nil, err
	}
	return nil, b.push(ctx, req.Storage, true)
}

// seconds of the epoch, which went through JSON.
func seconds(v any) (time.Time, error) {
	switch n := v.(type) {
	case int64:
		return time.Unix(n, 0), nil
	case float64:
		return time.Unix(int64(n), 0), nil
	case interface{ Int64() (int64, error) }: // json.Number
		i, err := n.Int64()
		return time.Unix(i, 0), err
	}
	return time.Time{}, fmt.Errorf("the lease does not say when its credential ends, but %v", v)
}
