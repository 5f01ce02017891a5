package scylla

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const configKey = "config"

var (
	errNotConfigured = errors.New("the engine does not know its database yet; write its config first")
	plain            = regexp.MustCompile(`^[A-Za-z0-9_]+$`)
)

// config is what the engine knows of ScyllaDB.
type config struct {
	Hosts    []string `json:"hosts"`
	CA       string   `json:"ca,omitempty"`
	Username string   `json:"username"`
	Password string   `json:"password"`
	// Next is a password that may be in force already: a rotation was cut short.
	Next string `json:"next,omitempty"`
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

// session of the configured role, with whichever of its passwords is in force.
func (b *backend) session(ctx context.Context, storage logical.Storage) (session, *config, error) {
	c, err := loadConfig(ctx, storage)
	if err != nil {
		return nil, nil, err
	}
	s, err := b.open(c)
	if err == nil || c.Next == "" {
		return s, c, err
	}
	next := *c
	next.Password, next.Next = c.Next, ""
	s, nextErr := b.open(&next)
	if nextErr != nil {
		return nil, nil, errors.Join(err, nextErr)
	}
	if err := next.save(ctx, storage); err != nil {
		s.close()
		return nil, nil, err
	}
	return s, &next, nil
}

func (b *backend) configPath() *framework.Path {
	return &framework.Path{
		Pattern:      "config",
		HelpSynopsis: "Where ScyllaDB is, and the role that makes the others.",
		Fields: map[string]*framework.FieldSchema{
			"hosts":    {Type: framework.TypeCommaStringSlice, Description: "Nodes to begin with, HOST or HOST:PORT."},
			"ca":       {Type: framework.TypeString, Description: "PEM of the authorities that the nodes' certificates are from; empty: no TLS."},
			"username": {Type: framework.TypeString, Description: "Role that may make and drop roles."},
			"password": {Type: framework.TypeString, Description: "Its password; rotate it afterwards (config/rotate)."},
			"verify":   {Type: framework.TypeBool, Default: true, Description: "Log in before anything is kept."},
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
	return &logical.Response{Data: map[string]any{"hosts": c.Hosts, "ca": c.CA, "username": c.Username}}, nil
}

func (b *backend) writeConfig(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	c := &config{
		Hosts: d.Get("hosts").([]string), CA: d.Get("ca").(string), Username: d.Get("username").(string), Password: d.Get("password").(string),
	}
	if len(c.Hosts) == 0 || c.Password == "" || !plain.MatchString(c.Username) {
		return logical.ErrorResponse("hosts, password and username (letters, digits and _) are needed"), nil
	}
	if d.Get("verify").(bool) {
		s, err := b.open(c)
		if err != nil {
			return logical.ErrorResponse(err.Error()), nil
		}
		s.close()
	}
	return nil, c.save(ctx, req.Storage)
}

func (b *backend) rotatePath() *framework.Path {
	return &framework.Path{
		Pattern:      "config/rotate",
		HelpSynopsis: "Give the configured role a password that only Vault knows.",
		Operations:   map[logical.Operation]framework.OperationHandler{logical.UpdateOperation: &framework.PathOperation{Callback: b.rotate}},
	}
}

// rotate writes the password down before it is in force: between the two, either may be.
func (b *backend) rotate(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	s, c, err := b.session(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	defer s.close()
	c.Next = newPassword()
	if err := c.save(ctx, req.Storage); err != nil {
		return nil, err
	}
	if err := s.exec(ctx, fmt.Sprintf(`ALTER ROLE "%s" WITH PASSWORD = '%s'`, c.Username, c.Next)); err != nil {
		return nil, fmt.Errorf("give %s a new password: %w", c.Username, err)
	}
	c.Password, c.Next = c.Next, ""
	return nil, c.save(ctx, req.Storage)
}
