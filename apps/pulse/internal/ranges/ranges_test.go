package ranges

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestAgainstMap compares every operation with what a plain map says.
func TestAgainstMap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		draw := func() (Set, map[uint64]bool) {
			var s Set
			m := map[uint64]bool{}
			for range random.IntN(40) {
				n := uint64(random.IntN(50))
				if s.Add(n) == m[n] {
					t.Fatalf("Add(%d) to %v says it was new: %v", n, s, !m[n])
				}
				m[n] = true
			}
			return s, m
		}
		a, am := draw()
		b, bm := draw()
		union, minus := a.Union(b), a.Minus(b)
		var count, unionCount, minusCount uint64
		for n := range uint64(52) {
			if a.Has(n) != am[n] || union.Has(n) != (am[n] || bm[n]) || minus.Has(n) != (am[n] && !bm[n]) {
				t.Fatalf("%d: a %v, b %v: union %v, minus %v", n, a, b, union, minus)
			}
			for in, c := range map[*uint64]bool{&count: am[n], &unionCount: am[n] || bm[n], &minusCount: am[n] && !bm[n]} {
				if c {
					*in++
				}
			}
		}
		if a.Len() != count || union.Len() != unionCount || minus.Len() != minusCount {
			t.Fatalf("lengths %d %d %d, want %d %d %d", a.Len(), union.Len(), minus.Len(), count, unionCount, minusCount)
		}
		if !union.Equal(b.Union(a)) || !union.Union(a).Equal(union) {
			t.Fatalf("union of %v and %v depends on order or count", a, b)
		}
		data, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var back Set
		if err := json.Unmarshal(data, &back); err != nil || !back.Equal(a) {
			t.Fatalf("%s became %v: %v", data, back, err)
		}
	}
}

func TestCopiesAreIndependent(t *testing.T) {
	a := From(1, 5)
	b := a
	b.Add(6)
	if a.Has(6) || a.Len() != 5 {
		t.Errorf("adding to a copy changed the original: %v", a)
	}
}

func TestFirst(t *testing.T) {
	s := From(3, 5).Union(Of(9))
	if got := s.First(10); !slices.Equal(got, []uint64{3, 4, 5, 9}) {
		t.Errorf("First: %v", got)
	}
	if got := s.First(2); !slices.Equal(got, []uint64{3, 4}) {
		t.Errorf("First(2): %v", got)
	}
	if got := From(math.MaxUint64, math.MaxUint64).First(3); len(got) != 1 {
		t.Errorf("First at the greatest number: %v", got)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	for _, bad := range []string{`{}`, `[[1]]`, `[[2,1]]`, `[[1,2],[3,4]]`, `[[5,6],[1,2]]`, `[[1,18446744073709551615],[3,4]]`, `[[-1,2]]`, `[["1",2]]`} {
		var s Set
		if err := json.Unmarshal([]byte(bad), &s); err == nil {
			t.Errorf("%s was accepted as %v", bad, s)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`[[1,2],[4,4]]`))
	f.Add([]byte(`[[0,18446744073709551615]]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Set
		if json.Unmarshal(data, &s) != nil {
			return
		}
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var again Set
		if err := json.Unmarshal(out, &again); err != nil || !again.Equal(s) {
			t.Fatalf("%s → %s → %v (%v)", data, out, again, err)
		}
		if !s.Union(s).Equal(s) || s.Minus(s).Len() != 0 {
			t.Fatalf("%s is not itself", data)
		}
	})
}
