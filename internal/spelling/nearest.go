package spelling

import (
	"strings"
)

// longest is the length in bytes from which on nobody has merely mistyped a word.
const longest = 64

// Nearest is the word of known that got was probably meant to be, whatever its case, and
// the first of several that are as near. It is empty when none is near.
func Nearest(got string, known []string) string {
	if got == "" || len(got) > longest {
		return ""
	}
	best, least := "", 0
	for _, word := range known {
		d := distance(strings.ToLower(got), strings.ToLower(word))
		if d <= max(1, len(word)/3) && (best == "" || d < least) {
			best, least = word, d
		}
	}
	return best
}

// distance is Levenshtein's, over bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
