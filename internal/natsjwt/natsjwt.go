package natsjwt

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Claim is what a JWT says of a key. The kind of the key says which fields count.
type Claim struct {
	// Name is for people.
	Name string
	// Subject is the public key that it is about.
	Subject string
	// SigningKeys of an operator or account may sign in its place.
	SigningKeys []string
	// SystemAccount of an operator.
	SystemAccount string
	// JetStream says that an account may use it, without limits of its own.
	JetStream bool
	// Account of a user, when the issuer is a signing key.
	Account string
	// Expires is when a user's JWT ends; zero: never.
	Expires time.Time
	// Publish and Subscribe are the subjects that a user may use; none: all.
	Publish, Subscribe []string
}

// Sign returns a JWT of the claim. It is existing where that says the same and was signed by the
// same key.
func (c Claim) Sign(issuer []byte, existing string) (string, error) {
	pair, err := nkeys.FromSeed(slices.Clone(issuer))
	if err != nil {
		return "", fmt.Errorf("seed of the issuer: %w", err)
	}
	defer pair.Wipe()
	claims, err := c.claims()
	if err != nil {
		return "", err
	}
	token, err := claims.Encode(pair)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", c.Name, err)
	}
	if same(existing, token) {
		return existing, nil
	}
	return token, nil
}

func (c Claim) claims() (jwt.Claims, error) {
	switch kind := nkeys.Prefix(c.Subject); kind {
	case nkeys.PrefixByteOperator:
		o := jwt.NewOperatorClaims(c.Subject)
		o.Name, o.SystemAccount = c.Name, c.SystemAccount
		o.SigningKeys.Add(c.SigningKeys...)
		return o, nil
	case nkeys.PrefixByteAccount:
		a := jwt.NewAccountClaims(c.Subject)
		a.Name = c.Name
		a.SigningKeys.Add(c.SigningKeys...)
		if c.JetStream {
			a.Limits.JetStreamLimits = jwt.JetStreamLimits{
				MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
			}
		}
		return a, nil
	case nkeys.PrefixByteUser:
		u := jwt.NewUserClaims(c.Subject)
		u.Name, u.IssuerAccount = c.Name, c.Account
		u.Pub.Allow.Add(c.Publish...)
		u.Sub.Allow.Add(c.Subscribe...)
		if !c.Expires.IsZero() {
			u.Expires = c.Expires.Unix()
		}
		return u, nil
	default:
		return nil, fmt.Errorf("%s: a key of type %s has no JWT", c.Name, kind)
	}
}

// same says whether two JWTs differ in when they were signed at most.
func same(a, b string) bool {
	first, err := jwt.Decode(a)
	if err != nil {
		return false
	}
	second, err := jwt.Decode(b)
	if err != nil {
		return false
	}
	for _, c := range []jwt.Claims{first, second} {
		c.Claims().IssuedAt, c.Claims().ID = 0, ""
	}
	return reflect.DeepEqual(first, second)
}

// Creds is the file that clients log in with: a user's JWT and its seed.
func Creds(token string, seed []byte) ([]byte, error) {
	text, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return nil, fmt.Errorf("credentials of a NATS user: %w", err)
	}
	return text, nil
}

// NewUser makes a user's key.
func NewUser() (public string, seed []byte, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", nil, fmt.Errorf("make the key of a NATS user: %w", err)
	}
	defer pair.Wipe()
	if public, err = pair.PublicKey(); err != nil {
		return "", nil, fmt.Errorf("make the key of a NATS user: %w", err)
	}
	if seed, err = pair.Seed(); err != nil {
		return "", nil, fmt.Errorf("make the key of a NATS user: %w", err)
	}
	return public, slices.Clone(seed), nil // Wipe overwrites it
}
