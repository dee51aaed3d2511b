package fleet

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// checkRange reads the range a node claims.
func (b ClaimPool) checkRange() (span, error) {
	network, err := netip.ParsePrefix(b.Network)
	if err != nil || !network.Addr().Is4() || network != network.Masked() {
		return span{}, invalid("network", "%q is no IPv4 network as in 10.0.0.0/24", b.Network)
	}
	first, err := netip.ParseAddr(b.First)
	if err != nil || !network.Contains(first) {
		return span{}, invalid("first", "%q is no address of %s", b.First, network)
	}
	last, err := netip.ParseAddr(b.Last)
	if err != nil || !network.Contains(last) {
		return span{}, invalid("last", "%q is no address of %s", b.Last, network)
	}
	if last.Less(first) {
		return span{}, invalid("last", "%s lies before %s, where the range begins", last, first)
	}
	return span{number(first), number(last)}, nil
}

// apply makes the pool, or brings the claimer's blocks in line with its range
// and asks for its share. What others own is theirs until they yield it.
func (b ClaimPool) apply(s *State, c Command) (any, error) {
	if s.nodes[b.NodeID] == nil {
		return nil, refuse(Conflict, "node %s is no member and lends nothing", b.NodeID)
	}
	r, err := b.checkRange()
	if err != nil {
		return nil, err
	}
	p := &Pool{Network: b.Network}
	old := s.pools[b.Network]
	if old != nil {
		p = old.clone()
	}
	p.First, p.Last = address(r.first), address(r.last)
	p.fit(b.NodeID, r, c.At)
	for _, gap := range p.gaps(r) {
		for _, piece := range gap.pieces(r) {
			p.Blocks = append(p.Blocks, piece.block(b.NodeID))
		}
	}
	p.share(b.NodeID)
	if old != nil && old.equal(p) {
		return old, nil
	}
	s.putPool(p)
	return p, nil
}

func (p *Pool) clone() *Pool {
	out := *p
	out.Blocks = slices.Clone(p.Blocks)
	return &out
}

func (p *Pool) equal(o *Pool) bool {
	return p.Network == o.Network && p.First == o.First && p.Last == o.Last && slices.Equal(p.Blocks, o.Blocks)
}

func (s *State) putPool(p *Pool) {
	s.pools[p.Network] = p
	s.events = append(s.events, Event{Type: EventPool, Name: p.Network, Pool: p})
}

// fit frees what the owner has that its range does not cover, and takes back
// what it covers again and nobody has taken.
func (p *Pool) fit(owner string, r span, at time.Time) {
	for i := range p.Blocks {
		b := &p.Blocks[i]
		if b.Owner != owner {
			continue
		}
		sp := b.span()
		in := span{max(sp.first, r.first), min(sp.last, r.last)}
		if in.first > in.last {
			b.free(at)
			continue
		}
		outside := *b
		outside.free(at)
		b.First, b.Last, b.FreedAt = address(in.first), address(in.last), time.Time{}
		if sp.first < in.first {
			p.Blocks = append(p.Blocks, outside.between(sp.first, in.first-1))
		}
		if sp.last > in.last {
			p.Blocks = append(p.Blocks, outside.between(in.last+1, sp.last))
		}
	}
}

func (b *PoolBlock) free(at time.Time) {
	b.Wanted = ""
	if b.FreedAt.IsZero() {
		b.FreedAt = at
	}
}

func (b PoolBlock) between(first, last uint32) PoolBlock {
	b.First, b.Last = address(first), address(last)
	return b
}

// gaps are the runs of the range that lie in no block.
func (p *Pool) gaps(r span) []span {
	var covered []span
	for _, b := range p.Blocks {
		covered = append(covered, b.span())
	}
	slices.SortFunc(covered, func(a, b span) int { return compare(a.first, b.first) })
	var out []span
	next := uint64(r.first) // may come to lie behind the last address there is
	for _, c := range covered {
		if uint64(c.first) > next && c.first <= r.last {
			out = append(out, span{uint32(next), c.first - 1})
		}
		next = max(next, uint64(c.last)+1)
	}
	if next <= uint64(r.last) {
		out = append(out, span{uint32(next), r.last})
	}
	return out
}

func compare(a, b uint32) int {
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}

func (sp span) size() uint64 { return uint64(sp.last) - uint64(sp.first) + 1 }

// pieces cuts a part of a range into blocks as large as those the whole range
// would be cut into.
func (sp span) pieces(whole span) []span {
	n := min((sp.size()*poolBlocks+whole.size()-1)/whole.size(), sp.size())
	out := make([]span, n)
	for i := range n {
		out[i] = span{sp.first + uint32(i*sp.size()/n), sp.first + uint32((i+1)*sp.size()/n-1)}
	}
	return out
}

func (sp span) block(owner string) PoolBlock {
	return PoolBlock{First: address(sp.first), Last: address(sp.last), Owner: owner}
}

// share marks blocks of the richest as wanted by the claimer until it has, or is
// about to have, its fair part. Freed blocks have nobody to yield them.
func (p *Pool) share(claimer string) {
	held, blocks := map[string]int{claimer: 0}, 0
	for _, b := range p.Blocks {
		if b.FreedAt.IsZero() {
			held[b.holder()]++
			held[b.Owner] += 0
			blocks++
		}
	}
	for fair := blocks / len(held); held[claimer] < fair; {
		richest := ""
		for node, n := range held {
			if node != claimer && (richest == "" || n > held[richest] || n == held[richest] && node < richest) {
				richest = node
			}
		}
		for i := len(p.Blocks) - 1; i >= 0; i-- {
			if b := &p.Blocks[i]; b.FreedAt.IsZero() && b.holder() == richest {
				b.Wanted = claimer
				if b.Owner == claimer {
					b.Wanted = ""
				}
				break
			}
		}
		held[richest]--
		held[claimer]++
	}
}

// holder is who has the block, or is about to have it.
func (b PoolBlock) holder() string {
	if b.Wanted != "" {
		return b.Wanted
	}
	return b.Owner
}

// pool gives a copy of a known pool, with all places in it.
func (s *State) pool(network string, places []int) (*Pool, error) {
	old := s.pools[network]
	if old == nil {
		return nil, refuse(NotFound, "nobody lends addresses of %s", network)
	}
	for _, i := range places {
		if i < 0 || i >= len(old.Blocks) {
			return nil, invalid("blocks", "the pool of %s has %d blocks and none at place %d", network, len(old.Blocks), i)
		}
	}
	return old.clone(), nil
}

func (b YieldPool) apply(s *State, c Command) (any, error) {
	p, err := s.pool(b.Network, b.Blocks)
	if err != nil {
		return nil, err
	}
	yielded := map[string]int{}
	for _, i := range b.Blocks {
		if bl := &p.Blocks[i]; bl.Lends(b.NodeID) && bl.Wanted != "" {
			yielded[bl.Wanted]++
			bl.Owner, bl.Wanted = bl.Wanted, ""
		}
	}
	if len(yielded) == 0 {
		return s.pools[b.Network], nil // yielded already, or not wanted any more
	}
	s.putPool(p)
	for _, to := range slices.Sorted(maps.Keys(yielded)) {
		s.note(c, AuditRecord{Node: b.NodeID, What: fmt.Sprintf("node %s yielded %d of the %d blocks of %s to node %s",
			s.nodeName(b.NodeID), yielded[to], len(p.Blocks), p.Network, s.nodeName(to))})
	}
	return p, nil
}

func (b TakePool) apply(s *State, c Command) (any, error) {
	if s.nodes[b.NodeID] == nil {
		return nil, refuse(Conflict, "node %s is no member and lends nothing", b.NodeID)
	}
	p, err := s.pool(b.Network, b.Blocks)
	if err != nil {
		return nil, err
	}
	taken := map[string]int{}
	for _, i := range b.Blocks {
		bl := &p.Blocks[i]
		switch {
		case bl.Lends(b.NodeID):
		case bl.FreedAt.IsZero():
			return nil, refuse(Conflict, "%s to %s are lent by node %s", bl.First, bl.Last, s.nodeName(bl.Owner))
		case !bl.Free(c.At):
			return nil, refuse(Conflict, "node %s may have lent %s to %s until lately; they are free at %s",
				s.nodeName(bl.Owner), bl.First, bl.Last, bl.FreedAt.Add(poolRest).Format(time.RFC3339))
		default:
			taken[bl.Owner]++
			*bl = PoolBlock{First: bl.First, Last: bl.Last, Owner: b.NodeID}
		}
	}
	if len(taken) == 0 {
		return s.pools[b.Network], nil
	}
	s.putPool(p)
	for _, from := range slices.Sorted(maps.Keys(taken)) {
		s.note(c, AuditRecord{Node: b.NodeID, What: fmt.Sprintf("node %s took %d of the %d blocks of %s, which node %s does not lend any more",
			s.nodeName(b.NodeID), taken[from], len(p.Blocks), p.Network, s.nodeName(from))})
	}
	return p, nil
}

// freePools lets go of a node that was removed.
func (s *State) freePools(node string, at time.Time) {
	for _, old := range s.Pools() {
		p := old.clone()
		for i := range p.Blocks {
			b := &p.Blocks[i]
			if b.Owner == node {
				b.free(at)
			} else if b.Wanted == node {
				b.Wanted = ""
			}
		}
		if !p.equal(old) {
			s.putPool(p)
		}
	}
}
