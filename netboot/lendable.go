package netboot

import (
	"net/netip"
	"time"
)

// What a link's responder may lend, and to whom.

// choose finds the address to offer.
func (r *responder) choose(req request) (netip.Addr, bool) {
	if fixed, ok := r.fixed(req.machine.MAC); ok {
		return fixed, true
	}
	return r.leases.Offer(req.machine.MAC, r.terms(), req.requested)
}

// terms are what this node may lend to strangers now: the whole range when it is
// alone, else its share.
func (r *responder) terms() Terms {
	now := r.now()
	t := Terms{From: []Range{r.link.Range}, Keeps: r.link.Range.Contains, Usable: r.available, Heard: now}
	if r.neighbours == nil {
		return t
	}
	share := r.neighbours.Share(r.link.subnet)
	if share.stale(now) {
		return Terms{Keeps: func(netip.Addr) bool { return false }, Usable: r.available}
	}
	return Terms{From: share.fresh(), Keeps: share.has, Usable: r.available, Heard: share.Heard}
}

// lendsFrom is where strangers' addresses come from, for people.
func (r *responder) lendsFrom() string {
	if r.neighbours == nil {
		return r.link.Range.String()
	}
	return "this node's part of " + r.link.Range.String()
}

// judges says whether this node may tell a machine that it has no right to addr:
// it may be another node's client. It may of its own addresses, and of what a
// known machine has, which every node knows.
func (r *responder) judges(mac string, addr netip.Addr) bool {
	if r.neighbours == nil {
		return true
	}
	_, known := r.fixed(mac)
	return known || r.neighbours.Share(r.link.subnet).has(addr)
}

// binding is the address the machine may believe it has: the fleet's, or the
// one in the book.
func (r *responder) binding(mac string) (netip.Addr, bool) {
	if fixed, ok := r.fixed(mac); ok {
		return fixed, true
	}
	lease, ok := r.leases.Of(mac)
	if !ok || !r.available(lease.Addr) {
		return netip.Addr{}, false
	}
	return lease.Addr, true
}

// has reports whether this node knows the machine to have addr now.
func (r *responder) has(mac string, addr netip.Addr) bool {
	if fixed, ok := r.fixed(mac); ok {
		return fixed == addr
	}
	lease, ok := r.leases.Of(mac)
	return ok && lease.Addr == addr && r.now().Before(lease.Until)
}

// fixed is the address a known machine keeps for ever, if it is of this network.
func (r *responder) fixed(mac string) (netip.Addr, bool) {
	a, ok := r.fleet.Address(mac)
	return a, ok && r.link.usable(a)
}

// available says whether a stranger may have addr.
func (r *responder) available(a netip.Addr) bool {
	return r.link.Range.Contains(a) && r.link.usable(a) && !r.fleet.Taken(a)
}

func leaseFor(f Firmware) time.Duration {
	if f.Netboots() {
		return leaseBooting
	}
	return leaseSystem
}
