package netboot

import (
	"context"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// proxyOffer answers a DISCOVER beside the network's own DHCP server (PXE
// specification 2.1, section 2.2): what to boot and no address. Whoever does
// not netboot is none of our business.
func (r *responder) proxyOffer(ctx context.Context, req request) (reply, bool) {
	r, known := r.of(req)
	if known && req.kind == dhcpv4.MessageTypeRequest && req.machine.Firmware.Stage == StageIPXE && r.link.subnet.Contains(req.requested) {
		// The other server's, which it says to everybody. Who has not been told lately what to
		// boot, and was let through there, is nobody's: such are made up.
		if r.now().Sub(r.sightings.lastNetboot(req.machine.MAC)) <= netbootsRecent {
			r.bound.asks(req.machine.MAC, req.requested, r.now())
		}
	}
	if req.kind != dhcpv4.MessageTypeDiscover || !req.machine.Firmware.Netboots() || !known || r.foreign(req) {
		r.stats.add("proxy.ignored")
		return reply{}, false
	}
	r.stats.add("proxy.discover")
	if !r.fleet.Decide(ctx, req.machine).Counted && !r.strangers.allow(r.now()) {
		r.stats.add("proxy.too many strangers") // as in mode dhcp
		return reply{}, false
	}
	r.sightings.netboots(req.machine.MAC, r.now())
	if r.leave(req) {
		r.stats.add("proxy.left to another node")
		return reply{}, false
	}
	return r.proxyReply(ctx, req, dhcpv4.MessageTypeOffer, req.client)
}

// proxyBoot answers the REQUEST a client sends to port 4011 once it has its
// address.
func (r *responder) proxyBoot(ctx context.Context, req request) (reply, bool) {
	at := slices.IndexFunc(r.networks, func(n link) bool { return n.subnet.Contains(req.from.Addr()) })
	if req.kind != dhcpv4.MessageTypeRequest && req.kind != dhcpv4.MessageTypeInform || !req.machine.Firmware.Netboots() ||
		at < 0 { // or it would be anybody who is answered
		r.stats.add("proxy.ignored")
		return reply{}, false
	}
	r = r.at(r.networks[at])
	from := req.from.Addr()
	if fixed, known := r.fixed(req.machine.MAC); known && fixed != from && req.machine.Firmware.Stage == StageIPXE {
		// It is told the path of its script, and this is somebody else.
		r.stats.add("proxy.another address")
		return reply{}, false
	}
	r.stats.add("proxy.request")
	out, ok := r.proxyReply(ctx, req, dhcpv4.MessageTypeAck, from)
	// It has an address and asked from it: answer to where it asked from.
	out.to = destination{addr: req.from}
	r.sightings.holds(req.machine.MAC, from)
	return out, ok
}

// proxyReply builds both. BIOS gets 43{6:8}, "take the file named here, look
// for no more servers". UEFI must not get it: EDK2 before 2017 drops such an
// offer, and without it every EDK2 asks port 4011. addr is where the machine asks from.
func (r *responder) proxyReply(ctx context.Context, req request, kind dhcpv4.MessageType, addr netip.Addr) (reply, bool) {
	file, note := r.bootFile(ctx, req, addr)
	if file == "" {
		r.tellStep(req, proxyStep(kind), "", "asked what to boot as "+req.machine.Firmware.String()+"; left alone:"+note)
		return reply{}, false
	}
	p := newReply(req, kind, r.link.addr)
	bootFrom(p, req, r.link.addr, file)
	fw := req.machine.Firmware
	if fw.Stage != StageHTTP {
		p.Options[optVendorClass] = []byte("PXEClient")
	}
	if fw.Stage == StagePXE && fw.Platform == "bios" {
		p.Options[optVendorInfo] = []byte{6, 1, 8, 255}
	}
	if kind == dhcpv4.MessageTypeAck && req.client.IsValid() {
		p.ClientIPAddr = req.client.AsSlice()
	}
	if kind == dhcpv4.MessageTypeOffer {
		r.stats.add("proxy.offer")
	} else {
		r.stats.add("proxy.ack")
	}
	r.tellStep(req, proxyStep(kind), told(req, file), "asked what to boot as "+fw.String()+"; was told "+told(req, file))
	return r.finish(req, p, kind, netip.Addr{}), true
}
