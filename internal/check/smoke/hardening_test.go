package smoke

import (
	"encoding/base64"
	"fmt"
	"io"
	"testing"
	"time"
)

func TestAuditEntry(t *testing.T) {
	good := `{"level":"Metadata","verb":"create","user":{"username":"u"}}`
	if _, err := auditEntry(good); err != nil {
		t.Error(err)
	}
	secret := base64.StdEncoding.EncodeToString([]byte(auditSentinel))
	for _, bad := range []string{"", `{"level":"Request"}`, `{"level":"Metadata","x":"` + secret + `"}`, `{"level":"Metadata","x":"` + auditSentinel + `"}`} {
		if m, err := auditEntry(bad); err == nil {
			t.Errorf("%s: %s", bad, m)
		}
	}
}

func TestLineFinder(t *testing.T) {
	f := &lineFinder{want: []byte("x")}
	for _, part := range []string{"a\nb", "bx", "c\nx\n"} {
		if _, err := io.WriteString(f, part); err != nil {
			t.Fatal(err)
		}
	}
	if string(f.line) != "bbxc" {
		t.Errorf("%q", f.line)
	}
}

func TestLifeOfToken(t *testing.T) {
	answer := func(claims string) []byte {
		return fmt.Appendf(nil, `{"status":{"token":"h.%s.s"}}`, base64.RawURLEncoding.EncodeToString([]byte(claims)))
	}
	if life, err := lifeOfToken(answer(`{"iat":100,"exp":3700}`)); err != nil || life != time.Hour {
		t.Error(life, err)
	}
	for _, bad := range [][]byte{nil, []byte("{}"), answer("{}"), answer("!")} {
		if life, err := lifeOfToken(bad); err == nil {
			t.Errorf("%s: %s", bad, life)
		}
	}
}
