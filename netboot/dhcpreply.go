package netboot

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// How long addresses are lent.
const (
	leaseBooting = 10 * time.Minute // to firmware and loaders, which never renew
	leaseSystem  = time.Hour        // to the agent and to systems
)

// reply is a packet and where it goes.
type reply struct {
	packet []byte
	from   netip.Addr // this node's address there
	to     destination

	// later, of a reply that takes longer than looking into memory, calls ready once,
	// from somewhere, with how to make the reply that is to be sent. Whoever reads
	// packets goes on meanwhile.
	later func(ready func(finish))
}

// finish makes a reply; false means that there is none.
type finish func() (reply, bool)

// wait is the reply when it may be sent.
func (out reply) wait(ok bool) (reply, bool) {
	if !ok || out.later == nil {
		return out, ok
	}
	made := make(chan finish, 1)
	out.later(func(f finish) { made <- f })
	return (<-made)()
}

// destination is where a reply goes. When hw is set the client has no address
// yet and cannot answer ARP: the frame is addressed to its card by hand.
type destination struct {
	addr netip.AddrPort
	hw   net.HardwareAddr
}

var everybody = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// addressReply says where a reply goes (RFC 2131 section 4.1, in its order).
func addressReply(req request, kind dhcpv4.MessageType, yours netip.Addr) destination {
	switch {
	case req.relay.IsValid():
		port := uint16(dhcpServerPort)
		if _, ok := relayOption(req.pkt.Options[optRelayInfo], relaySourcePort); ok && req.from.Port() != 0 {
			port = req.from.Port()
		}
		return destination{addr: netip.AddrPortFrom(req.relay, port)}
	case kind == dhcpv4.MessageTypeNak:
		// The client may hold an address that is wrong here.
		return destination{addr: netip.AddrPortFrom(everybody, dhcpClientPort)}
	case req.client.IsValid():
		return destination{addr: netip.AddrPortFrom(req.client, dhcpClientPort)}
	case req.pkt.IsBroadcast() || !yours.IsValid():
		return destination{addr: netip.AddrPortFrom(everybody, dhcpClientPort)}
	}
	return destination{addr: netip.AddrPortFrom(yours, dhcpClientPort), hw: req.pkt.ClientHWAddr}
}

// newReply starts the answer to a request: the echoed fields and what every
// answer carries. Options 61 (RFC 6842) and 82 (RFC 3046) go back as they came,
// the latter only through the relay that added it.
func newReply(req request, kind dhcpv4.MessageType, server netip.Addr) *dhcpv4.DHCPv4 {
	p := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        req.pkt.HWType,
		TransactionID: req.pkt.TransactionID,
		Flags:         req.pkt.Flags,
		ClientIPAddr:  net.IPv4zero.To4(),
		YourIPAddr:    net.IPv4zero.To4(),
		ServerIPAddr:  net.IPv4zero.To4(),
		GatewayIPAddr: req.pkt.GatewayIPAddr,
		ClientHWAddr:  req.pkt.ClientHWAddr,
		Options: dhcpv4.Options{
			optMessageType: {byte(kind)},
			optServerID:    req.server(server).AsSlice(),
		},
	}
	if id := req.pkt.Options[optClientID]; id != nil {
		p.Options[optClientID] = id
	}
	// RFC 3046 section 2.2 wants it back, from switches that put it in without being
	// relays (DHCP snooping), too.
	if info := req.pkt.Options[optRelayInfo]; info != nil {
		p.Options[optRelayInfo] = info
	}
	return p
}

// lend adds an address and how long it is lent.
func lend(p *dhcpv4.DHCPv4, addr netip.Addr, d time.Duration) {
	p.YourIPAddr = addr.AsSlice()
	p.Options[optLeaseTime] = seconds(d)
	p.Options[optRenewal] = seconds(d / 2)
	p.Options[optRebinding] = seconds(d * 7 / 8)
}

// describe adds what the network is like.
func describe(p *dhcpv4.DHCPv4, req request, l link) {
	l.Options.tell(p, req, l.Router)
	p.Options[optSubnetMask] = net.CIDRMask(l.subnet.Bits(), 32)
	if l.Router.IsValid() {
		p.Options[optRouter] = l.Router.AsSlice()
	}
	var dns []byte
	for _, d := range l.DNS {
		dns = append(dns, d.AsSlice()...)
	}
	if dns != nil {
		p.Options[optDNS] = dns
	}
}

// bootFrom adds what to boot and from whom, in the shape the firmware reads.
func bootFrom(p *dhcpv4.DHCPv4, req request, server netip.Addr, file string) {
	p.ServerIPAddr = server.AsSlice()
	if len(file) < 128 {
		p.BootFileName = file
	}
	if uuid := req.pkt.Options[optClientUUID]; uuid != nil {
		p.Options[optClientUUID] = uuid // RFC 4578 section 2.3 wants it back
	}
	switch req.machine.Firmware.Stage {
	case StageHTTP:
		// Firmware ignores an offer that does not say HTTPClient as well.
		p.Options[optVendorClass] = []byte("HTTPClient")
		p.Options[optBootFile] = []byte(file)
	case StageIPXE:
		p.Options[optBootFile] = []byte(file)
	default:
		if req.wants(optBootFile) {
			// Old ROMs read on past the end of the option unless a NUL stops them.
			p.Options[optBootFile] = append([]byte(file), 0)
		}
		if req.wants(optTFTPServer) {
			p.Options[optTFTPServer] = []byte(server.String())
		}
	}
}

// marshal encodes a reply and, when it is longer than the client takes, leaves
// out what it can do without, least needed first.
func marshal(p *dhcpv4.DHCPv4, limit int) []byte {
	b := p.ToBytes()
	if len(b) <= limit {
		return b
	}
	for _, code := range dispensable(p) {
		if len(b) <= limit {
			break
		}
		if _, ok := p.Options[code]; ok {
			delete(p.Options, code)
			b = p.ToBytes()
		}
	}
	return b
}

// seconds encodes a duration as options 51, 58 and 59 want it.
func seconds(d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))
}

// bootURL is an address below /boot/ as a machine on the link reaches it.
func bootURL(server netip.Addr, port int, name string) string {
	if port == 80 {
		return fmt.Sprintf("http://%s%s%s", server, BootPath, name)
	}
	return fmt.Sprintf("http://%s:%d%s%s", server, port, BootPath, name)
}
