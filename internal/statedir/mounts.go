package statedir

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

// MountsBelow lists the mounts on dir and below it, in the mount namespace of this thread. dir
// is without links.
func MountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMounts(f, dir)
}

func parseMounts(r io.Reader, dir string) ([]string, error) {
	var found []string
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 5 {
			continue
		}
		at := Unescape(f[4])
		if at == dir || strings.HasPrefix(at, dir+"/") {
			found = append(found, at)
		}
	}
	return found, s.Err()
}

// Unescape undoes how mountinfo writes spaces and the like, as octal numbers,
// proc_pid_mountinfo(5).
func Unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
