package netboot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	icmpv6         = 58
	routerSolicit  = 133
	routerAdvert   = 134
	ipv6HeaderLen  = 40
	netbootsRecent = 2 * time.Minute // a machine that asked what to boot this long ago still boots
)

// allRouters is the Ethernet form of ff02::2, where solicitations go.
var allRouters = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 2}

// routerServer answers the router solicitations of machines that are
// netbooting with an advertisement that says nothing: not a router (lifetime
// 0), no prefix. iPXE under UEFI otherwise waits 16 seconds for one before it
// fetches its script. Nobody else hears of it, because it is sent to the one
// machine alone.
type routerServer struct {
	link      link
	sightings *Sightings
	stats     *counters
	log       *slog.Logger
	now       func() time.Time
}

func openRouter(l link) (*rawSocket, error) {
	s, err := openRaw(l.index, unix.ETH_P_IPV6, true)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", l.Name, err)
	}
	if err := s.joinGroup(allRouters); err != nil {
		return nil, errors.Join(fmt.Errorf("interface %s: hear router solicitations: %w", l.Name, err), s.Close())
	}
	return s, nil
}

// serve answers until ctx ends.
func (r *routerServer) serve(ctx context.Context, s *rawSocket) error {
	return s.listen(ctx, "router solicitations on "+r.link.Name, r.stats, r.log, func(packet []byte, from net.HardwareAddr) { r.hear(s, packet, from) })
}

// hear answers one packet.
func (r *routerServer) hear(s *rawSocket, packet []byte, from net.HardwareAddr) {
	to, ok := parseSolicitation(packet)
	if !ok {
		return
	}
	mac, ok := macOf(from)
	if !ok || r.now().Sub(r.sightings.lastNetboot(mac)) > netbootsRecent {
		r.stats.add("router.ignored")
		return
	}
	if err := s.send(advertisement(r.link.mac, to), from); err != nil {
		r.stats.add("router.send failed")
		r.log.Warn("router advertisement not sent", "interface", r.link.Name, "mac", mac, "err", err)
		return
	}
	r.stats.add("router.advert")
	r.sightings.Add(Sighting{At: r.now(), MAC: mac, Kind: KindRouter, Text: "asked for an IPv6 router; was told that there is none"})
}

// parseSolicitation reads an IPv6 packet and returns whom to answer when it is
// a valid router solicitation (RFC 4861 section 6.1.1). The hop limit of 255
// proves that no router has forwarded it.
func parseSolicitation(b []byte) (to netip.Addr, ok bool) {
	if len(b) < ipv6HeaderLen+8 || b[0]>>4 != 6 || b[6] != icmpv6 || b[7] != 255 {
		return netip.Addr{}, false
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < 8 || ipv6HeaderLen+length > len(b) {
		return netip.Addr{}, false
	}
	msg := b[ipv6HeaderLen : ipv6HeaderLen+length]
	if msg[0] != routerSolicit || msg[1] != 0 || sum16(uint32(length)+icmpv6, append(append([]byte(nil), b[8:40]...), msg...)) != 0xffff {
		return netip.Addr{}, false
	}
	for opts := msg[8:]; len(opts) > 0; {
		if len(opts) < 8 || opts[1] == 0 || int(opts[1])*8 > len(opts) {
			return netip.Addr{}, false
		}
		opts = opts[int(opts[1])*8:]
	}
	from := netip.AddrFrom16([16]byte(b[8:24]))
	if from.IsUnspecified() {
		return netip.MustParseAddr("ff02::1"), true
	}
	return from, from.IsLinkLocalUnicast()
}

// advertisement is the empty one: current hop limit, flags, lifetime and timers
// all 0, meaning "unspecified by this router", and only our own card's address.
// The source is the link-local address made from the card's (RFC 4291 appendix
// A), which needs no IPv6 configured here.
func advertisement(own net.HardwareAddr, to netip.Addr) []byte {
	msg := make([]byte, 16, 24)
	msg[0] = routerAdvert
	if len(own) == 6 {
		msg = append(msg, 1, 1)
		msg = append(msg, own...)
	}
	from := linkLocal(own).As16()
	dst := to.As16()
	addrs := append(append([]byte(nil), from[:]...), dst[:]...)
	binary.BigEndian.PutUint16(msg[2:], ^sum16(uint32(len(msg))+icmpv6, append(append([]byte(nil), addrs...), msg...)))

	b := make([]byte, 8, ipv6HeaderLen+len(msg))
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(len(msg)))
	b[6], b[7] = icmpv6, 255
	return append(append(b, addrs...), msg...)
}

// linkLocal is fe80:: with the modified EUI-64 of a card.
func linkLocal(mac net.HardwareAddr) netip.Addr {
	a := [16]byte{0: 0xfe, 1: 0x80, 11: 0xff, 12: 0xfe}
	if len(mac) == 6 {
		copy(a[8:], mac[:3])
		copy(a[13:], mac[3:])
		a[8] ^= 2
	}
	return netip.AddrFrom16(a)
}
