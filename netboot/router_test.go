package netboot

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"
)

// solicitation is a valid one from a card, with its address as option.
func solicitation(mac net.HardwareAddr, from netip.Addr) []byte {
	msg := append([]byte{routerSolicit, 0, 0, 0, 0, 0, 0, 0, 1, 1}, mac...)
	b := make([]byte, 8, 64)
	b[0], b[6], b[7] = 0x60, icmpv6, 255
	binary.BigEndian.PutUint16(b[4:], uint16(len(msg)))
	src, dst := from.As16(), netip.MustParseAddr("ff02::2").As16()
	b = append(append(b, src[:]...), dst[:]...)
	binary.BigEndian.PutUint16(msg[2:], ^sum16(uint32(len(msg))+icmpv6, append(bytes.Clone(b[8:40]), msg...)))
	return append(b, msg...)
}

func TestSolicitationsAreChecked(t *testing.T) {
	mac, _ := net.ParseMAC(macA)
	good := solicitation(mac, linkLocal(mac))
	if linkLocal(mac).String() != "fe80::5054:ff:fe00:a" {
		t.Errorf("link-local address %s", linkLocal(mac))
	}
	for name, c := range map[string]struct {
		edit func(b []byte) []byte
		to   string // empty: refused
	}{
		"good":                {func(b []byte) []byte { return b }, "fe80::5054:ff:fe00:a"},
		"without a source":    {func([]byte) []byte { return solicitation(mac, netip.IPv6Unspecified()) }, "ff02::1"},
		"from a global one":   {func([]byte) []byte { return solicitation(mac, netip.MustParseAddr("2001:db8::1")) }, ""},
		"forwarded":           {func(b []byte) []byte { b[7] = 254; return b }, ""},
		"an advertisement":    {func(b []byte) []byte { b[40] = routerAdvert; return b }, ""},
		"TCP":                 {func(b []byte) []byte { b[6] = 6; return b }, ""},
		"a wrong checksum":    {func(b []byte) []byte { b[43]++; return b }, ""},
		"cut short":           {func(b []byte) []byte { return b[:50] }, ""},
		"longer than it is":   {func(b []byte) []byte { b[5] = 200; return b }, ""},
		"an option of length": {func(b []byte) []byte { b[49] = 0; return b }, ""},
		"padded by Ethernet":  {func(b []byte) []byte { return append(b, 0, 0, 0, 0) }, "fe80::5054:ff:fe00:a"},
		"nothing":             {func([]byte) []byte { return nil }, ""},
	} {
		to, ok := parseSolicitation(c.edit(bytes.Clone(good)))
		if ok != (c.to != "") || ok && to.String() != c.to {
			t.Errorf("%s: %v %v, want %q", name, to, ok, c.to)
		}
	}
}

func TestTheAdvertisementSaysNothing(t *testing.T) {
	mac, _ := net.ParseMAC("02:00:00:00:00:01")
	b := advertisement(mac, netip.MustParseAddr("fe80::5054:ff:fe00:a"))
	if len(b) != 64 || b[7] != 255 || netip.AddrFrom16([16]byte(b[8:24])).String() != "fe80::ff:fe00:1" {
		t.Fatalf("% x", b)
	}
	if sum := sum16(24+icmpv6, b[8:]); sum != 0xffff {
		t.Errorf("checksum: %#x", sum)
	}
	if !bytes.Equal(b[40:42], []byte{routerAdvert, 0}) || !bytes.Equal(b[44:56], make([]byte, 12)) {
		t.Errorf("lifetime, flags or timers are set: % x", b[40:56])
	}
}

func FuzzSolicitation(f *testing.F) {
	mac, _ := net.ParseMAC(macA)
	f.Add(solicitation(mac, linkLocal(mac)))
	f.Add(solicitation(mac, netip.IPv6Unspecified()))
	f.Fuzz(func(t *testing.T, b []byte) {
		to, ok := parseSolicitation(b)
		if ok && !to.IsLinkLocalUnicast() && to != netip.MustParseAddr("ff02::1") {
			t.Fatalf("would answer %s", to)
		}
	})
}

func TestASolicitationThatPanicsIsDropped(t *testing.T) {
	stats := &counters{}
	r := &routerServer{stats: stats, log: slog.New(slog.DiscardHandler), now: func() time.Time { panic("a defect") }}
	mac, _ := net.ParseMAC(macA)
	guarded("router solicitations", stats, r.log, func(packet []byte, from net.HardwareAddr) { r.hear(nil, packet, from) })(solicitation(mac, linkLocal(mac)), mac)
	if n := stats.snapshot()["raw.panic"]; n != 1 {
		t.Errorf("%d panics were counted", n)
	}
}
