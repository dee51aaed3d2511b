package netboot

import (
	"net/netip"
	"time"
)

// Neighbours are the other nodes of the cluster, as far as they matter to the
// machines of one network. Its methods are called for every packet: they answer
// from memory and are safe for concurrent use.
type Neighbours interface {
	// Nodes are the base URLs of other nodes ("https://10.77.0.2:80") that a machine
	// can turn to which reached this one at the given address, best first.
	Nodes(own netip.AddrPort) []string

	// Addresses are all by which the other nodes serve machines, on whatever network: a
	// node may have several on one wire, and this one none of those networks.
	Addresses() []netip.Addr

	// Answering are the ids of the nodes that serve the network in that mode and are
	// known to be alive; self, the id of this node, is among them.
	Answering(network netip.Prefix, mode Mode) (self string, alive []string)

	// Share is what this node may lend to strangers on the network now.
	Share(network netip.Prefix) Share
}

// Share is a node's part of the addresses that strangers draw from. The parts of
// all nodes are agreed on and never overlap, so that two nodes never lend one
// address, even when they do not hear of each other.
type Share struct {
	Blocks []Block // those of this node alone
	// Heard is up to when this node knows all that was agreed on. It should come
	// from the clock that also gives a Server its time, so that what has passed
	// since is what really has.
	Heard time.Time
}

// Block is a run of addresses.
type Block struct {
	Range
	// Wanted says that another node waits for it: what is lent is lent on, but
	// nothing new.
	Wanted bool
}

// lendAlone is how long a node goes on to lend to strangers without hearing what
// the others agree on. Others may take over what a removed node lent only when
// this time and the longest lease have passed.
const lendAlone = 24 * time.Hour

// stale reports whether so much has happened unheard, perhaps, that nothing of
// the share may be lent: a node that has just started has heard nothing yet. A
// machine that slept has a clock that stood still and one that did not; the
// longer time counts.
func (s Share) stale(now time.Time) bool {
	return s.Heard.IsZero() || now.Sub(s.Heard) > lendAlone || now.Round(0).Sub(s.Heard.Round(0)) > lendAlone
}

// has reports whether the address is this node's to lend, be it wanted or not.
func (s Share) has(a netip.Addr) bool {
	for _, b := range s.Blocks {
		if b.Contains(a) {
			return true
		}
	}
	return false
}

// fresh are the blocks that are lent from to newcomers.
func (s Share) fresh() []Range {
	var out []Range
	for _, b := range s.Blocks {
		if !b.Wanted {
			out = append(out, b.Range)
		}
	}
	return out
}
