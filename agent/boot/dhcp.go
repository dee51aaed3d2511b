package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// VendorClass is option 60 of the agent's requests, by which a node tells the
// agent from firmware.
const VendorClass = "LPMOS-agent"

// Message types of option 53 (RFC 2132, section 9.6).
const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpAck      = 5
	dhcpNak      = 6
)

// Options the client knows (RFC 2132; 121 is RFC 3442).
const (
	optMask        = 1
	optRouter      = 3
	optAddress     = 50
	optLease       = 51
	optOverload    = 52
	optType        = 53
	optServer      = 54
	optWanted      = 55
	optRenewal     = 58
	optRebinding   = 59
	optVendorClass = 60
	optClientID    = 61
	optRoutes      = 121
)

// Sizes of the fixed part (RFC 2131, section 2).
const (
	dhcpFixed  = 236
	dhcpMin    = 300 // BOOTP relays drop less
	flagBcast  = 0x8000
	bootReply  = 2
	etherHType = 1
)

var dhcpCookie = [4]byte{99, 130, 83, 99}

// Lease is an address with what comes along. Durations count from the reply.
type Lease struct {
	Interface string
	MAC       net.HardwareAddr
	Address   netip.Prefix
	Router    netip.Addr // zero when none was given
	Server    netip.Addr
	Time      time.Duration // 0 means for ever
	Renew     time.Duration // T1
	Rebind    time.Duration // T2
}

// dhcpReply is what the client reads out of a server's packet.
type dhcpReply struct {
	kind  byte
	xid   uint32
	mac   [6]byte
	lease Lease
}

// dhcpQuery is what the client puts into a packet.
type dhcpQuery struct {
	kind    byte
	xid     uint32
	secs    uint16
	mac     net.HardwareAddr
	client  netip.Addr // ciaddr: the address in use, while renewing
	address netip.Addr // option 50: the address offered
	server  netip.Addr // option 54: the server chosen
}

// marshal encodes a query. The broadcast flag is set while the interface has no
// address and could not take a unicast reply (RFC 2131, section 4.1).
func (q dhcpQuery) marshal() []byte {
	b := make([]byte, dhcpFixed, 400)
	b[0], b[1], b[2] = 1, etherHType, 6
	binary.BigEndian.PutUint32(b[4:], q.xid)
	binary.BigEndian.PutUint16(b[8:], q.secs)
	if q.client.Is4() {
		copy(b[12:16], q.client.AsSlice())
	} else {
		binary.BigEndian.PutUint16(b[10:], flagBcast)
	}
	copy(b[28:34], q.mac)
	b = append(b, dhcpCookie[:]...)
	b = append(b, optType, 1, q.kind)
	// The same identity as iPXE gives, so that a server that goes by it hands
	// out the same address.
	b = append(append(b, optClientID, 7, etherHType), q.mac...)
	b = append(append(b, optVendorClass, byte(len(VendorClass))), VendorClass...)
	if q.address.Is4() {
		b = append(append(b, optAddress, 4), q.address.AsSlice()...)
	}
	if q.server.Is4() {
		b = append(append(b, optServer, 4), q.server.AsSlice()...)
	}
	b = append(b, optWanted, 7, optMask, optRouter, optLease, optServer, optRenewal, optRebinding, optRoutes)
	b = append(b, 255)
	for len(b) < dhcpMin {
		b = append(b, 0)
	}
	return b
}

// parseDHCP reads a server's packet. Its bytes come from the network.
func parseDHCP(b []byte) (dhcpReply, error) {
	if len(b) < dhcpFixed+4 || [4]byte(b[dhcpFixed:]) != dhcpCookie {
		return dhcpReply{}, errors.New("dhcp: not a DHCP packet")
	}
	if b[0] != bootReply || b[1] != etherHType || b[2] != 6 {
		return dhcpReply{}, errors.New("dhcp: not a reply for an Ethernet card")
	}
	opts, err := dhcpOptions(b)
	if err != nil {
		return dhcpReply{}, err
	}
	r := dhcpReply{xid: binary.BigEndian.Uint32(b[4:]), mac: [6]byte(b[28:34])}
	if t := opts[optType]; len(t) == 1 {
		r.kind = t[0]
	} else {
		return dhcpReply{}, errors.New("dhcp: no message type")
	}
	r.lease.Server = optionAddr(opts[optServer])
	if r.kind == dhcpNak {
		return r, nil
	}
	addr := netip.AddrFrom4([4]byte(b[16:20]))
	if addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return dhcpReply{}, fmt.Errorf("dhcp: %s is no address for a machine", addr)
	}
	bits := 24 // a server that gives no mask: RFC 2132 leaves it open, this is the usual rack
	if m := opts[optMask]; len(m) == 4 {
		ones, size := net.IPMask(m).Size()
		if size == 0 || ones == 0 {
			return dhcpReply{}, fmt.Errorf("dhcp: %v is no subnet mask", m)
		}
		bits = ones
	}
	r.lease.Address = netip.PrefixFrom(addr, bits)
	r.lease.Router = optionAddr(opts[optRouter])
	if routes := opts[optRoutes]; routes != nil { // instead of option 3 (RFC 3442)
		r.lease.Router = defaultRoute(routes)
	}
	r.lease.Time = optionSeconds(opts[optLease])
	r.lease.Renew, r.lease.Rebind = optionSeconds(opts[optRenewal]), optionSeconds(opts[optRebinding])
	r.lease.times()
	return r, nil
}

// times fills in what the server left out or set absurdly (RFC 2131, section 4.4.5).
func (l *Lease) times() {
	const forEver = 0xffffffff * time.Second
	if l.Time == 0 || l.Time == forEver {
		l.Time, l.Renew, l.Rebind = 0, 0, 0
		return
	}
	l.Time = max(l.Time, time.Minute)
	if l.Rebind <= 0 || l.Rebind >= l.Time {
		l.Rebind = l.Time / 8 * 7
	}
	if l.Renew <= 0 || l.Renew >= l.Rebind {
		l.Renew = min(l.Time/2, l.Rebind*4/7)
	}
	l.Renew = max(l.Renew, 10*time.Second)
}

// dhcpOptions collects the options, those in the file and sname fields too when
// option 52 says so. An option given twice is one long one (RFC 3396).
func dhcpOptions(b []byte) (map[byte][]byte, error) {
	opts := map[byte][]byte{}
	if err := addOptions(opts, b[dhcpFixed+4:]); err != nil {
		return nil, err
	}
	if o := opts[optOverload]; len(o) == 1 {
		if o[0]&1 != 0 {
			if err := addOptions(opts, b[108:236]); err != nil {
				return nil, err
			}
		}
		if o[0]&2 != 0 {
			if err := addOptions(opts, b[44:108]); err != nil {
				return nil, err
			}
		}
	}
	return opts, nil
}

func addOptions(opts map[byte][]byte, b []byte) error {
	for len(b) > 0 {
		code := b[0]
		b = b[1:]
		switch code {
		case 0:
			continue
		case 255:
			return nil
		}
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return fmt.Errorf("dhcp: option %d is cut off", code)
		}
		n := int(b[0])
		opts[code] = append(opts[code], b[1:1+n]...)
		b = b[1+n:]
	}
	return nil
}

// optionAddr is the first address of an option, or the zero Addr.
func optionAddr(b []byte) netip.Addr {
	if len(b) < 4 {
		return netip.Addr{}
	}
	a := netip.AddrFrom4([4]byte(b))
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

func optionSeconds(b []byte) time.Duration {
	if len(b) != 4 {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Second
}

// defaultRoute finds the route to everywhere among classless static routes.
func defaultRoute(b []byte) netip.Addr {
	for len(b) > 0 {
		bits := int(b[0])
		n := (bits + 7) / 8
		if bits > 32 || len(b) < 1+n+4 {
			return netip.Addr{}
		}
		if bits == 0 {
			return optionAddr(b[1:5])
		}
		b = b[1+n+4:]
	}
	return netip.Addr{}
}
