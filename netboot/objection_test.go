package netboot

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestWhatANodeHasAgainstAnAddress(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	var err error
	s.reserved, err = reserve(s.fleet, []Reservation{
		{Machine: "52:54:00:00:00:77", Addr: netip.MustParseAddr("10.77.0.77")}, {Machine: "SN-1", Addr: netip.MustParseAddr("10.77.0.78")},
	}, nil, s.leases, s.clock)
	if err != nil {
		t.Fatal(err)
	}
	s.watch(s.link)
	s.lendTo(t, macB, netip.MustParseAddr("10.77.0.120"))
	s.leases.InUse(netip.MustParseAddr("10.77.0.30"), "52:54:00:66:66:66")
	for _, c := range []struct {
		addr string
		macs []string
		ids  []string
		says string
	}{
		{"10.77.0.20", []string{macA}, nil, ""},
		{"10.99.0.20", []string{macA}, nil, ""}, // the fleet's to say
		{"10.77.0.77", []string{macA}, nil, "is reserved for 52:54:00:00:00:77 in the configuration"},
		{"10.77.0.77", []string{"52:54:00:00:00:77"}, nil, ""},
		{"10.77.0.78", []string{macA}, []string{"", "sn-1"}, ""},
		{"10.77.0.20", []string{macA}, []string{"", "sn-1"}, "is not what the configuration reserves for the machine: that is 10.77.0.78, for SN-1"},
		{"10.77.0.1", []string{macA}, nil, "is a router's, a name server's, a relay's or this node's own on 10.77.0.0/24"},
		{"10.77.0.53", []string{macA}, nil, "is a router's, a name server's"},
		{"10.77.0.120", []string{macA}, nil, "is lent to " + macB + " until "},
		{"10.77.0.120", []string{macB}, nil, ""},
		{"10.77.0.30", []string{macA}, nil, "rests: in use by card 52:54:00:66:66:66"},
	} {
		got := s.Objection(netip.MustParseAddr(c.addr), c.macs, c.ids)
		if c.says == "" && got != "" || !strings.Contains(got, c.says) {
			t.Errorf("%s for %v %v: %q, want %q", c.addr, c.macs, c.ids, got, c.says)
		}
	}
	if s.pass(2 * time.Hour); s.Objection(netip.MustParseAddr("10.77.0.120"), []string{macA}, nil) != "" {
		t.Error("a lease that has ended is in the way")
	}
}
