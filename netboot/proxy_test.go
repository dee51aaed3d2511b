package netboot

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestProxyOffersHoldNoAddress(t *testing.T) {
	s := newSetup(t, ModeProxy)
	r := s.responder(s.link)
	try := func(answer answerFunc, p packet) (*dhcpv4.DHCPv4, destination) {
		req, drop := parseRequest(p.bytes(), netip.MustParseAddrPort("10.77.0.120:4444"))
		if drop != "" {
			t.Fatal(drop)
		}
		out, ok := answer(t.Context(), req)
		if !ok {
			return nil, out.to
		}
		d, err := dhcpv4.FromBytes(out.packet)
		if err != nil {
			t.Fatal(err)
		}
		return d, out.to
	}
	bios := map[uint8][]byte{60: []byte("PXEClient:Arch:00000:UNDI:002001"), 93: {0, 0}}
	uefi := map[uint8][]byte{60: []byte("PXEClient:Arch:00007:UNDI:003001"), 93: {0, 7}}

	d, to := try(r.proxyOffer, packet{kind: discover, opts: bios})
	if !d.YourIPAddr.IsUnspecified() || d.Options[51] != nil || d.Options[1] != nil {
		t.Errorf("an address or network in a proxy offer: %s", d.Summary())
	}
	if string(d.Options[60]) != "PXEClient" || !bytes.Equal(d.Options[43], []byte{6, 1, 8, 255}) || d.BootFileName != LoaderBIOS {
		t.Errorf("BIOS: %s", d.Summary())
	}
	if to.addr.Addr() != everybody {
		t.Errorf("the offer goes to %v", to)
	}
	d, _ = try(r.proxyOffer, packet{kind: discover, opts: uefi})
	if string(d.Options[60]) != "PXEClient" || d.Options[43] != nil {
		t.Errorf("UEFI must be sent to port 4011: %s", d.Summary())
	}
	d, to = try(r.proxyBoot, packet{kind: reqst, ciaddr: "10.77.0.120", opts: uefi})
	if d.MessageType() != ack || d.BootFileName != LoaderUEFI || to.addr.String() != "10.77.0.120:4444" || !d.YourIPAddr.IsUnspecified() {
		t.Errorf("port 4011: to %v: %s", to, d.Summary())
	}
	for name, p := range map[string]packet{
		"a system":             {kind: discover},
		"a REQUEST":            {kind: reqst, opts: map[uint8][]byte{54: ip4("10.77.0.1"), 50: ip4("10.77.0.120"), 60: bios[60]}},
		"a foreign RELEASE":    {kind: release, ciaddr: "10.77.0.120", opts: map[uint8][]byte{54: ip4("10.77.0.1")}},
		"an INFORM on port 67": {kind: inform, ciaddr: "10.77.0.120", opts: bios},
	} {
		if d, _ := try(r.proxyOffer, p); d != nil {
			t.Errorf("%s was answered: %s", name, d.Summary())
		}
	}
	s.fleet.boots(macA, Decision{Action: BootNothing})
	if d, _ := try(r.proxyOffer, packet{kind: discover, opts: bios}); d != nil {
		t.Error("a machine that is to boot nothing got an offer")
	}
	if story := s.Sightings().Of(macA); !strings.Contains(story[len(story)-1].Text, "left alone") {
		t.Errorf("told as %q", story[len(story)-1].Text)
	}
}
