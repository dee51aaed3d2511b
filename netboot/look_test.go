package netboot

import (
	"net"
	"net/netip"
	"testing"
)

func TestWhoHasAnAddress(t *testing.T) {
	l := link{mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}, addr: netip.MustParseAddr("10.77.0.1")}
	asked := whoHas(l, netip.MustParseAddr("10.77.0.9"))
	if len(asked) != 28 || netip.AddrFrom4([4]byte(asked[24:])).String() != "10.77.0.9" {
		t.Errorf("% x", asked)
	}
	if a, ok := claimant(asked); !ok || a != l.addr {
		t.Errorf("who asks has %s", a)
	}
	probe := whoHas(link{mac: l.mac, addr: netip.IPv4Unspecified()}, l.addr)
	if a, ok := claimant(probe); ok {
		t.Errorf("who only asks whether an address is free has %s", a)
	}
	if a, ok := claimant(asked[:27]); ok {
		t.Errorf("a packet that was cut says %s", a)
	}
}

func FuzzClaimant(f *testing.F) {
	f.Add([]byte{})
	f.Add(whoHas(link{mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}, addr: netip.MustParseAddr("10.77.0.1")}, netip.MustParseAddr("10.77.0.9")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := claimant(b); ok && (!a.Is4() || a.IsUnspecified()) {
			t.Errorf("% x says %s", b, a)
		}
	})
}
