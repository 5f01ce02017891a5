package spelling

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	known := []string{"servers", "agents", "zones", "apiVersion", "a"}
	for got, want := range map[string]string{
		"server": "servers", "SERVERS": "servers", "sevrers": "servers", "apiversion": "apiVersion",
		"agnets": "agents", "zone": "zones", "b": "a", // one letter for another
		"nothing": "", "": "", "serverless-functions": "", strings.Repeat("zones", 20): "",
	} {
		if is := Nearest(got, known); is != want {
			t.Errorf("%q: got %q, want %q", got, is, want)
		}
	}
	if is := Nearest("cat", []string{"bat", "hat"}); is != "bat" {
		t.Errorf("of two that are as near: %q, want the first", is)
	}
	if is := Nearest("x", nil); is != "" {
		t.Errorf("of nothing: %q", is)
	}
}
