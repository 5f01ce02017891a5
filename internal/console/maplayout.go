package console

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/flow"
)

// place of a peer in the picture: callers left, who is called right of them.
type place struct {
	peer      flow.Peer
	column    int
	x, y      float64 // of the upper left corner
	in, out   float64 // events a second
	dropsHere bool    // an edge that ends here has drops
}

const (
	peerWidth  = 176.0
	peerHeight = 40.0
	columnGap  = 112.0
	rowGap     = 26.0
	// mostColumns fit a page without making letters small.
	mostColumns = 4
	mapMargin   = 14.0
	// mostPeers are drawn; the busiest. The list has all.
	mostPeers = 60
)

// mapPicture is who stands where.
type mapPicture struct {
	places        map[flow.Peer]*place
	columns       [][]*place
	width, height float64
}

// layout puts peers into a few columns, by how many steps lead to them and on from them, and
// orders each column so that lines cross less. The same edges give the same picture, whatever
// their rates.
func layout(edges []flow.Edge) mapPicture {
	places := map[flow.Peer]*place{}
	out := map[flow.Peer][]flow.Peer{}
	calls := map[flow.Peer]int{}
	for _, e := range edges {
		for _, p := range []flow.Peer{e.From, e.To} {
			if places[p] == nil {
				places[p] = &place{peer: p}
			}
		}
		places[e.From].out += e.Forwarded + e.Dropped
		places[e.To].in += e.Forwarded + e.Dropped
		if e.Dropped > 0 {
			places[e.To].dropsHere = true
		}
		if e.From != e.To {
			out[e.From] = append(out[e.From], e.To)
			calls[e.To]++
		}
	}
	peers := slices.SortedFunc(maps.Keys(places), func(a, b flow.Peer) int {
		return cmp.Or(cmp.Compare(calls[a], calls[b]), cmp.Compare(len(out[b]), len(out[a])), strings.Compare(a.String(), b.String()))
	})
	forward := acyclic(peers, out)
	columns := rank(places, topological(peers, forward), forward)
	grid := make([][]*place, columns)
	for _, p := range peers {
		grid[places[p].column] = append(grid[places[p].column], places[p])
	}
	untangle(grid, edges)
	rows := 0
	for _, column := range grid {
		rows = max(rows, len(column))
	}
	width := 2*mapMargin + columnGap/2 + float64(columns)*peerWidth + float64(max(0, columns-1))*columnGap
	height := 2*mapMargin + float64(rows)*peerHeight + float64(max(0, rows-1))*rowGap
	for i, column := range grid {
		// Shorter columns spread over the height, so that their lines part.
		step := (height - 2*mapMargin) / float64(len(column))
		for j, p := range column {
			p.x = mapMargin + float64(i)*(peerWidth+columnGap)
			p.y = mapMargin + (float64(j)+0.5)*step - peerHeight/2
		}
	}
	return mapPicture{places, grid, width, height}
}

// rank gives each peer its column: on the way from those whom nobody calls to those who call
// nobody. It returns how many columns there are.
func rank(places map[flow.Peer]*place, order []flow.Peer, forward map[flow.Peer][]flow.Peer) int {
	before, after := map[flow.Peer]int{}, map[flow.Peer]int{}
	longest := 0
	for _, p := range order {
		longest = max(longest, before[p])
		for _, to := range forward[p] {
			before[to] = max(before[to], before[p]+1)
		}
	}
	for _, p := range slices.Backward(order) {
		for _, to := range forward[p] {
			after[p] = max(after[p], after[to]+1)
		}
	}
	most := min(mostColumns, longest+1)
	used := map[int]bool{}
	for _, p := range order {
		if way := before[p] + after[p]; way > 0 {
			places[p].column = int(float64(before[p])/float64(way)*float64(most-1) + 0.5)
		}
		used[places[p].column] = true
	}
	// A column that nobody came to is left out.
	number := map[int]int{}
	for i, c := range slices.Sorted(maps.Keys(used)) {
		number[c] = i
	}
	for _, p := range order {
		places[p].column = number[places[p].column]
	}
	return len(number)
}

// gap is the height at which a line passes a column between its peers, next to y.
func (m mapPicture) gap(column int, y float64) float64 {
	best, distance := y, -1.0
	try := func(at float64) {
		if d := max(at-y, y-at); distance < 0 || d < distance {
			best, distance = at, d
		}
	}
	last := 0.0
	for _, p := range m.columns[column] {
		try((last + p.y) / 2)
		last = p.y + peerHeight
	}
	try((last + m.height) / 2)
	return best
}

// acyclic leaves out edges that lead back to a peer on the way there.
func acyclic(peers []flow.Peer, out map[flow.Peer][]flow.Peer) map[flow.Peer][]flow.Peer {
	const open, done = 1, 2
	state := map[flow.Peer]int{}
	forward := map[flow.Peer][]flow.Peer{}
	var visit func(flow.Peer)
	visit = func(p flow.Peer) {
		state[p] = open
		for _, to := range out[p] {
			if state[to] == open {
				continue
			}
			forward[p] = append(forward[p], to)
			if state[to] == 0 {
				visit(to)
			}
		}
		state[p] = done
	}
	for _, p := range peers {
		if state[p] == 0 {
			visit(p)
		}
	}
	return forward
}

// topological order: who calls before who is called.
func topological(peers []flow.Peer, forward map[flow.Peer][]flow.Peer) []flow.Peer {
	left := map[flow.Peer]int{}
	for _, to := range forward {
		for _, p := range to {
			left[p]++
		}
	}
	var order, ready []flow.Peer
	for _, p := range peers {
		if left[p] == 0 {
			ready = append(ready, p)
		}
	}
	for len(ready) > 0 {
		p := ready[0]
		ready = ready[1:]
		order = append(order, p)
		for _, to := range forward[p] {
			if left[to]--; left[to] == 0 {
				ready = append(ready, to)
			}
		}
	}
	return order
}

// untangle orders each column by the mean place of its neighbours, a few times.
func untangle(grid [][]*place, edges []flow.Edge) {
	at := map[flow.Peer]float64{}
	note := func() {
		for _, column := range grid {
			for j, p := range column {
				at[p.peer] = (float64(j) + 0.5) / float64(len(column))
			}
		}
	}
	neighbours := map[flow.Peer][]flow.Peer{}
	for _, e := range edges {
		if e.From != e.To {
			neighbours[e.From] = append(neighbours[e.From], e.To)
			neighbours[e.To] = append(neighbours[e.To], e.From)
		}
	}
	for _, column := range grid {
		slices.SortFunc(column, func(a, b *place) int { return strings.Compare(a.peer.String(), b.peer.String()) })
	}
	for range 6 {
		for _, column := range grid {
			note()
			mean := map[flow.Peer]float64{}
			for _, p := range column {
				sum := at[p.peer]
				for _, n := range neighbours[p.peer] {
					sum += at[n]
				}
				mean[p.peer] = sum / float64(1+len(neighbours[p.peer]))
			}
			slices.SortStableFunc(column, func(a, b *place) int { return cmp.Compare(mean[a.peer], mean[b.peer]) })
		}
	}
}

// busiest keeps the edges among the peers with the most traffic, so that a picture can be
// read. Edges with drops stay in any case. more is how many peers were left out.
func busiest(edges []flow.Edge, most int) (kept []flow.Edge, more int) {
	weight := map[flow.Peer]float64{}
	for _, e := range edges {
		w := e.Forwarded + e.Dropped
		if e.Dropped > 0 {
			w += 1e9
		}
		weight[e.From] += w
		weight[e.To] += w
	}
	if len(weight) <= most {
		return edges, 0
	}
	peers := slices.SortedFunc(maps.Keys(weight), func(a, b flow.Peer) int {
		return cmp.Or(cmp.Compare(weight[b], weight[a]), strings.Compare(a.String(), b.String()))
	})
	in := map[flow.Peer]bool{}
	for _, p := range peers[:most] {
		in[p] = true
	}
	for _, e := range edges {
		if in[e.From] && in[e.To] {
			kept = append(kept, e)
		}
	}
	return kept, len(peers) - most
}
