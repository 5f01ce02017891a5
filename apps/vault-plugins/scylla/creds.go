package scylla

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// making is the kind of what is written down before a role is made.
const making = "making"

func (b *backend) credsPath() *framework.Path {
	return &framework.Path{
		Pattern:      "creds/" + framework.GenericNameRegex("name"),
		HelpSynopsis: "A name and a password of a role, with a lease.",
		Fields:       map[string]*framework.FieldSchema{"name": {Type: framework.TypeLowerCaseString, Description: "Name of the role."}},
		Operations:   map[logical.Operation]framework.OperationHandler{logical.ReadOperation: &framework.PathOperation{Callback: b.issue}},
	}
}

func (b *backend) credential() *framework.Secret {
	return &framework.Secret{
		Type: "scylla_role",
		Fields: map[string]*framework.FieldSchema{
			"username": {Type: framework.TypeString, Description: "Name of the CQL role."},
			"password": {Type: framework.TypeString, Description: "Its password."},
		},
		Renew:  b.renew,
		Revoke: b.revoke,
	}
}

func (b *backend) issue(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	of := d.Get("name").(string)
	r, err := loadRole(ctx, req.Storage, of)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return logical.ErrorResponse("there is no role %q", of), nil
	}
	s, _, err := b.session(ctx, req.Storage)
	if errors.Is(err, errNotConfigured) {
		return logical.ErrorResponse(err.Error()), nil
	}
	if err != nil {
		return nil, err
	}
	defer s.close()
	name := "v_" + strings.ToLower(rand.Text())
	wal, err := framework.PutWAL(ctx, req.Storage, making, name)
	if err != nil {
		return nil, err
	}
	password := newPassword()
	statements := []string{fmt.Sprintf(`CREATE ROLE "%s" WITH PASSWORD = '%s' AND LOGIN = true AND SUPERUSER = false`, name, password)}
	for _, statement := range r.Statements {
		statements = append(statements, strings.ReplaceAll(statement, nameMark, name))
	}
	for i, statement := range statements {
		if err := s.exec(ctx, statement); err != nil {
			// The first has the password in it. What was made until here goes with the entry above at the latest.
			err = fmt.Errorf("statement %d of %d for role %s: %w", i+1, len(statements), of, err)
			if drop(context.WithoutCancel(ctx), s, name) == nil {
				err = errors.Join(err, framework.DeleteWAL(ctx, req.Storage, wal))
			}
			return nil, err
		}
	}
	if err := framework.DeleteWAL(ctx, req.Storage, wal); err != nil {
		return nil, err
	}
	response := b.Secret("scylla_role").Response(
		map[string]any{"username": name, "password": password}, map[string]any{"username": name, "role": of})
	response.Secret.TTL, response.Secret.MaxTTL = r.TTL, r.MaxTTL
	return response, nil
}

func (b *backend) renew(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	of, _ := req.Secret.InternalData["role"].(string)
	r, err := loadRole(ctx, req.Storage, of)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, fmt.Errorf("role %q is gone, so its credentials are not renewed", of)
	}
	req.Secret.TTL, req.Secret.MaxTTL = r.TTL, r.MaxTTL
	return &logical.Response{Secret: req.Secret}, nil
}

func (b *backend) revoke(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	name, _ := req.Secret.InternalData["username"].(string)
	s, _, err := b.session(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	defer s.close()
	return nil, drop(ctx, s, name)
}

// rollback of a credential that was never handed out.
func (b *backend) rollback(ctx context.Context, req *logical.Request, kind string, data any) error {
	name, ok := data.(string)
	if kind != making || !ok {
		return fmt.Errorf("unknown entry %q", kind)
	}
	s, _, err := b.session(ctx, req.Storage)
	if err != nil {
		return err
	}
	defer s.close()
	return drop(ctx, s, name)
}

// drop a role that may be gone already. It can log in no more, whatever becomes of the second statement.
func drop(ctx context.Context, s session, name string) error {
	if !plain.MatchString(name) {
		return fmt.Errorf("%q is no name of a role of ours", name)
	}
	altered := s.exec(ctx, fmt.Sprintf(`ALTER ROLE "%s" WITH LOGIN = false`, name))
	if err := s.exec(ctx, fmt.Sprintf(`DROP ROLE IF EXISTS "%s"`, name)); err != nil {
		return errors.Join(fmt.Errorf("drop role %s: %w", name, err), altered)
	}
	return nil
}
