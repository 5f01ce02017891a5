package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

const configKey = "config"

var errNotConfigured = errors.New("the engine does not know its account yet; write its config first")

// config is what the engine knows of NATS.
type config struct {
	URLs []string `json:"urls"`
	CA   string   `json:"ca,omitempty"`
	// CAFile is read for each connection, so that it may be renewed.
	CAFile      string `json:"ca_file,omitempty"`
	SystemCreds string `json:"system_creds"`
	// OperatorSeed signs the account, Account is its public key.
	OperatorSeed string `json:"operator_seed"`
	Account      string `json:"account"`
	// SigningSeed signs users.
	SigningSeed string `json:"signing_seed"`
	// Retired signing keys are still good for what they have signed, until then.
	Retired []retired `json:"retired,omitempty"`
}

type retired struct {
	Public string    `json:"public"`
	Until  time.Time `json:"until"`
}

func loadConfig(ctx context.Context, s logical.Storage) (*config, error) {
	entry, err := s.Get(ctx, configKey)
	if err != nil {
		return nil, err
	}
	if entry == nil {
		return nil, errNotConfigured
	}
	var c config
	return &c, entry.DecodeJSON(&c)
}

func (c *config) save(ctx context.Context, s logical.Storage) error {
	entry, err := logical.StorageEntryJSON(configKey, c)
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}

// pairOf is a key pair of a seed that has to be of a kind.
func pairOf(field, seed string, kind nkeys.PrefixByte) (nkeys.KeyPair, string, error) {
	pair, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return nil, "", fmt.Errorf("%s is no seed of an nkey: %w", field, err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", field, err)
	}
	if nkeys.Prefix(public) != kind {
		return nil, "", fmt.Errorf("%s is the seed of a key of type %s; must be %s", field, nkeys.Prefix(public), kind)
	}
	return pair, public, nil
}

func (c *config) check() error {
	if len(c.URLs) == 0 || c.SystemCreds == "" {
		return errors.New("urls and system_creds are needed")
	}
	if !nkeys.IsValidPublicAccountKey(c.Account) {
		return errors.New("account must be the public key of an account")
	}
	if _, _, err := pairOf("operator_seed", c.OperatorSeed, nkeys.PrefixByteOperator); err != nil {
		return err
	}
	_, public, err := pairOf("signing_seed", c.SigningSeed, nkeys.PrefixByteAccount)
	if err == nil && public == c.Account {
		err = errors.New("signing_seed is the account's own key; give a signing key of the account, which can be rotated")
	}
	return err
}

func (b *backend) configPath() *framework.Path {
	return &framework.Path{
		Pattern:      "config",
		HelpSynopsis: "The servers, the account, and the keys that sign.",
		Fields: map[string]*framework.FieldSchema{
			"urls":          {Type: framework.TypeCommaStringSlice, Description: "Addresses of the servers."},
			"ca":            {Type: framework.TypeString, Description: "PEM of the authorities that the servers' certificates are from; empty: no TLS."},
			"ca_file":       {Type: framework.TypeString, Description: "Such a file, on Vault's disk, in place of ca."},
			"system_creds":  {Type: framework.TypeString, Description: "Credentials (.creds) of a user of the system account."},
			"system_jwt":    {Type: framework.TypeString, Description: "In place of system_creds, with system_seed: that user's JWT."},
			"system_seed":   {Type: framework.TypeString, Description: "That user's seed."},
			"operator_seed": {Type: framework.TypeString, Description: "Seed of the operator's key that signed the account."},
			"account":       {Type: framework.TypeString, Description: "Public key of the account that users are made in."},
			"signing_seed":  {Type: framework.TypeString, Description: "Seed of a signing key of the account."},
			"verify": {Type: framework.TypeBool, Default: true,
				Description: "Connect, and see that the account is the operator's, before anything is kept."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   &framework.PathOperation{Callback: b.readConfig},
			logical.UpdateOperation: &framework.PathOperation{Callback: b.writeConfig},
		},
	}
}

func (b *backend) readConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := loadConfig(ctx, req.Storage)
	if errors.Is(err, errNotConfigured) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	_, public, err := pairOf("signing_seed", c.SigningSeed, nkeys.PrefixByteAccount)
	if err != nil {
		return nil, err
	}
	var old []string
	for _, r := range c.Retired {
		old = append(old, r.Public)
	}
	return &logical.Response{Data: map[string]any{
		"urls": c.URLs, "ca": c.CA, "ca_file": c.CAFile, "account": c.Account, "signing_key": public, "retired_signing_keys": old,
	}}, nil
}

// writeConfig keeps what is not given, so that one field can be changed.
func (b *backend) writeConfig(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	b.changing.Lock()
	defer b.changing.Unlock()
	before, err := loadConfig(ctx, req.Storage)
	c := &config{}
	switch {
	case err == nil:
		*c = *before
	case !errors.Is(err, errNotConfigured):
		return nil, err
	}
	if v, ok := d.GetOk("urls"); ok {
		c.URLs = v.([]string)
	}
	if seed, token := d.Get("system_seed").(string), d.Get("system_jwt").(string); seed != "" || token != "" {
		creds, err := jwt.FormatUserConfig(token, []byte(seed))
		if err != nil {
			return logical.ErrorResponse("system_jwt and system_seed: %v", err), nil
		}
		c.SystemCreds = string(creds)
	}
	for field, to := range map[string]*string{"ca": &c.CA, "ca_file": &c.CAFile, "system_creds": &c.SystemCreds, "operator_seed": &c.OperatorSeed,
		"account": &c.Account, "signing_seed": &c.SigningSeed} {
		if v, ok := d.GetOk(field); ok {
			*to = v.(string)
		}
	}
	if err := c.check(); err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}
	if before != nil && before.SigningSeed != c.SigningSeed {
		// What the one before signed stays good for as long as it may live.
		c.retire(before.SigningSeed, b.System().MaxLeaseTTL())
	}
	if d.Get("verify").(bool) {
		if err := c.verify(ctx); err != nil {
			return logical.ErrorResponse(err.Error()), nil
		}
	}
	return nil, c.save(ctx, req.Storage)
}

// retire keeps a signing key in the account for a while, unless it is the one that signs now.
func (c *config) retire(seed string, longest time.Duration) {
	_, public, err := pairOf("signing_seed", seed, nkeys.PrefixByteAccount)
	if err != nil {
		return
	}
	_, now, _ := pairOf("signing_seed", c.SigningSeed, nkeys.PrefixByteAccount)
	c.Retired = slices.DeleteFunc(c.Retired, func(r retired) bool { return r.Public == now || r.Public == public })
	c.Retired = append(c.Retired, retired{public, time.Now().Add(longest)})
}

func (b *backend) rotatePath() *framework.Path {
	return &framework.Path{
		Pattern:         "config/rotate",
		HelpSynopsis:    "Sign users with a new key from now on.",
		HelpDescription: "The key before it stays in the account until nothing that it signed can live any more.",
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{Callback: b.rotate},
		},
	}
}

// rotate has the servers know the new key before it signs anything.
func (b *backend) rotate(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	b.changing.Lock()
	defer b.changing.Unlock()
	c, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	pair, err := nkeys.CreateAccount()
	if err != nil {
		return nil, err
	}
	defer pair.Wipe()
	seed, err := pair.Seed()
	if err != nil {
		return nil, err
	}
	before := c.SigningSeed
	c.SigningSeed = string(seed)
	c.retire(before, b.System().MaxLeaseTTL())
	revoked, err := revocations(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	b.pushes.one.Lock()
	defer b.pushes.one.Unlock()
	if err := c.reconcile(ctx, revoked, time.Now()); err != nil {
		return nil, err
	}
	if err := c.save(ctx, req.Storage); err != nil {
		return nil, err
	}
	public, err := pair.PublicKey()
	return &logical.Response{Data: map[string]any{"signing_key": public}}, err
}
