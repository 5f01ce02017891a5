package reference

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// maxName bounds registry and repository together, as the distribution specification does.
const maxName = 255

// Defaults of the short form that container tools share: "nginx" is docker.io/library/nginx.
const (
	defaultRegistry = "docker.io"
	defaultFolder   = "library/"
)

// Reference is an image reference, taken apart.
type Reference struct {
	Registry   string // host, and port if there is one; docker.io when none was named
	Repository string
	Tag        string // may be empty
	Digest     string // "sha256:" and 64 hexadecimal digits; may be empty
}

var (
	host       = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:.]{2,45}\])(:[0-9]{1,5})?$`)
	repository = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tag        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digest     = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// ErrNoDigest is wrapped by [ParsePinned] when a reference does not say which content it means.
var ErrNoDigest = errors.New("has no digest; add @sha256:… and 64 hexadecimal digits, so that it always means the same content")

// Parse reads a reference of the form [HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST]
// (OCI distribution specification, with the short forms that container tools share).
func Parse(s string) (Reference, error) {
	bad := func(format string, a ...any) (Reference, error) {
		return Reference{}, fmt.Errorf("image reference %q: %s", clip(s), fmt.Sprintf(format, a...))
	}
	var r Reference
	if strings.Contains(s, "://") {
		return bad("must not name a scheme; begin with the registry's host")
	}
	name, sum, pinned := strings.Cut(s, "@")
	if pinned {
		if !digest.MatchString(sum) {
			return bad("what follows @ must be sha256: and 64 hexadecimal digits in lower case")
		}
		r.Digest = sum
	}
	// A colon behind the last slash begins a tag; one before it, a port.
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, r.Tag = name[:i], name[i+1:]
		if !tag.MatchString(r.Tag) {
			return bad("the tag must be at most 128 letters, digits, \".\", \"_\" and \"-\"")
		}
	}
	r.Registry, r.Repository = defaultRegistry, name
	if first, rest, ok := strings.Cut(name, "/"); ok && isHost(first) {
		r.Registry, r.Repository = first, rest
	}
	if r.Registry == defaultRegistry && !strings.Contains(r.Repository, "/") {
		r.Repository = defaultFolder + r.Repository
	}
	switch {
	case !host.MatchString(r.Registry):
		return bad("%q is no host or host:port", clip(r.Registry))
	case !repository.MatchString(strings.TrimPrefix(r.Repository, defaultFolder)):
		return bad("the path must be lower-case letters and digits, parted by \".\", \"_\", \"-\" or \"/\", as in ghcr.io/acme/app@sha256:…")
	case len(r.Name()) > maxName:
		return bad("must be at most %d characters without tag and digest", maxName)
	}
	return r, nil
}

// ParsePinned is [Parse] of a reference that must name a digest; else the error wraps
// [ErrNoDigest].
func ParsePinned(s string) (Reference, error) {
	r, err := Parse(s)
	if err == nil && r.Digest == "" {
		err = fmt.Errorf("image reference %q %w", clip(s), ErrNoDigest)
	}
	return r, err
}

// ParsePrefix checks HOST[:PORT][/PATH], to which "/NAME@DIGEST" is added to make a
// reference. The host must be written out.
func ParsePrefix(s string) error {
	first, _, _ := strings.Cut(s, "/")
	if !isHost(first) {
		return fmt.Errorf("must begin with a registry's host, such as ghcr.io/acme/orrery; got %q", clip(s))
	}
	r, err := Parse(s + "/x")
	switch {
	case strings.Contains(s, "@"), err == nil && r.Name() != s+"/x":
		return fmt.Errorf("must be a host and a path without tag or digest, such as ghcr.io/acme/orrery; got %q", clip(s))
	case err != nil:
		return fmt.Errorf("must be a host and a path, such as ghcr.io/acme/orrery: %w", err)
	}
	return nil
}

// Name is registry and repository.
func (r Reference) Name() string { return r.Registry + "/" + r.Repository }

// String is the whole reference in its long form.
func (r Reference) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// isHost tells the registry's host from the first folder of a short form.
func isHost(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:") || s != strings.ToLower(s)
}

func clip(s string) string {
	const most = 300
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
