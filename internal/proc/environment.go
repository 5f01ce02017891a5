package proc

import (
	"os"
	"slices"
	"strings"
)

// passed are the variables that compilers, apt and the like need: where programs and the
// person's own settings are, and how to reach the network. Nothing else is theirs to know:
// the rest may hold passwords.
var passed = []string{
	"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TERM", "XDG_CONFIG_HOME", "XDG_CACHE_HOME",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC",
}

// Environment is what a program gets of our environment, for [Cmd.Env], when it is not run in
// the name of the person: also names further variables, or with a * at its end all that begin
// so.
func Environment(also ...string) []string {
	wanted := slices.Concat(passed, also)
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if slices.ContainsFunc(wanted, func(w string) bool {
			prefix, many := strings.CutSuffix(w, "*")
			return name == w || many && strings.HasPrefix(name, prefix)
		}) {
			env = append(env, kv)
		}
	}
	return env
}
