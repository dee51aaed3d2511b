package netboot

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var pxeIPXE = map[uint8][]byte{60: []byte("PXEClient:Arch:00007:UNDI:003016"), 93: {0, 7}, 77: []byte("iPXE"), 175: {1, 1, 1}}

// Whoever overhears a proxy's offer gets no script by it.
func TestAPathOfAProxyIsBoundToAnAddress(t *testing.T) {
	const own, thief = "10.77.0.60", "10.77.0.66"
	with := func(more map[uint8][]byte) map[uint8][]byte {
		out := map[uint8][]byte{}
		for _, m := range []map[uint8][]byte{pxeIPXE, more} {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	request := func(mac, addr string) packet {
		return packet{kind: reqst, mac: mac, opts: with(map[uint8][]byte{54: ip4("10.77.0.2"), 50: ip4(addr)})}
	}
	type step struct {
		ask  *packet // or else somebody asks for the script:
		from string
		pass time.Duration
		ok   bool
	}
	asks := func(p packet) step { return step{ask: &p} }
	for name, steps := range map[string][]step{
		"the first that uses it":                  {{from: own, ok: true}, {from: thief}, {from: own, ok: true}},
		"even if that is not the machine":         {{from: thief, ok: true}, {from: own}},
		"who says which address it asks for":      {asks(request(macA, own)), {from: thief}, {from: own, ok: true}, {from: thief}},
		"another machine's request is none of it": {asks(request(macB, thief)), {from: own, ok: true}, {from: thief}},
		"the last that it asks for":               {asks(request(macA, thief)), asks(request(macA, own)), {from: thief}, {from: own, ok: true}},
		"an address of nowhere is none":           {asks(request(macA, "10.99.0.1")), {from: own, ok: true}},
		"a system's request is none":              {asks(packet{kind: reqst, mac: macA, opts: map[uint8][]byte{54: ip4("10.77.0.2"), 50: ip4(thief)}}), {from: own, ok: true}},
		"a path that has ended leads nowhere":     {{from: own, ok: true}, {from: own, pass: pathLife + time.Second}},
	} {
		s := newSetup(t, ModeProxy)
		s.fleet.boots(macA, Decision{Action: BootAgent})
		r := s.responder(s.link)
		tell := func(p packet) *dhcpv4.DHCPv4 {
			req, drop := parseRequest(p.bytes(), netip.MustParseAddrPort("0.0.0.0:68"))
			if drop != "" {
				t.Fatal(drop)
			}
			out, ok := r.proxyOffer(t.Context(), req)
			if !ok {
				return nil
			}
			d, err := dhcpv4.FromBytes(out.packet)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		offer := tell(packet{kind: discover, mac: macA, opts: pxeIPXE})
		path := regexp.MustCompile("[a-z2-7]{32}").FindString(string(offer.Options[optBootFile]))
		for i, st := range steps {
			if s.pass(st.pass); st.ask != nil {
				tell(*st.ask)
				continue
			}
			_, _, ok := s.scripts().of(t.Context(), ipxe{}, scriptAsk{node: netip.MustParseAddrPort("10.77.0.1:80"), from: netip.MustParseAddr(st.from), path: path, mac: macA, platform: "efi"})
			if ok != st.ok {
				t.Errorf("%s: step %d from %s: %v", name, i, st.from, ok)
			}
		}
	}
}

func TestWhatIsBoundIsBounded(t *testing.T) {
	var b bound
	now := time.Unix(1700000000, 0)
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)}) }
	for i := range mostBound + 1 {
		now = now.Add(time.Millisecond)
		b.asks(fmt.Sprint(i), at(i), now)
		if !b.leads(fmt.Sprint("path ", i), "x", at(i), now) {
			t.Fatalf("path %d leads nowhere", i)
		}
	}
	if len(b.asked) != mostBound || len(b.used) != mostBound {
		t.Errorf("%d machines and %d paths are remembered", len(b.asked), len(b.used))
	}
	if _, first := b.asked["0"]; first || b.leads("of a machine", "1", at(9), now) || b.leads("path 1", "x", at(9), now) {
		t.Error("others than the oldest are forgotten")
	}
	// An address pushes out its own.
	for i := range 3 * mostBound {
		if !b.leads(fmt.Sprint("flood ", i), "y", at(9), now) {
			t.Fatalf("path %d of one address leads nowhere", i)
		}
	}
	if b.leads("path 2000", "x", at(9), now) || len(b.used) > mostBound {
		t.Errorf("one address has another's path; %d are remembered", len(b.used))
	}
	now = now.Add(pathLife + 2*time.Second)
	b.asks("new", at(1), now)
	if !b.leads("new", "y", at(1), now) || len(b.asked)+len(b.used) != 2 {
		t.Errorf("%d and %d are remembered for ever", len(b.asked), len(b.used))
	}
}

// Machines that are made up keep none from booting, nor do they leave a mark.
func TestMadeUpMachinesKeepNobodyFromItsScript(t *testing.T) {
	s := newSetup(t, ModeProxy)
	r := s.responder(s.link)
	tell := func(p packet) *dhcpv4.DHCPv4 {
		req, drop := parseRequest(p.bytes(), netip.MustParseAddrPort("0.0.0.0:68"))
		if drop != "" {
			t.Fatal(drop)
		}
		out, ok := r.proxyOffer(t.Context(), req)
		if !ok {
			return nil
		}
		d, err := dhcpv4.FromBytes(out.packet)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	leads := func(mac, from string) bool {
		offer := tell(packet{kind: discover, mac: mac, opts: pxeIPXE})
		path := regexp.MustCompile("[a-z2-7]{32}").FindString(string(offer.Options[optBootFile]))
		_, _, ok := s.scripts().of(t.Context(), ipxe{}, scriptAsk{node: netip.MustParseAddrPort("10.77.0.1:80"), from: netip.MustParseAddr(from), path: path, mac: mac, platform: "efi"})
		return ok
	}
	request := maps.Clone(pxeIPXE)
	request[54], request[50] = ip4("10.77.0.2"), ip4("10.77.0.60")
	for i := range 100 {
		tell(packet{kind: reqst, mac: stallMAC(i), opts: request})
	}
	if n := len(s.bound.asked); n != 0 {
		t.Errorf("%d machines are remembered that were told nothing", n)
	}
	for i := range mostBound { // as if there had been time to get them all past the bound on strangers
		s.bound.asks(stallMAC(i), netip.MustParseAddr("10.77.0.60"), s.clock())
		s.bound.leads(fmt.Sprint(i), "x", netip.MustParseAddr("10.77.0.60"), s.clock())
	}
	if !leads(macA, "10.77.0.61") {
		t.Error("after them a machine finds no script")
	}
	tell(packet{kind: discover, mac: macB, opts: pxeIPXE})
	tell(packet{kind: reqst, mac: macB, opts: request})
	if leads(macB, "10.77.0.66") || !leads(macB, "10.77.0.60") {
		t.Error("and whose address is known can be robbed")
	}
}

// A flood of made-up machines gets few answers, and those that are known all theirs.
func TestAProxyBoundsStrangers(t *testing.T) {
	s := newSetup(t, ModeProxy)
	s.fleet.boots(macB, Decision{Action: BootAgent, Counted: true})
	r := s.responder(s.link)
	answered := func(mac string) bool {
		req, drop := parseRequest(packet{kind: discover, mac: mac, opts: pxeIPXE}.bytes(), netip.MustParseAddrPort("0.0.0.0:68"))
		if drop != "" {
			t.Fatal(drop)
		}
		_, ok := r.proxyOffer(t.Context(), req)
		return ok
	}
	n := 0
	for i := range strangersAtOnce + 50 {
		if answered(fmt.Sprintf("52:54:00:01:%02x:%02x", i>>8, i&255)) {
			n++
		}
	}
	if n != strangersAtOnce || s.Stats()["proxy.too many strangers"] != 50 || !answered(macB) {
		t.Errorf("%d strangers were answered, want %d; stats %v", n, strangersAtOnce, s.Stats())
	}
}
