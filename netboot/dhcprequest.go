package netboot

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Option codes that the codec gives no names to.
const (
	optVendorInfo   = 43
	optRequestedIP  = 50
	optLeaseTime    = 51
	optMessageType  = 53
	optServerID     = 54
	optParameters   = 55
	optMaxSize      = 57
	optRenewal      = 58
	optRebinding    = 59
	optVendorClass  = 60
	optClientID     = 61
	optTFTPServer   = 66
	optBootFile     = 67
	optUserClass    = 77
	optRelayInfo    = 82
	optClientArch   = 93
	optClientUUID   = 97
	optIPXE         = 175
	optSubnetMask   = 1
	optRouter       = 3
	optDNS          = 6
	optMessageText  = 56
	optDomain       = 15
	optMTU          = 26
	optNTP          = 42
	optOverload     = 52
	optSearch       = 119
	optRoutes       = 121
	optRoutesMS     = 249 // what Windows before Vista calls 121
	maxHops         = 16
	minReplySize    = 576 - 28 // what every client must take (RFC 2131 section 2), less IP and UDP headers
	maxReplySize    = 1472     // what fits an Ethernet frame unfragmented
	secondsForever  = 0xffffffff
	dhcpServerPort  = 67
	dhcpClientPort  = 68
	proxyServerPort = 4011
)

// request is a DHCP packet a client sent, checked and taken apart.
type request struct {
	pkt       *dhcpv4.DHCPv4
	kind      dhcpv4.MessageType
	machine   Machine
	serverID  netip.Addr // option 54; invalid when absent
	requested netip.Addr // option 50; invalid when absent
	client    netip.Addr // ciaddr; invalid when 0
	relay     netip.Addr // giaddr; invalid when 0
	from      netip.AddrPort
	unicast   bool // it was sent to our address and not to everybody
}

// parseRequest decodes a packet. drop is why it is not answered at all, in the
// words of the counters; empty when it is fine.
func parseRequest(b []byte, from netip.AddrPort) (req request, drop string) {
	pkt, err := dhcpv4.FromBytes(b)
	if err != nil {
		// Some boot ROMs leave the end option out; the codec insists on it.
		if pkt, err = dhcpv4.FromBytes(append(slices.Clip(b), 255)); err != nil {
			return request{}, "malformed"
		}
	}
	overloaded(b, pkt)
	req = request{
		pkt:       pkt,
		kind:      pkt.MessageType(),
		serverID:  addrOption(pkt, optServerID),
		requested: addrOption(pkt, optRequestedIP),
		client:    addrField(pkt.ClientIPAddr),
		relay:     addrField(pkt.GatewayIPAddr),
		from:      from,
	}
	switch {
	case pkt.OpCode != dhcpv4.OpcodeBootRequest:
		return req, "not a request"
	case pkt.HopCount > maxHops:
		return req, "too many hops"
	case req.kind == dhcpv4.MessageTypeNone:
		return req, "bootp" // plain BOOTP has no lease and no end
	}
	mac, ok := macOf(pkt.ClientHWAddr)
	if !ok || pkt.HWType != 1 {
		return req, "hardware address"
	}
	req.machine = Machine{
		MAC:  mac,
		UUID: uuidFromOption97(pkt.Options[optClientUUID]),
		Firmware: Classify(Hints{
			VendorClass: string(pkt.Options[optVendorClass]),
			UserClass:   pkt.Options[optUserClass],
			Arch:        pkt.Options[optClientArch],
			IPXE:        pkt.Options[optIPXE] != nil,
		}),
		Addr: req.client,
	}
	return req, ""
}

// wants says whether the client asked for an option (RFC 2132 section 9.8).
func (r request) wants(code uint8) bool {
	return slices.Contains(r.pkt.Options[optParameters], code)
}

// leaseTime is the time the client asked for, or def, whichever is shorter,
// but not so short that it does nothing else than renew.
func (r request) leaseTime(def time.Duration) time.Duration {
	b := r.pkt.Options[optLeaseTime]
	if len(b) != 4 {
		return def
	}
	asked := binary.BigEndian.Uint32(b)
	if asked == 0 || asked == secondsForever {
		return def
	}
	return max(min(time.Duration(asked)*time.Second, def), time.Minute)
}

// maxSize is the longest reply the client takes (option 57 counts the IP and
// UDP headers).
func (r request) maxSize() int {
	b := r.pkt.Options[optMaxSize]
	if len(b) != 2 {
		return minReplySize
	}
	return min(max(int(binary.BigEndian.Uint16(b))-28, minReplySize), maxReplySize)
}

func addrOption(pkt *dhcpv4.DHCPv4, code uint8) netip.Addr {
	b := pkt.Options[code]
	if len(b) != 4 {
		return netip.Addr{}
	}
	return addrField(b)
}

// addrField reads four bytes; 0.0.0.0 means that there is no address.
func addrField(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok || !a.Is4() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
