package netboot

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// packet is a client's packet, written down as its differences from a bare one.
type packet struct {
	kind   dhcpv4.MessageType
	mac    string
	ciaddr string
	giaddr string
	secs   uint16
	unicast,
	broadcast bool // sent to our address; flag B
	opts map[uint8][]byte
}

func (p packet) bytes() []byte {
	hw, err := net.ParseMAC(orDefault(p.mac, macA))
	if err != nil {
		panic(err)
	}
	d := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, TransactionID: [4]byte{1, 2, 3, 4}, ClientHWAddr: hw,
		ClientIPAddr: net.ParseIP(orDefault(p.ciaddr, "0.0.0.0")), YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero,
		GatewayIPAddr: net.ParseIP(orDefault(p.giaddr, "0.0.0.0")),
		NumSeconds:    p.secs,
		Options:       dhcpv4.Options{optMessageType: {byte(p.kind)}},
	}
	if p.broadcast {
		d.SetBroadcast()
	}
	for k, v := range p.opts {
		d.Options[k] = v
	}
	return d.ToBytes()
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func ip4(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

// ask gives a packet to a server and returns the decoded answer; nil is silence.
func (s *setup) ask(t *testing.T, p packet) (*dhcpv4.DHCPv4, destination) {
	t.Helper()
	req, drop := parseRequest(p.bytes(), netip.MustParseAddrPort("10.77.0.120:68"))
	if drop != "" {
		t.Fatalf("dropped: %s", drop)
	}
	req.unicast = p.unicast
	r := s.responder(s.link)
	r.probe, r.echo, r.quiet = s.probing, s.echoing, s.quiet
	out, ok := r.answer(context.Background(), req)
	if !ok {
		return nil, destination{}
	}
	d, err := dhcpv4.FromBytes(out.packet)
	if err != nil {
		t.Fatal(err)
	}
	return d, out.to
}

const (
	discover = dhcpv4.MessageTypeDiscover
	reqst    = dhcpv4.MessageTypeRequest
	inform   = dhcpv4.MessageTypeInform
	decline  = dhcpv4.MessageTypeDecline
	release  = dhcpv4.MessageTypeRelease
	silence  = dhcpv4.MessageTypeNone
	offer    = dhcpv4.MessageTypeOffer
	ack      = dhcpv4.MessageTypeAck
	nak      = dhcpv4.MessageTypeNak
)

func TestEveryMessageGetsWhatRFC2131Says(t *testing.T) {
	us, other := ip4("10.77.0.1"), ip4("10.77.0.9")
	bound := []packet{{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.120")}}}
	for _, c := range []struct {
		name   string
		before []packet
		fixed  string // address the fleet keeps for the machine
		taken  string // address of another known machine
		p      packet
		want   dhcpv4.MessageType
		addr   string
	}{
		{name: "discover", p: packet{kind: discover}, want: offer, addr: "10.77.0.100"},
		{name: "discover with a wish", p: packet{kind: discover, opts: map[uint8][]byte{50: ip4("10.77.0.150")}}, want: offer, addr: "10.77.0.150"},
		{name: "discover with a wish out of range", p: packet{kind: discover, opts: map[uint8][]byte{50: ip4("10.77.0.7")}}, want: offer, addr: "10.77.0.100"},
		{name: "discover with a wish for a known machine's address", taken: "10.77.0.150", p: packet{kind: discover, opts: map[uint8][]byte{50: ip4("10.77.0.150")}}, want: offer, addr: "10.77.0.100"},
		{name: "the first of the range is a known machine's", taken: "10.77.0.100", p: packet{kind: discover}, want: offer, addr: "10.77.0.101"},
		{name: "discover of a known machine", fixed: "10.77.0.44", p: packet{kind: discover}, want: offer, addr: "10.77.0.44"},
		{name: "discover of a machine known on another network", fixed: "10.99.0.44", p: packet{kind: discover}, want: offer, addr: "10.77.0.100"},
		{name: "discover of a bound machine", before: bound, p: packet{kind: discover}, want: offer, addr: "10.77.0.120"},
		{name: "discover through a relay of this network", p: packet{kind: discover, giaddr: "10.77.0.3"}, want: offer, addr: "10.77.0.100"},
		{name: "discover through a relay of an unknown network", p: packet{kind: discover, giaddr: "10.78.0.3"}, want: silence},

		{name: "selecting us", p: packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.120")}}, want: ack, addr: "10.77.0.120"},
		{name: "selecting another server", p: packet{kind: reqst, opts: map[uint8][]byte{54: other, 50: ip4("10.77.0.120")}}, want: silence},
		{name: "selecting an address of another network", p: packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.78.0.1")}}, want: nak},
		{name: "selecting our own address", p: packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: us}}, want: nak},
		{name: "selecting a known machine's address", taken: "10.77.0.120", p: packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.120")}}, want: nak},
		{name: "selecting an address another machine holds", before: bound, p: packet{kind: reqst, mac: macB, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.120")}}, want: nak},
		{name: "a known machine selecting its address", fixed: "10.77.0.44", p: packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.44")}}, want: ack, addr: "10.77.0.44"},
		{name: "a known machine selecting another", fixed: "10.77.0.44", p: packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.120")}}, want: nak},
		{name: "selecting without an address", p: packet{kind: reqst, opts: map[uint8][]byte{54: us}}, want: nak},

		{name: "init-reboot of a bound machine", before: bound, p: packet{kind: reqst, opts: map[uint8][]byte{50: ip4("10.77.0.120")}}, want: ack, addr: "10.77.0.120"},
		{name: "init-reboot with another address", before: bound, p: packet{kind: reqst, opts: map[uint8][]byte{50: ip4("10.77.0.121")}}, want: nak},
		{name: "init-reboot of a stranger", p: packet{kind: reqst, opts: map[uint8][]byte{50: ip4("10.77.0.120")}}, want: silence},
		{name: "init-reboot of a stranger from another network", p: packet{kind: reqst, opts: map[uint8][]byte{50: ip4("192.168.1.5")}}, want: nak},

		{name: "renewing", before: bound, p: packet{kind: reqst, ciaddr: "10.77.0.120", unicast: true}, want: ack, addr: "10.77.0.120"},
		{name: "renewing what another holds", before: bound, p: packet{kind: reqst, mac: macB, ciaddr: "10.77.0.120", unicast: true}, want: nak},
		{name: "renewing after the fleet has given a fixed address", before: bound, fixed: "10.77.0.44", p: packet{kind: reqst, ciaddr: "10.77.0.120", unicast: true}, want: nak},
		{name: "rebinding", before: bound, p: packet{kind: reqst, ciaddr: "10.77.0.120"}, want: ack, addr: "10.77.0.120"},
		{name: "rebinding of a stranger", p: packet{kind: reqst, ciaddr: "10.77.0.120"}, want: silence},
		{name: "request of nothing", p: packet{kind: reqst}, want: silence},

		{name: "inform", p: packet{kind: inform, ciaddr: "10.77.0.9"}, want: ack},
		{name: "inform without an address", p: packet{kind: inform}, want: silence},
		{name: "release", before: bound, p: packet{kind: release, ciaddr: "10.77.0.120", opts: map[uint8][]byte{54: us}}, want: silence},
		{name: "decline", before: bound, p: packet{kind: decline, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.120")}}, want: silence},
		{name: "an offer to a server", p: packet{kind: offer}, want: silence},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSetup(t, ModeDHCP)
			for _, p := range c.before {
				if d, _ := s.ask(t, p); d == nil || d.MessageType() != ack {
					t.Fatalf("before: %v", d)
				}
			}
			if c.fixed != "" {
				s.fleet.keeps(macA, netip.MustParseAddr(c.fixed))
			}
			if c.taken != "" {
				s.fleet.keeps(macB, netip.MustParseAddr(c.taken))
			}
			d, _ := s.ask(t, c.p)
			if d == nil {
				if c.want != silence {
					t.Fatalf("silence, want %s", c.want)
				}
				return
			}
			if d.MessageType() != c.want {
				t.Fatalf("got %s (%s), want %s", d.MessageType(), d.Message(), c.want)
			}
			if got := d.YourIPAddr.String(); got != orDefault(c.addr, "0.0.0.0") {
				t.Errorf("address %s, want %s", got, orDefault(c.addr, "0.0.0.0"))
			}
			if !bytes.Equal(d.Options[54], us) {
				t.Errorf("server identifier %v, want ours", d.Options[54])
			}
			if leased := d.Options[51] != nil; leased != (c.addr != "") {
				t.Errorf("lease time present: %v", leased)
			}
		})
	}
}

func TestADeclinedAddressRests(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	us := ip4("10.77.0.1")
	s.ask(t, packet{kind: discover})
	s.ask(t, packet{kind: decline, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.100")}})
	if d, _ := s.ask(t, packet{kind: discover}); d.YourIPAddr.String() != "10.77.0.101" {
		t.Errorf("offered %s after a decline of .100", d.YourIPAddr)
	}
	s.pass(declineRest + time.Second)
	if d, _ := s.ask(t, packet{kind: discover, mac: macB}); d.YourIPAddr.String() != "10.77.0.100" {
		t.Errorf("offered %s after the rest, want .100", d.YourIPAddr)
	}
	if s.ask(t, packet{kind: decline, mac: macB, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.150")}}); s.Stats()["dhcp.drop.decline not ours"] != 1 {
		t.Error("a machine declined an address it was never offered")
	}
}

// The address that is kept for a machine is nobody else's to lend, so it cannot rest: a
// person has to find who uses it.
func TestADeclinedAddressThatIsKeptIsTold(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	s.fleet.keeps(macA, netip.MustParseAddr("10.77.0.50"))
	s.ask(t, packet{kind: decline, opts: map[uint8][]byte{54: ip4("10.77.0.1"), 50: ip4("10.77.0.50")}})
	seen := s.Sightings().Of(macA)
	if len(seen) == 0 || !strings.Contains(seen[len(seen)-1].Text, "declined 10.77.0.50, which is kept for it") {
		t.Errorf("it is told as %v", seen)
	}
}

func TestAReleasedAddressComesBack(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	us := ip4("10.77.0.1")
	s.ask(t, packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.120")}})
	s.ask(t, packet{kind: release, ciaddr: "10.77.0.120", opts: map[uint8][]byte{54: us}})
	if d, _ := s.ask(t, packet{kind: discover}); d.YourIPAddr.String() != "10.77.0.120" {
		t.Errorf("its old machine is offered %s", d.YourIPAddr)
	}
	s.pass(offerHold + time.Second)
	if d, _ := s.ask(t, packet{kind: reqst, mac: macB, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.120")}}); d.MessageType() != ack {
		t.Errorf("another cannot have it: %s", d.MessageType())
	}
}

func TestRepliesGoWhereTheClientHears(t *testing.T) {
	hw, _ := net.ParseMAC(macA)
	for _, c := range []struct {
		name string
		p    packet
		want destination
	}{
		{"a client without address: to its card", packet{kind: discover}, destination{addr: netip.MustParseAddrPort("10.77.0.100:68"), hw: hw}},
		{"one that asks for broadcast", packet{kind: discover, broadcast: true}, destination{addr: netip.MustParseAddrPort("255.255.255.255:68")}},
		{"one behind a relay", packet{kind: discover, giaddr: "10.77.0.3", broadcast: true}, destination{addr: netip.MustParseAddrPort("10.77.0.3:67")}},
		{"one with an address", packet{kind: inform, ciaddr: "10.77.0.9"}, destination{addr: netip.MustParseAddrPort("10.77.0.9:68")}},
		{"a refusal: to everybody", packet{kind: reqst, opts: map[uint8][]byte{50: ip4("1.2.3.4")}}, destination{addr: netip.MustParseAddrPort("255.255.255.255:68")}},
		{"a refusal through a relay", packet{kind: reqst, giaddr: "10.77.0.3", opts: map[uint8][]byte{50: ip4("1.2.3.4")}}, destination{addr: netip.MustParseAddrPort("10.77.0.3:67")}},
	} {
		d, to := newSetup(t, ModeDHCP).ask(t, c.p)
		if d == nil || to.addr != c.want.addr || !bytes.Equal(to.hw, c.want.hw) {
			t.Errorf("%s: %v, want %v", c.name, to, c.want)
		}
		if d != nil && c.p.giaddr != "" && d.MessageType() == nak && !d.IsBroadcast() {
			t.Errorf("%s: broadcast flag not set", c.name)
		}
	}
}

func TestOptionsSuitTheClient(t *testing.T) {
	uuid := append([]byte{0}, testUUID[:]...)
	pxe := func(arch byte, extra map[uint8][]byte) packet {
		p := packet{kind: discover, opts: map[uint8][]byte{60: []byte("PXEClient:Arch:0000" + string('0'+arch) + ":UNDI:003001"), 93: {0, arch}, 97: uuid, 61: {0, 9, 9}, 55: {1, 66, 67}}}
		for k, v := range extra {
			p.opts[k] = v
		}
		return p
	}
	s := newSetup(t, ModeDHCP)

	d, _ := s.ask(t, pxe(0, nil))
	if d.BootFileName != LoaderBIOS || string(d.Options[67]) != LoaderBIOS+"\x00" || string(d.Options[66]) != "10.77.0.1" || d.ServerIPAddr.String() != "10.77.0.1" {
		t.Errorf("BIOS: file %q, 67 %q, 66 %q, next %s", d.BootFileName, d.Options[67], d.Options[66], d.ServerIPAddr)
	}
	if d.Options[60] != nil || d.Options[43] != nil {
		t.Error("BIOS: a full server must not pose as a PXE boot server: firmware would look for port 4011")
	}
	if !bytes.Equal(d.Options[97], uuid) || !bytes.Equal(d.Options[61], []byte{0, 9, 9}) {
		t.Error("options 97 and 61 do not come back")
	}
	if got := binary.BigEndian.Uint32(d.Options[51]); got != 600 || binary.BigEndian.Uint32(d.Options[58]) != 300 || binary.BigEndian.Uint32(d.Options[59]) != 525 {
		t.Errorf("lease of firmware: %d s", got)
	}
	if net.IP(d.Options[3]).String() != "10.77.0.1" || net.IP(d.Options[6]).String() != "10.77.0.53" || net.IP(d.Options[1]).String() != "255.255.255.0" {
		t.Errorf("network: router %v dns %v mask %v", d.Options[3], d.Options[6], d.Options[1])
	}

	d, _ = s.ask(t, pxe(7, map[uint8][]byte{55: {1}}))
	if d.BootFileName != LoaderUEFI || d.Options[67] != nil || d.Options[66] != nil {
		t.Errorf("UEFI: file %q, options nobody asked for: 67 %q, 66 %q", d.BootFileName, d.Options[67], d.Options[66])
	}

	d, _ = s.ask(t, pxe(0, map[uint8][]byte{77: []byte("iPXE")}))
	if anyPath.ReplaceAllString(string(d.Options[67]), "/PATH/script") != "http://10.77.0.1/boot/PATH/script" || !bytes.Equal(d.Options[175], []byte{176, 1, 1}) {
		t.Errorf("iPXE: 67 %q, 175 %v", d.Options[67], d.Options[175])
	}

	d, _ = s.ask(t, packet{kind: discover, opts: map[uint8][]byte{60: []byte("HTTPClient:Arch:00016:UNDI:003001"), 93: {0, 16}}})
	if string(d.Options[60]) != "HTTPClient" || string(d.Options[67]) != "http://10.77.0.1/boot/snponly.efi" {
		t.Errorf("HTTP boot: 60 %q, 67 %q", d.Options[60], d.Options[67])
	}

	d, _ = s.ask(t, packet{kind: discover, opts: map[uint8][]byte{60: []byte("LPMOS-agent"), 51: {0, 0, 0, 30}}})
	if d.BootFileName != "" || d.Options[67] != nil || d.Options[60] != nil || d.Options[175] != nil || !d.ServerIPAddr.IsUnspecified() {
		t.Errorf("the agent was told to boot: %s", d.Summary())
	}
	if got := binary.BigEndian.Uint32(d.Options[51]); got != 60 {
		t.Errorf("asked for 30 s, got %d s, want a minute", got)
	}

	s.fleet.boots(macA, Decision{Action: BootNothing})
	if d, _ = s.ask(t, pxe(7, nil)); d.BootFileName != "" || d.Options[67] != nil || d.YourIPAddr.IsUnspecified() {
		t.Errorf("boot nothing: %s", d.Summary())
	}
	delete(s.fleet.agents, macA)
	if d, _ = s.ask(t, pxe(2, nil)); d.BootFileName != "" || s.Stats()["dhcp.no loader"] != 1 {
		t.Errorf("Itanium: file %q", d.BootFileName)
	}

	relayed := map[uint8][]byte{82: {1, 2, 'x', 'y'}}
	if d, _ = s.ask(t, packet{kind: discover, giaddr: "10.77.0.3", opts: relayed}); !bytes.Equal(d.Options[82], relayed[82]) {
		t.Error("option 82 does not go back through the relay")
	}
	if d, _ = s.ask(t, packet{kind: discover, opts: relayed}); !bytes.Equal(d.Options[82], relayed[82]) {
		t.Error("option 82 does not go back to a switch that is no relay")
	}

	long := bytes.Repeat([]byte("i"), 250)
	out := marshal(func() *dhcpv4.DHCPv4 {
		req, _ := parseRequest(pxe(0, map[uint8][]byte{61: long, 82: long}).bytes(), netip.AddrPort{})
		req.relay = netip.MustParseAddr("10.77.0.3")
		p := newReply(req, offer, netip.MustParseAddr("10.77.0.1"))
		lend(p, netip.MustParseAddr("10.77.0.100"), time.Hour)
		describe(p, req, s.link)
		return p
	}(), minReplySize)
	if d, err := dhcpv4.FromBytes(out); err != nil || len(out) > minReplySize || d.Options[61] != nil || d.Options[82] == nil || d.Options[51] == nil {
		t.Errorf("a reply too long for the client: %d bytes, %v", len(out), err)
	}
}
