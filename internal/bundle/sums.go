package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"maps"
	"slices"
)

// A digest tells that a blob is damaged and not where. So every blob has a CRC-32C for each
// page of it, in a blob of their own, which is looked at only when there is damage.

// page is the length that one checksum stands for, in bytes.
const page = 4096

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// digester hashes what is written to it, and every page of it when pages is set.
type digester struct {
	hash.Hash
	pages bool
	sums  []uint32
	size  int64
	part  uint32 // of the page that is not full yet
}

func newDigester(pages bool) *digester { return &digester{Hash: sha256.New(), pages: pages} }

// Write never fails.
func (d *digester) Write(p []byte) (int, error) {
	n := len(p)
	_, _ = d.Hash.Write(p)
	if !d.pages {
		d.size += int64(n)
		return n, nil
	}
	for len(p) > 0 {
		k := min(page-int(d.size%page), len(p))
		d.part = crc32.Update(d.part, castagnoli, p[:k])
		d.size += int64(k)
		p = p[k:]
		if d.size%page == 0 {
			d.sums, d.part = append(d.sums, d.part), 0
		}
	}
	return n, nil
}

func (d *digester) hex() string { return hex.EncodeToString(d.Sum(nil)) }

// finish returns the checksums, with that of the last page.
func (d *digester) finish() []uint32 {
	if d.size%page != 0 {
		return append(d.sums, d.part)
	}
	return d.sums
}

// checksums by digest, in hexadecimal.
type checksums map[string][]uint32

const sumsMagic = "orrery-crc32c-1\n"

// encode writes: magic; for each blob, by digest: digest, number of pages, checksums.
func (c checksums) encode() []byte {
	var b bytes.Buffer
	b.WriteString(sumsMagic)
	for _, digest := range slices.Sorted(maps.Keys(c)) {
		raw, _ := hex.DecodeString(digest)
		b.Write(raw)
		pages := c[digest]
		_ = binary.Write(&b, binary.LittleEndian, uint32(len(pages)))
		_ = binary.Write(&b, binary.LittleEndian, pages)
	}
	return b.Bytes()
}

// decodeSums reads what encode wrote.
func decodeSums(data []byte) (checksums, error) {
	rest, ok := bytes.CutPrefix(data, []byte(sumsMagic))
	if !ok {
		return nil, errors.New("checksums: not of a known form")
	}
	c := checksums{}
	for len(rest) > 0 {
		if len(rest) < sha256.Size+4 {
			return nil, errors.New("checksums: cut off")
		}
		digest := hex.EncodeToString(rest[:sha256.Size])
		n := int64(binary.LittleEndian.Uint32(rest[sha256.Size:]))
		rest = rest[sha256.Size+4:]
		if n*4 > int64(len(rest)) {
			return nil, fmt.Errorf("checksums of %s: cut off", digest)
		}
		if _, twice := c[digest]; twice {
			return nil, fmt.Errorf("checksums of %s are there twice", digest)
		}
		pages := make([]uint32, n)
		for i := range pages {
			pages[i] = binary.LittleEndian.Uint32(rest[i*4:])
		}
		c[digest], rest = pages, rest[n*4:]
	}
	return c, nil
}
