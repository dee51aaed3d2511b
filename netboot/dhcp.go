package netboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// responder answers the DHCP packets of one link. It holds no socket: bytes in,
// at most one reply out, which is why the same tests can run it on a wire and
// without one.
type responder struct {
	link       link   // the network that is answered for
	networks   []link // all of the interface
	bootPort   int
	paths      paths
	bound      *bound
	leases     *Leases
	fleet      Fleet
	reserved   *reserving
	neighbours Neighbours // nil: this node is alone
	files      *Files
	loaders    *loaders
	uefiLoader UEFILoader
	tries      *tries
	strangers  *bucket // DISCOVERs of machines nobody knows
	complaints *pace   // lines of the log that a packet can cause
	shortages  *shortages
	quiet      func() string                                            // why nothing is lent to new machines; empty: it is. nil: always
	probe      func(ctx context.Context, addr netip.Addr) (card string) // who uses an address; nil: nobody is asked
	echo       func(ctx context.Context, addr netip.Addr) (who string)  // the same of one behind relays
	waiting    *arpWaiting                                              // DISCOVERs that wait for that
	sightings  *Sightings
	stats      *counters
	log        *slog.Logger
	now        func() time.Time
}

// answer decides on a request, and waits until the answer may be sent.
func (r *responder) answer(ctx context.Context, req request) (reply, bool) {
	out, ok := r.decide(ctx, req)
	return out.wait(ok)
}

// decide is the server's half of RFC 2131: which packet, if any, answers req. It does
// not wait for anything but what is in memory, except for a RELEASE.
func (r *responder) decide(ctx context.Context, req request) (reply, bool) {
	r.reserved.saw(req.machine)
	r, known := r.of(req)
	if !known || r.foreign(req) {
		return r.drop(req, "another network", "")
	}
	if req.kind != dhcpv4.MessageTypeDiscover {
		r.netboots(req)
	}
	switch req.kind {
	case dhcpv4.MessageTypeDiscover:
		return r.discover(ctx, req)
	case dhcpv4.MessageTypeRequest:
		return r.request(ctx, req)
	case dhcpv4.MessageTypeInform:
		return r.inform(ctx, req)
	case dhcpv4.MessageTypeDecline:
		return r.decline(req)
	case dhcpv4.MessageTypeRelease:
		return r.release(req)
	}
	return r.drop(req, "message type", "")
}

// netboots notes a machine that boots from the network.
func (r *responder) netboots(req request) {
	if req.machine.Firmware.Netboots() {
		r.sightings.netboots(req.machine.MAC, r.now())
	}
}

// foreign reports whether a packet is of a network that is not served here. The
// answer would go wherever the packet says, and so to anybody's victim. A probe of
// another node, too, is nothing to be answered (see rogue.go).
func (r *responder) foreign(req request) bool {
	if req.client.IsValid() && !r.link.subnet.Contains(req.client) {
		// Who renews an address of another network is told so, by a NAK to everybody.
		return req.kind != dhcpv4.MessageTypeRequest || req.serverID.IsValid()
	}
	from := req.from.Addr()
	return req.kind == dhcpv4.MessageTypeDiscover && from.IsValid() && !from.IsUnspecified() && slices.Contains(nodeAddrs(r.neighbours), from)
}

// request tells the four states of a REQUEST apart by which fields are set
// (RFC 2131 section 4.3.2) and answers them.
func (r *responder) request(ctx context.Context, req request) (reply, bool) {
	r.stats.add("dhcp.request")
	mac := req.machine.MAC
	switch {
	case req.serverID.IsValid() && !r.ours(req, req.serverID):
		// It took another server's offer. A NAK here would make it lose that. Nor is there
		// one for a node of the cluster that is known to be dead, although RFC 2131 lets the
		// client begin anew then (section 3.1, step 4): EDK2 ends its boot at a NAK, where it
		// would have asked for a minute in which a node that was started anew answers; the
		// iPXE that is served here knows none; and the agent begins anew by itself after 6 s,
		// which is hardly later than a node is known to be dead. An ACK is out of the
		// question: the other may be alive after all, and lend the address to somebody else.
		r.tries.forget(req.who())
		r.tellElsewhere(req)
		return r.drop(req, "other server", "")

	case req.serverID.IsValid(): // selecting
		want := req.requested
		if !want.IsValid() {
			want = req.client
		}
		return r.grant(ctx, req, want)

	case req.requested.IsValid() && !req.client.IsValid(): // init-reboot
		if !r.link.subnet.Contains(req.requested) {
			if r.silent() != "" && !r.past(req) {
				return r.drop(req, "unknown client", "") // the other server's, which may well serve that network here
			}
			return r.nak(req, "that address is of another network"), true
		}
		have, known := r.binding(mac)
		if !known || have != req.requested && !r.judges(mac, req.requested) {
			// Perhaps another server's client: RFC 2131 wants silence.
			return r.drop(req, "unknown client", "")
		}
		if have != req.requested {
			return r.nak(req, "that address is not yours here"), true
		}
		return r.renew(ctx, req, have)

	case req.client.IsValid(): // renewing (to us alone) or rebinding (to everybody)
		have, known := r.binding(mac)
		if !req.unicast && (!known || have != req.client && !r.judges(mac, req.client)) {
			return r.drop(req, "unknown client", "")
		}
		if !known || have != req.client {
			return r.nak(req, "that address is not yours here"), true
		}
		return r.renew(ctx, req, have)
	}
	return r.drop(req, "request without address", "")
}

// grant lends addr for real. The acknowledgement leaves only when the lease is
// on disk: one that is forgotten in a power cut is an address given twice.
func (r *responder) grant(ctx context.Context, req request, addr netip.Addr) (reply, bool) {
	mac := req.machine.MAC
	if fixed, ok := r.fixed(mac); ok {
		if fixed != addr {
			return r.nak(req, "another address is kept for you"), true
		}
		return r.lease(ctx, req, dhcpv4.MessageTypeAck, addr), true
	}
	if !addr.IsValid() {
		return r.nak(req, "that address is not to be had"), true
	}
	return r.commit(ctx, req, addr, func(err error) (reply, bool) {
		switch {
		case !slices.ContainsFunc(r.networks, func(n link) bool { return n.addr == req.serverID }) && !r.judges(mac, addr):
			// The relay stands in for all nodes (RFC 5107), and another has offered this.
			return r.drop(req, "other server", "")
		case errors.Is(err, errAddressHeld):
			return r.nak(req, "that address is another machine's"), true
		}
		return r.nak(req, "that address is not to be had"), true
	})
}

// renew is grant for a machine that has the address. A node that may not lend it
// on, because it has not heard of the others for too long, leaves the machine the
// time it has: another node may answer it, and a NAK would take that away.
func (r *responder) renew(ctx context.Context, req request, addr netip.Addr) (reply, bool) {
	if _, ok := r.fixed(req.machine.MAC); ok {
		return r.lease(ctx, req, dhcpv4.MessageTypeAck, addr), true
	}
	return r.commit(ctx, req, addr, func(err error) (reply, bool) {
		if errors.Is(err, errAddressHeld) {
			return r.nak(req, "that address is another machine's"), true
		}
		return r.drop(req, "not this node's to lend", "")
	})
}

// commit lends addr and acknowledges it when that is on disk. What may not be lent is
// refused.
func (r *responder) commit(ctx context.Context, req request, addr netip.Addr, refuse func(error) (reply, bool)) (reply, bool) {
	until := r.now().Add(req.leaseTime(leaseFor(req.machine.Firmware)))
	return reply{later: func(ready func(finish)) {
		r.leases.lend(req.machine.MAC, addr, until, r.terms(), func(new lent, err error) {
			ready(func() (reply, bool) {
				if err != nil {
					return r.notLent(req, addr, err, refuse)
				}
				if new.offered {
					r.strangers.giveBack() // it was none that somebody made up for a packet
				}
				return r.lease(ctx, req, dhcpv4.MessageTypeAck, addr), true
			})
		})
	}}, true
}

// notLent refuses what may not be lent. What could not be written down is left unanswered.
func (r *responder) notLent(req request, addr netip.Addr, err error, refuse func(error) (reply, bool)) (reply, bool) {
	if r.mayComplain() {
		r.log.Warn("address not lent", "interface", r.link.Name, "mac", req.machine.MAC, "addr", addr, "err", err)
	}
	if errors.Is(err, errAddressHeld) || errors.Is(err, errNotLent) {
		return refuse(err)
	}
	return r.drop(req, "lease not stored", "")
}

// inform answers a client that has an address from elsewhere and wants only
// the rest: no address, no lease.
func (r *responder) inform(ctx context.Context, req request) (reply, bool) {
	r.stats.add("dhcp.inform")
	if !req.client.IsValid() {
		return r.drop(req, "inform without address", "")
	}
	p := newReply(req, dhcpv4.MessageTypeAck, r.link.addr)
	p.ClientIPAddr = req.client.AsSlice()
	describe(p, req, r.link)
	// The answer goes where the packet says. The path of a machine's script goes to
	// that machine alone; loaders are anybody's.
	if req.machine.Firmware.Stage != StageIPXE || r.has(req.machine.MAC, req.client) {
		if file, _ := r.bootFile(ctx, req, req.client); file != "" {
			bootFrom(p, req, r.link.addr, file)
		}
	}
	r.stats.add("dhcp.ack")
	return r.finish(req, p, dhcpv4.MessageTypeAck, netip.Addr{}), true
}

// decline: the client found the address in use. Never answered.
func (r *responder) decline(req request) (reply, bool) {
	r.stats.add("dhcp.decline")
	if fixed, ok := r.fixed(req.machine.MAC); ok && fixed == req.requested && r.ours(req, req.serverID) {
		return r.drop(req, "decline of a kept address", "declined "+fixed.String()+", which is kept for it, because somebody else uses it: find who does (ip neigh, the switch's table), or give the machine another with lpmos machine address")
	}
	if !r.ours(req, req.serverID) || !r.leases.Decline(req.machine.MAC, req.requested) {
		return r.drop(req, "decline not ours", "")
	}
	if r.mayComplain() {
		r.log.Warn("a machine found its address in use by another", "interface", r.link.Name, "mac", req.machine.MAC, "addr", req.requested)
	}
	r.tell(req, "declined "+req.requested.String()+" because somebody else uses it")
	return reply{}, false
}

// release: the client gives the address back. Never answered.
func (r *responder) release(req request) (reply, bool) {
	r.stats.add("dhcp.release")
	if !r.ours(req, req.serverID) {
		return r.drop(req, "release not ours", "")
	}
	ok, err := r.leases.Release(req.machine.MAC, req.client)
	if err != nil && r.mayComplain() {
		r.log.Warn("released address not stored", "interface", r.link.Name, "mac", req.machine.MAC, "err", err)
	}
	if !ok {
		return r.drop(req, "release not ours", "")
	}
	r.tell(req, "gave "+req.client.String()+" back")
	return reply{}, false
}

// lease builds an offer or acknowledgement of addr, with what to boot.
func (r *responder) lease(ctx context.Context, req request, kind dhcpv4.MessageType, addr netip.Addr) reply {
	p := newReply(req, kind, r.link.addr)
	lend(p, addr, req.leaseTime(leaseFor(req.machine.Firmware)))
	describe(p, req, r.link)
	if kind == dhcpv4.MessageTypeAck && req.client.IsValid() {
		p.ClientIPAddr = req.client.AsSlice()
	}
	file, note := r.bootFile(ctx, req, addr)
	if file != "" {
		bootFrom(p, req, r.link.addr, file)
		file = told(req, file)
		note = " and the boot file " + file
	}
	if req.machine.Firmware.Stage == StageIPXE {
		// 176 = no-pxedhcp: iPXE need not wait for proxyDHCP offers, which saves
		// every machine three seconds.
		p.Options[optIPXE] = []byte{176, 1, 1}
	}
	if kind == dhcpv4.MessageTypeOffer {
		r.stats.add("dhcp.offer")
		r.tellLease(req, StepOffer, addr, file, fmt.Sprintf("asked for an address as %s; was offered %s%s", req.machine.Firmware, addr, note))
	} else {
		r.stats.add("dhcp.ack")
		r.sightings.holds(req.machine.MAC, addr)
		r.tellLease(req, StepAck, addr, file, fmt.Sprintf("as %s, was lent %s%s", req.machine.Firmware, addr, note))
	}
	return r.finish(req, p, kind, addr)
}

// nak refuses an address the client believes in.
func (r *responder) nak(req request, why string) reply {
	r.stats.add("dhcp.nak")
	r.tellStep(req, StepRefused, "", "was refused its address: "+why)
	p := newReply(req, dhcpv4.MessageTypeNak, r.link.addr)
	p.Options[optMessageText] = []byte(why)
	if req.relay.IsValid() {
		p.SetBroadcast() // the relay must not send it to the address in doubt
	}
	return r.finish(req, p, dhcpv4.MessageTypeNak, netip.Addr{})
}

func (r *responder) finish(req request, p *dhcpv4.DHCPv4, kind dhcpv4.MessageType, addr netip.Addr) reply {
	return reply{packet: marshal(p, req.maxSize()), from: r.link.addr, to: addressReply(req, kind, addr)}
}

// drop counts why a packet goes unanswered, and tells it when there is
// something to tell.
func (r *responder) drop(req request, reason, text string) (reply, bool) {
	r.stats.add("dhcp.drop." + reason)
	if text != "" {
		if r.mayComplain() {
			r.log.Warn("DHCP request not answered", "interface", r.link.Name, "mac", req.machine.MAC, "reason", reason)
		}
		r.tell(req, text)
	}
	return reply{}, false
}

func (r *responder) tell(req request, text string) {
	r.sightings.Add(Sighting{At: r.now(), MAC: req.machine.MAC, Kind: KindDHCP, Addr: req.client, Text: text})
}

// complaintsEach is how many lines in ten seconds the packets of a link may cause.
const complaintsEach = 20

func (r *responder) mayComplain() bool {
	return r.complaints.allow(r.now(), 10*time.Second, complaintsEach)
}
