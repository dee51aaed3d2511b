package netboot

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// An interface may lead to several networks: it has an address in more than one, or
// relays pass on what machines of networks behind them ask (RFC 2131 section 4.3.1,
// giaddr). Each has a range and settings of its own.

// Network is one more network that an interface leads to. If the interface has an
// address of it, its machines are on the wire itself; else they are behind relays.
type Network struct {
	Prefix  netip.Prefix
	Relays  []netip.Addr // whom to answer; none: any with an address of the network
	Range   Range
	Router  netip.Addr
	DNS     []netip.Addr
	Options Options
}

// further makes the links of an interface's other networks; own are its addresses.
func (l *link) further(own []netip.Prefix) error {
	for _, n := range l.Networks {
		in := l.Interface
		in.Range, in.Router, in.DNS, in.Options, in.Networks = n.Range, n.Router, n.DNS, n.Options, nil
		at := netip.PrefixFrom(l.addr, n.Prefix.Bits())
		behind := true
		for _, o := range own {
			if n.Prefix.Contains(o.Addr()) && len(n.Relays) == 0 {
				at, behind = netip.PrefixFrom(o.Addr(), n.Prefix.Bits()), false
			}
		}
		m := link{Interface: in, index: l.index, mac: l.mac, addr: at.Addr(), subnet: n.Prefix.Masked(), behind: behind, relays: n.Relays}
		for _, other := range l.all() {
			if other.subnet.Overlaps(m.subnet) {
				return fmt.Errorf("interface %s: networks %s and %s overlap", l.Name, other.subnet, m.subnet)
			}
		}
		if err := m.check(); err != nil {
			return err
		}
		l.more = append(l.more, m)
	}
	return nil
}

// all are the networks of an interface, its own first.
func (l link) all() []link {
	first := l
	first.more = nil
	return append([]link{first}, l.more...)
}

// onWire are those whose machines are on the wire itself.
func (l link) onWire() []link {
	return slices.DeleteFunc(l.all(), func(n link) bool { return n.behind })
}

// reach are the networks whose machines reach this node by its address in n: those
// behind relays do so by that of the interface's own.
func (l link) reach(n link) []netip.Prefix {
	out := []netip.Prefix{n.subnet}
	for _, m := range l.more {
		if m.behind && m.addr == n.addr {
			out = append(out, m.subnet)
		}
	}
	return out
}

// serves says whether a relay with that address may be answered for the network.
func (l link) serves(relay netip.Addr) bool {
	if len(l.relays) > 0 {
		return slices.Contains(l.relays, relay)
	}
	return l.subnet.Contains(relay) && relay != l.subnet.Addr() && relay != lastAddr(l.subnet)
}

// past reports whether the machine is on another wire, as a relay says. A network that
// this node has an address of is on its own, whoever passed the packet on.
func (r *responder) past(req request) bool { return req.relay.IsValid() && r.link.behind }

// of finds the network that a request is from, and the responder for it. What is
// found there is served; whether it may be answered at all, foreign says.
func (r *responder) of(req request) (*responder, bool) {
	if len(r.networks) == 1 && !req.relay.IsValid() {
		return r, true
	}
	if req.relay.IsValid() {
		return r.behind(req)
	}
	wire := r.onWire()
	for _, n := range r.networks {
		// Who renews from behind a relay does so directly.
		if req.client.IsValid() && n.subnet.Contains(req.client) {
			return r.at(n), true
		}
	}
	for _, a := range []netip.Addr{req.serverID, req.requested} {
		for _, n := range wire {
			// A server identifier of ours says which of our offers was taken, which
			// holds before the address does.
			if a.IsValid() && (a == n.addr || a == req.requested && n.subnet.Contains(a)) {
				return r.at(n), true
			}
		}
	}
	if a, ok := r.fleet.Address(req.machine.MAC); ok {
		for _, n := range wire {
			if n.usable(a) {
				return r.at(n), true
			}
		}
	}
	if lease, ok := r.leases.Of(req.machine.MAC); ok {
		for _, n := range wire {
			if n.Range.Contains(lease.Addr) {
				return r.at(n), true
			}
		}
	}
	return r, true
}

// behind is the network of a request that a relay passed on: the one the relay
// names (RFC 3527), else the one its address is of. The answer goes to the relay,
// so a relay that nobody has named is not answered.
func (r *responder) behind(req request) (*responder, bool) {
	known := slices.ContainsFunc(r.networks, func(n link) bool { return n.serves(req.relay) })
	ours := slices.ContainsFunc(r.networks, func(n link) bool { return n.addr == req.relay })
	if !known || ours {
		return r, false
	}
	pick := req.relay
	if b, ok := relayOption(req.pkt.Options[optRelayInfo], relayLinkSelection); ok && addrField(b).IsValid() {
		pick = addrField(b)
	}
	for _, n := range r.networks {
		if n.subnet.Contains(pick) {
			return r.at(n), true
		}
	}
	for _, n := range r.networks {
		// A relay may send from an address that is none of the network's.
		if pick == req.relay && slices.Contains(n.relays, pick) {
			return r.at(n), true
		}
	}
	return r, false
}

// onWire are the networks that machines which use no relay may be of.
func (r *responder) onWire() []link {
	return slices.DeleteFunc(slices.Clone(r.networks), func(n link) bool { return n.behind })
}

// at is the responder of one network.
func (r *responder) at(n link) *responder {
	c := *r
	c.link = n
	return &c
}

// ours reports whether an address is one that this node answers DHCP by: those of
// the interface, and for who asked through a relay the one the relay stands in with.
func (r *responder) ours(req request, a netip.Addr) bool {
	return a == req.server(r.link.addr) || slices.ContainsFunc(r.networks, func(n link) bool { return n.addr == a })
}

// The parts of option 82 that mean something to a server.
const (
	relayLinkSelection = 5  // RFC 3527: the network the client is on
	relayServerID      = 11 // RFC 5107: the relay wants to be taken for the server
	relaySourcePort    = 19 // RFC 8357: the answer goes to the port it asked from
)

// relayOption finds a part of option 82 (RFC 3046). Every length is the relay's word.
func relayOption(info []byte, code byte) ([]byte, bool) {
	for len(info) >= 2 {
		n := int(info[1])
		if len(info) < 2+n {
			return nil, false
		}
		if info[0] == code {
			return info[2 : 2+n], true
		}
		info = info[2+n:]
	}
	return nil, false
}

// server is what the client is to take for the server, which it names in option 54
// and sends its renewals to.
func (r request) server(own netip.Addr) netip.Addr {
	if !r.relay.IsValid() {
		return own
	}
	b, ok := relayOption(r.pkt.Options[optRelayInfo], relayServerID)
	if a := addrField(b); ok && a.IsValid() {
		return a
	}
	return own
}

// overloaded adds the options that a client has put into the fields for names of
// servers and files (RFC 2132 section 9.3). Parts of one option belong together, in
// this order (RFC 3396 section 5).
func overloaded(raw []byte, pkt *dhcpv4.DHCPv4) {
	const sname, file, cookie = 44, 108, 236
	b := pkt.Options[optOverload]
	if len(b) != 1 || len(raw) < cookie {
		return
	}
	if b[0]&1 != 0 {
		readOptions(raw[file:cookie], pkt.Options)
		pkt.BootFileName = ""
	}
	if b[0]&2 != 0 {
		readOptions(raw[sname:file], pkt.Options)
		pkt.ServerHostName = ""
	}
}

// readOptions reads options to their end mark, or to what makes no sense.
func readOptions(b []byte, into dhcpv4.Options) {
	const pad, end = 0, 255
	for len(b) > 0 && b[0] != end {
		if b[0] == pad {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return
		}
		code, value := b[0], b[2:2+int(b[1])]
		if code != optOverload { // one that says so in there would be read for ever by some
			into[code] = append(slices.Clone(into[code]), value...)
		}
		b = b[2+len(value):]
	}
}
