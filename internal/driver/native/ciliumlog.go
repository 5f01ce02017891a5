package native

import (
	"regexp"
	"strconv"
	"strings"
)

// compileLines bounds what is repeated of a compiler's complaints.
const compileLines = 6

var (
	logLevel   = regexp.MustCompile(`(?:^| )level=([a-z]+)`)
	logMessage = regexp.MustCompile(`(?: )msg=("(?:[^"\\]|\\.)*"|[^ ]+)`)
	logError   = regexp.MustCompile(`(?: )error=("(?:[^"\\]|\\.)*"|[^ ]+)`)
)

func logValue(field *regexp.Regexp, line string) string {
	m := field.FindStringSubmatch(line)
	if m == nil {
		return ""
	}
	if s, err := strconv.Unquote(m[1]); err == nil {
		return s
	}
	return m[1]
}

// lastFatal is why Cilium's agent or operator ended the last time, out of the end of its log:
// the message that it calls fatal, and what the compiler said just before. compiling says that
// it ended over a program that cannot be compiled, which trying again does not change. why is
// empty when it did not say.
func lastFatal(log string) (why string, compiling bool) {
	var complaints []string
	for line := range strings.Lines(log) {
		line = strings.TrimSuffix(line, "\n")
		message := logValue(logMessage, line)
		switch logValue(logLevel, line) {
		case "error":
			if strings.HasPrefix(message, "Failed to compile") {
				complaints = []string{message}
			}
		case "warn": // what the compiler writes, a line each
			if n := len(complaints); n > 0 && n <= compileLines && logValue(logError, line) == "" {
				complaints = append(complaints, message)
			}
		case "fatal":
			why = message
			if e := logValue(logError, line); e != "" {
				why += ": " + e
			}
			compiling = len(complaints) > 0 || strings.Contains(why, "compile")
			if len(complaints) > 1 {
				why += ": " + strings.Join(complaints[1:], "; ")
			}
			if why == "" {
				why = "it does not say why"
			}
			complaints = nil
		}
	}
	return why, compiling
}
