package fleet

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Pool is the range of addresses that strangers draw from on one network, cut
// into blocks of which each has one node that lends it. Two nodes never lend one
// address, even when they do not hear of each other.
type Pool struct {
	Network string `json:"network"` // "10.0.0.0/24"
	First   string `json:"first"`   // of the range as it was claimed last
	Last    string `json:"last"`
	// Blocks never overlap. One keeps its place for ever, which is how it is
	// named; one may lie outside of the range when that has changed.
	Blocks []PoolBlock `json:"blocks"`
}

// PoolBlock is a run of addresses that one node lends.
type PoolBlock struct {
	First  string `json:"first"`
	Last   string `json:"last"`
	Owner  string `json:"owner"`            // id of a node
	Wanted string `json:"wanted,omitempty"` // id of the node that should get it
	// FreedAt is set when the owner was removed or has left the block out of its
	// range: it lends no more, and when its last lease must have run out another
	// may take the block.
	FreedAt time.Time `json:"freed_at,omitzero"`
}

// poolBlocks is how many blocks a range is cut into if it is large enough.
const poolBlocks = 16

// poolRest is how long a freed block rests: its owner may go on for 24 hours
// without hearing of the others, and a lease runs 2 hours.
const poolRest = aloneRest + leaseRest

const (
	aloneRest = 24 * time.Hour
	leaseRest = 2 * time.Hour
)

// Pool of a network in CIDR form, or nil.
func (s *State) Pool(network string) *Pool { return s.pools[network] }

// Pools sorted by network.
func (s *State) Pools() []*Pool { return sorted(s.pools) }

// Lends reports whether the node may lend the block's addresses.
func (b PoolBlock) Lends(node string) bool { return b.Owner == node && b.FreedAt.IsZero() }

// Free reports whether a node may take the block at that time.
func (b PoolBlock) Free(at time.Time) bool {
	return !b.FreedAt.IsZero() && !at.Before(b.FreedAt.Add(poolRest))
}

// Lender is the id of the node that may lend the address, or "".
func (p *Pool) Lender(addr netip.Addr) string {
	addr = addr.Unmap()
	if !addr.Is4() {
		return ""
	}
	for _, b := range p.Blocks {
		if sp := b.span(); b.FreedAt.IsZero() && sp.first <= number(addr) && number(addr) <= sp.last {
			return b.Owner
		}
	}
	return ""
}

// span is a run of IPv4 addresses as numbers, both ends in it.
type span struct{ first, last uint32 }

func (b PoolBlock) span() span {
	first, err := netip.ParseAddr(b.First)
	last, err2 := netip.ParseAddr(b.Last)
	if err != nil || err2 != nil || !first.Is4() || !last.Is4() {
		return span{1, 0} // nothing lies in it
	}
	return span{number(first), number(last)}
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func address(n uint32) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b).String()
}
