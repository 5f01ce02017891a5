package licence

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// Unknown is the expression for a licence that was not recognised, as SPDX calls it.
const Unknown = "NOASSERTION"

// fileForm are the names of files that hold a licence and nothing else.
var fileForm = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying)([-_.].*)?$`)

// notText are programs and data that have such a name.
var notText = regexp.MustCompile(`(?i)\.(go|json|ya?ml|html|css|js|sh|tmpl|header)$`)

// enough is how much of a licence file has to be recognised, in per cent. Copyright
// lines and a title are the rest.
const enough = 60

// maxFile is far beyond any licence text, in bytes.
const maxFile = 1 << 20

// Of reads the licence files at the root of dir and returns an SPDX licence expression.
// Several licences are joined by AND, the careful reading: whether they are a choice, the
// files do not say. Without a file, or with one that is not recognised, it is [Unknown].
func Of(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("read licences: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if !e.Type().IsRegular() || !fileForm.MatchString(e.Name()) || notText.MatchString(e.Name()) {
			continue
		}
		text, err := readSome(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", fmt.Errorf("read licences: %w", err)
		}
		found := Identify(text)
		if len(found) == 0 {
			return Unknown, nil // a text that nobody has read may say anything
		}
		ids = append(ids, found...)
	}
	if len(ids) == 0 {
		return Unknown, nil
	}
	slices.Sort(ids)
	return strings.Join(slices.Compact(ids), " AND "), nil
}

// Identify returns the SPDX identifiers of the licences in text, sorted; none when too
// much of the text is something else.
func Identify(text []byte) []string {
	cover := licensecheck.Scan(text)
	if cover.Percent < enough {
		return nil
	}
	var ids []string
	for _, m := range cover.Match {
		if !m.IsURL {
			ids = append(ids, m.ID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func readSome(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}
