package alerts

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

func TestKeepsTheLast(t *testing.T) {
	r := &Receiver{}
	for n := range Keep + 10 {
		r.keep([]Alert{{Fingerprint: fmt.Sprint(n)}})
	}
	if len(r.alerts) != Keep || r.alerts[0].Fingerprint != "10" {
		t.Errorf("%d alerts from %s, want the last %d", len(r.alerts), r.alerts[0].Fingerprint, Keep)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":"4","alerts":[{"status":"firing","labels":{"alertname":"A"}}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		alerts, err := decode(bytes.NewReader(body))
		if err == nil && (len(alerts) == 0 || slices.ContainsFunc(alerts, func(a Alert) bool { return a.Labels["alertname"] == "" })) {
			t.Errorf("%s: an alert without a name", body)
		}
	})
}
