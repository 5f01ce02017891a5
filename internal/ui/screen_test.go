package ui

import (
	"strconv"
	"strings"
	"sync"
)

// screen is a terminal without a lower edge: it understands what the live view writes,
// and panics on anything else. Colours are kept in angle brackets.
type screen struct {
	mu           sync.Mutex
	columns      int
	rows         [][]string
	row, column  int
	sgr          string
	cursor, wrap bool
	synchronized bool
}

func newScreen(columns int) *screen { return &screen{columns: columns, cursor: true, wrap: true} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := []rune(string(p))
	for i := 0; i < len(text); i++ {
		switch r := text[i]; r {
		case '\r':
			s.column = 0
		case '\n':
			s.row, s.column = s.row+1, 0
		case '\x1b':
			end := i + 2
			for text[end] < '@' {
				end++
			}
			s.control(string(text[i+2:end]), text[end])
			i = end
		default:
			s.put(r)
		}
	}
	return len(p), nil
}

func (s *screen) put(r rune) {
	if s.column >= s.columns {
		if !s.wrap {
			s.column = s.columns - 1
		} else {
			s.row, s.column = s.row+1, 0
		}
	}
	s.grow()
	for len(s.rows[s.row]) <= s.column {
		s.rows[s.row] = append(s.rows[s.row], " ")
	}
	c := string(r)
	if s.sgr != "" {
		c = "<" + s.sgr + ">" + c
	}
	s.rows[s.row][s.column] = c
	s.column++
}

func (s *screen) grow() {
	for len(s.rows) <= s.row {
		s.rows = append(s.rows, nil)
	}
}

func (s *screen) control(parameters string, final rune) {
	s.grow()
	switch string(final) + parameters {
	case "m0":
		s.sgr = ""
	case "K":
		s.rows[s.row] = s.rows[s.row][:min(s.column, len(s.rows[s.row]))]
	case "J":
		s.rows[s.row] = s.rows[s.row][:min(s.column, len(s.rows[s.row]))]
		s.rows = s.rows[:s.row+1]
	case "h?25", "l?25":
		s.cursor = final == 'h'
	case "h?7", "l?7":
		s.wrap = final == 'h'
	case "h?2026", "l?2026":
		s.synchronized = final == 'h'
	default:
		n, err := strconv.Atoi(parameters)
		switch {
		case err == nil && final == 'A':
			s.row = max(0, s.row-n)
		case err == nil && final == 'm':
			s.sgr = parameters
		default:
			panic("unknown control sequence " + parameters + string(final))
		}
	}
}

// resize breaks rows that are too long, as most terminals do.
func (s *screen) resize(columns int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows [][]string
	for i, r := range s.rows {
		if i == s.row {
			s.row = len(rows)
		}
		for len(r) > columns {
			rows = append(rows, r[:columns:columns])
			r = r[columns:]
		}
		rows = append(rows, r)
	}
	s.columns, s.rows = columns, rows
}

func (s *screen) modes() (cursor, wrap, synchronized bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor, s.wrap, s.synchronized
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, r := range s.rows {
		line, sgr := "", ""
		for _, c := range r {
			now := ""
			if strings.HasPrefix(c, "<") && len(c) > 1 {
				now, c, _ = strings.Cut(c[1:], ">")
			}
			if now != sgr {
				line, sgr = line+"<"+now+">", now
			}
			line += c
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
