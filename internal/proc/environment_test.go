package proc

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestEnvironment(t *testing.T) {
	for k, v := range map[string]string{
		"ORRERY_KEY_PASSWORD": "secret", "AWS_SECRET_ACCESS_KEY": "secret", "GITHUB_TOKEN": "secret", "LD_PRELOAD": "/tmp/x.so",
		"GOPROXY": "https://proxy.example", "https_proxy": "http://proxy.example:3128", "HOMES": "secret",
	} {
		t.Setenv(k, v)
	}
	env := Environment("GO*", "APT_CONFIG")
	for _, kv := range env {
		if strings.HasSuffix(kv, "=secret") || strings.HasPrefix(kv, "LD_") {
			t.Errorf("%s is passed on", kv)
		}
	}
	for _, kv := range []string{"PATH=" + os.Getenv("PATH"), "https_proxy=http://proxy.example:3128", "GOPROXY=https://proxy.example"} {
		if !slices.Contains(env, kv) {
			t.Errorf("%s is missing", kv)
		}
	}
	if slices.Contains(Environment(), "GOPROXY=https://proxy.example") {
		t.Error("what was not asked for")
	}
}
