package ui

import (
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Table writes rows under header, each column as wide as its widest cell, two spaces
// between them. Rows may be shorter than the header; an empty cell is shown as "-", an
// empty word of the header as nothing. A nil header is left out.
func Table(w io.Writer, header []string, rows [][]string) error {
	all := make([][]string, 0, len(rows)+1)
	if header != nil {
		head := slices.Clone(header)
		for i, word := range head {
			if word == "" {
				head[i] = " "
			}
		}
		all = append(all, head)
	}
	all = append(all, rows...)
	columns := 0
	for _, r := range all {
		columns = max(columns, len(r))
	}
	widths := make([]int, columns)
	for _, r := range all {
		for i := range columns {
			widths[i] = max(widths[i], width(cell(r, i)))
		}
	}
	var b strings.Builder
	for _, r := range all {
		var line strings.Builder
		for i := range columns {
			c := cell(r, i)
			line.WriteString(c)
			if i < columns-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-width(c)+2))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func cell(row []string, i int) string {
	if i >= len(row) || row[i] == "" {
		return "-"
	}
	return clean(row[i])
}

// width is the number of terminal columns of s: one for each character. Nothing of ours
// uses wide ones.
func width(s string) int { return utf8.RuneCountInString(s) }

// Seconds formats a duration for a person: "0.4 s", "12 s", "3 min 05 s", "1 h 02 min".
func Seconds(s float64) string {
	switch {
	case math.IsNaN(s) || math.IsInf(s, 0):
		return "?"
	case s < 0:
		return "-" + Seconds(-s)
	case s < 9.95:
		return fmt.Sprintf("%.1f s", s)
	case s < 59.5:
		return fmt.Sprintf("%.0f s", s)
	case s < 3599.5:
		n := int(math.Round(s))
		return fmt.Sprintf("%d min %02d s", n/60, n%60)
	case s < 48*3600:
		n := int(math.Round(s / 60))
		return fmt.Sprintf("%d h %02d min", n/60, n%60)
	default:
		n := int(s / 3600)
		return fmt.Sprintf("%d d %02d h", n/24, n%24)
	}
}

// Duration is [Seconds] of d.
func Duration(d time.Duration) string { return Seconds(d.Seconds()) }

// Size formats a number of bytes for a person, in powers of 1024: "512 B", "4.0 KiB", "183 MiB".
func Size(bytes int64) string {
	if bytes < 0 {
		return "-" + Size(-max(bytes, -math.MaxInt64))
	}
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	v, unit := float64(bytes), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		v /= 1024
		if v < 999.5 {
			break
		}
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// escape matches what programs send to colour their output (ECMA-48 control sequences).
var escape = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(\x07|\x1b\\\\)?")

// clean makes one line of s and drops colours and control characters: messages may quote
// what other programs printed.
func clean(s string) string {
	s = escape.ReplaceAllString(strings.ToValidUTF8(s, "?"), "")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0:
			return -1
		}
		return r
	}, s))
}
