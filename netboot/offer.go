package netboot

import (
	"context"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// When the power of a room full of racks comes back, all of its machines ask at once,
// and a firmware that is not answered waits for four seconds, and then for eight. So
// many DISCOVERs of unknown machines are looked at in one go, and when those are spent
// so many in a second.
const (
	strangersAtOnce = 2000
	strangersEach   = 200
)

// stranger reports whether nobody knows the machine: the fleet has no address for it,
// and it has come to no lease here, which made-up machines do not get for a packet. A
// lease that cannot be lent on does not count: else one card that has declined its own
// could ask without end.
func (r *responder) stranger(mac string) bool {
	_, known := r.fixed(mac)
	return !known && !r.holds(mac)
}

// discover offers an address. Nothing is written: an offer that is lost is
// asked for again.
func (r *responder) discover(ctx context.Context, req request) (reply, bool) {
	r.stats.add("dhcp.discover")
	_, known := r.fixed(req.machine.MAC)
	stranger := r.stranger(req.machine.MAC)
	if stranger && !r.strangers.allow(r.now()) {
		// Made-up machines cost nothing to send. Those that are known are answered.
		return r.drop(req, "too many strangers", "")
	}
	r.netboots(req) // and not before, or they would push out what is remembered of others
	if r.leave(req) {
		return r.drop(req, "left to another node", "")
	}
	if why := r.silent(); why != "" && stranger && !r.past(req) {
		return r.quieted(req, why)
	}
	if r.prober(req) == nil || known {
		return r.offer(ctx, req, stranger)
	}
	return reply{later: func(ready func(finish)) {
		go ready(func() (reply, bool) { return r.offer(ctx, req, stranger) })
	}}, true
}

// offer finds an address for a DISCOVER, which may take a question on the wire.
func (r *responder) offer(ctx context.Context, req request, stranger bool) (reply, bool) {
	_, known := r.fixed(req.machine.MAC)
	if stranger && r.prober(req) != nil {
		first, room := r.waiting.enter(req.machine.MAC)
		if !first {
			return r.drop(req, "asks again while it waits", "")
		}
		defer r.waiting.leave(req.machine.MAC)
		if !room {
			r.stats.add("arp.not asked")
			r = r.at(r.link)
			r.probe, r.echo = nil, nil
		}
	}
	addr, ok := r.unused(ctx, req)
	if !ok && !req.relay.IsValid() {
		// Another network of the same wire does as well.
		for _, n := range r.onWire() {
			if other := r.at(n); n.subnet != r.link.subnet && !known {
				if addr, ok = other.unused(ctx, req); ok {
					r = other
					break
				}
			}
		}
	}
	if !ok {
		r.shortages.note(r.link.subnet, r.now(), r.shortage)
		return r.noAddress(req)
	}
	if !known {
		r.shortages.over(r.link.subnet)
	}
	return r.lease(ctx, req, dhcpv4.MessageTypeOffer, addr), true
}

// silent says why new machines are not lent anything.
func (r *responder) silent() string {
	if r.quiet == nil {
		return ""
	}
	return r.quiet()
}

// holds reports whether the machine has a running lease of this node's, which it can
// be offered again.
func (r *responder) holds(mac string) bool { return r.leases.Holds(mac, r.terms()) }

// quieted leaves a new machine without an answer and says so on its timeline.
func (r *responder) quieted(req request, why string) (reply, bool) {
	r.tell(req, "asked for an address as "+req.machine.Firmware.String()+" and was not answered: "+why)
	return r.drop(req, "beside another server", "")
}
