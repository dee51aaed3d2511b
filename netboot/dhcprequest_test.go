package netboot

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestMalformedPacketsAreDropped(t *testing.T) {
	good := packet{kind: discover}.bytes()
	edit := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	noEnd := bytes.TrimRight(bytes.Clone(good), "\x00")
	noEnd = noEnd[:len(noEnd)-1]
	for name, c := range map[string]struct {
		b    []byte
		drop string
	}{
		"fine":                   {good, ""},
		"fine without end":       {noEnd, ""},
		"empty":                  {nil, "malformed"},
		"half":                   {good[:100], "malformed"},
		"no cookie":              {edit(func(b []byte) { b[236] = 0 }), "malformed"},
		"an option past the end": {append(bytes.Clone(good[:240]), 53, 200, 1), "malformed"},
		"a reply":                {edit(func(b []byte) { b[0] = 2 }), "not a request"},
		"17 hops":                {edit(func(b []byte) { b[3] = 17 }), "too many hops"},
		"no hardware address":    {edit(func(b []byte) { b[2] = 0 }), "hardware address"},
		"16 bytes of it":         {edit(func(b []byte) { b[2] = 16 }), "hardware address"},
		"255 bytes of it":        {edit(func(b []byte) { b[2] = 255 }), "hardware address"},
		"a group's address":      {edit(func(b []byte) { b[28] = 0xff }), "hardware address"},
		"token ring":             {edit(func(b []byte) { b[1] = 6 }), "hardware address"},
		"BOOTP":                  {edit(func(b []byte) { b[240] = 12 }), "bootp"},
	} {
		if _, drop := parseRequest(c.b, netip.AddrPort{}); drop != c.drop {
			t.Errorf("%s: %q, want %q", name, drop, c.drop)
		}
	}
	for n := range good {
		parseRequest(good[:n], netip.AddrPort{}) // must return, whatever it says
	}
}

// FuzzDHCP: whatever comes in, in either mode and on either port, nothing
// panics, and what goes out is a reply this package could have meant.
func FuzzDHCP(f *testing.F) {
	f.Add(packet{kind: discover}.bytes(), false)
	f.Add(packet{kind: reqst, opts: map[uint8][]byte{54: ip4("10.77.0.1"), 50: ip4("10.77.0.120")}}.bytes(), false)
	f.Add(packet{kind: inform, ciaddr: "10.77.0.9", giaddr: "10.77.0.3", opts: map[uint8][]byte{60: []byte("PXEClient"), 77: []byte("\x04iPXE"), 82: {1, 1, 1}, 97: {0}}}.bytes(), true)
	f.Add(packet{kind: decline, opts: map[uint8][]byte{54: ip4("10.77.0.1"), 50: ip4("10.77.0.100"), 57: {0, 1}}}.bytes(), false)
	servers := map[bool]*setup{false: newSetup(f, ModeDHCP), true: newSetup(f, ModeProxy)}
	f.Fuzz(func(t *testing.T, b []byte, proxy bool) {
		req, drop := parseRequest(b, netip.MustParseAddrPort("10.77.0.120:68"))
		if drop != "" {
			return
		}
		s := servers[proxy]
		r := s.responder(s.link)
		answers := []answerFunc{r.answer}
		if proxy {
			answers = []answerFunc{r.proxyOffer, r.proxyBoot}
		}
		for _, answer := range answers {
			out, ok := answer(t.Context(), req)
			if !ok {
				continue
			}
			d, err := dhcpv4.FromBytes(out.packet)
			if err != nil {
				t.Fatalf("our own reply cannot be read: %v", err)
			}
			if d.OpCode != dhcpv4.OpcodeBootReply || d.TransactionID != req.pkt.TransactionID || !bytes.Equal(d.Options[54], ip4("10.77.0.1")) {
				t.Fatalf("not an answer to the request: %s", d.Summary())
			}
			if y := addrField(d.YourIPAddr.To4()); y.IsValid() && (proxy || !s.link.Range.Contains(y)) {
				t.Fatalf("lent %s", y)
			}
			if !out.to.addr.IsValid() {
				t.Fatal("sent nowhere")
			}
		}
	})
}

// A machine's four packets with the lease on disk, 64 machines at a time.
func BenchmarkExchange(b *testing.B) {
	s := newSetup(b, ModeDHCP)
	s.link.subnet = netip.MustParsePrefix("10.77.0.0/16")
	s.link.Range = Range{netip.MustParseAddr("10.77.1.0"), netip.MustParseAddr("10.77.250.255")}
	r := s.responder(s.link)
	r.strangers = nil
	var n atomic.Uint32
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1) % 60000
			mac := fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255)
			hint := []byte{10, 77, 1 + byte(i>>8), byte(i)}
			for _, p := range []packet{
				{kind: discover, mac: mac, opts: map[uint8][]byte{50: hint}},
				{kind: reqst, mac: mac, opts: map[uint8][]byte{50: hint, 54: ip4("10.77.0.1")}},
			} {
				req, drop := parseRequest(p.bytes(), netip.AddrPort{})
				if drop != "" {
					b.Error(drop)
					return
				}
				if _, ok := r.answer(b.Context(), req); !ok {
					b.Errorf("%s: no answer", mac)
					return
				}
			}
		}
	})
}
