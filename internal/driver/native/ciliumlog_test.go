package native

import (
	"strings"
	"testing"
)

func TestLastFatal(t *testing.T) {
	const (
		info    = "time=2026-11-23T03:37:00Z level=info msg=\"  --fqdn-regex-compile-lru-size='1024'\"\n"
		missing = `time=2026-11-23T03:36:58Z level=error msg="Failed to compile bpf_sock.o: exec: \"clang\": executable file not found in $PATH" module=agent.datapath.loader compilerPID=not-started` + "\n" +
			`time=2026-11-23T03:37:00Z level=fatal msg="failed to compile bpf_sock.c" module=agent.datapath.loader error="Failed to compile bpf_sock.o: exec: \"clang\": executable file not found in $PATH"` + "\n"
		broken = `time=1 level=error msg="Failed to compile bpf_host.o: exit status 1" module=agent.datapath.loader compilerPID=12` + "\n" +
			`time=1 level=warn msg="/var/lib/cilium/bpf/bpf_host.c:7:2: error: no such thing" module=agent.datapath.loader` + "\n" +
			`time=1 level=warn msg="1 error generated." module=agent.datapath.loader` + "\n" +
			`time=2 level=fatal msg="failed to compile bpf_host.c" error="exit status 1"` + "\n"
		other = "time=3 level=fatal msg=\"failed to start: bpf map full\" module=agent\n"
	)
	for _, tc := range []struct {
		name, log, want string
		compiling       bool
	}{
		{"nothing", "", "", false},
		{"well", info, "", false},
		{"no compiler", info + missing + info, `failed to compile bpf_sock.c: Failed to compile bpf_sock.o: exec: "clang": executable file not found in $PATH`, true},
		{"the compiler refuses", broken, "failed to compile bpf_host.c: exit status 1: /var/lib/cilium/bpf/bpf_host.c:7:2: error: no such thing; 1 error generated.", true},
		{"the last one counts", missing + info + other, "failed to start: bpf map full", false},
		{"cut in the middle", missing[40:], `failed to compile bpf_sock.c: Failed to compile bpf_sock.o: exec: "clang": executable file not found in $PATH`, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, compiling := lastFatal(tc.log); got != tc.want || compiling != tc.compiling {
				t.Errorf("got %q, %t, want %q, %t", got, compiling, tc.want, tc.compiling)
			}
		})
	}
	many := strings.Repeat(`level=warn msg="x"`+"\n", 100)
	if got, _ := lastFatal(` level=error msg="Failed to compile y"` + "\n" + many + ` level=fatal msg=z` + "\n"); strings.Count(got, "x") > compileLines {
		t.Errorf("repeats everything: %q", got)
	}
}

func FuzzLastFatal(f *testing.F) {
	f.Add(`time=1 level=fatal msg="a\"b" error=c` + "\n")
	f.Add(" level=error msg=\"Failed to compile\n level=warn msg=\"\\")
	f.Fuzz(func(t *testing.T, log string) {
		if why, compiling := lastFatal(log); compiling && why == "" {
			t.Error("compiling without a reason")
		}
	})
}
