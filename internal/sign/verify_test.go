package sign

import "testing"

func TestAttachAndVerify(t *testing.T) {
	for name, api := range map[string]bool{"referrers API": true, "referrers by tag": false} {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t, api)
			p := publish(t, m.address)
			k, _ := testKey(t)
			if err := Attach(t.Context(), p.address, imageName, p.digest, k, p.docs); err != nil {
				t.Fatal(err)
			}
			policy := p.policy(k)
			policy.Thorough = true
			r, err := Verify(t.Context(), p.address, imageName, p.digest, policy)
			if err != nil {
				t.Fatal(err)
			}
			if !r.OK() || len(r.Checks) != 5 || r.Signer != k.Public().Fingerprint() {
				t.Errorf("%+v", r)
			}
			n := m.writes.Load()
			if err := Attach(t.Context(), p.address, imageName, p.digest, k, p.docs); err != nil {
				t.Fatal(err)
			}
			if more := m.writes.Load() - n; more > 0 {
				t.Errorf("attached twice: %d writes more", more)
			}
		})
	}
}
