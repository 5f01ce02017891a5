package environment

import (
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/driver"
)

func TestEtcdOfAClusterOfOthers(t *testing.T) {
	e := &Environment{Kind: driver.Kind{Name: "existing"}, Driver: struct{ driver.Driver }{}}
	if _, err := e.Etcd(); err == nil || !strings.Contains(err.Error(), "existing driver has no etcd of its own") {
		t.Errorf("%v", err)
	}
}
