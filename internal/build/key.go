package build

import "github.com/orrery-dev/orrery/internal/catalog"

// NewKey begins the key of what is made from binaries: add takes labelled lists of strings,
// of which no two different ones come to the same sum.
func NewKey() (add func(label string, values ...string), sum func() string) {
	h := newHasher()
	return h.add, h.sum
}

// Source names for people where bin comes from: MODULE@VERSION, or a module of this repository.
func (b *Builder) Source(bin catalog.Binary) (string, error) {
	s, err := b.source(bin)
	return s.ref, err
}
