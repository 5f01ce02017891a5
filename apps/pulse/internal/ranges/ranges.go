// Package ranges keeps sets of numbers that come mostly one after the other, as the
// intervals that they form: the million events of a producer that lost none are one pair.
//
// Sets only grow and are merged by union, so it does not matter in which order, how often
// or by whom they are merged: what two replicas know adds up to what is known. The package
// imports nothing but the standard library.
package ranges

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
)

// MaxIntervals bounds a set that comes from elsewhere.
const MaxIntervals = 1 << 16

// Interval is the numbers from the first to the second, both included.
type Interval [2]uint64

// Set of numbers. The zero value is empty. Intervals are in ascending order, with a gap
// between each two.
type Set struct{ intervals []Interval }

// Of makes a set of single numbers.
func Of(numbers ...uint64) (s Set) {
	for _, n := range numbers {
		s.Add(n)
	}
	return s
}

// From makes the set of all numbers from first to last; none when last is smaller.
func From(first, last uint64) Set {
	if last < first {
		return Set{}
	}
	return Set{[]Interval{{first, last}}}
}

// Add puts n into the set and says whether it is new there.
func (s *Set) Add(n uint64) bool {
	if s.Has(n) {
		return false
	}
	// The end of the last interval is where nearly all go.
	if last := len(s.intervals) - 1; last >= 0 && s.intervals[last][1]+1 == n {
		s.intervals = slices.Clone(s.intervals) // a copy of the set may share them
		s.intervals[last][1] = n
		return true
	}
	*s = s.Union(Set{[]Interval{{n, n}}})
	return true
}

// Has says whether n is in the set.
func (s Set) Has(n uint64) bool {
	i := sort.Search(len(s.intervals), func(i int) bool { return s.intervals[i][1] >= n })
	return i < len(s.intervals) && s.intervals[i][0] <= n
}

// Len is how many numbers are in the set.
func (s Set) Len() (n uint64) {
	for _, i := range s.intervals {
		n += i[1] - i[0] + 1
	}
	return n
}

// Intervals is how many pieces the set is in: what it costs to keep.
func (s Set) Intervals() int { return len(s.intervals) }

// Max is the greatest number in the set; 0 when it is empty.
func (s Set) Max() uint64 {
	if len(s.intervals) == 0 {
		return 0
	}
	return s.intervals[len(s.intervals)-1][1]
}

// First lists the smallest numbers of the set, limit at most.
func (s Set) First(limit int) (numbers []uint64) {
	for _, i := range s.intervals {
		for n := i[0]; len(numbers) < limit; n++ {
			numbers = append(numbers, n)
			if n == i[1] {
				break
			}
		}
	}
	return numbers
}

// Union is what is in either set.
func (s Set) Union(o Set) Set {
	switch {
	case len(o.intervals) == 0:
		return s
	case len(s.intervals) == 0:
		return o
	}
	all := slices.Concat(s.intervals, o.intervals)
	slices.SortFunc(all, func(a, b Interval) int {
		switch {
		case a[0] < b[0]:
			return -1
		case a[0] > b[0]:
			return 1
		}
		return 0
	})
	merged := all[:1]
	for _, next := range all[1:] {
		last := &merged[len(merged)-1]
		if last[1] == math.MaxUint64 || next[0] <= last[1]+1 {
			last[1] = max(last[1], next[1])
			continue
		}
		merged = append(merged, next)
	}
	return Set{merged}
}

// Minus is what is in s and not in o.
func (s Set) Minus(o Set) Set {
	var left []Interval
	for _, i := range s.intervals {
		from, empty := i[0], false
		start := sort.Search(len(o.intervals), func(k int) bool { return o.intervals[k][1] >= i[0] })
		for _, hole := range o.intervals[start:] {
			if hole[0] > i[1] {
				break
			}
			if hole[0] > from {
				left = append(left, Interval{from, hole[0] - 1})
			}
			if hole[1] >= i[1] {
				empty = true
				break
			}
			from = hole[1] + 1
		}
		if !empty {
			left = append(left, Interval{from, i[1]})
		}
	}
	return Set{left}
}

// Equal says whether both hold the same.
func (s Set) Equal(o Set) bool { return slices.Equal(s.intervals, o.intervals) }

// MarshalJSON writes [[first,last],…].
func (s Set) MarshalJSON() ([]byte, error) {
	if s.intervals == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(s.intervals)
}

// UnmarshalJSON reads what MarshalJSON writes and refuses what breaks its order.
func (s *Set) UnmarshalJSON(data []byte) error {
	var raw [][]uint64
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("set of numbers: %w", err)
	}
	if len(raw) > MaxIntervals {
		return fmt.Errorf("set of numbers: %d intervals, %d are allowed", len(raw), MaxIntervals)
	}
	var intervals []Interval
	for n, pair := range raw {
		if len(pair) != 2 {
			return fmt.Errorf("set of numbers: interval %d has %d numbers, want 2", n, len(pair))
		}
		i := Interval{pair[0], pair[1]}
		if i[1] < i[0] {
			return fmt.Errorf("set of numbers: interval %d ends before it begins", n)
		}
		if n > 0 && (intervals[n-1][1] == math.MaxUint64 || i[0] <= intervals[n-1][1]+1) {
			return errors.New("set of numbers: intervals overlap, touch or are out of order")
		}
		intervals = append(intervals, i)
	}
	s.intervals = intervals
	return nil
}
