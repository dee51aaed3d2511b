package netboot

import (
	"fmt"
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
	now, at := time.Unix(1700000000, 0), netip.MustParseAddr("10.77.0.9")
	for i := range 2 * mostBound {
		b.asks(fmt.Sprint(i), at, now)
		b.leads(fmt.Sprint(i), "x", at, now)
	}
	if len(b.asked) != mostBound || len(b.used) != mostBound {
		t.Errorf("%d machines and %d paths are remembered", len(b.asked), len(b.used))
	}
	if b.leads("new", "y", at, now) || !b.leads("1", "x", at, now) {
		t.Error("one that is remembered, or one too many")
	}
	now = now.Add(pathLife + time.Second)
	if !b.leads("new", "y", at, now) || len(b.asked)+len(b.used) != 1 {
		t.Errorf("%d and %d are remembered for ever", len(b.asked), len(b.used))
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
