package apt

import (
	"slices"
	"strings"
	"testing"
)

func TestSimulated(t *testing.T) {
	out := "Inst libc6 (2.36-9+deb12u10 Debian:12.15/oldstable [amd64])\nInst busybox-static (1:1.35.0-4 Debian:12.15/oldstable, Debian-Security:12 [amd64]) []\nConf libc6 (2.36 Debian [amd64])\n"
	var got []string
	for _, m := range simulated.FindAllStringSubmatch(out, -1) {
		got = append(got, strings.Join(m[1:], " "))
	}
	if want := []string{"libc6 2.36-9+deb12u10 amd64", "busybox-static 1:1.35.0-4 amd64"}; !slices.Equal(got, want) {
		t.Errorf("packages %q, want %q", got, want)
	}
}
